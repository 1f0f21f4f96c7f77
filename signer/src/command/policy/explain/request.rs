//! A request to be explained, in any of the forms in which people have one.

use crate::error::Error;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::Value;
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};
use touchstone_common::policy::DescribedRequest;

/// The most bytes that are read: Kubernetes keeps no larger object.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// What was given.
#[derive(Debug)]
pub(super) enum Given {
    /// Who asks for what, in a person's words.
    Described(Box<DescribedRequest>),
    /// The object as Kubernetes keeps it.
    Object(Box<CertificateSigningRequest>),
    /// What its `spec.request` holds, or what is no request at all.
    Pem(Vec<u8>),
}

impl Given {
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let content = content(path).map_err(|source| Error::RequestRead {
            path: path.to_owned(),
            source,
        })?;
        Self::of(&path.display().to_string(), content)
    }

    fn of(file: &str, content: Vec<u8>) -> Result<Self, Error> {
        if content.trim_ascii_start().starts_with(b"-----BEGIN") {
            return Ok(Self::Pem(content));
        }
        let Ok(Value::Object(object)) = serde_saphyr::from_slice::<Value>(&content) else {
            return Ok(Self::Pem(content));
        };
        if !object.contains_key("kind") {
            let described = DescribedRequest::parse(file, &content);
            return described
                .map(|described| Self::Described(Box::new(described)))
                .map_err(Error::RequestLoad);
        }
        serde_json::from_value(Value::Object(object))
            .map(|object| Self::Object(Box::new(object)))
            .map_err(|source| Error::RequestObject {
                file: file.to_owned(),
                source,
            })
    }
}

fn content(path: &Path) -> io::Result<Vec<u8>> {
    let input: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(io::stdin().lock()),
        _ => Box::new(File::open(path)?),
    };
    let mut content = Vec::new();
    let most = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX);
    input
        .take(most.saturating_add(1))
        .read_to_end(&mut content)?;
    if content.len() > MAX_BYTES {
        let message = format!("it has more than {MAX_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Result<Given, String> {
        Given::of("request.yaml", text.as_bytes().to_vec()).map_err(|error| error.report())
    }

    #[test]
    fn each_form_is_told_by_what_it_holds() {
        let pem = given("\n-----BEGIN CERTIFICATE REQUEST-----\n");
        assert!(matches!(pem, Ok(Given::Pem(_))));
        for text in [
            "user: alice\ngroups: [a]\n",
            r#"{"user":"alice","groups":["a"]}"#,
        ] {
            assert!(matches!(given(text), Ok(Given::Described(_))));
        }
        let object = given(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: { name: a }\n\
             spec: { request: YQ==, signerName: a.b/c, usages: [client auth] }\n",
        );
        let Ok(Given::Object(object)) = object else {
            panic!("{object:?}")
        };
        assert_eq!(object.spec.request.0, b"a");
        assert!(matches!(given("anything"), Ok(Given::Pem(_))));
    }

    #[test]
    fn a_slip_in_a_description_is_refused_with_its_place() {
        assert_eq!(
            given("user: alice\ngrups: [a]\n").unwrap_err(),
            "touchstone-signer: failed to load the request: request.yaml:2:1: unknown key \"grups\" in a request; did you \
             mean \"groups\"?\ntry: give the PEM, the object as `kubectl get csr NAME -o yaml` prints it, or `user` and \
             `groups` as in a policy's cases"
        );
    }

    #[test]
    fn another_object_is_refused() {
        for text in [
            "apiVersion: v1\nkind: List\nitems: []\n",
            "apiVersion: v1\nkind: Pod\n",
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nspec: { request: \"*\" }\n",
        ] {
            let said = given(text).unwrap_err();
            assert!(said.contains("request.yaml"), "{said}");
        }
    }
}
