//! Checkers of ceremonies: what the cards hold, held against what the service says.
//!
//! | promise | what is looked at |
//! |---|---|
//! | P4 | the tries are known before a dialogue, and a last one was agreed to |
//! | P5 | no card lost a try that no person spent (`readers`) |
//! | P7 | a PIN whose change nobody heard the end of is not noted as changed |
//! | P8 | no share lies behind a PIN that was never changed |
//! | P9, P13 | every quorum of a set in force gives the secret that its key id names |
//! | P14 | cards of the same share are the same, byte for byte |
//! | P15 | what is in force on a card is whole |
//! | P17 | the keys in a token are those that the backup key gives its slot |
//! | P29 | a ceremony ends, whoever walks away |
//! | P38 | a transcript replays to the state of the machine |

use slotwarden_core::card::registry::CardEntry;
use slotwarden_core::card::sets::{CardSet, SetSubject};
use slotwarden_core::card::{CardCall, Credential, ReaderId};
use slotwarden_core::ceremony::transcript::replay;
use slotwarden_core::limits::CEREMONY_MS;
use slotwarden_core::record::Owner;
use slotwarden_core::share::record;

use crate::hsm::Purpose;
use crate::readers::index;
use crate::shares;
use crate::table::{Watched, is_sound, share_on};
use crate::world::World;

/// Longest time in which nothing changes in a ceremony: the longest wait for people (5 min), a
/// dialogue that answers late, a commit that does.
const STILL_MAX_MS: u64 = 12 * 60_000;
/// A ceremony and the same on top.
const CEREMONY_MAX_MS: u64 = CEREMONY_MS + STILL_MAX_MS;

impl World {
    /// A dialogue is ordered (P4).
    pub(crate) fn check_dialogue(&mut self, reader: ReaderId, call: &CardCall) {
        if !matches!(call, CardCall::Verify { .. } | CardCall::ChangePin { .. }) {
            return;
        }
        let Some(place) = self.table.at(reader) else { return };
        let (tries, agreed) = (place.tries, place.agreed);
        if tries.is_none() {
            self.checkers.violated("P4", 0, "a PIN is asked for, and the tries were not");
        }
        if tries == Some(Some(1)) && !agreed {
            self.checkers.violated("P4", 0, "a last try is asked for, and nobody agreed to it");
        }
        if tries == Some(Some(0)) {
            self.checkers.violated("P4", 0, "a PIN is asked for that is blocked");
        }
    }

    /// What is noted of a card (P7, P8).
    pub(crate) fn check_entry(&mut self, place: u8, entry: &CardEntry) {
        let known = self.disk.durable.cards.get(usize::from(place)).copied().flatten();
        let Some(card) = self.table.cards().find(|card| card.serial() == entry.serial.bytes()) else { return };
        let (serial, transport) = (card.serial(), card.is_on_transport_pin(entry.credential));
        let is_new = entry.pin_changed_s.is_some()
            && known
                .is_none_or(|known| known.pin_changed_s != entry.pin_changed_s || known.credential != entry.credential);
        if is_new && self.table.past(serial).unknown[index(entry.credential)] {
            self.checkers.violated("P7", 0, "a PIN change whose end nobody heard is noted as done");
        }
        if is_new && transport {
            self.checkers.violated("P8", 0, "a PIN is noted as changed that never was");
        }
    }

    /// Watches the ceremony that is under way: that it goes on, and ends (P29).
    pub(crate) fn watch_ceremony(&mut self) {
        let now = self.now();
        let Some(core) = &self.core else { return };
        let seen = core.ceremony().map(|ceremony| (ceremony.id(), ceremony.command().kind()));
        let before = self.table.watched;
        match (before, seen) {
            (None, None) => {}
            (Some(watched), Some((id, _))) if watched.id == id => {
                let changes = core.ceremony().map_or(0, |ceremony| ceremony.status(now, None).changes);
                let mut watched = watched;
                if changes != watched.changes {
                    (watched.changes, watched.changed_ms) = (changes, self.now_ms);
                }
                self.table.watched = Some(watched);
                let still_ms = self.now_ms.saturating_sub(watched.changed_ms);
                let lasts_ms = self.now_ms.saturating_sub(watched.began_ms);
                if still_ms > STILL_MAX_MS || lasts_ms > CEREMONY_MAX_MS {
                    self.checkers.violated("P29", 0, "a ceremony outlives its deadline");
                }
            }
            (before, seen) => {
                if before.is_some() {
                    self.ceremony_ended();
                }
                self.table.read.clear();
                self.table.read_x.clear();
                self.table.watched = seen.map(|(id, kind)| {
                    self.counts.cards.kinds[kind as usize][0] += 1;
                    Watched { id, began_ms: self.now_ms, changes: 0, changed_ms: self.now_ms }
                });
            }
        }
    }

    fn ceremony_ended(&mut self) {
        use slotwarden_core::audit::CeremonyEnd;
        self.table.ended_ms = self.now_ms;
        let now = self.now();
        if let Some((_, kind, end)) = self.core.as_ref().and_then(|core| core.status(now).last_ceremony) {
            let well = matches!(end, CeremonyEnd::Done | CeremonyEnd::Delivered);
            self.counts.cards.kinds[kind as usize][if well { 1 } else { 2 }] += 1;
        }
        self.check_cards();
    }

    /// What is on the cards, all of them (P5, P8, P14, P15).
    pub(crate) fn check_cards(&mut self) {
        self.check_tries();
        let mut found: Vec<(Credential, [u8; 16], u8, [u8; 200])> = Vec::new();
        let mut broken = None;
        let mut copies = 0;
        let mut whole = std::mem::take(&mut self.table.whole);
        for card in self.table.cards().filter(|card| is_sound(card)) {
            for credential in Credential::ALL {
                let Some(bytes) = card.record(credential) else { continue };
                if !whole.contains(bytes) && record::check(bytes, &mut [0; 32]).is_ok() {
                    whole.push(*bytes);
                }
                if !whole.contains(bytes) {
                    broken = Some(("P15", "what is in force on a card is neither the old record nor the new one"));
                    continue;
                }
                if card.is_on_transport_pin(credential) {
                    broken = Some(("P8", "a share lies behind a PIN that was never changed"));
                }
                let Some((header, _)) = share_on(card, credential) else { continue };
                let same =
                    found.iter().find(|(of, set, x, _)| (*of, *set, *x) == (credential, header.set_id, header.x));
                match same {
                    Some((.., known)) => {
                        copies += 1;
                        if known != bytes {
                            broken = Some(("P14", "two cards of one share differ"));
                        }
                    }
                    None => found.push((credential, header.set_id, header.x, *bytes)),
                }
            }
        }
        self.table.whole = whole;
        self.counts.cards.copies += copies;
        if let Some((promise, what)) = broken {
            self.checkers.violated(promise, 0, what);
        }
        let sets = self.disk.durable.card_sets.clone();
        for (subject, sets) in &sets {
            if let Some(set) = sets.current {
                self.check_set(*subject, &set, 0);
            }
        }
    }

    /// Every quorum of a set in force gives its secret (P9, P13); `shares_min` are there.
    fn check_set(&mut self, subject: SetSubject, set: &CardSet, shares_min: u8) {
        // Cards of others that were adopted are not this world's: they go as they came.
        if set.holders.count() == 0 {
            return;
        }
        let credential = match subject {
            SetSubject::BackupKey => Credential::BackupShare,
            SetSubject::Users(_) => Credential::SlotUser,
            SetSubject::Administrators(_) => Credential::HsmAdministrator,
        };
        let slot = subject.owner().map_or(0, |Owner(owner)| u8::try_from(owner).unwrap_or(0));
        let shares = self.table.shares_of(credential, &set.id);
        let m = usize::from(set.quorum.m());
        if shares.len() < m.max(usize::from(shares_min)) {
            self.checkers.violated("P13", slot, "a set is in force of which too few cards exist");
            return;
        }
        for chosen in 0u32..1 << shares.len().min(16) {
            if chosen.count_ones() != u32::from(set.quorum.m()) {
                continue;
            }
            let some: Vec<(u8, [u8; 32])> = (0u32..)
                .zip(&shares)
                .filter(|(place, _)| chosen >> place & 1 == 1)
                .map(|(_, (header, y))| (header.x, *y))
                .collect();
            self.counts.cards.quorums += 1;
            let secret = shares::card_secret(&some);
            if shares::card_key_id(&secret) != set.key_id {
                self.checkers.violated("P9", slot, "a quorum of the set in force does not give its secret");
            }
            if subject == SetSubject::BackupKey && !self.table.keys.contains(&secret) {
                self.table.keys.push(secret);
            }
        }
    }

    /// A transaction about sets became durable: what came into force is whole (P13).
    pub(crate) fn check_sets_in_force(&mut self) {
        if self.disk.durable.line_missing {
            self.checkers.violated("P38", 0, "a line of a transcript is missing");
        }
        for place in 0..self.disk.durable.card_sets.len() {
            let (subject, current, next) = {
                let (subject, sets) = &self.disk.durable.card_sets[place];
                (*subject, sets.current, sets.next)
            };
            if let Some(next) = next
                && !self.table.begun.contains(&next.id)
            {
                self.table.begun.push(next.id);
            }
            let Some(set) = current else { continue };
            let known = self.table.in_force.iter_mut().find(|(of, _)| *of == subject);
            let is_new = known.as_ref().is_none_or(|(_, id)| *id != set.id);
            match known {
                Some((_, id)) => *id = set.id,
                None => self.table.in_force.push((subject, set.id)),
            }
            if is_new {
                // A slot's set comes into force when its token has the PIN; a card may be erased meanwhile.
                let made_here = subject == SetSubject::BackupKey && self.table.begun.contains(&set.id);
                self.check_set(subject, &set, if made_here { set.quorum.n() } else { 0 });
            }
        }
    }

    /// Cards were answered to open a slot: they do.
    pub(crate) fn check_slot_cards(&mut self, slot: u8) {
        let number = usize::from(slot);
        if self.apart[number] || self.disk.is_in_flight() {
            return;
        }
        let Some(token) = self.home(slot).copied() else { return };
        let owner = Owner(u16::from(slot));
        let opens = |pin| self.table.can_open(pin, owner, slot, &self.disk.durable, &self.people.slots[number]);
        let kept = opens(&token.live.user_pin) && opens(&token.settled.user_pin);
        if !kept {
            self.checkers.violated("P35", slot, "an order for cards was answered done, and they do not open the slot");
        }
    }

    /// The keys that a token has of the backup key in force (P17).
    pub(crate) fn check_keys(&mut self) {
        let sets = self.disk.durable.sets_of(SetSubject::BackupKey);
        let Some(set) = sets.and_then(|sets| sets.current) else { return };
        let Some(key) = self.table.secret_of(Credential::BackupShare, &set) else { return };
        for slot in 0..self.slots {
            let Some(token) = self.home(slot) else { continue };
            let is_wrong = token.live.backup_keys.iter().flatten().any(|held| {
                let label: &[u8] = match held.purpose {
                    Purpose::Wrap | Purpose::Unwrap => b"slotwarden/kwp/v1",
                    Purpose::Authenticate => b"slotwarden/mak/v1",
                };
                held.key_id == set.key_id && held.value.bytes() != shares::slot_key(&key, label, &held.uid)
            });
            if is_wrong {
                self.checkers.violated("P17", slot, "a token has another key than the backup key gives its slot");
            }
        }
    }

    /// The transcript of the ceremony under way replays to its state (P38).
    pub(crate) fn check_transcript(&mut self) {
        let Some(ceremony) = self.core.as_ref().and_then(|core| core.ceremony()) else { return };
        if self.disk.is_in_flight() || self.checkers.waits_for_commit() {
            return;
        }
        let lines = self.disk.durable.lines_of(ceremony.id());
        let same = match replay(ceremony.id(), lines) {
            Ok((state, rules)) => {
                state == ceremony.state()
                    && nameless(&format!("{rules:?}")) == nameless(&format!("{:?}", ceremony.rules()))
            }
            Err(_) => false,
        };
        self.counts.cards.replays += 1;
        if !same {
            self.checkers.violated("P38", 0, "a transcript does not replay to the state of its ceremony");
        }
    }
}

/// Without the names of secrets, which a replay has not, and without the order that brought some.
fn nameless(text: &str) -> String {
    let mut said = String::new();
    let (before, rest) = text.split_once("command: ").unwrap_or((text, ""));
    let (_, after) = rest.split_once(", facts: ").unwrap_or(("", rest));
    said.push_str(before);
    let mut rest = after;
    while let Some((before, after)) = rest.split_once("SecretId {") {
        said.push_str(before);
        rest = after.split_once('}').map_or("", |(_, after)| after);
    }
    said.push_str(rest);
    said
}

#[cfg(test)]
mod tests {
    use slotwarden_core::card::{ProfileId, RecordPlace};
    use slotwarden_core::person::{PersonId, Roster};
    use slotwarden_core::share::card_set::{self, CardQuorum};
    use slotwarden_core::share::record::{RECORD_BYTES, ShareHeader, ShareKind};

    use super::*;
    use crate::cards::Card;
    use crate::code::Code;

    const SEED: [u8; 32] = [3; 32];
    const SECRET: [u8; 32] = [5; 32];

    fn set(key_id: [u8; 16]) -> CardSet {
        CardSet {
            id: card_set::set_id(&card_set::public_key(&SEED)),
            key_id,
            generation: 1,
            quorum: CardQuorum::new(2, 2).expect("a quorum"),
            holders: Roster::new(&[PersonId(1), PersonId(2)]).expect("two persons"),
            created_s: 0,
            split_knowledge: false,
            with_code: false,
            pin_chars: 0,
        }
    }

    fn record_of(x: u8) -> [u8; RECORD_BYTES] {
        let set = set(card_set::key_id(&SECRET));
        let header = ShareHeader {
            kind: ShareKind::BackupKey,
            set_id: set.id,
            subject: [0xC1; 16],
            m: 2,
            n: 2,
            x,
            generation: 1,
            created_s: 0,
            key_id: set.key_id,
        };
        let (mut y, mut bytes) = ([0; 32], [0; RECORD_BYTES]);
        assert!(card_set::share_of(&SEED, &SECRET, &set.id, set.quorum, x, &mut y));
        record::write(&card_set::sign(&SEED, &header, &y), &y, &mut bytes);
        bytes
    }

    fn card(number: u8, record: &[u8; RECORD_BYTES]) -> Card {
        let mut card = Card::new([number; 8]);
        card.put(Credential::BackupShare, RecordPlace::A, record);
        card.point(Credential::BackupShare, Some(RecordPlace::A));
        card.set_pin(Credential::BackupShare, Code::new(b"271828182845"));
        card
    }

    /// What is broken in a world with these cards and this set in force.
    fn broken(cards: Vec<Card>, key_id: [u8; 16]) -> Option<&'static str> {
        let mut world = World::default();
        world.begin(1, 1);
        world.set_table(1);
        world.table.drawer = cards;
        let sets = slotwarden_core::card::sets::CardSets { current: Some(set(key_id)), ..Default::default() };
        world.disk.durable.card_sets.push((SetSubject::BackupKey, sets));
        world.check_cards();
        world.checkers.violation.map(|violation| violation.promise)
    }

    #[test]
    fn p09_p13_a_set_in_force_that_its_cards_do_not_give_is_seen() {
        let right = card_set::key_id(&SECRET);
        assert_eq!(broken(vec![card(1, &record_of(1)), card(2, &record_of(2))], right), None);
        assert_eq!(broken(vec![card(1, &record_of(1))], right), Some("P13"));
        assert_eq!(broken(vec![card(1, &record_of(1)), card(2, &record_of(1))], right), Some("P13"));
        assert_eq!(broken(vec![card(1, &record_of(1)), card(2, &record_of(2))], [9; 16]), Some("P9"));
    }

    #[test]
    fn p15_a_record_that_is_neither_old_nor_new_is_seen() {
        let mut torn = record_of(2);
        torn[100] ^= 1;
        assert_eq!(broken(vec![card(1, &record_of(1)), card(2, &torn)], [0; 16]), Some("P15"));
    }

    #[test]
    fn p08_a_share_behind_a_pin_that_was_never_changed_is_seen() {
        let mut new = Card::new([2; 8]);
        new.put(Credential::BackupShare, RecordPlace::A, &record_of(2));
        new.point(Credential::BackupShare, Some(RecordPlace::A));
        assert_eq!(broken(vec![card(1, &record_of(1)), new], card_set::key_id(&SECRET)), Some("P8"));
    }

    #[test]
    fn p07_p08_a_change_that_is_noted_and_was_not_made_or_not_heard_is_seen() {
        let mut entry = CardEntry::new(
            slotwarden_core::card::CardSerial::new(&[1; 8]).expect("eight bytes"),
            Credential::BackupShare,
            ProfileId::Iso7816Files,
        );
        entry.pin_changed_s = Some(1);
        for (changed, unknown, promise) in [(true, false, None), (true, true, Some("P7")), (false, false, Some("P8"))] {
            let mut world = World::default();
            world.begin(1, 1);
            world.set_table(1);
            world.table.drawer.push(if changed { card(1, &record_of(1)) } else { Card::new([1; 8]) });
            world.table.past([1; 8]).unknown = [unknown; 3];
            world.check_entry(0, &entry);
            assert_eq!(world.checkers.violation.map(|violation| violation.promise), promise);
        }
    }

    #[test]
    fn p05_a_try_that_no_person_spent_is_seen() {
        use crate::cards::SmartCard as _;
        let mut spent = card(1, &record_of(1));
        let mut response = Vec::new();
        let select = [&[0, 0xA4, 4, 0, 12][..], &crate::cards::aid(Credential::BackupShare), &[0]].concat();
        spent.transmit(&select, &mut response);
        spent.transmit(b"\x00\x20\x00\x81\x06000000", &mut response);
        assert_eq!(spent.tries_spent(), 1);
        assert_eq!(broken(vec![spent, card(2, &record_of(2))], card_set::key_id(&SECRET)), Some("P5"));
    }

    #[test]
    fn p04_a_dialogue_without_known_tries_or_an_agreed_last_one_is_seen() {
        let call = CardCall::Verify { profile: ProfileId::Iso7816Files, credential: Credential::BackupShare };
        let cases = [
            (None, false, Some("P4")),
            (Some(Some(0)), true, Some("P4")),
            (Some(Some(1)), false, Some("P4")),
            (Some(Some(1)), true, None),
            (Some(Some(3)), false, None),
            (Some(None), false, None),
        ];
        for (tries, agreed, promise) in cases {
            let mut world = World::default();
            world.begin(1, 1);
            world.set_table(1);
            (world.table.readers[0].tries, world.table.readers[0].agreed) = (tries, agreed);
            world.check_dialogue(ReaderId(0), &call);
            assert_eq!(world.checkers.violation.map(|violation| violation.promise), promise, "{tries:?} {agreed}");
        }
    }

    #[test]
    fn p38_names_of_secrets_do_not_count_and_everything_else_does() {
        let one = "Rules { command: A(SecretId { place: 1 }), facts: F, seed: Some(SecretId { place: 1 }), x: 1 }";
        let same = "Rules { command: B, facts: F, seed: Some(SecretId { place: 7 }), x: 1 }";
        assert_eq!(nameless(one), nameless(same));
        assert_ne!(nameless(one), nameless(&same.replace("x: 1", "x: 2")));
        assert_ne!(nameless(one), nameless(&same.replace("Some(SecretId { place: 7 })", "None")));
    }
}
