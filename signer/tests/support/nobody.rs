//! An embedded API that lets nobody in by a key.

use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use touchstone_apiserver::{AnonymousCreate, Approvers, AttestedCreator, PassHolder, Refusal};

/// Nobody is let in without a credential.
pub(crate) struct Nobody;

impl AnonymousCreate for Nobody {
    fn admit(&self, _: &CertificateSigningRequestSpec) -> Result<AttestedCreator, Refusal> {
        Err(Refusal {
            message: "nobody is let in".into(),
        })
    }
}

impl Approvers for Nobody {
    fn admit(&self, _: &str, _: &str, _: &str) -> Result<(), Refusal> {
        Err(Refusal {
            message: "nobody approves".into(),
        })
    }

    fn annotation(&self, _: &str) -> String {
        String::new()
    }

    fn authenticate(&self, _: &str) -> Result<PassHolder, Refusal> {
        Err(Refusal {
            message: "nobody is let in".into(),
        })
    }

    fn is_approver(&self, _: &str) -> bool {
        false
    }

    fn signer_name(&self) -> &str {
        "touchstone.dev/client"
    }
}
