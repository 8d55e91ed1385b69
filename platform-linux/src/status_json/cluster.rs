//! The cluster as scripts see it.

use serde::{Deserialize, Serialize};

/// The cluster that this node is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// Number of the roster in force, from 1.
    pub epoch: u32,
    /// Its hash (SHA-256), hexadecimal, by which two rosters of one number are told apart.
    pub roster: String,
    /// Whether this node is one of its members; if not it was removed, and exchanges nothing.
    pub member: bool,
    /// Its members, in the order of the roster.
    pub members: Vec<ClusterMemberView>,
    /// Whether there are two rosters of this number: nothing is exchanged until two persons chose one.
    pub divided: bool,
    /// Whether packages are made and taken without a person.
    pub automatic: bool,
    /// What carries them; null: people do.
    pub exchange: Option<ExchangeView>,
}

/// What carries packages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeView {
    /// What it is, and where.
    pub engine: String,
    /// Whether the last look succeeded; null: there was none yet.
    pub reachable: Option<bool>,
    /// What went wrong and was not made good since.
    pub problems: Vec<String>,
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

/// The keys of a slot, as `sync status --keys` lists them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotKeysView {
    /// The slot's name.
    pub slot: String,
    /// Keys, public keys and certificates that it has or had, here or at a member.
    pub keys: Vec<SynchronisedKeyView>,
}

/// How far one key is on every node, as the last look at the token here and the last package of each member say it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SynchronisedKeyView {
    /// What members call it, 32 hexadecimal digits: a digest of slot, class, type, id and label.
    pub name: String,
    /// What people know it by; null: it was never seen in the token here, or its id or label is longer than 255 bytes.
    pub title: Option<KeyTitleView>,
    /// `ready-to-use`, `not-yet-known`, `removed`.
    pub state: String,
    /// The members of which it is not known that they have it, this node among them, by name; of a key that is
    /// `not-yet-known`.
    pub not_known_at: Vec<String>,
    /// The members that are known to have it still, this node among them, by name; of a key that is `removed`.
    pub still_at: Vec<String>,
}

/// What people know a key by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyTitleView {
    /// `secret`, `private`, `public`, `certificate`.
    pub class: String,
    /// `CKK_*`, as far as it has a name here; else its number.
    pub key_type: String,
    /// `CKA_ID`, hexadecimal.
    pub id: String,
    /// `CKA_LABEL`, with spaces for what a terminal would obey.
    pub label: String,
}

/// How far the keys of a slot are on every node that keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SynchronisedView {
    /// Objects that are here.
    pub keys: u32,
    /// Those that every member has, but for the members in `not_at`.
    pub ready: u32,
    /// Those that were destroyed on another node.
    pub removed_elsewhere: u32,
    /// Whether the token has U, so that packages can be applied; null: nobody knows yet.
    pub can_receive: Option<bool>,
    /// The members that were heard and have no slot of this uid, by name: no key of it is there. It changes no
    /// member's standing, since a node may have a slot of its own on purpose.
    pub not_at: Vec<String>,
}
