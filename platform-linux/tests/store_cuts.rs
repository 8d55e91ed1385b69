//! Power cuts under the store: redb with our transactions over a disk that forgets.
//!
//! The disk records every write, resize and sync. A cut keeps what was synced, any subset
//! of what was not, and of each write kept any part up to any byte. The same code as in the
//! daemon then opens and checks what is left.

mod support;

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use ed25519_dalek::{Signer as _, SigningKey};
use redb::{Database, StorageBackend};
use slotwarden::devices::{Checkpoint, Event, TranscriptEnd};
use slotwarden::store::format::{self, Change, Content};
use slotwarden::store::room::Ballast;
use slotwarden::store::writer::{self, Job};
use slotwarden::transcript;
use slotwarden_core::audit::Chain;
use slotwarden_core::card::sets::SetSubject;
use slotwarden_core::ceremony::transcript::{Entry, Line, signed_message};
use slotwarden_core::ceremony::{CeremonyEvent, CeremonyId};
use slotwarden_core::effect::{Input, Room, StoreResult, Ticket};
use slotwarden_core::record::{Owner, SecretKey, SecretKind};
use support::{card, card_sets, code, event, record_after, sets, slot};

const NODE_KEY: SecretKey = SecretKey { kind: SecretKind::NodeKey, owner: Owner(0), generation: 1 };

/// What a disk is told.
#[derive(Clone, Debug)]
enum Told {
    Write(u64, Vec<u8>),
    Resize(u64),
    Sync,
}

/// A disk in memory that remembers what it was told, and can be made to fail.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    image: Mutex<Vec<u8>>,
    told: Mutex<Vec<Told>>,
    /// How many more writes, resizes or syncs succeed; `u64::MAX` for all.
    left: AtomicU64,
    broken: AtomicBool,
    touched_after: AtomicU64,
}

impl Disk {
    fn with(image: Vec<u8>) -> Self {
        let disk = Disk::default();
        *disk.0.image.lock().expect("no test thread panicked") = image;
        disk.0.left.store(u64::MAX, Ordering::Relaxed);
        disk
    }

    fn told(&self) -> Vec<Told> {
        self.0.told.lock().expect("no test thread panicked").clone()
    }

    fn tell(&self, what: Told) -> io::Result<()> {
        if self.0.broken.load(Ordering::Relaxed) {
            self.0.touched_after.fetch_add(1, Ordering::Relaxed);
            // It would succeed now: only our own rule keeps the store from going on (P40).
        } else if self.0.left.load(Ordering::Relaxed) == 0 {
            self.0.broken.store(true, Ordering::Relaxed);
            return Err(io::Error::other("the disk fails here"));
        } else {
            self.0.left.fetch_sub(1, Ordering::Relaxed);
        }
        apply_to(&mut self.0.image.lock().expect("no test thread panicked"), &what);
        self.0.told.lock().expect("no test thread panicked").push(what);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.image.lock().expect("no test thread panicked").len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let image = self.0.image.lock().expect("no test thread panicked");
        let start = offset as usize;
        let part = image.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(part);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.tell(Told::Resize(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.tell(Told::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.tell(Told::Write(offset, data.to_vec()))
    }
}

fn apply_to(image: &mut Vec<u8>, what: &Told) {
    match what {
        Told::Resize(len) => image.resize(*len as usize, 0),
        Told::Write(offset, data) => {
            // A write beyond an end that was not made durable is lost with the end.
            let start = (*offset as usize).min(image.len());
            let end = (start + data.len()).min(image.len());
            image[start..end].copy_from_slice(&data[..end - start]);
        }
        Told::Sync => {}
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same seed, the same cuts.
struct Seed(u64);

impl Seed {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// What a cut leaves of `durable` when `pending` was not synced and the last of it was
/// under way. Resizes are metadata and survive in order; writes survive in any subset.
fn cut(durable: &[u8], pending: &[Told], seed: &mut Seed) -> Vec<u8> {
    let mut image = durable.to_vec();
    let resizes = pending.iter().filter(|told| matches!(told, Told::Resize(_))).count();
    let mut resizes_kept = seed.below(resizes + 1);
    // Whole, none, or each for itself: the extremes are where stores break, so they come often.
    let manner = seed.below(4);
    for (index, told) in pending.iter().enumerate() {
        let last = index + 1 == pending.len();
        match told {
            Told::Resize(_) if resizes_kept > 0 => {
                resizes_kept -= 1;
                apply_to(&mut image, told);
            }
            Told::Resize(_) | Told::Sync => {}
            Told::Write(offset, data) => {
                let kept = match (manner, last) {
                    (0, false) => data.len(),
                    (1, false) => 0,
                    (_, true) => seed.below(data.len() + 1),
                    (_, false) => [0, data.len(), seed.below(data.len() + 1)][seed.below(3)],
                };
                apply_to(&mut image, &Told::Write(*offset, data[..kept].to_vec()));
            }
        }
    }
    image
}

/// A store in the making: its transactions, and what it holds after each.
struct Life {
    disk: Disk,
    /// The disk before each transaction, and how much it had been told by then.
    before: Vec<(Vec<u8>, usize)>,
    contents: Vec<Content>,
}

/// Lives through `count` transactions of the shapes a daemon makes.
fn live(count: u64, seed: &mut Seed) -> Life {
    let node = SigningKey::from_bytes(&[5; 32]);
    let disk = Disk::with(Vec::new());
    let database = format::open(disk.clone()).expect("an empty disk takes a new store");
    format::initialise(&database, &[1; 16], node.verifying_key().as_bytes(), (NODE_KEY, &[9; 60]))
        .expect("there is room");
    let mut life = Life { disk, before: Vec::new(), contents: vec![format::read(&database).expect("it is whole")] };
    let mut chain = Chain::default();
    let (mut generation, mut lines) = (0, 0);
    let mut head = transcript::BEGINNING;
    for number in 0..count {
        let mut batch = Vec::new();
        // Boot writes every slot at once; most turns one.
        let slots = if number % 7 == 0 { 64 } else { 1 + seed.below(3) };
        for _ in 0..slots {
            let owner = 1 + seed.below(64) as u16;
            batch.push(Change::Slot(Owner(owner), slot(number as u8)));
            if seed.below(3) == 0 {
                batch.push(Change::Sets(Owner(owner), Box::new(sets(number as u16))));
            }
            if seed.below(3) == 0 {
                generation += 1;
                batch.push(Change::Secret(code(owner, generation), vec![number as u8; 28 + seed.below(65)]));
            }
            if generation > 0 && seed.below(4) == 0 {
                let old = 1 + seed.below(generation as usize) as u32;
                let all = (1..=64).map(|owner| Change::Erase(code(owner, old)));
                batch.extend(all);
            }
        }
        for _ in 0..=seed.below(5) {
            let record = record_after(&chain, event(number));
            chain.accept(&record).expect("it was made for this chain");
            batch.push(Change::Audit(record));
        }
        // A ceremony of twelve transactions: a card and a line with each, its end signed with the last.
        let (place, ceremony) = ((number % 12) as u8, CeremonyId([(number / 12) as u8; 8]));
        if place == 0 {
            (lines, head) = (0, transcript::BEGINNING);
            batch.push(Change::Cluster([number as u8; 16]));
        }
        let line = Line { mono_ms: number, wall_s: None, entry: Entry::Event(CeremonyEvent::Drawn(Ok(()))) };
        batch.push(Change::Transcript(ceremony, lines, Box::new(line)));
        (lines, head) = (lines + 1, line.hash(&head));
        batch.push(Change::Card(place, card(number as u8)));
        batch.push(Change::CardSets(SetSubject::Users(Owner(place.into())), Box::new(card_sets(number as u8))));
        if place == 11 {
            let signature = node.sign(&signed_message(ceremony, &head)).to_bytes();
            batch.push(Change::TranscriptEnd(ceremony, TranscriptEnd { head, signature }));
        }
        if number % 5 == 0 {
            batch.push(Change::Owner(format!("slot {number}"), Owner(number as u16 + 1)));
        }
        if number % 6 == 0 {
            let signature = node.sign(&chain.checkpoint_message()).to_bytes();
            batch.push(Change::Checkpoint(Checkpoint { sequence: chain.sequence, head: chain.head, signature }));
        }
        let image = life.disk.0.image.lock().expect("no test thread panicked").clone();
        life.before.push((image, life.disk.told().len()));
        format::apply(&database, &batch).expect("the disk is well");
        life.contents.push(format::read(&database).expect("it is whole"));
    }
    let image = life.disk.0.image.lock().expect("no test thread panicked").clone();
    life.before.push((image, life.disk.told().len()));
    life
}

#[test]
fn p39_a_power_cut_at_any_byte_of_any_write_leaves_the_state_before_or_after() {
    const TRANSACTIONS: u64 = 48;
    const CUTS_PER_POINT: usize = 24;
    let mut seed = Seed(0x510D);
    let life = live(TRANSACTIONS, &mut seed);
    let told = life.disk.told();
    let (mut states, mut second, mut old, mut new, mut sizes) = (0u64, 0u64, 0u64, 0u64, BTreeSet::new());
    for transaction in 0..life.contents.len() - 1 {
        let (image, start) = &life.before[transaction];
        let end = life.before[transaction + 1].1;
        let (before, after) = (&life.contents[transaction], &life.contents[transaction + 1]);
        // What was durable, and what was only told, at each point of the transaction.
        let mut durable = image.clone();
        let mut pending: Vec<Told> = Vec::new();
        for (point, what) in told[*start..end].iter().enumerate() {
            pending.push(what.clone());
            // More cuts where a long write can be torn in more places.
            for _ in 0..CUTS_PER_POINT {
                let left = cut(&durable, &pending, &mut seed);
                sizes.insert(left.len());
                let database = format::open_verifying(Disk::with(left.clone())).unwrap_or_else(|error| {
                    panic!("transaction {transaction}, point {point}: the store does not open: {error}")
                });
                let content = format::read(&database).expect("what opens is whole");
                states += 1;
                match &content {
                    found if found == before => old += 1,
                    found if found == after => new += 1,
                    _ => panic!("transaction {transaction}, point {point}: neither before nor after"),
                }
                // As the daemon goes on: it repairs the disk itself. A second cut while it does,
                // or while it closes the store again, changes nothing any more.
                if states.is_multiple_of(3) {
                    let disk = Disk::with(left.clone());
                    let database = format::open(disk.clone()).expect("a copy of it was opened");
                    assert_eq!(format::read(&database).expect("what opens is whole"), content);
                    drop(database);
                    let repair = disk.told();
                    let point = 1 + seed.below(repair.len());
                    let synced =
                        repair[..point - 1].iter().rposition(|told| matches!(told, Told::Sync)).map_or(0, |at| at + 1);
                    let mut durable = left;
                    repair[..synced].iter().for_each(|told| apply_to(&mut durable, told));
                    let left = cut(&durable, &repair[synced..point], &mut seed);
                    let database = format::open_verifying(Disk::with(left)).expect("a repair that was cut is repaired");
                    assert_eq!(format::read(&database).expect("what opens is whole"), content);
                    second += 1;
                }
            }
            if matches!(what, Told::Sync) {
                pending.drain(..).for_each(|told| apply_to(&mut durable, &told));
            }
        }
        // Everything told was synced before the commit returned: what was answered stays.
        assert!(pending.is_empty(), "transaction {transaction} was answered with {} writes not synced", pending.len());
    }
    println!(
        "{states} cut states ({old} before, {new} after) over {} writes and syncs, {second} second cuts during repair, {} file sizes",
        told.len(),
        sizes.len()
    );
    assert!(states + second >= 10_000 && old > 1000 && new > 1000 && sizes.len() > 1);
}

#[test]
fn p40_after_a_failed_write_or_sync_nothing_is_tried_again() {
    let mut seed = Seed(40);
    let life = live(8, &mut seed);
    let (image, _) = life.before.last().expect("it lived");
    let content = life.contents.last().expect("it lived");
    let dir = support::directory();
    let job = |number: u32| {
        let ticket = Ticket { slot: None, number };
        Job { ticket: Some(ticket), changes: Ok(vec![Change::Slot(Owner(1), slot(200 + number as u8))]) }
    };
    let mut failures = 0;
    for succeed in 0.. {
        let disk = Disk::with(image.clone());
        let database = Arc::new(format::open(disk.clone()).expect("the disk is well"));
        disk.0.left.store(succeed, Ordering::Relaxed);
        let (jobs, queue) = channel();
        let (events, answers) = channel();
        for number in 1..=3 {
            jobs.send(job(number)).expect("the queue is open");
        }
        drop(jobs);
        writer::run(&database, &Ballast::new(dir.path()), &queue, &events);
        drop(database);
        let results: Vec<StoreResult> = answers
            .try_iter()
            .filter_map(|event| match event {
                Event::Input(Input::Stored { result, .. }) => Some(result),
                _ => None,
            })
            .collect();
        assert_eq!(results.len(), 3);
        if !disk.0.broken.load(Ordering::Relaxed) {
            assert_eq!(results, [StoreResult::Durable(Room::Plenty); 3]);
            break;
        }
        let good = results.iter().take_while(|result| matches!(result, StoreResult::Durable(_))).count();
        assert!(results[good..].iter().all(|result| *result == StoreResult::Failed));
        // The disk was well again: only the rule kept the store from touching it, even to close it.
        assert_eq!(disk.0.touched_after.load(Ordering::Relaxed), 0, "after {succeed} successes");
        if good == 3 {
            continue;
        }
        failures += 1;
        let left = disk.0.image.lock().expect("no test thread panicked").clone();
        let database: Database = format::open_verifying(Disk::with(left)).expect("the store opens after a restart");
        let now = format::read(&database).expect("it is whole");
        let record =
            |content: &Content| content.slots.iter().find(|(owner, _)| *owner == Owner(1)).map(|(_, record)| *record);
        let answered = if good == 0 { record(content) } else { Some(slot(200 + good as u8)) };
        let under_way = Some(slot(201 + good as u8));
        assert!(record(&now) == answered || record(&now) == under_way, "after {succeed} successes");
    }
    println!("{failures} places to fail");
    assert!(failures > 10);
}
