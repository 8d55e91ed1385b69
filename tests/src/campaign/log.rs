//! What the audit log says of a kill.

use slotwarden_core::audit::{AttemptCause, AuditEvent, AuditRecord};
use slotwarden_core::record::ChangeKind;

/// What was recorded of one slot.
pub fn of_slot(records: &[AuditRecord], slot: usize) -> impl Iterator<Item = &AuditEvent> {
    let is_its = move |record: &&AuditRecord| record.slot.is_some_and(|of| usize::from(of.0) == slot);
    records.iter().filter(is_its).map(|record| &record.event)
}

/// How many changes stood between *calling* and their end when the kill struck.
pub fn calling_at_the_kill(records: &[AuditRecord], slots: usize) -> u32 {
    let is_kill = |record: &AuditRecord| matches!(record.event, AuditEvent::Started { .. } | AuditEvent::WorkerLost);
    let before = records.split(is_kill).next().unwrap_or_default();
    let mut calling = 0;
    for slot in 0..slots {
        let last = of_slot(before, slot).filter(|event| change_of(event).is_some()).last();
        calling += u32::from(matches!(last, Some(AuditEvent::ChangeCalling(_))));
    }
    calling
}

fn change_of(event: &AuditEvent) -> Option<ChangeKind> {
    match event {
        AuditEvent::ChangeIntended(kind)
        | AuditEvent::ChangeCalling(kind)
        | AuditEvent::ChangeCompleted(kind)
        | AuditEvent::ChangeUndone(kind) => Some(*kind),
        _ => None,
    }
}

/// P34: one try of each stored code at a boot, two codes only while a change is open.
pub fn tries_at_boot_are_bounded(records: &[AuditRecord], slots: usize) {
    let boots = records.split(|record| matches!(record.event, AuditEvent::Started { .. })).skip(1);
    for boot in boots {
        for slot in 0..slots {
            let by_itself = |event: &&AuditEvent| {
                matches!(event, AuditEvent::AttemptBegins(AttemptCause::Automatic | AttemptCause::Change))
            };
            let tries = of_slot(boot, slot).filter(by_itself).count();
            assert!(tries <= 2, "slot {slot}: {tries} tries at one boot");
        }
    }
}
