//! An export, a restore or a package as scripts see it.

use serde::{Deserialize, Serialize};
use slotwarden_core::effect::{ImportPlan, KeyCounts};
use slotwarden_core::status::{TransferStage, TransferStatus};

use super::Told;
use crate::audit::hex;
use crate::names::Names;
use crate::problem;

/// An export, a restore or a package under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferView {
    /// `exporting`, `preparing`, `prepared`, `importing`, `halfway`, `ending`.
    pub stage: String,
    /// The slot it is about now.
    pub slot: Option<String>,
    /// SHA-256 of the file that is restored, or what names the package that is received, hexadecimal.
    pub file: Option<String>,
    /// Whether it is a package of the cluster, sent or received.
    pub package: bool,
    /// What an import would do, once that is known.
    pub plan: Option<PlanView>,
    /// Bytes of the section's vendor part, which the slot's own program takes back: no plan counts what is in it.
    pub vendor_bytes: Option<u64>,
    /// Why the import stands still.
    pub why: Option<Told>,
}

/// What an import would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanView {
    /// Objects that the token does not have.
    pub new: u32,
    /// Objects that it has, with the same value.
    pub same: u32,
    /// Objects that it has with another value: nothing is imported.
    pub conflict: u32,
    /// Objects that are recorded as removed: they are not made again.
    pub removed: u32,
}

/// The private and secret keys of a slot, without our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysView {
    /// All of them.
    pub keys: u32,
    /// Those that an export can hold.
    pub can_leave: u32,
    /// Those that no export of this appliance holds.
    pub uncovered: u32,
}

impl From<KeyCounts> for KeysView {
    fn from(KeyCounts { keys, can_leave, uncovered }: KeyCounts) -> Self {
        KeysView { keys, can_leave, uncovered }
    }
}

/// With names instead of numbers.
#[must_use]
pub(super) fn view_of_transfer(status: &TransferStatus, names: &Names) -> TransferView {
    let (stage, plan, why) = match status.stage {
        TransferStage::Exporting => ("exporting", None, None),
        TransferStage::Preparing => ("preparing", None, None),
        TransferStage::Prepared(plan) => ("prepared", Some(plan), None),
        TransferStage::Importing => ("importing", None, None),
        TransferStage::Halfway(why) => ("halfway", None, problem::of_answer(why).err()),
        TransferStage::Ending => ("ending", None, None),
    };
    TransferView {
        stage: stage.to_owned(),
        slot: status.slot.map(|slot| names.slot_name(slot)),
        file: status.file.map(|file| hex(&file)),
        package: status.package,
        plan: plan.map(|ImportPlan { new, same, conflict, removed }| PlanView { new, same, conflict, removed }),
        vendor_bytes: None,
        why: why.map(Told::from),
    }
}
