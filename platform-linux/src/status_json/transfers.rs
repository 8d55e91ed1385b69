//! An export, a restore or a package as scripts see it.

use serde::{Deserialize, Serialize};
use slotwarden_core::effect::{ImportPlan, KeyCounts};
use slotwarden_core::status::{TransferStage, TransferStatus};

use super::{SlotView, Surroundings, Told};
use crate::audit::hex;
use crate::config::{CoverageSettings, SecurityLevel};
use crate::devices::KeysDone;
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
    /// How many of the slot's objects are done, once that was told.
    pub progress: Option<KeysDoneView>,
}

/// How many objects of a transfer are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysDoneView {
    /// Done.
    pub done: u32,
    /// Of so many.
    pub of: u32,
}

/// What exports cover, and what the policy says about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoverageView {
    /// When the last export was made, seconds since 1970.
    pub last_export_s: Option<u64>,
    /// From so many keys of a slot on that could be exported and are in no export it is warned; 0: never.
    pub uncovered_keys_warn: u32,
    /// After so many days the last export is old; 0: never.
    pub export_age_warn_days: u32,
    /// What is to be looked at. Exit codes say how slots are, and do not change by it.
    pub warnings: Vec<String>,
}

/// Seconds of a day.
const DAY_S: u64 = 86_400;

/// What the policy says about the exports that were made.
#[must_use]
pub(super) fn coverage_view(slots: &[SlotView], around: &Surroundings) -> CoverageView {
    let CoverageSettings { uncovered_keys_warn, export_age_warn_days } = around.coverage;
    let remedy = match around.security_level {
        SecurityLevel::None => "exports need the security level `passphrase` or `cards`",
        SecurityLevel::Passphrase | SecurityLevel::Cards => "`slotwarden backup export FILE`",
    };
    let mut warnings = Vec::new();
    let mut any_can_leave = false;
    for slot in slots {
        let Some(KeysView { keys, can_leave, uncovered }) = slot.keys else { continue };
        any_can_leave |= can_leave > 0;
        // What cannot leave is in no export either, and no export would change that.
        let missing = uncovered.saturating_sub(keys.saturating_sub(can_leave));
        if uncovered_keys_warn > 0 && missing >= uncovered_keys_warn {
            let name = &slot.name;
            warnings.push(format!("{name}: {missing} of {keys} keys are in no export: {remedy}"));
        }
    }
    let age_s = around.wall_s.zip(around.last_export_s).map(|(now_s, made_s)| now_s.saturating_sub(made_s));
    if let Some(days) = age_s.map(|age_s| age_s / DAY_S)
        && any_can_leave
        && export_age_warn_days > 0
        && days >= u64::from(export_age_warn_days)
    {
        warnings.push(format!(
            "the last export is {days} days old: make another one, or read it with `slotwarden verify FILE`"
        ));
    }
    CoverageView { last_export_s: around.last_export_s, uncovered_keys_warn, export_age_warn_days, warnings }
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
    /// Objects that are recorded as removed. A package does not make them again; of a restore they are among the
    /// new ones.
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
pub(super) fn view_of_transfer(status: &TransferStatus, names: &Names, progress: Option<KeysDone>) -> TransferView {
    let travels = match status.stage {
        TransferStage::Exporting | TransferStage::Preparing | TransferStage::Importing => true,
        TransferStage::Prepared(_) | TransferStage::Halfway(_) | TransferStage::Ending => false,
    };
    let progress = progress.filter(|found| travels && Some(found.slot) == status.slot);
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
        progress: progress.map(|KeysDone { done, of, .. }| KeysDoneView { done, of }),
    }
}
