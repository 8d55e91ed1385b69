//! Shares on cards and what comes of their secrets, against others: vectors that a second
//! implementation checks (`tests/vectors/check.py`), and a search of the stack for what
//! stays behind.

use std::fs;
use std::process::Command;

use serde_json::Value;
use sha2::{Digest as _, Sha512};
use slotwarden_core::backup::{kek, mak, mak_check};
use slotwarden_core::code::{so_pin, token_pin};
use slotwarden_core::share::card_set::{
    CardQuorum, check_combined, combine, key_id, public_key, set_id, share_of, sign,
};
use slotwarden_core::share::record::{HEADER_BYTES, RECORD_BYTES, RecordProblem, ShareHeader, ShareKind, check, write};
use slotwarden_tests::excluded;
use slotwarden_tests::stack::{far_down, this_stack};
use zeroize::Zeroizing;

// ---------------------------------------------------------------- vectors

#[test]
fn p11_records_that_the_vectors_refuse_are_refused_for_the_same_reason() {
    let vectors = vectors("share-record.json");
    let refused = list(&vectors["refused"]);
    assert!(refused.len() >= 40);
    for case in refused {
        let record = bytes(&case["record"]);
        let mut y = [9; 32];
        let problem = check(&record, &mut y).err();
        assert_eq!((problem, y), (Some(problem_of(text(&case["problem"]))), [0; 32]), "{}", case["why"]);
    }
}

#[test]
fn sets_on_cards_are_those_of_the_vectors() {
    let vectors = vectors("share-record.json");
    let mut quorums = Vec::new();
    for vector in list(&vectors["sets"]) {
        let (seed, secret) = (array(&vector["seed"]), array(&vector["secret"]));
        let kind = kind_of(text(&vector["kind"]));
        let quorum = CardQuorum::new(number(&vector["m"]), number(&vector["n"])).expect("a quorum");
        let (public_key, key_id) = (public_key(&seed), key_id(&secret));
        let set_id = set_id(&public_key);
        assert_eq!(quorum.is_for(kind), Ok(()));
        assert_eq!(public_key.to_vec(), bytes(&vector["public_key"]));
        assert_eq!(set_id.to_vec(), bytes(&vector["set_id"]));
        assert_eq!(key_id.to_vec(), bytes(&vector["key_id"]));
        let records = list(&vector["records"]);
        assert_eq!(records.len(), usize::from(quorum.n()));
        let mut shares = Vec::new();
        for (x, vector_of_x) in (1..).zip(records) {
            let header = ShareHeader {
                kind,
                set_id,
                subject: array(&vector["subject"]),
                m: quorum.m(),
                n: quorum.n(),
                x,
                generation: vector["generation"].as_u64().and_then(|it| it.try_into().ok()).expect("32 bits"),
                created_s: vector["created_s"].as_u64().expect("64 bits"),
                key_id,
            };
            let (mut y, mut y_again) = ([0; 32], [0; 32]);
            assert!(share_of(&seed, &secret, &set_id, quorum, x, &mut y));
            assert_eq!((number(&vector_of_x["x"]), y.to_vec()), (x, bytes(&vector_of_x["y"])));
            let signed = sign(&seed, &header, &y);
            assert_eq!(signed.signature.to_vec(), bytes(&vector_of_x["signature"]));
            let mut record = [0; RECORD_BYTES];
            write(&signed, &y, &mut record);
            assert_eq!(record.to_vec(), bytes(&vector_of_x["record"]));
            assert_eq!(check(&record, &mut y_again), Ok(signed));
            assert_eq!(y_again, y);
            assert_eq!(ShareHeader::parse(&record[..HEADER_BYTES]), Ok(header));
            shares.push((x, y));
        }
        let m = usize::from(quorum.m());
        for chosen in shares.windows(m) {
            let chosen: Vec<(u8, &[u8; 32])> = chosen.iter().map(|(x, y)| (*x, y)).collect();
            let mut again = [0; 32];
            assert!(combine(quorum.m(), &chosen, &mut again) && check_combined(&mut again, &key_id));
            assert_eq!(again, secret);
        }
        quorums.push((kind, quorum.m(), quorum.n()));
    }
    for wanted in [
        (ShareKind::BackupKey, 2, 3),
        (ShareKind::BackupKey, 3, 5),
        (ShareKind::BackupKey, 16, 16),
        (ShareKind::SlotUser, 1, 2),
        (ShareKind::SoPin, 1, 1),
    ] {
        assert!(quorums.contains(&wanted), "the vectors have no {wanted:?}");
    }
}

#[test]
fn ids_keys_and_pins_are_those_of_the_vectors() {
    let vectors = vectors("derivations.json");
    for vector in list(&vectors["key_ids"]) {
        assert_eq!(key_id(&array(&vector["secret"])).to_vec(), bytes(&vector["key_id"]));
    }
    for vector in list(&vectors["set_ids"]) {
        assert_eq!(set_id(&array(&vector["public_key"])).to_vec(), bytes(&vector["set_id"]));
    }
    for vector in list(&vectors["backup_keys"]) {
        let (backup_key, slot_uid) = (array(&vector["backup_key"]), array(&vector["slot_uid"]));
        let (mut wraps, mut authenticates) = ([0; 32], [0; 32]);
        kek(&backup_key, &slot_uid, &mut wraps);
        mak(&backup_key, &slot_uid, &mut authenticates);
        assert_eq!(wraps.to_vec(), bytes(&vector["kek"]));
        assert_eq!(authenticates.to_vec(), bytes(&vector["mak"]));
        assert_eq!(mak_check(&authenticates).to_vec(), bytes(&vector["mak_check"]));
    }
    for kind in ["slot_pins", "so_pins"] {
        let pins = list(&vectors[kind]);
        assert!(pins.iter().any(|vector| number(&vector["chars"]) == 22), "no short token among {kind}");
        for vector in pins {
            let (secret, chars) = (bytes(&vector["secret"]), usize::from(number(&vector["chars"])));
            let (slot_uid, set_id) = (array(&vector["slot_uid"]), array(&vector["set_id"]));
            let mut out = [0; 32];
            let written = match vector.get("code") {
                Some(code) => token_pin(&secret, text(code).as_bytes(), &slot_uid, &set_id, chars, &mut out),
                None => so_pin(&secret, &slot_uid, &set_id, chars, &mut out),
            };
            assert_eq!((written, &out[..chars]), (chars, text(&vector["pin"]).as_bytes()), "{vector}");
        }
    }
}

#[test]
fn the_second_implementation_computes_every_value_of_the_vectors() {
    let checked = checks(&excluded::repository().join("tests/vectors"));
    assert_eq!(checked, Ok("446 values are right\n".to_owned()));
}

#[test]
fn the_second_implementation_notices_every_value_that_is_altered() {
    let altered = tempfile::tempdir().expect("a folder for a while");
    let files = ["check.py", "share-record.json", "derivations.json"];
    for file in files {
        let from = excluded::repository().join("tests/vectors").join(file);
        fs::copy(from, altered.path().join(file)).expect("the vectors are there");
    }
    for (file, place) in [
        ("share-record.json", "/sets/0/coefficients/1"),
        ("share-record.json", "/sets/2/records/15/y"),
        ("share-record.json", "/sets/3/records/1/signature"),
        ("share-record.json", "/sets/5/records/0/record"),
        ("share-record.json", "/refused/40/problem"),
        ("derivations.json", "/backup_keys/8/kek"),
        ("derivations.json", "/slot_pins/0/pin"),
        ("derivations.json", "/so_pins/0/pin"),
    ] {
        let path = altered.path().join(file);
        let mut json = vectors(file);
        let value = json.pointer_mut(place).expect("the vectors have this place");
        let digit = text(value).chars().next().expect("a value");
        let other = text(value).replacen(digit, if digit == '2' { "3" } else { "2" }, 1);
        *value = Value::String(other);
        fs::write(&path, json.to_string()).expect("a folder of one's own");
        assert!(checks(altered.path()).is_err(), "{file}{place} can be anything");
        fs::copy(excluded::repository().join("tests/vectors").join(file), &path).expect("a folder of one's own");
    }
}

/// What `check.py` in this folder says: on standard output, or why it refuses.
fn checks(folder: &std::path::Path) -> Result<String, String> {
    // Debian's own, since that is the one with Debian's package.
    let ended = Command::new("/usr/bin/python3").arg("-B").arg(folder.join("check.py")).output();
    let ended = ended.expect("Python is there: install python3-cryptography");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!said.contains("Traceback"), "install python3-cryptography, if that is what is missing:\n{said}");
    if ended.status.success() { Ok(String::from_utf8_lossy(&ended.stdout).into_owned()) } else { Err(said) }
}

fn vectors(file: &str) -> Value {
    let path = excluded::repository().join("tests/vectors").join(file);
    serde_json::from_str(&fs::read_to_string(&path).expect("the vectors are there")).expect("the vectors are JSON")
}

fn problem_of(name: &str) -> RecordProblem {
    match name {
        "missing" => RecordProblem::Missing,
        "not-ours" => RecordProblem::NotOurs,
        "newer" => RecordProblem::Newer,
        "malformed" => RecordProblem::Malformed,
        "forged" => RecordProblem::Forged,
        other => panic!("no such problem: {other}"),
    }
}

fn kind_of(name: &str) -> ShareKind {
    match name {
        "backup-key" => ShareKind::BackupKey,
        "slot-user" => ShareKind::SlotUser,
        "so-pin" => ShareKind::SoPin,
        other => panic!("no such kind: {other}"),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().filter(|list| !list.is_empty()).expect("a list with something in it")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn number(value: &Value) -> u8 {
    value.as_u64().and_then(|number| u8::try_from(number).ok()).expect("a small number")
}

fn bytes(value: &Value) -> Vec<u8> {
    let digits = text(value);
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal")).collect()
}

fn array<const BYTES: usize>(value: &Value) -> [u8; BYTES] {
    bytes(value).try_into().expect("as many bytes as its place has")
}

// ---------------------------------------------------------------- what stays behind

/// What is done with cards, each by itself: what one leaves behind the next could overwrite.
/// Everything comes inverted, so that the test does not find its own copies.
const LIVES: [(&str, Life); 4] =
    [("dealing", deal), ("signing", sign_one), ("reading", read), ("combining", put_together)];

type Life = fn(&Inverted);

/// Seed and secret of a set of 3 of 5, its shares, and the record of share 5.
struct Inverted {
    seed: [u8; 32],
    secret: [u8; 32],
    shares: [[u8; 32]; 5],
    record: [u8; RECORD_BYTES],
}

/// A place that is wiped, to be filled with what was inverted. Filled when it is returned, it
/// would leave a copy where it was made.
fn place<const BYTES: usize>() -> Zeroizing<[u8; BYTES]> {
    Zeroizing::new([0; BYTES])
}

fn fill(place: &mut [u8], inverted: &[u8]) {
    place.iter_mut().zip(inverted).for_each(|(place, byte)| *place = !byte);
}

#[inline(never)]
fn deal(inverted: &Inverted) {
    let (mut seed, mut secret, mut y) = (place(), place(), place());
    fill(&mut *seed, &inverted.seed);
    fill(&mut *secret, &inverted.secret);
    let set_id = set_id(&public_key(&seed));
    for x in 1..=5 {
        assert!(share_of(&seed, &secret, &set_id, quorum(), x, &mut y));
    }
}

#[inline(never)]
fn sign_one(inverted: &Inverted) {
    let (mut seed, mut secret, mut y, mut record) = (place(), place(), place(), place());
    fill(&mut *seed, &inverted.seed);
    fill(&mut *secret, &inverted.secret);
    fill(&mut *y, &inverted.shares[4]);
    write(&sign(&seed, &header(&seed, &secret, 5), &y), &y, &mut record);
    assert_eq!(record.iter().map(|byte| !byte).collect::<Vec<u8>>(), inverted.record);
}

#[inline(never)]
fn read(inverted: &Inverted) {
    let (mut record, mut y) = (place::<RECORD_BYTES>(), place());
    fill(&mut *record, &inverted.record);
    record[199] ^= 1;
    assert_eq!(check(record.as_slice(), &mut y), Err(RecordProblem::Forged));
    record[199] ^= 1;
    assert!(check(record.as_slice(), &mut y).is_ok());
}

#[inline(never)]
fn put_together(inverted: &Inverted) {
    let (mut one, mut two, mut five, mut secret) = (place(), place(), place(), place());
    fill(&mut *one, &inverted.shares[0]);
    fill(&mut *two, &inverted.shares[1]);
    fill(&mut *five, &inverted.shares[4]);
    assert!(combine(3, &[(1, &one), (2, &two), (5, &five)], &mut secret));
    let id = key_id(&secret);
    assert!(check_combined(&mut secret, &id));
    let (mut wraps, mut authenticates, mut pin) = (place(), place(), place::<32>());
    kek(&secret, &[1; 16], &mut wraps);
    mak(&secret, &[1; 16], &mut authenticates);
    assert_eq!(so_pin(secret.as_slice(), &[1; 16], &[2; 16], 32, pin.as_mut_slice()), 32);
    secret[0] ^= 1;
    assert!(!check_combined(&mut secret, &id));
}

fn quorum() -> CardQuorum {
    CardQuorum::new(3, 5).expect("a quorum")
}

fn header(seed: &[u8; 32], secret: &[u8; 32], x: u8) -> ShareHeader {
    ShareHeader {
        kind: ShareKind::BackupKey,
        set_id: set_id(&public_key(seed)),
        subject: [7; 16],
        m: 3,
        n: 5,
        x,
        generation: 1,
        created_s: 0,
        key_id: key_id(secret),
    }
}

#[test]
fn p16_dealing_signing_reading_and_combining_cards_leave_nothing_secret_on_the_stack() {
    let computed = std::thread::spawn(invert_a_set).join().expect("the arithmetic does not panic");
    let stacks = LIVES.map(|(what, live)| {
        far_down(&mut || live(&computed));
        (what, this_stack())
    });
    let secrets = what_must_not_stay(&computed);
    for (what, stack) in &stacks {
        let stays = |piece: &[u8]| memchr::memmem::find(stack, piece).is_some();
        let found: Vec<&str> =
            secrets.iter().filter(|(_, piece)| stays(piece)).map(|(whose, _)| whose.as_str()).collect();
        assert!(found.is_empty(), "after {what} these stay behind: {found:?}");
    }
}

fn invert_a_set() -> Inverted {
    let seed: [u8; 32] = std::array::from_fn(|nth| (nth as u8).wrapping_mul(37) ^ 0x5C);
    let secret: [u8; 32] = std::array::from_fn(|nth| (nth as u8).wrapping_mul(53) ^ 0x91);
    let shares = [1, 2, 3, 4, 5].map(|x| {
        let mut y = [0; 32];
        assert!(share_of(&seed, &secret, &set_id(&public_key(&seed)), quorum(), x, &mut y));
        y
    });
    let mut record = [0; RECORD_BYTES];
    write(&sign(&seed, &header(&seed, &secret, 5), &shares[4]), &shares[4], &mut record);
    Inverted {
        seed: seed.map(|byte| !byte),
        secret: secret.map(|byte| !byte),
        shares: shares.map(|y| y.map(|byte| !byte)),
        record: record.map(|byte| !byte),
    }
}

/// What must not stay behind, in pieces of 16 bytes: a part of a secret is a secret (eight or
/// fewer pass through a register, which the compiler may put anywhere). The private key and
/// its nonce are expanded as RFC 8032, sections 5.1.5 and 5.1.6, say.
fn what_must_not_stay(inverted: &Inverted) -> Vec<(String, Vec<u8>)> {
    let (seed, secret) = (inverted.seed.map(|byte| !byte), inverted.secret.map(|byte| !byte));
    let of_set = set_id(&public_key(&seed));
    let signing_seed = expand(&seed, b"slotwarden/card-set/signing/v1", 32);
    let private = Sha512::digest(&signing_seed).to_vec();
    let coefficients_info = [b"slotwarden/card-set/coefficients/v1".as_slice(), &of_set].concat();
    let (mut wraps, mut authenticates, mut pin) = ([0; 32], [0; 32], [0; 32]);
    kek(&secret, &[1; 16], &mut wraps);
    mak(&secret, &[1; 16], &mut authenticates);
    assert_eq!(so_pin(&secret, &[1; 16], &[2; 16], 32, &mut pin), 32);
    let record = inverted.record.map(|byte| !byte);
    let nonce = Sha512::digest([&private[32..], &record[..136]].concat());
    let mut whole = vec![
        ("the seed".to_owned(), seed.to_vec()),
        ("the secret".into(), secret.to_vec()),
        ("the seed of the private key".into(), signing_seed),
        // Clamping changes its first and last byte.
        ("the scalar".into(), private[1..31].to_vec()),
        ("the prefix of the nonces".into(), private[32..].to_vec()),
        ("the nonce".into(), nonce.to_vec()),
        ("the coefficients".into(), expand(&seed, &coefficients_info, 64)),
        ("the KEK".into(), wraps.to_vec()),
        ("the MAK".into(), authenticates.to_vec()),
        ("the PIN".into(), pin.to_vec()),
    ];
    whole.extend((1..).zip(&inverted.shares).map(|(x, y)| (format!("share {x}"), y.map(|byte| !byte).to_vec())));
    let pieces = whole.iter().flat_map(|(whose, bytes)| bytes.chunks_exact(16).map(move |piece| (whose, piece)));
    pieces.map(|(whose, piece)| (whose.clone(), piece.to_vec())).collect()
}

/// HKDF-Expand (RFC 5869) out of the core's own.
fn expand(prk: &[u8; 32], info: &[u8], bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    assert!(slotwarden_core::derive::expand(prk, [info, &[]], &mut out));
    out
}
