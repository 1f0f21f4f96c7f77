//! Keys, requests and certificates for tests, made with openssl so that no code under test vouches for itself.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A directory of its own for openssl, removed when it is dropped.
pub(crate) struct Pki {
    dir: tempfile::TempDir,
}

/// A certificate with its key, PEM.
#[derive(Clone)]
pub(crate) struct Certified {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Pki {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A P-256 request for `subject`, PEM.
    pub(crate) fn request(&self, subject: &str) -> String {
        let key = self.key();
        let args = ["req", "-new", "-key", text(&key), "-subj", subject];
        openssl(&args)
    }

    /// An RSA request with a DNS name in it, PEM.
    pub(crate) fn rsa_request(&self) -> String {
        let key = self.unique("rsa.key");
        openssl(&[
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
            "-out",
            text(&key),
        ]);
        openssl(&[
            "req",
            "-new",
            "-key",
            text(&key),
            "-subj",
            "/CN=system:node:a/O=system:nodes",
            "-addext",
            "subjectAltName=DNS:node-a.example",
        ])
    }

    /// A self-signed CA.
    pub(crate) fn ca(&self, name: &str) -> Certified {
        let key = self.key();
        let certificate = openssl(&[
            "req",
            "-x509",
            "-new",
            "-key",
            text(&key),
            "-subj",
            &format!("/CN={name}"),
            "-days",
            "30",
            "-addext",
            "keyUsage=critical,keyCertSign",
        ]);
        Certified {
            certificate,
            key: fs::read_to_string(key).unwrap(),
        }
    }

    /// A leaf under `ca`, valid for the `days` given (negative: ended that long ago), with these extensions.
    pub(crate) fn leaf(
        &self,
        ca: &Certified,
        subject: &str,
        days: i32,
        extensions: &str,
    ) -> Certified {
        let (ca_certificate, ca_key) = (self.unique("ca.crt"), self.unique("ca.key"));
        fs::write(&ca_certificate, &ca.certificate).unwrap();
        fs::write(&ca_key, &ca.key).unwrap();
        let key = self.key();
        let request = self.unique("csr");
        fs::write(
            &request,
            openssl(&["req", "-new", "-utf8", "-key", text(&key), "-subj", subject]),
        )
        .unwrap();
        let file = self.unique("ext");
        fs::write(&file, extensions).unwrap();
        let certificate = openssl(&[
            "x509",
            "-req",
            "-in",
            text(&request),
            "-CA",
            text(&ca_certificate),
            "-CAkey",
            text(&ca_key),
            "-days",
            &days.to_string(),
            "-extfile",
            text(&file),
            "-set_serial",
            "4711",
        ]);
        Certified {
            certificate,
            key: fs::read_to_string(key).unwrap(),
        }
    }

    /// A client certificate for a day.
    pub(crate) fn client(&self, ca: &Certified, subject: &str) -> Certified {
        self.leaf(
            ca,
            subject,
            1,
            "basicConstraints=critical,CA:FALSE\nextendedKeyUsage=clientAuth\n",
        )
    }

    /// A certificate for 127.0.0.1 and localhost.
    pub(crate) fn server(&self, ca: &Certified) -> Certified {
        self.leaf(
            ca,
            "/CN=localhost",
            1,
            "extendedKeyUsage=serverAuth\nsubjectAltName=IP:127.0.0.1,DNS:localhost\n",
        )
    }

    fn key(&self) -> PathBuf {
        let key = self.unique("key");
        openssl(&[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
            text(&key),
        ]);
        key
    }

    pub(crate) fn unique(&self, suffix: &str) -> PathBuf {
        let file = tempfile::Builder::new()
            .suffix(&format!(".{suffix}"))
            .tempfile_in(self.dir.path())
            .unwrap();
        file.into_temp_path().keep().unwrap()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn openssl(args: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(args)
        .output()
        .expect("openssl runs (apt-get install openssl)");
    assert!(
        output.status.success(),
        "openssl {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
