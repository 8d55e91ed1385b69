//! The audit log offline: what an auditor finds in an export, and in a store at rest.

mod support;

use std::fs;

use slotwarden::audit::{Finding, Known, Log, NodeKeys, Verified, earlier, export, unhex, verify};
use slotwarden::devices::{Checkpoint, Store as _};
use slotwarden_core::audit::{AuditEvent, AuditRecord, Chain};
use slotwarden_core::fault::Refusal;
use support::{bytes_of, directory, event, open, record_after, settings};

/// Records in the log under test.
const RECORDS: u64 = 50;
/// Checkpoints stand behind these.
const CHECKPOINTS: [u64; 3] = [10, 30, 45];

/// A node's log: 50 records, three checkpoints, the last five records unsigned.
struct Node {
    dir: tempfile::TempDir,
    key: [u8; 32],
    heads: Vec<[u8; 32]>,
}

impl Node {
    fn new() -> Self {
        Self::with(RECORDS, &CHECKPOINTS)
    }

    fn with(records: u64, checkpoints: &[u64]) -> Self {
        let dir = directory();
        let mut open = open(&settings(dir.path())).expect("a new store");
        let mut heads = vec![[0; 32]];
        for number in 1..=records {
            open.journal(event(number));
            heads.push(open.chain.head);
            if checkpoints.contains(&number) {
                open.settle();
                open.store.checkpoint(open.chain.sequence, open.chain.head);
            }
        }
        open.settle();
        let key = open.store.node_key();
        drop(open);
        Node { dir, key, heads }
    }

    fn export(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let log = Log::of_store(self.dir.path()).expect("no daemon runs");
        log.export(&mut out).expect("the store is whole").expect("memory takes it");
        out
    }

    fn head(&self, sequence: u64) -> (u64, [u8; 32]) {
        (sequence, self.heads[sequence as usize])
    }
}

fn check(file: &[u8]) -> Result<Verified, Finding> {
    verify(&mut &*file, &Known::default())
}

fn lines(file: &[u8]) -> Vec<&[u8]> {
    file.split_inclusive(|byte| *byte == b'\n').collect()
}

#[test]
fn p37_every_altered_byte_of_an_export_is_found() {
    let file = Node::new().export();
    assert!(check(&file).is_ok());
    for index in 0..file.len() {
        let mut altered = file.clone();
        // Every bit has its turn somewhere; the next test tries all of them everywhere.
        altered[index] ^= 1 << (index % 8);
        assert!(check(&altered).is_err(), "bit {} of byte {index}", index % 8);
    }
    println!("{} bytes, each alteration found", file.len());
}

#[test]
fn p37_every_flipped_bit_and_every_likely_typo_of_a_short_export_is_found() {
    let file = Node::with(4, &[2]).export();
    assert!(check(&file).is_ok());
    let mut tried = 0;
    for index in 0..file.len() {
        let mut altered = file.clone();
        for bit in 0..8 {
            altered[index] = file[index] ^ (1 << bit);
            assert!(check(&altered).is_err(), "bit {bit} of byte {index}");
            tried += 1;
        }
        // What a person with an editor would do: another digit, a capital, a space.
        for byte in *b"07af AZ\n\"" {
            if byte != file[index] {
                altered[index] = byte;
                assert!(check(&altered).is_err(), "byte {index} as {byte}");
                tried += 1;
            }
        }
    }
    println!("{tried} alterations of {} bytes, each found", file.len());
}

#[test]
fn p37_every_deleted_repeated_or_swapped_line_of_an_export_is_found() {
    let file = Node::new().export();
    let lines = lines(&file);
    assert_eq!(lines.len() as u64, RECORDS + CHECKPOINTS.len() as u64 + 2);
    let mut tried = 0;
    let mut refuse = |altered: Vec<&[u8]>, what: &str| {
        assert!(check(&altered.concat()).is_err(), "{what}");
        tried += 1;
    };
    for one in 0..lines.len() {
        let mut altered = lines.clone();
        altered.remove(one);
        refuse(altered, "one deleted");
        for other in 0..lines.len() {
            // Far away is found as near by; near, the sequence numbers differ least.
            if one.abs_diff(other) <= 4 {
                let mut altered = lines.clone();
                altered.insert(other, lines[one]);
                refuse(altered, "one repeated");
            }
            if one.abs_diff(other) <= 4 && other != one {
                let mut altered = lines.clone();
                let moved = altered.remove(one);
                altered.insert(other, moved);
                refuse(altered, "one moved");
            }
            if other > one {
                let mut altered = lines.clone();
                altered.swap(one, other);
                refuse(altered, "two swapped");
                let mut altered = lines.clone();
                altered.drain(one..other);
                refuse(altered, "several deleted");
            }
        }
    }
    println!("{tried} rearrangements, each found");
}

#[test]
fn p37_every_cut_of_an_export_is_found() {
    let file = Node::new().export();
    for length in (0..file.len()).step_by(7).chain(file.len() - 600..file.len()) {
        assert!(check(&file[..length]).is_err(), "{length} bytes");
    }
    for more in [&b"\n"[..], b" ", b"{}\n", b"\0"] {
        assert!(check(&[&file, more].concat()).is_err());
    }
}

#[test]
fn p37_a_rewritten_log_is_found_by_its_signatures_or_by_a_checkpoint_from_elsewhere() {
    let node = Node::new();
    let log = read(&node);
    // Somebody without the node key changes record 20 and makes the chain anew from there.
    let mut chain = Chain::default();
    let rewritten: Vec<AuditRecord> = log
        .iter()
        .map(|record| {
            let mut record = AuditRecord { previous: chain.head, ..*record };
            if record.sequence == 20 {
                record.event = AuditEvent::Deactivated;
            }
            chain.accept(&record).expect("it is chained anew");
            record
        })
        .collect();
    let genuine = checkpoints(&node);
    let mut forged = Vec::new();
    export(&mut forged, &NodeKeys::only(node.key), rewritten.iter().copied(), &genuine).expect("memory takes it");
    assert_eq!(check(&forged), Err(Finding::Checkpoint(30)));

    // With the heads in the checkpoints made anew too, the signatures fail.
    let mut resigned = genuine.clone();
    for checkpoint in resigned.iter_mut().filter(|checkpoint| checkpoint.sequence >= 20) {
        checkpoint.head = rewritten[checkpoint.sequence as usize - 1].hash();
    }
    let mut forged = Vec::new();
    export(&mut forged, &NodeKeys::only(node.key), rewritten.iter().copied(), &resigned).expect("memory takes it");
    assert_eq!(check(&forged), Err(Finding::Signature(30)));

    // With a node key of their own, only a verifier who knows the right one finds it.
    let mut forged = Vec::new();
    export(&mut forged, &NodeKeys::only(other_key()), rewritten.iter().copied(), &[]).expect("memory takes it");
    let known = Known { node_key: Some(node.key), ..Known::default() };
    assert_eq!(verify(&mut forged.as_slice(), &known), Err(Finding::NodeKey));
    assert!(!check(&forged).expect("nothing in it contradicts itself").trusted);

    // Without checkpoints, a head from elsewhere finds it.
    let mut forged = Vec::new();
    export(&mut forged, &NodeKeys::only(node.key), rewritten.iter().copied(), &genuine[..1]).expect("memory takes it");
    assert_eq!(check(&forged).map(|verified| verified.signed), Ok(10));
    let known = Known { heads: vec![node.head(30)], ..Known::default() };
    assert_eq!(verify(&mut forged.as_slice(), &known), Err(Finding::Checkpoint(30)));
}

#[test]
fn p37_a_truncated_tail_is_found_up_to_the_last_checkpoint_that_the_verifier_has() {
    let node = Node::new();
    let (log, signed) = (read(&node), checkpoints(&node));
    for length in 0..RECORDS {
        // Cut with care: only what is left, with a right last line.
        let kept: Vec<Checkpoint> = signed.iter().filter(|one| one.sequence <= length).cloned().collect();
        let mut cut = Vec::new();
        export(&mut cut, &NodeKeys::only(node.key), log[..length as usize].iter().copied(), &kept)
            .expect("memory takes it");
        assert_eq!(check(&cut).map(|verified| verified.records), Ok(length));
        let known = Known { heads: vec![node.head(45)], ..Known::default() };
        let expected = if length < 45 { Err(Finding::Truncated(45)) } else { Ok(length) };
        assert_eq!(verify(&mut cut.as_slice(), &known).map(|verified| verified.records), expected);
        let known = Known { at_least: RECORDS, ..Known::default() };
        assert_eq!(verify(&mut cut.as_slice(), &known), Err(Finding::Truncated(RECORDS)));
    }
}

#[test]
fn p37_a_tail_cut_off_a_stopped_store_is_found_by_an_earlier_export_or_its_checkpoint_lines() {
    let (long, short) = (Node::new(), Node::with(40, &[10, 30]));
    let export = long.export();
    let tells = |kept: &[u8]| earlier(&mut &*kept, Known::default());
    // A file that was itself cut or altered tells nothing.
    assert!(tells(&export[..export.len() - 1]).is_err());
    assert!(tells(b"").is_err());
    assert!(tells(b"{\"checkpoint\":45}\n").is_err());
    let kept: Vec<&[u8]> = lines(&export).into_iter().filter(|line| line.starts_with(b"{\"checkpoint\"")).collect();
    let of_lines = tells(&kept.concat()).expect("lines of checkpoints");
    assert_eq!(of_lines, Known { heads: [10, 30, 45].map(|at| long.head(at)).to_vec(), ..Known::default() });
    let of_export = tells(&export).expect("a whole export");
    assert_eq!(of_export.heads, [long.head(RECORDS)]);
    // Both nodes logged the same, so only the length differs; the key is not at issue here.
    let log = Log::of_store(short.dir.path()).expect("no daemon runs");
    let found = |known: &Known| log.verify(known).expect("it is readable").map(|verified| verified.records);
    assert_eq!(found(&Known::default()), Ok(40));
    assert_eq!(found(&Known { node_key: None, ..of_export.clone() }), Err(Finding::Truncated(RECORDS)));
    assert_eq!(found(&of_lines), Err(Finding::Truncated(45)));
    assert_eq!(found(&of_export), Err(Finding::NodeKey));
    let whole = Log::of_store(long.dir.path()).expect("no daemon runs");
    for known in [&of_export, &of_lines] {
        let verified = whole.verify(known).expect("it is readable").expect("nothing is missing");
        assert_eq!((verified.records, verified.trusted), (RECORDS, known.node_key.is_some()));
    }
}

#[test]
fn p42_a_hostile_export_is_refused_without_reading_it_whole() {
    let node = Node::new();
    let file = node.export();
    let first = lines(&file)[0].to_vec();
    for hostile in [
        Vec::new(),
        vec![b'{'; 1 << 20],
        [first.clone(), vec![b' '; 1 << 20]].concat(),
        [first.clone(), vec![0xFF; 5000], b"\n".to_vec()].concat(),
        [first.clone(), b"{\"sequence\":18446744073709551616}\n".to_vec()].concat(),
        [first, b"{\"end\":0,\"checkpoints\":1}\n".to_vec()].concat(),
        b"{\"slotwarden_audit\":1,\"node_key\":\"00\"}\n".to_vec(),
    ] {
        assert!(check(&hostile).is_err());
    }
    let text = String::from_utf8(file).expect("JSON is text");
    let version = |number: u32| text.replacen("audit\":1", &format!("audit\":{number}"), 1);
    // The second version is that of a node that had other keys, which this one had not.
    assert_eq!(check(version(2).as_bytes()), Err(Finding::Line(1)));
    assert_eq!(check(version(3).as_bytes()), Err(Finding::Newer(3)));
}

#[test]
fn a_log_cannot_be_read_while_a_daemon_runs_or_where_none_ever_was() {
    let node = Node::new();
    let running = open(&settings(node.dir.path())).expect("it is whole");
    assert_eq!(
        Log::of_store(node.dir.path()).map(|_| ()).map_err(|refused| refused.refusal),
        Err(Refusal::StoreLocked)
    );
    drop(running);
    let empty = directory();
    assert_eq!(Log::of_store(empty.path()).map(|_| ()).map_err(|refused| refused.refusal), Err(Refusal::StoreMissing));
    assert!(fs::read_dir(empty.path()).expect("it is there").next().is_none());
}

#[test]
fn an_export_of_a_store_at_rest_verifies_and_changes_nothing() {
    let node = Node::new();
    let before = bytes_of(node.dir.path());
    let file = node.export();
    let log = Log::of_store(node.dir.path()).expect("no daemon runs");
    let known = Known { node_key: Some(node.key), heads: vec![node.head(45)], at_least: RECORDS };
    let verified = verify(&mut file.as_slice(), &known).expect("it is whole");
    assert_eq!(
        verified,
        Verified {
            records: RECORDS,
            head: node.heads[RECORDS as usize],
            checkpoints: 3,
            signed: 45,
            node_key: node.key,
            trusted: true,
            trusted_to: 45,
            former: vec![],
        }
    );
    assert_eq!(log.verify(&known).expect("it is readable"), Ok(verified));
    assert!(bytes_of(node.dir.path()) == before);
    // Every line is an object that others can read too.
    for line in lines(&file) {
        let value: serde_json::Value = serde_json::from_slice(line).expect("JSON");
        if value["sequence"] == 6 {
            assert_eq!(value["event"]["Started"]["configuration"], "06".repeat(32));
            assert_eq!(unhex::<32>(value["hash"].as_str().expect("text")), Some(node.heads[6]));
        }
    }
}

#[test]
fn an_empty_log_verifies_as_empty() {
    let dir = directory();
    drop(open(&settings(dir.path())).expect("a new store"));
    let log = Log::of_store(dir.path()).expect("no daemon runs");
    let verified = log.verify(&Known::default()).expect("it is readable").expect("it is whole");
    assert_eq!((verified.records, verified.signed, verified.trusted), (0, 0, false));
}

fn read(node: &Node) -> Vec<AuditRecord> {
    let mut open = open(&settings(node.dir.path())).expect("it is whole");
    let log = open.store.audit(1, 1000).expect("it is readable");
    assert_eq!(record_after(&Chain::default(), event(1)), log[0]);
    log
}

fn checkpoints(node: &Node) -> Vec<Checkpoint> {
    let mut open = open(&settings(node.dir.path())).expect("it is whole");
    open.store.checkpoints().expect("they are readable")
}

fn other_key() -> [u8; 32] {
    let dir = directory();
    open(&settings(dir.path())).expect("a new store").store.node_key()
}
