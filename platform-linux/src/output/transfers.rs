//! Exports and restores, for people.

use std::path::Path;

use serde_json::json;

use super::{Format, line, told};
use crate::export_file::{Verified, VerifiedCost, VerifiedObject, VerifiedSection};
use crate::status_json::{KeysDoneView, KeysView, PlanView, SCHEMA, TransferView};

/// What an import would do, in one sentence.
#[must_use]
pub fn plan(plan: PlanView, of_package: bool) -> String {
    let PlanView { new, same, conflict, removed } = plan;
    let (again, left) = match (removed, of_package) {
        (0, _) => (String::new(), String::new()),
        (_, true) => (String::new(), format!(", {removed} recorded as removed")),
        (_, false) => (format!(" ({removed} recorded as removed: made again)"), String::new()),
    };
    format!("{new} new{again}, {same} there already with the same value, {conflict} there with another value{left}")
}

/// The same, where the vendor's own program takes a part back.
#[must_use]
pub fn vendor_plan(bytes: u64, program: Option<&str>) -> String {
    let program = program.unwrap_or("the program of the slot");
    format!("vendor part: {bytes} bytes, {program} makes of it what it does; what is new nobody else knows")
}

/// The keys of a slot, in one sentence. `program`: what makes its exports, where the vendor's own does.
pub(super) fn keys(keys: KeysView, program: Option<&str>) -> String {
    let KeysView { keys, can_leave, uncovered } = keys;
    if let Some(program) = program {
        let before = keys.saturating_sub(uncovered);
        return format!(
            "{before} of {keys} keys were there when {program} last made an export; which of them it holds only that knows"
        );
    }
    let why = if can_leave < keys { ": CKA_EXTRACTABLE is false for the others" } else { "" };
    format!("{can_leave} of {keys} keys can leave{why}; {uncovered} are in no export")
}

/// What somebody who relies on exports should know of a slot.
pub(super) fn staying(slot: &str, keys: Option<KeysView>, program: Option<&str>) -> Option<String> {
    let KeysView { keys, can_leave, .. } = keys?;
    // A program of the vendor's may take those too.
    let staying = if program.is_some() { 0 } else { keys.saturating_sub(can_leave) };
    let text =
        format!("{slot}: {staying} of {keys} keys cannot leave (CKA_EXTRACTABLE is false): no export holds them");
    (staying > 0).then_some(text)
}

/// How far it is, in one sentence.
#[must_use]
pub fn progress(found: KeysDoneView) -> String {
    format!("{} of {} objects", found.done, found.of)
}

/// The transfer under way.
pub(super) fn lines(transfer: &TransferView) -> Vec<String> {
    let slot = transfer.slot.as_deref().unwrap_or("the slots");
    let first = match transfer.stage.as_str() {
        "exporting" => format!("an export is being made: {slot}"),
        "preparing" => format!("a restore into {slot} is being prepared"),
        "prepared" if transfer.plan.is_some_and(|plan| plan.conflict > 0) => {
            format!("a restore into {slot} cannot go on: `slotwarden backup end-restore` takes its key away")
        }
        "prepared" => format!("a restore into {slot} is prepared: `slotwarden backup import {slot}` goes on"),
        "importing" => format!("keys are being imported into {slot}; it goes on whenever the slot is active"),
        "halfway" => format!("the import into {slot} stands still: `slotwarden backup import {slot}` goes on"),
        _ => {
            format!(
                "the restore into {slot} is over; its unwrapping key goes when the slot is active and the token lets it"
            )
        }
    };
    let done = transfer.progress.map(|found| format!("  {}", progress(found)));
    let planned = transfer.plan.map(|found| match transfer.vendor_bytes {
        Some(bytes) => format!("  {}", vendor_plan(bytes, None)),
        None => format!("  {}", plan(found, transfer.package)),
    });
    let why = transfer.why.as_ref().map(|why| told("  why", why));
    std::iter::once(first).chain(done).chain(planned).chain(why).collect()
}

/// What a whole file says of itself.
pub fn verified(format: Format, file: &Path, found: &Verified) {
    if format == Format::Json {
        return super::json(&json!({"schema": SCHEMA, "export": found}));
    }
    let trust = if found.trusted { "trusted" } else { "not trusted: compare it with the node's" };
    line(&format!("{} is a whole export; signed by {}, {trust}", file.display(), found.signed_by));
    line(&format!(
        "level {}; opened by backup key {} (export {} of its node)",
        found.level, found.key_id, found.sequence
    ));
    if let Some(VerifiedCost { memory_kib, passes, lanes }) = found.cost {
        let (memory_mib, s) = (memory_kib / 1024, if lanes == 1 { "" } else { "s" });
        line(&format!("protected by a passphrase: Argon2id, {memory_mib} MiB, {passes} passes, {lanes} lane{s}"));
    }
    for section in &found.sections {
        let VerifiedSection { slot, uid, token: (label, serial), hsm, .. } = section;
        line(&format!("slot {slot} (uid {uid}), token {label} {serial}, {hsm}"));
        section.objects.iter().for_each(|object| line(&object_line(object)));
        section.left_out.iter().for_each(|object| line(&object_line(object)));
        if let Some(bytes) = section.vendor_bytes {
            line(&format!(
                "  vendor part: {bytes} bytes of the HSM vendor's own program; what keys it holds only that knows"
            ));
        }
    }
    if found.not_listed > 0 {
        line(&format!("{} more objects are in it", found.not_listed));
    }
    line(match (found.authentic, found.level) {
        (true, "passphrase") => "its MACs are right: nobody without its passphrase altered it",
        (true, _) => "its MACs are right: nobody without enough of its cards altered it",
        (false, "passphrase") => "its MACs are not checked: give --with-passphrase, or restore it",
        (false, _) => "its MACs are not checked: give --with-cards, or restore it",
    });
}

fn object_line(object: &VerifiedObject) -> String {
    let VerifiedObject { class, key_type, name, id, why } = object;
    match why {
        Some(why) => format!("  NOT in it: {class} {key_type} {name}, id {id}: {why}"),
        None => format!("  {class} {key_type} {name}, id {id}"),
    }
}
