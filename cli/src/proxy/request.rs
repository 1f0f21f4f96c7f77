//! What a client may ask: checked before any byte goes upstream.
//!
//! hyper has read the head already, and has refused folded lines, bare line feeds and lengths that contradict each other.
//! Here is refused what two readers could still understand differently, and what would make the API server take the
//! engineer for someone else.

use http::{
    HeaderMap, Method, StatusCode, Version,
    header::{self, HeaderName},
    request::Parts,
};
use std::net::SocketAddr;

/// What kind of request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A request with an answer.
    Ordinary,
    /// Opens a stream in both directions: exec, attach, port-forward, cp.
    Upgrade(Protocol),
}

/// The protocols of upgraded streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// SPDY/3.1.
    Spdy,
    /// RFC 6455.
    WebSocket,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The answer's status.
    pub(super) status: StatusCode,
    /// Why, for whoever sent it.
    pub(super) why: String,
}

fn refuse<T>(status: StatusCode, why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        status,
        why: why.into(),
    })
}

/// What is allowed.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    authority: String,
    impersonation: bool,
}

/// Headers that speak of this connection alone, or that another hop would act on (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

impl Rules {
    pub(super) fn new(listens: SocketAddr, impersonation: bool) -> Self {
        Self {
            authority: listens.to_string(),
            impersonation,
        }
    }

    /// Checks a request.
    pub(super) fn check(&self, request: &Parts) -> Result<Kind, Refusal> {
        self.check_place(request)?;
        self.check_names(&request.headers)?;
        check_framing(request)?;
        check_connection(&request.headers)?;
        kind(request)
    }

    /// It is for this listener, and for nothing that it would have to look up.
    fn check_place(&self, request: &Parts) -> Result<(), Refusal> {
        let uri = &request.uri;
        if matches!(request.method, Method::CONNECT | Method::TRACE) {
            return refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("{} is not for an API server", request.method),
            );
        }
        if !uri.path().starts_with('/') {
            return refuse(StatusCode::BAD_REQUEST, "the path does not begin with /");
        }
        let mut hosts = request.headers.get_all(header::HOST).iter();
        let host = hosts.next();
        if hosts.next().is_some() {
            return refuse(StatusCode::BAD_REQUEST, "there is more than one Host");
        }
        let host_fits = |host: &http::HeaderValue| host.as_bytes() == self.authority.as_bytes();
        let fits = match request.version {
            Version::HTTP_2 => {
                uri.scheme_str() == Some("https")
                    && uri
                        .authority()
                        .is_some_and(|authority| authority.as_str() == self.authority)
                    && host.is_none_or(host_fits)
            }
            Version::HTTP_11 => {
                if uri.scheme().is_some() || uri.authority().is_some() {
                    return refuse(
                        StatusCode::BAD_REQUEST,
                        "the request names a server before its path",
                    );
                }
                host.is_some_and(host_fits)
            }
            _ => {
                return refuse(
                    StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                    "only HTTP/1.1 and HTTP/2 are spoken here",
                );
            }
        };
        if fits {
            Ok(())
        } else {
            refuse(
                StatusCode::MISDIRECTED_REQUEST,
                format!(
                    "this is {}, and the request is for another host",
                    self.authority
                ),
            )
        }
    }

    /// Nobody says here who they are: the certificate does.
    fn check_names(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        for name in headers.keys().map(HeaderName::as_str) {
            if name.starts_with("impersonate-") && !self.impersonation {
                return refuse(
                    StatusCode::FORBIDDEN,
                    format!(
                        "impersonation (the header {name}) is not allowed through this proxy; touchstone proxy --allow-impersonation allows it"
                    ),
                );
            }
            if name.starts_with("x-remote-") {
                return refuse(
                    StatusCode::FORBIDDEN,
                    format!("the header {name} is for front proxies of the API server"),
                );
            }
        }
        Ok(())
    }
}

/// Of two ways to say where a body ends, one is enough.
fn check_framing(request: &Parts) -> Result<(), Refusal> {
    if request.headers.contains_key(header::TRANSFER_ENCODING) {
        // hyper drops a Content-Length beside it, so whether there was one cannot be seen any more.
        return refuse(
            StatusCode::LENGTH_REQUIRED,
            "over HTTP/1.1 a body needs a Content-Length; over HTTP/2 it needs none",
        );
    }
    Ok(())
}

/// No header is named to be taken away on the way, but those that every hop takes away.
fn check_connection(headers: &HeaderMap) -> Result<(), Refusal> {
    for value in headers.get_all(header::CONNECTION) {
        let Ok(text) = value.to_str() else {
            return refuse(StatusCode::BAD_REQUEST, "Connection is not text");
        };
        for token in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            if !["close", "keep-alive", "te", "upgrade"]
                .iter()
                .any(|known| token.eq_ignore_ascii_case(known))
            {
                return refuse(
                    StatusCode::BAD_REQUEST,
                    format!("Connection names {token:?}"),
                );
            }
        }
    }
    Ok(())
}

fn kind(request: &Parts) -> Result<Kind, Refusal> {
    let headers = &request.headers;
    if headers.contains_key("http2-settings") {
        return refuse(StatusCode::BAD_REQUEST, "HTTP/2 is agreed on by ALPN alone");
    }
    let mut upgrades = headers.get_all(header::UPGRADE).iter();
    let Some(upgrade) = upgrades.next() else {
        return Ok(Kind::Ordinary);
    };
    let protocol = match upgrade.as_bytes() {
        name if name.eq_ignore_ascii_case(b"websocket") => Protocol::WebSocket,
        name if name.eq_ignore_ascii_case(b"spdy/3.1") => Protocol::Spdy,
        _ => {
            return refuse(
                StatusCode::BAD_REQUEST,
                "Upgrade names what is not known here",
            );
        }
    };
    let nominated = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    let has_body = headers
        .get(header::CONTENT_LENGTH)
        .is_some_and(|length| length.as_bytes() != b"0");
    if upgrades.next().is_some()
        || !nominated
        || has_body
        || !matches!(request.method, Method::GET | Method::POST)
    {
        return refuse(StatusCode::BAD_REQUEST, "this is no clean Upgrade");
    }
    Ok(Kind::Upgrade(protocol))
}

/// Takes away what is of this hop alone.
pub(super) fn strip(headers: &mut HeaderMap) {
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove(header::HOST);
    headers.remove(header::EXPECT);
    headers.remove(header::PROXY_AUTHENTICATE);
    headers.remove(header::PROXY_AUTHORIZATION);
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    const HERE: &str = "127.0.0.1:4711";

    fn check(request: http::request::Builder, impersonation: bool) -> Result<Kind, StatusCode> {
        let rules = Rules::new(HERE.parse().unwrap(), impersonation);
        let (parts, ()) = request.body(()).unwrap().into_parts();
        rules.check(&parts).map_err(|refusal| refusal.status)
    }

    fn one(name: &str, value: &str) -> Result<Kind, StatusCode> {
        check(
            Request::get("/api")
                .header("host", HERE)
                .header(name, value),
            false,
        )
    }

    #[test]
    fn a_request_for_another_host_is_misdirected() {
        for host in [
            "localhost:4711",
            "127.0.0.1",
            "127.0.0.1:4712",
            "evil.example:4711",
            "127.0.0.1:4711.",
            "",
        ] {
            let request = Request::get("/api").header("host", host);
            assert_eq!(
                check(request, false),
                Err(StatusCode::MISDIRECTED_REQUEST),
                "{host}"
            );
        }
        assert_eq!(
            check(Request::get("/api"), false),
            Err(StatusCode::MISDIRECTED_REQUEST)
        );
        let two = Request::get("/api")
            .header("host", HERE)
            .header("host", HERE);
        assert_eq!(check(two, false), Err(StatusCode::BAD_REQUEST));
    }

    #[test]
    fn over_http2_the_authority_counts_and_a_host_beside_it_must_agree() {
        let request = |uri: &str| Request::get(uri).version(Version::HTTP_2);
        let good = format!("https://{HERE}/api");
        assert_eq!(check(request(&good), false), Ok(Kind::Ordinary));
        assert_eq!(
            check(request(&good).header("host", "evil.example"), false),
            Err(StatusCode::MISDIRECTED_REQUEST)
        );
        for uri in ["https://evil.example/api", "http://127.0.0.1:4711/api"] {
            assert_eq!(
                check(request(uri), false),
                Err(StatusCode::MISDIRECTED_REQUEST),
                "{uri}"
            );
        }
    }

    #[test]
    fn absolute_and_authority_forms_are_refused() {
        let absolute = Request::get(format!("https://{HERE}/api")).header("host", HERE);
        assert_eq!(check(absolute, false), Err(StatusCode::BAD_REQUEST));
        let connect = Request::connect("evil.example:443").header("host", HERE);
        assert_eq!(check(connect, false), Err(StatusCode::METHOD_NOT_ALLOWED));
        let asterisk = Request::options("*").header("host", HERE);
        assert_eq!(check(asterisk, false), Err(StatusCode::BAD_REQUEST));
    }

    #[test]
    fn nobody_is_impersonated_unless_it_is_allowed() {
        for name in [
            "Impersonate-User",
            "impersonate-group",
            "Impersonate-Extra-a",
        ] {
            assert_eq!(one(name, "admin"), Err(StatusCode::FORBIDDEN), "{name}");
            let request = Request::get("/api").header("host", HERE).header(name, "a");
            assert_eq!(check(request, true), Ok(Kind::Ordinary), "{name}");
        }
        for name in ["X-Remote-User", "x-remote-group", "X-Remote-Extra-Scopes"] {
            assert_eq!(one(name, "admin"), Err(StatusCode::FORBIDDEN), "{name}");
            let request = Request::get("/api").header("host", HERE).header(name, "a");
            assert_eq!(check(request, true), Err(StatusCode::FORBIDDEN), "{name}");
        }
    }

    #[test]
    fn a_body_has_one_length_and_no_header_is_smuggled_away() {
        assert_eq!(
            one("Transfer-Encoding", "chunked"),
            Err(StatusCode::LENGTH_REQUIRED)
        );
        for value in ["Impersonate-User", "keep-alive, Authorization", "\u{e4}"] {
            assert_eq!(
                one("Connection", value),
                Err(StatusCode::BAD_REQUEST),
                "{value}"
            );
        }
        assert_eq!(one("Connection", "keep-alive, TE"), Ok(Kind::Ordinary));
    }

    #[test]
    fn only_the_streams_of_kubernetes_are_upgraded_to() {
        let upgrade = |connection: &str, upgrade: &str| {
            check(
                Request::post("/exec")
                    .header("host", HERE)
                    .header("connection", connection)
                    .header("upgrade", upgrade),
                false,
            )
        };
        assert_eq!(
            upgrade("Upgrade", "SPDY/3.1"),
            Ok(Kind::Upgrade(Protocol::Spdy))
        );
        assert_eq!(
            upgrade("keep-alive, upgrade", "WebSocket"),
            Ok(Kind::Upgrade(Protocol::WebSocket))
        );
        for (connection, protocol) in [
            ("Upgrade", "h2c"),
            ("Upgrade", "TLS/1.2"),
            ("Upgrade", "websocket, h2c"),
            ("close", "websocket"),
        ] {
            assert_eq!(
                upgrade(connection, protocol),
                Err(StatusCode::BAD_REQUEST),
                "{connection} {protocol}"
            );
        }
        assert_eq!(one("HTTP2-Settings", "AAA"), Err(StatusCode::BAD_REQUEST));
        let with_body = Request::post("/exec")
            .header("host", HERE)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("content-length", "5");
        assert_eq!(check(with_body, false), Err(StatusCode::BAD_REQUEST));
    }
}
