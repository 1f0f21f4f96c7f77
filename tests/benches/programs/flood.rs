//! One who asks for a certificate while another has asked for ten thousand: how much longer it takes than without them. Only on
//! a control plane that `KUBEBUILDER_ASSETS` names: the embedded API authenticates nobody but its administrator.

use super::requests::{
    FLOODER, USER, client, has_certificate, place, request, runtime, start, when,
};
use crate::support::{Durations, figure, ms, ratio, scaled};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{Api, api::PostParams};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use touchstone_tests::card_key::CardKey;

const OURS: &str = "touchstone.dev/client";
/// A signer that is not there: what a flood costs the API server alone.
const NOBODYS: &str = "nobody.example.com/client";
const FLOOD: usize = 10_000;
/// How many of the flood's requests are created at once.
const CLIENTS: usize = 50;
/// How many the other asks for, one after the other, while nobody else does.
const ALONE: usize = 500;
/// Beyond any that is worth measuring.
const LIMIT: Duration = Duration::from_secs(60);

struct World {
    key: CardKey,
    other: Api<CertificateSigningRequest>,
    flooder: Api<CertificateSigningRequest>,
}

pub(crate) fn run() {
    let (cluster, key) = start();
    let told = |what: &str, value: &str, aim: &str| {
        figure(&format!("flood ({}): {what}", place(&cluster)), value, aim);
    };
    if cluster.is_embedded() {
        return told("not measured: all are one creator there", "", "");
    }
    runtime().block_on(async {
        let [other, flooder] = [USER, FLOODER].map(|account| cluster.kubeconfig_of(account));
        let world = Arc::new(World {
            key,
            other: Api::all(client(&other).await),
            flooder: Api::all(client(&flooder).await),
        });
        let (count, alone) = (scaled(FLOOD), scaled(ALONE));
        // The first few pay for what is made once.
        world.one_by_one("warm", |asked| asked < 10).await;
        let alone = world.one_by_one("alone", |asked| asked < alone).await;
        let flood = tokio::spawn(Arc::clone(&world).flood(NOBODYS, count));
        let beside = world.one_by_one("beside", |_| !flood.is_finished()).await;
        flood.await.expect("the flood comes");
        let last = when(&world.other, &flooding(OURS, count - 1), has_certificate).await;
        let started = Instant::now();
        let flood = tokio::spawn(Arc::clone(&world).flood(OURS, count));
        let growing = world.one_by_one("growing", |_| !flood.is_finished()).await;
        flood.await.expect("the flood comes");
        let grown = started.elapsed();
        let shrinking = world.one_by_one("shrinking", |_| !last.is_finished()).await;
        let all = started.elapsed();
        told(
            &format!("another's {count} are there; have their certificates"),
            &format!(
                "after {:.1} s; {:.1} s",
                grown.as_secs_f64(),
                all.as_secs_f64()
            ),
            "",
        );
        for (when, durations) in [
            ("nobody else asks", &alone),
            ("while another's for nobody come", &beside),
            ("while another's for the signer come", &growing),
            ("while they are worked on", &shrinking),
        ] {
            let (p50, p99) = (durations.median(), durations.percentile(99));
            told(
                &format!("{when}, p50 / p99 of {}", durations.len()),
                &format!("{} / {}", ms(p50), ms(p99)),
                "",
            );
        }
        told(
            "p99 while they are worked on, beside nobody else's",
            &ratio(shrinking.percentile(99), alone.percentile(99)),
            "2 ×",
        );
    });
}

fn flooding(signer_name: &str, number: usize) -> String {
    let (domain, _) = signer_name.split_once('/').expect("a signer name");
    format!("flood-{domain}-{number}")
}

impl World {
    /// How long each takes from the create to the certificate. At least one is asked for.
    async fn one_by_one(&self, prefix: &str, goes_on: impl Fn(usize) -> bool) -> Durations {
        let mut durations = Durations::new();
        loop {
            let name = format!("{prefix}-{}", durations.len());
            let request = request(&self.key, OURS, &name);
            let issued = when(&self.other, &name, has_certificate).await;
            let asked = Instant::now();
            let created = self.other.create(&PostParams::default(), &request).await;
            created.expect("the request is taken");
            let issued = tokio::time::timeout(LIMIT, issued).await;
            durations.push(issued.expect("in time").expect("the watch ends well") - asked);
            if !goes_on(durations.len()) {
                return durations;
            }
        }
    }

    async fn flood(self: Arc<Self>, signer_name: &'static str, count: usize) {
        stream::iter(0..count)
            .for_each_concurrent(CLIENTS, async |number| {
                let request = request(&self.key, signer_name, &flooding(signer_name, number));
                let created = self.flooder.create(&PostParams::default(), &request).await;
                created.expect("the request is taken");
            })
            .await;
    }
}
