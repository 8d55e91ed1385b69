//! The names behind the core's numbers.
//!
//! The core knows slots and applications by their place in the configuration, persons by the
//! number that the store gave their name for ever; people know them by name. This is the only
//! place where the two meet.

use slotwarden_core::Refusal;
use slotwarden_core::audit::AuditRecord;
use slotwarden_core::effect::{ApplicationId, ApplicationSet, SlotId};
use slotwarden_core::person::PersonId;

use crate::config::Settings;
use crate::problem::{Own, Problem};
use crate::token_uri::TokenUri;

/// Names of slots, applications and persons, in the order of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The slots.
    pub slots: Vec<SlotName>,
    /// The applications.
    pub applications: Vec<String>,
    /// The persons; empty: the daemon's own user is the only administrator.
    pub persons: Vec<PersonName>,
    /// Every name that ever was a person's, also those that are no longer configured.
    pub numbered: Vec<(String, PersonId)>,
    /// Slots that the configuration no longer names, although a sealed code is kept for
    /// them: removed from it, or renamed.
    pub left_out: Vec<String>,
}

/// A slot's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotName {
    /// As configured.
    pub name: String,
    /// The token it means.
    pub token: TokenUri,
}

/// A person's name and user ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersonName {
    /// The number the store gave the name.
    pub id: PersonId,
    /// As configured.
    pub name: String,
    /// User ids whose processes act for them.
    pub uids: Vec<u32>,
}

/// Who is at the other end of the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A person of the configuration, or the daemon's own user when there are none.
    Person(PersonId),
    /// The daemon's own user, although persons are configured: may have the automatic
    /// slots tried (the boot hook) and read the status, as the daemon does by itself.
    OwnUser,
}

impl Names {
    /// The slot that somebody means by its configured name, its token's label or a PKCS#11 URI.
    ///
    /// # Errors
    /// [`Refusal::UnknownSlot`]; [`Refusal::SlotAmbiguous`] when a label or URI fits several.
    pub fn slot(&self, text: &str) -> Result<SlotId, Problem> {
        if let Some(place) = self.slots.iter().position(|slot| slot.name == text) {
            return slot_id(place);
        }
        let fits: Vec<usize> = match TokenUri::parse(text) {
            Ok(uri) => self.places(|slot| slot.token.overlaps(&uri)),
            Err(_) => self.places(|slot| slot.token.label.as_deref() == Some(text)),
        };
        match fits.as_slice() {
            [place] => slot_id(*place),
            [] => Err(Problem::from(Refusal::UnknownSlot)),
            _ => Err(Problem::from(Refusal::SlotAmbiguous).with("several configured slots fit; use the slot's name")),
        }
    }

    /// The person of this configured name.
    ///
    /// # Errors
    /// [`Own::UnknownPerson`].
    pub fn person(&self, name: &str) -> Result<PersonId, Problem> {
        let found = self.persons.iter().find(|person| person.name == name);
        found.map(|person| person.id).ok_or_else(|| Own::UnknownPerson.with(name))
    }

    /// Who a process of this user id acts for; `None`: a stranger.
    #[must_use]
    pub fn peer(&self, uid: u32, own_uid: u32) -> Option<Peer> {
        match self.persons.iter().find(|person| person.uids.contains(&uid)) {
            Some(person) => Some(Peer::Person(person.id)),
            None if uid != own_uid => None,
            None if self.persons.is_empty() => Some(Peer::Person(PersonId::OWN_USER)),
            None => Some(Peer::OwnUser),
        }
    }

    /// The configured name of a slot.
    #[must_use]
    pub fn slot_name(&self, slot: SlotId) -> String {
        self.slots.get(usize::from(slot.0)).map_or_else(|| format!("slot {}", slot.0), |slot| slot.name.clone())
    }

    /// The configured name of an application.
    #[must_use]
    pub fn application_name(&self, application: ApplicationId) -> String {
        let found = self.applications.get(usize::from(application.0));
        found.cloned().unwrap_or_else(|| format!("application {}", application.0))
    }

    /// The applications that somebody accepts as dead, by their configured names.
    ///
    /// # Errors
    /// [`Own::UnknownApplication`] for the first that no application has.
    pub fn application_set(&self, names: &[String]) -> Result<ApplicationSet, Problem> {
        let mut set = ApplicationSet::NONE;
        for name in names {
            let place = self.applications.iter().position(|application| application == name);
            let number = place.and_then(|place| u8::try_from(place).ok());
            let unknown = || Own::UnknownApplication.with(name.clone());
            set = set.with(ApplicationId(number.ok_or_else(unknown)?));
        }
        Ok(set)
    }

    /// The configured name of a person.
    #[must_use]
    pub fn person_name(&self, person: PersonId) -> String {
        if person == PersonId::SERVICE {
            return "the service itself".to_owned();
        }
        if person == PersonId::OWN_USER {
            return "the daemon's user".to_owned();
        }
        let found = self.numbered.iter().find(|(_, known)| *known == person);
        found.map_or_else(|| format!("person {}", person.0), |(name, _)| name.clone())
    }

    /// Who and which slot an audit record is about, by the names they have now.
    #[must_use]
    pub fn of_record(&self, record: &AuditRecord) -> (String, String) {
        let who = record.who.map_or_else(String::new, |who| self.person_name(who));
        (who, record.slot.map_or_else(String::new, |slot| self.slot_name(slot)))
    }

    fn places(&self, fits: impl Fn(&SlotName) -> bool) -> Vec<usize> {
        self.slots.iter().enumerate().filter(|(_, slot)| fits(slot)).map(|(place, _)| place).collect()
    }
}

impl Names {
    /// The names of a configuration; `numbered` are all that the store gave a number. Who has
    /// none is nobody.
    #[must_use]
    pub fn new(settings: &Settings, numbered: Vec<(String, PersonId)>) -> Self {
        let slots = settings.slots.iter();
        let persons = settings.persons.iter();
        Names {
            slots: slots.map(|slot| SlotName { name: slot.name.clone(), token: slot.token.clone() }).collect(),
            applications: settings.applications.iter().map(|application| application.name.clone()).collect(),
            persons: persons
                .filter_map(|person| {
                    let (_, id) = numbered.iter().find(|(name, _)| *name == person.name)?;
                    Some(PersonName { id: *id, name: person.name.clone(), uids: person.uids.clone() })
                })
                .collect(),
            numbered,
            left_out: Vec::new(),
        }
    }
}

fn slot_id(place: usize) -> Result<SlotId, Problem> {
    u8::try_from(place).map(SlotId).map_err(|_| Problem::from(Refusal::TooManySlots))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(persons: &[(&str, u32)]) -> Names {
        let slot = |name: &str, uri: &str| SlotName {
            name: name.to_owned(),
            token: TokenUri::parse(uri).expect("well formed"),
        };
        Names {
            slots: vec![
                slot("root", "pkcs11:token=CA%20Root;serial=1"),
                slot("twin", "pkcs11:token=CA%20Root;serial=2"),
                slot("ocsp", "pkcs11:token=OCSP"),
            ],
            applications: vec![],
            persons: (5..)
                .map(PersonId)
                .zip(persons)
                .map(|(id, (name, uid))| PersonName { id, name: (*name).into(), uids: vec![*uid, uid + 100] })
                .collect(),
            numbered: vec![("alice".to_owned(), PersonId(5)), ("left".to_owned(), PersonId(2))],
            left_out: vec![],
        }
    }

    #[test]
    fn a_slot_is_found_by_name_label_or_uri_and_refused_otherwise() {
        let names = names(&[]);
        assert!(names.slot("nobody").expect_err("unknown").is(Refusal::UnknownSlot));
        assert!(names.slot("").expect_err("empty").is(Refusal::UnknownSlot));
        assert!(names.slot("CA Root").expect_err("two fit").is(Refusal::SlotAmbiguous));
        assert_eq!(names.slot("root").expect("a name"), SlotId(0));
        assert_eq!(names.slot("OCSP").expect("a label"), SlotId(2));
        assert_eq!(names.slot("pkcs11:serial=2").expect("a uri"), SlotId(1));
    }

    #[test]
    fn without_persons_only_the_daemons_own_user_is_administrator() {
        assert_eq!(names(&[]).peer(1000, 900), None);
        assert_eq!(names(&[]).peer(0, 900), None);
        assert_eq!(names(&[]).peer(900, 900), Some(Peer::Person(PersonId::OWN_USER)));
    }

    #[test]
    fn with_persons_the_daemons_own_user_is_nobody_but_the_boot_hook() {
        let names = names(&[("alice", 1001), ("bob", 1002)]);
        assert_eq!(names.peer(1000, 900), None);
        assert_eq!(names.peer(900, 900), Some(Peer::OwnUser));
        assert_eq!(names.peer(1002, 900), Some(Peer::Person(PersonId(6))));
    }

    #[test]
    fn p26_two_user_ids_of_one_person_are_one_person_whose_number_outlives_the_configuration() {
        let names = names(&[("alice", 1001), ("bob", 1002)]);
        assert_eq!(names.peer(1001, 900), names.peer(1101, 900));
        assert_ne!(names.peer(1001, 900), names.peer(1002, 900));
        assert_eq!(names.person_name(PersonId(5)), "alice");
        assert_eq!(names.person_name(PersonId(2)), "left");
        assert_eq!(names.person_name(PersonId::OWN_USER), "the daemon's user");
    }
}
