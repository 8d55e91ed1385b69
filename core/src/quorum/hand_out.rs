//! New shares: drawn, shown once to each custodian, typed back by each of them.

use statig::Outcome;
use zeroize::Zeroizing;

use super::enter::{copied, length, typed};
use super::{BUG_NO_SET, BUG_NOT_WHOLE, NewCode, Rules, State, Want};
use crate::audit::AuditEvent;
use crate::code;
use crate::command::{Answer, Caller, CommandKind};
use crate::fault::{Fault, Refusal};
use crate::safe::SecretId;
use crate::share::{self, Set};
use crate::turn::Turn;

/// Bytes that every share of a set is made from.
const KEY_BYTES: usize = 32;

impl Rules {
    /// Both random halves are there: mixes them into the key that every share is made from,
    /// and writes down what will tell the shares from others.
    pub(super) fn drawn(&mut self, turn: &mut Turn<'_>, id: SecretId) -> Outcome<State> {
        let Some(quorum) = self.quorum() else { return self.no_set(turn) };
        let chars = code::generated_chars(turn.slot.new_pin_chars_max());
        let chars = match chars.and_then(|chars| u8::try_from(chars).map_err(|_| Refusal::GeneratedTooShort)) {
            Ok(chars) => chars,
            Err(refusal) => {
                turn.wipe(id);
                let caller = self.waiting.take().unwrap_or(self.order.caller);
                return self.end_refused(turn, caller, refusal);
            }
        };
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        let mut mixed = Err(Fault::RandomUnavailable);
        turn.secrets.lend(id, &mut |drawn| mixed = turn.watch.mix(drawn, &mut key));
        if let Err(fault) = mixed {
            return self.not_drawn(turn, id, fault);
        }
        turn.secrets.rewrite(id, &mut |place| copied(place.iter_mut(), key.as_slice()));
        let generation = turn.slot.sets.last_generation.saturating_add(1);
        turn.slot.sets.begin_next(Set::new(&key, generation, quorum, chars));
        turn.slot.sets_dirty = true;
        self.go_on_handing_out(turn);
        if let Some(caller) = self.waiting.take() {
            turn.reply(caller, Answer::Waits(self.progress(State::HandingOut { key: id }, turn.slot)));
        }
        Outcome::Transition(State::HandingOut { key: id })
    }

    pub(super) fn not_drawn(&mut self, turn: &mut Turn<'_>, id: SecretId, fault: Fault) -> Outcome<State> {
        turn.wipe(id);
        if let Some(caller) = self.waiting.take() {
            turn.journal(Some(caller.who), AuditEvent::Failed(self.order.want.command(), fault));
            turn.reply(caller, Answer::Failed(fault));
        }
        self.end(turn)
    }

    /// Shows a person their share: once, and only after the store says that it was shown (P30).
    pub(super) fn fetch(&mut self, turn: &mut Turn<'_>, caller: Caller, key: SecretId) -> Outcome<State> {
        let shown = self.show(turn, caller, key);
        match shown {
            Ok((id, x)) => {
                turn.slot.sets_dirty = true;
                self.go_on_handing_out(turn);
                turn.journal(Some(caller.who), AuditEvent::ShareShown { x });
                if let Some(quorum) = self.quorum() {
                    turn.reply(caller, Answer::Share { id, x, quorum });
                }
                turn.wipe(id);
                Outcome::Handled
            }
            Err(refusal) => self.refuse(turn, caller, CommandKind::Share, refusal),
        }
    }

    fn show(&self, turn: &mut Turn<'_>, caller: Caller, key: SecretId) -> Result<(SecretId, u8), Refusal> {
        if let Want::Change { new: NewCode::Shares { custodians, .. }, .. } = self.order.want
            && !custodians.persons().is_empty()
            && custodians.place_of(caller.who).is_none()
        {
            return Err(Refusal::NotInRoster);
        }
        let set = turn.slot.sets.next.as_mut().ok_or(Refusal::NothingCollected)?;
        if set.x_of(caller.who).is_some() {
            return Err(Refusal::ShareShownAlready);
        }
        let x = set.next_x().ok_or(Refusal::NoShareLeft)?;
        let id = turn.secrets.reserve()?;
        let mut text = Zeroizing::new([0; crate::limits::PLACE_BYTES]);
        let mut chars = 0;
        turn.secrets.lend(key, &mut |key| {
            if let Some(key) = key.first_chunk::<KEY_BYTES>() {
                chars = set.share(key, x).map_or(0, |share| share.encode(text.as_mut_slice()));
            }
        });
        let text = text.get(..chars).unwrap_or(&[]);
        turn.secrets.rewrite(id, &mut |place| copied(place.iter_mut(), text));
        if chars > 0 && set.hand_out(x, caller.who) { Ok((id, x)) } else { Err(Refusal::NoShareLeft) }
    }

    /// A person types the share back that they were shown; with the last one the code is whole.
    pub(super) fn typed_back(
        &mut self,
        turn: &mut Turn<'_>,
        caller: Caller,
        code: SecretId,
        key: SecretId,
    ) -> Outcome<State> {
        let judged = judge_typed_back(turn, caller, code);
        turn.wipe(code);
        let x = match judged {
            Ok(x) => x,
            Err(refusal) => return self.refuse(turn, caller, CommandKind::Share, refusal),
        };
        turn.slot.sets_dirty = true;
        self.go_on_handing_out(turn);
        turn.journal(Some(caller.who), AuditEvent::ShareConfirmed { x });
        let Some(set) = turn.slot.sets.next.as_ref() else { return self.no_set(turn) };
        if !set.all_confirmed() {
            turn.reply(caller, Answer::Waits(self.progress(State::HandingOut { key }, turn.slot)));
            return Outcome::Handled;
        }
        let uid = turn.slot.record.uid;
        let mut secret = Zeroizing::new([0; share::SECRET_BYTES]);
        let mut whole = false;
        turn.secrets.lend(key, &mut |key| {
            whole = key.first_chunk().is_some_and(|key| share::secret_of(key, &set.id, set.quorum, &mut secret));
        });
        let chars = usize::from(set.pin_chars);
        turn.secrets.rewrite(key, &mut |place| code::token_pin(secret.as_slice(), &[], &uid, &set.id, chars, place));
        if !whole || length(turn, key) != chars {
            turn.wipe(key);
            return self.not_whole(turn);
        }
        self.new = Some(key);
        self.deliver(turn, caller)
    }

    fn not_whole(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        turn.out.bug(BUG_NOT_WHOLE);
        self.end(turn)
    }

    fn no_set(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        turn.out.bug(BUG_NO_SET);
        self.end(turn)
    }
}

/// Whether this is the share that this person was shown; notes that they have it.
fn judge_typed_back(turn: &mut Turn<'_>, caller: Caller, code: SecretId) -> Result<u8, Refusal> {
    let share = typed(turn, code)?;
    let sets = &mut turn.slot.sets;
    let former = sets.is_former(share.set_mark()) || sets.current.as_ref().is_some_and(|set| set.is_of_set(&share));
    let set = sets.next.as_mut().ok_or(Refusal::NothingCollected)?;
    let x = set.x_of(caller.who).ok_or(Refusal::ShareNotFetched)?;
    if !set.is_of_set(&share) {
        return Err(if former { Refusal::ShareOutdated } else { Refusal::ShareForeign });
    }
    set.judge(caller.who, &share)?;
    if set.is_confirmed(x) {
        return Err(Refusal::ShareRepeated);
    }
    if set.confirm(x) { Ok(x) } else { Err(Refusal::ShareNotFetched) }
}
