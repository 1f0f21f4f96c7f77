//! Private keys under a passphrase: EncryptedPrivateKeyInfo of PKCS#8 (RFC 5958, section 3), by PBES2 (RFC 8018), as
//! OpenSSL writes and reads it.

use super::{SoftwareKey, SoftwareKeyError};
use crate::pem::{self, PemError};
use aws_lc_rs::rand;
use der::{Decode as _, Encode as _, asn1::OctetStringRef};
use pkcs8::{
    EncryptedPrivateKeyInfoRef,
    pkcs5::{
        EncryptionScheme as Scheme,
        pbes2::{EncryptionScheme as Cipher, Kdf, Parameters, Pbkdf2Prf},
        scrypt,
    },
};
use zeroize::Zeroizing;

const LABEL: &str = "ENCRYPTED PRIVATE KEY";

/// What new keys cost: 16 MiB, the most that OpenSSL spends unasked, five times over (OWASP's advice for that memory).
const LOG_N: u8 = 14;
const R: u32 = 8;
const P: u32 = 5;

/// The most that is spent on a key that is read: 256 MiB, and some seconds.
const MAX_SCRYPT_MEMORY: u64 = 256 << 20;
const MAX_SCRYPT_WORK: u64 = 1 << 23;
const MAX_ITERATIONS: u32 = 10_000_000;

impl SoftwareKey {
    /// The fewest bytes of a passphrase that a key is put under.
    pub const MIN_PASSPHRASE: usize = 8;

    /// The private key under a passphrase, as one PEM block `ENCRYPTED PRIVATE KEY`: scrypt and AES-256-CBC.
    ///
    /// # Errors
    /// When the passphrase is shorter than eight bytes, or the library cannot encode the key.
    pub fn to_encrypted_pem(&self, passphrase: &[u8]) -> Result<String, SoftwareKeyError> {
        if passphrase.len() < Self::MIN_PASSPHRASE {
            return Err(SoftwareKeyError::ShortPassphrase);
        }
        let (mut salt, mut iv) = ([0; 16], [0; 16]);
        rand::fill(&mut salt)
            .and_then(|()| rand::fill(&mut iv))
            .map_err(|_| SoftwareKeyError::Generate)?;
        let der = encrypt(&self.to_pkcs8_der()?, passphrase, &salt, iv);
        Ok(pem::encode(LABEL, &der.ok_or(SoftwareKeyError::Generate)?))
    }

    /// Reads one PEM block: `PRIVATE KEY`, or `ENCRYPTED PRIVATE KEY` where there is a passphrase.
    ///
    /// # Errors
    /// When it is neither, the passphrase is missing or another, or trying it would cost more than any key should.
    pub fn from_pem(pem: &[u8], passphrase: Option<&[u8]>) -> Result<Self, SoftwareKeyError> {
        let der = match pem::one_block(pem, LABEL) {
            Ok(der) => der,
            Err(PemError::Label(_)) => return Self::from_pkcs8_pem(pem),
            Err(_) => return Err(SoftwareKeyError::Pkcs8),
        };
        let passphrase = passphrase.ok_or(SoftwareKeyError::Encrypted)?;
        let info =
            EncryptedPrivateKeyInfoRef::from_der(&der).map_err(|_| SoftwareKeyError::Encryption)?;
        let Scheme::Pbes2(parameters) = &info.encryption_algorithm else {
            return Err(SoftwareKeyError::Encryption);
        };
        check(parameters)?;
        // Without the passphrase, all but one in 256 have the wrong padding, and what is left is no key.
        let der = parameters
            .decrypt(passphrase, info.encrypted_data.as_bytes())
            .map(Zeroizing::new)
            .map_err(|_| SoftwareKeyError::Passphrase)?;
        Self::from_pkcs8_der(&der).map_err(|_| SoftwareKeyError::Passphrase)
    }
}

pub(super) fn is_encrypted(pem: &[u8]) -> bool {
    pem::one_block(pem, LABEL).is_ok()
}

fn encrypt(key: &[u8], passphrase: &[u8], salt: &[u8], iv: [u8; 16]) -> Option<Vec<u8>> {
    let costs = scrypt::Params::new(LOG_N, R, P).ok()?;
    let parameters = Parameters::generate_scrypt_aes256cbc(costs, salt, iv).ok()?;
    let encrypted = parameters.encrypt(passphrase, key).ok()?;
    let info = EncryptedPrivateKeyInfoRef {
        encryption_algorithm: parameters.into(),
        encrypted_data: <&OctetStringRef>::try_from(encrypted.as_slice()).ok()?,
    };
    info.to_der().ok()
}

/// Whoever writes a key file says what reading it costs: only so much.
fn check(parameters: &Parameters) -> Result<(), SoftwareKeyError> {
    let is_bounded = match &parameters.kdf {
        Kdf::Scrypt(costs) => {
            let blocks = costs
                .cost_parameter
                .saturating_mul(u64::from(costs.block_size));
            blocks.saturating_mul(128) <= MAX_SCRYPT_MEMORY
                && blocks.saturating_mul(u64::from(costs.parallelization)) <= MAX_SCRYPT_WORK
        }
        Kdf::Pbkdf2(costs) => {
            if matches!(
                costs.prf,
                Pbkdf2Prf::HmacWithSha1 | Pbkdf2Prf::HmacWithSha224
            ) {
                return Err(SoftwareKeyError::Encryption);
            }
            costs.iteration_count <= MAX_ITERATIONS
        }
        _ => return Err(SoftwareKeyError::Encryption),
    };
    if !is_bounded {
        return Err(SoftwareKeyError::Cost);
    }
    match parameters.encryption {
        Cipher::Aes128Cbc { .. } | Cipher::Aes192Cbc { .. } | Cipher::Aes256Cbc { .. } => Ok(()),
        _ => Err(SoftwareKeyError::Encryption),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{KeyAlgorithm, SigningKey as _};
    use pkcs8::pkcs5::pbes2::{Pbkdf2Params, ScryptParams};
    use std::process::Command;

    const PASSPHRASE: &[u8] = b"correct horse battery staple";

    fn openssl(arguments: &[&str], folder: &std::path::Path) -> Vec<u8> {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(folder)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        output.stdout
    }

    /// A key as another program might have written it.
    fn under(parameters: Parameters, key: &[u8]) -> String {
        let encrypted = vec![0; key.len()];
        let info = EncryptedPrivateKeyInfoRef {
            encryption_algorithm: parameters.into(),
            encrypted_data: <&OctetStringRef>::try_from(encrypted.as_slice()).unwrap(),
        };
        pem::encode(LABEL, &info.to_der().unwrap())
    }

    #[test]
    fn a_key_comes_back_under_its_passphrase_and_no_other() {
        for algorithm in [
            KeyAlgorithm::P256,
            KeyAlgorithm::P384,
            KeyAlgorithm::Ed25519,
        ] {
            let key = SoftwareKey::generate(algorithm).unwrap();
            let pem = key.to_encrypted_pem(PASSPHRASE).unwrap();
            let pem = pem.as_bytes();
            let again = SoftwareKey::from_pem(pem, Some(PASSPHRASE)).unwrap();
            assert_eq!(again.public_key(), key.public_key());
            for wrong in [&b"correct horse battery stapl"[..], b"", b"\0"] {
                let error = SoftwareKey::from_pem(pem, Some(wrong)).unwrap_err();
                assert_eq!(error, SoftwareKeyError::Passphrase);
            }
            for none in [
                SoftwareKey::from_pem(pem, None),
                SoftwareKey::from_pkcs8_pem(pem),
            ] {
                assert_eq!(none.unwrap_err(), SoftwareKeyError::Encrypted);
            }
        }
    }

    #[test]
    fn two_files_of_one_key_have_nothing_in_common() {
        let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
        let [one, other] = [(); 2].map(|()| key.to_encrypted_pem(PASSPHRASE).unwrap());
        assert_ne!(one, other);
        assert_eq!(
            key.to_encrypted_pem(b"7 bytes").unwrap_err(),
            SoftwareKeyError::ShortPassphrase
        );
    }

    #[test]
    fn a_key_without_a_passphrase_is_read_also_where_one_is_at_hand() {
        let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
        let pem = key.to_pkcs8_pem().unwrap();
        SoftwareKey::from_pem(pem.as_bytes(), Some(PASSPHRASE)).unwrap();
        SoftwareKey::from_pem(pem.as_bytes(), None).unwrap();
    }

    #[test]
    fn openssl_reads_what_is_written_and_what_it_writes_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("passphrase"), PASSPHRASE).unwrap();
        let key = SoftwareKey::generate(KeyAlgorithm::P384).unwrap();
        std::fs::write(path("ours"), key.to_encrypted_pem(PASSPHRASE).unwrap()).unwrap();
        let public = openssl(
            &[
                "pkey",
                "-in",
                "ours",
                "-passin",
                "file:passphrase",
                "-pubout",
                "-outform",
                "DER",
            ],
            folder.path(),
        );
        assert_eq!(public, key.public_key().spki_der());

        std::fs::write(path("plain"), key.to_pkcs8_pem().unwrap().as_bytes()).unwrap();
        for options in [
            &["-v2", "aes-256-cbc"][..],
            &["-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA512"],
            &["-v2", "aes-256-cbc", "-iter", "100000"],
            &["-scrypt", "-v2", "aes-256-cbc"],
        ] {
            let pkcs8 = [
                "pkcs8",
                "-topk8",
                "-in",
                "plain",
                "-passout",
                "file:passphrase",
            ];
            let theirs = openssl(&[&pkcs8[..], options].concat(), folder.path());
            let read = SoftwareKey::from_pem(&theirs, Some(PASSPHRASE)).unwrap();
            assert_eq!(read.public_key(), key.public_key(), "{options:?}");
        }
        let pkey = [
            "pkey",
            "-in",
            "plain",
            "-aes256",
            "-passout",
            "file:passphrase",
        ];
        let theirs = openssl(&pkey, folder.path());
        SoftwareKey::from_pem(&theirs, Some(PASSPHRASE)).unwrap();
    }

    #[test]
    fn a_file_that_would_cost_minutes_or_all_memory_is_refused_before_it_does() {
        let scrypt = |log_n: u8, block_size: u16, parallelization: u16| Parameters {
            kdf: Kdf::Scrypt(ScryptParams {
                salt: [7; 16][..].try_into().unwrap(),
                cost_parameter: 1 << log_n,
                block_size,
                parallelization,
                key_length: None,
            }),
            encryption: Cipher::Aes256Cbc { iv: [7; 16] },
        };
        let iterations = |count| Parameters {
            kdf: Kdf::Pbkdf2(Pbkdf2Params {
                salt: [7; 16][..].try_into().unwrap(),
                iteration_count: count,
                key_length: None,
                prf: Pbkdf2Prf::HmacWithSha256,
            }),
            encryption: Cipher::Aes256Cbc { iv: [7; 16] },
        };
        for absurd in [
            scrypt(40, 8, 1),
            scrypt(63, u16::MAX, u16::MAX),
            scrypt(14, 8, u16::MAX),
            scrypt(20, 8, 1),
            iterations(10_000_001),
            iterations(u32::MAX),
        ] {
            let pem = under(absurd, &[0; 64]);
            let error = SoftwareKey::from_pem(pem.as_bytes(), Some(PASSPHRASE)).unwrap_err();
            assert_eq!(error, SoftwareKeyError::Cost);
        }
    }

    #[test]
    fn what_is_no_encrypted_key_is_refused() {
        let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
        let whole = key.to_encrypted_pem(PASSPHRASE).unwrap();
        let der = pem::one_block(whole.as_bytes(), LABEL).unwrap();
        let cut = pem::encode(LABEL, der.get(..der.len() / 2).unwrap());
        let trailing = pem::encode(LABEL, &[&der[..], &[0]].concat());
        let mut damaged = der.clone();
        *damaged.last_mut().unwrap() ^= 1;
        let damaged = pem::encode(LABEL, &damaged);
        for bad in [
            cut,
            trailing,
            damaged,
            pem::encode(LABEL, b""),
            whole.repeat(2),
        ] {
            SoftwareKey::from_pem(bad.as_bytes(), Some(PASSPHRASE)).unwrap_err();
        }
    }
}
