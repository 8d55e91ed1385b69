//! The cluster as scripts see it.

use serde::{Deserialize, Serialize};

/// The cluster that this node is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// Number of the roster in force, from 1.
    pub epoch: u32,
    /// Its members, in the order of the roster.
    pub members: Vec<ClusterMemberView>,
    /// Whether packages travel by themselves.
    pub automatic: bool,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMemberView {
    /// Its name.
    pub name: String,
    /// What people compare.
    pub fingerprint: String,
    /// Its public key (Ed25519), hexadecimal.
    pub node: String,
    /// Whether it is this node.
    pub own: bool,
    /// `in-sync`, `ahead`, `behind`, `diverged`, `unheard`; of this node itself `in-sync`.
    pub standing: String,
    /// The last of its packages that was applied here; 0: none.
    pub package: u64,
}

/// How far the keys of a slot are on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SynchronisedView {
    /// Objects that are here.
    pub keys: u32,
    /// Those that every member has.
    pub ready: u32,
    /// Those that were destroyed on another node.
    pub removed_elsewhere: u32,
    /// Whether the token has U, so that packages can be applied.
    pub can_receive: bool,
}
