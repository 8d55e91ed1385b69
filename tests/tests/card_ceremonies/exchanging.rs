//! Keys travel without a hand: three daemons with tokens of their own, and a real etcd of three members between
//! them, or a directory that somebody hostile can write in.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use slotwarden_tests::etcd::Etcd;
use slotwarden_tests::modules::Kind;

use crate::cluster::Nodes;

/// Longest wait for what happens by itself: several looks, turns and imports on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(250);
/// A second, so that a turn that somebody lets pass is short.
const AUTOMATIC: &str = "automatic = true\ninterval_s = 1\n";

impl Nodes {
    /// Waits until the key of this id is at a node.
    #[track_caller]
    fn gets_key(&self, at: usize, id: &str) {
        self.wait(&format!("key {id} at node {at}"), || self.has_key(at, id));
    }

    #[track_caller]
    fn wait(&self, what: &str, mut done: impl FnMut() -> bool) {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < PATIENCE, "{what}: {}", self.logs());
            thread::sleep(PAUSE);
        }
    }

    fn logs(&self) -> String {
        let log = |number: usize| {
            let lines = self.at(number).stage.log();
            let lines: Vec<&str> = lines.lines().rev().take(30).collect();
            format!("\nnode {number}:\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
        };
        (0..self.count()).map(log).collect()
    }
}

#[test]
fn keys_reach_every_node_by_etcd_although_a_member_of_it_dies_and_a_node_is_away() {
    let mut etcd = Etcd::start(3);
    let endpoints = etcd.endpoints();
    let mut nodes = Nodes::cluster(&[Kind::SoftHsm; 3], |_| format!("etcd = {endpoints:?}\n{AUTOMATIC}"));
    nodes.make_key(0, "first", "01");
    nodes.gets_key(1, "01");
    nodes.gets_key(2, "01");
    for (signs, knows) in [(0, 1), (1, 2), (2, 0)] {
        nodes.is_the_same_key("01", signs, knows);
    }

    // One member of etcd dies, and one node is switched off, while ten packages are made.
    etcd.kill(1);
    nodes.at_mut(2).stage.stop();
    for number in 2..12 {
        let (from, to, id) = (number % 2, (number + 1) % 2, format!("{number:02}"));
        nodes.make_key(from, &format!("key {number}"), &id);
        nodes.gets_key(to, &id);
    }
    nodes.at_mut(2).start();
    for number in 2..12 {
        nodes.gets_key(2, &format!("{number:02}"));
    }
    nodes.is_the_same_key("11", 2, 0);

    // Everybody knows of everybody, and a key that was destroyed on purpose stays away.
    for (at, of) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
        nodes.wait(&format!("{of} as {at} knows it"), || nodes.standing(at, of) == "in-sync");
    }
    nodes.destroy_key(0, "01");
    nodes.wait("the others hear of it", || nodes.standing(1, 0) == "diverged" && nodes.standing(2, 0) == "diverged");
    nodes.make_key(1, "last", "12");
    nodes.gets_key(0, "12");
    nodes.gets_key(2, "12");
    assert!(!nodes.has_key(0, "01"), "it was destroyed on purpose");
    assert!(nodes.has_key(1, "01") && nodes.has_key(2, "01"), "nothing is deleted");
}

#[test]
fn p23_whoever_holds_the_directory_delays_keys_and_does_no_more() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
    let root = folder.path().to_str().expect("ASCII").to_owned();
    let nodes = Nodes::cluster(&[Kind::SoftHsm, Kind::Kryoptic], |_| format!("directory = {root:?}\n{AUTOMATIC}"));
    nodes.make_key(0, "first", "01");
    nodes.gets_key(1, "01");
    let first = packages(folder.path());
    nodes.make_key(0, "second", "02");
    nodes.gets_key(1, "02");
    nodes.destroy_key(1, "01");
    nodes.wait("it is known", || nodes.standing(0, 1) == "diverged");

    // Old packages come back, altered ones, other members' under their names, none at all.
    let newest = packages(folder.path());
    assert!(first.len() == 2 && newest.len() == 2, "each member has one: {first:?}");
    for (path, old) in &first {
        fs::write(path, old).expect("whoever is hostile may");
    }
    thread::sleep(Duration::from_secs(3));
    for (path, new) in &newest {
        let mut altered = new.clone();
        let middle = altered.len() / 2;
        altered[middle] ^= 1;
        fs::write(path, altered).expect("whoever is hostile may");
    }
    thread::sleep(Duration::from_secs(3));
    fs::write(&newest[0].0, &newest[1].1).expect("whoever is hostile may");
    fs::write(&newest[1].0, b"SLWP\x01 and nothing else").expect("whoever is hostile may");
    thread::sleep(Duration::from_secs(3));
    for (path, _) in &newest {
        fs::remove_file(path).expect("whoever is hostile may");
    }
    assert!(!nodes.has_key(1, "01"), "it was destroyed on purpose");
    assert!(nodes.has_key(0, "01") && nodes.has_key(0, "02") && nodes.has_key(1, "02"));

    // It was only delayed.
    nodes.make_key(1, "third", "03");
    nodes.gets_key(0, "03");
    nodes.is_the_same_key("03", 0, 1);
    assert!(!nodes.has_key(1, "01"), "it was destroyed on purpose");
}

/// Every package in the directory, sorted by its path.
fn packages(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("it can be read").path()).collect()
    };
    let mut folders = vec![root.to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name == "package") {
                let bytes = fs::read(&path).expect("it is a file");
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}
