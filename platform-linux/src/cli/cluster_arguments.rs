//! Nouns, verbs and options about the cluster and key synchronisation, as clap reads them.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum ClusterVerb {
    /// Show the members of the cluster, and the fingerprint of this node.
    Show,
    /// Write what this node is invited with; take the file to a member of the cluster.
    ///
    /// Prints the fingerprint that is compared there.
    Request {
        /// Where to. It must not exist.
        file: PathBuf,
    },
    /// Take the node that wrote REQUEST into the cluster; the first invitation makes the cluster.
    ///
    /// Read the fingerprint from the other node itself, not from whoever brings the file. Writes the
    /// rosters to FILE: take it to the new node (`cluster join`) and to the others (`cluster follow`).
    Invite {
        /// What the node wrote with `cluster request`.
        request: PathBuf,
        /// Where the rosters go. It must not exist.
        file: PathBuf,
        /// The fingerprint that the other node shows; asked for at the terminal when absent.
        #[arg(long, value_name = "FINGERPRINT")]
        fingerprint: Option<String>,
    },
    /// Join the cluster that invited this node.
    ///
    /// Its slots of the same names get the cluster's slot uids. Afterwards `backup restore-key`
    /// brings the backup key with M of the cluster's cards.
    Join {
        /// What a member wrote with `cluster invite`.
        file: PathBuf,
        /// The fingerprint that the inviting node shows; asked for at the terminal when absent.
        #[arg(long, value_name = "FINGERPRINT")]
        fingerprint: Option<String>,
    },
    /// Take newer rosters of this node's own cluster.
    Follow {
        /// What a member wrote with `cluster invite`, `remove` or `export-roster`.
        file: PathBuf,
    },
    /// Take a node out of the cluster, and write the rosters to FILE for the others.
    ///
    /// What it has it keeps. If it was stolen: `backup rotate`.
    Remove {
        /// The node's name.
        node: String,
        /// Where the rosters go. It must not exist.
        file: PathBuf,
        /// "remove NODE" with its name: it gets no key any more.
        #[arg(long, value_name = "TEXT")]
        confirm: Option<String>,
    },
    /// Let the cluster have the backup key that is in force on this node, after `backup rotate`.
    ///
    /// Writes the rosters to FILE: take it to the others (`cluster follow`), then give each of
    /// them the key with `backup restore-key`.
    Renew {
        /// Where the rosters go. It must not exist.
        file: PathBuf,
    },
    /// Say which of two rosters of one epoch counts, where the cluster is divided.
    ///
    /// Do it on every node, with the same file.
    Choose {
        /// The rosters up to the one that counts.
        file: PathBuf,
    },
    /// Write the rosters of the cluster to a file.
    ExportRoster {
        /// Where to. It must not exist.
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum SyncVerb {
    /// Show what each member has: in sync, ahead, behind, diverged.
    ///
    /// With --keys also every key, whether it is ready to use on every node, of which members it is not yet
    /// known that they have it, and what was removed: as far as the last look at the token here and the
    /// last package of each member say it.
    Status {
        /// List the keys of each slot.
        #[arg(long)]
        keys: bool,
        /// Only those of this slot.
        #[arg(long, value_name = "NAME", requires = "keys")]
        slot: Option<String>,
    },
    /// Write a package with every key that a member lacks, for it alone to open.
    ///
    /// One without keys is written as well: it tells the others what this node has.
    Export {
        /// Where to. It must not exist.
        file: PathBuf,
        /// For these members; all others when absent.
        #[arg(long, value_name = "NODE,NODE", value_delimiter = ',')]
        to: Vec<String>,
        /// Only these slots; all that are active when absent.
        #[arg(long, value_name = "SLOT,SLOT", value_delimiter = ',')]
        slot: Vec<String>,
    },
    /// See what a package brings, and make the keys that are new: all of them or none.
    ///
    /// The same again does nothing. No key is written over, none is destroyed, and none that was
    /// destroyed here comes back.
    Import {
        /// The package. Left out: the one that was looked at, or whose making stands still, goes on.
        file: Option<PathBuf>,
        /// "import": make the keys. Without it a script gets the plan only.
        #[arg(long, value_name = "TEXT")]
        confirm: Option<String>,
    },
    /// Give a package up that was looked at and not applied.
    End,
}
