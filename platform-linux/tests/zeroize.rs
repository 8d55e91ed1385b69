//! Zeroize on the disk (P41): every state that a power cut can leave, a store that has failed, a store
//! that cannot be read, and an audit log over two keys.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use slotwarden::audit::{Known, Log, NodeKeys, export, verify};
use slotwarden::devices::{Event, Store as _};
use slotwarden::store::directory::Directory;
use slotwarden::store::{inspect, set_lost_aside, zeroize};
use slotwarden_core::audit::AuditEvent;
use slotwarden_core::command::CommandKind;
use slotwarden_core::effect::{Input, Outcome, StoreResult, Ticket};
use slotwarden_core::fault::{Fault, Refusal};
use slotwarden_core::person::PersonId;
use slotwarden_core::record::{Mode, Owner, Record, SecretKind, SlotRecord};
use slotwarden_core::transfer::{Reached, Restoration};
use support::{Open, Purse, bytes_of, code, directory, event, open, refusal, settings};

const WHO: PersonId = PersonId(7);
const SECRET: &[u8] = b"an unusual generated code";

fn generated() -> SlotRecord {
    SlotRecord { mode: Mode::Generated, accepted: Some(1), next_generation: 2, ..SlotRecord::new([1; 16]) }
}

/// A store with a sealed code, a restoration under way, a log and a checkpoint; open.
fn filled(dir: &Path) -> Open {
    let mut open = open(&settings(dir)).expect("a new store");
    let mut purse = Purse::empty();
    let id = purse.keep(SECRET);
    let owner = open.store.owner_of("ca-root").expect("numbers are left");
    open.store.put(&Record::Slot { owner, record: generated() }, &purse);
    open.store.put(&Record::Seal { key: code(owner.0, 1), id }, &purse);
    let restoration = Restoration { owner, uid: [1; 16], key_id: [2; 16], file: [3; 32], reached: Reached::Committed };
    open.store.put(&Record::Restoration(Some(restoration)), &purse);
    for number in 0..5 {
        open.journal(event(number));
    }
    assert!(matches!(open.commit(), StoreResult::Durable(_)));
    open.store.checkpoint(open.chain.sequence, open.chain.head);
    open.settle();
    open
}

/// Ordered in a running store; what the disk said.
fn ordered(open: &mut Open) -> Result<(), Fault> {
    let ticket = Ticket { slot: None, number: 1_000 };
    open.store.zeroize(ticket, WHO);
    loop {
        match open.events.recv_timeout(Duration::from_secs(20)).expect("the store answers") {
            Event::Input(Input::Done { ticket: answered, outcome: Outcome::Zeroized(result) }) => {
                assert_eq!(answered, ticket);
                return result;
            }
            Event::Note(_) => {}
            other => panic!("the store sent {other:?}"),
        }
    }
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = directory();
    for (name, bytes) in bytes_of(from) {
        fs::write(to.path().join(name), bytes).expect("it is ours");
    }
    to
}

fn of(dir: &Path) -> Directory {
    Directory { path: dir.to_owned() }
}

/// Everything that has to be so once a start went through.
fn is_finished(dir: &Path, old: [u8; 32]) {
    let mut open = open(&settings(dir)).expect("the start finishes it");
    let mut place = [0; 64];
    assert_eq!(open.store.unseal(code(1, 1), &mut place), Err(Fault::SealBroken));
    let loaded = open.store.loaded().clone();
    assert!(loaded.secrets.iter().all(|key| key.kind == SecretKind::NodeKey), "{:?}", loaded.secrets);
    assert_eq!(loaded.slots, [(Owner(1), generated().without_sealed_codes())]);
    assert_eq!(loaded.restoration.map(|found| found.reached), Some(Reached::Preparing), "given up");
    let keys = open.store.node_keys().clone();
    assert_eq!(keys.former, [old], "one new key for one zeroize");
    assert_ne!(keys.current, old);
    // The order, its end, the keys; then the first checkpoint of the new one.
    let records = open.store.audit(6, 10).expect("it is readable");
    let who: Vec<_> = records.iter().map(|record| (record.who, record.event)).collect();
    let replaced = AuditEvent::NodeKeyReplaced { old, new: keys.current };
    let order = AuditEvent::Ordered(CommandKind::Zeroize);
    assert_eq!(who, [(Some(WHO), order), (None, AuditEvent::Zeroized), (None, replaced)]);
    open.store.checkpoint(open.chain.sequence, open.chain.head);
    // It seals and opens as any other.
    let mut purse = Purse::empty();
    let id = purse.keep(SECRET);
    open.store.put(&Record::Seal { key: code(1, 2), id }, &purse);
    open.settle();
    let length = open.store.unseal(code(1, 2), &mut place).expect("the new key opens it");
    assert_eq!(&place[..length], SECRET);
    drop(open);
    let names: Vec<String> = bytes_of(dir).into_keys().collect();
    assert!(!names.iter().any(|name| name == "zeroize" || name.starts_with("seal.next")), "{names:?}");
    let log = Log::of_store(dir).expect("no daemon runs");
    let found = log.verify(&Known::default()).expect("it is readable").expect("it is whole");
    assert_eq!((found.records, found.checkpoints, found.signed), (8, 2, 8));
    assert_eq!((found.former[0].key, found.former[0].until, found.former[0].signed), (old, 8, 5));
}

#[test]
fn p41_from_every_state_that_a_power_cut_leaves_a_start_finishes_it() {
    let dir = directory();
    let whole = filled(dir.path());
    let old = whole.store.node_key();
    drop(whole);
    let original = copy(dir.path());

    // The intent alone; the blob overwritten; the key file gone; the blob gone.
    let ordered = copy(original.path());
    zeroize::order(&of(ordered.path()), &settings(ordered.path()).seal.key_file, WHO).expect("the disk is well");
    let intent = fs::read(ordered.path().join("zeroize")).expect("it is durable");
    assert!(!ordered.path().join("seal.blob").exists() && !ordered.path().join("seal.key").exists());
    let begun = |change: &dyn Fn(&Path)| {
        let dir = copy(original.path());
        fs::write(dir.path().join("zeroize"), &intent).expect("it is ours");
        change(dir.path());
        is_finished(dir.path(), old);
    };
    let remove = |path: PathBuf| fs::remove_file(path).expect("it was there");
    begun(&|_| {});
    begun(&|dir| fs::write(dir.join("seal.blob"), [0x5A; 84]).expect("it is ours"));
    begun(&|dir| {
        fs::write(dir.join("seal.blob"), [0x5A; 84]).expect("it is ours");
        fs::write(dir.join("seal.key"), [0x5A; 32]).expect("it is ours");
    });
    begun(&|dir| remove(dir.join("seal.key")));
    begun(&|dir| {
        remove(dir.join("seal.key"));
        remove(dir.join("seal.blob"));
    });
    // A start that came as far as a new data key, half written and whole, and no further.
    begun(&|dir| {
        remove(dir.join("seal.key"));
        remove(dir.join("seal.blob"));
        fs::write(dir.join("seal.next.new"), b"SLWK").expect("it is ours");
    });
    begun(&|dir| {
        remove(dir.join("seal.blob"));
        fs::write(dir.join("seal.next"), [0x5A; 84]).expect("it is ours");
    });
    // One that came as far as the transaction, and one that removed the intent.
    let after = copy(ordered.path());
    drop(open(&settings(after.path())).expect("the start finishes it"));
    for with_intent in [true, false] {
        let dir = copy(after.path());
        fs::rename(dir.path().join("seal.blob"), dir.path().join("seal.next")).expect("it is ours");
        if with_intent {
            fs::write(dir.path().join("zeroize"), &intent).expect("it is ours");
        }
        is_finished(dir.path(), old);
    }
    is_finished(ordered.path(), old);
}

#[test]
fn p41_after_the_order_the_running_store_seals_opens_and_signs_nothing() {
    let dir = directory();
    let mut open = filled(dir.path());
    let (signer, before) = (open.store.signer(), open.store.checkpoints().expect("readable"));
    ordered(&mut open).expect("the disk is well");
    let mut place = [0; 64];
    assert_eq!(open.store.unseal(code(1, 1), &mut place), Err(Fault::SealBroken));
    assert_eq!(signer(b"message"), [0; 64]);
    open.store.checkpoint(open.chain.sequence, open.chain.head);
    open.settle();
    assert_eq!(open.store.checkpoints().expect("readable"), before);
    let mut purse = Purse::empty();
    let id = purse.keep(SECRET);
    open.store.put(&Record::Seal { key: code(1, 9), id }, &purse);
    assert_eq!(open.commit(), StoreResult::Failed);
}

#[test]
fn p41_a_store_that_has_failed_is_zeroized_all_the_same() {
    let dir = directory();
    let mut open = filled(dir.path());
    let old = open.store.node_key();
    let stale = Record::Seal { key: code(1, 9), id: slotwarden_core::SecretId::NONE };
    open.store.put(&stale, &Purse::empty());
    assert_eq!(open.commit(), StoreResult::Failed);
    ordered(&mut open).expect("the files are well");
    drop(open);
    is_finished(dir.path(), old);
}

#[test]
fn p41_a_store_that_cannot_be_read_is_refused_after_its_key_was_destroyed() {
    let dir = directory();
    drop(filled(dir.path()));
    let intent = "slotwarden zeroize 1 000102030405060708090a0b0c0d0e0f 7\n";
    // A damaged intent says nothing for certain: the key stays until somebody looks.
    fs::write(dir.path().join("zeroize"), &intent[..30]).expect("it is ours");
    assert_eq!(refusal(&settings(dir.path())), Refusal::StoreUnreadable);
    assert!(dir.path().join("seal.blob").exists());
    fs::write(dir.path().join("zeroize"), intent).expect("it is ours");
    assert_eq!(set_lost_aside(&settings(dir.path())).map_err(|refused| refused.refusal), Err(Refusal::StoreNotLost));
    fs::write(dir.path().join("store.redb"), b"no store").expect("it is ours");
    assert_eq!(refusal(&settings(dir.path())), Refusal::StoreUnreadable);
    assert!(!dir.path().join("seal.blob").exists() && !dir.path().join("seal.key").exists());
    let aside = set_lost_aside(&settings(dir.path())).expect("it is lost");
    assert!(aside.join("zeroize").exists() && aside.join("store.redb").exists());
    open(&settings(dir.path())).expect("a new store");
}

#[test]
fn p41_what_lost_stores_left_of_their_keys_is_destroyed_too() {
    let dir = directory();
    drop(filled(dir.path()));
    let blob = fs::read(dir.path().join("seal.blob")).expect("it is there");
    fs::write(dir.path().join("store.redb"), b"no store").expect("it is ours");
    let aside = set_lost_aside(&settings(dir.path())).expect("it is lost");
    assert!(aside.join("seal.blob").exists() && aside.join("seal.key").exists());
    // An earlier one, whose key file lay elsewhere; and a file that only has such a name.
    fs::create_dir(dir.path().join("lost-1")).expect("it is ours");
    fs::write(dir.path().join("lost-1/seal.blob"), &blob).expect("it is ours");
    fs::write(dir.path().join("lost-2"), b"a file").expect("it is ours");
    let mut anew = open(&settings(dir.path())).expect("a new store");
    ordered(&mut anew).expect("the disk is well");
    drop(anew);
    for dir in [&aside, &dir.path().join("lost-1")] {
        assert!(!dir.join("seal.blob").exists() && !dir.join("seal.key").exists(), "{}", dir.display());
    }
    assert!(aside.join("store.redb").exists() && dir.path().join("lost-2").exists(), "nothing else goes");
}

#[test]
fn p41_a_disk_that_refuses_is_told_and_the_next_start_goes_on() {
    let dir = directory();
    let mut open = filled(dir.path());
    let old = open.store.node_key();
    let blob = dir.path().join("seal.blob");
    let bytes = fs::read(&blob).expect("it is there");
    // What cannot be overwritten, whoever tries.
    fs::remove_file(&blob).expect("it was there");
    fs::create_dir(&blob).expect("it is ours");
    assert_eq!(ordered(&mut open), Err(Fault::StoreFailed));
    assert!(dir.path().join("zeroize").exists(), "the intent is durable");
    assert!(!dir.path().join("seal.key").exists(), "what can be destroyed is destroyed");
    drop(open);
    assert_eq!(refusal(&settings(dir.path())), Refusal::StoreFailed);
    fs::remove_dir(&blob).expect("it was there");
    fs::write(&blob, bytes).expect("it is ours");
    is_finished(dir.path(), old);
}

#[test]
fn p37_every_flipped_bit_of_an_export_over_two_node_keys_is_found() {
    let dir = directory();
    let mut first = filled(dir.path());
    let old = first.store.node_key();
    ordered(&mut first).expect("the disk is well");
    drop(first);
    is_finished(dir.path(), old);
    let content = inspect(&of(dir.path())).expect("it is whole");
    let keys = NodeKeys { former: content.former_nodes.clone(), current: content.node };
    let mut file = Vec::new();
    Log::of_store(dir.path()).expect("no daemon").export(&mut file).expect("readable").expect("memory takes it");
    let check = |file: &[u8], known: &Known| verify(&mut &*file, known);
    let knows = |key| Known { node_key: Some(key), ..Known::default() };
    let found = check(&file, &knows(old)).expect("it is whole");
    assert!(!found.trusted && found.trusted_to == 5);
    let found = check(&file, &knows(keys.current)).expect("it is whole");
    assert!(found.trusted && found.trusted_to == 8);
    assert!(check(&file, &knows([7; 32])).is_err());
    for index in 0..file.len() {
        for bit in 0..8 {
            let mut altered = file.clone();
            altered[index] ^= 1 << bit;
            assert!(check(&altered, &Known::default()).is_err(), "bit {bit} of byte {index}");
        }
    }
    // Keys that the log does not name, or names in another order, are not the node's.
    let records: Vec<_> = Log::of_store(dir.path()).expect("no daemon").last(8).expect("readable").1;
    for wrong in [
        NodeKeys::only(keys.current),
        NodeKeys::only(old),
        NodeKeys { former: vec![keys.current], current: old },
        NodeKeys { former: vec![old, old], current: keys.current },
    ] {
        let mut file = Vec::new();
        export(&mut file, &wrong, records.iter().copied(), &content.checkpoints).expect("memory takes it");
        assert!(check(&file, &Known::default()).is_err(), "{wrong:?}");
    }
}
