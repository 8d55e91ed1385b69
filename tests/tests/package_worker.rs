//! Packages of keys for other nodes, as the worker makes and takes them, on two modules nobody here wrote.

use std::collections::BTreeSet;

use slotwarden::transfer_dir::{self, JobPurpose};
use slotwarden_core::effect::{HsmAnswer, HsmCall, ImportPlan};
use slotwarden_core::fault::{HsmFailure, Refusal};
use slotwarden_core::ledger::KeyName;
use slotwarden_tests::build;
use slotwarden_tests::driver::Driver;
use slotwarden_tests::exports::{KEK, KEY_ID, MAK, UID, append_for, blobs, entries, finish, spool};
use slotwarden_tests::modules::{Bench, Kind, PIN, label};

slotwarden_tests::on_both_modules! {
    names_are_the_same_on_every_module
    what_every_target_has_is_left_out
    a_key_that_cannot_leave_is_listed_and_refuses_no_package
    a_package_is_planned_and_made_by_the_members_own_key
    p17_the_unwrap_key_of_one_slot_opens_nothing_of_another
    p18_a_section_of_another_key_makes_nothing
    p25_what_is_recorded_as_removed_is_not_made
    p25_another_value_under_the_same_id_is_a_conflict
    a_package_without_the_members_key_is_refused
    every_key_of_many_is_the_same_when_it_comes_again
}

const TOKEN: &str = "ca-root";
/// RSA, EC and AES keys, two public keys and a certificate.
const OBJECTS: u32 = 6;

fn bench_with_token(kind: Kind) -> Bench {
    let mut bench = Bench::new(kind, 1);
    bench.make_token(TOKEN);
    bench
}

/// What the program `custody` prints.
fn custody(bench: &Bench, words: &[&str]) -> String {
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_custody"));
    program.arg(bench.real_module()).args([TOKEN, PIN]).args(words).envs(bench.environment());
    build::run("softhsm2", &mut program).trim().to_owned()
}

/// A member's token: W, MAK and U, and no key of an application.
fn member(kind: Kind) -> (Bench, Driver) {
    let bench = bench_with_token(kind);
    let (mut driver, _) = Driver::up(bench.settings(&[label(TOKEN)]));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    assert_eq!(driver.put_keys_of_member(0, (KEY_ID, UID), &KEK, &MAK), Ok(HsmAnswer::BackupKeysPut));
    (bench, driver)
}

fn member_in_use(kind: Kind) -> (Bench, Driver) {
    let (bench, driver) = member(kind);
    custody(&bench, &["make"]);
    (bench, driver)
}

fn package(bench: &Bench, driver: &mut Driver, skip: Vec<KeyName>) -> Vec<u8> {
    let appended = append_for(bench, driver, JobPurpose::Package { skip });
    assert!(matches!(appended, Ok(HsmAnswer::SectionExported { .. })), "{appended:?} {:?}", driver.notes);
    finish(bench)
}

fn names(bench: &Bench) -> BTreeSet<KeyName> {
    transfer_dir::read_names(&bench.transfer_dir(), UID).expect("the bench's own directory").expect("they were written")
}

fn plan(driver: &mut Driver) -> Result<HsmAnswer, HsmFailure> {
    driver.call(0, HsmCall::PlanPackage { key_id: KEY_ID, uid: UID })
}

fn planned(new: u32, same: u32, conflict: u32, removed: u32) -> Result<HsmAnswer, HsmFailure> {
    Ok(HsmAnswer::ImportPrepared(ImportPlan { new, same, conflict, removed }))
}

fn make(driver: &mut Driver) -> Result<HsmAnswer, HsmFailure> {
    driver.call(0, HsmCall::ImportPackage { key_id: KEY_ID, uid: UID })
}

fn other(kind: Kind) -> Kind {
    match kind {
        Kind::SoftHsm => Kind::Kryoptic,
        Kind::Kryoptic => Kind::SoftHsm,
    }
}

fn names_are_the_same_on_every_module(kind: Kind) {
    let (bench, mut driver) = member_in_use(kind);
    let file = package(&bench, &mut driver, vec![]);
    let there = names(&bench);
    assert_eq!(there.len(), usize::try_from(OBJECTS).expect("small"));
    let (bench, mut driver) = member(other(kind));
    spool(&bench, &file);
    assert_eq!(plan(&mut driver), planned(OBJECTS, 0, 0, 0), "{:?}", driver.notes);
    assert_eq!(make(&mut driver), Ok(HsmAnswer::Imported { made: OBJECTS }), "{:?}", driver.notes);
    assert!(matches!(driver.call(0, HsmCall::Inventory { uid: UID }), Ok(HsmAnswer::Counted(_))));
    assert_eq!(names(&bench), there);
}

fn what_every_target_has_is_left_out(kind: Kind) {
    let (bench, mut driver) = member_in_use(kind);
    package(&bench, &mut driver, vec![]);
    let all: Vec<KeyName> = names(&bench).into_iter().collect();
    let file = package(&bench, &mut driver, all[1..].to_vec());
    assert_eq!(entries(&file).len(), 1, "the one that nobody has");
    let file = package(&bench, &mut driver, all.clone());
    assert_eq!(entries(&file), []);
    assert_eq!(names(&bench).into_iter().collect::<Vec<_>>(), all, "what is there is told all the same");
}

fn a_key_that_cannot_leave_is_listed_and_refuses_no_package(kind: Kind) {
    let (bench, mut driver) = member_in_use(kind);
    custody(&bench, &["locked", "stays"]);
    let appended = append_for(&bench, &mut driver, JobPurpose::Package { skip: vec![] });
    let Ok(HsmAnswer::SectionExported { keys, left_out }) = appended else { panic!("{appended:?}") };
    assert_eq!(keys, 3);
    assert!(left_out > 0, "it stays");
    let refused = append_for(&bench, &mut driver, JobPurpose::Backup { accepted: vec![] });
    assert_eq!(refused, Err(HsmFailure::Refused(Refusal::KeysCannotLeave)), "of a backup it has to be accepted");
}

fn a_package_is_planned_and_made_by_the_members_own_key(kind: Kind) {
    let (bench, mut driver) = member_in_use(kind);
    let proof = custody(&bench, &["proof"]);
    let file = package(&bench, &mut driver, vec![]);
    spool(&bench, &file);
    assert_eq!(plan(&mut driver), planned(0, OBJECTS, 0, 0), "at its own source everything is there");
    let (bench, mut driver) = member(kind);
    spool(&bench, &file);
    assert_eq!(plan(&mut driver), planned(OBJECTS, 0, 0, 0), "{:?}", driver.notes);
    assert_eq!(make(&mut driver), Ok(HsmAnswer::Imported { made: OBJECTS }), "{:?}", driver.notes);
    assert_eq!(make(&mut driver), Ok(HsmAnswer::Imported { made: 0 }), "once more is the same");
    assert_eq!(custody(&bench, &["check", &proof]), "right");
    // U is the member's: the end of a restore does not take it.
    let keep = Some((KEY_ID, UID));
    assert_eq!(driver.call(0, HsmCall::DropUnwrapKey { keep }), Ok(HsmAnswer::UnwrapKeyDropped));
    assert_eq!(plan(&mut driver), planned(0, OBJECTS, 0, 0));
    assert_eq!(driver.call(0, HsmCall::DropUnwrapKey { keep: None }), Ok(HsmAnswer::UnwrapKeyDropped));
    assert_eq!(plan(&mut driver), Err(HsmFailure::Refused(Refusal::SlotWithoutUnwrapKey)));
}

/// With plain PKCS#11 calls, as whoever holds the token PIN of a member's slot could make them.
fn p17_the_unwrap_key_of_one_slot_opens_nothing_of_another(kind: Kind) {
    // CKM_AES_KEY_WRAP_PAD, which SoftHSM means RFC 5649 by, and CKM_AES_KEY_WRAP_KWP (PKCS#11 v3.1).
    let mechanism = match kind {
        Kind::SoftHsm => "8458",
        Kind::Kryoptic => "8459",
    };
    let open = |bench: &Bench, blob: &str| {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_floor"));
        program.arg(bench.real_module()).args([TOKEN, PIN, mechanism, "open", blob]).envs(bench.environment());
        build::run("softhsm2", &mut program).trim().to_owned()
    };
    let (bench, mut driver) = member_in_use(kind);
    let file = package(&bench, &mut driver, vec![]);
    drop(driver);
    let (_, blob) = blobs(&file).into_iter().find(|(id, _)| *id == [3]).expect("custody made an AES key");
    let blob: String = blob.iter().map(|byte| format!("{byte:02x}")).collect();
    // It opens its own slot's, which is what the README says of it.
    assert_eq!(open(&bench, &blob), "allowed");
    let other = bench_with_token(kind);
    let (mut driver, _) = Driver::up(other.settings(&[label(TOKEN)]));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    let names = (KEY_ID, [0xB6; 16]);
    assert_eq!(driver.put_keys_of_member(0, names, &[0x77; 32], &[0x78; 32]), Ok(HsmAnswer::BackupKeysPut));
    drop(driver);
    // Not for want of the mechanism: that was shown.
    let told = open(&other, &blob);
    assert!(told.starts_with("refused"), "{told}");
}

fn p18_a_section_of_another_key_makes_nothing(kind: Kind) {
    let (bench, mut driver) = member_in_use(kind);
    let file = package(&bench, &mut driver, vec![]);
    let bench = bench_with_token(kind);
    let (mut driver, _) = Driver::up(bench.settings(&[label(TOKEN)]));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    assert_eq!(driver.put_keys_of_member(0, (KEY_ID, UID), &[0x77; 32], &[0x78; 32]), Ok(HsmAnswer::BackupKeysPut));
    spool(&bench, &file);
    let before = custody(&bench, &["show"]);
    assert_eq!(plan(&mut driver), Err(HsmFailure::Refused(Refusal::ExportOfAnotherKey)));
    assert_eq!(make(&mut driver), Err(HsmFailure::Refused(Refusal::TransferFiles)), "there is no plan");
    assert_eq!(custody(&bench, &["show"]), before);
}

fn p25_what_is_recorded_as_removed_is_not_made(kind: Kind) {
    let (bench, mut driver) = member_in_use(kind);
    let file = package(&bench, &mut driver, vec![]);
    let all = names(&bench);
    let (bench, mut driver) = member(kind);
    spool(&bench, &file);
    let unwanted: BTreeSet<KeyName> = all.iter().copied().take(2).collect();
    transfer_dir::write_unwanted(&bench.transfer_dir(), UID, &unwanted).expect("the bench's own directory");
    assert_eq!(plan(&mut driver), planned(OBJECTS - 2, 0, 0, 2), "{:?}", driver.notes);
    assert_eq!(make(&mut driver), Ok(HsmAnswer::Imported { made: OBJECTS - 2 }));
    assert!(matches!(driver.call(0, HsmCall::Inventory { uid: UID }), Ok(HsmAnswer::Counted(_))));
    assert_eq!(names(&bench), all.difference(&unwanted).copied().collect());
}

fn p25_another_value_under_the_same_id_is_a_conflict(kind: Kind) {
    let (bench, mut driver) = member_in_use(kind);
    let file = package(&bench, &mut driver, vec![]);
    // The same program makes keys of the same ids, and others.
    let (bench, mut driver) = member_in_use(kind);
    spool(&bench, &file);
    let Ok(HsmAnswer::ImportPrepared(found)) = plan(&mut driver) else { panic!("{:?}", driver.notes) };
    assert!(found.conflict >= 3, "{found:?}");
}

fn a_package_without_the_members_key_is_refused(kind: Kind) {
    let (bench, mut driver) = member_in_use(kind);
    let file = package(&bench, &mut driver, vec![]);
    let bench = bench_with_token(kind);
    let (mut driver, _) = Driver::up(bench.settings(&[label(TOKEN)]));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    assert_eq!(driver.put_backup_keys(0, (KEY_ID, UID), &KEK, &MAK), Ok(HsmAnswer::BackupKeysPut));
    spool(&bench, &file);
    assert_eq!(plan(&mut driver), Err(HsmFailure::Refused(Refusal::SlotWithoutUnwrapKey)), "there is no U");
    drop(driver);
}

/// One number in 256 begins with a zero: whoever writes it shorter makes another blob of the same key.
fn every_key_of_many_is_the_same_when_it_comes_again(kind: Kind) {
    const KEYS: u32 = 600;
    let (bench, mut driver) = member(kind);
    custody(&bench, &["many", &KEYS.to_string()]);
    let file = package(&bench, &mut driver, vec![]);
    for target in [other(kind), kind] {
        let (bench, mut driver) = member(target);
        spool(&bench, &file);
        assert_eq!(plan(&mut driver), planned(KEYS, 0, 0, 0), "{:?}", driver.notes);
        assert_eq!(make(&mut driver), Ok(HsmAnswer::Imported { made: KEYS }), "{:?}", driver.notes);
        assert_eq!(plan(&mut driver), planned(0, KEYS, 0, 0), "{:?}", driver.notes);
    }
    assert_eq!(plan_of(&bench, &mut driver, &file), planned(0, KEYS, 0, 0), "{:?}", driver.notes);
}

fn plan_of(bench: &Bench, driver: &mut Driver, file: &[u8]) -> Result<HsmAnswer, HsmFailure> {
    spool(bench, file);
    plan(driver)
}
