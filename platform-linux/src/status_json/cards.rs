//! Cards, their sets, and the backup key as people see them.

use serde::{Deserialize, Serialize};
use slotwarden_core::card::registry::CardEntry;
use slotwarden_core::card::sets::{CardSet, CardSets, Fate, SetSubject};
use slotwarden_core::card::{Credential, ProfileId};
use slotwarden_core::status::BackupStatus;

use crate::audit::hex;
use crate::devices::ReaderView;
use crate::names::Names;

/// Days after which a share should be verified again: card memory keeps its content for ten
/// years and more, people keep their PINs for less (the product page: "warns after 90 days").
const VERIFY_AGAIN_DAYS: u64 = 90;

/// The backup key's set in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupView {
    /// How many cards are needed.
    pub m: u8,
    /// Of how many different shares.
    pub n: u8,
    /// Which set it is; rises with each.
    pub generation: u32,
    /// Names the key, hexadecimal; the same after a set was replaced.
    pub key_id: String,
    /// Names the set, hexadecimal.
    pub set_id: String,
    /// Whether each share went to another person while two persons decided.
    pub split_knowledge: bool,
    /// How many different shares are on cards that can be used.
    pub shares_in_use: u8,
    /// When the share that was verified longest ago was, seconds since 1970; null: one never was.
    pub verified: Option<u64>,
    /// What somebody should do something about.
    pub warnings: Vec<String>,
}

/// Who opens a slot with cards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardSetView {
    /// How many users open the slot.
    pub k: u8,
    /// Of how many.
    pub n: u8,
    /// Whether a code is needed as well.
    pub with_code: bool,
}

/// Cards and readers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardsView {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// Every card that is known.
    pub cards: Vec<CardView>,
    /// Every reader that is or was there since the start of the daemon.
    pub readers: Vec<ReaderView>,
}

/// One credential on one card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardView {
    /// The card's serial, hexadecimal.
    pub serial: String,
    /// `backup`, `user`, `admin`.
    pub credential: String,
    /// The kind of card: `iso7816-files`, `openpgp`.
    pub profile: String,
    /// Whose it is.
    pub holder: Option<String>,
    /// The set of its share, hexadecimal.
    pub set_id: Option<String>,
    /// Which share.
    pub x: Option<u8>,
    /// Generation of the set.
    pub generation: Option<u32>,
    /// About which slot the set is; null: the backup key, or not known.
    pub slot: Option<String>,
    /// `in-force`, `being-made`, `void`, `superseded`, `rotated`, `unknown`, `empty`.
    pub standing: String,
    /// When its PIN was last changed here, seconds since 1970 (0: without a clock); null: never, it
    /// counts as on the PIN it came with.
    pub pin_changed_s: Option<u64>,
    /// When its share was last read and found good, seconds since 1970.
    pub verified_s: Option<u64>,
    /// Whether it was declared lost.
    pub lost: bool,
}

/// The word of a credential, as options take it.
#[must_use]
pub const fn credential_word(credential: Credential) -> &'static str {
    match credential {
        Credential::BackupShare => "backup",
        Credential::SlotUser => "user",
        Credential::HsmAdministrator => "admin",
    }
}

pub(super) fn backup_view(status: &BackupStatus, now_s: Option<u64>) -> BackupView {
    let set = &status.set;
    let (m, n) = (set.quorum.m(), set.quorum.n());
    let mut warnings = Vec::new();
    match (status.verified_s, now_s) {
        (None, _) => warnings.push("a share was never verified: `slotwarden backup verify-set`".to_owned()),
        (Some(then), Some(now)) => {
            let days = now.saturating_sub(then) / 86_400;
            if days > VERIFY_AGAIN_DAYS {
                warnings.push(format!("a share was last verified {days} days ago: `slotwarden backup verify-set`"));
            }
        }
        (Some(_), None) => {}
    }
    if status.shares_in_use < m {
        warnings.push(format!(
            "only {} of the {m} shares that are needed are on cards that can be used: nothing that this key protects can be \
             recovered; `slotwarden backup rotate` makes another key",
            status.shares_in_use
        ));
    } else if m == n {
        warnings.push("as many cards are needed as there are shares: one lost card ends recovery".to_owned());
    } else if status.shares_in_use == m {
        warnings.push("one more lost card ends recovery: `slotwarden backup replace-set`".to_owned());
    }
    BackupView {
        m,
        n,
        generation: set.generation,
        key_id: hex(&set.key_id),
        set_id: hex(&set.id),
        split_knowledge: set.split_knowledge,
        shares_in_use: status.shares_in_use,
        verified: status.verified_s,
        warnings,
    }
}

/// A card as people see it. `sets`: those of every subject, with the slot each is about.
#[must_use]
pub fn card_view(entry: &CardEntry, sets: &[(SetSubject, Option<String>, &CardSets)], names: &Names) -> CardView {
    let found = entry.share.and_then(|share| {
        sets.iter().find_map(|(_, slot, sets)| Some((standing_word(sets, &share.set_id)?, slot.clone())))
    });
    let (standing, slot) = match (entry.share, found) {
        (None, _) => ("empty", None),
        (Some(_), Some((standing, slot))) => (standing, slot),
        (Some(_), None) => ("unknown", None),
    };
    CardView {
        serial: entry.serial.to_string(),
        credential: credential_word(entry.credential).to_owned(),
        profile: match entry.profile {
            ProfileId::Iso7816Files => "iso7816-files",
            ProfileId::OpenPgp => "openpgp",
        }
        .to_owned(),
        holder: entry.holder.map(|who| names.person_name(who)),
        set_id: entry.share.map(|share| hex(&share.set_id)),
        x: entry.share.map(|share| share.x),
        generation: entry.share.map(|share| share.generation),
        slot,
        standing: standing.to_owned(),
        pin_changed_s: entry.pin_changed_s,
        verified_s: entry.verified_s,
        lost: entry.lost,
    }
}

fn standing_word(sets: &CardSets, id: &[u8; 16]) -> Option<&'static str> {
    let is = |set: &Option<CardSet>| set.as_ref().is_some_and(|set| set.id == *id);
    if is(&sets.current) {
        return Some("in-force");
    }
    if is(&sets.next) {
        return Some("being-made");
    }
    let former = sets.former.iter().find(|former| former.id == *id)?;
    Some(match former.fate {
        Fate::Void => "void",
        Fate::Superseded => "superseded",
        Fate::Rotated => "rotated",
    })
}

#[cfg(test)]
mod tests {
    use slotwarden_core::card::CardSerial;
    use slotwarden_core::card::registry::ShareOnCard;
    use slotwarden_core::person::Roster;
    use slotwarden_core::share::card_set::CardQuorum;

    use super::*;

    fn set(number: u8, m: u8, n: u8) -> CardSet {
        CardSet {
            id: [number; 16],
            key_id: [9; 16],
            generation: u32::from(number),
            quorum: CardQuorum::new(m, n).expect("a quorum"),
            holders: Roster::NOBODY,
            created_s: 0,
            split_knowledge: true,
            with_code: false,
            pin_chars: 0,
        }
    }

    fn warnings(m: u8, n: u8, shares_in_use: u8, verified_s: Option<u64>) -> Vec<String> {
        let status = BackupStatus { set: set(1, m, n), shares_in_use, verified_s };
        backup_view(&status, Some(200 * 86_400)).warnings
    }

    #[test]
    fn a_set_that_one_more_loss_ends_is_warned_of_and_a_sound_one_is_not() {
        let fresh = Some(199 * 86_400);
        assert!(warnings(2, 3, 1, fresh)[0].contains("nothing that this key protects can be recovered"));
        assert!(warnings(2, 3, 2, fresh)[0].contains("one more lost card"));
        assert!(warnings(2, 2, 2, fresh)[0].contains("one lost card ends recovery"));
        assert!(warnings(2, 3, 3, None)[0].contains("never verified"));
        assert!(warnings(2, 3, 3, Some(100 * 86_400))[0].contains("100 days ago"));
        assert!(warnings(2, 3, 3, Some(110 * 86_400)).is_empty(), "90 days are no more than 90");
        assert!(warnings(2, 3, 3, fresh).is_empty());
    }

    #[test]
    fn a_card_says_what_became_of_its_set() {
        let mut sets = CardSets::none();
        for number in 1..=3 {
            sets.begin_next(set(number, 2, 3));
            if number != 2 {
                sets.promote_next();
            }
        }
        sets.begin_next(set(4, 2, 3));
        let all = [(SetSubject::BackupKey, None, &sets)];
        let serial = CardSerial::new(&[0xAB; 6]).expect("a serial");
        let standing = |share: Option<u8>| {
            let share = share.map(|number| ShareOnCard { set_id: [number; 16], x: 2, generation: 7 });
            let entry = CardEntry { share, ..CardEntry::new(serial, Credential::BackupShare, ProfileId::OpenPgp) };
            card_view(&entry, &all, &Names::default()).standing
        };
        assert_eq!(standing(None), "empty");
        assert_eq!(standing(Some(99)), "unknown");
        let told = [1, 2, 3, 4].map(|number| standing(Some(number)));
        assert_eq!(told, ["superseded", "void", "in-force", "being-made"]);
    }
}
