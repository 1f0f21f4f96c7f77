//! Making a CA, once.

use super::{
    CaError, IssuingCa, files,
    key::{CaKey, KeyPlace, KeyPlan, KeySource, SoftwareCaKey, Tokens},
    lifecycle::CaId,
    recognise,
    settings::CaSettings,
};
use crate::{
    audit,
    data_dir::{self, DataDir},
};
use aws_lc_rs::rand;
use jiff::{SignedDuration, Timestamp};
use std::{path::Path, sync::Arc};
use touchstone_common::{
    certificate::{CaCertificate, CertificateError, Prepared, Profile, SerialNumber, Validity},
    key::{KeyAlgorithm, PublicKey, SigningKey, SoftwareKey},
};

/// The folder of the CA in a data directory.
pub const FOLDER: &str = "ca";
/// The file that `--client-ca-file` takes.
pub const TRUST_BUNDLE: &str = "trust-bundle.pem";
const ROOT: &str = "root";
const ISSUING: &str = "issuing";
/// The embedded API's database.
pub const DATABASE: &str = "api.db";

const ROOT_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 3653);
const ISSUING_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 120);
/// How far back a CA begins: its certificates must not begin before it does, wherever they are checked.
pub(super) const BACKDATE: SignedDuration = SignedDuration::from_mins(10);

/// The CA that a data directory begins with.
#[derive(Debug)]
pub struct Founded {
    root: CaCertificate,
    issuing: Arc<IssuingCa>,
}

impl Founded {
    /// What clients trust.
    #[must_use]
    pub fn root(&self) -> &CaCertificate {
        &self.root
    }

    /// What signs first.
    #[must_use]
    pub fn issuing(&self) -> &Arc<IssuingCa> {
        &self.issuing
    }

    /// The trust bundle, PEM: what `--client-ca-file` takes.
    #[must_use]
    pub fn trust_bundle(&self) -> String {
        self.root.to_pem()
    }
}

/// As [`open_as`], with keys in files of the data directory.
///
/// # Errors
/// As [`open_as`].
pub fn open(data: &DataDir, now: Timestamp) -> Result<Founded, CaError> {
    open_as(data, &CaSettings::usual(KeyPlace::Secret), now)
}

/// Loads the CA of a data directory, or makes it where nothing was ever issued, and writes the trust bundle. The issuing
/// key is made in a token where settings want it there, otherwise in the data directory.
///
/// # Errors
/// When it cannot be loaded or made, or is gone from a directory that has issued.
pub fn open_as(data: &DataDir, settings: &CaSettings, now: Timestamp) -> Result<Founded, CaError> {
    let folder = data.file(FOLDER);
    if !folder.exists() {
        for trace in [audit::FILE_NAME, DATABASE] {
            if data.file(trace).exists() {
                return Err(CaError::Gone {
                    ca: folder,
                    trace: data.file(trace),
                });
            }
        }
        destroy_half_made(data, settings)?;
        files::make_whole(&folder, |new| make(new, settings, now))?;
        tracing::info!(folder = %folder.display(), "made a root and an issuing CA");
    }
    let founded = load(data.path(), &settings.tokens)?;
    let bundle = data.file(TRUST_BUNDLE);
    let content = founded.trust_bundle();
    if data_dir::read_optional(&bundle)?.as_deref() != Some(content.as_bytes()) {
        data_dir::write_atomic(&bundle, content.as_bytes())?;
    }
    Ok(founded)
}

/// Loads the CA of a data directory.
///
/// # Errors
/// When a part is missing or does not fit the others.
fn load(data: &Path, tokens: &Tokens) -> Result<Founded, CaError> {
    let (root, certificate) = certificates(data)?;
    let issuing_folder = data.join(FOLDER).join(ISSUING);
    let key = open_key(&issuing_folder, tokens)?;
    let issuing =
        IssuingCa::new(certificate, key).ok_or_else(|| files::mismatch(&issuing_folder))?;
    Ok(Founded {
        root,
        issuing: Arc::new(issuing),
    })
}

/// The certificates of the root and of the issuing CA that a data directory begins with.
///
/// # Errors
/// When one is missing or does not fit the other.
pub fn certificates(data: &Path) -> Result<(CaCertificate, CaCertificate), CaError> {
    let root_folder = data.join(FOLDER).join(ROOT);
    let issuing_folder = data.join(FOLDER).join(ISSUING);
    let root = files::load_certificate(&root_folder)?;
    let certificate = files::load_certificate(&issuing_folder)?;
    if recognise::recognise(certificate.der(), &root).is_none() {
        return Err(CaError::NotChained {
            issuing: issuing_folder,
            root: root_folder,
        });
    }
    Ok((root, certificate))
}

/// The root that a data directory made for itself, and its key.
///
/// # Errors
/// When it cannot be read, or they are not a pair.
pub(super) fn own_root(data: &DataDir) -> Result<(CaCertificate, Box<dyn CaKey>), CaError> {
    let folder = data.file(FOLDER).join(ROOT);
    let certificate = files::load_certificate(&folder)?;
    let key = open_key(&folder, &Tokens::default())?;
    if certificate.public_key() != key.public_key() {
        return Err(files::mismatch(&folder));
    }
    Ok((certificate, key))
}

fn open_key(folder: &Path, tokens: &Tokens) -> Result<Box<dyn CaKey>, CaError> {
    match files::noted_key(folder)? {
        Some(source) => Ok(source.open(tokens)?),
        None => {
            let (_, key) = files::load(folder)?;
            Ok(Box::new(SoftwareCaKey::from(key)))
        }
    }
}

/// Where the first issuing CA's key is.
pub(super) fn issuing_key(data: &Path) -> Result<KeySource, CaError> {
    let folder = data.join(FOLDER).join(ISSUING);
    Ok(
        files::noted_key(&folder)?.unwrap_or_else(|| KeySource::File {
            path: files::key_path(&folder),
            passphrase: None,
        }),
    )
}

/// A start that was cut off may have made a key in a token: it noted where before.
fn destroy_half_made(data: &DataDir, settings: &CaSettings) -> Result<(), CaError> {
    let half = files::unfinished(&data.file(FOLDER)).join(ISSUING);
    // A note that is cut off itself comes from before the key.
    if let Ok(Some(key)) = files::noted_key(&half) {
        key.destroy(&settings.tokens)?;
    }
    Ok(())
}

fn make(folder: &Path, settings: &CaSettings, now: Timestamp) -> Result<(), CaError> {
    // Two installations must not have CAs of one name: clients look issuers up by it.
    let mark = hex::encode(random::<4>()?);
    let root_profile = Profile::Root {
        common_name: &format!("Touchstone root {mark}"),
    };
    let (root, root_key) = self_signed(&root_profile, KeyAlgorithm::P384, now)?;
    let passphrase = match &settings.keys {
        KeyPlace::File { passphrase, .. } => passphrase.as_ref(),
        KeyPlace::Pkcs11(_) | KeyPlace::Secret => None,
    };
    files::store_under(&folder.join(ROOT), &root, &root_key, passphrase)?;
    let issuing = folder.join(ISSUING);
    let profile = Profile::IssuingCa {
        common_name: &format!("Touchstone issuing CA {mark}"),
    };
    let certify = |key: &PublicKey| {
        let validity = validity(now, BACKDATE, ISSUING_LIFETIME)?;
        read_back(&sign(&profile, key, validity, Some(&root), &root_key)?)
    };
    if !matches!(settings.keys, KeyPlace::Pkcs11(_)) {
        let key = generate(settings.algorithm)?;
        return files::store_under(&issuing, &certify(key.public_key())?, &key, passphrase);
    }
    let plan = settings.keys.plan(CaId::FIRST, &settings.tokens)?;
    if let KeyPlan::Elsewhere(planned) = &plan {
        files::note_key(&issuing, planned)?;
    }
    let source = plan.generate(settings.algorithm, &settings.tokens)?;
    let key = source.open(&settings.tokens)?;
    files::store_certificate(&issuing, &certify(key.public_key())?)
}

/// A self-signed CA.
pub(super) fn self_signed(
    profile: &Profile<'_>,
    algorithm: KeyAlgorithm,
    now: Timestamp,
) -> Result<(CaCertificate, SoftwareKey), CaError> {
    let key = generate(algorithm)?;
    let validity = validity(now, BACKDATE, ROOT_LIFETIME)?;
    let der = sign(profile, key.public_key(), validity, None, &key)?;
    Ok((read_back(&der)?, key))
}

pub(super) fn generate(algorithm: KeyAlgorithm) -> Result<SoftwareKey, CaError> {
    SoftwareKey::generate(algorithm).map_err(CaError::KeyGeneration)
}

/// Signs a certificate of `profile`; DER.
pub(super) fn sign(
    profile: &Profile<'_>,
    public_key: &PublicKey,
    validity: Validity,
    issuer: Option<&CaCertificate>,
    key: &SoftwareKey,
) -> Result<Vec<u8>, CaError> {
    let serial = SerialNumber::from_random(random()?);
    Prepared::new(profile, public_key, validity, serial, issuer)
        .map_err(CaError::Make)?
        .sign(key)
        .map_err(CaError::Sign)
}

fn read_back(der: &[u8]) -> Result<CaCertificate, CaError> {
    CaCertificate::from_pem(super::certificate_pem(der).as_bytes()).map_err(CaError::Make)
}

/// From `back` before now until `lifetime` from now, in whole seconds.
pub(super) fn validity(
    now: Timestamp,
    back: SignedDuration,
    lifetime: SignedDuration,
) -> Result<Validity, CaError> {
    let second = |time: Result<Timestamp, jiff::Error>| {
        time.and_then(|time| Timestamp::from_second(time.as_second()))
            .map_err(|_| CaError::Make(CertificateError::OutlivesIssuer))
    };
    Ok(Validity {
        not_before: second(now.checked_sub(back))?,
        not_after: second(now.checked_add(lifetime))?,
    })
}

/// Random bytes from the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], CaError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| CaError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::key::SecretFile;
    use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

    fn now() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    fn fresh() -> (tempfile::TempDir, DataDir) {
        let temp = tempfile::tempdir().unwrap();
        let data = DataDir::open(temp.path()).unwrap();
        (temp, data)
    }

    fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(files_below(&path));
            } else {
                found.push(path);
            }
        }
        found
    }

    #[test]
    fn the_second_start_goes_on_with_the_ca_of_the_first() {
        let (_temp, data) = fresh();
        let first = open(&data, now()).unwrap();
        let second = open(&data, now()).unwrap();
        assert_eq!(
            first.issuing().fingerprint(),
            second.issuing().fingerprint()
        );
        let bundle = fs::read_to_string(data.file(TRUST_BUNDLE)).unwrap();
        assert_eq!(bundle, second.root().to_pem());
    }

    #[test]
    fn root_and_first_key_are_under_the_passphrase_of_key_files() {
        let (temp, data) = fresh();
        let file = temp.path().join("passphrase");
        data_dir::write_synced(&file, b"correct horse battery staple").unwrap();
        let settings = CaSettings::usual(KeyPlace::File {
            folder: temp.path().join("keys"),
            passphrase: Some(SecretFile { file: file.clone() }),
        });
        let first = open_as(&data, &settings, now()).unwrap();
        for part in [ROOT, ISSUING] {
            let path = files::key_path(&data.file(FOLDER).join(part));
            let text = fs::read_to_string(path).unwrap();
            assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
        }
        own_root(&data).unwrap();
        let again = open_as(&data, &settings, now()).unwrap();
        assert_eq!(again.issuing().fingerprint(), first.issuing().fingerprint());

        data_dir::write_synced(&file, b"wrong horse battery staple").unwrap();
        let error = open_as(&data, &settings, now()).unwrap_err();
        assert!(error.remedy().contains("own passphrase"), "{error}");
        own_root(&data).unwrap_err();
        fs::remove_file(&file).unwrap();
        let (_other, other) = fresh();
        open_as(&other, &settings, now()).unwrap_err();
        assert!(!other.file(FOLDER).exists(), "nothing is half made");
    }

    #[test]
    fn every_file_is_for_its_owner_alone() {
        let (_temp, data) = fresh();
        open(&data, now()).unwrap();
        for file in files_below(data.path()) {
            let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", file.display());
        }
    }

    #[test]
    fn what_an_interrupted_first_start_left_is_thrown_away() {
        let (_temp, data) = fresh();
        let half = data.file("ca.new");
        fs::create_dir_all(half.join("root")).unwrap();
        fs::write(half.join("root/key.pem"), "half").unwrap();
        open(&data, now()).unwrap();
        assert!(!half.exists());
    }

    #[test]
    fn a_missing_or_foreign_half_is_named_and_never_made_anew() {
        let (_temp, data) = fresh();
        open(&data, now()).unwrap();
        let (_other_temp, other) = fresh();
        open(&other, now()).unwrap();
        for part in [
            ["issuing", "key.pem"],
            ["issuing", "certificate.pem"],
            ["root", "certificate.pem"],
        ] {
            let part = part
                .iter()
                .fold(PathBuf::from(FOLDER), |path, it| path.join(it));
            let path = data.path().join(&part);
            let kept = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            let error = open(&data, now()).unwrap_err();
            assert!(
                matches!(&error, CaError::Missing { path: p } if *p == path),
                "{error}"
            );
            assert!(!path.exists());

            fs::copy(other.path().join(&part), &path).unwrap();
            let error = open(&data, now()).unwrap_err();
            assert!(
                matches!(error, CaError::Mismatch { .. } | CaError::NotChained { .. }),
                "{}: {error}",
                part.display()
            );
            fs::write(&path, kept).unwrap();
        }
        open(&data, now()).unwrap();
    }

    #[test]
    fn a_ca_that_issued_and_is_gone_is_not_replaced_by_a_new_one() {
        for trace in [audit::FILE_NAME, DATABASE] {
            let (_temp, data) = fresh();
            open(&data, now()).unwrap();
            fs::write(data.file(trace), "").unwrap();
            fs::remove_dir_all(data.file(FOLDER)).unwrap();
            let error = open(&data, now()).unwrap_err();
            assert!(matches!(error, CaError::Gone { .. }), "{error}");
            assert!(error.remedy().contains("backup"));
        }
    }
}
