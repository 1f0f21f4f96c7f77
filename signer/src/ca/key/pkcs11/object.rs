//! Key pairs in a token: made, found, looked at, destroyed.

use super::{
    TokenObject, encoding,
    error::TokenError,
    token::{Access, Connection, Token},
};
use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use touchstone_common::key::{KeyAlgorithm, PublicKey};

/// What a private key must be, and must not be able to do, wherever it is from.
const LASTING: [(AttributeType, bool); 5] = [
    (AttributeType::Token, true),
    (AttributeType::Private, true),
    (AttributeType::Sensitive, true),
    (AttributeType::Extractable, false),
    (AttributeType::Sign, true),
];
/// What it must have been from its first moment.
const FROM_THE_START: [(AttributeType, bool); 3] = [
    (AttributeType::Local, true),
    (AttributeType::AlwaysSensitive, true),
    (AttributeType::NeverExtractable, true),
];
/// What it must not be able to do beside signing; some tokens do not have these for such keys.
const FORBIDDEN: [AttributeType; 4] = [
    AttributeType::AlwaysAuthenticate,
    AttributeType::Decrypt,
    AttributeType::Derive,
    AttributeType::Unwrap,
];

/// Makes a key pair, and sees that the token made what was asked for. One that it made otherwise is destroyed at once.
pub(super) fn generate(
    token: &Token,
    object: &TokenObject,
    algorithm: KeyAlgorithm,
) -> Result<(), TokenError> {
    let parameters = encoding::parameters(algorithm)
        .ok_or_else(|| object.unfit(format!("would be {algorithm}: P-256 and P-384 are made")))?;
    let id = Attribute::Id(object.id.0.to_vec());
    let label = Attribute::Label(object.label.clone().into_bytes());
    let public = [
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::KeyType(KeyType::EC),
        Attribute::EcParams(parameters),
        Attribute::Verify(true),
        id.clone(),
        label.clone(),
    ];
    let private = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::KeyType(KeyType::EC),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
        Attribute::Derive(false),
        Attribute::Unwrap(false),
        id,
        label,
    ];
    let connection = token.connect(Access::ReadWrite)?;
    connection.run(|session| {
        session
            .generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)
            .map_err(TokenError::failed(token.label(), "make a key"))
    })?;
    let made = connection.run(|session| {
        let key = private_key(session, object)?;
        check(session, object, key, &FROM_THE_START)?;
        let made = public_key(session, object)?.algorithm();
        if made != algorithm {
            return Err(object.unfit(format!("is {made}, and {algorithm} was asked for")));
        }
        Ok(())
    });
    if let Err(error) = &made {
        tracing::error!(%error, key = %object, "the token made another key than it was asked for");
        destroy_in(&connection, object)?;
    }
    made
}

/// The private key, if it is as keys of CAs are.
pub(super) fn private(session: &Session, object: &TokenObject) -> Result<ObjectHandle, TokenError> {
    let key = private_key(session, object)?;
    check(session, object, key, &[])?;
    Ok(key)
}

/// The public half.
pub(super) fn public_key(session: &Session, object: &TokenObject) -> Result<PublicKey, TokenError> {
    let handle = one(session, object, ObjectClass::PUBLIC_KEY)?;
    let wanted = [AttributeType::EcParams, AttributeType::EcPoint];
    let (mut parameters, mut point) = (None, None);
    for attribute in attributes(session, object, handle, &wanted)? {
        match attribute {
            Attribute::EcParams(value) => parameters = Some(value),
            Attribute::EcPoint(value) => point = Some(value),
            _ => {}
        }
    }
    let (Some(parameters), Some(point)) = (parameters, point) else {
        return Err(object.unfit("shows no public half of a curve"));
    };
    encoding::public_key(&parameters, &point).map_err(|why| object.unfit(why))
}

/// Destroys both halves; what is gone is fine.
pub(super) fn destroy(token: &Token, object: &TokenObject) -> Result<(), TokenError> {
    destroy_in(&token.connect(Access::ReadWrite)?, object)
}

fn destroy_in(connection: &Connection, object: &TokenObject) -> Result<(), TokenError> {
    let failed = TokenError::failed(&object.token, "destroy a key");
    connection.run(|session| {
        // The half that signs goes first: whoever is interrupted leaves nothing that could.
        for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
            for handle in all(session, object, class)? {
                session.destroy_object(handle).map_err(&failed)?;
            }
            if !all(session, object, class)?.is_empty() {
                return Err(object.unfit("is still there after the token destroyed it"));
            }
        }
        Ok(())
    })
}

fn private_key(session: &Session, object: &TokenObject) -> Result<ObjectHandle, TokenError> {
    one(session, object, ObjectClass::PRIVATE_KEY)
}

fn one(
    session: &Session,
    object: &TokenObject,
    class: ObjectClass,
) -> Result<ObjectHandle, TokenError> {
    let (token, id) = (object.token.clone(), object.id.to_string());
    let mut found = all(session, object, class)?;
    match (found.len(), found.pop()) {
        (1, Some(handle)) => Ok(handle),
        (_, None) => Err(TokenError::KeyMissing { token, id }),
        (count, Some(_)) => Err(TokenError::KeysAlike { token, id, count }),
    }
}

fn all(
    session: &Session,
    object: &TokenObject,
    class: ObjectClass,
) -> Result<Vec<ObjectHandle>, TokenError> {
    let template = [Attribute::Class(class), Attribute::Id(object.id.0.to_vec())];
    session
        .find_objects(&template)
        .map_err(TokenError::failed(&object.token, "look for a key"))
}

fn check(
    session: &Session,
    object: &TokenObject,
    key: ObjectHandle,
    further: &[(AttributeType, bool)],
) -> Result<(), TokenError> {
    let required = || LASTING.iter().chain(further).copied();
    let wanted: Vec<AttributeType> = required().map(|(kind, _)| kind).chain(FORBIDDEN).collect();
    let found = attributes(session, object, key, &wanted)?;
    judge(&found, required()).map_err(|why| object.unfit(why))
}

/// Whether a private key is what it must be; what is wrong with it otherwise, completing "it …".
fn judge(
    found: &[Attribute],
    required: impl Iterator<Item = (AttributeType, bool)>,
) -> Result<(), String> {
    let value = |kind: AttributeType| {
        let of_kind = |attribute: &&Attribute| attribute.attribute_type() == kind;
        found.iter().find(of_kind).and_then(as_bool)
    };
    for (kind, expected) in required {
        match value(kind) {
            Some(value) if value == expected => {}
            // Absent is a refusal, never what one would like to read.
            None => return Err(format!("does not say whether it is {kind}")),
            Some(_) if expected => return Err(format!("is not {kind}")),
            Some(_) => return Err(format!("is {kind}")),
        }
    }
    match FORBIDDEN
        .into_iter()
        .find(|kind| value(*kind) == Some(true))
    {
        Some(kind) => Err(format!("is {kind}")),
        None => Ok(()),
    }
}

fn as_bool(attribute: &Attribute) -> Option<bool> {
    match attribute {
        Attribute::AlwaysAuthenticate(value)
        | Attribute::AlwaysSensitive(value)
        | Attribute::Decrypt(value)
        | Attribute::Derive(value)
        | Attribute::Extractable(value)
        | Attribute::Local(value)
        | Attribute::NeverExtractable(value)
        | Attribute::Private(value)
        | Attribute::Sensitive(value)
        | Attribute::Sign(value)
        | Attribute::Token(value)
        | Attribute::Unwrap(value) => Some(*value),
        _ => None,
    }
}

fn attributes(
    session: &Session,
    object: &TokenObject,
    handle: ObjectHandle,
    wanted: &[AttributeType],
) -> Result<Vec<Attribute>, TokenError> {
    session
        .get_attributes(handle, wanted)
        .map_err(TokenError::failed(&object.token, "look at a key"))
}

impl TokenObject {
    pub(super) fn unfit(&self, why: impl Into<String>) -> TokenError {
        TokenError::KeyUnfit {
            token: self.token.clone(),
            id: self.id.to_string(),
            why: why.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Vec<Attribute> {
        vec![
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
            Attribute::Local(true),
            Attribute::AlwaysSensitive(true),
            Attribute::NeverExtractable(true),
            Attribute::Decrypt(false),
        ]
    }

    fn judged(found: &[Attribute]) -> Result<(), String> {
        judge(found, LASTING.into_iter().chain(FROM_THE_START))
    }

    #[test]
    fn a_key_that_signs_and_never_leaves_is_taken() {
        judged(&good()).unwrap();
    }

    #[test]
    fn a_key_that_can_leave_or_do_more_is_refused_and_so_is_one_that_does_not_say() {
        let flipped = [
            (0, Attribute::Token(false)),
            (1, Attribute::Private(false)),
            (2, Attribute::Sensitive(false)),
            (3, Attribute::Extractable(true)),
            (4, Attribute::Sign(false)),
            (5, Attribute::Local(false)),
            (6, Attribute::AlwaysSensitive(false)),
            (7, Attribute::NeverExtractable(false)),
            (8, Attribute::Decrypt(true)),
            (8, Attribute::Derive(true)),
            (8, Attribute::Unwrap(true)),
            (8, Attribute::AlwaysAuthenticate(true)),
        ];
        for (at, attribute) in flipped {
            let mut found = good();
            *found.get_mut(at).unwrap() = attribute.clone();
            assert!(judged(&found).is_err(), "{attribute:?}");
        }
        for absent in 0..8 {
            let mut found = good();
            found.remove(absent);
            let why = judged(&found).unwrap_err();
            assert!(why.starts_with("does not say"), "{why}");
        }
    }
}
