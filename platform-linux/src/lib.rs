//! Slotwarden on Linux: everything the core asks for, performed.
//!
//! One loop (`daemon`) feeds the core and performs its effects; the devices behind it
//! (`hsm`, `store`, `apps`) answer by events. The binary is `slotwarden`; the simulator
//! links this library without the real HSM and gives the loop devices of its own.

pub mod apps;
pub mod audit;
pub mod client;
pub mod config;
pub mod control;
pub mod daemon;
pub mod devices;
pub mod frame;
#[cfg(feature = "pkcs11")]
pub mod hsm;
#[cfg(feature = "pkcs11")]
pub mod hsm_wire;
#[cfg(feature = "pkcs11")]
pub mod hsm_worker;
pub mod names;
pub mod problem;
pub mod random;
pub mod seal;
pub mod status_json;
pub mod store;
pub mod token_uri;
pub mod wire;
