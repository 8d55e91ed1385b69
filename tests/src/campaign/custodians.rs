//! The kill campaign of codes that custodians know: a slot goes from shares to a generated
//! code and back, and from one set to the next, while its daemon is killed.
//!
//! Each person is a user of their own. They remember what they saw and nothing else: the
//! shares that were shown to them. After each kill either shares of one set (the old one or
//! the new one) or the stored code opens the slot; a set of which one share was never typed
//! back never rules.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::{Signal, kill_process};
use rustix::thread::set_thread_res_uid;
use slotwarden::client::Client;
use slotwarden::problem::{Own, Problem};
use slotwarden::status_json::SlotView;
use slotwarden::wire::{Answered, Ask, Order, SecretRole};
use slotwarden_core::audit::AuditEvent;
use slotwarden_core::fault::Refusal;
use slotwarden_core::limits::{BACK_OFF_FIRST_MS, GENERATED_CHARS};
use slotwarden_core::record::Mode;
use zeroize::Zeroizing;

use super::SEED;
use super::appliance::{Appliance, PATIENCE, is_over};
use crate::modules::{Bench, Kind, PIN};

/// Any two of three open the slot.
const M: u8 = 2;
const N: u8 = 3;
/// User id of the first custodian; the others follow. Nobody of the machine has these.
const FIRST_UID: u32 = 54_500;
/// Rounds of looking what a slot wants until it is open.
const LOOKS_MAX: u32 = 8;
const WATCH_PAUSE: Duration = Duration::from_micros(100);

/// The shares of one set by their holders' places; `None`: not shown, as far as they know.
type Shares = [Option<String>; N as usize];

/// What opens the slot.
#[derive(Clone, Debug)]
enum Knows {
    Service,
    Custodians(Shares),
}

/// What people did in one round, up to the kill.
#[derive(Debug, Default)]
struct Did {
    /// The new shares that were shown.
    shown: Shares,
    /// Whether the last order was answered *done*.
    done: bool,
    /// What ended it.
    problem: Option<Problem>,
}

/// What the campaign counted.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Kills.
    pub kills: u32,
    /// Kills before the last order was answered.
    pub hits: u32,
    /// Interrupted rounds after which the old shares opened the slot.
    pub old_shares: u32,
    /// Interrupted rounds after which the new shares did.
    pub new_shares: u32,
    /// Interrupted rounds after which the stored code did.
    pub stored: u32,
    /// Rounds that left *old or new*.
    pub doubtful: u32,
    /// Logins that the token refused.
    pub refused: u32,
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { kills, hits, old_shares, new_shares, stored, doubtful, refused } = self;
        write!(
            out,
            "{kills} kills, {hits} of them before the answer; after these the old shares opened {old_shares} times, the \
             new ones {new_shares}, the stored code {stored}; old-or-new {doubtful}, refused logins {refused}"
        )
    }
}

struct Campaign {
    kind: Kind,
    seed: u64,
    round: u64,
    appliance: Appliance,
    knows: Knows,
    /// How long the steps of a round take when nothing is killed: to generated, to shares, to
    /// other shares.
    take: [Duration; 3],
    tally: Tally,
}

/// Kills the daemon `kills` times and checks after each who can open the slot.
#[must_use]
pub fn run(kind: Kind, kills: u32) -> Tally {
    let seed = std::env::var("SLOTWARDEN_SEED").ok().map(|text| text.parse().expect("a seed is a number"));
    let mut appliance = Appliance::new(Bench::new(kind, 1), 1);
    appliance.stage.more = "[[person]]\nname = \"root\"\nuids = [0]\nroles = [\"administrator\", \"auditor\"]\n".into();
    for place in 0..u32::from(N) {
        let person =
            format!("[[person]]\nname = \"p{place}\"\nuids = [{}]\nroles = [\"custodian\"]\n", FIRST_UID + place);
        appliance.stage.more.push_str(&person);
    }
    appliance.stage.open_to_all();
    appliance.stage.configure();
    appliance.start();
    let _ = appliance.settled(None);
    let (seed, tally) = (seed.unwrap_or(SEED), Tally::default());
    let knows = Knows::Custodians(Shares::default());
    let mut campaign = Campaign { kind, seed, round: 0, appliance, knows, take: [Duration::ZERO; 3], tally };
    campaign.measure();
    while campaign.tally.kills < kills {
        campaign.round += 1;
        campaign.one_round();
    }
    campaign.appliance.stop();
    let tally = campaign.tally.clone();
    println!("custodians on {kind:?}, seed {seed}: {tally}");
    tally
}

/// What a round leads to: its place in [`Campaign::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Generated = 0,
    Shares = 1,
    OtherShares = 2,
}

impl Campaign {
    /// Goes every way without a kill: from the code of the token's maker to shares, and on.
    fn measure(&mut self) {
        let mut shown = Shares::default();
        let split = Order::Split {
            slot: self.slot(),
            m: M,
            n: N,
            custodians: Vec::new(),
            confirmed: false,
            accept: Vec::new(),
        };
        order_as(&self.appliance.client, 0, split, Some(PIN)).expect("the code is right");
        hand_out(&self.appliance.client, &self.slot(), &mut shown).expect("nothing is in the way");
        self.knows = Knows::Custodians(shown);
        for way in [Way::Generated, Way::Shares, Way::OtherShares] {
            let began = Instant::now();
            let did = self.go(way, || ());
            assert!(did.done, "{way:?}: {:?}", did.problem);
            self.take[way as usize] = began.elapsed();
            self.knows = Campaign::after(way, &did);
        }
        println!("{:?}: to generated, to shares, to other shares take {:?}", self.kind, self.take);
    }

    fn slot(&self) -> String {
        self.appliance.names[0].clone()
    }

    fn after(way: Way, did: &Did) -> Knows {
        match way {
            Way::Generated => Knows::Service,
            Way::Shares | Way::OtherShares => Knows::Custodians(did.shown.clone()),
        }
    }

    /// People do all that this way takes, until it is done or they are not answered any more.
    fn go(&self, way: Way, meanwhile: impl FnOnce()) -> Did {
        let (client, slot) = (&self.appliance.client, self.slot());
        let order = match way {
            Way::Generated => Order::Mode {
                slot: slot.clone(),
                to: Mode::Generated,
                parts: Vec::new(),
                confirmed: false,
                accept: Vec::new(),
            },
            Way::Shares | Way::OtherShares => Order::Split {
                slot: slot.clone(),
                m: M,
                n: N,
                custodians: Vec::new(),
                confirmed: false,
                accept: Vec::new(),
            },
        };
        let present = match &self.knows {
            Knows::Service => Vec::new(),
            Knows::Custodians(shares) => holders(shares, usize::from(M)),
        };
        thread::scope(|scope| {
            let people = scope.spawn(move || {
                let mut did = Did::default();
                let ended = (|| -> Result<(), Problem> {
                    let mut done = matches!(order_as(client, 0, order, None)?.0, Answered::Done);
                    for (who, share) in &present {
                        done = enter(client, &slot, *who, share)?;
                    }
                    if way != Way::Generated {
                        done = hand_out(client, &slot, &mut did.shown)?;
                    }
                    did.done = done;
                    Ok(())
                })();
                did.problem = ended.err();
                did
            });
            meanwhile();
            people.join().expect("people do not panic")
        })
    }

    fn one_round(&mut self) {
        let mut rng = Rng::with_seed(self.seed ^ self.round.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let way = match self.knows {
            Knows::Service => Way::Shares,
            Knows::Custodians(_) if rng.bool() => Way::Generated,
            Knows::Custodians(_) => Way::OtherShares,
        };
        let first = self.appliance.audit_end() + 1;
        let worker = self.appliance.worker().expect("it serves");
        let (daemon, takes) = (self.appliance.daemon(), self.take[way as usize]);
        let (at_the_call, fraction) = (rng.u8(0..10) < 6, rng.f64());
        let did = self.go(way, || {
            let until = Instant::now() + 2 * takes;
            if at_the_call {
                // The part in which the token changes is the shortest.
                while !self.appliance.is_setting_a_pin() && Instant::now() < until {
                    thread::sleep(WATCH_PAUSE);
                }
                thread::sleep(takes.mul_f64(0.15 * fraction));
            } else {
                thread::sleep(takes.mul_f64(1.1 * fraction));
            }
            kill_process(daemon, Signal::KILL).expect("it runs until now");
        });
        self.appliance.kill();
        self.tally.kills += 1;
        self.tally.hits += u32::from(!did.done);
        if let Some(problem) = &did.problem {
            let cut_short = [Own::AnswerLost, Own::Unreachable].map(|own| Problem::from(own).number);
            assert!(cut_short.contains(&problem.number), "round {}: {way:?}: {problem:?}", self.round);
        }
        self.appliance.start();
        let again = rng.u8(0..4) == 0;
        if again {
            thread::sleep(Duration::from_millis(rng.u64(0..300)));
            self.appliance.kill();
            self.appliance.start();
        }
        let _ = self.appliance.settled(None);
        assert!(is_over(worker), "two workers serve");
        self.open(way, &did);
        let records = self.appliance.audit_from(first);
        let refused = records.iter().filter(|record| record.event == AuditEvent::AttemptRefused).count();
        // Another kill may come between a refused login and what follows from it.
        assert!(
            refused <= 1 + usize::from(again),
            "round {}: {way:?}: {refused} refused logins: {records:#?}",
            self.round
        );
        self.tally.refused += u32::try_from(refused).expect("at most two");
        let pin = self.appliance.handed_over(0).expect("it is active");
        assert_eq!(pin.len(), GENERATED_CHARS, "derived and generated PINs are as long");
        let seen = self.appliance.second_look(&[pin]);
        assert!(seen[0].present && seen[0].opens && seen[0].flags.is_empty(), "round {}: {seen:?}", self.round);
    }

    /// Somebody opens the slot; from then on it is known who can.
    fn open(&mut self, way: Way, did: &Did) {
        let new = Campaign::after(way, did);
        let mut opened = None;
        let mut told = Vec::new();
        for _ in 0..LOOKS_MAX {
            let view = self.cooled_down();
            if view.is_active() {
                let knows = opened.unwrap_or(Knows::Service);
                assert_eq!(view.mode == "generated", matches!(knows, Knows::Service), "{told:?}: {view:?}");
                return self.judge(way, did, knows);
            }
            self.tally.doubtful += u32::from(told.is_empty() && view.doubt.as_deref() == Some("old-or-new"));
            told.push(format!("{}, {}, {:?}, {:?}", view.mode, view.state, view.doubt, view.waits_for));
            if view.mode == "generated" {
                let activate = Order::Activate { slot: self.slot(), confirmed: true };
                match order_as(&self.appliance.client, 0, activate, None) {
                    Ok(_) => {}
                    Err(problem) => assert!(problem.is(Refusal::ManualCodeRules), "{told:?}: {problem:?}"),
                }
            } else {
                opened = self.try_sets(&new, &mut told);
            }
        }
        panic!("round {}: {way:?}: nobody can open the slot: {told:#?}", self.round);
    }

    /// The slot once it can be tried: a confirmed try that was refused costs its first wait, and
    /// another one after it the second, twice as long.
    fn cooled_down(&self) -> SlotView {
        let until = Instant::now() + Duration::from_millis(2 * BACK_OFF_FIRST_MS) + PATIENCE;
        loop {
            let view = self.appliance.status().slots.swap_remove(0);
            if view.state != "cooling-down" {
                return view;
            }
            assert!(Instant::now() < until, "{view:?}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The custodians try the new set, then the old one; the one that opened the slot.
    fn try_sets(&self, new: &Knows, told: &mut Vec<String>) -> Option<Knows> {
        for candidate in [new, &self.knows] {
            let Knows::Custodians(shares) = candidate else { continue };
            match self.enter_all(shares) {
                Ok(()) => return Some(candidate.clone()),
                Err(problem) => {
                    let not_this_one =
                        [Refusal::CodeWrong, Refusal::ShareOutdated, Refusal::ShareForeign, Refusal::SharesMissing];
                    let expected = not_this_one.iter().any(|refusal| problem.is(*refusal));
                    assert!(expected, "round {}: {told:#?}: {problem:?}", self.round);
                    told.push(problem.name);
                }
            }
        }
        None
    }

    /// Whoever opened it is somebody who may have the code after this round.
    fn judge(&mut self, way: Way, did: &Did, knows: Knows) {
        let new = match (&knows, way) {
            (Knows::Service, _) => way == Way::Generated,
            (Knows::Custodians(shares), Way::Shares | Way::OtherShares) => *shares == did.shown,
            (Knows::Custodians(_), Way::Generated) => false,
        };
        assert!(new || !did.done, "round {}: {way:?} was answered done and is not", self.round);
        if !did.done {
            match (&knows, new) {
                (Knows::Service, _) => self.tally.stored += 1,
                (Knows::Custodians(_), true) => self.tally.new_shares += 1,
                (Knows::Custodians(_), false) => self.tally.old_shares += 1,
            }
        }
        self.knows = knows;
    }

    /// M custodians of a set enter what they have.
    fn enter_all(&self, shares: &Shares) -> Result<(), Problem> {
        let holders = holders(shares, usize::from(M));
        if holders.len() < usize::from(M) {
            return Err(Refusal::SharesMissing.into());
        }
        for (who, share) in holders {
            enter(&self.appliance.client, &self.slot(), who, &share)?;
        }
        Ok(())
    }
}

/// Each of the custodians fetches a share and types it back; true: the code is changed.
fn hand_out(client: &Client, slot: &str, shown: &mut Shares) -> Result<bool, Problem> {
    for (who, place) in (0..).zip(&mut *shown) {
        let fetch = Order::Share { slot: slot.to_owned(), confirmed: false };
        *place = order_as(client, FIRST_UID + who, fetch, None)?.1;
        assert!(place.is_some(), "a share was to be shown");
    }
    let mut done = false;
    for (who, share) in (0..).zip(shown.iter().flatten()) {
        done = enter(client, slot, who, share)?;
    }
    Ok(done)
}

/// A custodian enters a share; true: that was the last thing wanted.
fn enter(client: &Client, slot: &str, who: u32, share: &str) -> Result<bool, Problem> {
    let order = |confirmed| Order::Share { slot: slot.to_owned(), confirmed };
    let answered = match order_as(client, FIRST_UID + who, order(false), Some(share)) {
        Err(problem) if problem.is(Refusal::LastTryUnconfirmed) => {
            order_as(client, FIRST_UID + who, order(true), Some(share))
        }
        answered => answered,
    };
    Ok(matches!(answered?.0, Answered::Done))
}

/// The first so many who have a share, with it.
fn holders(shares: &Shares, count: usize) -> Vec<(u32, String)> {
    let have = (0..).zip(shares).filter_map(|(who, share)| Some((who, share.clone()?)));
    have.take(count).collect()
}

/// An order of the user with this id: a thread of its own becomes that user, as the kernel
/// tells the daemon when the thread connects.
fn order_as(
    client: &Client,
    uid: u32,
    order: Order,
    code: Option<&str>,
) -> Result<(Answered, Option<String>), Problem> {
    thread::scope(|scope| {
        let person = scope.spawn(move || {
            let uid = rustix::process::Uid::from_raw(uid);
            set_thread_res_uid(uid, uid, uid).expect("these tests run as root");
            let code = code.map(|code| (SecretRole::Code, Zeroizing::new(code.as_bytes().to_vec())));
            let secrets: Vec<_> = code.into_iter().collect();
            let answered = client.ask_for_share(Ask::Order(order), &secrets).map_err(|refused| *refused.problem);
            answered.map(|(answered, share)| {
                (answered, share.map(|share| String::from_utf8(share.to_vec()).expect("shares are text")))
            })
        });
        person.join().expect("a person does not panic")
    })
}
