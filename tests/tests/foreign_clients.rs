//! The virtual YubiKey before clients that no one here wrote: Yubico's ykman and yubico-piv-tool, OpenSC, openssl.

#[path = "foreign_clients/opensc.rs"]
mod opensc;
#[path = "foreign_clients/tools.rs"]
mod tools;
#[path = "foreign_clients/ykman.rs"]
mod ykman;
#[path = "foreign_clients/yubico_piv_tool.rs"]
mod yubico_piv_tool;
