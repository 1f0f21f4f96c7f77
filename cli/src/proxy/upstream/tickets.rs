//! TLS session tickets of one certificate's life: a connection that resumes needs no signature, and so no touch.
//!
//! A ticket is used once (RFC 8446, appendix C.4), and the connection that used it brings the next. Server and client both
//! keep the identity of the session that is resumed (kube-apiserver, as all of Go, holds the client's certificates in the
//! ticket, and takes none of a certificate that has ended). They live in memory, and go with the certificate.

use rustls::{
    NamedGroup,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    },
};
use rustls_pki_types::ServerName;
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};
use tokio::sync::Notify;

/// How long the next ticket is waited for: it comes with the first answer of the connection that used the last one.
const NEXT_WITHIN: Duration = Duration::from_millis(500);

/// The tickets of one server.
#[derive(Debug)]
pub(super) struct Tickets {
    kept: ClientSessionMemoryCache,
    there: AtomicUsize,
    seen: AtomicBool,
    came: Notify,
}

impl Tickets {
    pub(super) fn new() -> Self {
        Self {
            kept: ClientSessionMemoryCache::new(2),
            there: AtomicUsize::new(0),
            seen: AtomicBool::new(false),
            came: Notify::new(),
        }
    }

    /// Whether the next connection can resume. A server that has given tickets is given a moment to send another.
    pub(super) async fn can_resume(&self) -> bool {
        let came = self.came.notified();
        if self.there.load(Ordering::Acquire) > 0 {
            return true;
        }
        self.seen.load(Ordering::Acquire) && tokio::time::timeout(NEXT_WITHIN, came).await.is_ok()
    }

    fn gained(&self) {
        self.seen.store(true, Ordering::Release);
        self.there.fetch_add(1, Ordering::AcqRel);
        self.came.notify_waiters();
    }

    fn lost(&self) {
        let less = |there: usize| Some(there.saturating_sub(1));
        let _ = self
            .there
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.kept.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept.kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.kept.set_tls12_session(server_name, value);
        self.gained();
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept.tls12_session(server_name)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.kept.remove_tls12_session(server_name);
        self.lost();
    }

    fn insert_tls13_ticket(
        &self,
        server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        self.kept.insert_tls13_ticket(server_name, value);
        self.gained();
    }

    fn take_tls13_ticket(
        &self,
        server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        let ticket = self.kept.take_tls13_ticket(server_name);
        match ticket {
            Some(_) => self.lost(),
            None => self.there.store(0, Ordering::Release),
        }
        ticket
    }
}
