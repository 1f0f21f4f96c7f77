//! A key in a token, open to sign.

use super::super::{CaKey, CaKeyError};
use super::{
    TokenObject, encoding,
    error::TokenError,
    module::lock,
    object,
    token::{Access, Connection, Token, is_lost},
};
use aws_lc_rs::digest;
use cryptoki::{mechanism::Mechanism, object::ObjectHandle};
use std::sync::Mutex;
use touchstone_common::key::{KeyAlgorithm, PublicKey, SigningKey};

/// A key in a token. It signs one message at a time, and finds its token again when a session was lost.
#[derive(Debug)]
pub(super) struct TokenCaKey {
    token: Token,
    object: TokenObject,
    public: PublicKey,
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    connection: Connection,
    key: ObjectHandle,
}

impl TokenCaKey {
    pub(super) fn open(token: Token, object: &TokenObject) -> Result<Self, TokenError> {
        let open = Open::new(&token, object)?;
        let public = open
            .connection
            .run(|session| object::public_key(session, object))?;
        Ok(Self {
            token,
            object: object.clone(),
            public,
            open: Mutex::new(Some(open)),
        })
    }

    /// r and s of CKM_ECDSA over a digest.
    fn raw_signature(&self, digest: &[u8]) -> Result<Vec<u8>, TokenError> {
        let mut open = lock(&self.open);
        if let Some(open) = &*open {
            match open.sign(digest) {
                Err(error) if is_lost(&error) => {
                    tracing::warn!(%error, "the session with the token was lost; opening another");
                }
                signed => return signed,
            }
        }
        // The lost session goes first: a token has only so many.
        *open = None;
        let again = Open::new(&self.token, &self.object)?;
        let signed = again.sign(digest)?;
        *open = Some(again);
        Ok(signed)
    }
}

impl Open {
    fn new(token: &Token, object: &TokenObject) -> Result<Self, TokenError> {
        let connection = token.connect(Access::Read)?;
        let key = connection.run(|session| object::private(session, object))?;
        Ok(Self { connection, key })
    }

    fn sign(&self, digest: &[u8]) -> Result<Vec<u8>, TokenError> {
        self.connection.sign(self.key, digest)
    }
}

impl Connection {
    fn sign(&self, key: ObjectHandle, digest: &[u8]) -> Result<Vec<u8>, TokenError> {
        self.run(|session| {
            session
                .sign(&Mechanism::Ecdsa, key, digest)
                .map_err(TokenError::failed(self.label(), "sign"))
        })
    }
}

impl SigningKey for TokenCaKey {
    type Error = CaKeyError;

    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, CaKeyError> {
        let algorithm = self.public.algorithm();
        let hash = match algorithm {
            KeyAlgorithm::P384 => &digest::SHA384,
            // No other kind of key is opened.
            KeyAlgorithm::P256 | KeyAlgorithm::Ed25519 | KeyAlgorithm::Rsa { .. } => {
                &digest::SHA256
            }
        };
        let raw = self.raw_signature(digest::digest(hash, message).as_ref())?;
        let signature = encoding::signature(algorithm, &raw).filter(|signature| {
            // A broken token must not put out what nobody accepts, nor a signature from which its key can be computed.
            let signed_with = self.public.signature_algorithm();
            self.public.verify(signed_with, message, signature).is_ok()
        });
        signature.ok_or_else(|| {
            let token = self.token.label().to_owned();
            TokenError::BadSignature { token }.into()
        })
    }
}

impl CaKey for TokenCaKey {
    fn is_of_a_device(&self) -> bool {
        true
    }
}
