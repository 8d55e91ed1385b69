//! A disk that fills up: a small tmpfs in a mount namespace of its own.
//!
//! Needs root and `unshare` (util-linux). The test runs itself again in the namespace, so
//! that nothing has to be unmounted, however it ends.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use slotwarden::devices::Store as _;
use slotwarden::store::room::RESERVE_BYTES;
use slotwarden_core::Refusal;
use slotwarden_core::effect::{Room, StoreResult};
use slotwarden_core::record::{Owner, Record};
use support::{Open, Purse, directory, event, open, settings, slot};

/// Set in the namespace: where to mount.
const INSIDE: &str = "SLOTWARDEN_TEST_MOUNT";

#[test]
fn a_full_disk_is_announced_by_the_reserve_then_refused_and_nothing_is_lost() {
    if let Some(mount_point) = std::env::var_os(INSIDE) {
        return fill_up(Path::new(&mount_point));
    }
    let mount_point = directory();
    let name = "a_full_disk_is_announced_by_the_reserve_then_refused_and_nothing_is_lost";
    let output = Command::new("unshare")
        .arg("--mount")
        .arg(std::env::current_exe().expect("a test has a file"))
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, mount_point.path())
        .output()
        .expect("`unshare` of the package util-linux is needed");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "this test needs root; it said:\n{said}");
    assert!(said.contains("the disk was filled twice"), "it did not run:\n{said}");
}

fn fill_up(mount_point: &Path) {
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
        .arg(mount_point)
        .status()
        .expect("`mount` of the package mount is needed");
    assert!(mounted.success());
    let state = mount_point.join("state");
    let (ballast, filler) = (state.join("ballast"), mount_point.join("filler"));
    for round in 0..2 {
        let mut open_store = open(&settings(&state)).expect("there is room");
        assert_eq!(store_something(&mut open_store), StoreResult::Durable(Room::Plenty));
        assert_eq!(fs::metadata(&ballast).expect("it is there").len(), RESERVE_BYTES);

        // Somebody else's file takes all but 3 MiB: the ballast is given up for us.
        let free = rustix::fs::statvfs(mount_point).expect("it is mounted");
        let free = free.f_bavail * free.f_frsize;
        fs::write(&filler, vec![1; (free - (3 << 20)) as usize]).expect("that much is free");
        assert_eq!(store_something(&mut open_store), StoreResult::Durable(Room::Reserve));
        assert!(!ballast.exists());
        assert_eq!(store_something(&mut open_store), StoreResult::Durable(Room::Reserve));

        // Then everything: commits go on until the store's own file has to grow.
        fill(&filler);
        let mut durable = 0;
        let last = loop {
            let last = (open_store.store.audit(1, usize::MAX).expect("readable").len(), open_store.chain);
            match store_something(&mut open_store) {
                StoreResult::Durable(room) => assert_eq!(room, Room::Reserve),
                StoreResult::Failed => break last,
            }
            durable += 1;
            assert!(durable < 10_000, "the disk is not full");
        };
        fs::remove_file(&filler).expect("it is there");
        assert_eq!(store_something(&mut open_store), StoreResult::Failed, "only a restart ends a failure");
        drop(open_store);

        let mut again = open(&settings(&state)).expect("it is whole");
        assert_eq!((again.store.audit(1, usize::MAX).expect("readable").len(), again.chain), last);
        assert_eq!(store_something(&mut again), StoreResult::Durable(Room::Plenty));
        println!("round {round}: {durable} commits on the full disk, then a failure");
    }
    // A restart while the disk is still full finds what was durable, or says what is wrong.
    let mut open_store = open(&settings(&state)).expect("there is room");
    let durable = loop {
        // Again each time, since giving the ballast up makes room.
        fill(&filler);
        let durable = open_store.chain;
        assert!(durable.sequence < 10_000, "the disk is not full");
        if store_something(&mut open_store) == StoreResult::Failed {
            break durable;
        }
    };
    drop(open_store);
    match open(&settings(&state)) {
        Ok(again) => assert_eq!(again.chain, durable),
        Err(refused) => assert_eq!(refused.refusal, Refusal::StoreFailed),
    }
    fs::remove_file(&filler).expect("it is there");
    assert_eq!(open(&settings(&state)).expect("there is room again").chain, durable);
    println!("the disk was filled twice");
}

fn store_something(open: &mut Open) -> StoreResult {
    let owner = Owner(1);
    open.store.put(&Record::Slot { owner, record: slot(open.chain.sequence as u8) }, &Purse::empty());
    for number in 0..8 {
        open.journal(event(number));
    }
    open.commit()
}

/// Writes until nothing is left.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path).expect("it can be opened");
    let block = vec![1; 4096];
    while file.write_all(&block).is_ok() {}
}
