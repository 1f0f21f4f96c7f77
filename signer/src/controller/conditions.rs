//! A request's conditions: what they say, and how they are added.
//!
//! Approved, Denied and Failed stay on an object for ever, and the first two exclude each other (Kubernetes,
//! pkg/apis/certificates/validation).

use jiff::Timestamp;
use k8s_openapi::{
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use touchstone_common::csr::POLICY_APPROVED;

/// The most bytes of a message that are kept: it is read by people, in a terminal.
const MAX_MESSAGE_BYTES: usize = 4096;

/// A condition's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Approved,
    Denied,
    Failed,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Approved => "Approved",
            Self::Denied => "Denied",
            Self::Failed => "Failed",
        }
    }
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State<'a> {
    /// Someone approved it: perhaps not us.
    Approved,
    /// It carries a certificate: perhaps not ours.
    Certified(&'a [u8]),
    /// Denied or failed.
    Closed,
    /// Nothing was decided.
    Pending,
}

pub(super) fn state(request: &CertificateSigningRequest) -> State<'_> {
    let certificate = request
        .status
        .as_ref()
        .and_then(|status| status.certificate.as_ref())
        .filter(|certificate| !certificate.0.is_empty());
    if let Some(certificate) = certificate {
        return State::Certified(&certificate.0);
    }
    if has(request, Kind::Denied) || has(request, Kind::Failed) {
        State::Closed
    } else if has(request, Kind::Approved) {
        State::Approved
    } else {
        State::Pending
    }
}

fn has(request: &CertificateSigningRequest, kind: Kind) -> bool {
    request
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == kind.name())
}

/// Whether someone else than this signer approved it: whoever may approve can also say that the signer did, and then it
/// counts for nothing.
pub(super) fn is_approved_by_another(request: &CertificateSigningRequest) -> bool {
    request
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| {
            condition.type_ == Kind::Approved.name()
                && condition.reason.as_deref() != Some(POLICY_APPROVED)
        })
}

/// Adds a condition to the object, for the API to take.
pub(super) fn add(
    request: &mut CertificateSigningRequest,
    kind: Kind,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    // Kubernetes keeps times in whole seconds.
    let time = Timestamp::from_second(now.as_second()).ok().map(Time);
    request
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default()
        .push(CertificateSigningRequestCondition {
            last_transition_time: time.clone(),
            last_update_time: time,
            message: Some(shorten(message, MAX_MESSAGE_BYTES)),
            reason: Some(reason.to_owned()),
            status: "True".to_owned(),
            type_: kind.name().to_owned(),
        });
}

/// At most so many bytes of `text`, cut between characters.
pub(super) fn shorten(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(bytes.saturating_sub('…'.len_utf8()));
    let (start, _) = text.split_at(end);
    format!("{start}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        assert_eq!(shorten("abc", 3), "abc");
        assert_eq!(shorten("ääää", 7), "ää…");
        assert!(shorten(&"é".repeat(5000), MAX_MESSAGE_BYTES).len() <= MAX_MESSAGE_BYTES);
    }

    #[test]
    fn a_certificate_counts_before_any_condition() {
        let mut request = CertificateSigningRequest::default();
        assert_eq!(state(&request), State::Pending);
        add(
            &mut request,
            Kind::Approved,
            "R",
            "m",
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(state(&request), State::Approved);
        add(&mut request, Kind::Failed, "R", "m", Timestamp::UNIX_EPOCH);
        assert_eq!(state(&request), State::Closed);
        request.status.as_mut().unwrap().certificate = Some(k8s_openapi::ByteString(b"c".to_vec()));
        assert_eq!(state(&request), State::Certified(b"c"));
    }
}
