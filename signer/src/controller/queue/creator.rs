//! In whose turn a request is worked on.

use crate::front::CREATED_FOR;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::ResourceExt as _;
use std::sync::Arc;

/// Who made it, as Kubernetes authenticated them; of what the signer's own front door made, for whom. Nobody else's
/// annotations count: with them one account would have as many turns as it likes.
pub(crate) fn creator(
    request: &CertificateSigningRequest,
    front_account: Option<&str>,
) -> Arc<str> {
    let account = request.spec.username.as_deref().unwrap_or_default();
    let person = match front_account {
        Some(front) if front == account => request.annotations().get(CREATED_FOR),
        Some(_) | None => None,
    };
    match person {
        Some(person) => format!("{person} by {account}").into(),
        None => account.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(account: &str, person: &str) -> CertificateSigningRequest {
        let mut request = CertificateSigningRequest::default();
        request.spec.username = Some(account.to_owned());
        request
            .annotations_mut()
            .insert(CREATED_FOR.to_owned(), person.to_owned());
        request
    }

    #[test]
    fn whom_the_front_door_made_it_for_counts_and_what_others_write_does_not() {
        let account = "system:serviceaccount:touchstone:touchstone-signer";
        let of = |request| creator(&request, Some(account));
        assert_ne!(
            of(created(account, "alice@example.com")),
            of(created(account, "bob@example.com"))
        );
        assert_eq!(&*of(created("mallory", "alice@example.com")), "mallory");
        assert_eq!(
            &*creator(&created(account, "alice@example.com"), None),
            account
        );
    }

    #[test]
    fn a_request_without_a_creator_is_nobodys() {
        assert_eq!(&*creator(&CertificateSigningRequest::default(), None), "");
    }
}
