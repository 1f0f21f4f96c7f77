//! What stands in for a control plane's own signer beside the embedded API: its client CA as kube-apiserver publishes it, and
//! whoever signs with it.

use crate::world::certificate;
use k8s_openapi::{
    ByteString,
    api::{certificates::v1::CertificateSigningRequest, core::v1::ConfigMap},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, PostParams},
};
use std::{fs, time::Duration};
use touchstone_tests::controller_manager::ClusterCa;

/// What kube-apiserver says of its client CAs.
pub(crate) async fn publish(client: Client, ca: &ClusterCa) {
    let pem = fs::read_to_string(ca.certificate()).expect("read the CA");
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some("extension-apiserver-authentication".into()),
            ..ObjectMeta::default()
        },
        data: Some([("client-ca-file".to_owned(), pem)].into()),
        ..ConfigMap::default()
    };
    let maps: Api<ConfigMap> = Api::namespaced(client, "kube-system");
    let created = maps.create(&PostParams::default(), &map).await;
    created.expect("create the ConfigMap");
}

/// Signs for ever, as kube-controller-manager does.
pub(crate) async fn sign_what_is_approved(requests: Api<CertificateSigningRequest>, ca: ClusterCa) {
    loop {
        let all = requests.list(&ListParams::default()).await;
        for mut request in all.into_iter().flatten() {
            let conditions = request.status.iter().flat_map(|it| &it.conditions);
            let approved = conditions.flatten().any(|it| it.type_ == "Approved");
            if !approved || certificate(&request).is_some() {
                continue;
            }
            let seconds = request.spec.expiration_seconds.expect("a lifetime");
            let lives = jiff::SignedDuration::from_secs(seconds.into());
            let signed = ca.sign_as_it_is(&request.spec.request.0, lives);
            let status = request.status.get_or_insert_default();
            status.certificate = Some(ByteString(signed.into_bytes()));
            let name = request.name_any();
            // Whoever else wrote meanwhile: the next time.
            let _ = requests
                .replace_status(&name, &PostParams::default(), &request)
                .await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
