//! Who asks: a client in this process, the holder of a client certificate, of a read token or of an approver's pass, or
//! nobody.

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::UserInfo;
use std::sync::Arc;

use crate::{client_certificate::Peer, handlers::App, status::ApiError};

/// The group of everyone who proved who they are.
const AUTHENTICATED: &str = "system:authenticated";
/// The group of everyone else.
const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of everyone else.
const ANONYMOUS: &str = "system:anonymous";

/// How a request reached the server. Put on by the server itself, never read from the request.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// From a client made with [`crate::ApiServer::client`].
    InProcess(Arc<UserInfo>),
    /// Over TLS.
    Network(Arc<Peer>),
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) user: UserInfo,
    /// When the credential ends, if it does.
    pub(crate) ends: Option<Timestamp>,
    pub(crate) scope: Scope,
    /// Whether they approve requests.
    pub(crate) approves: bool,
}

/// What an identity is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Whatever its groups may do.
    Groups,
    /// Approving, and nothing else.
    Approver,
    /// Reading the requests with these UIDs, and nothing else.
    Requests(Vec<String>),
    /// Nobody: no credential came.
    Anonymous,
}

impl Identity {
    /// The name, for people.
    pub(crate) fn name(&self) -> &str {
        self.user.username.as_deref().unwrap_or_default()
    }

    fn authenticated(mut user: UserInfo, ends: Option<Timestamp>) -> Self {
        let groups = user.groups.get_or_insert_default();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self {
            user,
            ends,
            scope: Scope::Groups,
            approves: false,
        }
    }

    fn anonymous() -> Self {
        Self {
            user: UserInfo {
                username: Some(ANONYMOUS.to_owned()),
                groups: Some(vec![UNAUTHENTICATED.to_owned()]),
                ..UserInfo::default()
            },
            ends: None,
            scope: Scope::Anonymous,
            approves: false,
        }
    }
}

/// Finds out who asks.
pub(crate) async fn authenticate(
    source: &Source,
    headers: &HeaderMap,
    app: &App,
    now: Timestamp,
) -> Result<Identity, ApiError> {
    let peer = match source {
        Source::InProcess(user) => return Ok(Identity::authenticated((**user).clone(), None)),
        Source::Network(peer) => peer,
    };
    if let Some(holder) = peer.holder(now)? {
        let identity = Identity::authenticated(holder.user, Some(holder.ends));
        return Ok(Identity {
            approves: app.approvers.is_approver(identity.name()),
            ..identity
        });
    }
    let mut credentials = headers.get_all(header::AUTHORIZATION).iter();
    let Some(credential) = credentials.next() else {
        return Ok(Identity::anonymous());
    };
    if credentials.next().is_some() {
        return Err(ApiError::unauthorized());
    }
    let credential = credential.to_str().map_err(|_| ApiError::unauthorized())?;
    if let Some(pass) = pass(credential) {
        return approver(app, pass.to_owned()).await;
    }
    let sha256 = token_sha256(credential).ok_or_else(ApiError::unauthorized)?;
    let uids = app.store.requests_of_token(sha256).await?;
    if uids.is_empty() {
        return Err(ApiError::unauthorized());
    }
    Ok(Identity {
        user: UserInfo {
            username: Some("touchstone:read-token".to_owned()),
            groups: Some(vec![AUTHENTICATED.to_owned()]),
            ..UserInfo::default()
        },
        ends: None,
        scope: Scope::Requests(uids),
        approves: false,
    })
}

/// The holder of a pass. Judging one costs CPU, as judging evidence does.
async fn approver(app: &App, pass: String) -> Result<Identity, ApiError> {
    let approvers = Arc::clone(&app.approvers);
    let judged = app
        .judging
        .run(move || approvers.authenticate(&pass))
        .await?;
    let holder = judged.map_err(|refusal| {
        tracing::info!(why = refusal.message, "a pass was refused");
        ApiError::unauthorized_because(&refusal.message)
    })?;
    let user = UserInfo {
        username: Some(holder.username),
        ..UserInfo::default()
    };
    Ok(Identity {
        scope: Scope::Approver,
        approves: true,
        ..Identity::authenticated(user, Some(holder.ends))
    })
}

/// The token in `Bearer <token>`.
fn bearer(credential: &str) -> Option<&str> {
    let (scheme, token) = credential.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// What looks like a pass: three parts, where a read token has one.
fn pass(credential: &str) -> Option<&str> {
    bearer(credential).filter(|token| token.contains('.'))
}

/// SHA-256 of the 32 bytes in `Bearer <base64url without padding>`.
pub(crate) fn token_sha256(credential: &str) -> Option<[u8; 32]> {
    let token = bearer(credential)?;
    let bytes = zeroize::Zeroizing::new(URL_SAFE_NO_PAD.decode(token).ok()?);
    let bytes: &[u8; 32] = bytes.as_slice().try_into().ok()?;
    digest::digest(&digest::SHA256, bytes)
        .as_ref()
        .try_into()
        .ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_is_32_bytes_in_base64url() {
        let token = URL_SAFE_NO_PAD.encode([7; 32]);
        assert!(token_sha256(&format!("Bearer {token}")).is_some());
        for bad in [
            token.clone(),
            format!("Basic {token}"),
            format!("Bearer {}", URL_SAFE_NO_PAD.encode([7; 31])),
            format!("Bearer {token}="),
            "Bearer ".to_owned(),
        ] {
            assert_eq!(token_sha256(&bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_the_reader_panic(text in ".*") {
            prop_assert_eq!(token_sha256(&text), None);
        }
    }
}
