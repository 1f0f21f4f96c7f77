//! The standalone's own TLS server certificate, and the administrator's client certificate. Neither has anything to do
//! with the CA that signs for engineers.

use super::{CaError, bootstrap, certificate_pem, files, recognise};
use crate::data_dir::{self, DataDir};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};
use touchstone_common::{
    certificate::{CaCertificate, Profile},
    key::{KeyAlgorithm, SigningKey, SoftwareKey},
    name::{GroupName, UserName},
};
use zeroize::Zeroizing;

/// The CA that clients verify the server with.
pub const SERVER_CA: &str = "server-ca.pem";
/// The administrator's kubeconfig.
pub const ADMIN_KUBECONFIG: &str = "admin.kubeconfig";

const SERVER_FOLDER: &str = "server";
const ADMIN_FOLDER: &str = "admin";
const LEAF_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 365);
/// A certificate with less than this left is made anew at the next start.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(24 * 90);
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

/// The server's certificate chain and key.
#[derive(Debug)]
pub struct ServerIdentity {
    /// Certificate, PEM.
    pub certificate_pem: String,
    /// Private key, PKCS#8 PEM.
    pub private_key_pem: Zeroizing<String>,
    /// The CA that signed it, PEM.
    pub ca_pem: String,
}

/// The administrator's certificate and key, and the CA that signed it.
#[derive(Debug)]
pub struct AdminIdentity {
    certificate_pem: String,
    private_key_pem: Zeroizing<String>,
    /// The CA of administrators, PEM.
    pub ca_pem: String,
}

/// Names and addresses that a server certificate is valid for, in a fixed order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerNames {
    dns_names: Vec<String>,
    ip_addresses: Vec<IpAddr>,
}

impl ServerNames {
    /// This machine's own, and `further` names or addresses.
    #[must_use]
    pub fn new(host_name: Option<String>, further: &[String]) -> Self {
        let mut dns_names = vec!["localhost".to_owned()];
        let mut ip_addresses = vec![
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        dns_names.extend(host_name.filter(|name| !name.is_empty()));
        for name in further {
            match name.parse() {
                Ok(address) => ip_addresses.push(address),
                Err(_) => dns_names.push(name.clone()),
            }
        }
        dns_names.sort();
        dns_names.dedup();
        ip_addresses.sort();
        ip_addresses.dedup();
        Self {
            dns_names,
            ip_addresses,
        }
    }

    /// One line per name: kept beside the certificate, to know when it must be made anew.
    fn listing(&self) -> String {
        let mut text = String::new();
        for name in &self.dns_names {
            let _ = writeln!(text, "{name}");
        }
        for address in &self.ip_addresses {
            let _ = writeln!(text, "{address}");
        }
        text
    }
}

/// Loads the server's certificate, or makes it: the first time, near its end, and when its names change.
///
/// # Errors
/// When a part of the server CA is missing, or nothing can be written.
pub fn server(
    data: &DataDir,
    names: &ServerNames,
    now: Timestamp,
) -> Result<ServerIdentity, CaError> {
    let folder = data.file(SERVER_FOLDER);
    let (ca, ca_key) = own_ca(
        &folder,
        |mark| format!("Touchstone server CA {mark}"),
        |common_name| Profile::ServerCa { common_name },
        now,
    )?;
    let profile = Profile::Server {
        dns_names: &names.dns_names,
        ip_addresses: &names.ip_addresses,
    };
    let (certificate_pem, private_key_pem) =
        leaf(&folder, &names.listing(), &profile, (&ca, &ca_key), now)?;
    let ca_pem = ca.to_pem();
    let path = data.file(SERVER_CA);
    if data_dir::read_optional(&path)?.as_deref() != Some(ca_pem.as_bytes()) {
        data_dir::write_atomic(&path, ca_pem.as_bytes())?;
    }
    Ok(ServerIdentity {
        certificate_pem,
        private_key_pem,
        ca_pem,
    })
}

/// Loads the administrator's certificate, or makes it: the first time, and near its end.
///
/// # Errors
/// When a part of the administrators' CA is missing, or nothing can be written.
pub fn admin(
    data: &DataDir,
    user: &UserName,
    groups: &[GroupName],
    now: Timestamp,
) -> Result<AdminIdentity, CaError> {
    let folder = data.file(ADMIN_FOLDER);
    let (ca, ca_key) = own_ca(
        &folder,
        |mark| format!("Touchstone administrators CA {mark}"),
        |common_name| Profile::IssuingCa { common_name },
        now,
    )?;
    let profile = Profile::ClientLeaf { user, groups };
    let mut listing = format!("{user}\n");
    for group in groups {
        let _ = writeln!(listing, "{group}");
    }
    let (certificate_pem, private_key_pem) =
        leaf(&folder, &listing, &profile, (&ca, &ca_key), now)?;
    Ok(AdminIdentity {
        certificate_pem,
        private_key_pem,
        ca_pem: ca.to_pem(),
    })
}

/// A CA that signs for this program's own use. Two installations have CAs of different names.
fn own_ca(
    folder: &Path,
    name: fn(&str) -> String,
    profile: fn(&str) -> Profile<'_>,
    now: Timestamp,
) -> Result<(CaCertificate, SoftwareKey), CaError> {
    if !folder.exists() {
        files::make_whole(folder, |new| {
            let name = name(&hex::encode(bootstrap::random::<4>()?));
            let (ca, key) = bootstrap::self_signed(&profile(&name), KeyAlgorithm::P256, now)?;
            files::store(&new.join("ca"), &ca, &key)
        })?;
    }
    files::load(&folder.join("ca"))
}

/// Key and certificate stand in one file, so that a renewal replaces both at once.
fn leaf(
    folder: &Path,
    listing: &str,
    profile: &Profile<'_>,
    (ca, ca_key): (&CaCertificate, &SoftwareKey),
    now: Timestamp,
) -> Result<(String, Zeroizing<String>), CaError> {
    let path = folder.join("identity.pem");
    if let Some(found) = load_leaf(&path, listing, ca, now)? {
        return Ok(found);
    }
    let key = bootstrap::generate(KeyAlgorithm::P256)?;
    let validity = bootstrap::validity(now, BACKDATE, LEAF_LIFETIME)?;
    let der = bootstrap::sign(profile, key.public_key(), validity, Some(ca), ca_key)?;
    let certificate = certificate_pem(&der);
    let private_key = key.to_pkcs8_pem().map_err(CaError::KeyGeneration)?;
    let mut file = Zeroizing::new(String::new());
    for line in listing.lines() {
        let _ = writeln!(file, "# {line}");
    }
    file.push_str(&certificate);
    file.push_str(&private_key);
    data_dir::write_atomic(&path, file.as_bytes())?;
    Ok((certificate, private_key))
}

/// The certificate and key of a file that [`leaf`] wrote, if they still serve. Anything else is made anew: nothing
/// depends on this key but the next connection.
fn load_leaf(
    path: &Path,
    listing: &str,
    ca: &CaCertificate,
    now: Timestamp,
) -> Result<Option<(String, Zeroizing<String>)>, CaError> {
    let Some(file) = data_dir::read_optional(path)?.map(Zeroizing::new) else {
        return Ok(None);
    };
    let Ok(text) = std::str::from_utf8(&file) else {
        return Ok(None);
    };
    let mut found = String::new();
    for line in text.lines().map_while(|line| line.strip_prefix("# ")) {
        let _ = writeln!(found, "{line}");
    }
    let Ok(blocks) = pem::parse_many(&file) else {
        return Ok(None);
    };
    let [certificate, key] = blocks.as_slice() else {
        return Ok(None);
    };
    let Some(recognised) = recognise::recognise(certificate.contents(), ca) else {
        return Ok(None);
    };
    let fresh = recognised.not_after.duration_since(now) > RENEW_BEFORE;
    if found != listing || !fresh {
        return Ok(None);
    }
    let Ok(key) = SoftwareKey::from_pkcs8_der(key.contents()) else {
        return Ok(None);
    };
    let private_key = key.to_pkcs8_pem().map_err(CaError::KeyGeneration)?;
    Ok(Some((certificate_pem(certificate.contents()), private_key)))
}

/// Writes the administrator's kubeconfig.
///
/// # Errors
/// When it cannot be written.
pub fn write_kubeconfig(
    data: &DataDir,
    server_url: &str,
    server_ca_pem: &str,
    admin: &AdminIdentity,
) -> Result<PathBuf, CaError> {
    let path = data.file(ADMIN_KUBECONFIG);
    let kubeconfig = Zeroizing::new(format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: touchstone\n\
         clusters:\n- name: touchstone\n  cluster:\n    server: {server_url}\n    certificate-authority-data: {}\n\
         contexts:\n- name: touchstone\n  context:\n    cluster: touchstone\n    user: touchstone-admin\n\
         users:\n- name: touchstone-admin\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        STANDARD.encode(server_ca_pem),
        STANDARD.encode(&admin.certificate_pem),
        STANDARD.encode(admin.private_key_pem.as_bytes()),
    ));
    data_dir::write_atomic(&path, kubeconfig.as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> ServerNames {
        ServerNames::new(Some("host.example".into()), &["10.0.0.7".into()])
    }

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    #[test]
    fn the_server_certificate_is_kept_until_it_is_near_its_end_or_its_names_change() {
        let temp = tempfile::tempdir().unwrap();
        let data = DataDir::open(temp.path()).unwrap();
        let first = server(&data, &names(), at("2026-01-01T00:00:00Z")).unwrap();
        let later = server(&data, &names(), at("2026-06-01T00:00:00Z")).unwrap();
        assert_eq!(first.certificate_pem, later.certificate_pem);
        assert_eq!(first.private_key_pem, later.private_key_pem);
        let renewed = server(&data, &names(), at("2026-12-01T00:00:00Z")).unwrap();
        assert_ne!(first.certificate_pem, renewed.certificate_pem);
        assert_eq!(first.ca_pem, renewed.ca_pem);
        let other = ServerNames::new(None, &["other.example".into()]);
        let renamed = server(&data, &other, at("2026-12-01T00:00:00Z")).unwrap();
        assert_ne!(renewed.certificate_pem, renamed.certificate_pem);
    }

    #[test]
    fn names_and_addresses_are_told_apart() {
        let names = ServerNames::new(
            Some(String::new()),
            &["10.0.0.7".into(), "a.example".into()],
        );
        assert_eq!(
            names.listing(),
            "a.example\nlocalhost\n10.0.0.7\n127.0.0.1\n::1\n"
        );
    }

    #[test]
    fn a_damaged_identity_is_made_anew_and_a_damaged_ca_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let data = DataDir::open(temp.path()).unwrap();
        let now = at("2026-01-01T00:00:00Z");
        server(&data, &names(), now).unwrap();
        std::fs::write(data.file("server/identity.pem"), b"\xff-----BEGIN").unwrap();
        server(&data, &names(), now).unwrap();
        std::fs::remove_file(data.file("server/ca/key.pem")).unwrap();
        assert!(matches!(
            server(&data, &names(), now).unwrap_err(),
            CaError::Missing { .. }
        ));
    }
}
