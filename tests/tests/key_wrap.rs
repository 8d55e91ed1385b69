//! Key wrap with padding (RFC 5649) against vectors that nobody here made: Wycheproof's and NIST's.
//!
//! They run wherever the service meets it: in the software that says what W has to give, in a
//! module that wraps a known key under a known W for an export, and in a module that unwraps an
//! entry of a file with a known U. The worker puts W and U into the token and chooses the mechanism, as
//! ever. What is no key wrapped so makes nothing: the log of the forwarding module says what was asked of
//! the token after the blob. Our keys have 256 bits, so of the vectors those with such a key count for modules.

use std::fs;
use std::process::Command;

use aes_kw::{KeyInit, KwpAes128, KwpAes192, KwpAes256};
use slotwarden_core::effect::{HsmAnswer, HsmCall, ImportPlan};
use slotwarden_core::fault::{HsmFailure, Refusal};
use slotwarden_tests::driver::Driver;
use slotwarden_tests::exports::{KEY_ID, MAK, UID, append, blobs, file_of_a_known_secret, finish, spool};
use slotwarden_tests::modules::{Bench, Kind, PIN, label};
use slotwarden_tests::{build, excluded};
use wycheproof::TestResult;
use wycheproof::keywrap::{TestName, TestSet};

slotwarden_tests::on_both_modules! {
    what_a_module_wraps_for_an_export_is_what_the_vectors_say
    p18_what_a_file_brings_is_unwrapped_as_the_vectors_say_and_nothing_else_makes_a_key
}

const TOKEN: &str = "ca-root";
/// Of NIST's, modules are given one in so many: each costs a key in the token.
const ONE_IN: usize = 20;

/// One known answer.
#[derive(Clone, Debug)]
struct Vector {
    name: String,
    kek: Vec<u8>,
    /// `None`: the blob is no key wrapped under this KEK.
    key: Option<Vec<u8>>,
    wrapped: Vec<u8>,
}

fn wycheproof(name: TestName) -> Vec<Vector> {
    let set = TestSet::load(name).expect("the crate carries it");
    let tests = set.test_groups.iter().flat_map(|group| &group.tests);
    let vector = |test: &wycheproof::keywrap::Test| Vector {
        name: format!("{name:?} {}: {}", test.tc_id, test.comment),
        kek: test.key.to_vec(),
        // What a reader may take or leave counts as neither.
        key: (test.result == TestResult::Valid).then(|| test.pt.to_vec()),
        wrapped: test.ct.to_vec(),
    };
    tests.filter(|test| test.result != TestResult::Acceptable).map(vector).collect()
}

fn nist(name: &str) -> Vec<Vector> {
    let path = excluded::repository().join("tests/vectors/key-wrap").join(name);
    let text = fs::read_to_string(path).expect("it is there");
    let (mut all, mut length) = (Vec::new(), "");
    for block in text.split("\n\n") {
        length = block.strip_prefix("[PLAINTEXT LENGTH = ").map_or(length, |rest| rest.trim_end_matches([']', '\n']));
        let value = |of: &str| block.lines().find_map(|line| line.strip_prefix(of)).map(bytes);
        let (Some(kek), Some(wrapped)) = (value("K = "), value("C = ")) else { continue };
        let count = block.lines().next().unwrap_or_default();
        all.push(Vector { name: format!("{name} {length}: {count}"), kek, key: value("P = "), wrapped });
    }
    all
}

/// Everything for keys of 256 bits; of NIST's only some.
fn for_modules() -> Vec<Vector> {
    let some = |name| nist(name).into_iter().step_by(ONE_IN);
    let all = wycheproof(TestName::AesKeyWrapWithPadding).into_iter().chain(some("KWP_AE_256.txt"));
    all.chain(some("KWP_AD_256.txt")).filter(|vector| vector.kek.len() == 32).collect()
}

fn bytes(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.trim().len()).step_by(2).map(byte).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn wrap(kek: &[u8], key: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![0; key.len() + 16];
    let wrapped = match kek.len() {
        16 => KwpAes128::new_from_slice(kek).ok()?.wrap_key(key, &mut out).ok()?,
        24 => KwpAes192::new_from_slice(kek).ok()?.wrap_key(key, &mut out).ok()?,
        _ => KwpAes256::new_from_slice(kek).ok()?.wrap_key(key, &mut out).ok()?,
    };
    Some(wrapped.to_vec())
}

fn unwrap(kek: &[u8], wrapped: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![0; wrapped.len()];
    let key = match kek.len() {
        16 => KwpAes128::new_from_slice(kek).ok()?.unwrap_key(wrapped, &mut out).ok()?,
        24 => KwpAes192::new_from_slice(kek).ok()?.unwrap_key(wrapped, &mut out).ok()?,
        _ => KwpAes256::new_from_slice(kek).ok()?.unwrap_key(wrapped, &mut out).ok()?,
    };
    Some(key.to_vec())
}

#[test]
fn software_agrees_with_every_vector() {
    let mut count = 0;
    let ours = [wycheproof(TestName::AesKeyWrapWithPadding), nist("KWP_AE_256.txt"), nist("KWP_AD_256.txt")].concat();
    for vector in &ours {
        // RFC 5649 knows no empty key, the crate does; the service lets it wrap only.
        let unwrapped = unwrap(&vector.kek, &vector.wrapped).filter(|key| !key.is_empty());
        assert_eq!(unwrapped, vector.key, "{}", vector.name);
        if let Some(key) = &vector.key {
            assert_eq!(wrap(&vector.kek, key).as_ref(), Some(&vector.wrapped), "{}", vector.name);
        }
        count += 1;
    }
    assert_eq!(count, 254 + 200 + 200, "none was lost on the way here");
    // RFC 3394 wraps whole blocks without their length, with another check.
    let other = [wycheproof(TestName::AesKeyWrap), nist("KW_AE_256.txt")].concat();
    assert!(other.iter().filter(|vector| vector.key.is_some()).count() > 50);
    for vector in other {
        assert_eq!(unwrap(&vector.kek, &vector.wrapped), None, "{}", vector.name);
    }
}

fn custody(bench: &Bench, words: &[&str]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_custody"));
    program.arg(bench.real_module()).args([TOKEN, PIN]).args(words).envs(bench.environment());
    build::run("softhsm2", &mut program).trim().to_owned()
}

fn logged_in(bench: &Bench) -> Driver {
    let (mut driver, _) = Driver::up(bench.settings(&[label(TOKEN)]));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    driver
}

fn id(number: usize) -> Vec<u8> {
    u32::try_from(number).expect("a small number").to_be_bytes().to_vec()
}

fn what_a_module_wraps_for_an_export_is_what_the_vectors_say(kind: Kind) {
    let mut bench = Bench::new(kind, 1);
    bench.make_token(TOKEN);
    let valid: Vec<(Vector, Vec<u8>)> =
        for_modules().into_iter().filter_map(|vector| Some((vector.clone(), vector.key?))).collect();
    assert!(valid.len() > 35, "{}", valid.len());
    for (number, (_, key)) in valid.iter().enumerate() {
        custody(&bench, &["known", &hex(&id(number)), &hex(key)]);
    }
    let mut driver = logged_in(&bench);
    // SoftHSM fills a secret up to whole blocks and wraps that: such keys stay behind, by name.
    let stays = |key: &[u8]| kind == Kind::SoftHsm && !key.len().is_multiple_of(8);
    let names: Vec<String> =
        valid.iter().enumerate().filter(|(_, (_, key))| stays(key)).map(|(number, _)| hex(&id(number))).collect();
    let accepted: Vec<&str> = names.iter().map(String::as_str).collect();
    for (number, (vector, key)) in valid.iter().enumerate() {
        let kek: &[u8; 32] = vector.kek.as_slice().try_into().expect("256 bits");
        assert_eq!(driver.put_backup_keys(0, (KEY_ID, UID), kek, &MAK), Ok(HsmAnswer::BackupKeysPut));
        let exported = append(&bench, &mut driver, &accepted);
        assert!(matches!(exported, Ok(HsmAnswer::SectionExported { .. })), "{exported:?} {:?}", driver.notes);
        let all = blobs(&finish(&bench));
        let blob = all.into_iter().find(|(has, _)| *has == id(number)).map(|(_, blob)| blob);
        let expected = (!stays(key)).then(|| vector.wrapped.clone());
        assert_eq!(blob.map(|blob| hex(&blob)), expected.map(|blob| hex(&blob)), "{}", vector.name);
    }
}

fn p18_what_a_file_brings_is_unwrapped_as_the_vectors_say_and_nothing_else_makes_a_key(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 1);
    bench.more.push(("FORWARD_COUNT".into(), "all".into()));
    bench.make_token(TOKEN);
    let mut driver = logged_in(&bench);
    // Wrapped by RFC 3394: no such key may come out here.
    let other = wycheproof(TestName::AesKeyWrap).into_iter().chain(nist("KW_AE_256.txt"));
    let other = other.filter(|vector| vector.kek.len() == 32 && vector.key.is_some()).step_by(4);
    let other = other.map(|vector| Vector { key: None, ..vector });
    let (mut valid, mut invalid) = (0, 0);
    for (number, vector) in for_modules().into_iter().chain(other).enumerate() {
        let kek: &[u8; 32] = vector.kek.as_slice().try_into().expect("256 bits");
        if vector.wrapped.is_empty() {
            // No file can say so: a secret key has a blob.
            continue;
        }
        spool(&bench, &file_of_a_known_secret(&id(number), &vector.wrapped));
        let before = bench.calls_of(TOKEN).len();
        let planned = driver.prepare_import(0, (KEY_ID, UID), kek, &MAK);
        if let Some(key) = &vector.key {
            let plan = ImportPlan { new: 1, same: 0, conflict: 0, removed: 0 };
            assert_eq!(planned, Ok(HsmAnswer::ImportPrepared(plan)), "{} {:?}", vector.name, driver.notes.last());
            let made = driver.call(0, HsmCall::Import { key_id: KEY_ID, uid: UID });
            assert_eq!(made, Ok(HsmAnswer::Imported { made: 1 }), "{} {:?}", vector.name, driver.notes.last());
            assert_eq!(custody(&bench, &["value", &hex(&id(number))]), hex(key), "{}", vector.name);
            valid += 1;
        } else {
            assert_eq!(planned, Err(HsmFailure::Refused(Refusal::KeyNotRestorable)), "{}", vector.name);
            let calls = bench.calls_of(TOKEN).split_off(before);
            let blob = calls.iter().rposition(|call| call == "C_UnwrapKey").expect("the module judged it");
            let after = &calls[blob + 1..];
            let makes = |call: &String| {
                ["C_CreateObject", "C_CopyObject", "C_UnwrapKey", "C_SetAttributeValue"].contains(&call.as_str())
            };
            assert!(!after.iter().any(makes), "{}: {after:?}", vector.name);
            invalid += 1;
        }
        assert_eq!(driver.call(0, HsmCall::DropUnwrapKey { keep: None }), Ok(HsmAnswer::UnwrapKeyDropped));
    }
    assert!(valid > 35 && invalid > 80, "{valid} {invalid}");
    let shown = custody(&bench, &["show"]);
    assert_eq!(shown.lines().count(), valid, "the keys of the vectors that hold, and none besides");
}
