//! A token behind a socket.

use crate::{
    plan, refused, settings, signs,
    softhsm::{MODULE, SoftHsm},
};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    fs,
    os::unix::process::CommandExt as _,
    process::{Child, Command},
};
use touchstone_common::key::KeyAlgorithm;
use touchstone_signer::ca::key::{TokenSettings, Tokens};

/// SoftHSM behind a socket, as in a pod beside the signer's.
struct Server(Child);

impl Server {
    fn start(hsm: &SoftHsm) -> Self {
        let socket = hsm.folder().join("p11-kit");
        let _ = fs::remove_file(&socket);
        let server = Command::new("p11-kit")
            .args(["server", "--foreground", "--provider", MODULE, "--name"])
            .arg(&socket)
            .arg("pkcs11:")
            // It has a process for each client.
            .process_group(0)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !socket.exists() {
            assert!(std::time::Instant::now() < end, "p11-kit does not start");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Self(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.0);
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.0.wait();
    }
}

#[test]
fn a_token_behind_a_socket_is_found_again_when_its_server_was_away() {
    let Some(hsm) =
        SoftHsm::alone("remote::a_token_behind_a_socket_is_found_again_when_its_server_was_away")
    else {
        return;
    };
    let client = fs::read_dir("/usr/lib")
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.path().join("pkcs11/p11-kit-client.so")))
        .find(|path| path.exists())
        .expect("p11-kit-modules: scripts/setup test installs it");
    let token = hsm.token("hsm");
    let remote = TokenSettings {
        module: client,
        ..settings(&token)
    };
    let tokens = Tokens::new(vec![remote.clone()]);
    let server = Server::start(&hsm);
    let plan = plan(&remote).unwrap();
    let source = plan.generate(KeyAlgorithm::P256, &tokens).unwrap();
    let key = source.open(&tokens).unwrap();
    signs(&*key);
    drop(server);
    let error = refused(key.sign(b"message"));
    assert!(error.is_retriable(), "{error}");
    let _server = Server::start(&hsm);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while let Err(error) = key.sign(b"message") {
        assert!(error.is_retriable(), "{error}");
        assert!(std::time::Instant::now() < end, "{error}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    signs(&*key);
}
