//! Slotwarden on Linux: everything the core asks for, performed.
//!
//! One loop (`daemon`) feeds the core and performs its effects; the devices behind it
//! (`hsm`, `store`, `apps`) answer by events. The binary is `slotwarden`; the simulator
//! links this library without the real HSM and gives the loop devices of its own.

pub mod appliance;
pub mod apps;
pub mod audit;
pub mod audit_client;
pub mod boot;
#[cfg(feature = "pcsc")]
pub mod cards;
pub mod ceremony_words;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod config;
pub mod control;
pub mod daemon;
pub mod devices;
pub mod exchange;
pub mod export_file;
pub mod files;
pub mod frame;
pub mod harden;
#[cfg(feature = "pkcs11")]
pub mod hsm;
#[cfg(feature = "pkcs11")]
pub mod hsm_wire;
#[cfg(feature = "pkcs11")]
pub mod hsm_worker;
pub mod interrupt;
pub mod member_keys;
pub mod names;
pub mod operation;
pub mod output;
pub mod package_file;
pub mod passphrase;
pub mod problem;
pub mod random;
pub mod seal;
pub mod secret;
pub mod signals;
pub mod status_json;
pub mod store;
pub mod sync_dir;
pub mod token_uri;
pub mod transcript;
pub mod transfer_dir;
pub mod vendor_program;
pub mod wire;
