//! Persons and what their roles allow.
//!
//! A person is one human, however many user ids, certificates or cards they have; names
//! and identities are the platform's, the core knows small numbers. With dual control on,
//! some orders need a second person: which, is [`needs_two`]; how, is [`crate::approval`].

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::ceremony::order::Task;
use crate::cluster::ClusterOrder;
use crate::command::{Command, CommandKind};
use crate::fault::Refusal;
use crate::limits::{PERSONS_MAX, ROSTER_MAX};
use crate::record::Mode;
use crate::transfer::TransferOrder;

/// A person's number: given to a name when the platform first saw it, and never reused, so
/// that records mean the same human after the configuration was edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct PersonId(pub u8);

impl PersonId {
    /// The daemon's own user, where the configuration names nobody.
    pub const OWN_USER: PersonId = PersonId(0);
    /// The last number a name can have; the first is 1.
    pub const LAST: PersonId = PersonId(u8::MAX - 1);
    /// Nobody: the service itself, which orders boot and stop by administrator's right.
    pub const SERVICE: PersonId = PersonId(u8::MAX);
}

/// Several persons in an order that matters: who knows a code in conjunction, or to whom the
/// shares of a set go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Roster {
    persons: [PersonId; ROSTER_MAX],
    count: u8,
}

impl Roster {
    /// Nobody in particular.
    pub const NOBODY: Roster = Roster { persons: [PersonId::SERVICE; ROSTER_MAX], count: 0 };

    /// These persons in this order.
    ///
    /// # Errors
    /// [`Refusal::RosterInvalid`] for more than [`ROSTER_MAX`], or one named twice.
    pub fn new(persons: &[PersonId]) -> Result<Self, Refusal> {
        let twice =
            persons.iter().enumerate().any(|(place, person)| persons.iter().take(place).any(|other| other == person));
        if persons.len() > ROSTER_MAX || twice {
            return Err(Refusal::RosterInvalid);
        }
        let mut roster = Roster::NOBODY;
        for (place, person) in roster.persons.iter_mut().zip(persons) {
            *place = *person;
            roster.count = roster.count.saturating_add(1);
        }
        Ok(roster)
    }

    /// The persons in their order.
    #[must_use]
    pub fn persons(&self) -> &[PersonId] {
        self.persons.get(..usize::from(self.count)).unwrap_or(&[])
    }

    /// How many they are.
    #[must_use]
    pub const fn count(&self) -> u8 {
        self.count
    }

    /// The place of a person, counted from 0.
    #[must_use]
    pub fn place_of(&self, who: PersonId) -> Option<u8> {
        (0..self.count).zip(self.persons()).find_map(|(place, person)| (*person == who).then_some(place))
    }
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

    /// Whether there is no role at all.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
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
    list: Vec<(PersonId, Roles), PERSONS_MAX>,
}

impl Persons {
    /// Nobody: may do nothing.
    #[must_use]
    pub const fn none() -> Self {
        Persons { list: Vec::new() }
    }

    /// The daemon's own user is the only administrator.
    #[must_use]
    pub fn single() -> Self {
        let mut persons = Persons::none();
        // One entry fits into a table of PERSONS_MAX > 0; a lost one would mean "nobody may".
        let _ = persons.list.push((PersonId::OWN_USER, Roles::NONE.with(Role::Administrator)));
        persons
    }

    /// Adds a person. A number that is there already gets these roles too.
    ///
    /// # Errors
    /// [`Refusal::TooManyPersons`] beyond [`PERSONS_MAX`].
    pub fn add(&mut self, who: PersonId, roles: Roles) -> Result<(), Refusal> {
        if let Some((_, known)) = self.list.iter_mut().find(|(known, _)| *known == who) {
            *known = Roles(known.0 | roles.0);
            return Ok(());
        }
        self.list.push((who, roles)).map_err(|_| Refusal::TooManyPersons)
    }

    /// How many may hold a share.
    #[must_use]
    pub fn holders(&self) -> usize {
        self.list
            .iter()
            .filter(|(_, roles)| may_hold_a_share(*roles))
            .fold(0, |count: usize, _| count.saturating_add(1))
    }

    /// The roles of a person; an unknown person has none.
    #[must_use]
    pub fn roles(&self, who: PersonId) -> Roles {
        if who == PersonId::SERVICE {
            return Roles::NONE.with(Role::Administrator);
        }
        self.list.iter().find(|(known, _)| *known == who).map_or(Roles::NONE, |(_, roles)| *roles)
    }

    /// The place of a person in the list, below [`PERSONS_MAX`], as long as the service runs.
    #[must_use]
    pub fn place(&self, who: PersonId) -> Option<usize> {
        self.list.iter().position(|(known, _)| *known == who)
    }

    /// Whether there are two different persons of whom one may ask for what needs two and the
    /// other may approve it.
    #[must_use]
    pub fn are_two(&self) -> bool {
        let asks = |roles: Roles| roles.has(Role::Administrator);
        self.list.iter().any(|(one, roles)| {
            asks(*roles) && self.list.iter().any(|(other, roles)| other != one && may(*roles, CommandKind::Approve))
        })
    }
}

/// Whether an order needs a second person under dual control, by the product page. The
/// golden table `tests/golden/roles.md` lists them. `lowers` says that fewer persons would open
/// the slot than now.
#[must_use]
pub const fn needs_two(command: &Command, lowers: bool) -> bool {
    match command {
        Command::Init { .. }
        | Command::Unblock { .. }
        | Command::Decommission { .. }
        | Command::AdoptConfiguration { .. }
        | Command::Zeroize
        | Command::Mode { to: Mode::Generated, .. } => true,
        // A last try: the confirmation is the second person's.
        Command::Activate { confirmed, .. }
        | Command::ChangeCode { confirmed, .. }
        | Command::Share { confirmed, .. } => *confirmed,
        Command::Mode { to: Mode::Manual, confirmed, .. } | Command::Split { confirmed, .. } => *confirmed || lowers,
        Command::DualControl { on } => !*on,
        Command::Cards { order } => match order.task {
            Task::CreateSet { .. }
            | Task::ReplaceSet { .. }
            | Task::Rotate { .. }
            | Task::RestoreKey { .. }
            | Task::Restore { .. }
            | Task::Erase { .. }
            | Task::Reassign { .. } => true,
            Task::ChangePin { .. } | Task::Copy { .. } | Task::VerifySet | Task::VerifyFile { .. } => false,
        },
        Command::CardLost { .. } | Command::BySoCards { .. } | Command::AdministratorCards { .. } => true,
        Command::SlotCards { confirmed, .. } => *confirmed || lowers,
        Command::Boot
        | Command::Deactivate { .. }
        | Command::EndCall { .. }
        | Command::Approve { .. }
        | Command::Withdraw { .. }
        | Command::Reset { .. }
        | Command::AnswerCeremony { .. }
        | Command::CancelCeremony { .. }
        | Command::Transfer {
            order:
                TransferOrder::EndRestore
                | TransferOrder::Count { .. }
                | TransferOrder::Receive { .. }
                | TransferOrder::EndReceive,
        }
        // Whoever made that roster had two persons for it.
        | Command::Cluster { order: ClusterOrder::Follow { .. } }
        | Command::Stop => false,
        Command::Transfer {
            order:
                TransferOrder::Export { .. }
                | TransferOrder::Import { .. }
                | TransferOrder::Restore { .. }
                | TransferOrder::Package { .. }
                | TransferOrder::Apply { .. }
                | TransferOrder::Abandon { .. },
        } => true,
        Command::Cluster {
            order:
                ClusterOrder::Found { .. }
                | ClusterOrder::Invite { .. }
                | ClusterOrder::Remove { .. }
                | ClusterOrder::Renew { .. }
                | ClusterOrder::Join { .. }
                | ClusterOrder::Choose { .. },
        } => true,
    }
}

/// Whether somebody with these roles may hold a share or know a part of a code.
#[must_use]
pub const fn may_hold_a_share(roles: Roles) -> bool {
    roles.has(Role::Administrator) || roles.has(Role::Custodian)
}

/// Whether somebody with these roles may give this order. The golden table
/// `tests/golden/roles.md` lists every pair.
#[must_use]
pub const fn may(roles: Roles, what: CommandKind) -> bool {
    let administrator = roles.has(Role::Administrator);
    let operator = roles.has(Role::Operator);
    let auditor = roles.has(Role::Auditor);
    match what {
        CommandKind::Boot | CommandKind::Activate | CommandKind::Deactivate | CommandKind::FollowRoster => {
            administrator || operator
        }
        CommandKind::Init
        | CommandKind::ChangeCode
        | CommandKind::Mode
        | CommandKind::Split
        | CommandKind::EndCall
        | CommandKind::Stop
        | CommandKind::Unblock
        | CommandKind::Decommission
        | CommandKind::DualControl
        | CommandKind::AdoptConfiguration
        | CommandKind::CreateSet
        | CommandKind::ReassignCard
        | CommandKind::VerifySet
        | CommandKind::VerifyFile
        | CommandKind::RestoreKey
        | CommandKind::Export
        | CommandKind::Restore
        | CommandKind::Import
        | CommandKind::EndRestore
        | CommandKind::CountKeys
        | CommandKind::MakePackage
        | CommandKind::ReceivePackage
        | CommandKind::ApplyPackage
        | CommandKind::EndReceive
        | CommandKind::Abandon
        | CommandKind::FoundCluster
        | CommandKind::InviteMember
        | CommandKind::RemoveMember
        | CommandKind::RenewRoster
        | CommandKind::JoinCluster
        | CommandKind::ChooseRoster
        | CommandKind::Zeroize
        | CommandKind::ReplaceSet
        | CommandKind::RotateKey
        | CommandKind::EraseCard
        | CommandKind::CardLost
        | CommandKind::SlotCards
        | CommandKind::AdministratorCards => administrator,
        // A custodian keeps their own card.
        CommandKind::ChangeCardPin | CommandKind::CopyCard => may_hold_a_share(roles),
        // Whose ceremony it is, and who is wanted in it, decides.
        CommandKind::AnswerCeremony | CommandKind::CancelCeremony => {
            administrator || operator || may_hold_a_share(roles) || roles.has(Role::Approver)
        }
        CommandKind::Share => may_hold_a_share(roles),
        CommandKind::Reset => administrator || operator || may_hold_a_share(roles),
        CommandKind::Approve => administrator || roles.has(Role::Approver),
        // Whose request it is decides: one's own, or as an administrator.
        CommandKind::Withdraw => administrator || operator,
        CommandKind::ReadStatus => {
            administrator || operator || auditor || roles.has(Role::Approver) || roles.has(Role::Custodian)
        }
        CommandKind::ReadAudit => administrator || auditor,
    }
}
