//! Packages: our reader and one that knows nothing of our code agree about what is one, and about what is none.
//!
//! What is inside is the vector of exports, written anew as another node's: its keys are wrapped under
//! the backup key that the cards of that vector give. `SLOTWARDEN_GOLDEN=write cargo test -p slotwarden-tests --test packages`
//! writes `tests/vectors/package.json` anew; HPKE draws what it encapsulates, so that no two are alike.

use std::cell::RefCell;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::rc::Rc;
use std::sync::Arc;

use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use slotwarden::devices::Signer;
use slotwarden::member_keys::{MemberKeys, NodeSecrets};
use slotwarden::package_file::{Wrong, open, seal};
use slotwarden::sync_dir::SlotFacts;
use slotwarden_core::backup::mak;
use slotwarden_core::export::{self, Part, SectionWriter};
use slotwarden_core::ledger::{Fact, KeyName, Known};
use slotwarden_core::package::{Header, Suite};
use slotwarden_core::share::card_set::{check_combined, combine};
use slotwarden_core::share::record::check;
use slotwarden_tests::excluded;
use tempfile::TempDir;

/// The source of every package here, and its two targets.
const SOURCE: u8 = 1;
const TARGETS: [u8; 2] = [2, 3];

fn node(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn public(number: u8) -> [u8; 32] {
    node(number).verifying_key().to_bytes()
}

fn secrets(number: u8) -> NodeSecrets {
    NodeSecrets::from_private(&[number; 32], &[number; 32]).expect("these numbers are private keys")
}

fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("a text");
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(byte).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn json(name: &str) -> Value {
    let path = excluded::repository().join("tests/vectors").join(name);
    serde_json::from_slice(&fs::read(path).expect("it is there")).expect("it is JSON")
}

/// A folder with everything that the readers are given.
struct Bench {
    folder: TempDir,
}

impl Bench {
    /// With the cards of the vector of exports.
    fn new() -> Self {
        let bench = Bench { folder: tempfile::tempdir().expect("a folder for a while") };
        for (number, record) in (1..).zip(json("export.json")["records"].as_array().expect("a list")) {
            bench.write(&format!("card-{number}"), &unhex(record));
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("a folder of one's own");
        path
    }

    /// What the other reader says of these bytes with this private key and these cards.
    fn python(&self, package: &[u8], key: &[u8], cards: &[&str]) -> Output {
        let script = excluded::repository().join("tests/vectors/open_package.py");
        let mut python = Command::new("/usr/bin/python3");
        python
            .arg("-B")
            .arg(script)
            .args([self.write("package", package), self.write("key", key)])
            .args(cards.iter().map(|card| self.path(card)));
        let output = python.output().expect("Python is there: install python3-cryptography");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("Traceback"), "install python3-cryptography, if that is what is missing:\n{said}");
        output
    }

    /// What our reader says, as this target.
    fn open(&self, package: &[u8], own: u8, secrets: &NodeSecrets) -> Result<(Vec<SlotFacts>, bool), Wrong> {
        let opened = open(&self.write("package", package), &public(own), secrets, &self.path("inside"))?;
        Ok((opened.facts, opened.export))
    }
}

fn lines(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// The backup key of the vector of exports.
fn backup_key() -> [u8; 32] {
    let vector = json("export.json");
    let (mut ys, mut key) = ([[0; 32]; 2], [0; 32]);
    let records: Vec<Vec<u8>> = vector["records"].as_array().expect("a list").iter().map(unhex).collect();
    let xs = [0, 1].map(|at: usize| check(&records[at], &mut ys[at]).expect("a record").header);
    assert!(combine(2, &[(xs[0].x, &ys[0]), (xs[1].x, &ys[1])], &mut key) && check_combined(&mut key, &xs[0].key_id));
    key
}

/// HMAC with SHA-256 (RFC 2104) under a key of 32 bytes.
fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let padded = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(place, byte)| *place ^= byte);
        Sha256::new().chain_update(block)
    };
    padded(0x5C).chain_update(padded(0x36).chain_update(message).finalize()).finalize().into()
}

/// A file that grows in memory, for several who write to it in turn.
#[derive(Clone, Default)]
struct Growing(Rc<RefCell<Vec<u8>>>);

impl embedded_io::ErrorType for Growing {
    type Error = core::convert::Infallible;
}

impl embedded_io::Write for Growing {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// What goes into a package: an export of the source, and what it knows of the slot.
struct Inside {
    export: Vec<u8>,
    header: export::Header,
    facts: Vec<SlotFacts>,
}

/// The vector of exports, as the source would have made it.
fn inside() -> Inside {
    let vector = unhex(&json("export.json")["export"]);
    let (written, key) = (Growing::default(), backup_key());
    let mut reader = export::Reader::new(&vector[..]);
    let Ok(Part::Header(theirs)) = reader.next() else { panic!("a header comes first") };
    let header = export::Header { node: public(SOURCE), ..theirs };
    let hash = export::begin(written.clone(), &header).expect("a vector grows");
    // One section is all that the vector has.
    let Ok(Part::Section(section)) = reader.next() else { panic!("then a section") };
    let (uid, mut facts) = (section.uid, Vec::new());
    let mut writer = SectionWriter::begin(written.clone(), hash, &section).expect("a vector grows");
    while let Part::Entry(entry) = reader.next().expect("the vector is whole") {
        let name = KeyName::of_entry(&uid, &entry).expect("it is short");
        facts.push(Fact { name, known: Known { count: 1, here: true } });
        writer.entry(&entry).expect("it was one");
    }
    let mut mac_key = [0; 32];
    mak(&key, &uid, &mut mac_key);
    let mac = hmac(&mac_key, &writer.message());
    writer.end(mac).expect("a vector grows");

    let behind_header = frames(&written.0.borrow())[0].end;
    let body = Sha256::digest(&written.0.borrow()[behind_header..]).into();
    let Ok(Part::End { trailer }) = reader.next() else { panic!("then the end") };
    let signature = node(SOURCE).sign(&export::trailer_message(&hash, &body)).to_bytes();
    let trailer = export::Trailer { hash: body, signature, ..trailer };
    export::write_trailer(written.clone(), &trailer).expect("a vector grows");
    // Of others it knows that they were removed, made again and not here, only heard of, removed elsewhere and still here.
    let others = [(2, false), (3, false), (1, false), (2, true)];
    let others = (0..).zip(others).map(|(number, (count, here))| (KeyName([number; 16]), Known { count, here }));
    facts.extend(others.map(|(name, known)| Fact { name, known }));
    facts.sort_by_key(|fact| fact.name);
    Inside { export: written.0.take(), header, facts: vec![(uid, facts)] }
}

fn header(inside: &Inside, suite: Suite) -> Header {
    let mut targets = TARGETS.map(public);
    targets.sort_unstable();
    Header {
        package_id: [1; 16],
        cluster: inside.header.cluster,
        source: public(SOURCE),
        roster_epoch: 3,
        roster_hash: [3; 32],
        sequence: 300,
        key_id: inside.header.key_id,
        made_s: inside.header.made_s,
        targets: targets.into_iter().collect(),
        suite,
    }
}

/// A package of both keys and facts, or a receipt.
fn sealed(bench: &Bench, inside: &Inside, suite: Suite, is_receipt: bool) -> Vec<u8> {
    let header = header(inside, suite);
    let mut keys: Vec<MemberKeys> =
        TARGETS.iter().map(|number| secrets(*number).public(public(*number)).expect("a private key")).collect();
    keys.sort_by_key(|keys| keys.node);
    let export = bench.write("export", &inside.export);
    let sign: Signer = Arc::new(|message: &[u8]| node(SOURCE).sign(message).to_bytes());
    let mut package = Vec::new();
    let export = (!is_receipt).then_some(export.as_path());
    seal(&mut package, &header, &keys, &inside.facts, export, &sign).expect("a reader takes it");
    package
}

#[test]
fn what_is_sealed_both_readers_open_and_with_any_two_cards_its_keys_come_out() {
    let (bench, inside) = (Bench::new(), inside());
    let mut vectors = Vec::new();
    for (suite, is_receipt) in [(Suite::XWing, false), (Suite::P256, false), (Suite::XWing, true)] {
        let package = sealed(&bench, &inside, suite, is_receipt);
        for number in TARGETS {
            let secrets = secrets(number);
            fs::remove_file(bench.path("inside")).ok();
            let opened = bench.open(&package, number, &secrets).expect("it is for this node");
            assert_eq!(opened, (inside.facts.clone(), !is_receipt));
            assert_eq!(fs::read(bench.path("inside")).ok(), (!is_receipt).then(|| inside.export.clone()));
            let said = lines(&bench.python(&package, secrets.private(suite), &["card-3", "card-1"]));
            assert_eq!(said[2], format!("slot {}: 9 known, 6 there, 2 removed", &hex(&inside.facts[0].0)[..16]));
            assert_eq!(
                said.last().map(String::as_str),
                Some(if is_receipt { "a receipt: no keys" } else { "3 keys opened" })
            );
            if number == TARGETS[0] {
                vectors.push(json!({ "package": hex(&package), "node": hex(&public(number)),
                    "private_key": hex(secrets.private(suite)), "opens": said }));
            }
        }
    }
    if std::env::var_os("SLOTWARDEN_GOLDEN").is_some_and(|wish| wish == "write") {
        let made_by = "the vector of exports, sealed for two nodes whose private keys are used nowhere; its cards open the keys inside";
        let text =
            serde_json::to_string_pretty(&json!({ "made_by": made_by, "packages": vectors })).expect("it is JSON");
        let path = excluded::repository().join("tests/vectors/package.json");
        fs::write(path, text + "\n").expect("tests/vectors is writable");
    }
}

#[test]
fn both_readers_open_the_vectors() {
    let (bench, inside) = (Bench::new(), inside());
    let vectors = json("package.json");
    let vectors = vectors["packages"].as_array().expect("a list");
    assert_eq!(vectors.len(), 3);
    for vector in vectors {
        let (package, key) = (unhex(&vector["package"]), unhex(&vector["private_key"]));
        let own: [u8; 32] = unhex(&vector["node"]).try_into().expect("a node's key");
        let number = TARGETS.into_iter().find(|number| public(*number) == own).expect("one of the targets");
        let said = lines(&bench.python(&package, &key, &["card-1", "card-2"]));
        let wanted: Vec<&str> = vector["opens"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        assert_eq!(said, wanted);
        let (facts, has_export) = bench.open(&package, number, &secrets(number)).expect("it is for this node");
        assert_eq!((facts, has_export), (inside.facts.clone(), wanted.last() == Some(&"3 keys opened")));
        // Without cards everything but the keys is read; with the key of another node nothing is.
        let wrapped = lines(&bench.python(&package, &key, &[]));
        assert_eq!(wrapped[..3], said[..3]);
        assert!(!wrapped.iter().any(|line| line.contains("keys opened")));
        assert!(!bench.python(&package, &[9; 32], &["card-1", "card-2"]).status.success());
        let stranger = bench.open(&package, number, &secrets(9)).expect_err("these are other keys");
        assert!(matches!(stranger, Wrong::ContentKey), "{stranger}");
        assert!(matches!(bench.open(&package, 9, &secrets(number)), Err(Wrong::NotForUs)));
    }
}

#[test]
fn p21_both_readers_refuse_what_is_no_package() {
    let bench = Bench::new();
    let vectors = json("package.json");
    let vector = &vectors["packages"][1];
    let (package, key) = (unhex(&vector["package"]), unhex(&vector["private_key"]));
    let secrets = secrets(TARGETS[0]);
    let ours = |bytes: &[u8]| bench.open(bytes, TARGETS[0], &secrets).is_err();
    let theirs = |bytes: &[u8]| !bench.python(bytes, &key, &[]).status.success();
    for at in 0..package.len() {
        let mut flipped = package.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(ours(&flipped), "byte {at}");
        assert!(ours(&package[..at]), "{at} bytes");
        // Python takes a tenth of a second for each.
        if at % 97 == 0 {
            assert!(theirs(&flipped), "byte {at}");
            assert!(theirs(&package[..at]), "{at} bytes");
        }
    }
    let longer = [&package[..], b"x"].concat();
    assert!(ours(&longer) && theirs(&longer));
    let places = frames(&package);
    for (one, other) in places.iter().zip(&places[1..]) {
        let swapped =
            [&package[..one.start], &package[other.clone()], &package[one.clone()], &package[other.end..]].concat();
        assert!(ours(&swapped) && theirs(&swapped), "{one:?}");
    }
    assert!(!bench.path("inside").exists(), "nothing of any of them was given out");
    let zeros = open(Path::new("/dev/zero"), &public(TARGETS[0]), &secrets, &bench.path("inside"));
    assert!(matches!(zeros, Err(Wrong::Unreadable(_) | Wrong::Package(_))));
}

/// Where the frames of a package begin and end.
fn frames(bytes: &[u8]) -> Vec<Range<usize>> {
    let (mut at, mut found) = (5, Vec::new());
    while at < bytes.len() {
        let length = u32::from_be_bytes(bytes[at + 1..at + 5].try_into().expect("four"));
        let end = at + 5 + usize::try_from(length).expect("small");
        found.push(at..end);
        at = end;
    }
    found
}
