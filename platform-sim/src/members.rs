//! Members of a cluster: rooms that know each other, and rosters that they sign.
//!
//! A member's tokens have W, MAK and U from the start, as the ceremony leaves them that ends a join. What a
//! platform checks before it asks the core (signatures of rosters and packages) is right here by construction.

use crate::code::Code;
use crate::hsm::{BackupKey, Purpose};
use crate::room::{ADMINISTRATOR, Room};
use crate::sync::Package;
use ed25519_dalek::{Signer as _, SigningKey};
use slotwarden_core::card::sets::{CardSet, CardSets, SetSubject};
use slotwarden_core::ceremony::order::SlotSet;
use slotwarden_core::cluster::ClusterOrder;
use slotwarden_core::command::{Answer, Command};
use slotwarden_core::effect::SlotId;
use slotwarden_core::fault::Refusal;
use slotwarden_core::package::Admission;
use slotwarden_core::person::{PersonId, Roster as Holders};
use slotwarden_core::reception;
use slotwarden_core::roster::{Member, Roster, SignedRoster};
use slotwarden_core::share::card_set::CardQuorum;
use slotwarden_core::slot;
use slotwarden_core::transfer::TransferOrder;

/// The answer to an order that was carried out.
pub const DONE: Option<Answer> = Some(Answer::Done);
/// Names the backup key of the cluster.
pub const KEY_ID: [u8; 16] = [0xBB; 16];
/// Uids of the two slots, the same at every member.
pub const UIDS: [[u8; 16]; 2] = [[0xA0; 16], [0xA1; 16]];

/// The answer to an order that was refused.
#[must_use]
pub const fn refused(refusal: Refusal) -> Option<Answer> {
    Some(Answer::Refused(refusal))
}

/// A node, with the key that signs for it.
pub struct Node {
    /// Its core, tokens and files.
    pub room: Room,
    /// Signs rosters.
    pub signing: SigningKey,
}

impl Node {
    /// A node that is in no cluster; two slots are open.
    #[must_use]
    pub fn new(number: u8) -> Self {
        let signing = SigningKey::from_bytes(&[number + 1; 32]);
        let mut room = Room::new(0);
        room.node = signing.verifying_key().to_bytes();
        let mut node = Node { room, signing };
        node.reopen();
        node
    }

    /// By which rosters know it.
    #[must_use]
    pub const fn key(&self) -> [u8; 32] {
        self.room.node
    }

    /// As it stands in rosters.
    #[must_use]
    pub const fn member(&self) -> Member {
        Member { node: self.room.node, seal: [0x5E; 32] }
    }

    /// A person orders a transfer.
    pub fn order(&mut self, order: TransferOrder) -> Option<Answer> {
        self.room.order(ADMINISTRATOR, Command::Transfer { order })
    }

    /// The service itself orders one.
    pub fn by_itself(&mut self, order: TransferOrder) -> Option<Answer> {
        self.room.order(PersonId::SERVICE, Command::Transfer { order })
    }

    /// A person orders something about the cluster.
    pub fn cluster(&mut self, order: ClusterOrder) -> Option<Answer> {
        self.room.order(ADMINISTRATOR, Command::Cluster { order })
    }

    /// The roster in force.
    pub fn roster(&mut self) -> Roster {
        self.room.core().roster().cloned().expect("a roster is in force")
    }

    /// Whether it heard of two rosters of one epoch, and nobody chose yet.
    pub fn is_divided(&mut self) -> bool {
        let now = self.room.now();
        self.room.core().status(now).cluster.is_some_and(|cluster| cluster.divided)
    }

    /// Offers a roster that this node proposes; its hash.
    pub fn propose(&mut self, roster: &Roster) -> [u8; 32] {
        let signer = self.key();
        self.room.core().offer_roster(SignedRoster { roster: roster.clone(), signer, signature: [0; 64] });
        roster.hash()
    }

    /// A roster with its signature.
    #[must_use]
    pub fn sign(&self, roster: &Roster) -> SignedRoster {
        let signature = self.signing.sign(&roster.message()).to_bytes();
        SignedRoster { roster: roster.clone(), signer: self.key(), signature }
    }

    /// Offers a roster of another node; its hash.
    pub fn offer(&mut self, signed: &SignedRoster) -> [u8; 32] {
        self.room.core().offer_roster(signed.clone());
        signed.roster.hash()
    }

    /// What a ceremony leaves: a set in force.
    pub fn put_set(&mut self, key_id: [u8; 16]) {
        let set = CardSet {
            id: [0x11; 16],
            key_id,
            generation: 1,
            quorum: CardQuorum::new(2, 2).expect("a quorum"),
            holders: Holders::NOBODY,
            created_s: 0,
            split_knowledge: false,
            with_code: false,
            pin_chars: 0,
        };
        let sets = CardSets { current: Some(set), last_generation: 1, ..CardSets::none() };
        self.room.stored.card_sets.insert(SetSubject::BackupKey, sets);
        self.reopen();
    }

    /// And the keys that it brings into the tokens of a member.
    pub fn put_keys(&mut self, purposes: &[Purpose]) {
        for (token, uid) in self.room.tokens.iter_mut().zip(UIDS) {
            for (place, purpose) in token.live.backup_keys.iter_mut().zip(purposes) {
                *place = Some(BackupKey { key_id: KEY_ID, uid, purpose: *purpose, value: Code::new(&[7; 32]) });
            }
            token.settle();
        }
        self.reopen();
    }

    /// Starts anew; people open both slots.
    pub fn reopen(&mut self) {
        self.room.restart();
        self.open();
    }

    /// People open the slots that are not.
    pub fn open(&mut self) {
        for slot in [SlotId(0), SlotId(1)] {
            if self.room.core.is_some() && !self.is_open(slot) {
                let code = Some(self.room.secret(b"code-of-people"));
                let answer = self.room.order(ADMINISTRATOR, Command::Activate { slot, code, confirmed: false });
                assert!(answer == DONE || self.room.core.is_none(), "{answer:?}");
            }
        }
    }

    /// Whether a slot is active.
    pub fn is_open(&mut self, slot: SlotId) -> bool {
        matches!(self.room.core().slot_state(slot), Some(slot::State::Active { .. }))
    }

    /// Where its reception is.
    pub fn state(&mut self) -> reception::State {
        self.room.core().reception_state()
    }

    /// Slots that are open.
    pub fn slots(&mut self) -> SlotSet {
        let open = [SlotId(0), SlotId(1)].into_iter().filter(|slot| self.is_open(*slot)).collect::<Vec<_>>();
        open.into_iter().fold(SlotSet::NONE, SlotSet::with)
    }

    /// Every place in the roster but its own.
    pub fn others(&mut self) -> u8 {
        let (roster, own) = (self.roster(), self.key());
        let places = (0..roster.members.len()).filter(|place| roster.members[*place].node != own);
        places.fold(0, |bits, place| bits | 1 << place)
    }

    /// Makes a package for all others; `None` where it was not made.
    pub fn pack(&mut self) -> Option<Package> {
        let targets = self.others();
        self.pack_for(targets)
    }

    /// Makes a package for the members in these places; `None` where it was not made, or the power went.
    pub fn pack_for(&mut self, targets: u8) -> Option<Package> {
        let order = TransferOrder::Package { targets, roster_epoch: self.roster().epoch, slots: self.slots() };
        let answer = if self.room.automatic { self.by_itself(order) } else { self.order(order) };
        (answer == DONE).then(|| self.room.sync.made.clone().expect("it is whole"))
    }

    /// Spools a package and has it planned, as the platform does: only where it is admitted. `None`: it was taken
    /// before.
    ///
    /// # Errors
    /// Why it is not admitted.
    pub fn receive(&mut self, package: &Package) -> Result<Option<Answer>, Refusal> {
        if self.state() != reception::State::Idle {
            return Err(Refusal::TransferUnderWay);
        }
        match self.room.core().admit_package(&package.header, &package.hash)? {
            Admission::Nothing => Ok(None),
            Admission::Take => {
                self.room.sync.spool(package.clone());
                let order = TransferOrder::Receive { hash: package.hash, slots: slots_of(package) };
                let automatic = self.room.automatic;
                Ok(if automatic { self.by_itself(order) } else { self.order(order) })
            }
        }
    }
}

/// Slots that a package has keys for.
#[must_use]
pub fn slots_of(package: &Package) -> SlotSet {
    let filled = |uid: &[u8; 16]| package.sections.get(uid).is_some_and(|keys| !keys.is_empty());
    let slots = [SlotId(0), SlotId(1)].into_iter().zip(UIDS);
    slots.filter(|(_, uid)| filled(uid)).fold(SlotSet::NONE, |slots, (slot, _)| slots.with(slot))
}

/// The roster after this one, with these members.
#[must_use]
pub fn next(roster: Option<&Roster>, members: &[Member]) -> Roster {
    let mut members = members.to_vec();
    members.sort_by_key(|member| member.node);
    Roster {
        epoch: roster.map_or(1, |roster| roster.epoch + 1),
        previous: roster.map_or([0; 32], Roster::hash),
        cluster: [0xC1; 16],
        key_id: KEY_ID,
        annex: [0xAA; 32],
        members: members.into_iter().collect(),
    }
}

/// So many members, who founded their cluster and let each other in; every token has the keys of one.
#[must_use]
pub fn cluster(count: u8, automatic: bool) -> Vec<Node> {
    let mut nodes: Vec<Node> = (0..count).map(Node::new).collect();
    nodes[0].put_set(KEY_ID);
    let mut roster = next(None, &[nodes[0].member()]);
    let hash = nodes[0].propose(&roster);
    assert_eq!(nodes[0].cluster(ClusterOrder::Found { hash }), DONE);
    for number in 1..nodes.len() {
        let members: Vec<Member> = nodes[..=number].iter().map(Node::member).collect();
        roster = next(Some(&roster), &members);
        let hash = nodes[0].propose(&roster);
        assert_eq!(nodes[0].cluster(ClusterOrder::Invite { hash }), DONE);
        let signed = nodes[0].sign(&roster);
        for node in &mut nodes[1..number] {
            node.offer(&signed);
            assert_eq!(node.cluster(ClusterOrder::Follow { hash }), DONE);
        }
        let joining = &mut nodes[number];
        joining.offer(&signed);
        for (slot, uid) in [SlotId(0), SlotId(1)].into_iter().zip(UIDS) {
            joining.room.core().offer_slot_uid(slot, uid);
        }
        let slots = joining.room.core().offered_slots();
        assert_eq!(joining.cluster(ClusterOrder::Join { hash, slots }), DONE);
        joining.put_set(KEY_ID);
    }
    for node in &mut nodes {
        node.room.automatic = automatic;
        node.put_keys(&[Purpose::Wrap, Purpose::Authenticate, Purpose::Unwrap]);
    }
    nodes
}
