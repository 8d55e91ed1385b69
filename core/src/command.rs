//! What people may order, and what they are answered.

use serde::{Deserialize, Serialize};

use crate::approval::ApprovalCode;
use crate::card::{CardSerial, Credential};
use crate::ceremony::order::{CardOrder, CeremonyId, Places, SoUse};
use crate::cluster::ClusterOrder;
use crate::effect::{ApplicationSet, SlotId};
use crate::fault::{Fault, Refusal};
use crate::person::{PersonId, Roster};
use crate::record::Mode;
use crate::safe::SecretId;
use crate::share::Quorum;
use crate::share::card_set::CardQuorum;
use crate::status::Progress;
use crate::transfer::TransferOrder;

/// The platform's name for an answer that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ReplyId(pub u32);

/// Who gave an order, and where the answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Caller {
    /// The person, as the platform authenticated them.
    pub who: PersonId,
    /// Where the answer goes; exactly one `Effect::Reply` carries it.
    pub reply: ReplyId,
}

/// One order. Every [`SecretId`] in it is consumed by `Service::handle`, also on refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Command {
    /// Try every slot that opens without people; answered when each was tried.
    Boot,
    /// Prove the token PIN and hand it to the applications.
    Activate {
        /// Which slot.
        slot: SlotId,
        /// The manual code; `None` for a generated one.
        code: Option<SecretId>,
        /// Whether the person typed the confirmation that a last try needs.
        confirmed: bool,
    },
    /// Take the PIN back from the applications, log out, forget it.
    Deactivate {
        /// Which slot.
        slot: SlotId,
    },
    /// End the HSM worker because a call of this slot stays unanswered: only on a
    /// person's order, since a kill inside `C_SetPIN` can destroy a SoftHSM token.
    EndCall {
        /// Which slot.
        slot: SlotId,
    },
    /// Give a token its first user PIN, a generated one.
    Init {
        /// Which slot.
        slot: SlotId,
        /// The security officer's PIN: set on a free token, checked on an initialised one.
        so_pin: SecretId,
        /// The PKCS#11 slot number of the free token to take, when several are free.
        free_slot: Option<u64>,
        /// Whether the person typed the confirmation that a last try of the SO PIN needs.
        confirmed: bool,
    },
    /// Replace the code, in the same mode.
    ChangeCode {
        /// Which slot.
        slot: SlotId,
        /// The present manual code; `None` in generated mode.
        code: Option<SecretId>,
        /// The new manual code; `None` in generated mode.
        new_code: Option<SecretId>,
        /// Whether the person typed the confirmation that a last try needs.
        confirmed: bool,
        /// Applications that need not be told to let go.
        accept: ApplicationSet,
    },
    /// Switch between generated and manual.
    Mode {
        /// Which slot.
        slot: SlotId,
        /// The mode to switch to.
        to: Mode,
        /// Who knows the new manual code: one person, or several in conjunction, each with a part.
        parts: Option<Roster>,
        /// The present manual code, when the slot is manual.
        code: Option<SecretId>,
        /// The new manual code, when the slot becomes manual.
        new_code: Option<SecretId>,
        /// Whether the person typed the confirmation that a last try needs.
        confirmed: bool,
        /// Applications that need not be told to let go.
        accept: ApplicationSet,
    },
    /// Give the token another user PIN by the SO PIN: for a blocked token, a lost store, a
    /// forgotten code. Every key stays.
    Unblock {
        /// Which slot.
        slot: SlotId,
        /// The security officer's PIN.
        so_pin: SecretId,
        /// The mode from then on.
        to: Mode,
        /// The new manual code, when the slot becomes manual.
        new_code: Option<SecretId>,
        /// Whether the person typed the confirmation that a last try of the SO PIN needs.
        confirmed: bool,
        /// Applications that need not be told to let go.
        accept: ApplicationSet,
    },
    /// End the life of a slot: erase its token with every key, forget its codes. The platform
    /// has seen the typed confirmation.
    Decommission {
        /// Which slot.
        slot: SlotId,
        /// The security officer's PIN; `None`: the token is gone or replaced, only what the
        /// service keeps is forgotten.
        so_pin: Option<SecretId>,
        /// Whether the person typed the confirmation that a last try of the SO PIN needs.
        confirmed: bool,
        /// Applications that need not be told to let go.
        accept: ApplicationSet,
    },
    /// Approve what another person asked for. An approver's or administrator's order.
    Approve {
        /// Which request.
        id: u32,
        /// The code that its requester was told.
        code: ApprovalCode,
    },
    /// Withdraw a request for an approval: one's own, or as an administrator.
    Withdraw {
        /// Which request.
        id: u32,
    },
    /// Switch dual control on, or off again.
    DualControl {
        /// On or off.
        on: bool,
    },
    /// Approve the configuration file as it is now; it counts from the next start on.
    AdoptConfiguration {
        /// SHA-256 of the protected part of the file.
        digest: [u8; 32],
    },
    /// Make a new secret for the slot's code and hand its shares out: any m of n persons know
    /// the code together from then on.
    Split {
        /// Which slot.
        slot: SlotId,
        /// How many of how many.
        quorum: Quorum,
        /// Who the shares are for; nobody in particular: whoever may hold one and asks first.
        custodians: Roster,
        /// The present manual code, when one person knows it.
        code: Option<SecretId>,
        /// Whether the person typed the confirmation that a last try needs.
        confirmed: bool,
        /// Applications that need not be told to let go.
        accept: ApplicationSet,
    },
    /// What a custodian does for a slot, whatever it wants of them now: without a code fetch
    /// their share, once; with one type that share back, or enter a share or a part.
    Share {
        /// Which slot.
        slot: SlotId,
        /// The share or the part.
        code: Option<SecretId>,
        /// Whether the person typed the confirmation that a last try needs.
        confirmed: bool,
    },
    /// End the collection of a slot: what was entered is wiped, a set that was being handed
    /// out is void.
    Reset {
        /// Which slot.
        slot: SlotId,
    },
    /// Deactivate nothing, but take hand-over files back, wipe the Safe and end.
    Stop,
    /// A ceremony that is about cards; answered when it ended.
    Cards {
        /// What, and at which readers.
        order: CardOrder,
    },
    /// Let users with cards open a slot, alone or on top of a code: a new set for it.
    SlotCards {
        /// Which slot.
        slot: SlotId,
        /// How many users of how many.
        quorum: CardQuorum,
        /// The users, share 1 first.
        holders: Roster,
        /// Whether a code is needed as well.
        with_code: bool,
        /// The present manual code, where one person knows it.
        code: Option<SecretId>,
        /// The code on top of which the cards are.
        new_code: Option<SecretId>,
        /// Whether the person typed the confirmation that a last try needs.
        confirmed: bool,
        /// Applications that need not be told to let go.
        accept: ApplicationSet,
        /// At which readers.
        at: Places,
    },
    /// Let cards give the SO PIN of a slot's token: a new set for it.
    AdministratorCards {
        /// Which slot.
        slot: SlotId,
        /// How many cards of how many.
        quorum: CardQuorum,
        /// The HSM administrators, share 1 first.
        holders: Roster,
        /// The present SO PIN; `None`: that of the cards in force.
        so_pin: Option<SecretId>,
        /// Whether the person typed the confirmation that a last try of the SO PIN needs.
        confirmed: bool,
        /// At which readers.
        at: Places,
    },
    /// Initialise, unblock or decommission by the SO PIN of the cards.
    BySoCards {
        /// Which slot.
        slot: SlotId,
        /// Which of them.
        then: SoUse,
        /// Whether the person typed the confirmation that a last try of the SO PIN needs.
        confirmed: bool,
        /// At which readers.
        at: Places,
    },
    /// Declare a card lost.
    CardLost {
        /// The card.
        serial: CardSerial,
        /// Which of its credentials.
        credential: Credential,
    },
    /// Answer what a ceremony asks.
    AnswerCeremony {
        /// Which ceremony.
        id: CeremonyId,
        /// The answer.
        yes: bool,
        /// Whether the text was typed that a last try needs.
        confirmed: bool,
    },
    /// End a ceremony.
    CancelCeremony {
        /// Which.
        id: CeremonyId,
    },
    /// Something about an export, a file to restore or a package.
    Transfer {
        /// What.
        order: TransferOrder,
    },
    /// Something about the cluster.
    Cluster {
        /// What.
        order: ClusterOrder,
    },
    /// Destroy the data key, and with it every sealed code and the node key; take everything back,
    /// and end. The platform has seen the typed confirmation.
    Zeroize,
}

/// A [`Command`] or a reading without its parameters: what a role is checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum CommandKind {
    /// [`Command::Boot`]
    Boot,
    /// [`Command::Activate`]
    Activate,
    /// [`Command::Deactivate`]
    Deactivate,
    /// [`Command::EndCall`]
    EndCall,
    /// [`Command::Init`]
    Init,
    /// [`Command::ChangeCode`]
    ChangeCode,
    /// [`Command::Mode`]
    Mode,
    /// [`Command::Stop`]
    Stop,
    /// Reading the status; the platform asks before it shows one.
    ReadStatus,
    /// Reading the audit log; the platform asks before it shows it.
    ReadAudit,
    /// [`Command::Unblock`]
    Unblock,
    /// [`Command::Decommission`]
    Decommission,
    /// [`Command::Approve`]
    Approve,
    /// [`Command::Withdraw`]
    Withdraw,
    /// [`Command::DualControl`]
    DualControl,
    /// [`Command::AdoptConfiguration`]
    AdoptConfiguration,
    /// [`Command::Split`]
    Split,
    /// [`Command::Share`]
    Share,
    /// [`Command::Reset`]
    Reset,
    /// [`Task::CreateSet`](crate::ceremony::order::Task)
    CreateSet,
    /// [`Task::ChangePin`](crate::ceremony::order::Task)
    ChangeCardPin,
    /// [`Task::Reassign`](crate::ceremony::order::Task)
    ReassignCard,
    /// [`Task::Copy`](crate::ceremony::order::Task)
    CopyCard,
    /// [`Task::VerifySet`](crate::ceremony::order::Task)
    VerifySet,
    /// [`Task::RestoreKey`](crate::ceremony::order::Task)
    RestoreKey,
    /// [`Task::ReplaceSet`](crate::ceremony::order::Task)
    ReplaceSet,
    /// [`Task::Rotate`](crate::ceremony::order::Task)
    RotateKey,
    /// [`Task::Erase`](crate::ceremony::order::Task)
    EraseCard,
    /// [`Command::CardLost`]
    CardLost,
    /// [`Command::SlotCards`]
    SlotCards,
    /// [`Command::AdministratorCards`]
    AdministratorCards,
    /// [`Command::AnswerCeremony`]
    AnswerCeremony,
    /// [`Command::CancelCeremony`]
    CancelCeremony,
    /// [`TransferOrder::Export`]
    Export,
    /// [`Task::Restore`](crate::ceremony::order::Task), [`TransferOrder::Restore`]
    Restore,
    /// [`TransferOrder::Import`]
    Import,
    /// [`TransferOrder::EndRestore`]
    EndRestore,
    /// [`TransferOrder::Count`]
    CountKeys,
    /// [`TransferOrder::Package`]
    MakePackage,
    /// [`TransferOrder::Receive`]
    ReceivePackage,
    /// [`TransferOrder::Apply`]
    ApplyPackage,
    /// [`TransferOrder::EndReceive`]
    EndReceive,
    /// [`ClusterOrder::Found`]
    FoundCluster,
    /// [`ClusterOrder::Invite`]
    InviteMember,
    /// [`ClusterOrder::Remove`]
    RemoveMember,
    /// [`ClusterOrder::Renew`]
    RenewRoster,
    /// [`ClusterOrder::Join`]
    JoinCluster,
    /// [`ClusterOrder::Follow`]
    FollowRoster,
    /// [`ClusterOrder::Choose`]
    ChooseRoster,
    /// [`Command::Zeroize`]
    Zeroize,
    /// [`Task::VerifyFile`](crate::ceremony::order::Task)
    VerifyFile,
    /// [`TransferOrder::Abandon`]
    Abandon,
}

impl CommandKind {
    /// Every kind, in the order of the enum. New ones go to its end: audit records hold their places.
    pub const ALL: [CommandKind; 52] = [
        CommandKind::Boot,
        CommandKind::Activate,
        CommandKind::Deactivate,
        CommandKind::EndCall,
        CommandKind::Init,
        CommandKind::ChangeCode,
        CommandKind::Mode,
        CommandKind::Stop,
        CommandKind::ReadStatus,
        CommandKind::ReadAudit,
        CommandKind::Unblock,
        CommandKind::Decommission,
        CommandKind::Approve,
        CommandKind::Withdraw,
        CommandKind::DualControl,
        CommandKind::AdoptConfiguration,
        CommandKind::Split,
        CommandKind::Share,
        CommandKind::Reset,
        CommandKind::CreateSet,
        CommandKind::ChangeCardPin,
        CommandKind::ReassignCard,
        CommandKind::CopyCard,
        CommandKind::VerifySet,
        CommandKind::RestoreKey,
        CommandKind::ReplaceSet,
        CommandKind::RotateKey,
        CommandKind::EraseCard,
        CommandKind::CardLost,
        CommandKind::SlotCards,
        CommandKind::AdministratorCards,
        CommandKind::AnswerCeremony,
        CommandKind::CancelCeremony,
        CommandKind::Export,
        CommandKind::Restore,
        CommandKind::Import,
        CommandKind::EndRestore,
        CommandKind::CountKeys,
        CommandKind::MakePackage,
        CommandKind::ReceivePackage,
        CommandKind::ApplyPackage,
        CommandKind::EndReceive,
        CommandKind::FoundCluster,
        CommandKind::InviteMember,
        CommandKind::RemoveMember,
        CommandKind::RenewRoster,
        CommandKind::JoinCluster,
        CommandKind::FollowRoster,
        CommandKind::ChooseRoster,
        CommandKind::Zeroize,
        CommandKind::VerifyFile,
        CommandKind::Abandon,
    ];
}

impl Command {
    /// The command without its parameters.
    #[must_use]
    pub const fn kind(&self) -> CommandKind {
        match self {
            Command::Boot => CommandKind::Boot,
            Command::Activate { .. } => CommandKind::Activate,
            Command::Deactivate { .. } => CommandKind::Deactivate,
            Command::EndCall { .. } => CommandKind::EndCall,
            Command::Init { .. } => CommandKind::Init,
            Command::ChangeCode { .. } => CommandKind::ChangeCode,
            Command::Mode { .. } => CommandKind::Mode,
            Command::Unblock { .. } => CommandKind::Unblock,
            Command::Decommission { .. } => CommandKind::Decommission,
            Command::Split { .. } => CommandKind::Split,
            Command::Share { .. } => CommandKind::Share,
            Command::Reset { .. } => CommandKind::Reset,
            Command::Stop => CommandKind::Stop,
            Command::Approve { .. } => CommandKind::Approve,
            Command::Withdraw { .. } => CommandKind::Withdraw,
            Command::DualControl { .. } => CommandKind::DualControl,
            Command::AdoptConfiguration { .. } => CommandKind::AdoptConfiguration,
            Command::Cards { order } => order.task.kind(),
            Command::SlotCards { .. } => CommandKind::SlotCards,
            Command::AdministratorCards { .. } => CommandKind::AdministratorCards,
            Command::BySoCards { then: SoUse::Init { .. }, .. } => CommandKind::Init,
            Command::BySoCards { then: SoUse::Unblock { .. }, .. } => CommandKind::Unblock,
            Command::BySoCards { then: SoUse::Decommission { .. }, .. } => CommandKind::Decommission,
            Command::CardLost { .. } => CommandKind::CardLost,
            Command::AnswerCeremony { .. } => CommandKind::AnswerCeremony,
            Command::CancelCeremony { .. } => CommandKind::CancelCeremony,
            Command::Transfer { order } => order.kind(),
            Command::Cluster { order } => order.kind(),
            Command::Zeroize => CommandKind::Zeroize,
        }
    }

    /// The slot it is about, if it is about one.
    #[must_use]
    pub const fn slot(&self) -> Option<SlotId> {
        match self {
            Command::Boot
            | Command::Stop
            | Command::Zeroize
            | Command::Approve { .. }
            | Command::Withdraw { .. }
            | Command::DualControl { .. }
            | Command::AdoptConfiguration { .. }
            | Command::Cards { .. }
            | Command::CardLost { .. }
            | Command::AnswerCeremony { .. }
            | Command::CancelCeremony { .. }
            | Command::Cluster { .. }
            | Command::Transfer {
                order:
                    TransferOrder::Export { .. }
                    | TransferOrder::EndRestore
                    | TransferOrder::Package { .. }
                    | TransferOrder::Receive { .. }
                    | TransferOrder::Apply { .. }
                    | TransferOrder::EndReceive
                    | TransferOrder::Abandon { .. },
            } => None,
            Command::Transfer {
                order:
                    TransferOrder::Import { slot, .. } | TransferOrder::Count { slot } | TransferOrder::Restore { slot, .. },
            } => Some(*slot),
            Command::Activate { slot, .. }
            | Command::Deactivate { slot }
            | Command::EndCall { slot }
            | Command::Init { slot, .. }
            | Command::ChangeCode { slot, .. }
            | Command::Mode { slot, .. }
            | Command::Unblock { slot, .. }
            | Command::Decommission { slot, .. }
            | Command::Split { slot, .. }
            | Command::Share { slot, .. }
            | Command::Reset { slot }
            | Command::SlotCards { slot, .. }
            | Command::AdministratorCards { slot, .. }
            | Command::BySoCards { slot, .. } => Some(*slot),
        }
    }

    /// The secrets it carries, for wiping on refusal.
    #[must_use]
    pub const fn secrets(&self) -> [Option<SecretId>; 2] {
        match self {
            Command::Boot
            | Command::Stop
            | Command::Zeroize
            | Command::Deactivate { .. }
            | Command::EndCall { .. }
            | Command::Approve { .. }
            | Command::Withdraw { .. }
            | Command::DualControl { .. }
            | Command::AdoptConfiguration { .. }
            | Command::Reset { .. }
            | Command::Cards { .. }
            | Command::CardLost { .. }
            | Command::AnswerCeremony { .. }
            | Command::CancelCeremony { .. }
            | Command::Transfer {
                order:
                    TransferOrder::Import { .. }
                    | TransferOrder::EndRestore
                    | TransferOrder::Count { .. }
                    | TransferOrder::Package { .. }
                    | TransferOrder::Receive { .. }
                    | TransferOrder::Apply { .. }
                    | TransferOrder::EndReceive
                    | TransferOrder::Abandon { .. },
            }
            | Command::Cluster { .. }
            | Command::BySoCards { then: SoUse::Init { .. } | SoUse::Decommission { .. }, .. } => [None, None],
            Command::Transfer {
                order: TransferOrder::Export { passphrase, .. } | TransferOrder::Restore { passphrase, .. },
            } => [*passphrase, None],
            Command::BySoCards { then: SoUse::Unblock { new_code, .. }, .. } => [None, *new_code],
            Command::AdministratorCards { so_pin, .. } => [*so_pin, None],
            Command::Activate { code, .. } | Command::Split { code, .. } | Command::Share { code, .. } => [*code, None],
            Command::Init { so_pin, .. } => [Some(*so_pin), None],
            Command::Unblock { so_pin, new_code, .. } => [Some(*so_pin), *new_code],
            Command::Decommission { so_pin, .. } => [*so_pin, None],
            Command::ChangeCode { code, new_code, .. }
            | Command::Mode { code, new_code, .. }
            | Command::SlotCards { code, new_code, .. } => [*code, *new_code],
        }
    }

    /// What an approval is about: the command with all its parameters, but no secret.
    #[must_use]
    pub const fn without_secrets(mut self) -> Self {
        match &mut self {
            Command::Boot
            | Command::Stop
            | Command::Zeroize
            | Command::Deactivate { .. }
            | Command::EndCall { .. }
            | Command::Approve { .. }
            | Command::Withdraw { .. }
            | Command::DualControl { .. }
            | Command::AdoptConfiguration { .. }
            | Command::Reset { .. }
            | Command::Cards { .. }
            | Command::CardLost { .. }
            | Command::AnswerCeremony { .. }
            | Command::CancelCeremony { .. }
            | Command::Transfer {
                order:
                    TransferOrder::Import { .. }
                    | TransferOrder::EndRestore
                    | TransferOrder::Count { .. }
                    | TransferOrder::Package { .. }
                    | TransferOrder::Receive { .. }
                    | TransferOrder::Apply { .. }
                    | TransferOrder::EndReceive
                    | TransferOrder::Abandon { .. },
            }
            | Command::Cluster { .. }
            | Command::BySoCards { then: SoUse::Init { .. } | SoUse::Decommission { .. }, .. } => {}
            // Whether a passphrase protects it is part of what is approved; which one nobody but its
            // requester knows.
            Command::Transfer {
                order: TransferOrder::Export { passphrase, .. } | TransferOrder::Restore { passphrase, .. },
            } => {
                if let Some(passphrase) = passphrase {
                    *passphrase = SecretId::NONE;
                }
            }
            Command::BySoCards { then: SoUse::Unblock { new_code, .. }, .. } => *new_code = None,
            // Whether the SO PIN is typed or comes from cards is part of what is approved.
            Command::AdministratorCards { so_pin, .. } => {
                if let Some(so_pin) = so_pin {
                    *so_pin = SecretId::NONE;
                }
            }
            Command::Activate { code, .. } | Command::Split { code, .. } | Command::Share { code, .. } => *code = None,
            Command::Init { so_pin, .. } => *so_pin = SecretId::NONE,
            Command::Unblock { so_pin, new_code, .. } => {
                *so_pin = SecretId::NONE;
                *new_code = None;
            }
            // Whether the token is erased or only forgotten is part of what is approved.
            Command::Decommission { so_pin, .. } => {
                if let Some(so_pin) = so_pin {
                    *so_pin = SecretId::NONE;
                }
            }
            Command::ChangeCode { code, new_code, .. }
            | Command::Mode { code, new_code, .. }
            | Command::SlotCards { code, new_code, .. } => {
                *code = None;
                *new_code = None;
            }
        }
        self
    }
}

/// How an order ended. Exactly one answer for each order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Answer {
    /// The device confirmed it, and it is durable.
    Done,
    /// Nothing was done yet: another person has to approve it, then the same person gives
    /// the same order again.
    NeedsApproval {
        /// Of the request.
        id: u32,
        /// What the person reads to whoever approves.
        code: ApprovalCode,
    },
    /// Nothing was done; the person can do something about it.
    Refused(Refusal),
    /// A device failed; the slot's status says in which state it is.
    Failed(Fault),
    /// What was entered is good; the slot waits for more people.
    Waits(Progress),
    /// The person's share, shown this once: the place holds its text, and is wiped when the
    /// answer was performed.
    Share {
        /// Its text.
        id: SecretId,
        /// Which of the set's shares.
        x: u8,
        /// How many of how many.
        quorum: Quorum,
    },
}
