//! Logs for those who set `RUST_LOG`, on standard error; never what goes to the card.

use crate::card::yubikey::SECRET_LOG_TARGETS;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::filter_fn, fmt::MakeWriter, layer::SubscriberExt as _, registry,
    util::SubscriberInitExt as _,
};

/// Installs the logs, if `RUST_LOG` asks for any.
pub fn install() {
    if std::env::var_os("RUST_LOG").is_some_and(|value| !value.is_empty()) {
        // Only a second call could fail.
        let _ = subscriber(EnvFilter::from_default_env(), std::io::stderr).try_init();
    }
}

fn subscriber<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    registry().with(
        tracing_subscriber::fmt::layer()
            .with_writer(writer)
            .with_ansi(false)
            .with_filter(filter)
            .with_filter(filter_fn(is_harmless)),
    )
}

/// The card's packages log every command at `trace`, PINs among them. No filter the user writes may let that through.
fn is_harmless(metadata: &Metadata<'_>) -> bool {
    let of_the_card = SECRET_LOG_TARGETS.iter().any(|target| {
        metadata
            .target()
            .strip_prefix(target)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    });
    !of_the_card || *metadata.level() <= Level::INFO
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = subscriber(EnvFilter::new(filter), move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::trace!(target: "yubikey::transaction", ">>> 739154");
            tracing::debug!(target: "pcsc", "739154");
            tracing::trace!(target: "touchstone_cli::submit", "harmless");
        });
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn no_filter_brings_out_what_goes_to_the_card() {
        for filter in [
            "trace",
            "yubikey=trace,pcsc=trace",
            "yubikey::transaction=trace",
        ] {
            assert!(!logged(filter).contains("739154"), "{filter}");
        }
    }

    #[test]
    fn other_logs_come_out_as_asked() {
        assert!(logged("trace").contains("harmless"));
    }
}
