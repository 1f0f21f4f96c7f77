//! What a signature costs where the CA's key is in a token, beside a key in memory. The token is SoftHSM: a real HSM takes
//! longer, and Touchstone's part of it is the same.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark that is broken ends, and one that is not prints"
)]

mod support;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};
use support::{Durations, figure, ratio, us};
use touchstone_common::key::{KeyAlgorithm, SigningKey as _, SoftwareKey};
use touchstone_signer::ca::{
    key::{KeyPlace, SecretFile, TokenSettings},
    lifecycle::CaId,
    settings::CaSettings,
};
use touchstone_tests::softhsm::{MODULE, SoftHsm};

/// About as long as what is signed of a certificate.
const MESSAGE: [u8; 700] = [7; 700];
const ROUNDS: usize = 1000;

fn main() {
    let Some(hsm) = SoftHsm::alone_again() else {
        return;
    };
    let token = hsm.token("bench");
    let place = KeyPlace::Pkcs11(TokenSettings {
        module: MODULE.into(),
        token: token.label().into(),
        serial: None,
        pin: SecretFile {
            file: token.pin_file().into(),
        },
    });
    let tokens = CaSettings::usual(place.clone()).tokens;
    let plan = place.plan(CaId::FIRST, &tokens).expect("a plan");
    let source = plan
        .generate(KeyAlgorithm::P256, &tokens)
        .expect("it is made");
    let in_token = source.open(&tokens).expect("it opens");
    let in_memory = SoftwareKey::generate(KeyAlgorithm::P256).expect("a key");
    let public = in_memory.public_key();
    // In turn: whatever else the machine does meets all alike.
    let [mut alone, mut verified, mut token] = [const { Durations::new() }; 3];
    for _ in 0..ROUNDS {
        alone.push(timed(|| in_memory.sign(&MESSAGE).expect("it signs")));
        verified.push(timed(|| {
            let signature = in_memory.sign(&MESSAGE).expect("it signs");
            let algorithm = public.signature_algorithm();
            public
                .verify(algorithm, &MESSAGE, &signature)
                .expect("it verifies");
        }));
        token.push(timed(|| in_token.sign(&MESSAGE).expect("it signs")));
    }
    let [alone, verified, token] = [alone, verified, token].map(|all| all.median());
    figure("signature: key in memory, p50", &us(alone), "");
    figure("signature: key in SoftHSM, p50", &us(token), "");
    figure(
        "signature: key in SoftHSM, beside in memory",
        &ratio(token, alone),
        "",
    );
    figure(
        "signature: key in SoftHSM, beside in memory and verified",
        &ratio(token, verified),
        "",
    );
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let started = Instant::now();
    black_box(work());
    started.elapsed()
}
