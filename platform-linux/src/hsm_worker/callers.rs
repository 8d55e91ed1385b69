//! The threads that make calls into the module, and how many calls are in flight.
//!
//! A module on this machine gets slower with threads (SoftHSM: 0.78 to 0.92 of its speed), a
//! module that asks a network is idle while it waits. Which one this is, is measured: calls
//! are made one at a time until one of them takes [`SLOW`], and from then on up to the
//! configured number. So whoever waits behind the first slow call waits [`SLOW`], not longer.
//!
//! A call that takes [`HANG`] gives its permit up: it counts no more, and its slot is the
//! only one that waits for it, whatever the number is. When it comes back, its caller needs
//! a new permit for its next call.
//!
//! Threads are started when there is something to do and nobody free to do it. One that
//! finished a job takes the next one itself, so that calls in sequence need no change of
//! threads. Nothing here outlives the process.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A call that takes so long waits for something else than this machine's processor: local
/// logins take 0.7 to 3 ms (SoftHSM 2.6.1, Kryoptic 1.5), network HSMs 5 ms and more.
const SLOW: Duration = Duration::from_millis(4);
/// A call that takes so long is not counted any more.
const HANG: Duration = Duration::from_millis(250);
/// As many calls in a row, each in less than half of [`SLOW`], show that the module is quick
/// again: one busy moment must not make a local module slow for ever.
const QUICK_CALLS: u32 = 128;
/// Threads, at most. A look at a module all of whose slots hang would make more.
const THREADS_MAX: usize = 256;

/// The callers of one module.
#[derive(Clone)]
pub(super) struct Callers(Arc<Shared>);

struct Shared {
    crew: Mutex<Crew>,
    /// There may be something to do for a thread without a job.
    work: Condvar,
    /// A permit may be free for a call inside a job, or a job ended.
    room: Condvar,
}

/// What is to be done. What has to end before the process does is an order.
struct Job {
    order: bool,
    work: Box<dyn FnOnce() + Send>,
}

struct Crew {
    jobs: VecDeque<Job>,
    /// The threads that are inside a job.
    busy: HashMap<u64, Busy>,
    next: u64,
    threads: usize,
    /// Threads without a job.
    free: usize,
    /// One of them wakes by itself when the oldest call becomes slow or hangs.
    watched: bool,
    pace: Pace,
    calls_max: usize,
    stopping: bool,
}

struct Busy {
    order: bool,
    /// Whether it counts against the number of calls.
    permit: bool,
    /// It is inside a call since then.
    since: Option<Instant>,
}

/// How many calls are made at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// One: no call was slow so far.
    Sequential,
    /// As many as are allowed; so many calls in a row were quick.
    Parallel { quick: u32 },
}

thread_local! {
    /// Which caller this thread is.
    static CALLER: Cell<Option<u64>> = const { Cell::new(None) };
}

impl Callers {
    /// None yet; up to `calls_max` calls in flight, at least one.
    pub(super) fn new(calls_max: usize) -> Self {
        let crew = Crew {
            jobs: VecDeque::new(),
            busy: HashMap::new(),
            next: 0,
            threads: 0,
            free: 0,
            watched: false,
            pace: Pace::Sequential,
            calls_max: calls_max.max(1),
            stopping: false,
        };
        Callers(Arc::new(Shared { crew: Mutex::new(crew), work: Condvar::new(), room: Condvar::new() }))
    }

    /// How many calls may be in flight.
    pub(super) fn calls_max(&self) -> usize {
        self.crew().calls_max
    }

    /// Has an order carried out; the process does not end before that, if it was begun.
    pub(super) fn order(&self, work: impl FnOnce() + Send + 'static) {
        self.post(Job { order: true, work: Box::new(work) }, false);
    }

    /// The same, before what waits.
    pub(super) fn order_first(&self, work: impl FnOnce() + Send + 'static) {
        self.post(Job { order: true, work: Box::new(work) }, true);
    }

    /// Has a question asked; nobody waits for its answer when the process ends.
    pub(super) fn ask(&self, work: impl FnOnce() + Send + 'static) {
        self.post(Job { order: false, work: Box::new(work) }, false);
    }

    fn post(&self, job: Job, first: bool) {
        let mut crew = self.crew();
        if crew.stopping {
            return;
        }
        if first {
            crew.jobs.push_front(job);
        } else {
            crew.jobs.push_back(job);
        }
        self.call_somebody(&mut crew);
    }

    /// Sees to it that somebody takes the next job as soon as it may begin.
    fn call_somebody(&self, crew: &mut Crew) {
        if crew.jobs.is_empty() {
            return;
        }
        if crew.free > 0 {
            // Whoever watches finds out by itself when a job may begin later.
            if !crew.watched || crew.may_begin(Instant::now()) {
                self.0.work.notify_one();
            }
            return;
        }
        if crew.threads >= THREADS_MAX {
            return;
        }
        let callers = self.clone();
        // Without a thread the job waits for one that ends its own.
        if thread::Builder::new().name("caller".into()).spawn(move || callers.work()).is_ok() {
            crew.threads += 1;
            crew.free += 1;
        }
    }

    /// The life of one thread.
    fn work(&self) {
        let mut crew = self.crew();
        loop {
            let now = Instant::now();
            if crew.stopping {
                crew.free -= 1;
                return;
            }
            if crew.jobs.is_empty() {
                crew = self.0.work.wait(crew).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if !crew.may_begin(now) {
                crew = self.watch(crew, now);
                continue;
            }
            let Some(Job { order, work }) = crew.jobs.pop_front() else { continue };
            let number = crew.begin(order);
            crew.free -= 1;
            self.call_somebody(&mut crew);
            drop(crew);
            let ended = Ended { callers: self, number };
            CALLER.set(Some(number));
            work();
            drop(ended);
            crew = self.crew();
        }
    }

    /// Waits until the oldest call becomes slow or hangs; one thread does, the others sleep.
    fn watch<'a>(&'a self, mut crew: MutexGuard<'a, Crew>, now: Instant) -> MutexGuard<'a, Crew> {
        match crew.next_change() {
            Some(at) if !crew.watched => {
                crew.watched = true;
                let waited = self.0.work.wait_timeout(crew, at.saturating_duration_since(now));
                let (mut crew, _) = waited.unwrap_or_else(PoisonError::into_inner);
                crew.watched = false;
                crew
            }
            Some(_) | None => self.0.work.wait(crew).unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Makes one call into the module, and measures it.
    pub(super) fn call<T>(&self, call: impl FnOnce() -> T) -> T {
        // The thread that loads and finalises the module is no caller: nobody waits behind it.
        let Some(number) = CALLER.get() else { return call() };
        let mut crew = self.crew();
        while !crew.has_permit(number) {
            if crew.may_begin(Instant::now()) {
                crew.set_permit(number, true);
                break;
            }
            let wait = crew.next_change().map_or(HANG, |at| at.saturating_duration_since(Instant::now()));
            let waited = self.0.room.wait_timeout(crew, wait.max(Duration::from_millis(1)));
            crew = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let since = Instant::now();
        crew.set_since(number, Some(since));
        drop(crew);
        let answer = call();
        let took = since.elapsed();
        let mut crew = self.crew();
        crew.set_since(number, None);
        if took >= HANG {
            // Somebody else has its permit.
            crew.set_permit(number, false);
        }
        if crew.pace.learn(took) {
            self.call_somebody(&mut crew);
        }
        answer
    }

    /// Does something that is no call and may take long: without a permit meanwhile.
    pub(super) fn aside<T>(&self, work: impl FnOnce() -> T) -> T {
        if let Some(number) = CALLER.get() {
            let mut crew = self.crew();
            crew.set_permit(number, false);
            self.call_somebody(&mut crew);
            self.0.room.notify_all();
        }
        work()
    }

    /// Begins no further job, and waits for the orders that were begun.
    pub(super) fn finish(&self) {
        let mut crew = self.crew();
        crew.stopping = true;
        crew.jobs.clear();
        self.0.work.notify_all();
        while crew.busy.values().any(|busy| busy.order) {
            crew = self.0.room.wait(crew).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn crew(&self) -> MutexGuard<'_, Crew> {
        self.0.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a job, also one that panicked.
struct Ended<'a> {
    callers: &'a Callers,
    number: u64,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        CALLER.set(None);
        let mut crew = self.callers.crew();
        crew.busy.remove(&self.number);
        if thread::panicking() {
            // This thread is about to end; what waits needs another one.
            crew.threads -= 1;
            self.callers.call_somebody(&mut crew);
        } else {
            crew.free += 1;
        }
        self.callers.0.room.notify_all();
    }
}

impl Crew {
    fn begin(&mut self, order: bool) -> u64 {
        self.next += 1;
        self.busy.insert(self.next, Busy { order, permit: true, since: None });
        self.next
    }

    /// Whether one more may make calls. Finds out here that a module is slow: by a call that
    /// is not back yet.
    fn may_begin(&mut self, now: Instant) -> bool {
        let age = |busy: &Busy| busy.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if self.busy.values().any(|busy| age(busy) >= SLOW) {
            self.pace = Pace::Parallel { quick: 0 };
        }
        let counted = self.busy.values().filter(|busy| busy.permit && age(busy) < HANG).count();
        counted < self.pace.calls(self.calls_max)
    }

    /// When that may change although no job ends.
    fn next_change(&self) -> Option<Instant> {
        let now = Instant::now();
        let bound = match self.pace {
            Pace::Sequential => SLOW,
            Pace::Parallel { .. } => HANG,
        };
        // A job between two calls begins the next one in a moment.
        let counted = self.busy.values().filter(|busy| busy.permit);
        counted.map(|busy| busy.since.unwrap_or(now) + bound).min()
    }

    fn has_permit(&self, number: u64) -> bool {
        self.busy.get(&number).is_none_or(|busy| busy.permit)
    }

    fn set_permit(&mut self, number: u64, permit: bool) {
        if let Some(busy) = self.busy.get_mut(&number) {
            busy.permit = permit;
        }
    }

    fn set_since(&mut self, number: u64, since: Option<Instant>) {
        if let Some(busy) = self.busy.get_mut(&number) {
            busy.since = since;
        }
    }
}

impl Pace {
    fn calls(self, calls_max: usize) -> usize {
        match self {
            Pace::Sequential => 1,
            Pace::Parallel { .. } => calls_max,
        }
    }

    /// Takes in how long a call took; true when more calls may be made than before.
    fn learn(&mut self, took: Duration) -> bool {
        let before = *self;
        *self = match before {
            _ if took >= SLOW => Pace::Parallel { quick: 0 },
            Pace::Parallel { quick } if took < SLOW / 2 && quick + 1 >= QUICK_CALLS => Pace::Sequential,
            Pace::Parallel { quick } if took < SLOW / 2 => Pace::Parallel { quick: quick + 1 },
            Pace::Parallel { .. } => Pace::Parallel { quick: 0 },
            Pace::Sequential => Pace::Sequential,
        };
        before == Pace::Sequential && *self != Pace::Sequential
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    /// Has `count` jobs make one call each, which takes `time`; returns how many calls were
    /// in flight at most, and how long all of them took.
    fn make(callers: &Callers, count: usize, time: Duration) -> (usize, Duration) {
        let (in_flight, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (done, all) = mpsc::channel();
        let began = Instant::now();
        for _ in 0..count {
            let (callers, in_flight, most, done) =
                (callers.clone(), Arc::clone(&in_flight), Arc::clone(&most), done.clone());
            callers.clone().order(move || {
                callers.call(|| {
                    most.fetch_max(in_flight.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::sleep(time);
                    in_flight.fetch_sub(1, Ordering::SeqCst);
                });
                let _ = done.send(());
            });
        }
        for _ in 0..count {
            all.recv_timeout(Duration::from_secs(60)).expect("every job is done");
        }
        (most.load(Ordering::SeqCst), began.elapsed())
    }

    #[test]
    fn a_slow_module_is_never_asked_more_than_the_number_allows() {
        let callers = Callers::new(4);
        assert_eq!(make(&callers, 24, Duration::from_millis(30)).0, 4);
    }

    #[test]
    fn a_quick_module_is_asked_one_call_at_a_time_and_a_slow_one_many() {
        let callers = Callers::new(64);
        assert_eq!(make(&callers, 50, Duration::ZERO).0, 1, "a call of no time is slow only on a machine that stands");
        let (most, took) = make(&callers, 64, Duration::from_millis(100));
        assert!(most > 32, "{most} calls in flight");
        assert!(took < Duration::from_secs(3), "in a row they take 6.4 s, these took {took:?}");
    }

    #[test]
    fn a_module_that_was_slow_once_is_quick_again_after_many_quick_calls() {
        let mut pace = Pace::Sequential;
        assert!(pace.learn(SLOW));
        for _ in 1..QUICK_CALLS {
            pace.learn(Duration::ZERO);
        }
        assert_eq!(pace.calls(64), 64);
        pace.learn(Duration::ZERO);
        assert_eq!(pace, Pace::Sequential);
        pace.learn(SLOW);
        pace.learn(Duration::ZERO);
        assert!(!pace.learn(SLOW * 2), "nothing new");
        assert_eq!(pace, Pace::Parallel { quick: 0 });
    }

    #[test]
    fn a_call_that_hangs_gives_its_permit_up_and_is_waited_for_at_the_end() {
        let callers = Callers::new(1);
        let (release, released) = mpsc::channel::<()>();
        let (done, hung_is_done) = mpsc::channel();
        let inside = callers.clone();
        callers.order(move || {
            inside.call(|| released.recv()).expect("it is released");
            inside.call(|| ());
            let _ = done.send(());
        });
        let (most, took) = make(&callers, 5, Duration::ZERO);
        assert!(most == 1 && took < Duration::from_secs(10), "{took:?}");
        assert!(hung_is_done.try_recv().is_err());
        release.send(()).expect("it waits for this");
        callers.finish();
        hung_is_done.recv().expect("orders are waited for");
    }

    #[test]
    fn what_is_done_aside_keeps_nobody_waiting() {
        let callers = Callers::new(1);
        let (inside, done) = (callers.clone(), mpsc::channel());
        let sender = done.0;
        callers.order(move || {
            let other = mpsc::channel();
            inside.ask(move || other.0.send(()).expect("it is waited for"));
            inside.aside(|| other.1.recv()).expect("another caller sends it, although one call is allowed");
            inside.call(|| ());
            let _ = sender.send(());
        });
        done.1.recv_timeout(Duration::from_secs(60)).expect("it is done");
    }

    #[test]
    fn a_job_that_panics_costs_its_own_slot_only() {
        let callers = Callers::new(1);
        callers.order(|| panic!("a bug of ours"));
        assert_eq!(make(&callers, 3, Duration::ZERO).0, 1);
        callers.finish();
    }
}
