//! `crd`: the CustomResourceDefinition of Grants. deploy/base/crd.yaml is its output.

use crate::grant::Grant;
use kube::CustomResourceExt;

/// The CustomResourceDefinition, YAML.
#[must_use]
pub fn yaml() -> String {
    // A definition is plain data with text keys: writing it out cannot fail.
    let body = serde_saphyr::to_string(&Grant::crd()).unwrap_or_default();
    format!("# Made by `touchstone-signer crd`. Do not edit.\n{body}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_definition_is_the_one_of_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/base/crd.yaml");
        let checked_in = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            checked_in == yaml(),
            "run: cargo run -p touchstone-signer -- crd > deploy/base/crd.yaml"
        );
    }
}
