//! `touchstone proxy`: a proxy in the foreground, or the one behind `touchstone credential`.

use crate::{
    args::{PinCache, Proxy},
    error::Error,
    output::Output,
    proxy::{self, Settings},
};

/// `touchstone proxy`.
pub(super) fn run(args: Proxy, output: Output) -> Result<(), Error> {
    let settings = Settings {
        cluster: args.cluster,
        port: args.port,
        ttl: args.wanted.ttl,
        slot: args.wanted.slot,
        serial: args.card.serial,
        renew: args.session.renew,
        impersonation: args.session.allow_impersonation,
        keep_pin: args.session.pin_cache == PinCache::Session,
        pin_file: args.pin.pin_file,
        detached: args.detached,
        groups: args.wanted.group,
        reason: args.wanted.reason,
    };
    proxy::run(settings, output)
}
