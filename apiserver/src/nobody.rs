//! An API that lets nobody in without a credential.

use crate::{AnonymousCreate, Approvers, AttestedCreator, PassHolder, Refusal};
use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;

/// Lets nobody in without a credential, and nobody approve by a key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

fn refusal() -> Refusal {
    Refusal {
        message: "nobody is let in without a credential".into(),
    }
}

impl AnonymousCreate for Nobody {
    fn admit(&self, _: &CertificateSigningRequestSpec) -> Result<AttestedCreator, Refusal> {
        Err(refusal())
    }
}

impl Approvers for Nobody {
    fn admit(&self, _: &str, _: &str, _: &str) -> Result<(), Refusal> {
        Err(refusal())
    }

    fn annotation(&self, _: &str) -> String {
        String::new()
    }

    fn authenticate(&self, _: &str) -> Result<PassHolder, Refusal> {
        Err(refusal())
    }

    fn is_approver(&self, _: &str) -> bool {
        false
    }

    fn signer_name(&self) -> &str {
        ""
    }
}
