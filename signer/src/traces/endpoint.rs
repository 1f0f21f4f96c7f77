//! Where a collector is, checked before anything is sent there.

use super::TracesError;
use http::{Uri, uri::InvalidUri};
use std::{fmt, str::FromStr};

/// What is added to a collector's address (OTLP specification, OTLP/HTTP request).
const PATH: &str = "v1/traces";

/// Where spans are sent, over HTTP or HTTPS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Uri);

/// Not the address of a collector.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// It carries a name or a password, which would stand in the log.
    #[error("credentials stand in OTEL_EXPORTER_OTLP_HEADERS, not in the address")]
    Credentials,
    /// No URL.
    #[error(transparent)]
    Invalid(#[from] InvalidUri),
    /// Something follows the path.
    #[error("an address ends with its path")]
    Query,
    /// Not HTTP.
    #[error("an address begins with http:// or https://, such as http://127.0.0.1:4318")]
    Scheme,
}

impl Endpoint {
    /// The collector that the environment names, if it names one.
    pub(super) fn of_environment(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, TracesError> {
        const FOR_TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        const FOR_ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let (name, read) = match (variable(FOR_TRACES), variable(FOR_ALL)) {
            // Taken as it is.
            (Some(url), _) => (FOR_TRACES, check(&url).map(Self)),
            (None, Some(url)) => (FOR_ALL, url.parse()),
            (None, None) => return Ok(None),
        };
        read.map(Some).map_err(|source| TracesError::Endpoint {
            variable: name,
            source,
        })
    }

    pub(super) fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// Host and port.
    pub(super) fn authority(&self) -> &str {
        self.0
            .authority()
            .map_or("", |authority| authority.as_str())
    }
}

/// The address of a collector, to which the path for traces is added.
impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(url: &str) -> Result<Self, EndpointError> {
        check(url)?;
        Ok(Self(
            format!("{}/{PATH}", url.trim_end_matches('/')).parse()?,
        ))
    }
}

fn check(url: &str) -> Result<Uri, EndpointError> {
    let uri: Uri = url.parse()?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) if authority.as_str().contains('@') => {
            Err(EndpointError::Credentials)
        }
        (Some("http" | "https"), Some(_)) if uri.query().is_some() => Err(EndpointError::Query),
        (Some("http" | "https"), Some(_)) => Ok(uri),
        _ => Err(EndpointError::Scheme),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<String>, TracesError> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(it, _)| *it == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let found = Endpoint::of_environment(variable)?;
        Ok(found.map(|endpoint| endpoint.to_string()))
    }

    #[test]
    fn the_path_is_added_to_an_address_and_not_to_one_for_traces_alone() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        let traces = (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "https://collector/mine",
        );
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(
            of(&[all]).unwrap().unwrap(),
            "http://collector:4318/v1/traces"
        );
        assert_eq!(
            of(&[all, traces]).unwrap().unwrap(),
            "https://collector/mine"
        );
        let below: Endpoint = "http://[::1]:4318/otlp/".parse().unwrap();
        assert_eq!(below.to_string(), "http://[::1]:4318/otlp/v1/traces");
        assert_eq!(below.authority(), "[::1]:4318");
    }

    #[test]
    fn what_is_no_address_of_a_collector_is_refused_and_says_which_variable_has_it() {
        let refused = |url: &str| url.parse::<Endpoint>().is_err();
        for url in [
            "",
            "collector",
            "collector:4318",
            "grpc://collector:4317",
            "http://",
            "http://collector:4318?a=b",
            "http://me:secret@collector:4318",
            "http://a b",
        ] {
            assert!(refused(url), "{url}");
        }
        let error = of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")]).unwrap_err();
        assert_eq!(error.to_string(), "use OTEL_EXPORTER_OTLP_ENDPOINT");
    }
}
