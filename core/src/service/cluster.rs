//! The cluster in the service: rosters that are offered, the one in force, and marks.

use heapless::Vec;

use super::Service;
use crate::audit::AuditEvent;
use crate::card::sets::{CardSets, SetSubject};
use crate::cluster::{self, ClusterOrder, Followed, Membership, Own};
use crate::command::{Answer, Caller, Command};
use crate::effect::{Outcome, SlotId, Ticket};
use crate::fault::{Fault, Refusal};
use crate::limits::PLATFORM_DEADLINE_MS;
use crate::outbox::Act;
use crate::package::{self, Admission, Header, Mark, Marks};
use crate::reception::{Parcel, Waiter};
use crate::record::Record;
use crate::roster::{Roster, SignedRoster};
use crate::status::ClusterStatus;
use crate::transfer::{self, FileOrder, FileStep, Purpose, TransferOrder};
use crate::turn::Out;

/// What the service knows of the cluster.
pub(super) struct Clustering<const SLOTS: usize> {
    node: [u8; 32],
    automatic: bool,
    membership: Option<Membership>,
    membership_dirty: bool,
    marks: Marks,
    marks_dirty: bool,
    /// The roster that the next order may name.
    offered: Option<SignedRoster>,
    /// Uids that slots get when this node joins.
    uids: Vec<(SlotId, [u8; 16]), SLOTS>,
    /// The package that was admitted last, without slots.
    admitted: Option<Parcel>,
    /// The platform is filing the roster in force: for whom, and until when.
    filing: Option<(Ticket, Option<Waiter>, u64)>,
}

impl<const SLOTS: usize> Clustering<SLOTS> {
    pub(super) const fn new() -> Self {
        Clustering {
            node: [0; 32],
            automatic: false,
            membership: None,
            membership_dirty: false,
            marks: Marks::new(),
            marks_dirty: false,
            offered: None,
            uids: Vec::new(),
            admitted: None,
            filing: None,
        }
    }

    /// The package that was admitted, if it is this one. Only one that is newer than all before.
    pub(super) fn admitted(&self, hash: [u8; 32]) -> Result<Parcel, Refusal> {
        let parcel = self.admitted.filter(|parcel| parcel.hash == hash).ok_or(Refusal::NothingReceived)?;
        let newer = self.marks.of(&parcel.source).is_none_or(|mark| mark.sequence < parcel.sequence);
        if newer { Ok(parcel) } else { Err(Refusal::PackageOld) }
    }

    /// A package was taken in: the same one again is nothing new.
    pub(super) fn mark(&mut self, parcel: Parcel) {
        let Parcel { source, sequence, hash, .. } = parcel;
        // Its mark may be there already after a power cut; it never falls.
        self.marks_dirty |= self.marks.note(Mark { node: source, sequence, hash });
        self.admitted = None;
    }

    /// A package of this number is being made: it is used up.
    pub(super) const fn sent(&mut self, sequence: u64) {
        self.marks.sent = sequence;
        self.marks_dirty = true;
    }

    pub(super) const fn is_dirty(&self) -> bool {
        self.membership_dirty || self.marks_dirty
    }

    /// The next record of the transaction that forms.
    pub(super) fn take_record(&mut self) -> Option<Record> {
        if core::mem::take(&mut self.membership_dirty) {
            return self.membership.clone().map(Record::Roster);
        }
        core::mem::take(&mut self.marks_dirty).then(|| Record::SyncMarks(self.marks.clone()))
    }

    /// Whether this node is a member, and not the only one: then its tokens keep U.
    pub(super) fn has_others(&self) -> bool {
        self.membership
            .as_ref()
            .is_some_and(|found| found.roster.members.len() > 1 && found.roster.member(&self.node).is_some())
    }

    pub(super) const fn due_ms(&self) -> Option<u64> {
        match self.filing {
            Some((_, _, due_ms)) => Some(due_ms),
            None => None,
        }
    }

    /// The roster in force, where this node may exchange keys under it.
    fn exchanging(&self) -> Result<&Roster, Refusal> {
        let membership = self.membership.as_ref().ok_or(Refusal::NoCluster)?;
        if membership.roster.member(&self.node).is_none() {
            return Err(Refusal::NotRosterMember);
        }
        if membership.divided { Err(Refusal::RosterDiverged) } else { Ok(&membership.roster) }
    }
}

impl<const SLOTS: usize, const PLACES: usize, const OUTBOX: usize> Service<SLOTS, PLACES, OUTBOX> {
    /// Hands over the node's own public key, by which rosters know it. Before `Input::Start` only.
    pub const fn load_node(&mut self, node: [u8; 32]) {
        self.clustering.node = node;
    }

    /// Whether the protected configuration lets the service make, plan and apply packages by itself. Before
    /// `Input::Start` only.
    pub const fn load_automatic(&mut self, automatic: bool) {
        self.clustering.automatic = automatic;
    }

    /// Hands over the roster in force found in the store. Before `Input::Start` only.
    pub fn load_roster(&mut self, membership: Membership) {
        self.clustering.membership = Some(membership);
    }

    /// Hands over the marks found in the store. Before `Input::Start` only.
    pub fn load_marks(&mut self, marks: Marks) {
        self.clustering.marks = marks;
    }

    /// Puts the roster into its place that the next order names: one that another member signed, or one
    /// that this node proposes, with itself as signer and no signature yet. The platform has it
    /// and its annex durably, to be able to file it later. Changes nothing.
    pub fn offer_roster(&mut self, roster: SignedRoster) {
        self.clustering.offered = Some(roster);
        self.clustering.uids.clear();
    }

    /// With a roster that is going to be joined: the uid that a slot here has in the cluster.
    pub fn offer_slot_uid(&mut self, slot: SlotId, uid: [u8; 16]) {
        self.clustering.uids.retain(|(known, _)| *known != slot);
        // One for each slot, in a table of the same capacity; another number is refused by the order.
        let _ = self.clustering.uids.push((slot, uid));
    }

    /// Names the uids that were offered, for [`ClusterOrder::Join`].
    #[must_use]
    pub fn offered_slots(&self) -> [u8; 32] {
        cluster::slots_digest(&self.clustering.uids)
    }

    /// The roster in force; where this node was shut out, the one that did it.
    #[must_use]
    pub fn roster(&self) -> Option<&Roster> {
        self.clustering.membership.as_ref().map(|found| &found.roster)
    }

    /// What was taken from other members, and sent to them.
    #[must_use]
    pub const fn marks(&self) -> &Marks {
        &self.clustering.marks
    }

    /// Judges the header of a package before anything else of it is read.
    ///
    /// # Errors
    /// [`Refusal::NoCluster`], [`Refusal::NotRosterMember`], [`Refusal::RosterDiverged`], and as [`package::judge_header`].
    pub fn judge_package(&self, header: &Header) -> Result<(), Refusal> {
        package::judge_header(header, self.clustering.exchanging()?, &self.clustering.node)
    }

    /// Judges a package that was read to its end, and whose signature is its source's; the next
    /// [`TransferOrder::Receive`] may then name it.
    ///
    /// # Errors
    /// As [`Service::judge_package`] and [`package::admit`].
    pub fn admit_package(&mut self, header: &Header, hash: &[u8; 32]) -> Result<Admission, Refusal> {
        self.clustering.admitted = None;
        let Clustering { node, marks, .. } = &self.clustering;
        let admission = package::admit(header, hash, self.clustering.exchanging()?, node, marks)?;
        if admission == Admission::Take {
            let Header { source, sequence, key_id, .. } = *header;
            let slots = crate::ceremony::order::SlotSet::NONE;
            self.clustering.admitted = Some(Parcel { source, sequence, hash: *hash, key_id, slots });
        }
        Ok(admission)
    }

    /// Whether the service itself may give this order, and needs nobody's approval for it.
    pub(super) fn orders_by_itself(&self, command: &Command) -> Result<bool, Refusal> {
        let exchange = matches!(
            command,
            Command::Transfer {
                order: TransferOrder::Package { .. } | TransferOrder::Receive { .. } | TransferOrder::Apply { .. }
            }
        );
        let follows = matches!(command, Command::Cluster { order: ClusterOrder::Follow { .. } });
        let changes = matches!(command, Command::Cluster { .. }) && !follows;
        if changes || (exchange && !self.clustering.automatic) { Err(Refusal::NotAllowed) } else { Ok(exchange) }
    }

    /// What a package is made of, or why none is made.
    pub(super) fn plan_package(&self, targets: u8, roster_epoch: u32) -> Result<Purpose, Refusal> {
        if self.is_receiving() {
            return Err(Refusal::TransferUnderWay);
        }
        let roster = self.clustering.exchanging()?;
        if roster.epoch != roster_epoch {
            return Err(Refusal::RosterNotOffered);
        }
        let current = self.cards.backup.current.ok_or(Refusal::NoBackupKey)?;
        if current.key_id != roster.key_id {
            return Err(Refusal::PackageOfAnotherKey);
        }
        let bit = |place: usize| u32::try_from(place).ok().and_then(|place| 1u8.checked_shl(place)).unwrap_or(0);
        let others = roster.members.iter().enumerate().filter(|(_, member)| member.node != self.clustering.node);
        let others = others.fold(0, |bits, (place, _)| bits | bit(place));
        if targets & !others != 0 {
            return Err(Refusal::UnknownMember);
        }
        if targets == 0 {
            return Err(Refusal::NoTarget);
        }
        let sequence = self.clustering.marks.sent.saturating_add(1);
        Ok(Purpose::Package { targets, sequence, roster_epoch })
    }

    /// Whether a roster does what the order says. Before somebody is asked to approve it, and again after.
    pub(super) fn judge_cluster(&self, order: &ClusterOrder) -> Result<(), Refusal> {
        self.judged(order).map(|_| ())
    }

    fn judged(&self, order: &ClusterOrder) -> Result<Followed, Refusal> {
        if self.transfer.state() != transfer::State::Idle || self.is_receiving() {
            return Err(Refusal::TransferUnderWay);
        }
        if self.clustering.filing.is_some() {
            return Err(Refusal::OutboxFull);
        }
        let own = Own {
            node: self.clustering.node,
            cluster: self.cards.cluster,
            key_id: self.cards.backup.current.map(|set| set.key_id),
        };
        let current = self.clustering.membership.as_ref();
        let in_force = current.filter(|current| current.roster.hash() == order.hash());
        let offered = self.clustering.offered.as_ref().filter(|offered| offered.roster.hash() == order.hash());
        let offered = offered.ok_or(Refusal::RosterNotOffered);
        match *order {
            ClusterOrder::Found { .. }
            | ClusterOrder::Invite { .. }
            | ClusterOrder::Remove { .. }
            | ClusterOrder::Renew { .. } => {
                let offered = offered?;
                if offered.signer != own.node {
                    return Err(Refusal::RosterNotOffered);
                }
                cluster::propose(current, &offered.roster, &own, order.kind()).map(|()| Followed::Next)
            }
            ClusterOrder::Follow { .. } if in_force.is_some() => Ok(Followed::Same),
            ClusterOrder::Follow { .. } => cluster::follow(current, offered?, &own),
            ClusterOrder::Choose { .. } if in_force.is_some() => {
                cluster::choose(current, None, &own).map(|()| Followed::Same)
            }
            ClusterOrder::Choose { .. } => cluster::choose(current, Some(offered?), &own).map(|()| Followed::Next),
            ClusterOrder::Join { slots, .. } => {
                cluster::join(current, offered?, &own)?;
                if slots != self.offered_slots() {
                    return Err(Refusal::RosterNotOffered);
                }
                if self.cards.ceremony().is_some() {
                    return Err(Refusal::CeremonyUnderWay);
                }
                self.clustering.uids.iter().try_for_each(|(slot, uid)| self.may_be_renamed(*slot, *uid))?;
                Ok(Followed::Next)
            }
        }
    }

    /// Whether a slot can have this uid from here on: nothing that people hold was made for another one.
    fn may_be_renamed(&self, slot: SlotId, uid: [u8; 16]) -> Result<(), Refusal> {
        let data = &self.entries.get(usize::from(slot.0)).ok_or(Refusal::UnknownSlot)?.data;
        let made = |sets: &CardSets| sets.current.is_some() || sets.next.is_some();
        let cards = [SetSubject::Users(data.owner), SetSubject::Administrators(data.owner)];
        let of_cards = cards.into_iter().any(|subject| self.cards.sets(subject).is_some_and(made));
        let of_shares = data.sets.current.is_some() || data.sets.next.is_some();
        let collected = self.collecting(slot).is_some();
        if data.record.uid == uid || !(of_cards || of_shares || collected) {
            Ok(())
        } else {
            Err(Refusal::HasOwnCluster)
        }
    }

    /// An order about the cluster.
    pub(super) fn order_cluster(&mut self, caller: Caller, order: ClusterOrder) {
        let kind = order.kind();
        let judged = match self.judged(&order) {
            Ok(judged) => judged,
            Err(refusal) => return self.refuse_package(caller, kind, refusal),
        };
        if judged == Followed::Divides {
            if let Some(membership) = &mut self.clustering.membership {
                membership.divided = true;
                membership.other = Some(order.hash());
                self.clustering.membership_dirty = true;
                let epoch = membership.roster.epoch;
                self.outbox.journal_service(Some(caller.who), AuditEvent::ClusterDivided { epoch });
            }
            return self.refuse_package(caller, kind, Refusal::RosterDiverged);
        }
        self.outbox.journal_service(Some(caller.who), AuditEvent::Ordered(kind));
        let offered = self.clustering.offered.take().filter(|_| judged == Followed::Next);
        if let Some(SignedRoster { roster, .. }) = offered {
            if matches!(order, ClusterOrder::Join { .. }) {
                self.take_over(&roster);
            }
            let (epoch, hash) = (roster.epoch, roster.hash());
            self.clustering.marks.keep(&roster);
            self.clustering.marks_dirty = true;
            let before = self.roster().map(Roster::hash).filter(|_| matches!(order, ClusterOrder::Choose { .. }));
            self.clustering.membership = Some(match before {
                Some(other) => Membership::chosen(roster, other),
                None => Membership::under(roster),
            });
            self.outbox.journal_service(Some(caller.who), AuditEvent::RosterInForce { epoch, hash });
            // Whether U may be there, and whether it is, has changed.
            self.keep_backup_keys_everywhere();
        } else if let (Some(membership), ClusterOrder::Choose { .. }) = (&mut self.clustering.membership, &order) {
            membership.divided = false;
        }
        self.clustering.membership_dirty = true;
        self.clustering.admitted = None;
        self.keep_roster(Some((caller, kind)));
    }

    /// The cluster's id, and the uids of its slots, are this node's from here on.
    fn take_over(&mut self, roster: &Roster) {
        self.cards.become_of(roster.cluster);
        let uids = core::mem::take(&mut self.clustering.uids);
        for (slot, uid) in uids {
            if let Some(entry) = self.entries.get_mut(usize::from(slot.0)) {
                entry.data.record.uid = uid;
                entry.data.dirty = true;
            }
        }
    }

    /// Has the platform sign and file the roster in force.
    fn keep_roster(&mut self, waiter: Option<Waiter>) {
        let ticket = self.outbox.service_ticket();
        self.outbox.act(Act::File { ticket, step: FileStep::KeepRoster });
        self.clustering.filing = Some((ticket, waiter, self.now.after_ms(PLATFORM_DEADLINE_MS)));
    }

    /// A roster that the last run did not file is filed now.
    pub(super) fn go_on_with_roster(&mut self) {
        if self.clustering.membership.as_ref().is_some_and(|found| !found.filed) {
            self.keep_roster(None);
        }
    }

    /// Which roster is to be filed.
    pub(super) fn roster_order(&self) -> FileOrder {
        match &self.clustering.membership {
            Some(membership) => FileOrder::KeepRoster { hash: membership.roster.hash() },
            None => FileOrder::Discard,
        }
    }

    /// Whether this was the filing of a roster.
    pub(super) fn roster_kept(&mut self, ticket: Ticket, outcome: Outcome) -> bool {
        let Some((_, waiter, _)) = self.clustering.filing.filter(|(found, ..)| *found == ticket) else { return false };
        self.clustering.filing = None;
        let result = match outcome {
            Outcome::File(result) => result,
            Outcome::Hsm(_)
            | Outcome::Random(_)
            | Outcome::Unsealed(_)
            | Outcome::Application(_)
            | Outcome::Card(_)
            | Outcome::FileChecked(_)
            | Outcome::Zeroized(_) => Err(Fault::StoreFailed),
        };
        if let (Ok(()), Some(membership)) = (result, &mut self.clustering.membership) {
            membership.filed = true;
            self.clustering.membership_dirty = true;
        }
        if let Some((caller, kind)) = waiter {
            let (event, answer) = match result {
                Ok(()) => (AuditEvent::Completed(kind), Answer::Done),
                // It is in force all the same; the same roster followed once more files it.
                Err(fault) => (AuditEvent::Failed(kind, fault), Answer::Failed(fault)),
            };
            self.outbox.journal_service(Some(caller.who), event);
            self.reply(caller, answer);
        }
        true
    }

    pub(super) fn tick_cluster(&mut self) {
        if let Some((ticket, _, due_ms)) = self.clustering.filing
            && due_ms <= self.now.mono_ms
        {
            self.roster_kept(ticket, Outcome::File(Err(Fault::StoreFailed)));
        }
    }

    pub(super) fn cluster_status(&self) -> Option<ClusterStatus> {
        let Membership { roster, filed, divided, other: _ } = self.clustering.membership.as_ref()?;
        Some(ClusterStatus {
            epoch: roster.epoch,
            members: u8::try_from(roster.members.len()).unwrap_or(u8::MAX),
            own: roster.place(&self.clustering.node),
            filed: *filed,
            divided: *divided,
        })
    }

    /// The U that stays in a token when a restore ends.
    pub(super) fn kept_unwrap_key(&self, slot: SlotId) -> Option<([u8; 16], [u8; 16])> {
        let key_id = self.cards.backup.current?.key_id;
        let uid = self.slot_record(slot)?.uid;
        self.clustering.has_others().then_some((key_id, uid))
    }
}
