//! The store as a daemon uses it: refusals first, then what it keeps.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use slotwarden::devices::{Event, Store as _};
use slotwarden::transcript::{self, Standing};
use slotwarden_core::audit::{AuditEvent, CeremonyEnd, Chain};
use slotwarden_core::card::sets::SetSubject;
use slotwarden_core::ceremony::transcript::{Entry, LINE_BYTES_MAX, Line};
use slotwarden_core::ceremony::{CeremonyEvent, CeremonyId};
use slotwarden_core::effect::{Room, StoreResult};
use slotwarden_core::fault::{Fault, Refusal};
use slotwarden_core::person::PersonId;
use slotwarden_core::record::{Knowledge, Mode, Owner, PolicyRecord, Record, SecretKey, SecretKind, SlotRecord};
use support::{
    Open, Purse, bytes_of, card, card_sets, code, directory, event, open, record_after, refusal, sets, settings, slot,
};

const PLENTY: StoreResult = StoreResult::Durable(Room::Plenty);

/// A state directory with two slots, a code, a journal of `records` and a checkpoint; closed.
fn filled(records: u64) -> tempfile::TempDir {
    let dir = directory();
    let mut open = open(&settings(dir.path())).expect("a new store");
    let mut purse = Purse::empty();
    let id = purse.keep(b"an unusual generated code");
    for name in ["ca-root", "ca-issuing"] {
        let owner = open.store.owner_of(name).expect("numbers are left");
        open.store.put(&Record::Slot { owner, record: slot(owner.0 as u8) }, &purse);
        open.store.put(&Record::Sets { owner, sets: sets(owner.0) }, &purse);
    }
    open.store.put(&Record::Seal { key: code(1, 1), id }, &purse);
    for number in 0..records {
        open.journal(event(number));
    }
    assert_eq!(open.commit(), PLENTY);
    open.store.checkpoint(open.chain.sequence, open.chain.head);
    open.settle();
    drop(open);
    dir
}

#[test]
fn a_second_daemon_on_the_same_directory_is_refused() {
    let dir = directory();
    let first = open(&settings(dir.path())).expect("a new store");
    assert_eq!(refusal(&settings(dir.path())), Refusal::StoreLocked);
    drop(first);
    assert!(open(&settings(dir.path())).is_ok());
}

#[test]
fn a_store_that_was_there_and_is_missing_is_refused_and_nothing_is_made() {
    let dir = filled(3);
    let store = fs::read(dir.path().join("store.redb")).expect("it is there");
    fs::remove_file(dir.path().join("store.redb")).expect("it is there");
    let before = bytes_of(dir.path());
    assert_eq!(refusal(&settings(dir.path())), Refusal::StoreMissing);
    // Also when whoever removed it took the marker along, since the wrapped key is left.
    fs::remove_file(dir.path().join("slotwarden.state")).expect("it is there");
    assert_eq!(refusal(&settings(dir.path())), Refusal::StoreMissing);
    fs::write(dir.path().join("slotwarden.state"), &before["slotwarden.state"]).expect("writable");
    assert_eq!(bytes_of(dir.path()), before);
    fs::write(dir.path().join("store.redb"), store).expect("writable");
    assert!(open(&settings(dir.path())).is_ok());
}

#[test]
fn an_empty_or_truncated_store_is_refused_with_every_byte_as_it_was() {
    let dir = filled(20);
    let path = dir.path().join("store.redb");
    let whole = fs::read(&path).expect("it is there");
    let lengths = [0, 1, 9, 319, 320, 4095, 4096, 8192, whole.len() / 2, whole.len() - 4096, whole.len() - 1];
    for length in lengths {
        fs::write(&path, &whole[..length]).expect("writable");
        let before = bytes_of(dir.path());
        assert_eq!(refusal(&settings(dir.path())), Refusal::StoreUnreadable, "{length} bytes");
        assert!(bytes_of(dir.path()) == before, "something was written at {length} bytes");
    }
    fs::write(&path, whole).expect("writable");
    assert!(open(&settings(dir.path())).is_ok());
}

#[test]
fn a_foreign_file_in_place_of_the_store_is_refused_with_every_byte_as_it_was() {
    let dir = filled(1);
    for foreign in [b"SQLite format 3\0".repeat(1000), vec![0; 1 << 17], vec![0xFF; 5000]] {
        fs::write(dir.path().join("store.redb"), foreign).expect("writable");
        let before = bytes_of(dir.path());
        assert_eq!(refusal(&settings(dir.path())), Refusal::StoreUnreadable);
        assert!(bytes_of(dir.path()) == before);
    }
}

#[test]
fn a_newer_or_damaged_marker_is_refused_with_every_byte_as_it_was() {
    let dir = filled(1);
    for (text, expected) in [
        ("slotwarden state 2\n", Refusal::StoreNewer),
        ("slotwarden state 4294967295\n", Refusal::StoreNewer),
        ("slotwarden state 1", Refusal::StoreUnreadable),
        ("", Refusal::StoreUnreadable),
        ("something else\n", Refusal::StoreUnreadable),
    ] {
        fs::write(dir.path().join("slotwarden.state"), text).expect("writable");
        let before = bytes_of(dir.path());
        assert_eq!(refusal(&settings(dir.path())), expected, "{text:?}");
        assert!(bytes_of(dir.path()) == before);
    }
}

#[test]
fn a_newer_store_format_inside_the_file_is_refused_with_every_byte_as_it_was() {
    let dir = filled(1);
    let database = redb::Database::open(dir.path().join("store.redb")).expect("it is whole");
    let write = database.begin_write().expect("nobody else writes");
    {
        let mut meta = write.open_table(redb::TableDefinition::<&str, &[u8]>::new("meta")).expect("it is there");
        meta.insert("format", 2u32.to_be_bytes().as_slice()).expect("writable");
    }
    write.commit().expect("there is room");
    drop(database);
    let before = bytes_of(dir.path());
    assert_eq!(refusal(&settings(dir.path())), Refusal::StoreNewer);
    assert!(bytes_of(dir.path()) == before);
}

#[test]
fn a_missing_or_wrong_seal_is_refused_with_every_byte_as_it_was() {
    let dir = filled(1);
    for (name, replacement, expected) in [
        ("seal.key", None, Refusal::SealMissing),
        ("seal.key", Some(vec![3; 32]), Refusal::SealWrong),
        ("seal.blob", None, Refusal::SealMissing),
        ("seal.blob", Some(vec![3; 32]), Refusal::StoreUnreadable),
    ] {
        let path = dir.path().join(name);
        let right = fs::read(&path).expect("it is there");
        fs::remove_file(&path).expect("it is there");
        if let Some(wrong) = replacement {
            fs::write(&path, wrong).expect("writable");
        }
        let before = bytes_of(dir.path());
        assert_eq!(refusal(&settings(dir.path())), expected, "{name}");
        assert!(bytes_of(dir.path()) == before);
        fs::write(&path, right).expect("writable");
    }
    assert!(open(&settings(dir.path())).is_ok());
}

#[test]
fn the_seal_of_another_store_is_refused() {
    let (one, other) = (filled(1), filled(1));
    for name in ["seal.key", "seal.blob"] {
        fs::copy(other.path().join(name), one.path().join(name)).expect("both are there");
    }
    assert_eq!(refusal(&settings(one.path())), Refusal::SealWrong);
}

#[test]
fn a_power_cut_anywhere_in_the_first_start_lets_the_next_start_begin_again_or_go_on() {
    let whole = filled(0);
    let files = bytes_of(whole.path());
    let part = |names: &[(&str, &str)]| {
        let dir = directory();
        for (from, to) in names {
            fs::write(dir.path().join(to), &files[*from]).expect("writable");
        }
        dir
    };
    for names in [
        &[][..],
        &[("seal.key", "seal.key.new")],
        &[("seal.key", "seal.key")],
        &[("seal.key", "seal.key"), ("store.redb", "store.new")],
        &[("seal.key", "seal.key"), ("store.redb", "store.new"), ("seal.blob", "seal.blob.new")],
        &[("seal.key", "seal.key"), ("store.redb", "store.new"), ("seal.blob", "seal.blob")],
    ] {
        let dir = part(names);
        let open = open(&settings(dir.path())).expect("it begins again");
        assert_eq!(open.store.owners().count(), 0);
        assert!(!dir.path().join("store.new").exists());
        assert!(dir.path().join("slotwarden.state").exists());
    }
    let dir = part(&[("seal.key", "seal.key"), ("store.redb", "store.redb"), ("seal.blob", "seal.blob")]);
    let open = open(&settings(dir.path())).expect("it goes on");
    assert_eq!(open.store.owners().count(), 2);
    assert!(dir.path().join("slotwarden.state").exists());
}

#[test]
fn a_new_store_is_private_and_says_what_protects_it() {
    let dir = directory();
    let state = dir.path().join("state");
    let mut settings = settings(&state);
    let first = open(&settings).expect("a new store");
    assert_eq!(first.store.seal(), "key-file");
    let mode = |path: &std::path::Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    for name in ["store.redb", "seal.key", "seal.blob", "slotwarden.state", "daemon.lock", "ballast"] {
        assert_eq!(mode(&state.join(name)), 0o600, "{name}");
    }
    assert_eq!(fs::metadata(state.join("seal.key")).expect("it is there").len(), 32);
    let (cluster, node) = (first.store.cluster_id(), first.store.node_key());
    drop(first);
    // A credential that appears later changes nothing.
    let credential = dir.path().join("slotwarden-seal");
    fs::write(&credential, [9; 32]).expect("writable");
    settings.seal.credential = Some(credential);
    let again = open(&settings).expect("the key file is there");
    assert_eq!(again.store.seal(), "key-file");
    assert_eq!((again.store.cluster_id(), again.store.node_key()), (cluster, node));
    drop(again);

    settings.state_dir = dir.path().join("other");
    settings.seal.key_file = dir.path().join("other.key");
    let other = open(&settings).expect("a new store");
    assert_eq!(other.store.seal(), "systemd-credential");
    assert!(!settings.seal.key_file.exists());
    assert_ne!((other.store.cluster_id(), other.store.node_key()), (cluster, node));
}

#[test]
fn owner_numbers_last_and_are_never_used_twice() {
    let dir = directory();
    let mut first = open(&settings(dir.path())).expect("a new store");
    assert_eq!(first.store.owner_of("ca-root").ok(), Some(Owner(1)));
    assert_eq!(first.store.owner_of("Wurzel ü 1").ok(), Some(Owner(2)));
    assert_eq!(first.store.owner_of("ca-root").ok(), Some(Owner(1)));
    drop(first);
    let mut again = open(&settings(dir.path())).expect("it is whole");
    let owners: Vec<_> = again.store.owners().map(|(name, owner)| (name.to_owned(), owner)).collect();
    assert_eq!(owners, [("Wurzel ü 1".to_owned(), Owner(2)), ("ca-root".to_owned(), Owner(1))]);
    assert_eq!(again.store.owner_of("ocsp").ok(), Some(Owner(3)));
}

#[test]
fn numbers_of_persons_last_and_are_never_used_twice() {
    let dir = directory();
    let mut first = open(&settings(dir.path())).expect("a new store");
    assert_eq!(first.store.person_of("alice").ok(), Some(PersonId(1)));
    assert_eq!(first.store.person_of("bob").ok(), Some(PersonId(2)));
    assert_eq!(first.store.person_of("alice").ok(), Some(PersonId(1)));
    drop(first);
    let mut again = open(&settings(dir.path())).expect("it is whole");
    assert_eq!(again.store.person_of("bob").ok(), Some(PersonId(2)), "whatever the configuration names meanwhile");
    assert_eq!(again.store.person_of("carol").ok(), Some(PersonId(3)));
    for number in 4..=254 {
        assert!(again.store.person_of(&format!("person {number}")).is_ok());
    }
    let refused = again.store.person_of("one too many").expect_err("255 is the service itself");
    assert_eq!(refused.refusal, Refusal::TooManyPersons);
}

#[test]
fn p39_a_policy_is_kept_only_with_the_configuration_it_names() {
    let dir = directory();
    let mut first = open(&settings(dir.path())).expect("a new store");
    let digest = slotwarden::config::digest(b"what counts");
    let policy = PolicyRecord { dual_control: true, configuration: digest };
    first.store.put(&Record::Policy(policy), &Purse::empty());
    assert_eq!(first.commit(), StoreResult::Failed, "its text is not there");
    drop(first);
    let mut again = open(&settings(dir.path())).expect("nothing was stored");
    assert_eq!(again.store.loaded().policy, PolicyRecord::default());
    again.store.keep_configuration(b"what counts").expect("there is room");
    again.store.keep_configuration(b"what nobody approved").expect("there is room");
    again.store.put(&Record::Policy(policy), &Purse::empty());
    assert_eq!(again.commit(), PLENTY);
    drop(again);
    let mut last = open(&settings(dir.path())).expect("it is whole");
    assert_eq!(last.store.loaded().policy, policy);
    last.store.keep_only(&digest).expect("there is room");
    assert_eq!(last.store.configuration(&digest), Some(&b"what counts"[..]));
    let other = slotwarden::config::digest(b"what nobody approved");
    assert_eq!(last.store.kept_configuration(&other), None);
}

#[test]
fn what_was_answered_as_durable_is_there_after_a_restart() {
    let dir = filled(25);
    let mut open = open(&settings(dir.path())).expect("it is whole");
    let loaded = open.store.loaded().clone();
    assert_eq!(loaded.slots, [(Owner(1), slot(1)), (Owner(2), slot(2))]);
    assert_eq!(loaded.sets, [(Owner(1), sets(1)), (Owner(2), sets(2))]);
    assert_eq!(loaded.chain.sequence, 25);
    let node_key = SecretKey { kind: SecretKind::NodeKey, owner: Owner(0), generation: 1 };
    assert_eq!(loaded.secrets, [code(1, 1), node_key]);
    let mut place = [0; 64];
    assert_eq!(open.store.unseal(code(1, 2), &mut place), Err(Fault::SealBroken));
    assert_eq!(open.store.unseal(code(2, 1), &mut place), Err(Fault::SealBroken));
    assert_eq!(open.store.unseal(code(1, 1), &mut place), Ok(25));
    assert_eq!(&place[..25], b"an unusual generated code");
    let records = open.store.audit(20, 100).expect("readable");
    assert_eq!(records.iter().map(|record| record.sequence).collect::<Vec<_>>(), [20, 21, 22, 23, 24, 25]);
    assert_eq!(open.store.audit(1, 2).expect("readable").len(), 2);
    assert_eq!(open.store.audit(26, 1).expect("readable"), []);
    let checkpoints = open.store.checkpoints().expect("readable");
    assert_eq!(checkpoints.len(), 1);
    assert_eq!((checkpoints[0].sequence, checkpoints[0].head), (loaded.chain.sequence, loaded.chain.head));
}

#[test]
fn an_erased_code_is_gone_and_the_others_stay() {
    let dir = filled(1);
    let mut first = open(&settings(dir.path())).expect("it is whole");
    let mut purse = Purse::empty();
    let id = purse.keep(b"the next code");
    first.store.put(&Record::Seal { key: code(1, 2), id }, &purse);
    assert_eq!(first.commit(), PLENTY);
    first.store.put(&Record::Erase { key: code(1, 1) }, &purse);
    assert_eq!(first.commit(), PLENTY);
    drop(first);
    let mut again = open(&settings(dir.path())).expect("it is whole");
    let mut place = [0; 64];
    assert_eq!(again.store.unseal(code(1, 1), &mut place), Err(Fault::SealBroken));
    assert_eq!(again.store.unseal(code(1, 2), &mut place), Ok(13));
}

#[test]
fn p03_no_byte_of_a_sealed_code_stands_in_any_file() {
    let dir = filled(2);
    for (name, bytes) in bytes_of(dir.path()) {
        for word in [&b"unusual"[..], b"generated code"] {
            assert!(!bytes.windows(word.len()).any(|window| window == word), "{name}");
        }
    }
}

#[test]
fn a_stale_secret_or_a_record_out_of_order_fails_the_commit_and_all_after_it() {
    for break_it in [
        |open: &mut support::Open| {
            let mut purse = Purse::empty();
            let id = purse.keep(b"soon forgotten");
            purse.forget(id);
            open.store.put(&Record::Seal { key: code(1, 7), id }, &purse);
        },
        |open: &mut support::Open| {
            let gap = Chain { sequence: open.chain.sequence + 1, head: open.chain.head };
            open.store.journal(&record_after(&gap, AuditEvent::Activated));
        },
    ] {
        let dir = filled(3);
        let before = open(&settings(dir.path())).expect("it is whole").store.loaded().clone();
        let mut open_store = open(&settings(dir.path())).expect("it is whole");
        open_store.store.put(&Record::Slot { owner: Owner(1), record: slot(77) }, &Purse::empty());
        break_it(&mut open_store);
        assert_eq!(open_store.commit(), StoreResult::Failed);
        open_store.store.put(&Record::Slot { owner: Owner(2), record: slot(78) }, &Purse::empty());
        assert_eq!(open_store.commit(), StoreResult::Failed);
        drop(open_store);
        let after = open(&settings(dir.path())).expect("it is whole").store.loaded().clone();
        assert_eq!(after, before);
    }
}

#[test]
fn a_checkpoint_of_what_does_not_stand_in_the_journal_is_not_made() {
    let dir = filled(3);
    let mut open = open(&settings(dir.path())).expect("it is whole");
    let (sequence, head) = (open.chain.sequence, open.chain.head);
    for (sequence, head) in [(sequence, [1; 32]), (sequence + 1, head), (0, [0; 32])] {
        open.store.checkpoint(sequence, head);
        assert!(matches!(open.events.try_recv(), Ok(Event::Note(_))));
    }
    assert_eq!(open.store.checkpoints().expect("readable").len(), 1);
    // One within the open transaction becomes durable with its record.
    open.journal(AuditEvent::Activated);
    open.store.checkpoint(open.chain.sequence, open.chain.head);
    assert_eq!(open.store.checkpoints().expect("readable").len(), 1);
    assert_eq!(open.commit(), PLENTY);
    assert_eq!(open.store.checkpoints().expect("readable").len(), 2);
}

#[test]
fn a_daemon_that_was_killed_leaves_a_store_that_opens() {
    let dir = filled(5);
    let mut open_store = open(&settings(dir.path())).expect("it is whole");
    open_store.journal(AuditEvent::Activated);
    assert_eq!(open_store.commit(), PLENTY);
    // What a kill leaves: the files as they are while the daemon runs.
    let copy = directory();
    for (name, bytes) in bytes_of(dir.path()) {
        fs::write(copy.path().join(name), bytes).expect("writable");
    }
    let again = open(&settings(copy.path())).expect("redb repairs what was not closed");
    assert_eq!(again.store.loaded().chain, open_store.chain);
}

#[test]
fn a_damaged_byte_is_refused_with_every_byte_as_it_was_or_changes_nothing_that_counts() {
    let dir = filled(40);
    let path = dir.path().join("store.redb");
    let closed = fs::read(&path).expect("it is there");
    let mut running = open(&settings(dir.path())).expect("it is whole");
    running.settle();
    let expected = running.store.loaded().clone();
    let killed = fs::read(&path).expect("it is there");
    drop(running);

    // Which of redb's two commit slots is the newest is one bit of its tenth byte, under no
    // checksum: a store with that bit flipped looks as it did one transaction before.
    const NEWEST_SLOT_BYTE: usize = 9;
    let (mut refused, mut harmless) = (0, 0);
    for whole in [closed, killed] {
        // Every byte of the header, and bytes all over the file, each with another bit.
        let spread = (0..whole.len()).step_by(211);
        for index in (0..320).filter(|index| *index != NEWEST_SLOT_BYTE).chain(spread.skip(2)) {
            let mut damaged = whole.clone();
            damaged[index] ^= 1 << (index % 8);
            fs::write(&path, &damaged).expect("writable");
            let before = bytes_of(dir.path());
            match open(&settings(dir.path())) {
                Ok(open) => {
                    assert_eq!(*open.store.loaded(), expected, "byte {index}");
                    harmless += 1;
                }
                Err(reason) => {
                    assert_eq!(reason.refusal, Refusal::StoreUnreadable, "byte {index}: {reason}");
                    assert!(bytes_of(dir.path()) == before, "byte {index}: something was written");
                    refused += 1;
                }
            }
        }
    }
    println!("{refused} damaged bytes refused, {harmless} where nothing is stored");
    assert!(refused > 100);
}

/// A store that 0.1.0 wrote: `ca-root` manual and opened once, `issuing` generated. Stored
/// state of each release loads for ever.
#[test]
fn a_store_of_0_1_0_opens_with_its_slots_its_sealed_code_and_its_log() {
    let dir = directory();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/store-0.1.0");
    for file in fs::read_dir(golden).expect("it is in the repository") {
        let file = file.expect("it is readable").path();
        let kept = dir.path().join(file.file_name().expect("it has a name"));
        fs::copy(&file, &kept).expect("writable");
        fs::set_permissions(&kept, fs::Permissions::from_mode(0o600)).expect("just made");
    }
    let mut old = open(&settings(dir.path())).expect("a store of 0.1.0");
    let loaded = old.store.loaded().clone();
    let [(root, manual), (issuing, generated)] = loaded.slots.as_slice() else { panic!("two slots: {loaded:?}") };
    assert_eq!(
        (*root, manual.mode, manual.knowledge, manual.accepted),
        (Owner(1), Mode::Manual, Knowledge::Whole, None)
    );
    assert_eq!((*issuing, generated.mode, generated.accepted), (Owner(2), Mode::Generated, Some(1)));
    assert_eq!((manual.knowledge_next, generated.knowledge_next), (None, None));
    assert!(loaded.sets.is_empty() && loaded.chain.sequence > 10, "{loaded:?}");
    let mut place = [0; 64];
    assert_eq!(old.store.unseal(code(2, 1), &mut place), Ok(32));

    // From here on it is a store of this version.
    let record = SlotRecord { knowledge: Knowledge::Shares, ..*manual };
    old.store.put(&Record::Slot { owner: Owner(1), record }, &Purse::empty());
    old.store.put(&Record::Sets { owner: Owner(1), sets: sets(1) }, &Purse::empty());
    assert_eq!(old.commit(), PLENTY);
    drop(old);
    let new = open(&settings(dir.path())).expect("it was just written");
    assert_eq!(new.store.loaded().slots[0], (Owner(1), record));
    assert_eq!(new.store.loaded().sets, [(Owner(1), sets(1))]);
}

#[test]
fn a_gap_in_a_transcript_or_in_the_cards_is_refused_with_every_byte_as_it_was() {
    for damage in ["line", "card"] {
        let dir = directory();
        let mut first = open(&settings(dir.path())).expect("a new store");
        keep_cards(&mut first);
        drop(first);
        let database = redb::Database::open(dir.path().join("store.redb")).expect("it is whole");
        let write = database.begin_write().expect("nobody else writes");
        {
            if damage == "line" {
                let table = redb::TableDefinition::<&[u8; 10], &[u8]>::new("transcripts");
                let mut lines = write.open_table(table).expect("it is there");
                assert!(lines.remove(&[5, 5, 5, 5, 5, 5, 5, 5, 0, 0]).expect("writable").is_some());
            } else {
                let table = redb::TableDefinition::<u8, &[u8]>::new("cards");
                let mut cards = write.open_table(table).expect("it is there");
                assert!(cards.remove(0).expect("writable").is_some());
            }
        }
        write.commit().expect("there is room");
        drop(database);
        let before = bytes_of(dir.path());
        assert_eq!(refusal(&settings(dir.path())), Refusal::StoreUnreadable, "{damage}");
        assert!(bytes_of(dir.path()) == before);
    }
}

#[test]
fn a_transcript_with_another_line_than_was_signed_is_refused() {
    let dir = directory();
    let mut first = open(&settings(dir.path())).expect("a new store");
    keep_cards(&mut first);
    first.store.sign_transcript(CEREMONY, transcript::head(&lines()));
    first.settle();
    drop(first);
    let database = redb::Database::open(dir.path().join("store.redb")).expect("it is whole");
    let write = database.begin_write().expect("nobody else writes");
    {
        let table = redb::TableDefinition::<&[u8; 10], &[u8]>::new("transcripts");
        let mut place = [0; LINE_BYTES_MAX];
        let other = Line { mono_ms: 9999, ..lines()[1] };
        let bytes = other.encode(&mut place).expect("the bound holds");
        write.open_table(table).expect("it is there").insert(&[5, 5, 5, 5, 5, 5, 5, 5, 0, 1], bytes).expect("writable");
    }
    write.commit().expect("there is room");
    drop(database);
    assert_eq!(refusal(&settings(dir.path())), Refusal::StoreUnreadable);
}

#[test]
fn only_the_end_of_a_transcript_that_stands_in_the_store_is_signed() {
    let dir = directory();
    let mut first = open(&settings(dir.path())).expect("a new store");
    keep_cards(&mut first);
    first.store.sign_transcript(CEREMONY, [9; 32]);
    first.store.sign_transcript(CeremonyId([6; 8]), transcript::BEGINNING);
    first.settle();
    let part = first.store.transcript(CEREMONY, 0, 10).expect("readable");
    assert_eq!((part.all, part.end), (2, None));
    // With the last line in the open transaction, as at the end of a turn.
    first.store.put(&Record::Transcript { id: CEREMONY, number: 2, line: last_line() }, &Purse::empty());
    let all: Vec<Line> = lines().into_iter().chain([last_line()]).collect();
    first.store.sign_transcript(CEREMONY, transcript::head(&all));
    assert_eq!(first.commit(), PLENTY);
    let node = first.store.node_key();
    drop(first);

    let mut again = open(&settings(dir.path())).expect("it is whole");
    let part = again.store.transcript(CEREMONY, 0, 10).expect("readable");
    assert_eq!(part.lines, all);
    assert_eq!(Standing::of(CEREMONY, &all, part.end.as_ref(), &node), Standing::Signed);
    assert_eq!(Standing::of(CeremonyId([6; 8]), &all, part.end.as_ref(), &node), Standing::Wrong);
    assert_eq!(Standing::of(CEREMONY, &all[..2], part.end.as_ref(), &node), Standing::Wrong);
    let page = again.store.transcript(CEREMONY, 1, 1).expect("readable");
    assert_eq!((page.all, page.lines), (3, all[1..2].to_vec()));
    assert_eq!(again.store.transcript(CeremonyId([6; 8]), 0, 10).expect("readable").all, 0);
}

#[test]
fn cards_their_sets_and_the_cluster_id_come_back_in_their_places() {
    let dir = directory();
    let mut first = open(&settings(dir.path())).expect("a new store");
    assert_eq!(first.store.loaded().cluster_id, None);
    keep_cards(&mut first);
    let cluster = first.store.cluster_id();
    drop(first);
    let again = open(&settings(dir.path())).expect("it is whole");
    let loaded = again.store.loaded();
    assert_eq!(loaded.cards, [card(2), card(1)], "the first was replaced at its place");
    let expected = [SetSubject::BackupKey, SetSubject::Users(Owner(7)), SetSubject::Administrators(Owner(7))];
    assert_eq!(loaded.card_sets.len(), 3);
    for (number, subject) in (1..).zip(expected) {
        assert!(loaded.card_sets.contains(&(subject, card_sets(number))), "{subject:?}");
    }
    assert_eq!(loaded.cluster_id, Some([0xC1; 16]));
    assert_eq!(again.store.cluster_id(), cluster, "what every seal is bound to stays");
}

const CEREMONY: CeremonyId = CeremonyId([5; 8]);

fn lines() -> [Line; 2] {
    [CeremonyEvent::Begin, CeremonyEvent::Drawn(Ok(()))].map(|event| Line {
        mono_ms: 5,
        wall_s: Some(1_767_225_600),
        entry: Entry::Event(event),
    })
}

fn last_line() -> Line {
    Line { mono_ms: 9, wall_s: None, entry: Entry::Ended { end: CeremonyEnd::Done, human_steps: 3 } }
}

/// Two cards, sets of three subjects, a cluster id, two lines of a transcript; durable.
fn keep_cards(open: &mut Open) {
    let purse = Purse::empty();
    let subjects = [SetSubject::BackupKey, SetSubject::Users(Owner(7)), SetSubject::Administrators(Owner(7))];
    for (number, subject) in (1..).zip(subjects) {
        open.store.put(&Record::CardSets { subject, sets: card_sets(number) }, &purse);
    }
    for (place, number) in [(0, 9), (1, 1), (0, 2)] {
        open.store.put(&Record::Card { place, entry: card(number) }, &purse);
    }
    open.store.put(&Record::Cluster([0xC1; 16]), &purse);
    for (number, line) in (0..).zip(lines()) {
        open.store.put(&Record::Transcript { id: CEREMONY, number, line }, &purse);
    }
    assert_eq!(open.commit(), PLENTY);
}
