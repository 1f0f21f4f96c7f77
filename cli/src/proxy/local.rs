//! What a kubeconfig knows of a cluster's proxy: a port on 127.0.0.1, and a CA that signs for that address alone.
//!
//! Both are made at first use and kept, so that a kubeconfig stays right. The CA's key signs a throwaway server key at
//! every start of the proxy; who steals it can pass for the proxy on this machine's loopback, and for nothing else. It
//! says nothing about clients: the proxy takes no certificate but those that it made itself and keeps in memory.

use crate::{credential::Store, file};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use std::{
    fmt, fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::SystemTime,
};
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// The file in a cluster's folder.
const FILE: &str = "loopback.json";
/// The ports that are chosen from: below those that Linux gives to outgoing connections, which would be in the way when
/// the proxy starts again (`/proc/sys/net/ipv4/ip_local_port_range`, 32768 and up).
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const CA_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 3650);
/// A CA with less than this left is made anew.
const CA_RESERVE: SignedDuration = SignedDuration::from_hours(24 * 30);
const SERVER_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 7);
/// Clocks are not compared on one machine, but they are set back now and then.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

/// Why the local identity could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The library refused.
    #[error("cannot make the loopback certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A file.
    #[error("cannot {verb} {}: {source}", .path.display())]
    Io {
        /// Read or write.
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is not what Touchstone wrote.
    #[error("{} is not what touchstone wrote: {why}", .path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// None of the ports that were tried can be used.
    #[error("no port on 127.0.0.1 is free for the proxy")]
    NoPort,
    /// The system's random source.
    #[error("the system gave no random numbers")]
    Random,
    /// The folder.
    #[error(transparent)]
    Store(#[from] crate::credential::CredentialError),
}

impl LocalError {
    /// What the user can do.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Malformed { path, .. } => Some(format!(
                "remove {} and run touchstone setup again: the kubeconfig then gets the new one",
                path.display()
            )),
            Self::NoPort => Some("name one with touchstone proxy --port N".to_owned()),
            Self::Store(error) => error.remedy(),
            Self::Certificate(_) | Self::Io { .. } | Self::Random => None,
        }
    }
}

/// As it is kept.
#[derive(Deserialize, Serialize, ZeroizeOnDrop)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kept {
    #[zeroize(skip)]
    port: u16,
    /// CN of the CA.
    #[zeroize(skip)]
    name: String,
    #[zeroize(skip)]
    not_after: Timestamp,
    #[zeroize(skip)]
    ca_pem: String,
    /// PKCS#8.
    key_pem: String,
}

/// A cluster's place on loopback.
pub struct LocalEndpoint {
    kept: Kept,
}

impl fmt::Debug for LocalEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalEndpoint")
            .field("port", &self.kept.port)
            .field("ca", &self.kept.name)
            .finish_non_exhaustive()
    }
}

impl LocalEndpoint {
    /// Reads a cluster's, or makes it: a CA, and a port that is free now.
    ///
    /// # Errors
    /// When the file is another's work, or cannot be read or written.
    pub fn ensure(store: &Store, cluster: &str) -> Result<Self, LocalError> {
        Self::at(store, cluster, None)
    }

    /// As [`LocalEndpoint::ensure`], on `port` where one is named, from then on.
    ///
    /// # Errors
    /// As [`LocalEndpoint::ensure`].
    pub fn at(store: &Store, cluster: &str, port: Option<u16>) -> Result<Self, LocalError> {
        // Checked, and locked: two that make it at once must not end with two CAs.
        store.prepare(cluster)?;
        let _alone = store.lock(cluster)?;
        let path = store.path(cluster, FILE);
        let kept = read(&path)?
            .filter(|kept| kept.not_after.duration_since(Timestamp::now()) > CA_RESERVE);
        let kept = match (kept, port) {
            (Some(kept), None) => return Ok(Self { kept }),
            (Some(kept), Some(port)) if kept.port == port => return Ok(Self { kept }),
            (Some(mut kept), Some(port)) => {
                kept.port = port;
                kept
            }
            (None, port) => make(cluster, port.map_or_else(|| free_port(store), Ok)?)?,
        };
        let json = Zeroizing::new(serde_json::to_vec_pretty(&kept).unwrap_or_default());
        file::replace(&path, &json).map_err(|source| LocalError::Io {
            verb: "write",
            path,
            source,
        })?;
        Ok(Self { kept })
    }

    /// Reads a cluster's; `None` where none was made yet.
    ///
    /// # Errors
    /// When the file is another's work, or cannot be read.
    pub fn kept(store: &Store, cluster: &str) -> Result<Option<Self>, LocalError> {
        Ok(read(&store.path(cluster, FILE))?.map(|kept| Self { kept }))
    }

    /// Where the proxy listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.kept.port).into()
    }

    /// For a kubeconfig's `server`: `https://127.0.0.1:PORT`.
    #[must_use]
    pub fn server_url(&self) -> String {
        format!("https://{}", self.address())
    }

    /// For a kubeconfig's `certificate-authority-data`.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.kept.ca_pem
    }

    /// A new server key and its certificate, for the memory of one process.
    ///
    /// # Errors
    /// When the kept key is none, or the library refuses.
    pub fn server_certificate(&self) -> Result<ServerCertificate, LocalError> {
        let ca_key = KeyPair::from_pem(&self.kept.key_pem)?;
        let issuer = Issuer::new(ca_params(&self.kept.name, self.kept.not_after), ca_key);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        // RFC 5280 section 4.1.2.6: the address stands in the SAN, the subject is empty.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let now = Timestamp::now();
        let not_after = (now + SERVER_LIFETIME).min(self.kept.not_after);
        params.not_before = SystemTime::from(now - BACKDATE).into();
        params.not_after = SystemTime::from(not_after).into();
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(ServerCertificate {
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
            not_after,
        })
    }
}

/// A server's certificate that only a running proxy has.
pub struct ServerCertificate {
    /// DER.
    pub certificate: CertificateDer<'static>,
    /// PKCS#8.
    pub key: PrivatePkcs8KeyDer<'static>,
    /// Last second.
    pub not_after: Timestamp,
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<Option<Kept>, LocalError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(LocalError::Io {
                verb: "read",
                path: path.to_owned(),
                source,
            });
        }
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| LocalError::Malformed {
            path: path.to_owned(),
            why: error.to_string(),
        })
}

fn make(cluster: &str, port: u16) -> Result<Kept, LocalError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    // Two machines, and two states on one, have CAs of different names.
    let mark = hex::encode(random::<4>()?);
    let name = format!("touchstone loopback {cluster} {mark}");
    let not_after = whole_second(Timestamp::now() + CA_LIFETIME);
    let certificate = ca_params(&name, not_after).self_signed(&key)?;
    Ok(Kept {
        port,
        name,
        not_after,
        ca_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    })
}

fn ca_params(name: &str, not_after: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::IpAddress(CidrSubnet::V4(
            Ipv4Addr::LOCALHOST.octets(),
            [0xff; 4],
        ))],
        excluded_subtrees: Vec::new(),
    });
    params.not_before = SystemTime::from(not_after - CA_LIFETIME - BACKDATE).into();
    params.not_after = SystemTime::from(not_after).into();
    params
}

fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn random<const N: usize>() -> Result<[u8; N], LocalError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| LocalError::Random)?;
    Ok(bytes)
}

/// A port that nobody listens on and that no other cluster has.
fn free_port(store: &Store) -> Result<u16, LocalError> {
    let taken: Vec<u16> = fs::read_dir(store.root())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| read(&entry.path().join(FILE)).ok().flatten())
        .map(|kept| kept.port)
        .collect();
    for _ in 0..100 {
        let number = u16::from_be_bytes(random()?);
        let port = PORTS.start + number % (PORTS.end - PORTS.start);
        if !taken.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(LocalError::NoPort)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use x509_cert::{
        Certificate,
        der::{Decode as _, Encode as _},
        ext::pkix::{
            BasicConstraints, NameConstraints, constraints::name::GeneralSubtree, name::GeneralName,
        },
    };

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path().join("state"));
        (directory, store)
    }

    #[test]
    fn port_and_ca_are_made_once_and_stay() {
        let (_directory, store) = store();
        let first = LocalEndpoint::ensure(&store, "prod").unwrap();
        let second = LocalEndpoint::ensure(&store, "prod").unwrap();
        assert_eq!(first.server_url(), second.server_url());
        assert_eq!(first.ca_pem(), second.ca_pem());
        let other = LocalEndpoint::ensure(&store, "dev").unwrap();
        assert_ne!(first.server_url(), other.server_url());
        assert_ne!(first.ca_pem(), other.ca_pem());
        let mode = fs::metadata(store.path("prod", FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_named_port_stays_and_the_ca_with_it() {
        let (_directory, store) = store();
        let first = LocalEndpoint::ensure(&store, "prod").unwrap();
        let moved = LocalEndpoint::at(&store, "prod", Some(4711)).unwrap();
        assert_eq!(moved.server_url(), "https://127.0.0.1:4711");
        assert_eq!(moved.ca_pem(), first.ca_pem());
        let kept = LocalEndpoint::ensure(&store, "prod").unwrap();
        assert_eq!(kept.server_url(), "https://127.0.0.1:4711");
    }

    #[test]
    fn a_logout_keeps_what_the_kubeconfig_knows() {
        let (_directory, store) = store();
        let first = LocalEndpoint::ensure(&store, "prod").unwrap();
        store.forget("prod").unwrap();
        assert_eq!(
            LocalEndpoint::ensure(&store, "prod").unwrap().ca_pem(),
            first.ca_pem()
        );
    }

    #[test]
    fn the_ca_signs_for_127_0_0_1_and_nothing_else() {
        let (_directory, store) = store();
        let endpoint = LocalEndpoint::ensure(&store, "prod").unwrap();
        let der = pem::parse(endpoint.ca_pem()).unwrap().into_contents();
        let ca = Certificate::from_der(&der).unwrap();
        let tbs = ca.tbs_certificate();
        let (critical, constraints) = tbs.get_extension::<NameConstraints>().unwrap().unwrap();
        assert!(critical);
        assert!(constraints.excluded_subtrees.is_none());
        let permitted: Vec<_> = constraints
            .permitted_subtrees
            .unwrap()
            .into_iter()
            .map(|GeneralSubtree { base, .. }| base)
            .collect();
        let [GeneralName::IpAddress(address)] = permitted.as_slice() else {
            panic!("{permitted:?}");
        };
        assert_eq!(address.as_bytes(), [127, 0, 0, 1, 255, 255, 255, 255]);
        let (_, basic) = tbs.get_extension::<BasicConstraints>().unwrap().unwrap();
        assert_eq!(basic.path_len_constraint, Some(0));

        let served = endpoint.server_certificate().unwrap();
        let leaf = Certificate::from_der(&served.certificate).unwrap();
        assert_eq!(
            leaf.tbs_certificate().issuer(),
            ca.tbs_certificate().subject()
        );
        assert!(leaf.to_der().is_ok());
        let again = endpoint.server_certificate().unwrap();
        assert_ne!(served.key.secret_pkcs8_der(), again.key.secret_pkcs8_der());
    }

    #[test]
    fn a_damaged_file_is_named_and_not_replaced() {
        let (_directory, store) = store();
        LocalEndpoint::ensure(&store, "prod").unwrap();
        fs::write(store.path("prod", FILE), b"{").unwrap();
        let error = LocalEndpoint::ensure(&store, "prod").unwrap_err();
        assert!(error.to_string().contains("loopback.json"), "{error}");
        assert!(error.remedy().unwrap().contains("touchstone setup"));
    }

    #[test]
    fn nothing_of_the_key_is_printed() {
        let (_directory, store) = store();
        let endpoint = LocalEndpoint::ensure(&store, "prod").unwrap();
        let served = endpoint.server_certificate().unwrap();
        assert!(!format!("{endpoint:?} {served:?}").contains("PRIVATE"));
        assert!(!format!("{served:?}").contains("key"));
    }
}
