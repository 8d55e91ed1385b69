//! The adapter `pin-file`: what it refuses, and what an application finds.
//!
//! These tests run where `/dev/shm` is a tmpfs without plain swap; another machine fails
//! them with the reason. What swap does to the decision is tested in `apps::memory`.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use slotwarden::apps::Adapters;
use slotwarden::apps::memory::Memory;
use slotwarden::apps::pin_file::PinFile;
use slotwarden::devices::{Applications as _, Event};
use slotwarden_core::effect::{ApplicationId, ApplicationOrder, SlotId, Ticket};
use slotwarden_core::fault::{ApplicationFault, Fault};
use support::{Purse, answer, directory};

const PIN: &[u8] = b"a PIN of an active slot";

struct Adapter {
    files: Adapters,
    events: Receiver<Event>,
    purse: Purse,
}

impl Adapter {
    fn new(files: Vec<PinFile>) -> Self {
        let (sender, events) = channel();
        Adapter { files: Adapters::of_files(files, sender), events, purse: Purse::empty() }
    }

    fn order(&mut self, application: u8, order: ApplicationOrder) -> (Result<(), Fault>, Vec<String>) {
        let ticket = Ticket { slot: Some(SlotId(0)), number: 1 };
        self.files.perform(ticket, ApplicationId(application), SlotId(0), order, &self.purse);
        answer(&self.events)
    }

    fn hand_over(&mut self) -> Result<(), Fault> {
        let pin = self.purse.keep(PIN);
        let (result, notes) = self.order(0, ApplicationOrder::HandOver { pin });
        self.purse.forget(pin);
        assert_eq!(result.is_ok(), notes.is_empty());
        assert!(notes.iter().all(|note| !note.contains("a PIN of")));
        result
    }

    fn withdraw(&mut self) -> Result<(), Fault> {
        self.order(0, ApplicationOrder::Withdraw).0
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("it is there");
    entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect()
}

fn not(fault: ApplicationFault) -> Result<(), Fault> {
    Err(Fault::Application(fault))
}

#[test]
fn p31_a_directory_on_a_disk_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory is writable");
    let mut adapter = Adapter::new(vec![PinFile::new(&dir.path().join("signer.pin"))]);
    assert_eq!(adapter.hand_over(), not(ApplicationFault::NotInMemory));
    assert!(names(dir.path()).is_empty());
}

#[test]
fn p31_tmpfs_that_can_be_swapped_to_a_plain_disk_is_refused_and_nothing_is_written() {
    let (dir, kernel) = (directory(), directory());
    fs::create_dir_all(kernel.path().join("self")).expect("writable");
    fs::write(kernel.path().join("self/mountinfo"), "").expect("writable");
    fs::write(kernel.path().join("swaps"), "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n")
        .expect("writable");
    let mut adapter = Adapter::new(vec![PinFile::new(&dir.path().join("signer.pin"))]);
    adapter.files = adapter.files.with_memory(Memory::at(kernel.path(), kernel.path()));
    assert_eq!(adapter.hand_over(), not(ApplicationFault::NotInMemory));
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_missing_directory_an_unknown_application_and_a_stale_pin_are_refused() {
    let dir = directory();
    let mut adapter = Adapter::new(vec![PinFile::new(&dir.path().join("missing/signer.pin"))]);
    assert_eq!(adapter.hand_over(), not(ApplicationFault::NotWritten));
    assert_eq!(adapter.withdraw(), Ok(()));
    let pin = adapter.purse.keep(PIN);
    assert_eq!(adapter.order(1, ApplicationOrder::HandOver { pin }).0, not(ApplicationFault::NotWritten));
    let mut adapter = Adapter::new(vec![PinFile::new(&dir.path().join("signer.pin"))]);
    assert_eq!(adapter.order(0, ApplicationOrder::HandOver { pin }).0, not(ApplicationFault::NotWritten));
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_directory_in_the_place_of_the_file_is_a_fault_both_ways_and_leaves_no_trace() {
    let dir = directory();
    let path = dir.path().join("signer.pin");
    fs::create_dir(&path).expect("writable");
    let mut adapter = Adapter::new(vec![PinFile::new(&path)]);
    assert_eq!(adapter.hand_over(), not(ApplicationFault::NotWritten));
    assert_eq!(adapter.withdraw(), not(ApplicationFault::NotRemoved));
    assert_eq!(names(dir.path()), ["signer.pin"]);
}

#[test]
fn a_symlink_in_the_place_of_the_file_is_replaced_and_never_followed() {
    let (dir, elsewhere) = (directory(), directory());
    let target = elsewhere.path().join("target");
    fs::write(&target, "untouched").expect("writable");
    let path = dir.path().join("signer.pin");
    let mut adapter = Adapter::new(vec![PinFile::new(&path)]);
    for name in ["signer.pin", ".signer.pin.slotwarden"] {
        symlink(&target, dir.path().join(name)).expect("writable");
    }
    assert_eq!(adapter.hand_over(), Ok(()));
    assert!(fs::symlink_metadata(&path).expect("it is there").is_file());
    assert_eq!(fs::read(&path).expect("it is there"), PIN);
    assert_eq!(fs::read(&target).expect("it is there"), b"untouched");
    fs::remove_file(&path).expect("it is there");
    symlink(&target, &path).expect("writable");
    assert_eq!(adapter.withdraw(), Ok(()));
    assert!(names(dir.path()).is_empty());
    assert_eq!(fs::read(&target).expect("it is there"), b"untouched");
}

#[test]
fn the_file_holds_exactly_the_pin_with_mode_and_group_and_nothing_beside_it() {
    let dir = directory();
    let path = dir.path().join("signer.pin");
    let mut adapter = Adapter::new(vec![PinFile { group: Some(54_321), ..PinFile::new(&path) }]);
    for _ in 0..2 {
        assert_eq!(adapter.hand_over(), Ok(()));
        assert_eq!(fs::read(&path).expect("it is there"), PIN);
        let metadata = fs::metadata(&path).expect("it is there");
        assert_eq!((metadata.permissions().mode() & 0o7777, metadata.gid()), (0o640, 54_321));
        assert_eq!(names(dir.path()), ["signer.pin"]);
    }
    assert_eq!(adapter.withdraw(), Ok(()));
    assert!(names(dir.path()).is_empty());
    assert_eq!(adapter.withdraw(), Ok(()), "what is not there counts as withdrawn");
}

#[test]
fn a_start_takes_back_what_a_killed_daemon_left_of_every_application() {
    let dir = directory();
    let paths = [dir.path().join("a.pin"), dir.path().join("b.pin"), dir.path().join("missing/c.pin")];
    for name in ["a.pin", ".b.pin.slotwarden"] {
        fs::write(dir.path().join(name), PIN).expect("writable");
    }
    fs::write(dir.path().join("other.pin"), "not ours").expect("writable");
    let mut adapter = Adapter::new(paths.iter().map(|path| PinFile::new(path)).collect());
    adapter.files.withdraw_all();
    assert_eq!(names(dir.path()), ["other.pin"]);
    assert!(adapter.events.try_recv().is_err());
    // What cannot be taken back is said aloud, and does not keep the others.
    fs::create_dir(&paths[0]).expect("writable");
    fs::write(&paths[1], PIN).expect("writable");
    adapter.files.withdraw_all();
    assert!(!paths[1].exists());
    assert!(matches!(adapter.events.try_recv(), Ok(Event::Note(note)) if note.contains("a.pin")));
}
