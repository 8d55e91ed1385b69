//! The thread that runs an engine.
//!
//! ```text
//! loop ── publish, withdraw, members, answer ──▶ courier ──▶ engine
//!      ◀── one file at a time, spooled ─────────
//! ```
//!
//! One file at a time: it is fetched into the spool directory, and only when its bytes are those
//! that were offered it is handed to the loop; the next one waits for the loop's answer. So the disk
//! holds one foreign file and the memory none. What the loop took or refused is known by its SHA-256
//! and is not handed over again under any version; a version that was settled is not fetched again.
//! A file that could not be had, or that the loop cannot take yet, is tried again after a pause that
//! doubles up to [`PAUSE_MAX`]; each member's files have pauses of their own, so a name that is
//! altered again and again does not hold the others back. One that the loop cannot take yet costs at
//! most 5 % of the time however long it is: it waits [`LATER_TIMES`] times as long as the last try
//! took. What does not begin as a file of its kind is given up after its first bytes.
//!
//! The loop's calls send a letter and return; no call waits for an engine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek as _, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::{Bell, Exchange, Failure, Name, Offer, Source, Version, What};

/// Longest pause before something is tried again that failed: what an engine can delay a member's file
/// by after it stopped to alter it. What was not taken yet may wait longer ([`LATER_TIMES`]).
pub const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Longest time that one file is fetched for: 1 GiB at 2 MB/s. An engine that sends a byte a second
/// would keep the courier from the other members' files for ever.
const FETCH_MAX: Duration = Duration::from_secs(600);
/// How many times as long as it took to fetch and judge a file that was not taken yet, the pause after
/// that is at least: a slot may be closed for days, and each try costs the network and the flash the
/// whole file. So it is 1 of 21 parts of the time, unless [`Courier::look_again`] ends the pause.
const LATER_TIMES: u32 = 20;
/// Longest of those pauses: what took more than a 20th of it waited for people, which wears nothing out.
const LATER_MAX: Duration = Duration::from_secs(24 * 3600);
/// Hashes of files that were settled, for each name: more than a member publishes while an engine
/// could hold back the first. What is forgotten is fetched once more, and refused once more.
const SETTLED_MAX: usize = 64;
/// What a fetched file leaves free for the store, which shares its file system: as `files` does.
const RESERVE_BYTES: u64 = 64 << 20;
/// How long the end waits for the thread: an engine may hang in a call of the system.
const END_WAIT: Duration = Duration::from_secs(2);
/// Bytes that are copied at once.
const BUFFER_BYTES: usize = 64 * 1024;
/// What every file begins with: its magic and its version.
const BEGIN_BYTES: usize = 5;
const FOREIGN: &str = "it does not begin as a file of its kind";
/// The file that is being fetched.
const PART: &str = "exchange.part";
/// The file that was handed over.
const ARRIVED: &str = "exchange.arrived";

/// Whose files are exchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// The cluster id.
    pub cluster: [u8; 16],
    /// Our node key.
    pub own: [u8; 32],
    /// The other members' node keys.
    pub others: Vec<[u8; 32]>,
}

/// How a courier works.
#[derive(Clone, Debug)]
pub struct CourierSettings {
    /// Where fetched files are; made with mode 0700 where it is missing. Nobody else's.
    pub spool_dir: PathBuf,
    /// Between two looks when the engine says nothing.
    pub interval: Duration,
    /// First pause before something is tried again, and the shortest time between two looks,
    /// however often the bell rings.
    pub pause_min: Duration,
    /// Longest file that is fetched, bytes, if that is less than its kind allows.
    pub bytes_max: u64,
}

/// A file that is whole and whose bytes are those that were offered; nothing else is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its name: what the engine says, so judge the file and not this.
    pub name: Name,
    /// Where it is. It is the loop's until it answers: it may be renamed away.
    pub path: PathBuf,
    /// SHA-256 of its bytes.
    pub hash: [u8; 32],
    /// How long it is, bytes.
    pub length_bytes: u64,
}

/// What the loop says about an arrival. Nothing else is handed over until it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was taken, or was known.
    Taken,
    /// It will never be taken.
    Refused,
    /// Not now: a slot is not open, another transfer is under way, a newer roster is needed first.
    /// Handed over again after a pause that grows with the file, or at [`Courier::look_again`].
    Later,
}

/// What `sync status` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CourierState {
    /// The engine.
    pub engine: String,
    /// Whether the last look succeeded; `None`: there was none yet.
    pub reachable: Option<bool>,
    /// What went wrong and was not made good since: with a file, or (`None`) with the whole engine.
    pub problems: BTreeMap<Option<Name>, String>,
    /// Our files that are at the engine now, as far as it says.
    pub published: BTreeSet<What>,
    /// Files that were handed over since the start.
    pub arrived: u64,
    /// Files since the start whose bytes were not those that were offered.
    pub altered: u64,
}

/// What the loop holds of the thread.
pub struct Courier {
    letters: Sender<Letter>,
    state: Arc<Mutex<CourierState>>,
    stopping: Arc<AtomicBool>,
    ended: Receiver<()>,
}

enum Letter {
    Members(Members),
    Publish(What, PathBuf),
    Withdraw(What),
    Answer([u8; 32], Answer),
    LookAgain,
    Bell,
    Stop,
}

impl Courier {
    /// Begins. Nothing is asked of the engine before [`Courier::members`] says whose files are wanted.
    /// `deliver` is called in the courier's thread: it sends an event to the loop.
    ///
    /// # Errors
    /// No thread could be started, or the spool directory could not be made.
    pub fn start(
        engine: Box<dyn Exchange>,
        settings: CourierSettings,
        deliver: impl FnMut(Arrival) + Send + 'static,
    ) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&settings.spool_dir)?;
        for name in [PART, ARRIVED] {
            // There is none, as a rule: an earlier run did not end.
            let _ = fs::remove_file(settings.spool_dir.join(name));
        }
        let (letters, mailbox) = channel();
        let (ending, ended) = channel();
        let state = CourierState { engine: engine.description(), ..CourierState::default() };
        let (state, stopping) = (Arc::new(Mutex::new(state)), Arc::new(AtomicBool::new(false)));
        let rung = Arc::new(AtomicBool::new(false));
        let bell: Bell = {
            let (rung, letters) = (Arc::clone(&rung), Mutex::new(letters.clone()));
            Arc::new(move || {
                // One letter, however often it rings: an engine must not fill the memory with them.
                if !rung.swap(true, Ordering::SeqCst) {
                    let _ = lock(&letters).send(Letter::Bell);
                }
            })
        };
        let now = Instant::now();
        let thread = Thread {
            looks: Pause::new(settings.pause_min, now),
            tried: now,
            engine,
            settings,
            deliver: Box::new(deliver),
            mailbox,
            bell,
            rung,
            state: Arc::clone(&state),
            stopping: Arc::clone(&stopping),
            members: None,
            watching: false,
            looked: None,
            asked: true,
            heard: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
            handed: None,
        };
        // Not joined: an engine may hang in a call of the system, and the daemon ends all the same.
        thread::Builder::new().name("exchange".to_owned()).spawn(move || {
            thread.run();
            drop(ending);
        })?;
        Ok(Courier { letters, state, stopping, ended })
    }

    /// Says whose files are exchanged from now on: at the start, and whenever the roster changed.
    pub fn members(&self, members: Members) {
        self.send(Letter::Members(members));
    }

    /// Publishes the file at this path, now and whenever the engine lost it. It is opened when it is
    /// sent; who makes a newer one renames it into its place and calls this again.
    pub fn publish(&self, what: What, path: PathBuf) {
        self.send(Letter::Publish(what, path));
    }

    /// Publishes it no more, and takes it away from the engine.
    pub fn withdraw(&self, what: What) {
        self.send(Letter::Withdraw(what));
    }

    /// Answers an arrival, by its hash. What is still at its path is removed.
    pub fn answer(&self, hash: [u8; 32], answer: Answer) {
        self.send(Letter::Answer(hash, answer));
    }

    /// Hands over now what was answered by [`Answer::Later`]: the reason may be gone.
    pub fn look_again(&self) {
        self.send(Letter::LookAgain);
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self) -> CourierState {
        lock(&self.state).clone()
    }

    fn send(&self, letter: Letter) {
        // A thread that ended is told nothing.
        let _ = self.letters.send(letter);
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.send(Letter::Stop);
        // An error says that it ended, or that it hangs.
        let _ = self.ended.recv_timeout(END_WAIT);
    }
}

/// When something may be tried, and how long to wait after it failed once more.
#[derive(Clone, Copy)]
struct Pause {
    length: Duration,
    not_before: Instant,
}

impl Pause {
    fn new(pause_min: Duration, now: Instant) -> Self {
        Pause { length: pause_min, not_before: now }
    }

    fn failed(&mut self) {
        self.failed_after(Duration::ZERO);
    }

    /// The try took so long and came too early.
    fn failed_after(&mut self, took: Duration) {
        self.not_before = Instant::now() + self.length.max(took.saturating_mul(LATER_TIMES).min(LATER_MAX));
        self.length = (self.length * 2).min(PAUSE_MAX);
    }
}

/// One file of another member.
struct Heard {
    offer: Option<Offer>,
    /// The version that was taken or refused last.
    settled_version: Option<Version>,
    /// Hashes that were taken or refused, newest last.
    settled: VecDeque<[u8; 32]>,
    later: bool,
    pause: Pause,
}

impl Heard {
    fn is_wanted(&self) -> Option<Offer> {
        let offer = self.offer?;
        let settled =
            self.settled_version == Some(offer.version) || offer.hash.is_some_and(|hash| self.settled.contains(&hash));
        (!settled).then_some(offer)
    }

    fn settle(&mut self, hash: [u8; 32], version: Version) {
        self.settled_version = Some(version);
        if !self.settled.contains(&hash) {
            if self.settled.len() >= SETTLED_MAX {
                self.settled.pop_front();
            }
            self.settled.push_back(hash);
        }
    }
}

/// One file of ours.
struct Outgoing {
    path: PathBuf,
    /// What is at the engine and was found to be this file.
    published: Option<Version>,
    /// What is at the engine, as it says.
    shown: Option<Offer>,
    pause: Pause,
}

struct Handed {
    name: Name,
    version: Version,
    hash: [u8; 32],
    /// When it began to be fetched.
    since: Instant,
}

struct Thread {
    engine: Box<dyn Exchange>,
    settings: CourierSettings,
    deliver: Box<dyn FnMut(Arrival) + Send>,
    mailbox: Receiver<Letter>,
    bell: Bell,
    rung: Arc<AtomicBool>,
    state: Arc<Mutex<CourierState>>,
    stopping: Arc<AtomicBool>,
    members: Option<Members>,
    watching: bool,
    /// When a look succeeded last.
    looked: Option<Instant>,
    /// Whether somebody asked for a look.
    asked: bool,
    looks: Pause,
    /// When a look began last.
    tried: Instant,
    heard: BTreeMap<Name, Heard>,
    outgoing: BTreeMap<What, Outgoing>,
    withdrawn: BTreeSet<What>,
    handed: Option<Handed>,
}

impl Thread {
    fn run(mut self) {
        loop {
            match self.mailbox.recv_timeout(self.wait()) {
                Ok(letter) => self.take(letter),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Ok(letter) = self.mailbox.try_recv() {
                self.take(letter);
            }
            if self.is_stopping() {
                return;
            }
            // One file between two looks into the mailbox.
            if self.look_is_due() {
                self.look();
            } else if let Some(what) = self.next_outgoing() {
                self.put(what);
            } else if let Some(offer) = self.next_incoming() {
                self.fetch(&offer);
            }
        }
    }

    fn take(&mut self, letter: Letter) {
        match letter {
            Letter::Members(members) => {
                if self.members.as_ref() != Some(&members) {
                    let fits = |name: &Name| name.cluster == members.cluster && members.others.contains(&name.node);
                    self.heard.retain(|name, _| fits(name));
                    lock(&self.state).problems.clear();
                    if self.members.as_ref().is_some_and(|old| (old.cluster, old.own) != (members.cluster, members.own))
                    {
                        for file in self.outgoing.values_mut() {
                            (file.published, file.shown) = (None, None);
                        }
                    }
                    self.members = Some(members);
                    self.watching = false;
                    self.ask_soon();
                }
            }
            Letter::Publish(what, path) => {
                let pause = Pause::new(self.settings.pause_min, Instant::now());
                let shown = self.outgoing.get(&what).and_then(|file| file.shown);
                self.outgoing.insert(what, Outgoing { path, published: None, shown, pause });
                self.withdrawn.remove(&what);
                self.asked |= shown.is_none();
            }
            Letter::Withdraw(what) => {
                self.outgoing.remove(&what);
                self.withdrawn.insert(what);
                self.ask_soon();
            }
            Letter::Answer(hash, answer) => self.answered(hash, answer),
            Letter::LookAgain => {
                for heard in self.heard.values_mut().filter(|heard| heard.later) {
                    heard.pause = Pause::new(self.settings.pause_min, Instant::now());
                }
                self.ask_soon();
            }
            Letter::Bell => {
                self.rung.store(false, Ordering::SeqCst);
                self.ask_soon();
            }
            Letter::Stop => {}
        }
    }

    /// A look, also while the engine could not be reached for long: it may be back.
    fn ask_soon(&mut self) {
        self.asked = true;
        self.looks.not_before = self.looks.not_before.min(self.tried + self.settings.pause_min);
    }

    fn answered(&mut self, hash: [u8; 32], answer: Answer) {
        let Some(handed) = self.handed.take_if(|handed| handed.hash == hash) else { return };
        // The loop may have renamed it away.
        let _ = fs::remove_file(self.settings.spool_dir.join(ARRIVED));
        let Some(heard) = self.heard.get_mut(&handed.name) else { return };
        heard.later = answer == Answer::Later;
        match answer {
            Answer::Taken => {
                heard.settle(hash, handed.version);
                heard.pause = Pause::new(self.settings.pause_min, Instant::now());
            }
            Answer::Refused => {
                heard.settle(hash, handed.version);
                heard.pause.failed();
            }
            Answer::Later => heard.pause.failed_after(handed.since.elapsed()),
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// When there is something to do, if no letter comes before.
    fn wait(&self) -> Duration {
        if self.members.is_none() {
            return PAUSE_MAX;
        }
        let now = Instant::now();
        let mut next = self.next_look();
        if self.looked.is_some() && self.is_reachable() {
            let out = self.outgoing.values().filter(|file| file.is_due()).map(|file| file.pause.not_before);
            let ready = self.handed.is_none();
            let wanted = self.heard.values().filter(|heard| ready && heard.is_wanted().is_some());
            next = out.chain(wanted.map(|heard| heard.pause.not_before)).chain([next]).min().unwrap_or(next);
        }
        next.saturating_duration_since(now)
    }

    fn is_reachable(&self) -> bool {
        lock(&self.state).reachable == Some(true)
    }

    fn next_look(&self) -> Instant {
        let regular = self.looked.map(|looked| looked + self.settings.interval);
        match regular {
            _ if self.asked => self.looks.not_before,
            Some(at) => at.max(self.looks.not_before),
            None => self.looks.not_before,
        }
    }

    fn look_is_due(&self) -> bool {
        self.members.is_some() && self.next_look() <= Instant::now()
    }

    fn look(&mut self) {
        let Some(members) = self.members.clone() else { return };
        self.tried = Instant::now();
        match self.look_at(&members) {
            Ok(()) => {
                let now = Instant::now();
                self.looked = Some(now);
                self.asked = false;
                self.looks = Pause { length: self.settings.pause_min, not_before: now + self.settings.pause_min };
                lock(&self.state).reachable = Some(true);
                self.went_well(None);
            }
            Err(failure) => self.unreachable(&failure),
        }
    }

    fn look_at(&mut self, members: &Members) -> Result<(), Failure> {
        if !self.watching {
            // Before the look, so that nothing falls between the two.
            self.engine.watch(members, Arc::clone(&self.bell))?;
            self.watching = true;
        }
        while let Some(what) = self.withdrawn.first().copied() {
            self.engine.withdraw(&members.name_of(members.own, what))?;
            self.withdrawn.remove(&what);
        }
        let wanted = members.wanted();
        let offers = self.engine.look(&wanted)?;
        let offered = |name: &Name| offers.iter().find(|offer| offer.name == *name).copied();
        for name in wanted {
            if name.node == members.own {
                if let Some(file) = self.outgoing.get_mut(&name.what) {
                    file.shown = offered(&name);
                }
                continue;
            }
            let pause = Pause::new(self.settings.pause_min, Instant::now());
            let fresh = || Heard { offer: None, settled_version: None, settled: VecDeque::new(), later: false, pause };
            self.heard.entry(name).or_insert_with(fresh).offer = offered(&name);
        }
        Ok(())
    }

    fn next_outgoing(&self) -> Option<What> {
        if self.looked.is_none() || self.members.is_none() || !self.is_reachable() {
            return None;
        }
        let now = Instant::now();
        let mut due = self.outgoing.iter().filter(|(_, file)| file.is_due() && file.pause.not_before <= now);
        due.next().map(|(what, _)| *what)
    }

    /// Puts one of our files there, unless it is there.
    fn put(&mut self, what: What) {
        let Some(members) = &self.members else { return };
        let name = members.name_of(members.own, what);
        let Some(file) = self.outgoing.get(&what) else { return };
        let (path, shown) = (file.path.clone(), file.shown);
        let result = self.put_file(&name, &path, shown);
        let Some(file) = self.outgoing.get_mut(&what) else { return };
        // Also when it went well: an engine that loses it at once is not served in a hurry.
        file.pause.failed();
        match result {
            Ok(offer) => {
                (file.published, file.shown) = (Some(offer.version), Some(offer));
                self.went_well(Some(name));
            }
            Err(failure @ Failure::Unreachable(_)) => self.unreachable(&failure),
            Err(failure @ (Failure::Changed | Failure::Ours(_))) => {
                self.problem(name, format!("it was not published: {failure}"));
            }
        }
    }

    fn put_file(&mut self, name: &Name, path: &Path, shown: Option<Offer>) -> Result<Offer, Failure> {
        let ours = |error: io::Error| Failure::Ours(format!("{}: {error}", path.display()));
        let mut file = File::open(path).map_err(ours)?;
        let mut hasher = Hasher::new(io::sink(), u64::MAX, &self.stopping);
        io::copy(&mut file, &mut hasher).map_err(ours)?;
        let (hash, length_bytes) = hasher.end();
        let alike = |offer: &Offer| offer.length_bytes == length_bytes && offer.hash.is_none_or(|said| said == hash);
        if let Some(offer) = shown.filter(alike) {
            // What an earlier run published needs no second time.
            let mut there = Hasher::new(io::sink(), length_bytes, &self.stopping);
            if self.engine.fetch(&offer, &mut there).is_ok() && there.end().0 == hash {
                return Ok(offer);
            }
        }
        file.rewind().map_err(ours)?;
        let mut bytes = Stoppable { file: file.take(length_bytes), stopping: &self.stopping };
        self.engine.publish(name, &mut Source { length_bytes, hash, bytes: &mut bytes })
    }

    fn next_incoming(&self) -> Option<Offer> {
        if self.handed.is_some() || !self.is_reachable() {
            return None;
        }
        let now = Instant::now();
        let due = self.heard.iter().filter(|(_, heard)| heard.pause.not_before <= now);
        let wanted = due.filter_map(|(name, heard)| Some((name.what, heard.pause.not_before, heard.is_wanted()?)));
        wanted.min_by_key(|(what, since, _)| (*what, *since)).map(|(_, _, offer)| offer)
    }

    fn fetch(&mut self, offer: &Offer) {
        let since = Instant::now();
        let result = self.fetch_file(offer);
        let Some(heard) = self.heard.get_mut(&offer.name) else { return };
        match result {
            Ok((hash, _)) if heard.settled.contains(&hash) => {
                heard.settle(hash, offer.version);
                heard.pause.failed();
                self.went_well(Some(offer.name));
            }
            Ok((hash, length_bytes)) => {
                self.handed = Some(Handed { name: offer.name, version: offer.version, hash, since });
                self.went_well(Some(offer.name));
                lock(&self.state).arrived += 1;
                let path = self.settings.spool_dir.join(ARRIVED);
                (self.deliver)(Arrival { name: offer.name, path, hash, length_bytes });
            }
            Err(Missed::TooLong) => {
                heard.settled_version = Some(offer.version);
                heard.pause.failed();
                self.problem(offer.name, "it is longer than it may be".to_owned());
            }
            Err(Missed::Foreign(why)) => {
                // Not settled: an engine that stopped to alter it may show the same version again.
                heard.pause.failed();
                self.problem(offer.name, why.to_owned());
            }
            Err(Missed::Altered) => {
                heard.pause.failed();
                lock(&self.state).altered += 1;
                self.problem(offer.name, "its bytes are not those that were offered".to_owned());
                self.asked = true;
            }
            Err(Missed::NoRoom) => {
                heard.pause.failed();
                self.problem(offer.name, "it would leave too little room for the store".to_owned());
            }
            Err(Missed::Failed(Failure::Changed)) => {
                heard.pause.failed();
                self.asked = true;
            }
            Err(Missed::Failed(failure @ Failure::Unreachable(_))) => {
                heard.pause.failed();
                self.unreachable(&failure);
            }
            Err(Missed::Failed(failure @ Failure::Ours(_))) => {
                heard.pause.failed();
                self.problem(offer.name, failure.to_string());
            }
        }
    }

    fn fetch_file(&mut self, offer: &Offer) -> Result<([u8; 32], u64), Missed> {
        let dir = &self.settings.spool_dir;
        let part = dir.join(PART);
        let failed = |error: io::Error| Missed::Failed(Failure::Ours(format!("{}: {error}", part.display())));
        let bytes_max = offer.name.what.bytes_max().min(self.settings.bytes_max);
        if offer.length_bytes > bytes_max {
            return Err(Missed::TooLong);
        }
        let disk = rustix::fs::statvfs(dir).map_err(|error| failed(error.into()))?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < offer.length_bytes.saturating_add(RESERVE_BYTES) {
            return Err(Missed::NoRoom);
        }
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part).map_err(failed)?;
        let mut into = Begins::new(Hasher::new(file, offer.length_bytes, &self.stopping), offer.name.what);
        let fetched = self.engine.fetch(offer, &mut into);
        let (foreign, short, into) = (into.foreign, into.is_short(), into.to);
        let (refused, file) = (into.too_long, into.to.try_clone());
        let (hash, length_bytes) = into.end();
        // An engine that writes more than it said altered the file, whatever it answers.
        let altered = refused || length_bytes != offer.length_bytes || offer.hash.is_some_and(|said| said != hash);
        let result = match (fetched, foreign) {
            (_, Some(why)) => Err(Missed::Foreign(why)),
            _ if refused => Err(Missed::Altered),
            (Err(failure), None) => Err(Missed::Failed(failure)),
            (Ok(()), None) if altered => Err(Missed::Altered),
            (Ok(()), None) if short => Err(Missed::Foreign(FOREIGN)),
            (Ok(()), None) => Ok((hash, length_bytes)),
        };
        let kept = result.and_then(|found| {
            file.and_then(|file| file.sync_all())
                .and_then(|()| fs::rename(&part, dir.join(ARRIVED)))
                .map_err(failed)?;
            Ok(found)
        });
        if kept.is_err() {
            let _ = fs::remove_file(&part);
        }
        kept
    }

    /// Nothing is wrong any more with this file, or with the engine.
    fn went_well(&mut self, name: Option<Name>) {
        let published = self.outgoing.iter().filter(|(_, file)| !file.is_due()).map(|(what, _)| *what).collect();
        let mut state = lock(&self.state);
        state.published = published;
        state.problems.remove(&name);
    }

    fn problem(&self, name: Name, text: String) {
        lock(&self.state).problems.insert(Some(name), text);
    }

    fn unreachable(&mut self, failure: &Failure) {
        self.looks.failed();
        self.asked = true;
        let mut state = lock(&self.state);
        state.reachable = Some(false);
        state.problems.insert(None, failure.to_string());
    }
}

enum Missed {
    TooLong,
    /// It does not begin as a file of its kind, and why.
    Foreign(&'static str),
    Altered,
    NoRoom,
    Failed(Failure),
}

impl Outgoing {
    fn is_due(&self) -> bool {
        self.published.is_none() || self.published != self.shown.map(|offer| offer.version)
    }
}

impl Members {
    fn name_of(&self, node: [u8; 32], what: What) -> Name {
        Name { cluster: self.cluster, node, what }
    }

    /// Every name that is looked for.
    fn wanted(&self) -> Vec<Name> {
        let nodes = self.others.iter().filter(|node| **node != self.own).chain([&self.own]);
        nodes.flat_map(|node| What::ALL.map(|what| self.name_of(*node, what))).collect()
    }
}

/// Writes on, hashes, and refuses what is too much, too slow, or too late.
struct Hasher<'a, W> {
    to: W,
    hash: Sha256,
    length_bytes: u64,
    bytes_max: u64,
    too_long: bool,
    until: Instant,
    stopping: &'a AtomicBool,
}

impl<'a, W: Write> Hasher<'a, W> {
    fn new(to: W, bytes_max: u64, stopping: &'a AtomicBool) -> Self {
        let until = Instant::now() + FETCH_MAX;
        Hasher { to, hash: Sha256::new(), length_bytes: 0, bytes_max, too_long: false, until, stopping }
    }

    fn end(self) -> ([u8; 32], u64) {
        (self.hash.finalize().into(), self.length_bytes)
    }
}

impl<W: Write> Write for Hasher<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(io::Error::other("the service stops"));
        }
        if Instant::now() > self.until {
            return Err(io::Error::other("it took too long"));
        }
        let after = self.length_bytes.saturating_add(bytes.len() as u64);
        if after > self.bytes_max {
            self.too_long = true;
            return Err(io::Error::other("it is longer than was offered"));
        }
        let bytes = bytes.get(..BUFFER_BYTES).unwrap_or(bytes);
        self.to.write_all(bytes)?;
        self.hash.update(bytes);
        self.length_bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Writes on what begins as a file of its kind, and stops at the first bytes of anything else.
struct Begins<'a, W> {
    to: Hasher<'a, W>,
    what: What,
    /// At most [`BEGIN_BYTES`].
    first: Vec<u8>,
    foreign: Option<&'static str>,
}

impl<'a, W: Write> Begins<'a, W> {
    fn new(to: Hasher<'a, W>, what: What) -> Self {
        Begins { to, what, first: Vec::with_capacity(BEGIN_BYTES), foreign: None }
    }

    /// Whether it ended before it said what it is.
    fn is_short(&self) -> bool {
        self.first.len() < BEGIN_BYTES
    }

    /// What is wrong with the first bytes, as many as there are.
    fn wrong(&self) -> Option<&'static str> {
        let (magic, newest) = self.what.begins();
        if self.first.iter().zip(magic).any(|(found, its)| *found != its) {
            return Some(FOREIGN);
        }
        self.first.get(magic.len()).filter(|version| **version > newest).map(|_| "it is of a newer version")
    }
}

impl<W: Write> Write for Begins<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_short() {
            let missing = BEGIN_BYTES - self.first.len();
            self.first.extend(bytes.iter().take(missing));
            self.foreign = self.wrong();
        }
        match self.foreign {
            Some(why) => Err(io::Error::other(why)),
            None => {
                // All of them or none: what was looked at is not looked at again.
                self.to.write_all(bytes)?;
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Reads on, until the courier shall stop.
struct Stoppable<'a> {
    file: io::Take<File>,
    stopping: &'a AtomicBool,
}

impl Read for Stoppable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(io::Error::other("the service stops"));
        }
        self.file.read(buffer)
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    const CLUSTER: [u8; 16] = [0xC1; 16];
    const OWN: [u8; 32] = [0x01; 32];
    const OTHER: [u8; 32] = [0x02; 32];
    const THIRD: [u8; 32] = [0x03; 32];

    /// What an engine says it has: bytes as they come, and what they are said to be.
    #[derive(Clone)]
    struct File {
        bytes: Vec<u8>,
        /// How often they are written, one after another.
        times: u64,
        said_bytes: u64,
        said_hash: Option<[u8; 32]>,
        version: [u8; 32],
    }

    /// An engine in memory that does what a test tells it.
    #[derive(Default)]
    struct Engine {
        files: BTreeMap<Name, File>,
        /// Names offered beside those that were asked for.
        flood: usize,
        down: bool,
        /// Every look offers other versions.
        restless: bool,
        looks: u64,
        fetched: Vec<Name>,
        /// Bytes that were taken from it.
        sent_bytes: u64,
        /// How long each fetch takes.
        slow: Duration,
        bell: Option<Bell>,
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Engine>>);

    impl Shared {
        fn with<T>(&self, change: impl FnOnce(&mut Engine) -> T) -> T {
            change(&mut lock(&self.0))
        }

        fn set(&self, node: [u8; 32], what: What, bytes: &[u8]) {
            self.set_file(node, what, whole(&begun(what, bytes)));
        }

        fn set_file(&self, node: [u8; 32], what: What, file: File) {
            self.with(|engine| engine.files.insert(Name { cluster: CLUSTER, node, what }, file));
            self.ring();
        }

        fn ring(&self) {
            if let Some(bell) = self.with(|engine| engine.bell.clone()) {
                bell();
            }
        }
    }

    fn sha(bytes: &[u8]) -> [u8; 32] {
        Sha256::digest(bytes).into()
    }

    /// A file of this kind with these bytes behind what it begins with.
    fn begun(what: What, bytes: &[u8]) -> Vec<u8> {
        let (magic, version) = what.begins();
        [&magic[..], &[version], bytes].concat()
    }

    /// A package.
    fn honest(bytes: &[u8]) -> File {
        whole(&begun(What::Package, bytes))
    }

    fn whole(bytes: &[u8]) -> File {
        let hash = sha(bytes);
        File { bytes: bytes.to_vec(), times: 1, said_bytes: bytes.len() as u64, said_hash: Some(hash), version: hash }
    }

    impl Exchange for Shared {
        fn description(&self) -> String {
            "memory".to_owned()
        }

        fn watch(&mut self, _members: &Members, bell: Bell) -> Result<(), Failure> {
            self.with(|engine| engine.bell = Some(bell));
            Ok(())
        }

        fn look(&mut self, wanted: &[Name]) -> Result<Vec<Offer>, Failure> {
            self.with(|engine| {
                engine.looks += 1;
                if engine.down {
                    return Err(Failure::Unreachable("it is down".to_owned()));
                }
                if engine.restless {
                    let looks = engine.looks;
                    engine.files.values_mut().for_each(|file| file.version = sha(&looks.to_be_bytes()));
                }
                let offer = |(name, file): (&Name, &File)| Offer {
                    name: *name,
                    version: Version(file.version),
                    length_bytes: file.said_bytes,
                    hash: file.said_hash,
                };
                let mut offers: Vec<Offer> = engine.files.iter().map(offer).collect();
                offers.retain(|offer| wanted.contains(&offer.name));
                for number in 0..engine.flood {
                    let node = sha(&number.to_be_bytes());
                    let name = Name { cluster: CLUSTER, node, what: What::Package };
                    offers.push(Offer { name, version: Version(node), length_bytes: 1, hash: None });
                }
                Ok(offers)
            })
        }

        fn fetch(&mut self, offer: &Offer, into: &mut dyn Write) -> Result<(), Failure> {
            let file = self.with(|engine| {
                engine.fetched.push(offer.name);
                if engine.down { None } else { engine.files.get(&offer.name).cloned() }
            });
            let Some(file) = file else { return Err(Failure::Unreachable("it is down".to_owned())) };
            thread::sleep(self.with(|engine| engine.slow));
            for _ in 0..file.times {
                into.write_all(&file.bytes).map_err(|error| super::super::ours(&error))?;
                self.with(|engine| engine.sent_bytes += file.bytes.len() as u64);
            }
            Ok(())
        }

        fn publish(&mut self, name: &Name, source: &mut Source<'_>) -> Result<Offer, Failure> {
            let mut bytes = Vec::new();
            source.bytes.read_to_end(&mut bytes).map_err(|error| super::super::ours(&error))?;
            let file = whole(&bytes);
            let offer = Offer {
                name: *name,
                version: Version(file.version),
                length_bytes: file.said_bytes,
                hash: file.said_hash,
            };
            self.with(|engine| engine.files.insert(*name, file));
            Ok(offer)
        }

        fn withdraw(&mut self, name: &Name) -> Result<(), Failure> {
            self.with(|engine| engine.files.remove(name));
            Ok(())
        }
    }

    struct Bench {
        engine: Shared,
        courier: Courier,
        arrivals: Receiver<Arrival>,
        dir: TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is writable");
            let engine = Shared::default();
            let settings = CourierSettings {
                spool_dir: dir.path().join("spool"),
                interval: Duration::from_secs(3600),
                pause_min: Duration::from_millis(5),
                bytes_max: 1 << 20,
            };
            let (deliver, arrivals) = channel();
            let deliver = move |arrival| deliver.send(arrival).expect("the test waits");
            let courier = Courier::start(Box::new(engine.clone()), settings, deliver).expect("threads can be started");
            courier.members(Members { cluster: CLUSTER, own: OWN, others: vec![OTHER, THIRD] });
            Bench { engine, courier, arrivals, dir }
        }

        /// The next file that is handed over, whose bytes are those it is said to have; those behind what it begins with.
        #[track_caller]
        fn next(&self) -> (Arrival, Vec<u8>) {
            let arrival = self.arrivals.recv_timeout(PATIENCE).expect("something arrives");
            let bytes = fs::read(&arrival.path).expect("it is spooled");
            assert_eq!((sha(&bytes), bytes.len() as u64), (arrival.hash, arrival.length_bytes));
            let behind = bytes.strip_prefix(&begun(arrival.name.what, b"")[..]).expect("of its kind").to_vec();
            (arrival, behind)
        }

        #[track_caller]
        fn takes(&self, bytes: &[u8], answer: Answer) {
            let (arrival, found) = self.next();
            assert_eq!(found, bytes);
            self.courier.answer(arrival.hash, answer);
        }

        /// Waits for many more looks, in which nothing arrived.
        #[track_caller]
        fn nothing_arrives(&self) {
            let before = self.engine.with(|engine| engine.looks);
            let began = Instant::now();
            while self.engine.with(|engine| engine.looks) < before + 10 {
                assert!(began.elapsed() < PATIENCE, "it stopped looking");
                self.engine.ring();
                thread::sleep(Duration::from_millis(2));
            }
            assert!(self.arrivals.try_recv().is_err());
        }

        #[track_caller]
        fn wait(&self, what: &str, mut done: impl FnMut() -> bool) {
            let began = Instant::now();
            while !done() {
                assert!(began.elapsed() < PATIENCE, "{what}: {:?}", self.courier.state());
                thread::sleep(Duration::from_millis(2));
            }
        }
    }

    #[test]
    fn bytes_that_are_not_those_that_were_offered_are_never_handed_over() {
        let bench = Bench::new();
        let good = honest(b"the package");
        let mut flipped = good.clone();
        flipped.bytes[9] ^= 1;
        let longer = File { times: 2, ..good.clone() };
        let endless = File { times: u64::MAX, ..good.clone() };
        let shorter = File { bytes: begun(What::Package, b"the pack"), ..good.clone() };
        let unsaid = File { said_hash: None, times: 3, ..good.clone() };
        for (count, file) in (1..).zip([flipped, longer, endless, shorter, unsaid]) {
            bench.engine.set_file(OTHER, What::Package, file);
            bench.wait("it is found out", || bench.courier.state().altered >= count);
            assert!(bench.arrivals.try_recv().is_err());
        }
        let name = Name { cluster: CLUSTER, node: OTHER, what: What::Package };
        assert!(bench.courier.state().problems.contains_key(&Some(name)));
        assert!(fs::read_dir(bench.dir.path().join("spool")).expect("its directory").next().is_none());
        // It was only delayed.
        bench.engine.set_file(OTHER, What::Package, good);
        bench.takes(b"the package", Answer::Taken);
        bench.wait("all is well", || bench.courier.state().problems.is_empty());
    }

    #[test]
    fn a_file_that_was_refused_is_not_fetched_again_until_it_changes() {
        let bench = Bench::new();
        bench.engine.set(OTHER, What::Package, b"refused");
        bench.takes(b"refused", Answer::Refused);
        bench.nothing_arrives();
        assert_eq!(bench.engine.with(|engine| engine.fetched.len()), 1);
        bench.engine.set(OTHER, What::Package, b"better");
        bench.takes(b"better", Answer::Taken);
        // Replayed, with its true hash and with another version.
        bench.engine.set(OTHER, What::Package, b"refused");
        bench.nothing_arrives();
        assert_eq!(bench.engine.with(|engine| engine.fetched.len()), 2);
        let unsaid = File { said_hash: None, version: [9; 32], ..honest(b"better") };
        bench.engine.set_file(OTHER, What::Package, unsaid);
        bench.nothing_arrives();
        assert_eq!(bench.engine.with(|engine| engine.fetched.len()), 3, "once, since it could be another");
        bench.engine.set(OTHER, What::Package, b"newest");
        bench.takes(b"newest", Answer::Taken);
    }

    #[test]
    fn a_file_that_is_too_long_is_not_fetched_at_all() {
        let bench = Bench::new();
        let giant = File { said_bytes: 10 << 30, times: u64::MAX, ..honest(&[0; 4096]) };
        bench.engine.set_file(OTHER, What::Package, giant);
        bench.engine.set(THIRD, What::Package, b"small");
        bench.takes(b"small", Answer::Taken);
        bench.nothing_arrives();
        assert_eq!(bench.engine.with(|engine| engine.fetched.len()), 1);
    }

    #[test]
    fn what_does_not_begin_as_a_file_of_its_kind_is_given_up_after_its_first_bytes() {
        let bench = Bench::new();
        let name = Name { cluster: CLUSTER, node: OTHER, what: What::Package };
        let problem = || bench.courier.state().problems.get(&Some(name)).cloned();
        let (magic, version) = What::Package.begins();
        let newer = [&magic[..], &[version + 1], &[0; 4096]].concat();
        let roster = begun(What::Roster, &[0; 4096]);
        let zeros = vec![0; 4096];
        let foreign = "it does not begin as a file of its kind";
        for (bytes, why) in [(zeros, foreign), (newer, "it is of a newer version"), (roster, foreign)] {
            let said = File { said_bytes: 1 << 20, said_hash: None, times: u64::MAX, ..whole(&bytes) };
            bench.engine.set_file(OTHER, What::Package, said);
            bench.wait(why, || problem().as_deref() == Some(why));
            let tries = bench.engine.with(|engine| engine.fetched.len());
            bench.wait("it is tried again", || bench.engine.with(|engine| engine.fetched.len()) > tries);
        }
        assert_eq!(bench.engine.with(|engine| engine.sent_bytes), 0);
        assert_eq!(bench.courier.state().altered, 0);
        // Its end comes before it said what it is.
        bench.engine.set_file(OTHER, What::Package, whole(&magic));
        bench.wait("it is found out", || bench.engine.with(|engine| engine.sent_bytes) > 0);
        bench.wait("it is said", || problem().as_deref() == Some(foreign));
        assert!(bench.arrivals.try_recv().is_err());
        assert!(fs::read_dir(bench.dir.path().join("spool")).expect("its directory").next().is_none());
        // Its version was not settled: an engine that stops to alter it delayed it.
        bench.engine.set_file(OTHER, What::Package, File { version: sha(&magic), ..honest(b"the package") });
        bench.takes(b"the package", Answer::Taken);
        bench.wait("all is well", || bench.courier.state().problems.is_empty());
    }

    #[test]
    fn a_file_that_is_not_taken_yet_waits_twenty_times_as_long_as_it_took() {
        const SLOW: Duration = Duration::from_millis(100);
        let bench = Bench::new();
        bench.engine.with(|engine| engine.slow = SLOW);
        bench.engine.set(OTHER, What::Package, b"early");
        let (arrival, _) = bench.next();
        // Judging it takes its time as well.
        thread::sleep(SLOW);
        bench.courier.answer(arrival.hash, Answer::Later);
        let answered = Instant::now();
        // Others are not held back.
        bench.engine.set(THIRD, What::Package, b"of the third");
        bench.takes(b"of the third", Answer::Taken);
        bench.takes(b"early", Answer::Later);
        let waited = answered.elapsed();
        assert!(waited >= 2 * SLOW * LATER_TIMES, "{waited:?}");
        bench.courier.look_again();
        let asked = Instant::now();
        bench.takes(b"early", Answer::Taken);
        assert!(asked.elapsed() < SLOW * LATER_TIMES, "{:?}", asked.elapsed());
    }

    #[test]
    fn names_that_nobody_asked_for_are_ignored() {
        let bench = Bench::new();
        bench.engine.with(|engine| engine.flood = 5_000);
        bench.engine.set([0x77; 32], What::Package, b"of no member");
        bench.engine.set(OWN, What::Package, b"ours, as the engine says");
        bench.nothing_arrives();
        bench.engine.set(OTHER, What::Package, b"of a member");
        bench.takes(b"of a member", Answer::Taken);
        assert_eq!(bench.engine.with(|engine| engine.fetched.clone()).len(), 1);
    }

    #[test]
    fn one_name_that_changes_all_the_time_does_not_hold_the_others_back() {
        let bench = Bench::new();
        bench.engine.with(|engine| engine.restless = true);
        let mut altered = File { said_hash: Some([0; 32]), ..honest(b"altered") };
        altered.said_bytes += 1;
        bench.engine.set_file(OTHER, What::Package, altered);
        bench.wait("it is found out", || bench.courier.state().altered >= 3);
        bench.engine.set(THIRD, What::Package, b"of the third");
        bench.takes(b"of the third", Answer::Taken);
        // Each try is twice as late as the one before.
        for _ in 0..40 {
            bench.engine.ring();
            thread::sleep(Duration::from_millis(5));
        }
        assert!(bench.courier.state().altered < 12, "{:?}", bench.courier.state());
    }

    #[test]
    fn one_file_at_a_time_rosters_first_and_each_waits_for_the_answer() {
        let bench = Bench::new();
        bench.engine.with(|engine| engine.down = true);
        bench.engine.set(OTHER, What::Package, b"package");
        bench.engine.set(OTHER, What::Receipt, b"receipt");
        bench.engine.set(THIRD, What::Roster, b"roster");
        bench.engine.with(|engine| engine.down = false);
        bench.engine.ring();
        let (roster, bytes) = bench.next();
        assert_eq!(bytes, b"roster");
        bench.nothing_arrives();
        bench.courier.answer([0; 32], Answer::Taken);
        bench.nothing_arrives();
        // The loop may take the file away.
        fs::rename(&roster.path, bench.dir.path().join("kept")).expect("one file system");
        bench.courier.answer(roster.hash, Answer::Taken);
        bench.takes(b"package", Answer::Taken);
        bench.takes(b"receipt", Answer::Taken);
        bench.nothing_arrives();
        assert_eq!(bench.courier.state().arrived, 3);
    }

    #[test]
    fn a_file_that_came_too_early_comes_again_by_itself_and_when_it_is_asked_for() {
        let bench = Bench::new();
        bench.engine.set(OTHER, What::Package, b"early");
        for _ in 0..3 {
            bench.takes(b"early", Answer::Later);
        }
        for _ in 0..12 {
            // Without this the last would come after 20 s.
            bench.courier.look_again();
            bench.takes(b"early", Answer::Later);
        }
        bench.courier.look_again();
        bench.takes(b"early", Answer::Taken);
        bench.courier.look_again();
        bench.nothing_arrives();
    }

    #[test]
    fn what_we_publish_is_there_again_after_the_engine_lost_it_and_is_not_sent_twice() {
        let bench = Bench::new();
        let (path, name) = (bench.dir.path().join("own"), Name { cluster: CLUSTER, node: OWN, what: What::Package });
        let there = || bench.engine.with(|engine| engine.files.get(&name).map(|file| file.bytes.clone()));
        // Not there yet: said, tried again.
        bench.courier.publish(What::Package, path.clone());
        bench.wait("it says so", || bench.courier.state().problems.contains_key(&Some(name)));
        fs::write(&path, "ours").expect("there is room");
        bench.courier.publish(What::Package, path.clone());
        bench.wait("it is there", || there() == Some(b"ours".to_vec()));
        bench.wait("and it says so", || bench.courier.state().published.contains(&What::Package));
        assert!(bench.courier.state().problems.is_empty());
        bench.engine.with(|engine| engine.files.clear());
        bench.engine.ring();
        bench.wait("it is there again", || there() == Some(b"ours".to_vec()));
        bench.engine.set(OWN, What::Package, b"evil");
        bench.wait("and in place of another", || there() == Some(b"ours".to_vec()));
        fs::write(&path, "newer").expect("there is room");
        bench.courier.publish(What::Package, path);
        bench.wait("the newer one is there", || there() == Some(b"newer".to_vec()));
        bench.courier.withdraw(What::Package);
        bench.wait("it is gone", || there().is_none());
        bench.nothing_arrives();
        assert!(bench.courier.state().published.is_empty());
    }

    #[test]
    fn an_engine_that_is_down_is_asked_again_and_again_and_stops_nobody() {
        let bench = Bench::new();
        bench.engine.with(|engine| engine.down = true);
        bench.engine.ring();
        bench.wait("it is down", || bench.courier.state().reachable == Some(false));
        assert_eq!(bench.courier.state().problems.get(&None).map(String::as_str), Some("it is down"));
        bench.engine.set(OTHER, What::Package, b"package");
        bench.nothing_arrives();
        bench.engine.with(|engine| engine.down = false);
        bench.takes(b"package", Answer::Taken);
        bench.wait("it is up", || bench.courier.state().reachable == Some(true));
        assert!(bench.courier.state().problems.is_empty());
    }

    #[test]
    fn without_members_nothing_is_asked_and_a_member_that_left_is_forgotten() {
        let bench = Bench::new();
        bench.engine.set(OTHER, What::Package, b"of the other");
        bench.takes(b"of the other", Answer::Later);
        bench.courier.members(Members { cluster: CLUSTER, own: OWN, others: vec![THIRD] });
        bench.courier.look_again();
        // One may have been under way.
        while let Ok(arrival) = bench.arrivals.recv_timeout(Duration::from_millis(200)) {
            bench.courier.answer(arrival.hash, Answer::Later);
        }
        bench.nothing_arrives();
    }

    #[test]
    fn the_end_does_not_wait_for_an_engine_that_hangs() {
        struct Hangs(Sender<()>);
        impl Exchange for Hangs {
            fn description(&self) -> String {
                "hangs".to_owned()
            }
            fn watch(&mut self, _: &Members, _: Bell) -> Result<(), Failure> {
                let _ = self.0.send(());
                thread::sleep(Duration::from_secs(3600));
                Ok(())
            }
            fn look(&mut self, _: &[Name]) -> Result<Vec<Offer>, Failure> {
                Ok(vec![])
            }
            fn fetch(&mut self, _: &Offer, _: &mut dyn Write) -> Result<(), Failure> {
                Err(Failure::Changed)
            }
            fn publish(&mut self, _: &Name, _: &mut Source<'_>) -> Result<Offer, Failure> {
                Err(Failure::Changed)
            }
            fn withdraw(&mut self, _: &Name) -> Result<(), Failure> {
                Ok(())
            }
        }
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is writable");
        let settings = CourierSettings {
            spool_dir: dir.path().to_owned(),
            interval: Duration::from_secs(1),
            pause_min: Duration::from_millis(5),
            bytes_max: 1,
        };
        let (hanging, hangs) = channel();
        let courier = Courier::start(Box::new(Hangs(hanging)), settings, |_| ()).expect("threads can be started");
        courier.members(Members { cluster: CLUSTER, own: OWN, others: vec![OTHER] });
        hangs.recv_timeout(PATIENCE).expect("it is asked");
        let began = Instant::now();
        courier.publish(What::Package, "/nowhere".into());
        assert!(began.elapsed() < Duration::from_secs(1), "no call waits");
        drop(courier);
        assert!(began.elapsed() < END_WAIT * 3);
    }
}
