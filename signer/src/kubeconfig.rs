//! Reading a kubeconfig.

use kube::config::{Config, KubeConfigOptions, Kubeconfig, KubeconfigError};
use std::path::Path;

/// What a kubeconfig says, in one of its contexts; its current one where none is named.
///
/// # Errors
/// When it cannot be read, or has no such context.
pub async fn load(path: &Path, context: Option<String>) -> Result<Config, KubeconfigError> {
    let options = KubeConfigOptions {
        context,
        ..KubeConfigOptions::default()
    };
    Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await
}
