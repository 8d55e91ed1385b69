//! Persons and what their roles allow.
//!
//! A person is one human, however many user ids, certificates or cards they have; names
//! and identities are the platform's, the core knows small numbers.

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::command::CommandKind;
use crate::fault::Refusal;
use crate::limits::PERSONS_MAX;

/// A person's number: their place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct PersonId(pub u8);

impl PersonId {
    /// Nobody: the service itself, which orders boot and stop by administrator's right.
    /// No place of the configuration has this number ([`PERSONS_MAX`]).
    pub const SERVICE: PersonId = PersonId(u8::MAX);
}

/// The roles of the product page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Role {
    /// Configures and operates everything.
    Administrator,
    /// Activates and deactivates slots.
    Operator,
    /// Approves what needs two persons.
    Approver,
    /// Holds a share or a card.
    Custodian,
    /// Reads the audit log.
    Auditor,
}

impl Role {
    /// All roles, in the order of the product page.
    pub const ALL: [Role; 5] = [Role::Administrator, Role::Operator, Role::Approver, Role::Custodian, Role::Auditor];

    const fn bit(self) -> u8 {
        match self {
            Role::Administrator => 1,
            Role::Operator => 2,
            Role::Approver => 4,
            Role::Custodian => 8,
            Role::Auditor => 16,
        }
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Roles(u8);

impl Roles {
    /// No role at all: may do nothing.
    pub const NONE: Roles = Roles(0);

    /// This set and one more role.
    #[must_use]
    pub const fn with(self, role: Role) -> Self {
        Roles(self.0 | role.bit())
    }

    /// Whether the set holds the role.
    #[must_use]
    pub const fn has(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }
}

/// Everybody the configuration names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Persons {
    roles: Vec<Roles, PERSONS_MAX>,
}

impl Persons {
    /// Nobody: may do nothing.
    #[must_use]
    pub const fn none() -> Self {
        Persons { roles: Vec::new() }
    }

    /// Single-person mode: person 0 is the only administrator.
    #[must_use]
    pub fn single() -> Self {
        let mut persons = Persons { roles: Vec::new() };
        // One entry fits into a table of PERSONS_MAX > 0; a lost one would mean "nobody may".
        let _ = persons.roles.push(Roles::NONE.with(Role::Administrator));
        persons
    }

    /// Adds the next person.
    ///
    /// # Errors
    /// [`Refusal::TooManyPersons`] beyond [`PERSONS_MAX`].
    pub fn add(&mut self, roles: Roles) -> Result<(), Refusal> {
        self.roles.push(roles).map_err(|_| Refusal::TooManyPersons)
    }

    /// Whether one person (or none but the daemon's own user) is all there is.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.roles.len() <= 1
    }

    /// The roles of a person; an unknown person has none.
    #[must_use]
    pub fn roles(&self, who: PersonId) -> Roles {
        if who == PersonId::SERVICE {
            return Roles::NONE.with(Role::Administrator);
        }
        self.roles.get(usize::from(who.0)).copied().unwrap_or(Roles::NONE)
    }
}

/// Whether somebody with these roles may give this order. The golden table
/// `tests/golden/roles.md` lists every pair.
#[must_use]
pub const fn may(roles: Roles, what: CommandKind) -> bool {
    let administrator = roles.has(Role::Administrator);
    let operator = roles.has(Role::Operator);
    let auditor = roles.has(Role::Auditor);
    match what {
        CommandKind::Boot | CommandKind::Activate | CommandKind::Deactivate => administrator || operator,
        CommandKind::Init | CommandKind::ChangeCode | CommandKind::Mode | CommandKind::EndCall | CommandKind::Stop => {
            administrator
        }
        CommandKind::ReadStatus => {
            administrator || operator || auditor || roles.has(Role::Approver) || roles.has(Role::Custodian)
        }
        CommandKind::ReadAudit => administrator || auditor,
    }
}
