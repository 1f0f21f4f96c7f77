//! Reading a request: strictly, and once.
//!
//! Kubernetes reads certificates with Go, which takes the last of two CNs, decodes BMP and Teletex strings and keeps NULs
//! and edge spaces. Whatever two readers could read differently is refused here.

use super::{CsrError, LABEL, MAX_CSR_BYTES, Request};
use crate::{
    asn1::{self, Fields},
    claims::Claims,
    evidence::Evidence,
    key::{self, Accept, PublicKey, SignatureAlgorithm},
    name::{GroupName, MAX_GROUPS, NameError, UserName, is_touchstones, quoted},
    oid, pem,
    x509::{self, Attribute, ReadError},
};
use const_oid::ObjectIdentifier;
use der::Tag;

/// PKCS #9 extensionRequest, and Microsoft's older one for the same.
pub(crate) const EXTENSION_REQUESTS: [ObjectIdentifier; 2] = [
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.14"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.14"),
];

impl Request {
    /// Reads exactly one PEM block and nothing else.
    ///
    /// # Errors
    /// When anything at all is not as the design's strict reading asks.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CsrError> {
        Self::from_der(&der_of(pem)?)
    }

    /// Reads DER without trailing bytes.
    ///
    /// # Errors
    /// As [`Request::from_pem`].
    pub fn from_der(der: &[u8]) -> Result<Self, CsrError> {
        let (parts, public_key) = Parts::verified(der)?;
        let (user, groups) = read_subject(parts.subject, MAX_GROUPS)?;
        refuse_touchstones(&user, &groups)?;
        let (claims, evidence) = read_attributes(parts.attributes)?;
        Ok(Self {
            user,
            groups,
            public_key,
            claims,
            evidence,
            sha256: key::sha256(der),
        })
    }
}

/// CertificationRequestInfo (RFC 2986 section 4.1), cut into its fields.
pub(crate) struct Parts<'a> {
    version: u64,
    /// The subject's name, whole.
    pub(crate) subject: &'a [u8],
    spki: &'a [u8],
    /// The contents of the attributes' set.
    pub(crate) attributes: &'a [u8],
}

impl<'a> Parts<'a> {
    /// The parts of a request, and the key in it, whose signature over them has been verified: what is signed is read
    /// only when the signature stands.
    pub(crate) fn verified(der: &'a [u8]) -> Result<(Self, PublicKey), CsrError> {
        check_length(der)?;
        let mut outer = asn1::only(der, Tag::Sequence).map_err(in_part("the request"))?;
        let info = outer
            .whole(Tag::Sequence)
            .map_err(in_part("the certificationRequestInfo"))?;
        let algorithm = outer
            .inner(Tag::Sequence)
            .map_err(in_part("the signature algorithm"))?;
        let signature = asn1::whole_bits(&mut outer).map_err(in_part("the signature"))?;
        outer.finish().map_err(in_part("the request"))?;

        let parts = Self::read(info).map_err(in_part("the certificationRequestInfo"))?;
        if parts.version != 0 {
            return Err(CsrError::Version(parts.version));
        }
        let public_key = PublicKey::from_spki_der(parts.spki).map_err(CsrError::Key)?;
        let algorithm =
            SignatureAlgorithm::read(algorithm, Accept::Fitting).map_err(CsrError::Signature)?;
        public_key
            .verify(algorithm, info, signature)
            .map_err(CsrError::Signature)?;
        Ok((parts, public_key))
    }

    fn read(info: &'a [u8]) -> Result<Self, der::Error> {
        let mut fields = asn1::only(info, Tag::Sequence)?;
        let parts = Self {
            version: fields.read()?,
            subject: fields.whole(Tag::Sequence)?,
            spki: fields.whole(Tag::Sequence)?,
            attributes: fields.value(asn1::context(0, true))?,
        };
        fields.finish()?;
        Ok(parts)
    }
}

/// Exactly one CN, at least one O, nothing else; the groups sorted.
fn read_subject(
    subject: &[u8],
    most_groups: usize,
) -> Result<(UserName, Vec<GroupName>), CsrError> {
    let attributes = x509::attributes(subject).map_err(|error| match error {
        ReadError::Der(error) => in_part("the subject")(error),
        _ => CsrError::MultiValuedRdn,
    })?;
    read_names(&attributes, most_groups)
}

/// As [`read_subject`], of attributes that were read already.
pub(crate) fn read_names(
    attributes: &[Attribute<'_>],
    most_groups: usize,
) -> Result<(UserName, Vec<GroupName>), CsrError> {
    let mut users = Vec::new();
    let mut groups = Vec::new();
    for attribute in attributes {
        match attribute.oid {
            x509::COMMON_NAME => users.push(attribute.text().ok_or(CsrError::StringType("CN"))?),
            x509::ORGANIZATION => groups.push(attribute.text().ok_or(CsrError::StringType("O"))?),
            other => return Err(CsrError::SubjectAttribute(other)),
        }
    }
    let [user] = users.as_slice() else {
        return Err(CsrError::CommonNames(users.len()));
    };
    if !(1..=most_groups).contains(&groups.len()) {
        return Err(CsrError::Groups(groups.len()));
    }
    let user = UserName::parse(user).map_err(|error| CsrError::User {
        name: quoted(user),
        error,
    })?;
    let mut groups = groups
        .into_iter()
        .map(|group| {
            GroupName::parse(group).map_err(|error| CsrError::Group {
                name: quoted(group),
                error,
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    groups.sort_unstable();
    if let Some([twice, _]) = groups.array_windows().find(|[one, next]| one == next) {
        return Err(CsrError::DuplicateGroup(quoted(twice.as_str())));
    }
    Ok((user, groups))
}

/// Certificates carry groups of Touchstone's own, which the signer gives; nobody may ask for one.
fn refuse_touchstones(user: &UserName, groups: &[GroupName]) -> Result<(), CsrError> {
    if is_touchstones(user.as_str()) {
        return Err(CsrError::User {
            name: quoted(user.as_str()),
            error: NameError::Touchstone,
        });
    }
    match groups.iter().find(|group| is_touchstones(group.as_str())) {
        Some(group) => Err(CsrError::Group {
            name: quoted(group.as_str()),
            error: NameError::Touchstone,
        }),
        None => Ok(()),
    }
}

/// The claims exactly once, the evidence at most once, nothing else.
fn read_attributes(attributes: &[u8]) -> Result<(Claims, Option<Evidence>), CsrError> {
    let structure = in_part("the attributes");
    let mut claims = None;
    let mut evidence = None;
    let mut fields = Fields::new(attributes).map_err(structure)?;
    let mut before: &[u8] = &[];
    while !fields.is_empty() {
        let whole = fields.whole(Tag::Sequence).map_err(structure)?;
        let (oid, mut values) = read_attribute(whole).map_err(structure)?;
        if EXTENSION_REQUESTS.contains(&oid) {
            return Err(CsrError::ExtensionRequest);
        }
        if !matches!(oid, oid::CLAIMS | oid::EVIDENCE) {
            return Err(CsrError::UnknownAttribute(oid));
        }
        let value = values
            .whole(Tag::Sequence)
            .map_err(|_| CsrError::AttributeValues(oid))?;
        if !values.is_empty() {
            return Err(CsrError::AttributeValues(oid));
        }
        let twice = if oid == oid::CLAIMS {
            claims.replace(Claims::from_der(value)?).is_some()
        } else {
            evidence.replace(Evidence::from_der(value)?).is_some()
        };
        if twice {
            return Err(CsrError::DuplicateAttribute(oid));
        }
        if whole < before {
            return Err(CsrError::AttributeOrder);
        }
        before = whole;
    }
    Ok((claims.ok_or(CsrError::NoClaims)?, evidence))
}

fn read_attribute(whole: &[u8]) -> Result<(ObjectIdentifier, Fields<'_>), der::Error> {
    let mut fields = asn1::only(whole, Tag::Sequence)?;
    let oid = fields.read()?;
    let values = fields.inner(Tag::Set)?;
    fields.finish()?;
    Ok((oid, values))
}

/// The DER of exactly one PEM block and nothing else.
pub(crate) fn der_of(pem: &[u8]) -> Result<Vec<u8>, CsrError> {
    check_length(pem)?;
    Ok(pem::one_block(pem, LABEL)?)
}

fn check_length(bytes: &[u8]) -> Result<(), CsrError> {
    if bytes.len() > MAX_CSR_BYTES {
        return Err(CsrError::TooLong(bytes.len()));
    }
    Ok(())
}

/// Says in which part of the request the DER is wrong.
fn in_part(part: &'static str) -> impl Fn(der::Error) -> CsrError + Copy {
    move |error| CsrError::Der { part, error }
}
