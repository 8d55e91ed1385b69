//! A slot's keys of a backup key, and the SO PIN, on two modules nobody here wrote.
//!
//! What the keys allow is tried by a program of its own that knows the token PIN (`misuse`);
//! what the two modules answer differently is named beside its line.

use std::process::Command;

use slotwarden_core::effect::{HsmAnswer, HsmCall, Input};
use slotwarden_core::fault::{Function, HsmFailure, rv};
use slotwarden_core::token::LoginState;
use slotwarden_tests::build;
use slotwarden_tests::driver::Driver;
use slotwarden_tests::modules::{Bench, Kind, PIN, SO_PIN, label};

slotwarden_tests::on_both_modules! {
    nobody_but_a_user_who_is_logged_in_puts_or_keeps_backup_keys
    keys_of_another_length_are_refused
    p17_backup_keys_do_what_they_are_for_and_nothing_else
    nothing_of_the_backup_keys_is_seen_without_a_login
    putting_the_same_keys_again_changes_nothing
    false_keys_of_the_same_name_are_replaced
    other_bytes_under_the_same_id_are_replaced
    keys_of_another_backup_key_are_destroyed_and_others_are_left_alone
    a_worker_that_dies_between_the_two_keys_is_repaired_by_the_same_order
    a_module_that_takes_no_key_in_the_clear_gets_it_by_rsa
    a_token_that_fails_is_not_taken_for_one_with_wrong_keys
    a_wrong_so_pin_is_refused_and_changes_nothing
    another_so_pin_rules_after_it_was_set_and_the_user_keeps_the_code
    the_so_pin_is_not_changed_while_a_user_is_logged_in
}

const TOKEN: &str = "ca-root";
const UID: [u8; 16] = [0xA5; 16];
const KEY_ID: [u8; 16] = [0x11; 16];
const OTHER_KEY_ID: [u8; 16] = [0x22; 16];
const KEK: [u8; 32] = [0x4B; 32];
const MAK: [u8; 32] = [0x4D; 32];

fn refused(code: u64, function: Function) -> Result<HsmAnswer, HsmFailure> {
    Err(HsmFailure::Pkcs11 { code, function })
}

fn kept(present: bool, destroyed: u8) -> Result<HsmAnswer, HsmFailure> {
    Ok(HsmAnswer::BackupKeysKept { present, destroyed, unwrap: false })
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

fn put(driver: &mut Driver) -> Result<HsmAnswer, HsmFailure> {
    driver.put_backup_keys(0, (KEY_ID, UID), &KEK, &MAK)
}

fn keep(driver: &mut Driver, key_id: Option<[u8; 16]>) -> Result<HsmAnswer, HsmFailure> {
    driver.call(0, HsmCall::KeepBackupKeys { key_id, uid: UID, unwrap: true })
}

/// What the program `misuse` prints.
fn misuse(bench: &Bench, more: &[&str]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_misuse"));
    // Past the forwarding module, where there is one.
    let module = match bench.kind {
        Kind::SoftHsm => build::softhsm(),
        Kind::Kryoptic => build::kryoptic(),
    };
    program.arg(module).args([TOKEN, PIN]).args(more).envs(bench.environment());
    build::run("softhsm2", &mut program)
}

/// The lines of its answer that begin so.
fn lines<'a>(text: &'a str, begin: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.strip_prefix(begin)).collect()
}

/// `CKA_ID` of the keys, as the program takes it.
fn id() -> String {
    [KEY_ID, UID].concat().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn nobody_but_a_user_who_is_logged_in_puts_or_keeps_backup_keys(kind: Kind) {
    let bench = bench_with_token(kind);
    let (mut driver, _) = Driver::up(bench.settings(&[label(TOKEN)]));
    assert_eq!(put(&mut driver), refused(rv::USER_NOT_LOGGED_IN, Function::CreateObject));
    assert_eq!(keep(&mut driver, Some(KEY_ID)), refused(rv::USER_NOT_LOGGED_IN, Function::FindObjects));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    assert_eq!(keep(&mut driver, Some(KEY_ID)), kept(false, 0), "nothing was made before the login");
    assert_eq!(put(&mut driver), Ok(HsmAnswer::BackupKeysPut));
    assert_eq!(driver.call(0, HsmCall::Logout), Ok(HsmAnswer::LoggedOut));
    assert_eq!(keep(&mut driver, None), refused(rv::USER_NOT_LOGGED_IN, Function::FindObjects));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    assert_eq!(keep(&mut driver, Some(KEY_ID)), kept(true, 0));
}

fn keys_of_another_length_are_refused(kind: Kind) {
    let bench = bench_with_token(kind);
    let mut driver = logged_in(&bench);
    for (kek, mak) in [(&KEK[..16], &MAK[..]), (&KEK[..], &MAK[..31]), (&[][..], &MAK[..])] {
        let answer = driver.put_backup_keys(0, (KEY_ID, UID), kek, mak);
        assert_eq!(answer, refused(rv::ARGUMENTS_BAD, Function::CreateObject));
    }
    assert_eq!(keep(&mut driver, Some(KEY_ID)), kept(false, 0));
}

fn p17_backup_keys_do_what_they_are_for_and_nothing_else(kind: Kind) {
    let bench = bench_with_token(kind);
    let mut driver = logged_in(&bench);
    assert_eq!(put(&mut driver), Ok(HsmAnswer::BackupKeysPut));
    let told = misuse(&bench, &[]);
    assert_eq!(lines(&told, "allowed "), ["W wraps", "MAK signs"], "{told}");
    let refused = lines(&told, "refused ");
    assert!(refused.len() > 30, "{told}");
    for line in refused.iter().filter(|line| line.contains("wrap") || line.contains("copy")) {
        assert!(!line.ends_with(": MechanismInvalid"), "a refusal for want of the mechanism proves nothing: {line}");
    }
    let mut objects = lines(&told, "object ");
    objects.sort_unstable();
    assert_eq!(objects, ["slotwarden MAK wrap=false unwrap=false", "slotwarden W wrap=true unwrap=false"]);
    assert_eq!(keep(&mut driver, Some(KEY_ID)), kept(true, 0), "and they are as they were");
}

fn nothing_of_the_backup_keys_is_seen_without_a_login(kind: Kind) {
    let bench = bench_with_token(kind);
    let before = lines(&misuse(&bench, &["show"]), "public ").concat();
    let mut driver = logged_in(&bench);
    assert_eq!(put(&mut driver), Ok(HsmAnswer::BackupKeysPut));
    let told = misuse(&bench, &[]);
    assert_eq!(lines(&told, "public ").concat(), before, "{told}");
    let listed = build::run("opensc", bench.pkcs11_tool().args(["--list-objects", "--token-label", TOKEN]));
    assert!(!listed.contains("slotwarden"), "{listed}");
}

fn putting_the_same_keys_again_changes_nothing(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 1);
    bench.more.push(("FORWARD_COUNT".into(), "all".into()));
    bench.make_token(TOKEN);
    let mut driver = logged_in(&bench);
    assert_eq!(put(&mut driver), Ok(HsmAnswer::BackupKeysPut));
    let made = |bench: &Bench| bench.calls("C_CreateObject", TOKEN);
    assert_eq!(made(&bench), 3, "W, a known key for it to wrap, MAK");
    assert_eq!(put(&mut driver), Ok(HsmAnswer::BackupKeysPut));
    assert_eq!(made(&bench), 4, "a known key only");
    assert_eq!(bench.calls("C_DestroyObject", TOKEN), 2, "the known keys");
    let told = misuse(&bench, &[]);
    assert_eq!(lines(&told, "object ").len(), 2, "{told}");
}

fn false_keys_of_the_same_name_are_replaced(kind: Kind) {
    let bench = bench_with_token(kind);
    misuse(&bench, &["make", &id()]);
    let mut driver = logged_in(&bench);
    assert_eq!(keep(&mut driver, Some(KEY_ID)), kept(true, 0), "a W of other bytes looks right until it is tried");
    assert_eq!(put(&mut driver), Ok(HsmAnswer::BackupKeysPut));
    let told = misuse(&bench, &[]);
    assert_eq!(lines(&told, "allowed "), ["W wraps", "MAK signs"], "{told}");
    let mut objects = lines(&told, "object ");
    objects.sort_unstable();
    assert_eq!(
        objects,
        [
            "slotwarden MAK wrap=false unwrap=false",
            "slotwarden U wrap=false unwrap=true",
            "slotwarden W wrap=true unwrap=false"
        ],
        "P17: no object has both; U of this backup key is not this order's business"
    );
    assert_eq!(keep(&mut driver, Some(KEY_ID)), kept(true, 0));
    assert_eq!(keep(&mut driver, None), kept(false, 3));
}

fn other_bytes_under_the_same_id_are_replaced(kind: Kind) {
    let bench = bench_with_token(kind);
    let mut driver = logged_in(&bench);
    assert_eq!(driver.put_backup_keys(0, (KEY_ID, UID), &[1; 32], &[2; 32]), Ok(HsmAnswer::BackupKeysPut));
    assert_eq!(put(&mut driver), Ok(HsmAnswer::BackupKeysPut));
    assert_eq!(keep(&mut driver, None), kept(false, 2), "W and MAK, once each");
}

fn keys_of_another_backup_key_are_destroyed_and_others_are_left_alone(kind: Kind) {
    let bench = bench_with_token(kind);
    build::run(
        "opensc",
        bench.pkcs11_tool().args(["--token-label", TOKEN, "--login", "--pin", PIN]).args([
            "--keygen",
            "--key-type",
            "AES:32",
            "--label",
            "somebody's",
        ]),
    );
    let mut driver = logged_in(&bench);
    assert_eq!(put(&mut driver), Ok(HsmAnswer::BackupKeysPut));
    let other = driver.put_backup_keys(0, (OTHER_KEY_ID, UID), &MAK, &KEK);
    assert_eq!(other, Ok(HsmAnswer::BackupKeysPut));
    let of_another_slot = driver.put_backup_keys(0, (KEY_ID, [0; 16]), &MAK, &KEK);
    assert_eq!(of_another_slot, Ok(HsmAnswer::BackupKeysPut));
    assert_eq!(keep(&mut driver, Some(OTHER_KEY_ID)), kept(true, 4));
    assert_eq!(keep(&mut driver, Some(OTHER_KEY_ID)), kept(true, 0));
    assert_eq!(keep(&mut driver, Some(KEY_ID)), kept(false, 2));
    let told = misuse(&bench, &["show"]);
    let objects = lines(&told, "object ");
    assert!(matches!(objects.as_slice(), [left] if left.starts_with("somebody's")), "{told}");
}

fn a_worker_that_dies_between_the_two_keys_is_repaired_by_the_same_order(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 1);
    bench.make_token(TOKEN);
    let mut driver = logged_in(&bench);
    bench.ask_to("alone", TOKEN);
    let (kek, mak) = (driver.secret_bytes(&KEK), driver.secret_bytes(&MAK));
    driver.order(0, HsmCall::PutBackupKeys { key_id: KEY_ID, uid: UID, kek, mak, unwrap: false });
    driver.wait_up();
    assert_eq!(driver.count(Input::WorkerLost), 1);
    bench.ask_no_more("alone", TOKEN);
    let told = misuse(&bench, &["show"]);
    assert_eq!(lines(&told, "object "), ["slotwarden W wrap=true unwrap=false"], "{told}");
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    assert_eq!(keep(&mut driver, Some(KEY_ID)), kept(false, 0), "one of two is not both");
    assert_eq!(put(&mut driver), Ok(HsmAnswer::BackupKeysPut));
    assert_eq!(keep(&mut driver, Some(KEY_ID)), kept(true, 0));
    assert_eq!(lines(&misuse(&bench, &["show"]), "object ").len(), 2);
}

fn a_module_that_takes_no_key_in_the_clear_gets_it_by_rsa(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 1);
    bench.more.push(("FORWARD_COUNT".into(), "all".into()));
    bench.make_token(TOKEN);
    bench.ask_to("clear", TOKEN);
    let mut driver = logged_in(&bench);
    assert_eq!(put(&mut driver), Ok(HsmAnswer::BackupKeysPut));
    assert_eq!(bench.calls("C_GenerateKeyPair", TOKEN), 1, "one pair for all of them");
    let unwrapped = bench.calls("C_UnwrapKey", TOKEN);
    assert!(unwrapped >= 3, "{unwrapped}: W, the known key, MAK");
    let destroyed = bench.calls("C_DestroyObject", TOKEN);
    assert!(destroyed >= 3, "{destroyed}: the known key and both halves of the pair");
    let told = misuse(&bench, &[]);
    assert_eq!(lines(&told, "allowed "), ["W wraps", "MAK signs"], "{told}");
    assert_eq!(lines(&told, "object ").len(), 2, "{told}");
    assert_eq!(keep(&mut driver, Some(KEY_ID)), kept(true, 0));
}

fn a_token_that_fails_is_not_taken_for_one_with_wrong_keys(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 1);
    bench.make_token(TOKEN);
    let mut driver = logged_in(&bench);
    assert_eq!(put(&mut driver), Ok(HsmAnswer::BackupKeysPut));
    drop(driver);
    for (call, function) in [("C_Sign", Function::Sign), ("C_GetAttributeValue", Function::GetAttributeValue)] {
        bench.more = vec![("FORWARD_FAIL".into(), format!("{call}@{TOKEN}:1:0x30").into())];
        let mut driver = logged_in(&bench);
        assert_eq!(put(&mut driver), refused(rv::DEVICE_ERROR, function));
        assert_eq!(keep(&mut driver, Some(KEY_ID)), kept(true, 0), "after {call} failed, both are still there");
    }
}

fn a_wrong_so_pin_is_refused_and_changes_nothing(kind: Kind) {
    let bench = bench_with_token(kind);
    let (mut driver, _) = Driver::up(bench.settings(&[label(TOKEN)]));
    assert_eq!(driver.set_so_pin(0, "not the so pin", "so-pin-new-1234"), refused(rv::PIN_INCORRECT, Function::Login));
    let state = driver.observe(0);
    // Kryoptic counts and shows nothing until the last try.
    assert_eq!(state.so_count_low, kind == Kind::SoftHsm);
    assert_eq!(state.login, LoginState::Public);
    assert!(!state.count_low, "the user's tries are the user's");
    assert_eq!(driver.unblock(0, "so-pin-new-1234", "next-pin-1234"), refused(rv::PIN_INCORRECT, Function::Login));
    assert_eq!(driver.unblock(0, SO_PIN, "next-pin-1234"), Ok(HsmAnswer::Unblocked));
    assert!(!driver.observe(0).so_count_low);
}

fn another_so_pin_rules_after_it_was_set_and_the_user_keeps_the_code(kind: Kind) {
    let bench = bench_with_token(kind);
    let (mut driver, _) = Driver::up(bench.settings(&[label(TOKEN)]));
    assert_eq!(driver.set_so_pin(0, SO_PIN, "so-pin-new-1234"), Ok(HsmAnswer::SoPinSet));
    assert_eq!(driver.observe(0).login, LoginState::Public, "the SO is logged out");
    assert_eq!(driver.call(0, HsmCall::Settle), Ok(HsmAnswer::Settled));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn), "the user's PIN is what it was");
    assert_eq!(driver.call(0, HsmCall::Logout), Ok(HsmAnswer::LoggedOut));
    assert_eq!(driver.unblock(0, SO_PIN, "next-pin-1234"), refused(rv::PIN_INCORRECT, Function::Login));
    assert_eq!(driver.unblock(0, "so-pin-new-1234", "next-pin-1234"), Ok(HsmAnswer::Unblocked));
    assert_eq!(driver.login(0, "next-pin-1234"), Ok(HsmAnswer::LoggedIn));
}

fn the_so_pin_is_not_changed_while_a_user_is_logged_in(kind: Kind) {
    let bench = bench_with_token(kind);
    let mut driver = logged_in(&bench);
    assert_eq!(driver.set_so_pin(0, SO_PIN, "so-pin-new-1234"), Err(HsmFailure::AlreadyLoggedIn));
    assert_eq!(driver.observe(0).login, LoginState::User, "and the user stays logged in");
    assert_eq!(driver.call(0, HsmCall::Logout), Ok(HsmAnswer::LoggedOut));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
}
