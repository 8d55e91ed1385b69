//! The golden table of a transfer: every state × every event, `tests/golden/transfer.md`, its diagram,
//! and what a table does not say (`SLOTWARDEN_GOLDEN=write` writes both).

// A test that panics has found something; the lints are for the rules.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::arithmetic_side_effects, clippy::std_instead_of_core, clippy::wildcard_enum_match_arm)]

mod table;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use slotwarden_core::audit::AuditEvent;
use slotwarden_core::ceremony::order::SlotSet;
use slotwarden_core::command::{Answer, Caller, ReplyId};
use slotwarden_core::effect::{HsmAnswer, HsmCall, ImportPlan, SlotId};
use slotwarden_core::fault::{Fault, Function, HsmFailure, Refusal};
use slotwarden_core::person::PersonId;
use slotwarden_core::record::Owner;
use slotwarden_core::safe::SecretId;
use slotwarden_core::transfer::{
    Export, FileOrder, Purpose, Reached, Restoration, State, Step, Sum, Transfer, TransferEvent, TransferOut,
};
use table::{check, diagram, first_word, grouped};

const CALLER: Caller = Caller { who: PersonId(0), reply: ReplyId(5) };
const OTHER: Caller = Caller { who: PersonId(1), reply: ReplyId(6) };
const RESTORATION: Restoration =
    Restoration { owner: Owner(3), uid: [1; 16], key_id: [2; 16], file: [3; 32], reached: Reached::Preparing };
const COMMITTED: Restoration = Restoration { reached: Reached::Committed, ..RESTORATION };
const MADE: Restoration = Restoration { reached: Reached::Made, ..RESTORATION };
const PLAN: ImportPlan = ImportPlan { new: 2, same: 1, conflict: 0, removed: 0 };

fn export() -> Export {
    let slots = SlotSet::NONE.with(SlotId(0)).with(SlotId(2));
    let purpose = Purpose::Backup { left_out: [5; 32] };
    Export { slots, set_id: [4; 16], key_id: [2; 16], purpose, passphrase: None }
}

fn package() -> Export {
    Export { purpose: Purpose::Package { targets: 2, sequence: 6, roster_epoch: 3 }, ..export() }
}

/// What people keep, under a passphrase.
fn under_passphrase() -> Export {
    Export { passphrase: Some(SecretId::NONE), ..export() }
}

/// Writes down what is wanted.
#[derive(Default)]
struct Wanted(Vec<String>);

impl TransferOut for Wanted {
    fn file(&mut self, order: FileOrder) {
        self.0.push(format!("file {}", first_word(&order)));
    }
    fn call(&mut self, slot: SlotId, call: HsmCall) {
        self.0.push(format!("slot {}: {}", slot.0, first_word(&call)));
    }
    fn call_of(&mut self, owner: Owner, call: HsmCall) {
        self.0.push(format!("owner {}: {}", owner.0, first_word(&call)));
    }
    fn uid(&self, _: SlotId) -> [u8; 16] {
        [1; 16]
    }
    fn key_id(&self, _: SecretId) -> Option<[u8; 16]> {
        Some([2; 16])
    }
    fn export_once(&mut self, slot: SlotId, _: [u8; 16], _: SecretId) {
        self.0.push(format!("slot {}: ExportSection, under keys for once", slot.0));
    }
    fn prepare(&mut self, restoration: Restoration, _: SecretId) {
        self.0.push(format!("owner {}: PrepareImport, and wipe", restoration.owner.0));
    }
    fn wipe(&mut self, _: SecretId) {
        self.0.push("wipe".to_owned());
    }
    fn keeps(&self, _: Owner) -> Option<([u8; 16], [u8; 16])> {
        None
    }
    fn sent(&mut self, sequence: u64) {
        self.0.push(format!("sent {sequence}"));
    }
    fn remember(&mut self, restoration: Option<Restoration>) {
        let shown = restoration.map_or("nothing".to_owned(), |found| format!("{:?}", found.reached).to_lowercase());
        self.0.push(format!("remember {shown}"));
    }
    fn journal(&mut self, who: Option<PersonId>, event: AuditEvent) {
        self.0.push(format!("journal {who:?} {event:?}"));
    }
    fn reply(&mut self, caller: Caller, answer: Answer) {
        self.0.push(format!("reply {} {answer:?}", caller.reply.0));
    }
    fn serve(&mut self, owner: Owner) {
        self.0.push(format!("serve {}", owner.0));
    }
}

fn states() -> Vec<(&'static str, State)> {
    let (caller, export, restoration, plan) = (CALLER, export(), RESTORATION, PLAN);
    let once = under_passphrase();
    let sum = Sum { sections: 1, keys: 7, left_out: 1 };
    let some = Some(CALLER);
    let why = Answer::Failed(Fault::TokenGone);
    let by_program = Answer::Refused(Refusal::VendorProgramFailed);
    let import = Step::Import { lost: 0 };
    vec![
        ("Idle", State::Idle),
        ("Stretching", State::Stretching { caller, export: once }),
        ("Beginning", State::Beginning { caller, export }),
        ("Beginning, under a passphrase", State::Beginning { caller, export: once }),
        ("AtSection, of two", State::AtSection { caller, export, slot: SlotId(0), sum: Sum::default() }),
        ("AtSection, last", State::AtSection { caller, export, slot: SlotId(2), sum }),
        ("AtSection, last, under a passphrase", State::AtSection { caller, export: once, slot: SlotId(2), sum }),
        ("Finishing", State::Finishing { caller, export, sum }),
        ("Finishing a package", State::Finishing { caller, export: package(), sum }),
        ("Unlocking", State::Unlocking { caller, restoration, passphrase: SecretId::NONE }),
        (
            "Unlocking, a file of another passphrase",
            State::Unlocking {
                caller,
                restoration: Restoration { key_id: [9; 16], ..restoration },
                passphrase: SecretId::NONE,
            },
        ),
        ("Proving", State::Proving { restoration, caller: some }),
        ("Proving, nobody waits", State::Proving { restoration, caller: None }),
        ("Preparing", State::Preparing { restoration }),
        ("Prepared", State::Prepared { restoration, plan }),
        ("Prepared, conflict", State::Prepared { restoration, plan: ImportPlan { conflict: 1, ..plan } }),
        ("Waiting to import", State::Waiting { restoration: COMMITTED, step: import, caller: some }),
        ("Waiting to import, after a restart", State::Waiting { restoration: COMMITTED, step: import, caller: None }),
        ("AtToken, importing", State::AtToken { restoration: COMMITTED, step: import, caller: some }),
        (
            "AtToken, importing after a worker's death",
            State::AtToken { restoration: COMMITTED, step: Step::Import { lost: 1 }, caller: None },
        ),
        ("Halfway", State::Halfway { restoration: COMMITTED, why }),
        ("Halfway, by a vendor's program", State::Halfway { restoration: COMMITTED, why: by_program }),
        ("Waiting to end", State::Waiting { restoration, step: Step::Drop, caller: some }),
        ("Waiting to end an import", State::Waiting { restoration: MADE, step: Step::Drop, caller: some }),
        (
            "Waiting to end an import, nobody waits",
            State::Waiting { restoration: MADE, step: Step::Drop, caller: None },
        ),
        ("AtToken, ending", State::AtToken { restoration, step: Step::Drop, caller: some }),
        ("AtToken, ending an import", State::AtToken { restoration: MADE, step: Step::Drop, caller: some }),
    ]
}

fn events() -> Vec<(&'static str, TransferEvent)> {
    use TransferEvent as On;
    let (owner, file) = (RESTORATION.owner, RESTORATION.file);
    let failed = HsmFailure::Pkcs11 { code: 0x30, function: Function::WrapKey };
    vec![
        ("export ordered", On::ExportOrdered { caller: OTHER, export: export() }),
        ("export under a passphrase ordered", On::ExportOrdered { caller: OTHER, export: under_passphrase() }),
        (
            "restore by passphrase ordered",
            On::RestoreOrdered { caller: OTHER, restoration: RESTORATION, passphrase: SecretId::NONE },
        ),
        ("package ordered", On::ExportOrdered { caller: OTHER, export: package() }),
        ("restore began", On::RestoreBegan { restoration: RESTORATION }),
        ("planned", On::Planned(PLAN)),
        ("ceremony ended", On::CeremonyEnded),
        ("import ordered", On::ImportOrdered { caller: OTHER, owner, file }),
        ("import of another file ordered", On::ImportOrdered { caller: OTHER, owner, file: [9; 32] }),
        ("import into another slot ordered", On::ImportOrdered { caller: OTHER, owner: Owner(4), file }),
        ("end ordered", On::EndOrdered { caller: OTHER }),
        ("abandon ordered, slot open", On::AbandonOrdered { caller: OTHER, file, open: true }),
        ("abandon ordered, slot closed", On::AbandonOrdered { caller: OTHER, file, open: false }),
        ("abandon of another file ordered", On::AbandonOrdered { caller: OTHER, file: [9; 32], open: false }),
        ("file done", On::FileDone(Ok(()))),
        ("file failed", On::FileDone(Err(Fault::StoreFailed))),
        ("section exported", On::TokenDone(Ok(HsmAnswer::SectionExported { keys: 7, left_out: 1 }))),
        ("import prepared", On::TokenDone(Ok(HsmAnswer::ImportPrepared(PLAN)))),
        ("imported", On::TokenDone(Ok(HsmAnswer::Imported { made: 2 }))),
        ("U dropped", On::TokenDone(Ok(HsmAnswer::UnwrapKeyDropped))),
        ("token failed", On::TokenDone(Err(failed))),
        ("token refused", On::TokenDone(Err(HsmFailure::Refused(Refusal::SlotNotActive)))),
        ("token has such a key", On::TokenDone(Err(HsmFailure::Refused(Refusal::ImportConflicts)))),
        ("token is full", On::TokenDone(Err(HsmFailure::Refused(Refusal::TokenFull)))),
        ("slot ready", On::SlotReady),
        ("slot closed", On::SlotClosed(Refusal::SlotNotActive)),
        ("worker lost", On::WorkerLost),
        ("deadline passed", On::DeadlinePassed),
    ]
}

#[test]
fn every_state_answers_every_event_as_the_golden_table_says() {
    let mut text = String::from("# A transfer\n\nEvery state and event; made by `core/tests/golden_transfer.rs`.\n");
    let mut edges = BTreeSet::new();
    for (name, state) in states() {
        let mut lines = Vec::new();
        for (event, happened) in events() {
            let mut transfer = Transfer::in_state(state);
            let mut wanted = Wanted::default();
            transfer.handle(happened, &mut wanted);
            let next = transfer.state();
            let (from, to) = (first_word(&state), first_word(&next));
            if from != to {
                edges.insert((from, to.clone(), event.to_owned()));
            }
            let shown = if next == state { "the same".to_owned() } else { shown(&next) };
            lines.push((event.to_owned(), std::iter::once(shown).chain(wanted.0).collect::<Vec<_>>().join(" | ")));
        }
        write!(text, "\n## {name}\n\n{}", grouped(lines)).expect("strings grow");
    }
    check("tests/golden/transfer.md", &text);
    check("core/docs/transfer.md", &diagram("A transfer", &edges));
}

/// A state in a few words.
fn shown(state: &State) -> String {
    match state {
        State::Waiting { step, caller, .. } | State::AtToken { step, caller, .. } => {
            format!("{} {step:?}, {}", first_word(state), if caller.is_some() { "awaited" } else { "not awaited" })
        }
        State::AtSection { slot, sum, .. } => format!("AtSection of slot {}, {sum:?}", slot.0),
        State::Finishing { sum, .. } => format!("Finishing {sum:?}"),
        other => first_word(other),
    }
}

#[test]
fn p24_nothing_is_made_before_the_import_is_durable_and_u_never_stays_unknown() {
    let mut transfer = Transfer::new();
    let mut wanted = Wanted::default();
    let run = |transfer: &mut Transfer, wanted: &mut Wanted, event| {
        wanted.0.clear();
        transfer.handle(event, wanted);
        wanted.0.clone()
    };
    let (owner, file) = (RESTORATION.owner, RESTORATION.file);
    let began = run(&mut transfer, &mut wanted, TransferEvent::RestoreBegan { restoration: RESTORATION });
    assert_eq!(began, ["remember preparing"], "before the token gets U");
    assert!(
        run(&mut transfer, &mut wanted, TransferEvent::Planned(PLAN)).iter().all(|line| line.starts_with("journal"))
    );
    let ordered = run(&mut transfer, &mut wanted, TransferEvent::ImportOrdered { caller: CALLER, owner, file });
    assert_eq!(ordered[0], "remember committed");
    assert!(!ordered.iter().any(|line| line.contains("Import") && line.starts_with("owner")), "{ordered:?}");
    // Whatever a restart finds, it goes on by itself when the slot is open.
    for (restoration, first) in
        [(COMMITTED, "owner 3: Import"), (MADE, "owner 3: DropUnwrapKey"), (RESTORATION, "owner 3: DropUnwrapKey")]
    {
        let mut transfer = Transfer::loaded(restoration);
        assert_eq!(transfer.waits_for(), Some(owner));
        assert_eq!(run(&mut transfer, &mut wanted, TransferEvent::SlotReady), [first]);
    }
}

#[test]
fn p24_a_restore_that_a_vendors_program_failed_at_can_be_given_up() {
    let mut transfer = Transfer::in_state(State::AtToken {
        restoration: COMMITTED,
        step: Step::Import { lost: 0 },
        caller: Some(CALLER),
    });
    let mut on = |event| {
        let mut wanted = Wanted::default();
        transfer.handle(event, &mut wanted);
        wanted.0
    };
    let failed = HsmFailure::Refused(Refusal::VendorProgramFailed);
    let told = on(TransferEvent::TokenDone(Err(failed)));
    assert_eq!(told.last().map(String::as_str), Some("reply 5 Refused(VendorProgramFailed)"));
    // From here on a restart does not run it again.
    assert!(on(TransferEvent::EndOrdered { caller: OTHER }).contains(&"remember preparing".to_owned()));
    assert_eq!(on(TransferEvent::SlotReady), ["owner 3: DropUnwrapKey"]);
    let ended = on(TransferEvent::TokenDone(Ok(HsmAnswer::UnwrapKeyDropped)));
    assert!(ended.contains(&"remember nothing".to_owned()) && ended.contains(&"reply 6 Done".to_owned()), "{ended:?}");
}

#[test]
fn p16_every_end_of_an_export_or_restore_under_a_passphrase_wipes_it() {
    for (name, state) in states() {
        let owned = Transfer::in_state(state).secret().is_some();
        for (event, happened) in events() {
            let mut transfer = Transfer::in_state(state);
            let mut wanted = Wanted::default();
            transfer.handle(happened, &mut wanted);
            let brought = event.contains("passphrase ordered");
            let has = transfer.secret().is_some();
            let wiped = wanted.0.iter().filter(|line| line.contains("wipe")).count();
            let lost = usize::from(owned) + usize::from(brought) - usize::from(has);
            assert_eq!(wiped, lost, "{name}: {event}: {:?}", wanted.0);
        }
    }
}

#[test]
fn p19_a_passphrase_of_another_key_never_reaches_the_token() {
    let restoration = Restoration { key_id: [9; 16], ..RESTORATION };
    let mut transfer = Transfer::in_state(State::Unlocking { caller: CALLER, restoration, passphrase: SecretId::NONE });
    let mut wanted = Wanted::default();
    transfer.handle(TransferEvent::FileDone(Ok(())), &mut wanted);
    assert_eq!(transfer.state(), State::Idle);
    assert!(!wanted.0.iter().any(|line| line.contains("owner") || line.contains("remember")), "{:?}", wanted.0);
    assert!(wanted.0.contains(&"reply 5 Refused(PassphraseWrong)".to_owned()), "{:?}", wanted.0);
}

#[test]
fn p20_an_export_that_does_not_end_well_is_discarded() {
    for (name, state) in states() {
        if !matches!(
            state,
            State::Stretching { .. } | State::Beginning { .. } | State::AtSection { .. } | State::Finishing { .. }
        ) {
            continue;
        }
        for (event, happened) in events() {
            let mut transfer = Transfer::in_state(state);
            let mut wanted = Wanted::default();
            transfer.handle(happened, &mut wanted);
            if transfer.state() == State::Idle {
                let whole = matches!(state, State::Finishing { .. }) && event == "file done";
                let discarded = wanted.0.contains(&"file Discard".to_owned());
                assert_ne!(whole, discarded, "{name}: {event}");
                let done = wanted.0.contains(&"reply 5 Done".to_owned());
                assert_eq!(whole, done, "{name}: {event}");
            }
        }
    }
}
