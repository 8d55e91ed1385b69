//! Everything about cards in the service: readers, the registry, the sets, the ceremony.
//!
//! A ceremony decides; what needs a secret is computed in `service/judge`, what leads out of
//! it is done here. Its transcript is written as it goes: each event is a durable line before
//! what it causes happens.

use heapless::{Deque, Vec};

use super::{SecurityLevel, Service};
use crate::audit::{AuditEvent, CeremonyEnd};
use crate::card::registry::{CardEntry, Registry, ShareOnCard};
use crate::card::session::{self, CardOut, CardSession, HeldCard, SessionEvent, SessionReport, SessionTurn};
use crate::card::sets::{CardSet, CardSets, SetSubject, Standing};
use crate::card::{CardCall, CardSerial, Credential, ProfileId, ReaderEvent, ReaderId};
use crate::ceremony::event::{CardFacts, CardNote, CeremonyEvent, Noted};
use crate::ceremony::order::{CeremonyId, Facts};
use crate::ceremony::transcript::{Entry as LineEntry, Line};
use crate::ceremony::{Ceremony, CeremonyTurn, DEEDS_MAX, Deed};
use crate::command::{Answer, Caller, Command, CommandKind};
use crate::effect::{Outcome, SlotId, Ticket};
use crate::fault::{Fault, Refusal};
use crate::limits::READERS_MAX;
use crate::outbox::{Act, Outbox};
use crate::person::{PersonId, Role};
use crate::record::Record;
use crate::share::record::ShareHeader;
use crate::status::{BackupStatus, CeremonyStatus};
use crate::time::Now;
use crate::transfer::FileStep;
use crate::turn::Out;

/// Lines of a transcript that wait for their transaction: one input causes five at most, and
/// few inputs of a ceremony arrive while a commit is under way, since its own effects wait for it.
const LINES_MAX: usize = 16;
/// Events that one input of a ceremony leads to: the longest chain of verdicts is five.
const EVENTS_MAX: usize = 8;
/// Calls on their way: one for each reader, and one that its reader has not answered.
const CALLS_MAX: usize = 2 * READERS_MAX;

/// More lines than a ceremony can cause.
const BUG_LINES: u16 = 60;
/// More events than a ceremony can cause.
const BUG_EVENTS: u16 = 61;
/// More calls than there are readers.
const BUG_CALLS: u16 = 62;

/// What the service knows about cards.
pub(super) struct Cards<const SLOTS: usize> {
    pub(super) level: SecurityLevel,
    pub(super) cluster: [u8; 16],
    cluster_dirty: bool,
    readers: Vec<Reader, READERS_MAX>,
    calls: Vec<(Ticket, CardCall), CALLS_MAX>,
    pub(super) registry: Registry,
    pub(super) backup: CardSets,
    backup_dirty: bool,
    of_slots: Vec<SlotSets, SLOTS>,
    running: Option<Running>,
    lines: Deque<(CeremonyId, u16, Line), LINES_MAX>,
    last: Option<(CeremonyId, CommandKind, CeremonyEnd)>,
    /// Slots whose tokens are asked for the keys of the backup key in force.
    keeping: Vec<(Ticket, SlotId), SLOTS>,
    /// Slots whose tokens left a call of a ceremony unanswered: they get no other one before they
    /// are heard (P44).
    unheard: Vec<(Ticket, SlotId), SLOTS>,
}

/// One reader and the deadline of its call.
struct Reader {
    id: ReaderId,
    session: CardSession,
    armed: Option<(Ticket, u64)>,
}

/// The sets of cards of a slot.
struct SlotSets {
    subject: SetSubject,
    sets: CardSets,
    dirty: bool,
}

/// The ceremony under way.
struct Running {
    ceremony: Ceremony,
    caller: Caller,
    next_line: u16,
    head: [u8; 32],
    /// The effect it waits for, beside its reader.
    awaited: Option<Ticket>,
}

/// Where the calls of sessions go.
struct Calls<'c, const OUTBOX: usize> {
    outbox: &'c mut Outbox<OUTBOX>,
    calls: &'c mut Vec<(Ticket, CardCall), CALLS_MAX>,
}

impl<const OUTBOX: usize> CardOut for Calls<'_, OUTBOX> {
    fn call(&mut self, reader: ReaderId, call: CardCall) -> Ticket {
        let ticket = self.outbox.service_ticket();
        self.outbox.act(Act::Card { ticket, reader });
        if self.calls.push((ticket, call)).is_err() {
            self.outbox.bug(BUG_CALLS);
        }
        ticket
    }
}

impl<const SLOTS: usize> Cards<SLOTS> {
    /// No reader, no card, no set.
    pub(super) const fn new() -> Self {
        Cards {
            level: SecurityLevel::None,
            cluster: [0; 16],
            cluster_dirty: true,
            readers: Vec::new(),
            calls: Vec::new(),
            registry: Registry::new(),
            backup: CardSets::none(),
            backup_dirty: false,
            of_slots: Vec::new(),
            running: None,
            lines: Deque::new(),
            last: None,
            keeping: Vec::new(),
            unheard: Vec::new(),
        }
    }

    /// Takes over the cluster id found in the store.
    pub(super) const fn load_cluster(&mut self, cluster: [u8; 16]) {
        self.cluster = cluster;
        self.cluster_dirty = false;
    }

    /// Takes over the id of the cluster that this node joins.
    pub(super) const fn become_of(&mut self, cluster: [u8; 16]) {
        self.cluster = cluster;
        self.cluster_dirty = true;
    }

    /// Takes over sets found in the store.
    pub(super) fn load_sets(&mut self, subject: SetSubject, sets: CardSets) {
        match subject {
            SetSubject::BackupKey => self.backup = sets,
            SetSubject::Users(_) | SetSubject::Administrators(_) => {
                // A slot that is no longer configured may be left out: its sets stay in the store.
                let _ = self.of_slots.push(SlotSets { subject, sets, dirty: false });
            }
        }
    }

    /// The sets of a subject.
    pub(super) fn sets(&self, subject: SetSubject) -> Option<&CardSets> {
        match subject {
            SetSubject::BackupKey => Some(&self.backup),
            SetSubject::Users(_) | SetSubject::Administrators(_) => {
                self.of_slots.iter().find(|found| found.subject == subject).map(|found| &found.sets)
            }
        }
    }

    /// Changes the sets of a subject. False where no more slots can have cards.
    pub(super) fn change_sets(&mut self, subject: SetSubject, change: impl FnOnce(&mut CardSets)) -> bool {
        match subject {
            SetSubject::BackupKey => {
                change(&mut self.backup);
                self.backup_dirty = true;
                true
            }
            SetSubject::Users(_) | SetSubject::Administrators(_) => {
                let known = self.of_slots.iter().position(|found| found.subject == subject);
                let place = known.unwrap_or(self.of_slots.len());
                if known.is_none() {
                    // Seen below, where it finds no place.
                    let _ = self.of_slots.push(SlotSets { subject, sets: CardSets::none(), dirty: false });
                }
                let Some(found) = self.of_slots.get_mut(place) else { return false };
                change(&mut found.sets);
                found.dirty = true;
                true
            }
        }
    }

    /// Whether another subject can have sets.
    pub(super) fn has_room_for(&self, subject: SetSubject) -> bool {
        self.sets(subject).is_some() || !self.of_slots.is_full()
    }

    /// Whether something beside the lines of a ceremony has to join the turn's transaction.
    pub(super) fn is_dirty(&self) -> bool {
        self.cluster_dirty
            || self.backup_dirty
            || self.registry.is_dirty()
            || self.of_slots.iter().any(|found| found.dirty)
    }

    /// The next record of the transaction that forms.
    pub(super) fn take_record(&mut self) -> Option<Record> {
        if core::mem::take(&mut self.cluster_dirty) {
            return Some(Record::Cluster(self.cluster));
        }
        if core::mem::take(&mut self.backup_dirty) {
            return Some(Record::CardSets { subject: SetSubject::BackupKey, sets: self.backup.clone() });
        }
        if let Some(found) = self.of_slots.iter_mut().find(|found| found.dirty) {
            found.dirty = false;
            return Some(Record::CardSets { subject: found.subject, sets: found.sets.clone() });
        }
        if let Some((place, entry)) = self.registry.take_dirty() {
            return Some(Record::Card { place, entry });
        }
        let (id, number, line) = self.lines.pop_front()?;
        Some(Record::Transcript { id, number, line })
    }

    /// The ceremony under way.
    pub(super) fn ceremony(&self) -> Option<&Ceremony> {
        self.running.as_ref().map(|running| &running.ceremony)
    }

    /// The first usable reader, or this one.
    pub(super) fn usable(&self, wanted: Option<ReaderId>) -> Result<ReaderId, Refusal> {
        let there = |reader: &&Reader| !matches!(reader.session.state(), session::State::NoReader { .. });
        match wanted {
            Some(id) => {
                self.readers.iter().filter(there).find(|reader| reader.id == id).ok_or(Refusal::UnknownReader)?;
                Ok(id)
            }
            None => self.readers.iter().filter(there).map(|reader| reader.id).min().ok_or(Refusal::NoReader),
        }
    }

    /// Another usable reader, or the same.
    pub(super) fn usable_beside(&self, first: ReaderId) -> ReaderId {
        let there = |reader: &&Reader| !matches!(reader.session.state(), session::State::NoReader { .. });
        let others = self.readers.iter().filter(there).map(|reader| reader.id).filter(|id| *id != first);
        others.min().unwrap_or(first)
    }

    /// The call that an act is about.
    pub(super) fn take_call(&mut self, ticket: Ticket) -> Option<CardCall> {
        let place = self.calls.iter().position(|(found, _)| *found == ticket)?;
        Some(self.calls.swap_remove(place).1)
    }

    /// The deadline of a call runs from here.
    pub(super) fn arm(&mut self, reader: ReaderId, ticket: Ticket, call: &CardCall, now: Now) {
        if let Some(reader) = self.readers.iter_mut().find(|found| found.id == reader) {
            reader.armed = Some((ticket, now.after_ms(session::deadline_ms(call))));
        }
    }

    /// When time itself becomes an input.
    pub(super) fn due_ms(&self) -> Option<u64> {
        let of_readers = self.readers.iter().filter_map(Reader::due_ms).min();
        let of_ceremony = self.ceremony().and_then(Ceremony::due_ms);
        [of_readers, of_ceremony].into_iter().flatten().min()
    }

    /// Whether this slot's token still owes an answer to a ceremony that went on without it.
    pub(super) fn is_unheard(&self, slot: SlotId) -> bool {
        self.unheard.iter().any(|(_, silent)| *silent == slot)
    }

    /// A token that was given up is heard. Which slot's it is.
    pub(super) fn take_unheard(&mut self, ticket: Ticket) -> Option<SlotId> {
        let place = self.unheard.iter().position(|(found, _)| *found == ticket)?;
        Some(self.unheard.swap_remove(place).1)
    }

    /// Whether this slot's token is being asked for derived keys.
    pub(super) fn is_keeping(&self, slot: SlotId) -> bool {
        self.keeping.iter().any(|(_, asked)| *asked == slot)
    }

    /// Whether lines of a ceremony still wait for their transaction.
    pub(super) fn writes_lines(&self) -> bool {
        !self.lines.is_empty()
    }

    /// Whether this call at a reader changes nothing at the card, and costs nobody a try.
    fn only_reads(&self, ticket: Ticket) -> bool {
        self.calls.iter().any(|(pending, call)| {
            *pending == ticket
                && match call {
                    CardCall::Select { .. } | CardCall::Tries { .. } | CardCall::Read { .. } => true,
                    CardCall::Hold
                    | CardCall::Verify { .. }
                    | CardCall::ChangePin { .. }
                    | CardCall::Write { .. }
                    | CardCall::Point { .. }
                    | CardCall::Erase { .. }
                    | CardCall::Release => false,
                }
        })
    }

    /// How many secrets the ceremony owns.
    pub(super) fn secrets(&self) -> usize {
        self.ceremony().map_or(0, Ceremony::secrets)
    }

    /// The ceremony is gone without its end: the service halted or stopped.
    pub(super) fn drop_ceremony(&mut self) {
        if let Some(running) = self.running.take() {
            self.last = Some((running.ceremony.id(), running.ceremony.command().kind(), CeremonyEnd::Interrupted));
        }
        self.calls.clear();
        self.lines.clear();
    }

    /// A token left a call unanswered: it gets no other one before it is heard.
    pub(super) fn note_unheard(&mut self, ticket: Ticket, slot: SlotId) {
        // One for each slot, in a table of the same capacity.
        let _ = self.unheard.push((ticket, slot));
    }

    /// The live view.
    pub(super) fn status(&self, now: Now) -> Option<CeremonyStatus> {
        let ceremony = self.ceremony()?;
        let reader = self.readers.iter().find(|reader| reader.id == ceremony.status(now, None).reader);
        Some(ceremony.status(now, reader.and_then(Reader::due_ms)))
    }

    /// How the last ceremony ended.
    pub(super) const fn last(&self) -> Option<(CeremonyId, CommandKind, CeremonyEnd)> {
        self.last
    }

    /// The backup key as everybody may see it.
    pub(super) fn backup_status(&self) -> Option<BackupStatus> {
        let set = self.backup.current?;
        let of_set = |x: u8| {
            let has = move |entry: &&CardEntry| entry.holds(&set.id) && entry.share.is_some_and(|share| share.x == x);
            self.registry.entries().iter().filter(has).map(|entry| entry.verified_s).max().flatten()
        };
        let oldest = (1..=set.quorum.n()).map(of_set).min().flatten();
        Some(BackupStatus { set, shares_in_use: self.registry.shares_in_use(&set.id), verified_s: oldest })
    }

    /// What is known here of a card that is held.
    fn facts(&self, facts: &Facts, card: &HeldCard) -> CardFacts {
        let entry = self.registry.find(&card.serial, facts.credential).copied();
        let share = entry.and_then(|entry| entry.share);
        let of_header = card.header.map(|header| self.standing(facts, &header));
        // What was written here counts where the card does not say itself.
        let known = |set_id: &[u8; 16]| {
            let of_slots = self.of_slots.iter().map(|found| &found.sets);
            core::iter::once(&self.backup).chain(of_slots).find_map(|sets| sets.standing(set_id))
        };
        let of_registry = share.map(|share| known(&share.set_id).unwrap_or(Standing::Unknown));
        let says_itself = card.profile == ProfileId::Iso7816Files;
        let standing = of_header.or(of_registry.filter(|_| !says_itself));
        let share = share.filter(|_| !says_itself);
        let set_id = card.header.map(|header| header.set_id).or(share.map(|share| share.set_id));
        let x = card.header.map(|header| header.x).or(share.map(|share| share.x)).unwrap_or(0);
        let set = set_id.and_then(|id| self.set_in_force(subject_of(facts), &id));
        let left = set.map_or(0, |set| self.registry.shares_without(&set.id, &card.serial));
        let copies = set.map_or(0, |set| self.registry.cards_of(&set.id, x));
        CardFacts {
            holder: entry.and_then(|entry| entry.holder),
            pin_changed: entry.is_some_and(|entry| entry.pin_changed_s.is_some()),
            lost: entry.is_some_and(|entry| entry.lost),
            standing,
            in_force: set.is_some(),
            only_quorum: set.is_some_and(|set| left < set.quorum.m()),
            cards_of_share: u8::try_from(copies).unwrap_or(u8::MAX),
            no_room: entry.is_none() && self.registry.is_full(),
        }
    }

    /// How the set of a record stands, among all sets that are known here.
    fn standing(&self, facts: &Facts, header: &ShareHeader) -> Standing {
        let of_slots = self.of_slots.iter().map(|found| &found.sets);
        let mut known = core::iter::once(&self.backup).chain(of_slots).map(|sets| sets.standing(&header.set_id));
        match known.find_map(|standing| standing) {
            Some(standing) => standing,
            None if header.subject == facts.subject => Standing::Unknown,
            None => Standing::Foreign,
        }
    }

    /// The set with this id whose cards may be wanted, of whatever subject. One in the making is
    /// when a change of its slot's PIN may have brought it into force: of a ceremony's own subject
    /// that is the set it makes, and is not in force.
    fn set_in_force(&self, under_way: SetSubject, id: &[u8; 16]) -> Option<CardSet> {
        let of_slots = self.of_slots.iter().flat_map(|found| {
            let next = found.sets.next.filter(|_| found.subject != under_way);
            found.sets.in_force().chain(next)
        });
        self.backup.in_force().chain(of_slots).find(|set| set.id == *id)
    }
}

impl Reader {
    fn due_ms(&self) -> Option<u64> {
        let of_call =
            self.armed.filter(|(ticket, _)| self.session.awaited() == Some(*ticket)).map(|(_, due_ms)| due_ms);
        [of_call, self.session.due_ms()].into_iter().flatten().min()
    }
}

/// The subject that a ceremony is about.
pub(super) const fn subject_of(facts: &Facts) -> SetSubject {
    match (facts.credential, facts.owner) {
        (Credential::SlotUser, Some(owner)) => SetSubject::Users(owner),
        (Credential::HsmAdministrator, Some(owner)) => SetSubject::Administrators(owner),
        (Credential::BackupShare | Credential::SlotUser | Credential::HsmAdministrator, _) => SetSubject::BackupKey,
    }
}

impl<const SLOTS: usize, const PLACES: usize, const OUTBOX: usize> Service<SLOTS, PLACES, OUTBOX> {
    /// Something happened at a reader.
    pub(super) fn reader_event(&mut self, reader: ReaderId, event: ReaderEvent) {
        let known = self.cards.readers.iter().any(|found| found.id == reader);
        if !known && event == ReaderEvent::Found {
            let session = CardSession::new(reader);
            // A fifth reader is one too many: it is not used.
            let _ = self.cards.readers.push(Reader { id: reader, session, armed: None });
        }
        self.session_event(reader, SessionEvent::Reader(event));
    }

    /// Whether a call of the ceremony changes a token's SO PIN now, within its deadline.
    pub(super) fn ceremony_changes_a_token(&self) -> bool {
        use crate::ceremony::State;
        let at_hsm = self.cards.ceremony().is_some_and(|ceremony| matches!(ceremony.state(), State::AtHsm { .. }));
        at_hsm && self.is_so_ceremony()
    }

    /// A call at a reader ended. False: it is not a reader's effect.
    pub(super) fn card_done(&mut self, ticket: Ticket, outcome: Outcome) -> bool {
        let Outcome::Card(result) = outcome else { return false };
        let awaits = |reader: &&Reader| reader.session.awaited() == Some(ticket);
        if let Some(reader) = self.cards.readers.iter().find(awaits).map(|reader| reader.id) {
            self.session_event(reader, SessionEvent::Done(ticket, result));
        }
        true
    }

    /// Ends waits whose time is over.
    pub(super) fn tick_cards(&mut self) {
        let now_ms = self.now.mono_ms;
        for place in 0..self.cards.readers.len() {
            let Some(reader) = self.cards.readers.get_mut(place) else { continue };
            if reader.due_ms().is_some_and(|due_ms| due_ms <= now_ms) {
                reader.armed = None;
                let id = reader.id;
                self.session_event(id, SessionEvent::DeadlinePassed);
            }
        }
        if self.cards.ceremony().and_then(Ceremony::due_ms).is_some_and(|due_ms| due_ms <= now_ms) {
            use crate::ceremony::State;
            if let Some(State::AtHsm { slot }) = self.cards.ceremony().map(Ceremony::state)
                && let Some(ticket) = self.cards.running.as_mut().and_then(|running| running.awaited.take())
            {
                self.cards.note_unheard(ticket, slot);
                if self.is_so_ceremony() {
                    // A try whose outcome nobody knows counts as refused.
                    let fault = Fault::Unanswered(crate::fault::Function::SetPin);
                    self.note_so(slot, Err(crate::ceremony::event::SoPinEnd::OldOrNew(fault)));
                }
            }
            self.ceremony_event(CeremonyEvent::DeadlinePassed);
        }
    }

    fn session_event(&mut self, reader: ReaderId, event: SessionEvent) {
        if let Some(event) = self.step(reader, event) {
            self.ceremony_event(event);
        }
    }

    /// No ceremony goes on: no card is kept, since it would stay unlocked.
    pub(super) fn let_cards_go(&mut self) {
        for place in 0..self.cards.readers.len() {
            let Some(reader) = self.cards.readers.get(place).map(|reader| reader.id) else { continue };
            let _ = self.step(reader, SessionEvent::Order(session::SessionOrder::Cancel));
        }
    }

    /// Runs one event of a session; what it reports, as the ceremony hears it.
    fn step(&mut self, reader: ReaderId, event: SessionEvent) -> Option<CeremonyEvent> {
        let mut report = None;
        let (now, calls) = (self.now, &mut self.cards.calls);
        match self.cards.readers.iter_mut().find(|found| found.id == reader) {
            Some(found) => {
                let mut out = Calls { outbox: &mut self.outbox, calls };
                found.session.handle(event, &mut SessionTurn { now, out: &mut out, report: &mut report });
                // A card that nobody asked for is not kept: it would stay unlocked.
                if self.cards.running.is_none() && matches!(found.session.state(), session::State::Ready { .. }) {
                    let cancel = SessionEvent::Order(session::SessionOrder::Cancel);
                    found.session.handle(cancel, &mut SessionTurn { now, out: &mut out, report: &mut None });
                }
            }
            None => {
                let ordered = matches!(event, SessionEvent::Order(_));
                report = ordered.then_some(SessionReport::Failed(session::CardProblem::ReaderGone));
            }
        }
        let report = report?;
        let facts = self.cards.ceremony()?.facts();
        Some(match report {
            SessionReport::Identified(card) => CeremonyEvent::Identified(reader, card, self.cards.facts(facts, &card)),
            SessionReport::RecordRead(read) => {
                let standing = read.ok().map(|record| self.cards.standing(facts, &record.header));
                CeremonyEvent::RecordRead(reader, read, standing)
            }
            SessionReport::PinAccepted
            | SessionReport::PinChanged
            | SessionReport::PinWrong { .. }
            | SessionReport::PinBlocked
            | SessionReport::PadEnded(_)
            | SessionReport::PinOldOrNew
            | SessionReport::Written
            | SessionReport::Erased
            | SessionReport::Removed
            | SessionReport::Cancelled
            | SessionReport::Failed(_) => CeremonyEvent::Reported(reader, report),
        })
    }

    /// Begins a ceremony; everything was checked.
    pub(super) fn run_ceremony(&mut self, caller: Caller, command: Command, facts: Facts) {
        let sequence = self.outbox.next_sequence();
        let id = CeremonyId::of(&command, &facts, sequence);
        let kind = command.kind();
        self.outbox.journal_order(Some(caller.who), command.slot(), AuditEvent::CeremonyBegan(id, kind));
        let (mut deeds, mut bug) = (Vec::new(), None);
        let now = self.now;
        let mut turn = CeremonyTurn { now, secrets: &mut self.safe, deeds: &mut deeds, bug: &mut bug };
        let ceremony = Ceremony::new(id, command, facts, &mut turn);
        self.cards.running = Some(Running { ceremony, caller, next_line: 0, head: [0; 32], awaited: None });
        self.write_line(LineEntry::Begun { command: command.without_secrets(), facts });
        self.ceremony_event(CeremonyEvent::Begin);
    }

    /// Runs one event of the ceremony, and those that follow from it.
    pub(super) fn ceremony_event(&mut self, first: CeremonyEvent) {
        let mut events: Deque<CeremonyEvent, EVENTS_MAX> = Deque::new();
        let _ = events.push_back(first);
        while let Some(event) = events.pop_front() {
            if self.cards.running.is_none() {
                return;
            }
            self.write_line(LineEntry::Event(event));
            let (mut deeds, mut bug): (Vec<Deed, DEEDS_MAX>, _) = (Vec::new(), None);
            let now = self.now;
            if let Some(running) = &mut self.cards.running {
                let mut turn = CeremonyTurn { now, secrets: &mut self.safe, deeds: &mut deeds, bug: &mut bug };
                running.ceremony.handle(event, &mut turn);
            }
            if let Some(place) = bug {
                self.outbox.bug(place);
            }
            for deed in deeds {
                if let Some(event) = self.perform(deed)
                    && events.push_back(event).is_err()
                {
                    self.outbox.bug(BUG_EVENTS);
                }
            }
        }
    }

    /// Does what a ceremony wants; what is known at once is its next event.
    fn perform(&mut self, deed: Deed) -> Option<CeremonyEvent> {
        match deed {
            Deed::Session(reader, order) => return self.step(reader, SessionEvent::Order(order)),
            Deed::Draw(id) => {
                let ticket = self.outbox.service_ticket();
                self.outbox.act(Act::Random { ticket, id });
                self.await_effect(ticket);
            }
            Deed::Make { .. }
            | Deed::Share { .. }
            | Deed::Same(..)
            | Deed::Combine { .. }
            | Deed::Rehearse { .. }
            | Deed::Pin { .. } => return self.judge(deed),
            Deed::PutKeys { secret, key_id, slot } => return self.put_keys(secret, key_id, slot),
            Deed::CheckFile => {
                let ticket = self.outbox.service_ticket();
                self.outbox.act(Act::File { ticket, step: FileStep::Check });
                self.await_effect(ticket);
            }
            Deed::SetSoPin { slot, old, new } => return self.set_so_pin(slot, [old, new]),
            Deed::BeginSet(set) => {
                if let Some(subject) = self.subject() {
                    self.cards.change_sets(subject, |sets| sets.begin_next(set));
                }
            }
            Deed::VoidSet => {
                if let Some(subject) = self.subject() {
                    self.cards.change_sets(subject, |sets| {
                        sets.void_next();
                    });
                    self.outbox.journal_service(None, AuditEvent::CardSetVoid);
                }
            }
            Deed::CommitSet(adopted) => self.commit_set(adopted),
            Deed::Note(note) => self.note_card(note),
            Deed::Deliver { present, new } => self.deliver(present, new),
            Deed::Wipe(id) => self.outbox.act(Act::Wipe(id)),
            Deed::Journal(who, event) => {
                let slot = self.cards.ceremony().and_then(|ceremony| ceremony.command().slot());
                self.outbox.journal_order(who, slot, event);
            }
            Deed::End(answer) => self.end_ceremony(answer),
        }
        None
    }

    /// The subject of the ceremony under way.
    pub(super) fn subject(&self) -> Option<SetSubject> {
        self.cards.ceremony().map(|ceremony| subject_of(ceremony.facts()))
    }

    /// The ceremony waits for this effect.
    pub(super) fn await_effect(&mut self, ticket: Ticket) {
        if let Some(running) = &mut self.cards.running {
            running.awaited = Some(ticket);
        }
    }

    /// Whether the ceremony waits for this effect; it does so no more.
    pub(super) fn was_awaited(&mut self, ticket: Ticket) -> bool {
        match &mut self.cards.running {
            Some(running) if running.awaited == Some(ticket) => {
                running.awaited = None;
                true
            }
            Some(_) | None => false,
        }
    }

    fn commit_set(&mut self, adopted: Option<CardSet>) {
        let Some(subject) = self.subject() else { return };
        match adopted {
            None => {
                self.cards.change_sets(subject, CardSets::promote_next);
            }
            Some(set) => {
                self.cards.change_sets(subject, |sets| {
                    sets.last_generation = sets.last_generation.max(set.generation);
                    sets.current = Some(set);
                });
            }
        }
        if subject == SetSubject::BackupKey {
            self.keep_backup_keys_everywhere();
        }
    }

    fn note_card(&mut self, note: CardNote) {
        let CardNote { serial, credential, profile, what } = note;
        // Of a card that was never written here there is nothing to forget.
        if what == Noted::Erased && self.cards.registry.find(&serial, credential).is_none() {
            return;
        }
        let wall_s = self.now.wall_s;
        let noted = self.cards.registry.change(serial, credential, profile, |entry| match what {
            Noted::PinChanged(holder) => {
                entry.pin_changed_s = Some(wall_s.unwrap_or(0));
                entry.holder = holder.or(entry.holder);
            }
            Noted::PinUnknown => entry.pin_changed_s = None,
            Noted::Written { header, holder } => {
                entry.share = Some(on_card(&header));
                entry.holder = holder.or(entry.holder);
                entry.verified_s = wall_s;
            }
            Noted::Verified(header) => {
                entry.share = Some(on_card(&header));
                entry.verified_s = wall_s;
            }
            Noted::Erased => {
                entry.share = None;
                entry.verified_s = None;
            }
        });
        // A card more than can be kept account of was refused before it was written.
        if let Err(refusal) = noted {
            self.outbox.journal_service(None, AuditEvent::CardRefused(refusal));
        }
    }

    fn end_ceremony(&mut self, answer: Answer) {
        let end = match answer {
            Answer::Refused(refusal) => CeremonyEnd::Refused(refusal),
            Answer::Failed(fault) => CeremonyEnd::Failed(fault),
            Answer::Done | Answer::NeedsApproval { .. } | Answer::Waits(_) | Answer::Share { .. } => CeremonyEnd::Done,
        };
        self.let_go_of_file();
        if let Some(caller) = self.close_transcript(end) {
            self.reply(caller, answer);
        }
    }

    /// The last line, the audit record, the signature. Returns who ordered it.
    pub(super) fn close_transcript(&mut self, end: CeremonyEnd) -> Option<Caller> {
        let human_steps = self.cards.ceremony()?.status(self.now, None).human_steps;
        self.write_line(LineEntry::Ended { end, human_steps });
        let running = self.cards.running.take()?;
        let (id, kind) = (running.ceremony.id(), running.ceremony.command().kind());
        self.cards.last = Some((id, kind, end));
        let slot = running.ceremony.command().slot();
        self.outbox.journal_order(Some(running.caller.who), slot, AuditEvent::CeremonyEnded(id, end));
        self.outbox.act(Act::SignTranscript { id, head: running.head });
        self.outbox.act(Act::Checkpoint);
        Some(running.caller)
    }

    /// Whether lines of the transcript have to be durable before what this turn does. A call that
    /// only reads a card does not wait: whoever sits before the pad would. Its lines join the next
    /// transaction, at the latest that of what was read.
    pub(super) fn are_lines_due(&self) -> bool {
        let only_reads = |act: &Act| matches!(act, Act::Card { ticket, .. } if self.cards.only_reads(*ticket));
        self.cards.writes_lines() && !self.outbox.turn_is_all(only_reads)
    }

    fn write_line(&mut self, entry: LineEntry) {
        let Some(running) = &mut self.cards.running else { return };
        let line = Line { mono_ms: self.now.mono_ms, wall_s: self.now.wall_s, entry };
        running.head = line.hash(&running.head);
        let number = running.next_line;
        running.next_line = number.saturating_add(1);
        if self.cards.lines.push_back((running.ceremony.id(), number, line)).is_err() {
            self.outbox.bug(BUG_LINES);
        }
    }

    /// Declares a card lost.
    pub(super) fn card_lost(&mut self, caller: Caller, serial: CardSerial, credential: Credential) {
        let known = self.cards.registry.find(&serial, credential).copied();
        let answer = match known {
            None => Answer::Refused(Refusal::UnknownCard),
            // The ceremony may be about to put a set in force that counts this card in.
            Some(_) if self.cards.ceremony().is_some() => Answer::Refused(Refusal::CeremonyUnderWay),
            Some(entry) => {
                // It is there already, so it has a place.
                let _ = self.cards.registry.change(serial, credential, entry.profile, |entry| entry.lost = true);
                self.outbox.journal_service(Some(caller.who), AuditEvent::CardLost);
                Answer::Done
            }
        };
        self.reply(caller, answer);
    }

    /// Answers what the ceremony asks.
    pub(super) fn answer_ceremony(&mut self, caller: Caller, id: CeremonyId, yes: bool, confirmed: bool) {
        let may = match self.cards.ceremony().filter(|ceremony| ceremony.id() == id) {
            None => Err(Refusal::NoCeremony),
            // The second person of a last try is one who may approve, and neither began it nor types.
            Some(ceremony)
                if yes
                    && ceremony.asks_another()
                    && (ceremony.wanted() == Some(caller.who) || !self.may(caller.who, CommandKind::Approve)) =>
            {
                Err(Refusal::SecondPersonWanted)
            }
            Some(ceremony) if self.is_concerned(ceremony, caller.who) || ceremony.asks_another() => {
                ceremony.may_answer(caller.who, yes, confirmed)
            }
            Some(_) => Err(Refusal::CeremonyOfOthers),
        };
        match may {
            Ok(()) => {
                self.reply(caller, Answer::Done);
                self.ceremony_event(CeremonyEvent::Answered { who: caller.who, yes });
            }
            Err(refusal) => self.refuse_ceremony(caller, CommandKind::AnswerCeremony, refusal),
        }
    }

    /// Ends the ceremony, for whoever began it, is wanted in it, or is an administrator.
    pub(super) fn cancel_ceremony(&mut self, caller: Caller, id: CeremonyId) {
        use crate::ceremony::State;
        let may = match self.cards.ceremony().filter(|ceremony| ceremony.id() == id) {
            None => Err(Refusal::NoCeremony),
            Some(ceremony) if matches!(ceremony.state(), State::AtHsm { .. }) => Err(Refusal::CeremonyNotNow),
            Some(ceremony) if self.is_concerned(ceremony, caller.who) => {
                Ok(matches!(ceremony.state(), State::Leaving { .. }))
            }
            Some(_) => Err(Refusal::CeremonyOfOthers),
        };
        match may {
            // It is ending already.
            Ok(true) => self.reply(caller, Answer::Done),
            Ok(false) => {
                self.reply(caller, Answer::Done);
                self.ceremony_event(CeremonyEvent::CancelOrdered { who: Some(caller.who) });
            }
            Err(refusal) => self.refuse_ceremony(caller, CommandKind::CancelCeremony, refusal),
        }
    }

    /// Whether it is for this person to say how the ceremony goes on: who began it, who is wanted in
    /// it, and administrators.
    fn is_concerned(&self, ceremony: &Ceremony, who: PersonId) -> bool {
        let administrator = self.persons.roles(who).has(Role::Administrator);
        administrator || ceremony.facts().starter == who || ceremony.wanted() == Some(who)
    }

    fn refuse_ceremony(&mut self, caller: Caller, kind: CommandKind, refusal: Refusal) {
        self.note_refused_at_door(caller.who, kind, refusal);
        self.reply(caller, Answer::Refused(refusal));
    }

    /// The worker is gone: what a token was doing for the ceremony is unknown.
    pub(super) fn ceremony_lost_worker(&mut self) {
        self.cards.keeping.clear();
        self.cards.unheard.clear();
        for entry in &mut self.entries {
            entry.data.backup_key = None;
        }
        use crate::ceremony::State;
        if let Some(State::AtHsm { slot }) = self.cards.ceremony().map(Ceremony::state) {
            self.await_nothing();
            self.ceremony_hsm_ended(slot, Err(Fault::WorkerLost(crate::fault::Function::Other)));
        }
    }

    fn await_nothing(&mut self) {
        if let Some(running) = &mut self.cards.running {
            running.awaited = None;
        }
    }

    /// Whose keys are being asked for, by ticket.
    pub(super) fn take_keeping(&mut self, ticket: Ticket) -> Option<SlotId> {
        let place = self.cards.keeping.iter().position(|(found, _)| *found == ticket)?;
        Some(self.cards.keeping.swap_remove(place).1)
    }

    /// A token is asked for the keys of the backup key in force.
    pub(super) fn note_keeping(&mut self, ticket: Ticket, slot: SlotId) {
        self.cards.keeping.retain(|(_, asked)| *asked != slot);
        // One for each slot, in a table of the same capacity.
        let _ = self.cards.keeping.push((ticket, slot));
    }
}

fn on_card(header: &ShareHeader) -> ShareOnCard {
    ShareOnCard { set_id: header.set_id, x: header.x, generation: header.generation }
}
