//! What the two machines of a slot share: its record, what its token says, its applications.

use heapless::Vec;

use crate::audit::AuditEvent;
use crate::effect::{ApplicationId, ApplicationOrder, ApplicationSet, KeyCounts, SlotId, Ticket};
use crate::fault::{ApplicationFault, Fault, Refusal};
use crate::limits::APPLICATIONS_PER_SLOT_MAX;
use crate::outbox::Act;
use crate::person::PersonId;
use crate::record::{Change, ChangeKind, Doubt, Knowledge, Knows, Mode, Owner, Sets, SlotRecord};
use crate::safe::SecretId;
use crate::share::Set;
use crate::status::{ApplicationState, Attention};
use crate::time::Now;
use crate::token::{LoginState, Presence, Serial, TokenState};
use crate::turn::Turn;

/// Everything known about one slot, beside the state of its machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotData {
    /// Keys are being made in the token from a file: nobody gets its PIN meanwhile.
    pub importing: bool,
    /// The slot's number.
    pub id: SlotId,
    /// Its number in the store.
    pub owner: Owner,
    /// What is durable, or becomes so with the turn under way.
    pub record: SlotRecord,
    /// Whether the record has to join the turn's transaction.
    pub dirty: bool,
    /// The sets of shares of the slot's codes; durable like the record.
    pub sets: Sets,
    /// Whether the sets have to join the turn's transaction.
    pub sets_dirty: bool,
    /// *Old or new*: the old one is the one to be tried next.
    pub asks_old: bool,
    /// Whether the platform has looked for the token since the start.
    pub looked: bool,
    /// The token, if it is there and is the right one.
    pub token: Option<TokenState>,
    /// Whether the module offers a free token for a slot that never had one.
    pub free: bool,
    /// Serial of the token that the last try was made on: another may be there when it is answered.
    pub tried_serial: Option<Serial>,
    /// Why there is no token: ambiguous, replaced.
    pub refusal: Option<Refusal>,
    /// What an operator should look at.
    pub attention: Option<Attention>,
    /// The last device failure since the slot was last well.
    pub fault: Option<Fault>,
    /// The applications bound to the slot.
    pub applications: Vec<Bound, APPLICATIONS_PER_SLOT_MAX>,
    /// The longest token PIN that all of them can take, characters; 0: unstated.
    pub applications_pin_chars_max: u16,
    /// Deactivated by a person, or nobody knows how its automatic try ended: does not
    /// activate by itself until the next boot.
    pub held: bool,
    /// When the wait after a refused last try is over, monotonic milliseconds. `None` with
    /// a back-off level in the record: a restart, the wait has to start anew.
    pub cooling_until_ms: Option<u64>,
    /// The same for the SO PIN, which has a count of its own.
    pub so_cooling_until_ms: Option<u64>,
    /// The set of cards that the SO PIN of the order under way is of; `None`: it was typed.
    pub so_tried_set: Option<[u8; 16]>,
    /// The set whose SO PIN the token accepted, until it was taken account of.
    pub so_proven_set: Option<[u8; 16]>,
    /// Whether the token has the keys of the backup key in force; `None`: it was not asked.
    pub backup_key: Option<bool>,
    /// Whether the token has U of the backup key in force; `None`: it was not asked.
    pub unwrap_key: Option<bool>,
    /// Its keys as they were counted last; `None`: never since the start.
    pub key_counts: Option<KeyCounts>,
    /// Applications that the order under way, or the last one, need not reach: a person named them.
    pub accept: ApplicationSet,
}

/// One application bound to the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Which.
    pub application: ApplicationId,
    /// What it has.
    pub state: ApplicationState,
    /// The order it has not answered, even if its deadline is over.
    pub unanswered: Option<Ticket>,
    /// What it has once it answers well.
    pub if_served: ApplicationState,
}

impl SlotData {
    /// A slot that was not looked for yet.
    #[must_use]
    pub fn new(id: SlotId, owner: Owner, record: SlotRecord) -> Self {
        SlotData {
            importing: false,
            id,
            owner,
            record,
            dirty: false,
            sets: Sets::none(),
            sets_dirty: false,
            asks_old: false,
            looked: false,
            token: None,
            free: false,
            tried_serial: None,
            refusal: None,
            attention: None,
            fault: None,
            applications: Vec::new(),
            applications_pin_chars_max: 0,
            held: false,
            cooling_until_ms: None,
            so_cooling_until_ms: None,
            so_tried_set: None,
            so_proven_set: None,
            backup_key: None,
            unwrap_key: None,
            key_counts: None,
            accept: ApplicationSet::NONE,
        }
    }

    /// Takes in what the platform found when it looked for the token.
    pub fn look(&mut self, presence: Presence) {
        self.looked = true;
        self.free = false;
        self.refusal = None;
        self.token = None;
        match presence {
            Presence::Present(token) => self.observe(token),
            Presence::Absent { free } => self.free = free && !self.had_token(),
            Presence::Ambiguous => self.refusal = Some(Refusal::SlotAmbiguous),
        }
    }

    /// Takes in what the token says about itself.
    pub fn observe(&mut self, token: TokenState) {
        // C_InitToken may give a token another serial (Kryoptic): one without a user PIN under the
        // slot's label is what a decommission left.
        let ends = |by_so: Change| by_so.calling && by_so.kind == ChangeKind::Decommission;
        let erased = !token.user_pin && self.record.by_so.is_some_and(ends);
        if self.record.serial.is_some_and(|serial| serial != token.serial) && !erased {
            self.token = None;
            self.refusal = Some(Refusal::TokenReplaced);
            return;
        }
        self.token = Some(token);
        if token.count_low && !self.record.shows_count_low {
            self.record.shows_count_low = true;
            self.dirty = true;
        }
        // Some modules clear the low count when they set a graver flag.
        let none_counted = !token.count_low && !token.final_try && !token.locked;
        if self.record.shows_count_low && none_counted && self.record.user.none_was_refused() {
            self.dirty = true;
        }
        // Somebody else may have spent that try; a boot loop must not take the chance.
        if !none_counted && self.record.user.one_was_refused() {
            self.dirty = true;
        }
        self.attention = if token.count_low && self.record.user.refused_in_row == 0 && !self.record.user.open {
            Some(Attention::TriesSpentElsewhere)
        } else if token.final_try {
            Some(Attention::FinalTry)
        } else if token.count_low {
            Some(Attention::CountLow)
        } else {
            None
        };
    }

    /// Whether the slot opens without people now.
    #[must_use]
    pub fn opens_by_itself(&self) -> bool {
        self.record.mode == Mode::Generated
            && self.record.accepted.is_some()
            && self.record.doubt.is_none()
            && !self.has_open_change()
            && !self.record.user.automatic_stopped
            && self.token.is_some_and(|token| token.user_pin && !token.locked)
    }

    /// Whether a login ever proved a token of this slot: then it is not initialised again.
    #[must_use]
    pub fn had_token(&self) -> bool {
        self.record.serial.is_some()
    }

    /// Whether our session holds the user's login, as far as the last look and the last answer say.
    #[must_use]
    pub fn is_logged_in(&self) -> bool {
        self.token.is_some_and(|token| token.login == LoginState::User)
    }

    /// Whether an interrupted change has to be decided first.
    #[must_use]
    pub fn has_open_change(&self) -> bool {
        self.record.change.is_some() || self.record.by_so.is_some()
    }

    /// What only people (or the token's answer) can resolve, as far as the record knows.
    #[must_use]
    pub fn doubt(&self) -> Option<Doubt> {
        match (self.record.doubt, self.record.by_so.or(self.record.change)) {
            (Some(doubt), _) => Some(doubt),
            (None, Some(change)) if change.calling => Some(Doubt::CallUnanswered),
            (None, Some(_) | None) => None,
        }
    }

    /// Whether a refused last try of the user PIN still costs time.
    #[must_use]
    pub fn is_cooling(&self, now: Now) -> bool {
        self.cooling_until_ms.is_some_and(|until_ms| now.mono_ms < until_ms)
    }

    /// Whether a refused last try of the SO PIN still costs time; after a restart its wait
    /// starts anew with the first order that asks.
    pub fn is_so_cooling(&mut self, now: Now) -> bool {
        let Some(wait_ms) = self.record.so.wait_ms() else { return false };
        now.mono_ms < *self.so_cooling_until_ms.get_or_insert(now.after_ms(wait_ms))
    }

    /// Who knows the code that people would open the slot with: what is to be tried next, and
    /// the other one while a change of it is undecided.
    #[must_use]
    pub fn known(&self) -> [(Knows, Knowledge); 2] {
        let current = (Knows::Current, self.record.knowledge);
        let next = (Knows::Next, self.record.knowledge_next.unwrap_or(self.record.knowledge));
        match self.record.knowledge_next {
            Some(_) if !self.asks_old => [next, current],
            Some(_) => [current, next],
            None => [current, current],
        }
    }

    /// Who knows one of the two codes.
    #[must_use]
    pub fn knowledge(&self, by: Knows) -> Knowledge {
        match by {
            Knows::Current => self.record.knowledge,
            Knows::Next => self.record.knowledge_next.unwrap_or(self.record.knowledge),
            Knows::Rescued => Knowledge::Whole,
        }
    }

    /// The set whose shares make one of the two codes.
    #[must_use]
    pub fn set(&self, by: Knows) -> Option<&Set> {
        match (by, self.record.knowledge_next) {
            (Knows::Next, Some(Knowledge::Shares)) => self.sets.next.as_ref(),
            (Knows::Current | Knows::Next | Knows::Rescued, _) => self.sets.current.as_ref(),
        }
    }

    /// Whether a sealed code is kept that only an accepted code may replace (rule 2).
    #[must_use]
    pub fn keeps_a_code(&self) -> bool {
        match self.record.mode {
            Mode::Generated => self.record.pending.is_some(),
            Mode::Manual => self.record.sealed().iter().any(Option::is_some),
        }
    }

    /// Whether the token has one of two codes of which several persons know at least one: the
    /// record has room for these two, and for no third before they are settled. A slot is
    /// active like this when its login succeeded and the module's files could not be settled.
    #[must_use]
    pub fn is_open_between_two(&self) -> bool {
        let whole = |knowledge| matches!(knowledge, Knowledge::Whole);
        self.record.knowledge_next.is_some_and(|next| !whole(next) || !whole(self.record.knowledge))
    }

    /// The set that is being handed out leads nowhere. Returns whether there was one: the next set
    /// of an undecided change is another matter, since the token may have its PIN.
    pub fn void_handed_out(&mut self) -> bool {
        let void = self.record.knowledge_next.is_none() && self.sets.void_next();
        self.sets_dirty |= void;
        void
    }

    /// *Old or new*: after a refusal of what these persons know the other one is asked for. While a
    /// stored code is the old one nothing that is typed can be it, so it stays the next to try.
    pub fn ask_other(&mut self, refused: Knows) {
        let stored_is_old = self.record.mode == Mode::Generated;
        self.asks_old =
            self.record.knowledge_next.is_some() && (refused == Knows::Next || (stored_is_old && self.asks_old));
    }

    /// The new code is known to nobody any more, or to nobody but those who know the old one.
    pub fn forget_next(&mut self) {
        self.record.knowledge_next = None;
        self.asks_old = false;
        self.sets_dirty |= self.sets.void_next();
    }

    /// The code that these persons know rules from here on.
    pub fn rule(&mut self, by: Knows) {
        match (by, self.record.knowledge_next) {
            (Knows::Next, Some(next)) => {
                self.record.knowledge = next;
                if next == Knowledge::Shares {
                    self.sets.promote_next();
                    self.sets_dirty = true;
                }
            }
            (Knows::Rescued, _) => self.record.knowledge = Knowledge::Whole,
            (Knows::Current | Knows::Next, _) => {}
        }
        self.forget_next();
    }

    /// The longest code the token says it takes; 0: unstated.
    #[must_use]
    pub fn pin_chars_max(&self) -> u16 {
        self.token.map_or(0, |token| token.pin_chars_max)
    }

    /// The longest *new* code: what the token and the applications take; 0: unstated. The
    /// present code may be longer, and must be accepted to get rid of it.
    #[must_use]
    pub fn new_pin_chars_max(&self) -> u16 {
        match (self.pin_chars_max(), self.applications_pin_chars_max) {
            (0, stated) | (stated, 0) => stated,
            (token, applications) => token.min(applications),
        }
    }

    /// Whether the token says that the next refused try blocks it.
    #[must_use]
    pub fn final_try(&self) -> bool {
        self.token.is_some_and(|token| token.final_try)
    }

    /// Whether the token says that the next refused try blocks its SO PIN.
    #[must_use]
    pub fn so_final_try(&self) -> bool {
        self.token.is_some_and(|token| token.so_final_try)
    }

    /// Whether an application still has to answer.
    #[must_use]
    pub fn applications_pending(&self) -> bool {
        self.applications.iter().any(|bound| bound.state == ApplicationState::Pending)
    }

    /// The first application that could not be served.
    #[must_use]
    pub fn application_fault(&self) -> Option<Fault> {
        self.applications.iter().find_map(Bound::fault)
    }

    /// The first application that could not be served and that no person accepted as dead.
    #[must_use]
    pub fn unaccepted_application_fault(&self) -> Option<Fault> {
        self.applications.iter().filter(|bound| !self.accept.has(bound.application)).find_map(Bound::fault)
    }

    /// Nothing is known of a token any more: the slot starts anew. Its sealed codes are the
    /// caller's to erase.
    pub fn forget(&mut self) {
        self.record = self.record.forgotten();
        self.dirty = true;
        self.forget_next();
        self.tried_serial = None;
        self.refusal = None;
        self.attention = None;
        self.fault = None;
        self.held = false;
        self.cooling_until_ms = None;
        self.so_cooling_until_ms = None;
    }
}

impl Bound {
    /// An application that has nothing.
    #[must_use]
    pub const fn new(application: ApplicationId) -> Self {
        Bound {
            application,
            state: ApplicationState::Inactive,
            unanswered: None,
            if_served: ApplicationState::Inactive,
        }
    }

    /// Why it could not be served, if so.
    #[must_use]
    pub const fn fault(&self) -> Option<Fault> {
        match self.state {
            ApplicationState::Failed(fault) => Some(fault),
            ApplicationState::Inactive | ApplicationState::Pending | ApplicationState::Active => None,
        }
    }
}

/// Orders every application to take the token PIN.
pub fn hand_over(turn: &mut Turn<'_>, pin: SecretId) {
    order_applications(turn, ApplicationOrder::HandOver { pin });
}

/// Orders every application that may have the token PIN to give it back.
pub fn withdraw(turn: &mut Turn<'_>) {
    order_applications(turn, ApplicationOrder::Withdraw);
}

fn order_applications(turn: &mut Turn<'_>, order: ApplicationOrder) {
    let slot = turn.slot.id;
    for index in 0..turn.slot.applications.len() {
        let ticket = turn.out.ticket(slot);
        let Some(bound) = turn.slot.applications.get_mut(index) else { continue };
        bound.state = ApplicationState::Pending;
        bound.unanswered = Some(ticket);
        bound.if_served = match order {
            ApplicationOrder::HandOver { .. } => ApplicationState::Active,
            ApplicationOrder::Withdraw => ApplicationState::Inactive,
        };
        turn.out.act(Act::Application { ticket, application: bound.application, slot, order });
    }
}

/// Takes in an application's answer. Returns false when none of them owed it.
pub fn application_answered(turn: &mut Turn<'_>, ticket: Ticket, result: Result<(), Fault>) -> bool {
    let mut failed = None;
    let Some(bound) = turn.slot.applications.iter_mut().find(|bound| bound.unanswered == Some(ticket)) else {
        return false;
    };
    bound.unanswered = None;
    match result {
        Ok(()) => bound.state = bound.if_served,
        Err(fault) => {
            bound.state = ApplicationState::Failed(fault);
            failed = Some((bound.application, fault));
        }
    }
    if let Some((application, fault)) = failed {
        turn.journal(None, AuditEvent::ApplicationFailed(application, fault));
    }
    true
}

/// Writes down which applications keep what they had because a person accepted that by name.
pub fn leave_accepted(turn: &mut Turn<'_>, who: Option<PersonId>) {
    for index in 0..turn.slot.applications.len() {
        let Some(bound) = turn.slot.applications.get(index) else { continue };
        let application = bound.application;
        if bound.fault().is_some() && turn.slot.accept.has(application) {
            turn.journal(who, AuditEvent::ApplicationLeft(application));
        }
    }
}

/// Gives up waiting for applications: those that did not answer are reported as failed.
pub fn applications_overdue(turn: &mut Turn<'_>) {
    let fault = Fault::Application(ApplicationFault::Unanswered);
    for index in 0..turn.slot.applications.len() {
        let Some(bound) = turn.slot.applications.get_mut(index) else { continue };
        if bound.state != ApplicationState::Pending {
            continue;
        }
        bound.state = ApplicationState::Failed(fault);
        let application = bound.application;
        turn.journal(None, AuditEvent::ApplicationFailed(application, fault));
    }
}
