//! What a person enters: judged alone, kept with what others entered, joined when it is whole.

use heapless::Vec;
use statig::Outcome;
use zeroize::Zeroizing;

use super::{BUG_NO_SET, BUG_NOT_WHOLE, Entered, Rules, State};
use crate::audit::AuditEvent;
use crate::code;
use crate::command::{Answer, Caller, CommandKind};
use crate::fault::Refusal;
use crate::limits::{CODE_CHARS_MAX, CODE_CHARS_MIN, COLLECTION_IDLE_MS, ROSTER_MAX};
use crate::person::{PersonId, Roster};
use crate::record::Knowledge;
use crate::safe::SecretId;
use crate::share::{SECRET_BYTES, TypedShare};
use crate::turn::Turn;

impl Rules {
    /// A share or a part of the present code.
    pub(super) fn enter_present(&mut self, turn: &mut Turn<'_>, caller: Caller, code: SecretId) -> Outcome<State> {
        let judged = match turn.slot.knowledge(self.order.by) {
            Knowledge::Shares => self.take_share(turn, caller.who, code),
            Knowledge::Parts(roster) => self.take_part(turn, roster, caller.who, code, turn.slot.pin_chars_max()),
            Knowledge::Whole | Knowledge::Cards { .. } => Err(Refusal::NothingCollected),
        };
        if let Err(refusal) = judged {
            turn.wipe(code);
            return self.refuse(turn, caller, CommandKind::Share, refusal);
        }
        self.go_on(turn, COLLECTION_IDLE_MS);
        let progress = self.progress(State::Present, turn.slot);
        if progress.have < progress.need {
            turn.reply(caller, Answer::Waits(progress));
            return Outcome::Handled;
        }
        let joined = match turn.slot.knowledge(self.order.by) {
            Knowledge::Shares => self.combine(turn),
            Knowledge::Parts(_) | Knowledge::Whole | Knowledge::Cards { .. } => self.join(turn),
        };
        match joined {
            Ok(id) => {
                self.present = Some(id);
                self.ask_for_the_new(turn, caller)
            }
            Err(refusal) => self.end_refused(turn, caller, refusal),
        }
    }

    /// A part of the new code.
    pub(super) fn enter_new_part(&mut self, turn: &mut Turn<'_>, caller: Caller, code: SecretId) -> Outcome<State> {
        let judged = match self.roster() {
            Some(roster) => self.take_part(turn, roster, caller.who, code, turn.slot.new_pin_chars_max()),
            None => Err(Refusal::NothingCollected),
        };
        if let Err(refusal) = judged {
            turn.wipe(code);
            return self.refuse(turn, caller, CommandKind::Share, refusal);
        }
        self.go_on(turn, COLLECTION_IDLE_MS);
        let progress = self.progress(State::NewParts, turn.slot);
        if progress.have < progress.need {
            turn.reply(caller, Answer::Waits(progress));
            return Outcome::Handled;
        }
        match self.join(turn) {
            Ok(id) => {
                self.new = Some(id);
                self.deliver(turn, caller)
            }
            Err(refusal) => self.end_refused(turn, caller, refusal),
        }
    }

    /// Judges a typed share, and keeps it as it was typed.
    fn take_share(&mut self, turn: &mut Turn<'_>, who: PersonId, code: SecretId) -> Result<(), Refusal> {
        let share = typed(turn, code)?;
        let (slot, by) = (&*turn.slot, self.order.by);
        let Some(set) = slot.set(by) else {
            turn.out.bug(BUG_NO_SET);
            return Err(Refusal::NothingCollected);
        };
        if !set.is_of_set(&share) {
            let other = slot.sets.current.iter().chain(&slot.sets.next).any(|set| set.is_of_set(&share));
            let outdated = other || slot.sets.is_former(share.set_mark());
            return Err(if outdated { Refusal::ShareOutdated } else { Refusal::ShareForeign });
        }
        set.judge(who, &share)?;
        if self.entered.iter().any(|entered| entered.place == share.x()) {
            return Err(Refusal::ShareRepeated);
        }
        let place = share.x();
        self.keep(turn, Entered { place, who, id: code }, AuditEvent::ShareEntered { x: place })
    }

    /// Judges a typed part as far as it can be judged, and keeps it.
    fn take_part(
        &mut self,
        turn: &mut Turn<'_>,
        roster: Roster,
        who: PersonId,
        code: SecretId,
        chars_max: u16,
    ) -> Result<(), Refusal> {
        let place = roster.place_of(who).ok_or(Refusal::NotInRoster)?;
        if self.entered.iter().any(|entered| entered.place == place) {
            return Err(Refusal::PartRepeated);
        }
        code::check_in_safe(turn.secrets, code, chars_max)?;
        let mut chars = length(turn, code);
        for entered in &self.entered {
            chars = chars.saturating_add(length(turn, entered.id));
        }
        // The parts that are still missing have their shortest length at least.
        let missing = roster.persons().len().saturating_sub(self.entered.len()).saturating_sub(1);
        let max = match usize::from(chars_max) {
            0 => CODE_CHARS_MAX,
            max => max.min(CODE_CHARS_MAX),
        };
        if chars.saturating_add(missing.saturating_mul(CODE_CHARS_MIN)) > max {
            return Err(Refusal::PartsTooLong);
        }
        self.keep(turn, Entered { place, who, id: code }, AuditEvent::PartEntered)
    }

    fn keep(&mut self, turn: &mut Turn<'_>, entered: Entered, event: AuditEvent) -> Result<(), Refusal> {
        self.entered.push(entered).map_err(|_| Refusal::ShareRepeated)?;
        turn.journal(Some(entered.who), event);
        Ok(())
    }

    /// Makes the token PIN of what m persons entered, in the place of the first of them.
    fn combine(&mut self, turn: &mut Turn<'_>) -> Result<SecretId, Refusal> {
        let mut shares: Vec<TypedShare, ROSTER_MAX> = Vec::new();
        for entered in &self.entered {
            // As many as were entered.
            let _ = shares.push(typed(turn, entered.id)?);
        }
        let slot = &*turn.slot;
        let set = slot.set(self.order.by).ok_or(Refusal::NothingCollected)?;
        let first = self.entered.first().copied().ok_or(Refusal::NothingCollected)?;
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        set.reconstruct(&shares, &mut secret)?;
        let chars = usize::from(set.pin_chars);
        turn.secrets.rewrite(first.id, &mut |place| {
            code::token_pin(secret.as_slice(), &[], &slot.record.uid, &set.id, chars, place)
        });
        if length(turn, first.id) != chars {
            turn.out.bug(BUG_NOT_WHOLE);
            return Err(Refusal::Halted);
        }
        self.keep_only(turn, first.id);
        Ok(first.id)
    }

    /// Joins what was entered in the order of the roster, in the place of the first of them.
    fn join(&mut self, turn: &mut Turn<'_>) -> Result<SecretId, Refusal> {
        let first = self.entered.first().copied().ok_or(Refusal::NothingCollected)?;
        let mut whole = Zeroizing::new([0u8; CODE_CHARS_MAX]);
        let mut chars = 0usize;
        // Each person has one place, so this finds every part once.
        for place in (0..=u8::MAX).take(ROSTER_MAX) {
            for entered in self.entered.iter().filter(|entered| entered.place == place) {
                turn.secrets.lend(entered.id, &mut |part| {
                    chars = chars.saturating_add(copied(whole.iter_mut().skip(chars), part));
                });
            }
        }
        let whole = whole.get(..chars).ok_or(Refusal::PartsTooLong)?;
        turn.secrets.rewrite(first.id, &mut |place| copied(place.iter_mut(), whole));
        self.keep_only(turn, first.id);
        Ok(first.id)
    }

    /// This place holds the whole and changes hands; the others are wiped.
    fn keep_only(&mut self, turn: &mut Turn<'_>, whole: SecretId) {
        for entered in self.entered.iter().filter(|entered| entered.id != whole) {
            turn.wipe(entered.id);
        }
        self.entered.clear();
    }
}

/// Reads a typed share out of its place.
pub(super) fn typed(turn: &Turn<'_>, code: SecretId) -> Result<TypedShare, Refusal> {
    let mut parsed = Err(Refusal::CodeMissing);
    turn.secrets.lend(code, &mut |text| parsed = TypedShare::parse(text));
    parsed
}

/// Copies byte by byte as far as both reach; returns how far that was.
pub(super) fn copied<'to>(to: impl Iterator<Item = &'to mut u8>, from: &[u8]) -> usize {
    to.zip(from).fold(0usize, |count, (to, from)| {
        *to = *from;
        count.saturating_add(1)
    })
}

pub(super) fn length(turn: &Turn<'_>, id: SecretId) -> usize {
    let mut chars = 0;
    turn.secrets.lend(id, &mut |bytes| chars = bytes.len());
    chars
}
