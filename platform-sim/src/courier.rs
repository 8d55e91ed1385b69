//! One seed of a cluster: two to five nodes whose keys come and go, and a courier who cannot be relied on.
//!
//! Packages are lost, carried twice, late and in any order; links break; slots are closed; tokens are full;
//! the power goes at commits, calls of tokens and files, and again while a node recovers; workers are lost in a call. A member may be
//! shut out, and two members may shut out one each at once, until people choose one of the two rosters.
//! After each step every node is held to its promises, by what people did and nothing else:
//!
//! - P22: a package is taken only by a named target, from a member of the roster in force, made under it;
//! - P23: one that was taken changes nothing once more, an older one is refused, no mark falls;
//! - P24: once it is over, all of a package's new keys are in the tokens or none, without anybody mending anything;
//! - P25: no key is overwritten or deleted, none comes from nowhere, and none where people destroyed it.
//!
//! In the end everybody tells everybody: all ledgers are the same, and a key that is not recorded as removed is
//! everywhere. A broken promise is a panic that says so.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};
use slotwarden_core::cluster::ClusterOrder;
use slotwarden_core::command::{Answer, Command};
use slotwarden_core::effect::SlotId;
use slotwarden_core::fault::{Function, HsmFailure, Refusal, rv};
use slotwarden_core::ledger::Known;
use slotwarden_core::reception::State;
use slotwarden_core::roster::{Roster, SignedRoster};
use slotwarden_core::transfer::TransferOrder;

use crate::hsm::Purpose;
use crate::members::{DONE, Node, UIDS, cluster, next, refused};
use crate::room::{ADMINISTRATOR, Cut, CutWay};
use crate::sync::{Name, Package};
use crate::vault::Keys;

/// Steps of one seed, before the courier becomes honest.
const STEPS: u32 = 60;
/// Among so many commits, calls and files the power goes: about those of one package.
const POINTS: u32 = 14;
/// And among so many calls the worker of the HSM is lost.
const CALLS: u32 = 8;
/// Everybody tells everybody so often: what comes by two others is there after two rounds, and counts after three.
const ROUNDS: u32 = 3;
/// The most packages on their way; more are lost.
const FLYING_MAX: usize = 64;
/// How a power cut leaves a point.
const WAYS: [CutWay; 3] = [CutWay::Before, CutWay::After, CutWay::Amid];
/// What a token without room answers.
const FULL: HsmFailure = HsmFailure::Pkcs11 { code: rv::DEVICE_MEMORY, function: Function::UnwrapKey };

/// What happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packages that were made.
    pub made: u64,
    /// Packages that a node took.
    pub taken: u64,
    /// Packages that were there before, or older.
    pub stale: u64,
    /// Packages of another roster, of or for a node that was shut out, or for others.
    pub turned_away: u64,
    /// Packages refused for a key with the same id and another value.
    pub conflicts: u64,
    /// Packages that stood still half-way until somebody made room.
    pub halfway: u64,
    /// Power cuts.
    pub cuts: u64,
    /// Power cuts that left a package whose making was ordered.
    pub cuts_amid: u64,
    /// Workers of HSMs that were lost in a call.
    pub workers: u64,
    /// Members that were shut out.
    pub shut_out: u64,
    /// Clusters in which two members made a roster each of one epoch.
    pub divided: u64,
    /// How often people chose one of them at a node that had heard of both.
    pub chosen: u64,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.made += other.made;
        self.taken += other.taken;
        self.stale += other.stale;
        self.turned_away += other.turned_away;
        self.conflicts += other.conflicts;
        self.halfway += other.halfway;
        self.cuts += other.cuts;
        self.cuts_amid += other.cuts_amid;
        self.workers += other.workers;
        self.shut_out += other.shut_out;
        self.divided += other.divided;
        self.chosen += other.chosen;
    }
}

/// What many seeds found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Of all seeds together.
    pub counts: Counts,
    /// SHA-256 over how every seed ended, in their order.
    pub hash: [u8; 32],
    /// Seeds that broke a promise, with what they said.
    pub failures: Vec<(u64, String)>,
}

/// Lives so many seeds from the first one on; the result does not depend on the number of threads.
#[must_use]
pub fn explore(first: u64, seeds: u64, jobs: usize) -> Report {
    let next_seed = AtomicU64::new(0);
    let ends = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next_seed.fetch_add(1, Ordering::Relaxed);
                    if number >= seeds {
                        return;
                    }
                    let seed = first.saturating_add(number);
                    let end = catch_unwind(AssertUnwindSafe(|| live(seed, false))).map_err(|panic| {
                        let text = panic.downcast_ref::<String>().cloned();
                        text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
                    });
                    if let Ok(mut ends) = ends.lock() {
                        ends.insert(seed, end);
                    }
                }
            });
        }
    });
    let mut report = Report::default();
    let mut hash = Sha256::new();
    for (seed, end) in ends.into_inner().unwrap_or_default() {
        match end {
            Ok((counts, end)) => {
                report.counts.add(&counts);
                hash.update(end);
            }
            Err(what) => report.failures.push((seed, what)),
        }
    }
    report.hash = hash.finalize().into();
    report
}

/// Prints a report for people; every figure on a line of its own.
pub fn print(first: u64, seeds: u64, report: &Report) {
    let Counts { made, taken, stale, turned_away, conflicts, halfway, cuts, cuts_amid, .. } = report.counts;
    let Counts { workers, shut_out, divided, chosen, .. } = report.counts;
    println!("clusters                   {seeds} from seed {first}, of two to five nodes");
    println!("packages                   {made} made, {taken} times taken");
    println!("                           {stale} times taken before or older than what was taken");
    println!("                           {turned_away} times turned away: another roster, shut out, or for others");
    println!("                           {conflicts} times refused for a key with another value");
    println!("                           {halfway} times half-way until the token had room");
    println!("power cuts                 {cuts}, {cuts_amid} of them amid the keys of a package");
    println!("workers lost               {workers}");
    println!("members shut out           {shut_out}");
    println!("clusters divided           {divided}; people chose at {chosen} nodes");
    print!("SHA-256 over all ends      ");
    for byte in report.hash {
        print!("{byte:02x}");
    }
    println!();
    println!("violations                 {}", report.failures.len());
    for (seed, what) in &report.failures {
        println!("seed {seed}: {what}\n    slotwarden-sim explore --clusters --seed {seed} --seeds 1 --trace");
    }
}

/// Lives one seed; what happened, and a hash of how it ended.
///
/// # Panics
/// Where a promise is broken.
#[must_use]
pub fn live(seed: u64, prints: bool) -> (Counts, [u8; 32]) {
    let mut life = Life::new(seed, prints);
    for _ in 0..STEPS {
        life.step();
    }
    life.heal();
    (life.counts, life.digest())
}

/// A package that a node was given, and what was new in it.
struct Awaited {
    package: Package,
    new: Vec<(usize, u8, u8)>,
}

/// The cluster, the packages on their way, and what people did.
struct Life {
    nodes: Vec<Node>,
    random: fastrand::Rng,
    counts: Counts,
    prints: bool,
    /// To whom, and what.
    flying: Vec<(usize, Package)>,
    sent: Vec<Package>,
    blocked: BTreeSet<(usize, usize)>,
    /// Every roster that counts in the end, as it was signed.
    rosters: Vec<SignedRoster>,
    /// Another one of an epoch, which another node made at the same time.
    rival: Option<SignedRoster>,
    next_id: u8,
    /// What each node must hold: what was made there or came, until people destroy it.
    held: Vec<BTreeMap<Name, u8>>,
    /// Keys that people destroyed, and where: none may come back there.
    gone: BTreeSet<(usize, Name)>,
    /// Keys that people made again: they may come where they were destroyed, too.
    again: BTreeSet<Name>,
    /// Keys that people ever destroyed, or made twice.
    touched: BTreeSet<Name>,
    made: BTreeSet<Name>,
    awaited: Vec<Option<Awaited>>,
    /// Nodes at which people chose one of two rosters.
    settled: BTreeSet<usize>,
    /// Nodes that were shut out, or alone, for a while: their tokens have no U until people bring their cards.
    without_u: BTreeSet<usize>,
    marks: BTreeMap<(usize, [u8; 32]), u64>,
}

impl Life {
    fn new(seed: u64, prints: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let count = random.u8(2..=5);
        let mut nodes = cluster(count, true);
        let roster = nodes[0].roster();
        let signed = nodes[0].sign(&roster);
        Life {
            nodes,
            random,
            counts: Counts::default(),
            prints,
            flying: Vec::new(),
            sent: Vec::new(),
            blocked: BTreeSet::new(),
            rosters: vec![signed],
            rival: None,
            next_id: 0,
            held: vec![BTreeMap::new(); usize::from(count)],
            gone: BTreeSet::new(),
            again: BTreeSet::new(),
            touched: BTreeSet::new(),
            made: BTreeSet::new(),
            awaited: (0..count).map(|_| None).collect(),
            settled: BTreeSet::new(),
            without_u: BTreeSet::new(),
            marks: BTreeMap::new(),
        }
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.prints {
            println!("{}", what());
        }
    }

    fn step(&mut self) {
        let number = self.random.usize(..self.nodes.len());
        let slot = self.random.usize(..UIDS.len());
        match self.random.u8(..100) {
            0..22 => self.make(number, slot),
            22..28 => self.destroy(number, slot),
            28..30 => self.make_again(number),
            30..32 => self.make_another(number, slot),
            32..50 => self.send(number),
            50..88 => self.carry(),
            88..91 => {
                let link = (number, self.random.usize(..self.nodes.len()));
                if !self.blocked.remove(&link) {
                    self.blocked.insert(link);
                }
            }
            91..94 => {
                self.say(|| format!("a person closes slot {slot} of node {number}"));
                let slot = SlotId(u8::try_from(slot).unwrap_or(0));
                self.nodes[number].room.order(ADMINISTRATOR, Command::Deactivate { slot });
            }
            94..95 => self.shut_out(),
            95..96 => self.divide(),
            96..98 => self.hear(number),
            _ => self.nodes[number].open(),
        }
        self.check();
    }

    /// Somebody makes a key.
    fn make(&mut self, number: usize, slot: usize) {
        let Some(id) = self.next_id.checked_add(1) else { return };
        self.next_id = id;
        self.say(|| format!("a person makes key {id} in slot {slot} of node {number}"));
        let name = (UIDS[slot], id);
        self.put(number, name, value_of(id));
        self.made.insert(name);
    }

    /// Somebody destroys a key.
    fn destroy(&mut self, number: usize, slot: usize) {
        let ids: Vec<u8> = self.nodes[number].room.vault.tokens[slot].keys().copied().collect();
        if let (None, Some(id)) = (&self.awaited[number], self.random.choice(ids)) {
            self.remove(number, (UIDS[slot], id));
        }
    }

    /// Somebody brings a key back that was destroyed there, and means it.
    fn make_again(&mut self, number: usize) {
        let here: Vec<Name> = self.gone.iter().filter(|(at, _)| *at == number).map(|(_, name)| *name).collect();
        if let (None, Some(name)) = (&self.awaited[number], self.random.choice(here)) {
            self.say(|| format!("a person makes key {} of node {number} again", name.1));
            self.gone.retain(|(_, gone)| *gone != name);
            self.again.insert(name);
            self.put(number, name, value_of(name.1));
        }
    }

    /// Somebody makes a key under an id that another node has used.
    fn make_another(&mut self, number: usize, slot: usize) {
        let ids: Vec<u8> = self.made.iter().filter(|(uid, _)| *uid == UIDS[slot]).map(|(_, id)| *id).collect();
        let Some(id) = self.random.choice(ids) else { return };
        let name = (UIDS[slot], id);
        let known = self.nodes[number].room.sync.ledger.contains_key(&name) || self.held[number].contains_key(&name);
        if self.awaited[number].is_none() && !known && !self.gone.contains(&(number, name)) {
            self.say(|| format!("a person makes another key {id} in slot {slot} of node {number}"));
            self.put(number, name, value_of(id) ^ 0xFF);
            self.touched.insert(name);
        }
    }

    fn put(&mut self, number: usize, name: Name, value: u8) {
        self.held[number].insert(name, value);
        self.nodes[number].room.vault.tokens[slot_of(&name)].insert(name.1, value);
    }

    fn remove(&mut self, number: usize, name: Name) {
        self.say(|| format!("a person destroys key {} of node {number}", name.1));
        self.held[number].remove(&name);
        self.nodes[number].room.vault.tokens[slot_of(&name)].remove(&name.1);
        // One that went before the service saw it was, for all it knows, never there.
        let was_seen = self.nodes[number].room.sync.ledger.contains_key(&name);
        if was_seen && !self.again.contains(&name) {
            self.gone.insert((number, name));
        }
        self.touched.insert(name);
    }

    /// A node makes a package; the courier takes it, loses it or copies it.
    fn send(&mut self, number: usize) {
        if self.nodes[number].roster().member(&self.nodes[number].key()).is_none() {
            return;
        }
        let others = self.nodes[number].others();
        let some = others & self.random.u8(..);
        let targets = if some == 0 { others } else { some };
        if targets == 0 {
            return;
        }
        self.maybe_cut(number);
        let package = self.nodes[number].pack_for(targets);
        self.say(|| format!("node {number} makes a package: {:?}", package.as_ref().map(contents)));
        self.recover(number);
        let Some(package) = package else { return };
        self.counts.made += 1;
        for to in (0..self.nodes.len()).filter(|to| *to != number) {
            for _ in 0..self.random.u8(..3) {
                if self.flying.len() < FLYING_MAX {
                    self.flying.push((to, package.clone()));
                }
            }
        }
        self.sent.push(package);
    }

    /// The courier arrives somewhere with something.
    fn carry(&mut self) {
        if self.flying.is_empty() {
            return;
        }
        let (to, package) = self.flying.swap_remove(self.random.usize(..self.flying.len()));
        let from = self.nodes.iter().position(|node| node.key() == package.header.source);
        if from.is_none_or(|from| self.blocked.contains(&(from, to))) {
            return;
        }
        let full = self.random.u8(..12) == 0;
        self.nodes[to].room.failing = full.then_some(("import package", FULL));
        self.maybe_cut(to);
        self.deliver(to, &package);
        self.recover(to);
        self.make_room(to);
    }

    /// Somebody makes room in a token that was full, and has it go on.
    fn make_room(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.room.failing = None;
        if let State::Halfway { parcel, .. } = node.state() {
            self.counts.halfway += 1;
            assert_eq!(
                node.order(TransferOrder::EndReceive),
                refused(Refusal::PackageHalfway),
                "P24: given up half-way"
            );
            node.open();
            assert_eq!(node.order(TransferOrder::Apply { hash: parcel.hash }), DONE, "P24: it goes on");
        }
    }

    /// The first node shuts a member out.
    fn shut_out(&mut self) {
        let roster = self.newest();
        let own = self.nodes[0].key();
        let others = roster.members.iter().map(|member| member.node).filter(|node| *node != own);
        if let Some(out) = self.random.choice(others.collect::<Vec<_>>())
            && let Some(signed) = self.shuts_out(0, &roster, out)
        {
            self.rosters.push(signed);
        }
    }

    /// The first node and another one shut a member out at the same time, and not the same one.
    fn divide(&mut self) {
        let roster = self.newest();
        let first = self.nodes[0].key();
        let is_there = |node: &mut Node| node.roster() == roster && roster.member(&node.key()).is_some();
        let there: Vec<usize> = (1..self.nodes.len()).filter(|number| is_there(&mut self.nodes[*number])).collect();
        let (Some(other), None) = (self.random.choice(there), &self.rival) else { return };
        let key = self.nodes[other].key();
        let mut outs: Vec<[u8; 32]> = roster.members.iter().map(|member| member.node).collect();
        outs.retain(|node| *node != first && *node != key);
        self.random.shuffle(&mut outs);
        if let [one, another, ..] = outs[..]
            && let Some(counts) = self.shuts_out(0, &roster, one)
        {
            self.rosters.push(counts);
            self.rival = self.shuts_out(other, &roster, another);
            self.counts.divided += u64::from(self.rival.is_some());
        }
    }

    /// This node makes the roster after this one, without a member, if it can; it, if it came into force there.
    fn shuts_out(&mut self, number: usize, roster: &Roster, out: [u8; 32]) -> Option<SignedRoster> {
        let node = &mut self.nodes[number];
        if node.roster() != *roster || node.is_divided() || node.state() != State::Idle {
            return None;
        }
        let members: Vec<_> = roster.members.iter().filter(|member| member.node != out).copied().collect();
        let after = next(Some(roster), &members);
        let hash = node.propose(&after);
        self.maybe_cut(number);
        let answer = self.nodes[number].cluster(ClusterOrder::Remove { hash });
        self.say(|| format!("node {number} shuts {:02x} out: {answer:?}", out[0]));
        self.recover(number);
        if self.nodes[number].roster() == after {
            self.counts.shut_out += 1;
            return Some(self.nodes[number].sign(&after));
        }
        assert_eq!(answer, None, "only without power is it not done");
        None
    }

    fn newest(&self) -> Roster {
        self.rosters.last().map(|signed| signed.roster.clone()).expect("there is a first one")
    }

    /// A node hears of a roster that counts, or of the one that does not.
    fn hear(&mut self, number: usize) {
        match self.rival.clone().filter(|_| self.random.bool()) {
            Some(rival) => self.follow(number, &rival),
            None => self.go_on(number),
        }
    }

    /// A node hears of the roster that counts, in place of its own or after it; where it is divided people choose.
    fn go_on(&mut self, number: usize) {
        let roster = self.nodes[number].roster();
        let of_epoch = |epoch| self.rosters.iter().find(|signed| signed.roster.epoch == epoch).cloned();
        let counts = of_epoch(roster.epoch);
        if self.nodes[number].is_divided() {
            counts.into_iter().for_each(|counts| self.choose(number, &counts));
        } else if let Some(signed) =
            counts.filter(|counts| counts.roster != roster).or_else(|| of_epoch(roster.epoch + 1))
        {
            self.follow(number, &signed);
        }
    }

    /// A node hears of this roster.
    fn follow(&mut self, number: usize, signed: &SignedRoster) {
        let node = &mut self.nodes[number];
        if node.state() != State::Idle {
            return;
        }
        let (before, was_divided) = (node.roster(), node.is_divided());
        let hash = node.offer(signed);
        self.maybe_cut(number);
        let answer = self.nodes[number].cluster(ClusterOrder::Follow { hash });
        self.say(|| format!("node {number} hears of roster {} ({:02x}): {answer:?}", signed.roster.epoch, hash[0]));
        let is_alive = self.nodes[number].room.core.is_some();
        self.recover(number);
        let node = &mut self.nodes[number];
        let (after, is_divided) = (node.roster(), node.is_divided());
        if after.member(&node.key()).is_none() || after.members.len() == 1 {
            self.without_u.insert(number);
        }
        let follows_on = signed.roster.previous == before.hash() && !was_divided;
        if is_alive && follows_on {
            assert!(answer == DONE && after == signed.roster, "{answer:?}");
        }
        assert!(follows_on || after == before, "P22: a roster that leads nowhere came into force");
        let is_known = self.settled.contains(&number);
        assert!(!is_known || was_divided || !is_divided, "P22: people chose, and it is divided again");
        let is_other = signed.roster.epoch == before.epoch && signed.roster != before;
        assert!(!is_divided || was_divided || is_other, "divided by no other roster of its epoch");
    }

    /// Two persons at a node that is divided choose the roster that counts.
    fn choose(&mut self, number: usize, counts: &SignedRoster) {
        let node = &mut self.nodes[number];
        if node.state() != State::Idle {
            return;
        }
        let may = counts.roster.member(&node.key()).is_some() || counts.roster == node.roster();
        let hash = node.offer(counts);
        self.maybe_cut(number);
        let answer = self.nodes[number].cluster(ClusterOrder::Choose { hash });
        self.say(|| format!("node {number} chooses roster {} ({:02x}): {answer:?}", counts.roster.epoch, hash[0]));
        let is_alive = self.nodes[number].room.core.is_some();
        self.recover(number);
        if is_alive && may {
            assert!(answer == DONE && self.nodes[number].roster() == counts.roster, "{answer:?}");
            self.counts.chosen += 1;
            self.settled.insert(number);
        } else if is_alive {
            assert_eq!(answer, refused(Refusal::NotRosterMember), "whoever is shut out has no say");
        }
    }

    /// Power may go at one of the points that follow, or the worker of the HSM be lost in one of its calls.
    fn maybe_cut(&mut self, number: usize) {
        match self.random.u8(..6) {
            0 | 1 => self.nodes[number].room.cut = Some(self.any_cut(POINTS)),
            2 => self.nodes[number].room.strike = Some(self.any_cut(CALLS)),
            _ => {}
        }
    }

    fn any_cut(&mut self, points: u32) -> Cut {
        Cut { after: self.random.u32(..points), way: WAYS[self.random.usize(..WAYS.len())] }
    }

    /// Power comes back, and may go again; people open the slots, and do nothing else.
    fn recover(&mut self, number: usize) {
        let room = &mut self.nodes[number].room;
        (room.cut, room.strike) = (None, None);
        let lost = u64::from(std::mem::take(&mut room.workers_lost));
        self.counts.workers += lost;
        if lost > 0 {
            self.say(|| format!("the worker of node {number} was lost"));
        }
        if self.nodes[number].room.core.is_some() {
            if lost > 0 {
                self.nodes[number].open();
            }
            return;
        }
        self.power_comes_back(number);
        if self.random.bool() {
            let again = self.any_cut(POINTS);
            self.nodes[number].room.cut = Some(again);
            self.nodes[number].open();
            self.nodes[number].room.cut = None;
            if self.nodes[number].room.core.is_none() {
                self.power_comes_back(number);
            }
        }
        self.nodes[number].open();
    }

    fn power_comes_back(&mut self, number: usize) {
        let room = &mut self.nodes[number].room;
        self.counts.cuts += 1;
        self.counts.cuts_amid += u64::from(room.stored.reception.is_some());
        room.restart();
        self.say(|| format!("power came back at node {number}"));
    }

    /// Holders bring their cards where U was taken away.
    fn bring_cards(&mut self, number: usize) {
        if self.without_u.remove(&number) {
            self.say(|| format!("m holders come to node {number}"));
            self.nodes[number].put_keys(&[Purpose::Wrap, Purpose::Authenticate, Purpose::Unwrap]);
        }
    }

    /// A package arrives.
    fn deliver(&mut self, to: usize, package: &Package) {
        let node = &mut self.nodes[to];
        if node.state() != State::Idle {
            return;
        }
        let (roster, own) = (node.roster(), node.key());
        let is_ours = !node.is_divided()
            && roster.hash() == package.header.roster_hash
            && roster.member(&own).is_some()
            && roster.member(&package.header.source).is_some()
            && package.header.targets.contains(&own);
        let mark = node.room.core().marks().of(&package.header.source).copied();
        let before = node.room.vault.tokens.clone();
        let calls = node.room.calls.len();
        let new = new_keys(node, package);
        let is_open = node.slots().slots().count() == UIDS.len();
        let answer = node.receive(package);
        let is_alive = node.room.core.is_some();
        let is_quiet = node.room.calls.len() == calls && node.room.vault.tokens == before;
        if self.prints {
            println!("node {to} is given {:?}: {answer:?}", contents(package));
        }
        match answer {
            // Whoever waited is answered by what the next worker finds.
            _ if node.room.workers_lost > 0 => {}
            Ok(None) if is_alive => {
                assert_eq!(mark.map(|mark| mark.hash), Some(package.hash), "P23: it was not taken before");
                assert!(is_ours && is_quiet, "P23: a replay is nothing");
                self.counts.stale += 1;
                return;
            }
            Err(Refusal::PackageOld) => {
                let is_old = mark.is_some_and(|mark| mark.sequence > package.header.sequence);
                assert!(is_ours && is_old && is_quiet, "P23: it is not old");
                self.counts.stale += 1;
                return;
            }
            Err(refusal) => {
                assert!(!is_ours && is_quiet, "P22: {refusal:?}, and it is for us");
                self.counts.turned_away += 1;
                return;
            }
            Ok(Some(Answer::Refused(Refusal::SlotWithoutUnwrapKey))) => {
                assert!(self.without_u.contains(&to), "nobody shut it out");
            }
            Ok(Some(Answer::Refused(Refusal::SlotNotActive))) => assert!(!is_open, "the slots are open"),
            Ok(Some(Answer::Refused(Refusal::ImportConflicts))) => {
                assert!(node.room.vault.tokens == before, "P25: something of it came in");
                self.counts.conflicts += 1;
            }
            Ok(Some(Answer::Failed(_))) => assert!(node.room.failing.is_some(), "nothing fails by itself"),
            Ok(Some(Answer::Done)) => self.counts.taken += 1,
            Ok(None) => {}
            Ok(Some(answer)) => panic!("{answer:?}"),
        }
        assert!(is_ours, "P22: it is not for us");
        self.awaited[to] = Some(Awaited { package: package.clone(), new });
    }

    /// Every node is held to its promises.
    fn check(&mut self) {
        for number in 0..self.nodes.len() {
            self.check_marks(number);
            self.check_tokens(number);
        }
    }

    fn check_marks(&mut self, number: usize) {
        for mark in self.nodes[number].room.core().marks().taken() {
            let known = self.marks.entry((number, mark.node)).or_default();
            assert!(mark.sequence >= *known, "P23: a mark of node {number} fell");
            *known = mark.sequence;
        }
    }

    fn check_tokens(&mut self, number: usize) {
        let tokens = self.nodes[number].room.vault.tokens.clone();
        let holds = |name: &Name| tokens[slot_of(name)].get(&name.1).copied();
        for (name, value) in &self.held[number] {
            assert_eq!(holds(name), Some(*value), "P25: key {} of node {number} was changed or deleted", name.1);
        }
        for (at, name) in &self.gone {
            assert!(*at != number || holds(name).is_none(), "P25: node {number} got {} back", name.1);
        }
        let node = &mut self.nodes[number];
        if node.state() != State::Idle {
            return;
        }
        assert_eq!(node.room.stored.reception, None, "P24: it is over");
        if let Some(Awaited { package, new }) = self.awaited[number].take() {
            let mark = node.room.core().marks().of(&package.header.source).copied();
            let is_taken = mark.is_some_and(|mark| mark.hash == package.hash);
            let came = new.iter().filter(|(slot, id, value)| tokens[*slot].get(id) == Some(value)).count();
            let all = if is_taken { new.len() } else { 0 };
            assert_eq!(came, all, "P24: node {number} has {came} of {new:?}, taken: {is_taken}");
            if is_taken {
                self.held[number].extend(new.iter().map(|(slot, id, value)| ((UIDS[*slot], *id), *value)));
            }
        }
        let count: usize = tokens.iter().map(Keys::len).sum();
        assert_eq!(count, self.held[number].len(), "P25: a key of node {number} came from nowhere");
    }

    /// The courier becomes honest, people settle what only they can settle, and everybody tells everybody.
    fn heal(&mut self) {
        self.say(|| "the courier becomes honest".to_owned());
        self.flying.clear();
        for number in 0..self.nodes.len() {
            self.nodes[number].open();
            self.make_room(number);
            // To hear of each, and of both that divide a cluster, to choose, and once more where the power goes.
            for _ in 0..2 * (self.rosters.len() + 2) {
                self.go_on(number);
            }
            let (newest, node) = (self.newest(), &mut self.nodes[number]);
            let is_out = newest.member(&node.key()).is_none();
            assert!(node.roster() == newest || is_out, "P24: node {number} is not done with a package or a roster");
            assert!(!node.is_divided() || is_out, "node {number} is divided");
            if !is_out {
                self.bring_cards(number);
            }
        }
        self.check();
        self.settle_conflicts();
        let roster = self.newest();
        let numbers: Vec<usize> =
            (0..self.nodes.len()).filter(|number| roster.member(&self.nodes[*number].key()).is_some()).collect();
        for _ in 0..if numbers.len() > 1 { ROUNDS } else { 0 } {
            for number in &numbers {
                let package = self.nodes[*number].pack().expect("it is made");
                self.sent.push(package.clone());
                for to in numbers.iter().filter(|to| *to != number) {
                    self.deliver(*to, &package);
                    self.check();
                }
            }
        }
        self.check_end(&numbers);
        self.check_replays();
    }

    /// A key that has two values has to go before anything comes together.
    fn settle_conflicts(&mut self) {
        let names: BTreeSet<Name> = self.held.iter().flat_map(BTreeMap::keys).copied().collect();
        for name in names {
            let values: BTreeSet<u8> = self.held.iter().filter_map(|held| held.get(&name)).copied().collect();
            if values.len() > 1 {
                (0..self.nodes.len()).for_each(|number| self.remove(number, name));
            }
        }
    }

    fn check_end(&mut self, numbers: &[usize]) {
        let counts = |node: &Node| -> BTreeMap<Name, u32> {
            node.room.sync.ledger.iter().map(|(name, known)| (*name, known.count)).collect()
        };
        let [first, _, ..] = numbers else { return };
        let first = counts(&self.nodes[*first]);
        // Somebody who was shut out may have had the only one.
        let held: BTreeSet<Name> = numbers.iter().flat_map(|number| self.held[*number].keys()).copied().collect();
        let is_lost = |name: &Name| self.rosters.len() > 1 && !held.contains(name);
        for number in numbers {
            let node = &mut self.nodes[*number];
            assert_eq!((node.state(), &node.room.stored.reception), (State::Idle, &None), "P24: it is over");
            let filed = node.roster().hash();
            assert!(node.room.sync.filed.contains(&filed), "the roster in force was never filed");
            assert_eq!(counts(node), first, "P25: the ledger of node {number} differs");
            for (name, known) in &node.room.sync.ledger {
                let is_there = node.room.vault.tokens[slot_of(name)].contains_key(&name.1);
                assert_eq!(known.here, is_there, "the ledger of node {number} is wrong about {}", name.1);
                assert!(is_there || !known.is_made() || is_lost(name), "P25: {} never came to node {number}", name.1);
            }
            for name in first.keys().filter(|name| !self.touched.contains(*name)) {
                assert_eq!(first.get(name), Some(&1), "P25: nobody destroyed {}", name.1);
            }
        }
    }

    /// Every package there ever was, once more and backwards, changes nothing.
    fn check_replays(&mut self) {
        for package in std::mem::take(&mut self.sent).iter().rev() {
            for to in 0..self.nodes.len() {
                if self.nodes[to].key() == package.header.source {
                    continue;
                }
                let header = &package.header;
                let was_newest = self.nodes[to].room.core().marks().of(&header.source).copied();
                let is_news = was_newest.is_none_or(|mark| mark.sequence < header.sequence);
                let is_ours =
                    header.targets.contains(&self.nodes[to].key()) && header.roster_hash == self.newest().hash();
                if !(is_news && is_ours) {
                    let counted = (self.counts.stale, self.counts.turned_away);
                    self.deliver(to, package);
                    assert_ne!(counted, (self.counts.stale, self.counts.turned_away), "P23: it was taken again");
                }
            }
        }
        self.check();
    }

    /// How it ended.
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for node in &self.nodes {
            hash.update(format!("{:?}{:?}{:?}", node.room.vault.tokens, node.room.sync, node.room.stored.marks));
            hash.update(node.room.stored.chain.head);
        }
        hash.finalize().into()
    }
}

/// The value that everybody gives a key who makes it as it was.
const fn value_of(id: u8) -> u8 {
    id ^ 0x5A
}

fn slot_of(name: &Name) -> usize {
    UIDS.iter().position(|uid| *uid == name.0).expect("one of two")
}

/// A package in few words.
fn contents(package: &Package) -> (u8, u64, u32, Vec<Vec<u8>>) {
    let ids = package.sections.values().map(|keys| keys.keys().copied().collect());
    (package.header.source[0], package.header.sequence, package.header.roster_epoch, ids.collect())
}

/// What of a package is new to a node, by slot, id and value: computed once more, plainly.
fn new_keys(node: &Node, package: &Package) -> Vec<(usize, u8, u8)> {
    let mut new = Vec::new();
    let mut sync = node.room.sync.clone();
    for (slot, (uid, token)) in UIDS.iter().zip(&node.room.vault.tokens).enumerate() {
        sync.observe(*uid, token);
        for (id, value) in package.sections.get(uid).into_iter().flatten() {
            let known = |facts: &crate::sync::Facts| facts.get(&(*uid, *id)).copied().unwrap_or(Known::NEVER);
            let (mine, theirs) = (known(&sync.ledger), known(&package.facts));
            // They have it, we do not, and nothing later says that it was removed.
            if theirs.count % 2 == 1 && theirs.here && !token.contains_key(id) && mine.count <= theirs.count {
                new.push((slot, *id, *value));
            }
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p22_p23_p24_p25_whatever_the_courier_does_the_nodes_come_to_the_same_keys() {
        let report = explore(1, 300, 2);
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        // Nothing of it happens so seldom that it proves nothing.
        let Counts { made, taken, stale, turned_away, conflicts, halfway, cuts, cuts_amid, .. } = report.counts;
        let Counts { workers, shut_out, divided, chosen, .. } = report.counts;
        println!("{:?}", report.counts);
        assert!(made > 2_000 && taken > 5_000 && stale > 5_000 && turned_away > 3_000, "{:?}", report.counts);
        assert!(conflicts > 20 && halfway > 20 && shut_out > 50, "{:?}", report.counts);
        assert!(cuts > 500 && cuts_amid > 25 && workers > 50, "{:?}", report.counts);
        assert!(divided > 10 && chosen > 10, "{:?}", report.counts);
    }

    #[test]
    fn p43_the_same_seeds_of_clusters_end_the_same_with_any_number_of_threads() {
        let report = explore(1, 12, 1);
        assert_eq!(report, explore(1, 12, 2));
        assert_ne!(report.hash, explore(2, 12, 1).hash);
    }
}
