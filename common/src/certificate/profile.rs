//! The profiles: which subject and which extensions each kind of certificate has. Nothing else is ever issued.

use super::{CaCertificate, CertificateError};
use crate::{
    asn1, csr,
    key::PublicKey,
    name::{self, GroupName, MAX_CERTIFICATE_GROUPS, MAX_NAME_CHARS, NameError, UserName},
    x509,
};
use const_oid::ObjectIdentifier;
use der::Tag;
use std::net::IpAddr;

pub(crate) const CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");

/// The profiles.
#[derive(Clone, Debug)]
pub enum Profile<'a> {
    /// An engineer's client certificate.
    ClientLeaf {
        /// CN.
        user: &'a UserName,
        /// O, sorted.
        groups: &'a [GroupName],
    },
    /// A CA's proof that API servers believe it: a client certificate of a name that has no groups, and so no rights.
    Canary {
        /// CN.
        user: &'a UserName,
    },
    /// The root: self-signed, CA, pathlen 1, keyCertSign and cRLSign.
    Root {
        /// CN.
        common_name: &'a str,
    },
    /// An issuing CA: pathlen 0, clientAuth only. Under a root, or self-signed where there is none.
    IssuingCa {
        /// CN.
        common_name: &'a str,
    },
    /// The CA of the standalone's own TLS: self-signed, pathlen 0, serverAuth only.
    ServerCa {
        /// CN.
        common_name: &'a str,
    },
    /// The standalone's TLS server certificate.
    Server {
        /// DNS names.
        dns_names: &'a [String],
        /// IP addresses.
        ip_addresses: &'a [IpAddr],
    },
}

/// Whether a profile has an issuer.
enum Issuance {
    Always,
    Never,
    Either,
}

impl Profile<'_> {
    const fn name(&self) -> &'static str {
        match self {
            Self::Canary { .. } => "canary",
            Self::ClientLeaf { .. } => "client",
            Self::Root { .. } => "root",
            Self::IssuingCa { .. } => "issuing CA",
            Self::ServerCa { .. } => "server CA",
            Self::Server { .. } => "server",
        }
    }

    const fn issuance(&self) -> Issuance {
        match self {
            Self::Canary { .. } | Self::ClientLeaf { .. } | Self::Server { .. } => Issuance::Always,
            Self::Root { .. } | Self::ServerCa { .. } => Issuance::Never,
            Self::IssuingCa { .. } => Issuance::Either,
        }
    }

    /// The path length of a CA.
    const fn path_length(&self) -> Option<u8> {
        match self {
            Self::Root { .. } => Some(1),
            Self::IssuingCa { .. } | Self::ServerCa { .. } => Some(0),
            Self::Canary { .. } | Self::ClientLeaf { .. } | Self::Server { .. } => None,
        }
    }

    const fn purpose(&self) -> Option<ObjectIdentifier> {
        match self {
            Self::Canary { .. } | Self::ClientLeaf { .. } | Self::IssuingCa { .. } => {
                Some(CLIENT_AUTH)
            }
            Self::Server { .. } | Self::ServerCa { .. } => Some(SERVER_AUTH),
            Self::Root { .. } => None,
        }
    }

    /// Whether `issuer` may issue this.
    pub(super) fn check_issuer(
        &self,
        issuer: Option<&CaCertificate>,
    ) -> Result<(), CertificateError> {
        let Some(issuer) = issuer else {
            return match self.issuance() {
                Issuance::Always => Err(CertificateError::SelfIssued(self.name(), "without")),
                Issuance::Never | Issuance::Either => Ok(()),
            };
        };
        if matches!(self.issuance(), Issuance::Never) {
            return Err(CertificateError::SelfIssued(self.name(), "under"));
        }
        if self.path_length().is_some() && issuer.path_length() == Some(0) {
            return Err(CertificateError::Issuer("CA certificates"));
        }
        match self.purpose() {
            Some(purpose) if !issuer.allows(purpose) => {
                Err(CertificateError::Issuer("certificates of this purpose"))
            }
            _ => Ok(()),
        }
    }

    /// The subject's name.
    pub(super) fn subject(&self) -> Result<Vec<u8>, CertificateError> {
        match self {
            Self::Canary { user } => Ok(csr::subject(user.as_str(), &[])),
            Self::ClientLeaf { user, groups } => {
                let sorted = super::sorted(groups);
                if !(1..=MAX_CERTIFICATE_GROUPS).contains(&sorted.len()) {
                    return Err(CertificateError::Groups(sorted.len()));
                }
                Ok(csr::subject(user.as_str(), groups))
            }
            Self::Root { common_name }
            | Self::IssuingCa { common_name }
            | Self::ServerCa { common_name } => {
                name::check_text(common_name, MAX_NAME_CHARS).map_err(CertificateError::Name)?;
                if common_name.is_empty() {
                    return Err(CertificateError::Name(NameError::Empty));
                }
                Ok(csr::subject(common_name, &[]))
            }
            // RFC 5280 section 4.1.2.6: the names stand in a critical SAN, the subject is empty.
            Self::Server { .. } => Ok(asn1::sequence(&[])),
        }
    }

    /// The extensions, in a fixed order.
    pub(super) fn extensions(
        &self,
        public_key: &PublicKey,
        issuer: Option<&CaCertificate>,
    ) -> Result<Vec<u8>, CertificateError> {
        let (constraints, usage) = match self.path_length() {
            Some(length) => (
                asn1::sequence(&[&[1, 1, 0xff], &asn1::unsigned(&[length])]),
                x509::KEY_CERT_SIGN | x509::CRL_SIGN,
            ),
            None => (asn1::sequence(&[]), x509::DIGITAL_SIGNATURE),
        };
        let mut extensions = vec![
            extension(x509::BASIC_CONSTRAINTS, true, &constraints),
            extension(x509::KEY_USAGE, true, &key_usage(usage)),
        ];
        if let Some(purpose) = self.purpose() {
            let purposes = asn1::sequence(&[&asn1::oid(purpose)]);
            extensions.push(extension(x509::EXTENDED_KEY_USAGE, false, &purposes));
        }
        let identifier = asn1::tlv(Tag::OctetString, &[&public_key.key_identifier()]);
        extensions.push(extension(x509::SUBJECT_KEY_ID, false, &identifier));
        if let Some(issuer) = issuer {
            let identifier = asn1::tlv(asn1::context(0, false), &[issuer.key_identifier()]);
            let identifier = asn1::sequence(&[&identifier]);
            extensions.push(extension(x509::AUTHORITY_KEY_ID, false, &identifier));
        }
        if let Self::Server {
            dns_names,
            ip_addresses,
        } = self
        {
            let names = alternative_names(dns_names, ip_addresses)?;
            extensions.push(extension(x509::SUBJECT_ALT_NAME, true, &names));
        }
        let extensions: Vec<&[u8]> = extensions.iter().map(Vec::as_slice).collect();
        Ok(asn1::tlv(
            asn1::context(3, true),
            &[&asn1::sequence(&extensions)],
        ))
    }
}

fn extension(oid: ObjectIdentifier, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    asn1::sequence(&[
        &asn1::oid(oid),
        critical,
        &asn1::tlv(Tag::OctetString, &[value]),
    ])
}

/// A named bit list without trailing zeros (X.690 section 11.2.2).
fn key_usage(bits: u8) -> Vec<u8> {
    let unused = u8::try_from(bits.trailing_zeros()).unwrap_or(0);
    asn1::tlv(Tag::BitString, &[&[unused, bits]])
}

fn alternative_names(dns: &[String], ip: &[IpAddr]) -> Result<Vec<u8>, CertificateError> {
    let mut names = Vec::new();
    for name in dns {
        if !is_dns_name(name) {
            return Err(CertificateError::NoNames);
        }
        names.push(asn1::tlv(asn1::context(2, false), &[name.as_bytes()]));
    }
    for address in ip {
        names.push(match address {
            IpAddr::V4(address) => asn1::tlv(asn1::context(7, false), &[&address.octets()]),
            IpAddr::V6(address) => asn1::tlv(asn1::context(7, false), &[&address.octets()]),
        });
    }
    if names.is_empty() {
        return Err(CertificateError::NoNames);
    }
    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    Ok(asn1::sequence(&names))
}

/// Letters, digits and inner hyphens in labels of 1 to 63, 253 in all (RFC 1123 section 2.1). No wildcards.
fn is_dns_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}
