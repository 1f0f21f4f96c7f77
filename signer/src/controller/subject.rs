//! The request that is worked on.

use super::conditions;
use crate::{
    audit::RequestRef,
    review::{Approvals, Submission},
};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestStatus,
};
use kube::ResourceExt;
use touchstone_common::csr::KUBE_APISERVER_CLIENT;

/// A request of our signer name, with what every object has.
pub(crate) struct Subject {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) request: CertificateSigningRequest,
    /// The status as it was read, before anything was added to it.
    pub(super) status_read: Option<CertificateSigningRequestStatus>,
}

impl Subject {
    pub(crate) fn new(uid: String, request: CertificateSigningRequest) -> Self {
        Self {
            name: request.name_any(),
            uid,
            status_read: request.status.clone(),
            request,
        }
    }

    /// Whether kube-controller-manager signs it.
    pub(super) fn is_signed_by_cluster(&self) -> bool {
        self.request.spec.signer_name == KUBE_APISERVER_CLIENT
    }

    pub(super) fn reference(&self) -> RequestRef {
        RequestRef {
            csr: self.name.clone(),
            csr_uid: self.uid.clone(),
            creator: self.request.spec.username.clone().unwrap_or_default(),
        }
    }

    pub(crate) fn submission(&self) -> Submission<'_> {
        let spec = &self.request.spec;
        Submission {
            uid: &self.uid,
            signer_name: &spec.signer_name,
            username: spec.username.as_deref().unwrap_or_default(),
            groups: spec.groups.as_deref().unwrap_or_default(),
            request: &spec.request.0,
            expiration_seconds: spec.expiration_seconds,
            usages: spec.usages.as_deref().unwrap_or_default(),
            created_at: self.request.creation_timestamp().map(|time| time.0),
            approvals: Approvals {
                annotations: self.request.metadata.annotations.as_ref(),
                in_kubernetes: conditions::is_approved_by_another(&self.request),
            },
        }
    }
}
