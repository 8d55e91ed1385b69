//! Several persons at one slot: who goes next, with what, and how people get it wrong.
//!
//! Administrators order that a code be known by several; custodians fetch their shares, type
//! them back, and enter them later. They follow the status like everybody. Now and then one
//! mistypes, takes another's paper or an old one, comes twice, stays away, or ends it all.

use slotwarden_core::command::CommandKind;
use slotwarden_core::person::{PersonId, Roster};
use slotwarden_core::record::Mode;
use slotwarden_core::share::Quorum;
use slotwarden_core::status::{CollectionStatus, KnowledgeStatus, SlotStatus, StateName, WaitKind};

use crate::SLOTS;
use crate::code::Code;
use crate::people::{Knowledge, People, Wish};
use crate::shares::Share;
use crate::strike::{ADMINISTRATOR, OPERATOR, SECOND_ADMINISTRATOR};
use crate::together::Aim;

/// Everybody: the numbers of the persons are below this.
pub(crate) const PERSONS: u8 = 10;
/// The person who may approve.
pub(crate) const APPROVER: PersonId = PersonId(4);
/// Who may hold a share: five custodians and both administrators.
pub(crate) const HOLDERS: [PersonId; 7] =
    [PersonId(5), PersonId(6), PersonId(7), PersonId(8), PersonId(9), ADMINISTRATOR, SECOND_ADMINISTRATOR];

impl People {
    /// What several persons want for a slot in this state. The outer `None`: what one person
    /// would; the inner one: they leave it alone.
    pub(crate) fn wish_together(
        &self,
        slot: u8,
        status: &SlotStatus,
        random: &mut fastrand::Rng,
    ) -> Option<Option<Wish>> {
        let knowledge = &self.slots[usize::from(slot)];
        let dice = random.u8(..100);
        if let Some(collection) = &status.collection {
            return match dice {
                0..2 => Some(Some(reset(random))),
                // Somebody orders something else meanwhile.
                2..5 => None,
                5..9 => Some(None),
                9..11 => Some(self.change(slot, status, random)),
                _ => Some(self.go_on(slot, status, collection, random)),
            };
        }
        let (enters, changes) = match status.state {
            StateName::Locked | StateName::Collecting => (62, 18),
            StateName::Doubtful => (66, 4),
            StateName::Active => (0, 36),
            StateName::CoolingDown | StateName::Blocked => (10, 5),
            StateName::Absent | StateName::Uninitialised | StateName::Activating | StateName::Changing => (0, 3),
        };
        let asked = status.waits_for.map(|waits| waits.kind);
        if dice < enters && matches!(asked, Some(WaitKind::Shares | WaitKind::Parts)) {
            let wish = knowledge.present(asked == Some(WaitKind::Shares), &[], random)?;
            return Some(Some(self.with_a_mistake(slot, wish, random)));
        }
        match random.u8(..100) {
            dice if dice < changes => Some(self.change(slot, status, random)),
            97 => Some(Some(reset(random))),
            98 => Some(Some(Wish { who: Some(holder(random)), ..Wish::plain(CommandKind::Share) })),
            _ => None,
        }
    }

    /// Somebody orders another kind of code, or the same kind anew.
    fn change(&self, slot: u8, status: &SlotStatus, random: &mut fastrand::Rng) -> Option<Wish> {
        let knowledge = &self.slots[usize::from(slot)];
        let is_shared = status.knowledge != KnowledgeStatus::Whole;
        let who = match random.u8(..100) {
            0..60 => ADMINISTRATOR,
            60..95 => SECOND_ADMINISTRATOR,
            _ => anybody(random),
        };
        let mut wish = Wish { who: Some(who), ..Wish::plain(CommandKind::Mode) };
        match random.u8(..100) {
            0..55 => {
                wish.kind = CommandKind::Split;
                wish.split = Some(quorum(random));
            }
            55..75 => wish.parts = Some(roster_of_parts(random)),
            75..85 if is_shared => wish.to = Mode::Generated,
            85..95 if is_shared => wish.new = Code::manual(random),
            _ => wish.kind = CommandKind::ChangeCode,
        }
        if wish.kind == CommandKind::ChangeCode && status.mode == Mode::Manual && !is_shared {
            wish.new = Code::manual(random);
        }
        if !wish.new.is_none() && knowledge.has_much_in_mind() {
            return None;
        }
        let odd = random.u8(..100) < 3;
        wish.typed = match (status.mode, is_shared) {
            (Mode::Generated, _) if !odd => Code::NONE,
            (Mode::Manual, true) if random.bool() => Code::NONE,
            (Mode::Manual, true) => {
                let asked = status.waits_for.is_some_and(|waits| waits.kind == WaitKind::Shares);
                let entered = knowledge.present(asked, &[], random)?;
                wish.who = entered.who;
                entered.typed
            }
            _ => knowledge.candidate(),
        };
        wish.confirmed = knowledge.is_sure(status, random);
        Some(wish)
    }

    /// The collection goes on with whoever is wanted next.
    fn go_on(
        &self,
        slot: u8,
        status: &SlotStatus,
        collection: &CollectionStatus,
        random: &mut fastrand::Rng,
    ) -> Option<Wish> {
        let knowledge = &self.slots[usize::from(slot)];
        let done: Vec<PersonId> = collection.persons.iter().filter(|one| one.done).map(|one| one.who).collect();
        let mut wish = match collection.progress.kind {
            WaitKind::Shares | WaitKind::Parts => {
                // Where nobody has another one they began with what is not asked for.
                let present = knowledge.present(collection.progress.kind == WaitKind::Shares, &done, random);
                present.unwrap_or(Wish { who: Some(ADMINISTRATOR), ..Wish::plain(CommandKind::Reset) })
            }
            WaitKind::NewParts => knowledge.new_part(&done, random)?,
            WaitKind::Custodians => knowledge.hand_out(collection, random)?,
            WaitKind::Code | WaitKind::Cards | WaitKind::Person => return None,
        };
        wish.confirmed = knowledge.is_sure(status, random);
        Some(self.with_a_mistake(slot, wish, random))
    }

    /// One of seven gets something wrong.
    fn with_a_mistake(&self, slot: u8, wish: Wish, random: &mut fastrand::Rng) -> Wish {
        let knowledge = &self.slots[usize::from(slot)];
        if wish.kind == CommandKind::Reset {
            return wish;
        }
        let is_share = Share::read(wish.typed.bytes()).is_some();
        let typed = match (random.u8(..100), is_share) {
            (0..3, true) => substituted(&wish.typed, random),
            (3..5, true) => swapped(&wish.typed, random),
            (5..7, true) => dropped(&wish.typed, random),
            (7..8, true) => forged(&wish.typed, random),
            (8..9, true) => Code::manual(random),
            (9..11, true) => match knowledge.together.old.get(random.usize(..8)) {
                Some(paper) => return Wish { typed: paper.text, who: Some(paper.who), ..wish },
                None => return wish,
            },
            (11..13, _) => {
                // A paper of another slot lies on top.
                let other = &self.slots[random.usize(..SLOTS)].together;
                match other.sets.first().and_then(|held| held.papers.first()) {
                    Some(paper) => return Wish { typed: paper.text, who: Some(paper.who), ..wish },
                    None => return wish,
                }
            }
            (13..15, _) => return Wish { who: Some(holder(random)), ..wish },
            (15..16, false) if !wish.typed.is_none() => Code::manual(random),
            (16..17, false) if !wish.typed.is_none() => Code::new(b"M-short"),
            (17..18, false) if !wish.typed.is_none() => Code::new(&[b'M'; 60]),
            _ => return wish,
        };
        Wish { typed, ..wish }
    }
}

impl Knowledge {
    /// A share or a part of a code that could be in force, by somebody who did not enter yet.
    pub(crate) fn present(&self, is_share: bool, done: &[PersonId], random: &mut fastrand::Rng) -> Option<Wish> {
        let together = &self.together;
        let again = random.u8(..100) < 5;
        let (who, typed) = if is_share {
            let held = together.sets.get(together.turn % together.sets.len().max(1))?;
            let wanted: Vec<_> = held.papers.iter().filter(|paper| again || !done.contains(&paper.who)).collect();
            let paper = wanted.get(random.usize(..wanted.len().max(1)))?;
            (paper.who, paper.text)
        } else {
            let held = together.parts_to_try()?;
            if !together.gathering.as_ref().is_none_or(|gathering| held.has_all(&gathering.present)) {
                // Somebody entered a part of another code.
                return None;
            }
            let persons = held.roster.persons().iter().zip(&held.parts);
            let wanted: Vec<_> = persons.filter(|(who, _)| again || !done.contains(who)).collect();
            let (who, part) = wanted.get(random.usize(..wanted.len().max(1)))?;
            (**who, **part)
        };
        let may_activate = [ADMINISTRATOR, SECOND_ADMINISTRATOR].contains(&who);
        let kind = if may_activate && random.bool() { CommandKind::Activate } else { CommandKind::Share };
        Some(Wish { who: Some(who), typed, ..Wish::plain(kind) })
    }

    /// A part that its person makes up.
    fn new_part(&self, done: &[PersonId], random: &mut fastrand::Rng) -> Option<Wish> {
        let Some(Aim::Parts(roster)) = self.together.gathering.as_ref().map(|gathering| gathering.aim) else {
            return None;
        };
        let again = random.u8(..100) < 4;
        let wanted: Vec<_> = roster.persons().iter().filter(|who| again || !done.contains(who)).collect();
        let who = **wanted.get(random.usize(..wanted.len().max(1)))?;
        Some(Wish { who: Some(who), typed: Code::part(random), ..Wish::plain(CommandKind::Share) })
    }

    /// Somebody fetches their share, or types it back.
    fn hand_out(&self, collection: &CollectionStatus, random: &mut fastrand::Rng) -> Option<Wish> {
        let Some(Aim::Shares(named)) = self.together.gathering.as_ref().map(|gathering| gathering.aim) else {
            return None;
        };
        let has_fetched = |who: &PersonId| collection.persons.iter().any(|one| one.who == *who);
        let named = if named.persons().is_empty() { &HOLDERS[..] } else { named.persons() };
        let coming: Vec<PersonId> = named.iter().filter(|who| !has_fetched(who)).copied().collect();
        let all_fetched = collection.persons.len() >= usize::from(collection.progress.need);
        let fetch = |who| Wish { who: Some(who), ..Wish::plain(CommandKind::Share) };
        let dice = random.u8(..100);
        if dice < 4 {
            return Some(fetch(anybody(random)));
        }
        if (dice < 45 || collection.persons.is_empty()) && !all_fetched && !coming.is_empty() {
            return Some(fetch(coming[random.usize(..coming.len())]));
        }
        let again = random.u8(..100) < 4;
        let waiting: Vec<_> = collection.persons.iter().filter(|one| again || !one.done).collect();
        let Some(one) = waiting.get(random.usize(..waiting.len().max(1))) else {
            return coming.first().map(|who| fetch(*who));
        };
        // Who lost their share before it was typed back can only wait for a reset.
        let text = self.together.sets.first().and_then(|held| held.of(one.who))?.text;
        Some(Wish { typed: text, ..fetch(one.who) })
    }
}

fn anybody(random: &mut fastrand::Rng) -> PersonId {
    PersonId(random.u8(..PERSONS))
}

fn holder(random: &mut fastrand::Rng) -> PersonId {
    HOLDERS[random.usize(..HOLDERS.len())]
}

fn reset(random: &mut fastrand::Rng) -> Wish {
    Wish { who: Some(anybody(random)), ..Wish::plain(CommandKind::Reset) }
}

/// So many different holders, in any order.
fn some(count: usize, random: &mut fastrand::Rng) -> Vec<PersonId> {
    let mut holders = HOLDERS;
    random.shuffle(&mut holders);
    holders[..count.min(HOLDERS.len())].to_vec()
}

/// Any m of n, for nobody in particular or for named persons; some cannot be served.
fn quorum(random: &mut fastrand::Rng) -> (Quorum, Roster) {
    let n = match random.u8(..100) {
        0..40 => 2,
        40..70 => 3,
        70..85 => 4,
        85..95 => 5,
        95..98 => 7,
        _ => 8,
    };
    let m = random.u8(2..=n);
    let mut named = match random.u8(..100) {
        0..50 => Vec::new(),
        50..96 => some(usize::from(n), random),
        _ => some(usize::from(n) - 1, random),
    };
    if random.u8(..100) < 2 {
        named.push(OPERATOR);
    }
    let quorum = Quorum::new(m, n).expect("2 ≤ m ≤ n ≤ 8");
    (quorum, Roster::new(&named).expect("a few different persons"))
}

fn roster_of_parts(random: &mut fastrand::Rng) -> Roster {
    let mut named = match random.u8(..100) {
        0..60 => some(2, random),
        60..95 => some(3, random),
        _ => some(1, random),
    };
    if random.u8(..100) < 3 {
        named.push(OPERATOR);
    }
    Roster::new(&named).expect("a few different persons")
}

/// Another character in one place.
fn substituted(text: &Code, random: &mut fastrand::Rng) -> Code {
    let mut letters = text.bytes().to_vec();
    let place = random.usize(..letters.len());
    letters[place] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7lbio1 "[random.usize(..37)];
    Code::new(&letters)
}

/// Two neighbours in the wrong order.
fn swapped(text: &Code, random: &mut fastrand::Rng) -> Code {
    let mut letters = text.bytes().to_vec();
    let place = random.usize(1..letters.len());
    letters.swap(place - 1, place);
    Code::new(&letters)
}

/// One character left out.
fn dropped(text: &Code, random: &mut fastrand::Rng) -> Code {
    let mut letters = text.bytes().to_vec();
    letters.remove(random.usize(..letters.len()));
    Code::new(&letters)
}

/// No typing error, but never handed out.
fn forged(text: &Code, random: &mut fastrand::Rng) -> Code {
    let Some(mut share) = Share::read(text.bytes()) else { return *text };
    match random.u8(..4) {
        0 => share.x = share.x % share.n + 1,
        1 => share.m = if share.m == 2 { 3.min(share.n) } else { 2 },
        2 => share.generation ^= 1,
        _ => share.y[random.usize(..16)] ^= 1 << random.u8(..8),
    }
    share.write()
}
