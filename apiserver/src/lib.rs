//! The embedded Kubernetes API: certificates.k8s.io/v1 and the few kinds that the signer needs, stored in SQLite.
//!
//! How the parts relate: a request comes in over TLS (`server`) or from a client in the same process
//! ([`ApiServer::client`]); `authentication` says who asks, `request` what is asked, `authorization` whether it may be.
//! `handlers` then read or write through `store`, one transaction a write, and `watch` tells everyone who looks on. What
//! kinds there are, and the rules of each, is the table in `resource`.
//!
//! [`FrontDoor`] serves attested requests alone, and keeps them in another API; it speaks as this one does, on the same
//! `connections`.
//!
//! Nothing here signs a certificate or knows a policy: who may create a request without a credential is decided by
//! [`AnonymousCreate`], who approves by [`Approvers`], which the embedder gives.

mod address;
mod authentication;
mod authorization;
mod client_certificate;
mod config;
mod connections;
mod csr;
mod decode;
mod discovery;
mod front;
mod handlers;
mod judging;
mod negotiation;
mod nobody;
mod object;
mod openapi;
mod opening;
mod patch;
mod pkcs10;
mod protobuf;
mod quota;
mod request;
mod resource;
mod selector;
mod server;
mod status;
mod store;
mod table;
mod tls;
mod watch;

/// The target of spans that are for traces, and of the events that mark one as failed. They have the name of no person, and
/// nothing that one wrote.
pub const TRACES: &str = "touchstone::traces";

pub use authorization::{ADMINISTRATORS, SIGNER};
pub use config::{
    AnonymousCreate, Approvers, AttestedCreator, CaKind, ClientCa, Clock, Config, PassHolder,
    Refusal, ServerTls, SystemClock,
};
pub use front::{Admitted, Doorkeeper, FrontConfig, FrontDoor, FrontOutcome, Reader};
pub use nobody::Nobody;
pub use server::{ApiServer, OpenError, ServeError, SetClientCasError};
pub use store::StoreOpenError;
