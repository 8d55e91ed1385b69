//! Keys leave a token and come back, by the worker alone, on two modules nobody here wrote.
//!
//! Keys are made and used by a program of its own that knows PKCS#11 only (`custody`).

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use slotwarden::devices::Hsm as _;
use slotwarden::transfer_dir;
use slotwarden_core::effect::{HsmAnswer, HsmCall, ImportPlan, Input, KeyCounts, SlotId};
use slotwarden_core::export::Class;
use slotwarden_core::fault::{HsmFailure, Refusal};
use slotwarden_tests::build;
use slotwarden_tests::driver::Driver;
use slotwarden_tests::exports::{
    KEK, KEY_ID, MAK, UID, append, append_vendor_part, blobs, digests, entries, finish, spool, vendor_part,
};
use slotwarden_tests::modules::{Bench, Kind, PIN, label};

slotwarden_tests::on_both_modules! {
    keys_that_are_there_are_the_same
    keys_come_back_into_a_fresh_token
    keys_come_back_into_the_other_module
    keys_that_cannot_leave_are_refused_by_name_until_they_are_accepted
    a_refused_export_leaves_the_file_as_it_was
    keys_of_another_backup_key_make_nothing
    a_flipped_bit_makes_nothing
    the_same_id_with_another_value_is_a_conflict
    an_import_that_is_repeated_makes_nothing_more
    an_import_that_was_interrupted_is_finished_by_the_same_order
    p17_a_slots_token_cannot_unwrap_what_it_exported
    the_inventory_counts_what_can_leave_and_what_is_covered
    p20_a_section_of_a_vendors_program_is_whole_or_the_file_is_as_it_was
    many_sessions_write_what_one_does
    an_export_asks_two_things_of_each_key_and_little_besides
    a_secret_of_an_odd_length_comes_back_as_it_was_or_is_refused_by_name
    p18_what_was_forbidden_stays_forbidden
    what_is_longer_than_an_entry_is_refused_by_name_and_everything_else_comes_whole
    p18_a_key_that_nobody_may_destroy_comes_back_as_one
    how_far_a_slow_transfer_is_can_be_read
    a_token_that_becomes_full_amid_an_import_has_nothing_of_it_and_everything_that_was_there
}

const TOKEN: &str = "ca-root";
/// RSA, EC and AES keys, two public keys and a certificate.
const OBJECTS: u32 = 6;

fn refused<T>(refusal: Refusal) -> Result<T, HsmFailure> {
    Err(HsmFailure::Refused(refusal))
}

fn bench_with_token(kind: Kind) -> Bench {
    let mut bench = Bench::new(kind, 1);
    bench.make_token(TOKEN);
    bench
}

fn logged_in(bench: &Bench) -> Driver {
    let (mut driver, _) = Driver::up(bench.settings(&[label(TOKEN)]));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    driver
}

/// What the program `custody` prints.
fn custody(bench: &Bench, words: &[&str]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_custody"));
    program.arg(bench.real_module()).args([TOKEN, PIN]).args(words).envs(bench.environment());
    build::run("softhsm2", &mut program).trim().to_owned()
}

/// A token with an application's keys and the slot's keys of the backup key.
fn in_use(kind: Kind) -> (Bench, Driver) {
    let bench = bench_with_token(kind);
    custody(&bench, &["make"]);
    let mut driver = logged_in(&bench);
    assert_eq!(driver.put_backup_keys(0, (KEY_ID, UID), &KEK, &MAK), Ok(HsmAnswer::BackupKeysPut));
    (bench, driver)
}

fn exported(bench: &Bench, driver: &mut Driver) -> Vec<u8> {
    assert_eq!(
        append(bench, driver, &[]),
        Ok(HsmAnswer::SectionExported { keys: 3, left_out: 0 }),
        "{:?}",
        driver.notes
    );
    finish(bench)
}

fn prepare(driver: &mut Driver) -> Result<HsmAnswer, HsmFailure> {
    driver.prepare_import(0, (KEY_ID, UID), &KEK, &MAK)
}

fn import(driver: &mut Driver) -> Result<HsmAnswer, HsmFailure> {
    driver.call(0, HsmCall::Import { key_id: KEY_ID, uid: UID })
}

fn planned(new: u32, same: u32, conflict: u32) -> Result<HsmAnswer, HsmFailure> {
    Ok(HsmAnswer::ImportPrepared(ImportPlan { new, same, conflict, removed: 0 }))
}

fn has_unwrap_key(bench: &Bench) -> bool {
    custody(bench, &["show"]).contains(&format!("{:?}", b"slotwarden U".to_vec()))
}

fn keys_that_are_there_are_the_same(kind: Kind) {
    let (bench, mut driver) = in_use(kind);
    let file = exported(&bench, &mut driver);
    let names: Vec<(Class, Vec<u8>)> = entries(&file).into_iter().map(|(class, id, _)| (class, id)).collect();
    for named in [
        (Class::Private, vec![1]),
        (Class::Private, vec![2]),
        (Class::Secret, vec![3]),
        (Class::Public, vec![1]),
        (Class::Public, vec![2]),
        (Class::Certificate, vec![1]),
    ] {
        assert!(names.contains(&named), "{named:?} in {names:?}");
    }
    spool(&bench, &file);
    let before = custody(&bench, &["show"]);
    assert_eq!(prepare(&mut driver), planned(0, OBJECTS, 0), "{:?}", driver.notes);
    assert!(has_unwrap_key(&bench), "it is there until it is told to go");
    assert_eq!(driver.call(0, HsmCall::DropUnwrapKey { keep: None }), Ok(HsmAnswer::UnwrapKeyDropped));
    assert_eq!(custody(&bench, &["show"]), before);
}

fn restored_into(from: Kind, to: Kind) {
    let (bench, mut driver) = in_use(from);
    let proof = custody(&bench, &["proof"]);
    let file = exported(&bench, &mut driver);
    drop(driver);
    let bench = bench_with_token(to);
    let mut driver = logged_in(&bench);
    spool(&bench, &file);
    assert_eq!(prepare(&mut driver), planned(OBJECTS, 0, 0), "{:?}", driver.notes);
    assert_eq!(import(&mut driver), Ok(HsmAnswer::Imported { made: OBJECTS }), "{:?}", driver.notes);
    assert_eq!(driver.call(0, HsmCall::DropUnwrapKey { keep: None }), Ok(HsmAnswer::UnwrapKeyDropped));
    assert_eq!(custody(&bench, &["check", &proof]), "right");
    let shown = custody(&bench, &["show"]);
    assert_eq!(shown.lines().count(), usize::try_from(OBJECTS).expect("small"), "{shown}");
    assert!(!shown.contains("Sensitive(false)"), "P18: {shown}");
    assert_eq!(prepare(&mut driver), planned(0, OBJECTS, 0), "{:?}", driver.notes);
}

fn keys_come_back_into_a_fresh_token(kind: Kind) {
    restored_into(kind, kind);
}

fn keys_come_back_into_the_other_module(kind: Kind) {
    match kind {
        Kind::SoftHsm => restored_into(Kind::SoftHsm, Kind::Kryoptic),
        Kind::Kryoptic => restored_into(Kind::Kryoptic, Kind::SoftHsm),
    }
}

fn keys_that_cannot_leave_are_refused_by_name_until_they_are_accepted(kind: Kind) {
    let (bench, mut driver) = in_use(kind);
    custody(&bench, &["locked", "tied"]);
    custody(&bench, &["locked", "bound"]);
    let mut driver = {
        drop(driver);
        driver = logged_in(&bench);
        driver
    };
    assert_eq!(append(&bench, &mut driver, &["tied"]), refused(Refusal::KeysCannotLeave));
    assert_eq!(transfer_dir::read_report(&bench.transfer_dir()).expect("it was written"), ["bound"]);
    let both = append(&bench, &mut driver, &["bound", "tied"]);
    assert_eq!(both, Ok(HsmAnswer::SectionExported { keys: 3, left_out: 2 }));
    assert_eq!(entries(&finish(&bench)).len(), usize::try_from(OBJECTS).expect("small"));
}

fn a_refused_export_leaves_the_file_as_it_was(kind: Kind) {
    let (bench, mut driver) = in_use(kind);
    let part = bench.transfer_dir().join(transfer_dir::EXPORT);
    assert_eq!(append(&bench, &mut driver, &[]).map(drop), Ok(()));
    assert!(fs::metadata(&part).expect("it is there").len() > 2000);
    custody(&bench, &["locked", "tied"]);
    drop(driver);
    let mut driver = logged_in(&bench);
    assert_eq!(append(&bench, &mut driver, &[]), refused(Refusal::KeysCannotLeave));
    let header = fs::metadata(&part).expect("it is there").len();
    assert!(header < 200, "{header}: the header alone");
    assert_eq!(driver.call(0, HsmCall::KeepBackupKeys { key_id: None, uid: UID, unwrap: true }).map(drop), Ok(()));
    assert_eq!(append(&bench, &mut driver, &["tied"]), refused(Refusal::NoBackupKey));
    assert_eq!(fs::metadata(&part).expect("it is there").len(), header);
}

/// Nothing but what was there before is in the token.
fn untouched(bench: &Bench) {
    assert_eq!(custody(bench, &["show"]), "");
}

fn keys_of_another_backup_key_make_nothing(kind: Kind) {
    let (bench, mut driver) = in_use(kind);
    let file = exported(&bench, &mut driver);
    drop(driver);
    let bench = bench_with_token(kind);
    let mut driver = logged_in(&bench);
    spool(&bench, &file);
    assert_eq!(driver.prepare_import(0, (KEY_ID, UID), &KEK, &[9; 32]), refused(Refusal::ExportOfAnotherKey));
    untouched(&bench);
    assert_eq!(driver.prepare_import(0, (KEY_ID, UID), &[9; 32], &MAK), refused(Refusal::KeyNotRestorable));
    untouched(&bench);
    assert_eq!(driver.prepare_import(0, (KEY_ID, [9; 16]), &KEK, &MAK), refused(Refusal::NoSuchSection));
    assert_eq!(import(&mut driver), refused(Refusal::TransferFiles), "no plan was made");
    untouched(&bench);
}

fn a_flipped_bit_makes_nothing(kind: Kind) {
    let (bench, mut driver) = in_use(kind);
    let file = exported(&bench, &mut driver);
    drop(driver);
    let bench = bench_with_token(kind);
    let mut driver = logged_in(&bench);
    for at in (0..file.len()).step_by(97) {
        let mut flipped = file.clone();
        flipped[at] ^= 0x10;
        spool(&bench, &flipped);
        assert!(matches!(prepare(&mut driver), Err(HsmFailure::Refused(_))), "byte {at}");
    }
    untouched(&bench);
    spool(&bench, &file);
    assert_eq!(prepare(&mut driver), planned(OBJECTS, 0, 0));
    let mut flipped = file;
    flipped[500] ^= 1;
    spool(&bench, &flipped);
    assert!(matches!(import(&mut driver), Err(HsmFailure::Refused(_))), "another file than the plan's");
    assert_eq!(driver.call(0, HsmCall::DropUnwrapKey { keep: None }), Ok(HsmAnswer::UnwrapKeyDropped));
    untouched(&bench);
}

fn the_same_id_with_another_value_is_a_conflict(kind: Kind) {
    let (bench, mut driver) = in_use(kind);
    let file = exported(&bench, &mut driver);
    drop(driver);
    custody(&bench, &["other", "3"]);
    let mut driver = logged_in(&bench);
    spool(&bench, &file);
    assert_eq!(prepare(&mut driver), planned(0, OBJECTS - 1, 1), "{:?}", driver.notes);
}

fn an_import_that_is_repeated_makes_nothing_more(kind: Kind) {
    let (bench, mut driver) = in_use(kind);
    let file = exported(&bench, &mut driver);
    drop(driver);
    let bench = bench_with_token(kind);
    let mut driver = logged_in(&bench);
    spool(&bench, &file);
    assert_eq!(prepare(&mut driver), planned(OBJECTS, 0, 0));
    assert_eq!(import(&mut driver), Ok(HsmAnswer::Imported { made: OBJECTS }));
    let after = custody(&bench, &["show"]);
    assert_eq!(import(&mut driver), Ok(HsmAnswer::Imported { made: 0 }), "{:?}", driver.notes);
    assert_eq!(custody(&bench, &["show"]), after);
}

fn an_import_that_was_interrupted_is_finished_by_the_same_order(kind: Kind) {
    let (bench, mut driver) = in_use(kind);
    let proof = custody(&bench, &["proof"]);
    let file = exported(&bench, &mut driver);
    drop(driver);
    let bench = bench_with_token(kind);
    let mut driver = logged_in(&bench);
    spool(&bench, &file);
    assert_eq!(prepare(&mut driver), planned(OBJECTS, 0, 0));
    assert_eq!(import(&mut driver), Ok(HsmAnswer::Imported { made: OBJECTS }));
    drop(driver);
    // As after a crash: one object was not made. Under the name of another one somebody made a key of their own
    // meanwhile: it stays, whatever the import wants (P25).
    custody(&bench, &["lose", "1"]);
    custody(&bench, &["other", "3"]);
    let before = custody(&bench, &["show"]);
    let mut driver = logged_in(&bench);
    assert_eq!(import(&mut driver), refused(Refusal::ImportNameTaken));
    assert!(driver.notes.iter().any(|note| note.contains("it stays")), "{:?}", driver.notes);
    drop(driver);
    assert!(before.lines().all(|line| custody(&bench, &["show"]).contains(line)), "{before}");
    custody(&bench, &["lose-secret", "3"]);
    let mut driver = logged_in(&bench);
    // The other one was made already where the module lists it first.
    assert!(matches!(import(&mut driver), Ok(HsmAnswer::Imported { made: 1 | 2 })), "{:?}", driver.notes);
    assert_eq!(custody(&bench, &["check", &proof]), "right");
    assert_eq!(driver.count(Input::WorkerLost), 0);
}

fn p17_a_slots_token_cannot_unwrap_what_it_exported(kind: Kind) {
    let (bench, _driver) = in_use(kind);
    let id: String = [KEY_ID, UID].concat().iter().map(|byte| format!("{byte:02x}")).collect();
    let told = custody(&bench, &["unwrap", &id]);
    assert!(told.lines().count() > 0 && told.lines().all(|line| line.starts_with("refused")), "{told}");
    assert!(!told.contains("mechanism is invalid"), "a refusal for want of the mechanism proves nothing: {told}");
}

fn the_inventory_counts_what_can_leave_and_what_is_covered(kind: Kind) {
    let (bench, driver) = in_use(kind);
    drop(driver);
    custody(&bench, &["locked", "tied"]);
    let mut driver = logged_in(&bench);
    let counted = |driver: &mut Driver| match driver.call(0, HsmCall::Inventory { uid: UID }) {
        Ok(HsmAnswer::Counted(counts)) => counts,
        other => panic!("{other:?}"),
    };
    assert_eq!(counted(&mut driver), KeyCounts { keys: 4, can_leave: 3, uncovered: 4 });
    assert_eq!(append(&bench, &mut driver, &["tied"]).map(drop), Ok(()));
    let file = finish(&bench);
    let digests = digests(&file);
    transfer_dir::cover(&bench.transfer_dir(), UID, &digests).expect("the bench's own directory");
    assert_eq!(
        counted(&mut driver),
        KeyCounts { keys: 4, can_leave: 3, uncovered: 1 },
        "what cannot leave is not covered"
    );
}

fn p20_a_section_of_a_vendors_program_is_whole_or_the_file_is_as_it_was(kind: Kind) {
    let (bench, mut driver) = in_use(kind);
    // Keys that cannot leave are no reason to refuse it: the program takes what it takes.
    custody(&bench, &["locked", "tied"]);
    let part = bench.transfer_dir().join(transfer_dir::EXPORT);
    for nothing in [None, Some(&[][..])] {
        assert_eq!(append_vendor_part(&bench, &mut driver, nothing), refused(Refusal::TransferFiles));
        assert!(fs::metadata(&part).expect("it is there").len() < 200, "the header alone");
    }
    let written: Vec<u8> = (0..20_001_u32).map(|at| u8::try_from(at % 253).expect("small")).collect();
    let answer = append_vendor_part(&bench, &mut driver, Some(&written));
    assert_eq!(answer, Ok(HsmAnswer::SectionExported { keys: 0, left_out: 0 }), "{:?}", driver.notes);
    let file = finish(&bench);
    assert_eq!((vendor_part(&file), entries(&file)), (written, Vec::new()));
    let held = transfer_dir::read_held(&bench.transfer_dir(), UID).expect("it was written");
    assert_eq!(held.len(), 4, "the keys that were there, without ours");
    // The MAC is checked by the key from the cards; nothing is put into the token, and nothing is made there.
    let before = custody(&bench, &["show"]);
    spool(&bench, &file);
    assert_eq!(driver.prepare_import(0, (KEY_ID, UID), &KEK, &[9; 32]), refused(Refusal::ExportOfAnotherKey));
    assert_eq!(import(&mut driver), refused(Refusal::TransferFiles), "no plan was made");
    assert_eq!(prepare(&mut driver), planned(0, 0, 0));
    assert!(!has_unwrap_key(&bench));
    assert_eq!(import(&mut driver), Ok(HsmAnswer::Imported { made: 0 }));
    assert_eq!(custody(&bench, &["show"]), before);
    // Another file than the one that was planned is not taken for it.
    spool(&bench, &exported_otherwise(&bench, &mut driver));
    assert_eq!(import(&mut driver), refused(Refusal::ImportPlanOutdated));
}

fn exported_otherwise(bench: &Bench, driver: &mut Driver) -> Vec<u8> {
    assert_eq!(append_vendor_part(bench, driver, Some(b"another")).map(drop), Ok(()));
    finish(bench)
}

fn many_sessions_write_what_one_does(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 1);
    bench.make_token(TOKEN);
    custody(&bench, &["many", "40"]);
    let mut files = Vec::new();
    for latency in ["0.01", "5"] {
        bench.more = vec![
            ("FORWARD_COUNT".into(), "all".into()),
            ("FORWARD_LATENCY_MS".into(), latency.into()),
            ("FORWARD_LATENCY_CALLS".into(), "C_GetAttributeValue,C_WrapKey".into()),
        ];
        let mut driver = logged_in(&bench);
        assert_eq!(driver.put_backup_keys(0, (KEY_ID, UID), &KEK, &MAK), Ok(HsmAnswer::BackupKeysPut));
        let answer = append(&bench, &mut driver, &[]);
        assert_eq!(answer, Ok(HsmAnswer::SectionExported { keys: 40, left_out: 0 }));
        files.push(finish(&bench));
        drop(driver);
    }
    assert!(bench.calls_in_flight() > 16, "{}", bench.calls_in_flight());
    // SoftHSM lists its objects in another order in each process.
    let sorted = |file: &[u8]| {
        let mut all = blobs(file);
        all.sort();
        all
    };
    assert_eq!(sorted(&files[0]).len(), 40);
    assert!(sorted(&files[0]) == sorted(&files[1]), "the same keys, each with its own name");
}

fn an_export_asks_two_things_of_each_key_and_little_besides(kind: Kind) {
    const KEYS: usize = 200;
    let mut bench = Bench::forwarded(kind, 1);
    bench.make_token(TOKEN);
    bench.more.push(("FORWARD_COUNT".into(), "all".into()));
    // On a busy machine a module looks slow, and is asked by more sessions.
    bench.calls_in_flight_max = 1;
    custody(&bench, &["many", &KEYS.to_string()]);
    let mut driver = logged_in(&bench);
    assert_eq!(driver.put_backup_keys(0, (KEY_ID, UID), &KEK, &MAK), Ok(HsmAnswer::BackupKeysPut));
    let mut counted = || {
        let before = bench.calls_of(TOKEN).len();
        assert_eq!(append(&bench, &mut driver, &[]), Ok(HsmAnswer::SectionExported { keys: 200, left_out: 0 }));
        let mut counts = BTreeMap::new();
        for call in bench.calls_of(TOKEN).split_off(before) {
            *counts.entry(call).or_insert(0) += 1;
        }
        counts
    };
    let first = counted();
    // Once more: where W and MAK are is known, and what wraps.
    let again = counted();
    let expected = [
        ("C_OpenSession", 1),
        ("C_GetSessionInfo", 1),
        ("C_GetTokenInfo", 1),
        ("C_FindObjectsInit", 1),
        ("C_FindObjects", 2),
        ("C_FindObjectsFinal", 1),
        // W and MAK as what they have to be, and as two objects of the token.
        ("C_GetAttributeValue", KEYS + 4),
        ("C_WrapKey", KEYS),
        ("C_SignInit", 1),
        ("C_Sign", 1),
        ("C_CloseSession", 1),
    ];
    assert_eq!(again, expected.into_iter().map(|(name, count)| (name.to_owned(), count)).collect());
    let all: usize = again.values().sum();
    assert!(all * 10 <= KEYS * 21, "{all} calls are more than 2.1 a key");
    // One search more, and the known-answer test of the mechanism: three keys of the session.
    let more = first.values().sum::<usize>() - all;
    assert!(more <= 14, "{more} calls more the first time: {first:?}");
}

fn a_secret_of_an_odd_length_comes_back_as_it_was_or_is_refused_by_name(kind: Kind) {
    let (bench, driver) = in_use(kind);
    drop(driver);
    custody(&bench, &["odd", "odd"]);
    let mac = custody(&bench, &["mac", "odd"]);
    let mut driver = logged_in(&bench);
    let answer = append(&bench, &mut driver, &[]);
    match kind {
        // It fills the key up with zeros and wraps those as a part of it.
        Kind::SoftHsm => {
            assert_eq!(answer, refused(Refusal::KeysCannotLeave));
            assert_eq!(transfer_dir::read_report(&bench.transfer_dir()).expect("it was written"), ["odd"]);
        }
        Kind::Kryoptic => {
            assert_eq!(answer, Ok(HsmAnswer::SectionExported { keys: 4, left_out: 0 }));
            let file = finish(&bench);
            drop(driver);
            for other in [Kind::Kryoptic, Kind::SoftHsm] {
                let bench = bench_with_token(other);
                let mut driver = logged_in(&bench);
                spool(&bench, &file);
                assert_eq!(prepare(&mut driver), planned(OBJECTS + 1, 0, 0), "{other:?} {:?}", driver.notes);
                assert_eq!(import(&mut driver), Ok(HsmAnswer::Imported { made: OBJECTS + 1 }));
                assert_eq!(custody(&bench, &["mac", "odd"]), mac, "{other:?}");
            }
        }
    }
}

fn p18_what_was_forbidden_stays_forbidden(kind: Kind) {
    let (bench, driver) = in_use(kind);
    drop(driver);
    custody(&bench, &["trusting", "wary"]);
    custody(&bench, &["fixed", "rigid"]);
    let mut driver = logged_in(&bench);
    assert_eq!(append(&bench, &mut driver, &[]), refused(Refusal::KeysCannotLeave));
    assert_eq!(transfer_dir::read_report(&bench.transfer_dir()).expect("it was written"), ["wary"]);
    let answer = append(&bench, &mut driver, &["wary"]);
    assert_eq!(answer, Ok(HsmAnswer::SectionExported { keys: 4, left_out: 1 }));
    let file = finish(&bench);
    drop(driver);
    for other in [kind, if kind == Kind::SoftHsm { Kind::Kryoptic } else { Kind::SoftHsm }] {
        let bench = bench_with_token(other);
        let mut driver = logged_in(&bench);
        spool(&bench, &file);
        assert_eq!(prepare(&mut driver), planned(OBJECTS + 1, 0, 0), "{other:?} {:?}", driver.notes);
        assert_eq!(import(&mut driver), Ok(HsmAnswer::Imported { made: OBJECTS + 1 }));
        assert_eq!(import(&mut driver), Ok(HsmAnswer::Imported { made: 0 }), "{other:?} {:?}", driver.notes);
        assert_eq!(driver.call(0, HsmCall::DropUnwrapKey { keep: None }), Ok(HsmAnswer::UnwrapKeyDropped));
        let shown = custody(&bench, &["show"]);
        assert_eq!(shown.matches("Modifiable(false)").count(), 1, "{shown}");
    }
}

/// A module says the same of a value that is longer than its buffer as of one that it does not have.
fn what_is_longer_than_an_entry_is_refused_by_name_and_everything_else_comes_whole(kind: Kind) {
    let (bench, driver) = in_use(kind);
    drop(driver);
    custody(&bench, &["long", "roomy", "3000"]);
    let mut driver = logged_in(&bench);
    assert_eq!(append(&bench, &mut driver, &[]), Ok(HsmAnswer::SectionExported { keys: 3, left_out: 0 }));
    let file = finish(&bench);
    drop(driver);
    for other in [kind, if kind == Kind::SoftHsm { Kind::Kryoptic } else { Kind::SoftHsm }] {
        let bench = bench_with_token(other);
        let mut driver = logged_in(&bench);
        spool(&bench, &file);
        assert_eq!(prepare(&mut driver), planned(OBJECTS + 1, 0, 0), "{other:?} {:?}", driver.notes);
        assert_eq!(import(&mut driver), Ok(HsmAnswer::Imported { made: OBJECTS + 1 }));
        drop(driver);
        assert_eq!(custody(&bench, &["lengths", "roomy"]), "3000 2000 1500", "{other:?}");
    }
    custody(&bench, &["long", "endless", "9000"]);
    let mut driver = logged_in(&bench);
    assert_eq!(append(&bench, &mut driver, &[]), refused(Refusal::KeysCannotLeave));
    assert_eq!(transfer_dir::read_report(&bench.transfer_dir()).expect("it was written"), ["endless"]);
    let answer = append(&bench, &mut driver, &["endless"]);
    assert_eq!(answer, Ok(HsmAnswer::SectionExported { keys: 3, left_out: 1 }));
}

/// A key that nobody may destroy is tried as one that may be, and is that again in the token (P18).
fn p18_a_key_that_nobody_may_destroy_comes_back_as_one(kind: Kind) {
    let (bench, driver) = in_use(kind);
    drop(driver);
    custody(&bench, &["lasting", "for-ever"]);
    let mut driver = logged_in(&bench);
    assert_eq!(append(&bench, &mut driver, &[]), Ok(HsmAnswer::SectionExported { keys: 4, left_out: 0 }));
    let file = finish(&bench);
    drop(driver);
    let bench = bench_with_token(kind);
    let mut driver = logged_in(&bench);
    spool(&bench, &file);
    assert_eq!(prepare(&mut driver), planned(OBJECTS + 1, 0, 0), "{:?}", driver.notes);
    assert_eq!(import(&mut driver), Ok(HsmAnswer::Imported { made: OBJECTS + 1 }), "{:?}", driver.notes);
    drop(driver);
    assert_eq!(custody(&bench, &["show"]).matches("Destroyable(false)").count(), 1);
}

fn how_far_a_slow_transfer_is_can_be_read(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 1);
    bench.make_token(TOKEN);
    custody(&bench, &["make"]);
    let mut driver = logged_in(&bench);
    assert_eq!(driver.put_backup_keys(0, (KEY_ID, UID), &KEK, &MAK), Ok(HsmAnswer::BackupKeysPut));
    drop(driver);
    // A network HSM that is far away: six objects take more than a second.
    bench.more.push(("FORWARD_LATENCY_MS".into(), "60".into()));
    let mut driver = logged_in(&bench);
    assert_eq!(driver.hsm.progress(), None, "nothing travelled");
    let file = exported(&bench, &mut driver);
    let told = driver.hsm.progress().expect("an export of a second says how far it is");
    assert!(told.slot == SlotId(0) && (1..told.of).contains(&told.done), "{told:?}");
    assert!(told.of > OBJECTS, "the slot's own keys are looked at too: {told:?}");
    spool(&bench, &file);
    assert_eq!(prepare(&mut driver), planned(0, OBJECTS, 0), "{:?}", driver.notes);
    let told = driver.hsm.progress().expect("a restore of a second says how far it is");
    assert!(told.of == OBJECTS && (1..OBJECTS).contains(&told.done), "{told:?}");
}

fn a_token_that_becomes_full_amid_an_import_has_nothing_of_it_and_everything_that_was_there(kind: Kind) {
    let (bench, mut driver) = in_use(kind);
    let proof = custody(&bench, &["proof"]);
    let file = exported(&bench, &mut driver);
    drop(driver);
    let mut bench = Bench::forwarded(kind, 1);
    bench.make_token(TOKEN);
    custody(&bench, &["locked", "theirs"]);
    let mut driver = logged_in(&bench);
    spool(&bench, &file);
    assert_eq!(prepare(&mut driver), planned(OBJECTS, 0, 0), "{:?}", driver.notes);
    // Somebody else makes what the plan calls new: it is theirs, however like it is.
    custody(&bench, &["certificate"]);
    let before = custody(&bench, &["show"]);
    for room in 0..OBJECTS - 1 {
        bench.leave_room_for(room, TOKEN);
        assert_eq!(import(&mut driver), refused(Refusal::TokenFull), "room for {room}: {:?}", driver.notes);
        assert_eq!(custody(&bench, &["show"]), before, "room for {room}");
    }
    // A worker dies after it made some, and the next one finds the token full.
    bench.leave_room_for(OBJECTS, TOKEN);
    assert_eq!(import(&mut driver), Ok(HsmAnswer::Imported { made: OBJECTS - 1 }), "{:?}", driver.notes);
    drop(driver);
    custody(&bench, &["lose", "1"]);
    bench.leave_room_for(0, TOKEN);
    let mut driver = logged_in(&bench);
    assert_eq!(import(&mut driver), refused(Refusal::TokenFull), "{:?}", driver.notes);
    assert_eq!(custody(&bench, &["show"]), before);
    assert_eq!(driver.call(0, HsmCall::DropUnwrapKey { keep: None }), Ok(HsmAnswer::UnwrapKeyDropped));
    // Room was made, and the restore is begun again.
    bench.ask_no_more("full", TOKEN);
    assert_eq!(prepare(&mut driver), planned(OBJECTS - 1, 1, 0), "{:?}", driver.notes);
    assert_eq!(import(&mut driver), Ok(HsmAnswer::Imported { made: OBJECTS - 1 }), "{:?}", driver.notes);
    assert_eq!(custody(&bench, &["check", &proof]), "right");
    assert_eq!(driver.count(Input::WorkerLost), 0);
}
