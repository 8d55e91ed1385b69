//! What several persons know of one code: parts in conjunction, shares of a set.
//!
//! Each person has their own paper: a part, or the text of a share as it was shown to them.
//! Nobody reads the others'. What they could do together is asked for by the model.

use slotwarden_core::command::CommandKind;
use slotwarden_core::person::{PersonId, Roster};
use slotwarden_core::record::Sets;
use slotwarden_core::status::CollectionStatus;

use crate::code::Code;
use crate::shares::{Share, token_pin};

/// Old papers of one slot that lie about.
const PAPERS_MAX: usize = 8;

/// A share and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paper {
    /// The one person who was shown it.
    pub who: PersonId,
    /// Which share of its set.
    pub x: u8,
    /// The text as it was shown.
    pub text: Code,
}

/// The shares of one set, as far as their custodians still have them.
#[derive(Clone, Debug)]
pub struct HeldSet {
    /// The beginning of the set's id.
    pub mark: [u8; 6],
    /// How many are needed.
    pub m: u8,
    /// What is held.
    pub papers: Vec<Paper>,
    /// The token PIN of any m of them, once so many were shown.
    pub pin: Code,
}

/// A code in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldParts {
    /// In which order they are joined.
    pub roster: Roster,
    /// By place in the roster.
    pub parts: Vec<Code>,
}

/// Something that a person entered, and that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// Who.
    pub who: PersonId,
    /// What they typed.
    pub text: Code,
}

/// What a collection is to bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// The slot is opened.
    Open,
    /// A generated code.
    Generated,
    /// A code that one person typed with the order.
    Whole(Code),
    /// A code in parts of these persons.
    Parts(Roster),
    /// Shares for these persons; for nobody in particular: whoever comes.
    Shares(Roster),
}

/// A collection as its people see it.
#[derive(Clone, Debug)]
pub struct Gathering {
    /// Its number, as the status shows it.
    pub attempt: u64,
    /// By which order it began.
    pub kind: CommandKind,
    /// What it is to bring.
    pub aim: Aim,
    /// Shares or parts of the present code.
    pub present: Vec<Entered>,
    /// Parts of the new one.
    pub parts: Vec<Entered>,
}

/// A collection whose last entry was made.
#[derive(Clone, Debug)]
pub struct Completing {
    /// The number of the answer to that entry.
    pub reply: u32,
    /// The collection.
    pub gathering: Gathering,
    /// The token PIN that was entered; [`Code::NONE`]: one person typed it, or nobody.
    pub present: Code,
    /// The new token PIN; [`Code::NONE`]: a generated one, or none.
    pub new: Code,
}

/// What people know together about one slot.
#[derive(Clone, Debug, Default)]
pub struct Together {
    /// Sets, the newest first.
    pub sets: Vec<HeldSet>,
    /// Codes in parts, the newest first.
    pub parts: Vec<HeldParts>,
    /// Shares of sets that do not count any more, if somebody kept them.
    pub old: Vec<Paper>,
    /// Since when nobody went on with the collection under way, milliseconds of the world; and
    /// how far it is.
    pub idle: Option<(u64, CollectionStatus)>,
    /// The collection under way.
    pub gathering: Option<Gathering>,
    /// Collections whose last entry waits for its answer.
    pub completing: Vec<Completing>,
    /// Which set or code in parts they try next.
    pub turn: usize,
}

impl HeldSet {
    /// What this person has of it.
    #[must_use]
    pub fn of(&self, who: PersonId) -> Option<&Paper> {
        self.papers.iter().find(|paper| paper.who == who)
    }
}

impl HeldParts {
    /// The whole code.
    #[must_use]
    pub fn whole(&self) -> Code {
        Code::new(&self.parts.iter().flat_map(|part| part.bytes()).copied().collect::<Vec<_>>())
    }
}

impl HeldParts {
    /// Whether all that was entered is of this code.
    #[must_use]
    pub fn has_all(&self, entered: &[Entered]) -> bool {
        entered.iter().all(|one| {
            let mut parts = self.roster.persons().iter().zip(&self.parts);
            parts.any(|(who, part)| (*who, *part) == (one.who, one.text))
        })
    }
}

impl Gathering {
    /// What was entered, joined in the order of this roster; `None`: not by these persons.
    #[must_use]
    pub fn joined(entered: &[Entered], roster: &Roster) -> Option<HeldParts> {
        let part = |who: &PersonId| entered.iter().find(|entered| entered.who == *who).map(|entered| entered.text);
        let parts: Option<Vec<Code>> = roster.persons().iter().map(part).collect();
        parts.filter(|parts| parts.len() == entered.len()).map(|parts| HeldParts { roster: *roster, parts })
    }
}

impl Together {
    /// A share was shown to a person. False when two quorums of its set disagree.
    pub fn shown(&mut self, who: PersonId, share: &Share, text: Code, sets: &Sets, slot_uid: &[u8; 16]) -> bool {
        for place in (0..self.sets.len()).rev() {
            if !is_stored(self.sets[place].mark, Some(sets)) {
                self.lay_aside(place);
            }
        }
        let Some(set) = &sets.next else { return true };
        if !self.sets.iter().any(|held| held.mark == share.mark) {
            let held = HeldSet { mark: share.mark, m: share.m, papers: Vec::new(), pin: Code::NONE };
            self.sets.insert(0, held);
        }
        let Some(held) = self.sets.iter_mut().find(|held| held.mark == share.mark) else { return true };
        held.papers.push(Paper { who, x: share.x, text });
        let shares: Vec<Share> = held.papers.iter().filter_map(|paper| Share::read(paper.text.bytes())).collect();
        let Some(last) = shares.len().checked_sub(usize::from(held.m)) else { return true };
        let pin = token_pin(&shares[last..], slot_uid, &set.id, usize::from(set.pin_chars));
        let same = held.pin.is_none() || held.pin == pin;
        held.pin = pin;
        same
    }

    /// The code in parts that they try now.
    #[must_use]
    pub fn parts_to_try(&self) -> Option<&HeldParts> {
        self.parts.get(self.turn % self.parts.len().max(1))
    }

    /// The set whose shares give this token PIN.
    #[must_use]
    pub fn set_of(&self, pin: &Code) -> Option<&HeldSet> {
        self.sets.iter().find(|held| held.pin == *pin && !pin.is_none())
    }

    /// Whether they can open a token with this PIN: by all parts of a code, or by as many
    /// shares as it takes of a set that the store still knows.
    #[must_use]
    pub fn can_open(&self, pin: &Code, sets: Option<&Sets>) -> bool {
        self.parts.iter().any(|held| held.whole() == *pin)
            || self
                .set_of(pin)
                .is_some_and(|held| held.papers.len() >= usize::from(held.m) && is_stored(held.mark, sets))
    }

    /// They keep what gives this token PIN, what is being handed out, and what an order that is
    /// not answered yet may bring.
    pub fn keep(&mut self, in_force: Code) {
        let mut pins: Vec<Code> = self.completing.iter().map(|completing| completing.new).collect();
        pins.push(in_force);
        pins.retain(|pin| !pin.is_none());
        self.parts.retain(|held| pins.contains(&held.whole()));
        let handed_out = matches!(self.gathering, Some(Gathering { aim: Aim::Shares(_), .. }));
        for place in (0..self.sets.len()).rev() {
            let held = &self.sets[place];
            let is_kept = pins.contains(&held.pin) || (handed_out && place == 0);
            if !is_kept {
                self.lay_aside(place);
            }
        }
        self.turn = 0;
    }

    /// This token PIN never came into force.
    pub fn forget(&mut self, pin: &Code) {
        if pin.is_none() {
            return;
        }
        self.parts.retain(|held| held.whole() != *pin);
        if let Some(place) = self.sets.iter().position(|held| held.pin == *pin) {
            self.lay_aside(place);
        }
    }

    /// The shares of a set do not count any more; somebody may keep them all the same.
    pub fn lay_aside(&mut self, place: usize) {
        let held = self.sets.remove(place);
        self.old.extend(held.papers);
        self.old.drain(..self.old.len().saturating_sub(PAPERS_MAX));
    }

    /// Every secret that people have on paper.
    pub fn secrets(&self) -> impl Iterator<Item = Code> + '_ {
        let papers = self.sets.iter().flat_map(|held| &held.papers).chain(&self.old).map(|paper| paper.text);
        let parts = self.parts.iter().flat_map(|held| held.parts.iter().copied());
        papers.chain(parts).chain(self.sets.iter().map(|held| held.pin))
    }
}

/// Whether the store knows a set: without it nobody can tell its shares from others.
fn is_stored(mark: [u8; 6], sets: Option<&Sets>) -> bool {
    sets.is_some_and(|sets| sets.current.iter().chain(&sets.next).any(|set| set.set_mark() == mark))
}
