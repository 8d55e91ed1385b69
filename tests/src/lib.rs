//! What the acceptance tests share: tokens made by the real tools, daemons started and ended by id.

pub mod build;
pub mod campaign;
pub mod custodians;
pub mod defects;
pub mod driver;
pub mod etcd;
pub mod excluded;
pub mod exports;
pub mod modules;
pub mod pcscd;
pub mod stack;
pub mod stage;
pub mod terminal;
