//! Collections as the world sees them: who entered what, and what an entry completed.
//!
//! The status before and after an order tells whether it was taken, whatever is answered
//! later: so the checkers know how many persons stand behind a token PIN (P9), and whether a
//! share was judged as it is (P11), without asking the core how it came to that.

use slotwarden_core::command::{Answer, CommandKind};
use slotwarden_core::effect::SlotId;
use slotwarden_core::fault::Refusal;
use slotwarden_core::record::Knowledge;
use slotwarden_core::safe::SecretId;
use slotwarden_core::share::Quorum;
use slotwarden_core::status::{CollectionStatus, WaitKind};

use crate::Core;
use crate::code::Code;
use crate::people::Wish;
use crate::shares::Share;
use crate::strike::{ADMINISTRATOR, OPERATOR, SECOND_ADMINISTRATOR};
use crate::together::{Aim, Completing, Entered, Gathering};
use crate::world::World;

/// What is known of an entry before the core hears of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Before {
    pub(crate) collection: Option<CollectionStatus>,
    pub(crate) verdict: Option<Verdict>,
}

/// What a text is to the collection it is entered into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A share of the set asked for, of the person who enters it, and not entered yet.
    Good,
    /// Anything else.
    Bad,
    /// As the core sees it: two sets could be meant.
    Open,
}

impl World {
    pub(crate) fn collection(&self, slot: u8) -> Option<CollectionStatus> {
        self.status(slot)?.collection
    }

    /// An order is about to be given.
    pub(crate) fn before(&self, slot: u8, wish: &Wish) -> Before {
        let collection = self.collection(slot);
        let into = collection.as_ref().filter(|open| enters(wish, open));
        let verdict = into.and_then(|collection| self.judge(slot, wish, collection));
        Before { collection, verdict }
    }

    /// What a text is, judged by what was shown to whom.
    fn judge(&self, slot: u8, wish: &Wish, collection: &CollectionStatus) -> Option<Verdict> {
        let sets = self.core.as_ref().and_then(|core| core.sets(SlotId(slot)))?;
        let undecided = self.core.as_ref()?.slot_record(SlotId(slot))?.knowledge_next.is_some();
        let set = match collection.progress.kind {
            WaitKind::Shares => sets.current.as_ref(),
            WaitKind::Custodians => sets.next.as_ref(),
            WaitKind::Code | WaitKind::Parts | WaitKind::NewParts | WaitKind::Cards | WaitKind::Person => {
                return None;
            }
        };
        if undecided && collection.progress.kind == WaitKind::Shares {
            return Some(Verdict::Open);
        }
        let who = wish.who?;
        let plain = |text: &Code| {
            let letters = text.bytes().iter().filter(|letter| !matches!(letter, b'-' | b' '));
            letters.copied().collect::<Vec<_>>()
        };
        let held = &self.people.slots[usize::from(slot)].together.sets;
        let paper = held.iter().find(|held| set.is_some_and(|set| set.set_mark() == held.mark))?.of(who);
        let is_theirs = paper.is_some_and(|paper| plain(&paper.text) == plain(&wish.typed));
        let is_repeated = collection.persons.iter().any(|one| one.who == who && one.done);
        Some(if is_theirs && !is_repeated { Verdict::Good } else { Verdict::Bad })
    }

    /// The core has heard of the order with this number; nothing of it was performed yet.
    pub(crate) fn after(&mut self, slot: u8, wish: &Wish, reply: u32, before: &Before, taken: bool) {
        let after = self.collection(slot);
        if let (CommandKind::Reset, Some(open), true) = (wish.kind, &before.collection, taken) {
            let over = after.as_ref().is_none_or(|still| still.progress.attempt != open.progress.attempt);
            let may = matches!(wish.who, Some(ADMINISTRATOR | OPERATOR | SECOND_ADMINISTRATOR));
            self.checkers.p29_reset(slot, over || !may);
        }
        let number = usize::from(slot);
        let enters = before.collection.as_ref().is_some_and(|open| enters(wish, open));
        let entered = wish.who.filter(|_| enters).map(|who| Entered { who, text: wish.typed });
        match (&before.collection, &after) {
            (None, None) => {}
            (None, Some(begun)) => {
                self.counts.collections += 1;
                self.checkers.p09_begins(slot);
                let aim = match (wish.kind, wish.parts, wish.split) {
                    (CommandKind::Split, _, Some((_, custodians))) => Aim::Shares(custodians),
                    (CommandKind::Mode, Some(roster), _) => Aim::Parts(roster),
                    (CommandKind::Mode, None, _) if wish.new.is_none() => Aim::Generated,
                    (CommandKind::Mode, None, _) => Aim::Whole(wish.new),
                    (CommandKind::ChangeCode, ..) => {
                        match self.core.as_ref().and_then(|core| core.slot_record(SlotId(slot))) {
                            Some(record) => match record.knowledge {
                                Knowledge::Parts(roster) => Aim::Parts(roster),
                                Knowledge::Whole | Knowledge::Shares | Knowledge::Cards { .. } => Aim::Whole(wish.new),
                            },
                            None => Aim::Open,
                        }
                    }
                    _ => Aim::Open,
                };
                let mut gathering = Gathering {
                    attempt: begun.progress.attempt,
                    kind: begun.command,
                    aim,
                    present: Vec::new(),
                    parts: Vec::new(),
                };
                let asks = matches!(begun.progress.kind, WaitKind::Shares | WaitKind::Parts);
                if asks
                    && begun.progress.have > 0
                    && let Some(who) = wish.who
                {
                    self.taken(slot, Entered { who, text: wish.typed });
                    gathering.present.push(Entered { who, text: wish.typed });
                }
                self.people.slots[number].together.gathering = Some(gathering);
            }
            (Some(open), Some(still)) if open.progress.attempt == still.progress.attempt => {
                let moved = open.progress != still.progress;
                if let (true, Some(entered)) = (moved, entered) {
                    self.check_taken(slot, before.verdict);
                    self.taken(slot, entered);
                    if let Some(gathering) = &mut self.people.slots[number].together.gathering {
                        match open.progress.kind {
                            WaitKind::Shares | WaitKind::Parts => gathering.present.push(entered),
                            WaitKind::NewParts => gathering.parts.push(entered),
                            WaitKind::Custodians | WaitKind::Code | WaitKind::Cards | WaitKind::Person => {}
                        }
                    }
                }
            }
            (Some(open), _) => {
                let Some(mut gathering) = self.people.slots[number].together.gathering.take() else { return };
                if let Some(entered) = entered {
                    self.check_taken(slot, before.verdict);
                    self.taken(slot, entered);
                    match open.progress.kind {
                        WaitKind::Shares | WaitKind::Parts => gathering.present.push(entered),
                        WaitKind::NewParts => gathering.parts.push(entered),
                        WaitKind::Custodians | WaitKind::Code | WaitKind::Cards | WaitKind::Person => {}
                    }
                    self.completed(slot, gathering, reply);
                } else if wish.kind == CommandKind::Reset {
                    self.counts.resets += 1;
                    let together = &mut self.people.slots[number].together;
                    let all_of_one = together.parts_to_try().is_none_or(|held| held.has_all(&gathering.present));
                    // They entered what they have, and it was not what is asked for.
                    together.turn += usize::from(all_of_one);
                }
            }
        }
    }

    fn check_taken(&mut self, slot: u8, verdict: Option<Verdict>) {
        self.checkers.p11_taken(slot, verdict != Some(Verdict::Bad));
    }

    fn taken(&mut self, slot: u8, entered: Entered) {
        self.counts.entries_taken += 1;
        if let Some(share) = Share::read(entered.text.bytes()) {
            self.checkers.p09_entered(slot, share.mark, share.x, entered.who);
        }
    }

    /// The last entry was made: from here on the token may be asked, or changed.
    fn completed(&mut self, slot: u8, gathering: Gathering, reply: u32) {
        let number = usize::from(slot);
        let Some(record) = self.core.as_ref().and_then(|core| core.slot_record(SlotId(slot))).copied() else { return };
        let together = &mut self.people.slots[number].together;
        let mut present = Code::NONE;
        if let Some(share) = gathering.present.first().and_then(|entered| Share::read(entered.text.bytes())) {
            present = together.sets.iter().find(|held| held.mark == share.mark).map_or(Code::NONE, |held| held.pin);
        } else {
            for knowledge in [record.knowledge_next, Some(record.knowledge)].into_iter().flatten() {
                if let Knowledge::Parts(roster) = knowledge
                    && let Some(joined) = Gathering::joined(&gathering.present, &roster)
                {
                    present = joined.whole();
                    self.checkers.p05_typed(present);
                }
            }
        }
        let together = &mut self.people.slots[number].together;
        let new = match gathering.aim {
            Aim::Open | Aim::Generated => Code::NONE,
            Aim::Whole(code) => code,
            Aim::Parts(roster) => match Gathering::joined(&gathering.parts, &roster) {
                Some(joined) => {
                    let whole = joined.whole();
                    together.parts.insert(0, joined);
                    whole
                }
                None => Code::NONE,
            },
            Aim::Shares(_) => together.sets.first().map_or(Code::NONE, |held| held.pin),
        };
        if !new.is_none() {
            // The newest is tried first.
            together.turn = 0;
        }
        self.checkers.p05_typed(present);
        self.checkers.p05_typed(new);
        self.people.slots[number].together.completing.push(Completing { reply, gathering, present, new });
    }

    /// An answer about a share or a part, before people hear of it.
    pub(crate) fn check_answer(&mut self, slot: u8, verdict: Option<Verdict>, answer: Answer) {
        let judged = match answer {
            Answer::Refused(refusal) => is_judgement(refusal),
            Answer::Done
            | Answer::Failed(_)
            | Answer::Waits(_)
            | Answer::Share { .. }
            | Answer::NeedsApproval { .. } => false,
        };
        let taken = matches!(answer, Answer::Done | Answer::Waits(_));
        self.counts.entries_refused += u64::from(judged);
        match verdict {
            Some(Verdict::Good) => self.checkers.p11_refused(slot, !judged),
            Some(Verdict::Bad) => self.checkers.p11_taken(slot, !taken),
            Some(Verdict::Open) | None => {}
        }
    }

    /// A share is shown to the person who asked for it.
    pub(crate) fn show(
        &mut self,
        slot: u8,
        who: slotwarden_core::person::PersonId,
        id: SecretId,
        x: u8,
        quorum: Quorum,
    ) {
        let number = usize::from(slot);
        self.counts.shares_shown += 1;
        let Some(text) = self.core.as_ref().and_then(|core: &Core| core.with(id, Code::new)) else {
            return self.checkers.violated("P16", slot, "a share was wiped before it was shown");
        };
        let (Some(share), Some(sets)) = (Share::read(text.bytes()), &self.disk.durable.sets[number]) else {
            return self.checkers.violated("P30", slot, "what was shown is no share, or of no durable set");
        };
        let next = sets.next.as_ref();
        let is_durable = next.is_some_and(|set| set.set_mark() == share.mark && set.holder(x) == Some(who));
        let is_whole = (share.x, share.m, share.n) == (x, quorum.m(), quorum.n());
        self.checkers.p30_shown(slot, share.mark, x, who, is_durable && is_whole);
        let together = &mut self.people.slots[number].together;
        if !together.shown(who, &share, text, sets, &[slot; 16]) {
            self.checkers.violated("P9", slot, "two quorums of one set give two token PINs");
        }
    }
}

/// Whether an order enters something into a collection: an activation may be about the whole code.
fn enters(wish: &Wish, open: &CollectionStatus) -> bool {
    let enters = match wish.kind {
        CommandKind::Share => true,
        kind => kind == CommandKind::Activate && open.command == CommandKind::Activate,
    };
    enters && !wish.typed.is_none()
}

/// Whether a refusal says what is wrong with a share.
pub(crate) fn is_judgement(refusal: Refusal) -> bool {
    matches!(
        refusal,
        Refusal::ShareMistyped
            | Refusal::ShareForeign
            | Refusal::ShareWrong
            | Refusal::ShareOfAnother
            | Refusal::ShareOutdated
            | Refusal::ShareRepeated
            | Refusal::ShareNotFetched
    )
}
