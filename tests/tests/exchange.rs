//! Packages travel between members by themselves: through a directory, and through a real etcd that
//! loses members, its data, and its honesty. Whatever happens, what is handed over has the bytes that
//! were offered, and in the end it is the newest.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use slotwarden::config::{Engine, EtcdSettings};
use slotwarden::exchange::etcd::{self, PART_BYTES};
use slotwarden::exchange::{self, Answer, Arrival, Courier, CourierSettings, Exchange, Members, Name, What};
use slotwarden_tests::etcd::Etcd;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(90);
const CLUSTER: [u8; 16] = [0xC1; 16];
/// Ten parts and a rest.
const PACKAGE_BYTES: usize = 5_300_000;

/// A member: its courier, and a loop that takes whatever has a higher number than what it has.
struct Member {
    node: [u8; 32],
    courier: Courier,
    arrivals: Receiver<Arrival>,
    taken: BTreeMap<[u8; 32], u64>,
    sent: u64,
    dir: TempDir,
}

fn node(number: u8) -> [u8; 32] {
    [number; 32]
}

fn sha(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Where its number is, behind what a package begins with.
const NUMBER: std::ops::Range<usize> = 5..13;

/// A package as far as a courier cares: its beginning, a number, and bytes that nobody guesses.
fn package(source: [u8; 32], number: u64, length_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0; length_bytes];
    fastrand::Rng::with_seed(number ^ u64::from(source[0]) << 32).fill(&mut bytes);
    let (magic, version) = What::Package.begins();
    bytes[..4].copy_from_slice(&magic);
    bytes[4] = version;
    bytes[NUMBER].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn number_of(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[NUMBER].try_into().expect("a package is longer"))
}

impl Member {
    fn new(number: u8, members: u8, engine: Box<dyn Exchange>) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is writable");
        let settings = CourierSettings {
            spool_dir: dir.path().join("spool"),
            interval: Duration::from_secs(2),
            pause_min: Duration::from_millis(50),
            bytes_max: 64 << 20,
        };
        let (deliver, arrivals) = channel();
        let courier = Courier::start(engine, settings, move |arrival| {
            let _ = deliver.send(arrival);
        });
        let courier = courier.expect("threads can be started");
        let others = (1..=members).filter(|other| *other != number).map(node).collect();
        courier.members(Members { cluster: CLUSTER, own: node(number), others });
        Member { node: node(number), courier, arrivals, taken: BTreeMap::new(), sent: 0, dir }
    }

    fn by_directory(number: u8, members: u8, root: PathBuf) -> Self {
        Member::new(number, members, exchange::open(&Engine::Directory(root)).expect("it needs nothing"))
    }

    fn by_etcd(number: u8, members: u8, etcd: &Etcd) -> Self {
        let settings = EtcdSettings { endpoints: etcd.endpoints(), ..EtcdSettings::default() };
        let engine = exchange::open(&Engine::Etcd(settings)).expect("threads can be started");
        Member::new(number, members, engine)
    }

    fn publish(&mut self, length_bytes: usize) {
        self.sent += 1;
        let (new, path) = (self.dir.path().join("new"), self.dir.path().join("last"));
        fs::write(&new, package(self.node, self.sent, length_bytes)).expect("there is room");
        fs::rename(&new, &path).expect("one file system");
        self.courier.publish(What::Package, path);
    }

    /// Takes or refuses what arrived, as the core would judge it.
    #[track_caller]
    fn judge(&mut self, arrival: &Arrival) {
        let bytes = fs::read(&arrival.path).expect("it is spooled");
        assert_eq!(sha(&bytes), arrival.hash, "other bytes than were said");
        let (source, number) = (arrival.name.node, number_of(&bytes));
        let true_one = bytes == package(source, number, bytes.len());
        let before = self.taken.get(&source).copied().unwrap_or(0);
        let answer = if true_one && number > before { Answer::Taken } else { Answer::Refused };
        if answer == Answer::Taken {
            self.taken.insert(source, number);
        }
        self.courier.answer(arrival.hash, answer);
    }

    /// Judges until it has this number from that member.
    #[track_caller]
    fn hears(&mut self, source: [u8; 32], number: u64) {
        let began = Instant::now();
        while self.taken.get(&source) != Some(&number) {
            let left = PATIENCE.saturating_sub(began.elapsed());
            match self.arrivals.recv_timeout(left) {
                Ok(arrival) => self.judge(&arrival),
                Err(_) => panic!("it has {:?}, not {number}: {:?}", self.taken.get(&source), self.courier.state()),
            }
        }
    }

    #[track_caller]
    fn wait(&self, what: &str, mut done: impl FnMut(&Courier) -> bool) {
        let began = Instant::now();
        while !done(&self.courier) {
            assert!(began.elapsed() < PATIENCE, "{what}: {:?}", self.courier.state());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn name(source: [u8; 32]) -> Name {
    Name { cluster: CLUSTER, node: source, what: What::Package }
}

/// What lies under a key.
fn value(etcd: &Etcd, key: &str) -> Vec<u8> {
    let mut value = etcd.ctl(&["get", "--print-value-only", key], b"");
    value.pop();
    value
}

fn keys(etcd: &Etcd) -> Vec<String> {
    let listed = etcd.ctl(&["get", "--prefix", "--keys-only", "slotwarden/"], b"");
    let listed = String::from_utf8(listed).expect("our keys are text");
    listed.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn two_members_find_each_other_in_a_directory_that_vanishes_and_comes_back() {
    let place = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is writable");
    let root = place.path().join("shared");
    let mut one = Member::by_directory(1, 2, root.clone());
    let mut two = Member::by_directory(2, 2, root.clone());
    one.publish(PACKAGE_BYTES);
    one.wait("nothing is shared yet", |courier| courier.state().reachable == Some(false));
    fs::create_dir(&root).expect("our own directory");
    two.hears(one.node, 1);
    two.publish(PACKAGE_BYTES);
    one.hears(two.node, 1);
    // As if its file system had been unmounted: the files with it.
    fs::rename(&root, place.path().join("away")).expect("our own directory");
    one.publish(1000);
    thread::sleep(Duration::from_millis(300));
    fs::create_dir(&root).expect("our own directory");
    two.hears(one.node, 2);
    // What the new one lacks is published anew.
    two.wait("ours is there again", |courier| courier.state().published.contains(&What::Package));
    let file = root.join(name(two.node).to_string());
    let began = Instant::now();
    while fs::read(&file).ok() != Some(package(two.node, 1, PACKAGE_BYTES)) {
        assert!(began.elapsed() < PATIENCE, "{:?}", two.courier.state());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_directory_that_somebody_alters_delays_and_no_more() {
    let root = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is writable");
    let mut one = Member::by_directory(1, 2, root.path().to_owned());
    let mut two = Member::by_directory(2, 2, root.path().to_owned());
    one.publish(100_000);
    two.hears(one.node, 1);
    let file = root.path().join(name(one.node).to_string());
    let old = fs::read(&file).expect("it is published");
    // The other member is not there to put it right, so the damage stays until it publishes.
    let (path, sent) = (one.dir.path().join("last"), one.sent);
    drop(one.courier);
    fs::write(&file, package(one.node, 99, 100_000).split_off(50_000)).expect("our own directory");
    thread::sleep(Duration::from_millis(300));
    fs::remove_file(&file).expect("our own directory");
    let giant = fs::File::create(&file).expect("our own directory");
    giant.set_len(10 << 30).expect("it takes no room");
    thread::sleep(Duration::from_millis(300));
    // Thousands of names.
    let beside = root.path().join(name(one.node).cluster_hex());
    for number in 0..3_000 {
        fs::write(beside.join(format!("{number:064x}")), "x").expect("there is room");
    }
    fs::write(&file, &old).expect("our own directory");
    thread::sleep(Duration::from_millis(300));
    let mut again = Member::by_directory(1, 2, root.path().to_owned());
    again.sent = sent;
    again.courier.publish(What::Package, path);
    again.publish(100_000);
    two.hears(again.node, 2);
}

#[test]
fn three_members_keep_each_other_current_while_etcd_loses_one_and_then_all() {
    let mut etcd = Etcd::start(3);
    let mut members: Vec<Member> = (1..=3).map(|number| Member::by_etcd(number, 3, &etcd)).collect();
    for member in &mut members {
        member.publish(PACKAGE_BYTES);
    }
    // Amid the transfers, the one that all of them use.
    thread::sleep(Duration::from_millis(60));
    etcd.kill(0);
    let everybody_hears = |members: &mut [Member], number| {
        for listening in 0..members.len() {
            for source in 0..members.len() {
                if source != listening {
                    let source = members[source].node;
                    members[listening].hears(source, number);
                }
            }
        }
    };
    everybody_hears(&mut members, 1);
    for member in &mut members {
        member.publish(PACKAGE_BYTES);
    }
    etcd.start_again(0);
    everybody_hears(&mut members, 2);
    etcd.kill_all();
    for member in &mut members {
        member.publish(700_000);
    }
    members[0].wait("etcd is gone", |courier| courier.state().reachable == Some(false));
    etcd.start_all();
    everybody_hears(&mut members, 3);
    // Of each file its parts and nothing of those before.
    members[0].wait("the last one is there", |_| keys(&etcd).len() == 3 * (1 + 2));
    // Everything is gone: it is published anew, and known.
    etcd.lose_everything();
    etcd.start_all();
    members[0].wait("it is published anew", |_| keys(&etcd).len() == 3 * (1 + 2));
    members[2].publish(100);
    members[0].publish(PART_BYTES);
    let source = members[0].node;
    members[1].hears(source, 4);
}

#[test]
fn a_member_that_was_away_for_ten_packages_gets_the_newest() {
    let etcd = Etcd::start(1);
    let mut one = Member::by_etcd(1, 3, &etcd);
    let mut two = Member::by_etcd(2, 3, &etcd);
    for number in 1..=10 {
        one.publish(600_000);
        two.hears(one.node, number);
    }
    let mut three = Member::by_etcd(3, 3, &etcd);
    let arrival = three.arrivals.recv_timeout(PATIENCE).expect("it is found");
    assert_eq!(number_of(&fs::read(&arrival.path).expect("it is spooled")), 10, "and nothing before it");
    three.judge(&arrival);
    // A restart publishes nothing twice.
    let offer = value(&etcd, &etcd::offer_key(&name(one.node)));
    let path = one.dir.path().join("last");
    drop(one.courier);
    let again = Member::by_etcd(1, 3, &etcd);
    again.courier.publish(What::Package, path);
    again.wait("it is there", |courier| courier.state().published.contains(&What::Package));
    assert_eq!(value(&etcd, &etcd::offer_key(&name(one.node))), offer);
    again.courier.withdraw(What::Package);
    again.wait("it is gone", |_| keys(&etcd).is_empty());
}

#[test]
fn an_etcd_that_alters_replays_and_reorders_delays_and_no_more() {
    let etcd = Etcd::start(1);
    let mut one = Member::by_etcd(1, 2, &etcd);
    let mut two = Member::by_etcd(2, 2, &etcd);
    one.publish(2 * PART_BYTES + 1000);
    two.hears(one.node, 1);
    let name = name(one.node);
    let offer_key = etcd::offer_key(&name);
    let old_offer = value(&etcd, &offer_key);
    let old: Vec<u8> = package(one.node, 1, 2 * PART_BYTES + 1000);
    let part = |bytes: &[u8], number: u32| etcd::part_key(&name, &sha(bytes), number);
    one.publish(2 * PART_BYTES + 1000);
    two.hears(one.node, 2);
    // Nobody puts anything right meanwhile.
    let path = one.dir.path().join("last");
    let sent = one.sent;
    drop(one.courier);

    // Replayed as a whole: true, and old. It is known, so it is not even fetched.
    let before = two.courier.state();
    for (number, bytes) in (0..).zip(old.chunks(PART_BYTES)) {
        etcd.ctl(&["put", &part(&old, number)], bytes);
    }
    etcd.ctl(&["put", &offer_key], &old_offer);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(two.courier.state().arrived, before.arrived);

    // An offer of what does not exist, is too long, or is none at all.
    let text = String::from_utf8(old_offer.clone()).expect("it is text");
    let third = package(one.node, 3, 2 * PART_BYTES + 1000);
    let hex = |bytes: &[u8]| sha(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let offer = text.replace(&hex(&old), &hex(&third));
    for wrong in [&offer, &offer.replace("1049576", "99999999999"), "{", " "] {
        etcd.ctl(&["put", &offer_key], wrong.as_bytes());
        thread::sleep(Duration::from_millis(200));
    }
    etcd.ctl(&["put", &offer_key], &vec![b'x'; 1_400_000]);
    thread::sleep(Duration::from_millis(200));

    // Parts that were altered, exchanged, of another file, or of another length.
    let parts: Vec<&[u8]> = third.chunks(PART_BYTES).collect();
    let put = |order: [&[u8]; 3]| {
        for (number, bytes) in (0..).zip(order) {
            etcd.ctl(&["put", &part(&third, number)], bytes);
        }
    };
    let mut flipped = parts[1].to_vec();
    flipped[1000] ^= 0x10;
    let foreign = &old[..PART_BYTES];
    let tampered: [[&[u8]; 3]; 5] = [
        [parts[0], &flipped, parts[2]],
        [parts[1], parts[0], parts[2]],
        [foreign, parts[1], parts[2]],
        [parts[0], parts[1], &parts[2][1..]],
        [parts[0], parts[1], parts[1]],
    ];
    for (number, order) in tampered.into_iter().enumerate() {
        put(order);
        // Another version each time, so that it is fetched at all.
        let version = format!("\"revision\":{}", 1000 + number);
        let at = offer.find("\"revision\"").expect("an offer has one");
        etcd.ctl(&["put", &offer_key], format!("{}{version}}}", &offer[..at]).as_bytes());
        thread::sleep(Duration::from_millis(300));
    }
    two.wait("it was found out", |courier| courier.state().altered >= 2);
    assert_eq!(two.courier.state().arrived, before.arrived, "nothing of it was handed over");
    assert!(two.courier.state().problems.contains_key(&Some(name)));

    // Thousands of names beside it, of no member.
    let mut script = String::new();
    for number in 0..2_000 {
        script.push_str(&format!("put slotwarden/1/{}/offer/{number:064x}/package x\n", name.cluster_hex()));
    }
    for orders in script.lines().collect::<Vec<_>>().chunks(100) {
        etcd.ctl(&["txn"], format!("\n{}\n\n\n", orders.join("\n")).as_bytes());
    }

    // The member is back: it was only delayed.
    let mut again = Member::by_etcd(1, 2, &etcd);
    again.sent = sent;
    again.courier.publish(What::Package, path);
    again.publish(2 * PART_BYTES + 1000);
    two.hears(again.node, 3);
    two.publish(100);
    again.hears(two.node, 1);
}
