//! The status as others script against it, with names instead of numbers.
//!
//! The shape is fixed by `"schema": 1`: keys are added, never changed or removed. The same
//! structs travel on the control socket, so table, JSON and boot message cannot disagree.

mod cards;
mod ceremony;
mod cluster;
mod transfers;

use serde::{Deserialize, Serialize};
use slotwarden_core::command::CommandKind;
use slotwarden_core::fault::Fault;
use slotwarden_core::record::{Doubt, Mode};
use slotwarden_core::status::{
    ApplicationState, ApprovalStatus, Attention, CollectionPerson, CollectionStatus, KnowledgeStatus, Progress,
    SlotStatus, StateName, Status, WaitKind,
};

use crate::config::{CoverageSettings, SecurityLevel};
use crate::devices::{KeysDone, ReaderView};
use crate::names::Names;
use crate::operation;
use crate::problem::{EXIT_DONE, EXIT_ERROR, EXIT_LATER, EXIT_WAITS, Problem};

pub use cards::{BackupView, CardSetView, CardView, CardsView, card_view, credential_word};
pub use ceremony::{CeremonyView, LastCeremonyView, end_word, view_of_ceremony};
pub use cluster::{
    ClusterMemberView, ClusterView, ExchangeView, KeyTitleView, SlotKeysView, SynchronisedKeyView, SynchronisedView,
};
pub use transfers::{CoverageView, KeysDoneView, KeysView, PlanView, TransferView};

/// Version of the JSON.
pub const SCHEMA: u32 = 1;

/// The whole appliance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Counts.
    pub summary: Summary,
    /// Every configured slot, in the order of the configuration.
    pub slots: Vec<SlotView>,
    /// What protects the stored codes: `key-file`, `systemd-credential`.
    pub seal: String,
    /// Whether one person alone decides.
    pub single_person: bool,
    /// Why the service halted, if it did.
    pub halted: Option<Told>,
    /// How backups are protected: `none`, `passphrase`, `cards`.
    pub security_level: String,
    /// Orders that wait for a second person, or for being given again.
    pub approvals: Vec<ApprovalView>,
    /// Whether the configuration file differs from what two persons approved.
    pub configuration_waits: bool,
    /// Whether what they approved counts only from the next start on.
    pub restart_wanted: bool,
    /// Whether the automatic slots have all been tried since the daemon started.
    pub boot_done: bool,
    /// Whether less than 4 MiB is free for the store.
    pub disk_reserve: bool,
    /// The HSM.
    pub hsm: HsmView,
    /// Which two sources random draws come from.
    pub random: String,
    /// Slots that the configuration no longer names, although a sealed code is kept for them.
    pub kept_codes: Vec<String>,
    /// The ceremony under way.
    pub ceremony: Option<CeremonyView>,
    /// How the last one ended, since the start.
    pub last_ceremony: Option<LastCeremonyView>,
    /// The backup key's set in force.
    pub backup: Option<BackupView>,
    /// The export or restore under way.
    pub transfer: Option<TransferView>,
    /// What exports cover.
    pub coverage: CoverageView,
    /// The cluster that this node is in.
    pub cluster: Option<ClusterView>,
    /// What people compare when this node is invited, or invites.
    pub node_fingerprint: String,
}

/// Counts of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Active ones.
    pub active: usize,
    /// All.
    pub slots: usize,
}

/// The module and its worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HsmView {
    /// Whether the worker runs.
    pub worker: bool,
    /// Path, vendor, version; or why the module or its worker could not be started.
    pub module: String,
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotView {
    /// The configured name.
    pub name: String,
    /// The token, as a PKCS#11 URI.
    pub token: String,
    /// `generated` or `manual`.
    pub mode: String,
    /// The state's word.
    pub state: String,
    /// Its applications.
    pub applications: Vec<ApplicationView>,
    /// Who is wanted.
    pub waits_for: Option<WaitView>,
    /// Tries before each further one needs a confirmation.
    pub tries_left: u8,
    /// `tries-spent-elsewhere`, `count-low`, `final-try`, `application-failed`.
    pub attention: Option<String>,
    /// `old-or-new`, `both-refused`, `call-unanswered`.
    pub doubt: Option<String>,
    /// The last device failure since the slot was last well.
    pub fault: Option<Told>,
    /// Why nothing is done by itself.
    pub refusal: Option<Told>,
    /// When the SO PIN was last proven here, seconds since 1970; null: never.
    pub so_pin_proven_s: Option<u64>,
    /// Who knows its code.
    pub knowledge: KnowledgeView,
    /// The collection of shares or parts under way.
    pub collection: Option<CollectionView>,
    /// Whether its token has the derived keys of the backup key in force; null: not known, or there is none.
    pub backup_key: Option<bool>,
    /// Its keys as they were counted last; null: not since the start.
    pub keys: Option<KeysView>,
    /// The program of the HSM's vendor that makes its exports; null: they hold each key wrapped (RFC 5649).
    pub export_program: Option<String>,
    /// How far its keys are on every node; null: this node is in no cluster.
    pub synchronised: Option<SynchronisedView>,
}

/// One order that needs two persons. Its code is told to its requester only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalView {
    /// Names it for `slotwarden approve`.
    pub id: u32,
    /// Who gave the order.
    pub requester: String,
    /// The order, as scripts know it: `mode`, `init`, …
    pub order: String,
    /// The order in full words.
    pub operation: String,
    /// The slot it is about.
    pub slot: Option<String>,
    /// `requested`: it waits for another person; `approved`: for being given again.
    pub state: String,
    /// Who approved it.
    pub approver: Option<String>,
    /// Seconds until it ends by itself.
    pub seconds_left: u32,
    /// What would change, where the order is about the configuration.
    pub differences: Vec<String>,
}

/// One application of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationView {
    /// The configured name.
    pub name: String,
    /// `inactive`, `pending`, `active`, `failed`.
    pub state: String,
    /// Why it could not be served.
    pub fault: Option<Told>,
}

/// Who or what a slot waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitView {
    /// `code`, `parts`, `shares`, `cards`, `person`.
    pub kind: String,
    /// How many of them are here.
    pub have: u8,
    /// How many are needed.
    pub need: u8,
    /// The id of the collection under way, if one is.
    pub attempt: Option<String>,
    /// Seconds until something can be done, where that is known.
    pub seconds_left: Option<u32>,
}

/// Who knows a slot's code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnowledgeView {
    /// `service` (a generated code), `whole`, `parts`, `shares`, `cards`.
    pub kind: String,
    /// For parts: who, in the order in which their parts are joined.
    pub persons: Vec<String>,
    /// For shares: the set that is in force.
    pub set: Option<SetView>,
    /// For cards: the set that is in force.
    pub cards: Option<CardSetView>,
}

/// A set of shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetView {
    /// How many persons open the slot.
    pub m: u8,
    /// Of how many.
    pub n: u8,
    /// Which set of its slot; rises with each.
    pub generation: u16,
    /// The beginning of its id, hexadecimal: each of its shares is shown with it.
    pub mark: String,
}

/// People who enter, or are handed, what they know of a code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionView {
    /// For which order: `activate`, `change-code`, `mode`, `split`.
    pub command: String,
    /// What is done now, how far it is, and its id.
    pub progress: ProgressView,
    /// Who did something.
    pub persons: Vec<CollectionPersonView>,
    /// Seconds until it ends by itself, unless somebody goes on.
    pub seconds_left: u32,
}

/// What one person did in a collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionPersonView {
    /// The configured name.
    pub name: String,
    /// `entered`; or, of a new set, `fetched` or `confirmed`.
    pub did: String,
}

/// How far a collection is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressView {
    /// `parts`, `shares` (of the present code), `new-parts`, `new-shares`.
    pub phase: String,
    /// How many were entered, or of new shares typed back.
    pub have: u8,
    /// How many it takes.
    pub need: u8,
    /// The attempt's id: the number of the audit record that began it.
    pub attempt: String,
}

/// A refusal or fault inside a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Stable number.
    pub number: u16,
    /// Stable name.
    pub name: String,
    /// What is so.
    pub sentence: String,
    /// What to do about it.
    pub remedy: String,
    /// Particulars.
    pub detail: Option<String>,
}

/// One slot with everything known about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotDetail {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What the status says.
    pub slot: SlotView,
    /// The slot uid, hexadecimal; `None` until the slot was first recorded.
    pub uid: Option<String>,
    /// Serial of the token last opened.
    pub serial: Option<String>,
    /// What protects its stored code, if it has one.
    pub seal: String,
    /// Who asks, by their configured name.
    pub you: Option<String>,
    /// The export or restore under way, if it is about this slot now.
    pub transfer: Option<TransferView>,
}

/// What the daemon knows beside the core's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// [`StatusView::seal`].
    pub seal: String,
    /// [`StatusView::security_level`].
    pub security_level: SecurityLevel,
    /// [`HsmView::module`].
    pub module: String,
    /// [`StatusView::random`].
    pub random: String,
    /// The card readers.
    pub readers: Vec<ReaderView>,
    /// Seconds since 1970, if there is a clock.
    pub wall_s: Option<u64>,
    /// When exports do not cover what they should.
    pub coverage: CoverageSettings,
    /// When the last one was made.
    pub last_export_s: Option<u64>,
    /// How far the transfer under way is.
    pub progress: Option<KeysDone>,
    /// [`StatusView::cluster`].
    pub cluster: Option<ClusterView>,
    /// [`StatusView::node_fingerprint`].
    pub node_fingerprint: String,
    /// [`SlotView::synchronised`], in the order of the configuration.
    pub synchronised: Vec<Option<SynchronisedView>>,
}

/// Joins numbers and names: the one place.
#[must_use]
pub fn join<const SLOTS: usize>(status: &Status<SLOTS>, names: &Names, around: &Surroundings) -> StatusView {
    let synchronised = |slot: &SlotStatus| around.synchronised.get(usize::from(slot.slot.0)).cloned().flatten();
    let view = |slot| SlotView { synchronised: synchronised(slot), ..slot_view(slot, names) };
    let slots: Vec<SlotView> = status.slots.iter().map(view).collect();
    let coverage = transfers::coverage_view(&slots, around);
    StatusView {
        schema: SCHEMA,
        summary: Summary { active: slots.iter().filter(|slot| slot.is_active()).count(), slots: slots.len() },
        slots,
        seal: around.seal.clone(),
        single_person: status.single_person,
        halted: status.halted.map(Told::from),
        security_level: around.security_level.word().to_owned(),
        approvals: status.approvals.iter().map(|approval| approval_view(approval, names)).collect(),
        configuration_waits: status.configuration_waits,
        restart_wanted: status.restart_wanted,
        boot_done: status.boot_done,
        disk_reserve: status.disk_reserve,
        hsm: HsmView { worker: status.worker, module: around.module.clone() },
        random: around.random.clone(),
        kept_codes: names.left_out.clone(),
        ceremony: status.ceremony.as_ref().map(|found| view_of_ceremony(found, names, &around.readers)),
        last_ceremony: status.last_ceremony.map(ceremony::last_view),
        transfer: status
            .transfer
            .as_ref()
            .map(|transfer| transfers::view_of_transfer(transfer, names, around.progress)),
        coverage,
        backup: status.backup.as_ref().map(|backup| cards::backup_view(backup, around.wall_s)),
        cluster: around.cluster.clone(),
        node_fingerprint: around.node_fingerprint.clone(),
    }
}

impl StatusView {
    /// The exit code of `status` and `boot`: 1 when something is broken, else 2 when
    /// people are wanted, else 75 while slots are being worked on, else 0.
    #[must_use]
    pub fn exit(&self) -> u8 {
        if self.halted.is_some() || !self.hsm.worker {
            return EXIT_ERROR;
        }
        let exits: Vec<u8> = self.slots.iter().map(SlotView::exit).collect();
        let worst = [EXIT_ERROR, EXIT_WAITS, EXIT_LATER].into_iter().find(|exit| exits.contains(exit));
        worst.unwrap_or(EXIT_DONE)
    }

    /// One line for people: "2 of 5 slots active; ca-root waits for a code".
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut sentence = format!("{} of {} slots active", self.summary.active, self.summary.slots);
        for slot in &self.slots {
            if !slot.is_active() {
                sentence.push_str(&format!("; {} {}", slot.name, slot.lack()));
            }
            for application in &slot.applications {
                if let Some(fault) = &application.fault {
                    let because = fault.detail.as_ref().unwrap_or(&fault.sentence);
                    sentence.push_str(&format!("; {} could not serve {}: {because}", slot.name, application.name));
                }
            }
        }
        if !self.hsm.worker {
            sentence.push_str(&format!("; no HSM worker runs: {}", self.hsm.module));
        }
        if let Some(halted) = &self.halted {
            sentence.push_str(&format!("; halted: {}", halted.sentence));
        }
        sentence
    }
}

impl SlotView {
    /// Whether the PIN was proven and handed over.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state == StateName::Active.word()
    }

    /// Its code mode, and who knows a manual code if several persons do.
    #[must_use]
    pub fn mode_sentence(&self) -> String {
        if let Some(set) = &self.knowledge.cards {
            let code = if set.with_code { ", on top of a code" } else { "" };
            return format!("{}, any {} of {} users with cards{code}", self.mode, set.k, set.n);
        }
        match (&self.knowledge.set, self.knowledge.persons.split_last()) {
            (Some(set), _) => format!("{}, any {} of {} persons", self.mode, set.m, set.n),
            (None, Some((last, others))) => format!("{}, {} and {last} together", self.mode, others.join(", ")),
            (None, None) => self.mode.clone(),
        }
    }

    /// Why it is not active, after its name in a sentence.
    #[must_use]
    pub fn lack(&self) -> String {
        let because = self.fault.as_ref().or(self.refusal.as_ref()).map(|told| format!(": {}", told.sentence));
        match &self.waits_for {
            Some(wait) if wait.kind == "person" && self.state == StateName::Uninitialised.word() => {
                "waits for a person: its token has no user PIN yet (`slot init`)".to_owned()
            }
            Some(wait) => {
                let seconds = wait.seconds_left.map_or_else(String::new, |left| format!(" in {left} s"));
                let fault = self.fault.as_ref().map(|fault| format!("; last fault: {}", fault.sentence));
                match wait.kind.as_str() {
                    "code" if self.doubt.as_deref() == Some(doubt_word(Doubt::OldOrNew)) => {
                        format!("waits for a code{seconds}: the new one, then the old one")
                    }
                    "code" => format!("waits for a code{seconds}{}", fault.unwrap_or_default()),
                    "cards" => format!("{}{}", self.waits_for_cards(wait), fault.unwrap_or_default()),
                    "parts" | "shares" => {
                        format!("{}{}", self.waits_for_people(wait), fault.unwrap_or_default())
                    }
                    _ => format!("waits for a person{seconds}{}", because.unwrap_or_default()),
                }
            }
            None => format!("is {}{}", self.state, because.unwrap_or_default()),
        }
    }

    /// Whose cards are wanted, after the slot's name: "waits for cards of 2 of 3 users".
    fn waits_for_cards(&self, wait: &WaitView) -> String {
        let of = self.knowledge.cards.as_ref().map_or_else(String::new, |set| format!(" of {}", set.n));
        let code = if self.knowledge.cards.as_ref().is_some_and(|set| set.with_code) { "a code and " } else { "" };
        let seconds = wait.seconds_left.map_or_else(String::new, |left| format!(" in {left} s"));
        format!("waits for {code}cards of {}{of} users{seconds}", wait.need)
    }

    /// What several persons are wanted for, after the slot's name: "waits for 2 of 3 shares,
    /// 1 entered".
    fn waits_for_people(&self, wait: &WaitView) -> String {
        let phase = self.collection.as_ref().map_or(wait.kind.as_str(), |collection| &collection.progress.phase);
        let of = self.knowledge.set.as_ref().map_or_else(String::new, |set| format!(" of {}", set.n));
        let mut text = match phase {
            "shares" => format!("waits for {}{of} shares", wait.need),
            "new-shares" => format!("waits for {} custodians to fetch and type back their new shares", wait.need),
            "new-parts" => format!("waits for {} parts of its new code", wait.need),
            _ => format!("waits for {} parts", wait.need),
        };
        if let Some(collection) = &self.collection {
            let did = if phase == "new-shares" { "typed back" } else { "entered" };
            text.push_str(&format!(", {} {did}", collection.progress.have));
        } else if let Some(left) = wait.seconds_left {
            text.push_str(&format!(" in {left} s"));
        }
        if self.doubt.as_deref() == Some(doubt_word(Doubt::OldOrNew)) {
            text.push_str(": of the new code, or of the old one");
        }
        text
    }

    /// A slot that a code opens waits for people, also after a fault: giving the code is
    /// how to go on. Otherwise a fault is told before whom it waits for.
    fn exit(&self) -> u8 {
        let code = self.waits_for.as_ref().is_some_and(|wait| wait.kind != "person");
        let under_way = [StateName::Activating.word(), StateName::Changing.word()];
        if self.applications.iter().any(|application| application.fault.is_some()) {
            // Active for us, but not for whoever needs the slot.
            EXIT_ERROR
        } else if self.is_active() {
            EXIT_DONE
        } else if code {
            EXIT_WAITS
        } else if self.fault.is_some() {
            EXIT_ERROR
        } else if self.waits_for.is_some() {
            EXIT_WAITS
        } else if under_way.contains(&self.state.as_str()) {
            EXIT_LATER
        } else {
            EXIT_ERROR
        }
    }
}

impl From<Problem> for Told {
    fn from(problem: Problem) -> Self {
        let Problem { number, name, sentence, remedy, detail, class: _ } = problem;
        Told { number, name, sentence, remedy, detail }
    }
}

impl From<Fault> for Told {
    fn from(fault: Fault) -> Self {
        Problem::from(fault).into()
    }
}

/// The word of a mode.
#[must_use]
pub const fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Generated => "generated",
        Mode::Manual => "manual",
    }
}

fn approval_view(approval: &ApprovalStatus, names: &Names) -> ApprovalView {
    ApprovalView {
        id: approval.id,
        requester: names.person_name(approval.requester),
        order: operation::word(approval.operation.kind()),
        operation: operation::sentence(&approval.operation, names),
        slot: approval.operation.slot().map(|slot| names.slot_name(slot)),
        state: if approval.by.is_some() { "approved" } else { "requested" }.to_owned(),
        approver: approval.by.map(|by| names.person_name(by)),
        seconds_left: approval.seconds_left,
        differences: Vec::new(),
    }
}

fn slot_view(slot: &SlotStatus, names: &Names) -> SlotView {
    let token = names.slots.get(usize::from(slot.slot.0)).map_or_else(String::new, |slot| slot.token.to_string());
    let applications = slot.applications.iter().map(|application| {
        let (state, fault) = match application.state {
            ApplicationState::Inactive => ("inactive", None),
            ApplicationState::Pending => ("pending", None),
            ApplicationState::Active => ("active", None),
            ApplicationState::Failed(fault) => ("failed", Some(Told::from(fault))),
        };
        ApplicationView { name: names.application_name(application.application), state: state.to_owned(), fault }
    });
    SlotView {
        synchronised: None,
        name: names.slot_name(slot.slot),
        token,
        mode: mode_word(slot.mode).to_owned(),
        state: slot.state.word().to_owned(),
        applications: applications.collect(),
        waits_for: slot.waits_for.map(|wait| WaitView {
            kind: wait_word(wait.kind).to_owned(),
            have: wait.have,
            need: wait.need,
            attempt: wait.attempt.map(|attempt| attempt.to_string()),
            seconds_left: wait.seconds_left,
        }),
        tries_left: slot.tries_left,
        attention: slot.attention.map(|attention| attention_word(attention).to_owned()),
        doubt: slot.doubt.map(|doubt| doubt_word(doubt).to_owned()),
        fault: slot.fault.map(Told::from),
        refusal: slot.refusal.map(|refusal| Problem::from(refusal).into()),
        so_pin_proven_s: slot.so_proven_s,
        knowledge: knowledge_view(slot, names),
        collection: slot.collection.as_ref().map(|collection| collection_view(collection, names)),
        backup_key: slot.backup_key,
        keys: slot.key_counts.map(KeysView::from),
        export_program: None,
    }
}

fn knowledge_view(slot: &SlotStatus, names: &Names) -> KnowledgeView {
    let view = |kind: &str| KnowledgeView { kind: kind.to_owned(), persons: Vec::new(), set: None, cards: None };
    match (slot.mode, slot.knowledge) {
        (Mode::Generated, _) => view("service"),
        (Mode::Manual, KnowledgeStatus::Whole) => view("whole"),
        (Mode::Manual, KnowledgeStatus::Parts(roster)) => {
            let persons = roster.persons().iter().map(|who| names.person_name(*who));
            KnowledgeView { persons: persons.collect(), ..view("parts") }
        }
        (Mode::Manual, KnowledgeStatus::Shares(set)) => {
            let mark = set.mark.iter().map(|byte| format!("{byte:02x}")).collect();
            let (m, n) = (set.quorum.m(), set.quorum.n());
            KnowledgeView { set: Some(SetView { m, n, generation: set.generation, mark }), ..view("shares") }
        }
        (Mode::Manual, KnowledgeStatus::Cards { quorum, with_code }) => {
            let cards = Some(CardSetView { k: quorum.m(), n: quorum.n(), with_code });
            KnowledgeView { cards, ..view("cards") }
        }
    }
}

fn collection_view(collection: &CollectionStatus, names: &Names) -> CollectionView {
    let handed_out = collection.progress.kind == WaitKind::Custodians;
    let person = |person: &CollectionPerson| CollectionPersonView {
        name: names.person_name(person.who),
        did: match (handed_out, person.done) {
            (true, false) => "fetched",
            (true, true) => "confirmed",
            (false, _) => "entered",
        }
        .to_owned(),
    };
    CollectionView {
        command: match collection.command {
            CommandKind::ChangeCode => "change-code",
            CommandKind::Mode => "mode",
            CommandKind::Split => "split",
            // The others begin no collection.
            CommandKind::Activate
            | CommandKind::Boot
            | CommandKind::Deactivate
            | CommandKind::EndCall
            | CommandKind::Init
            | CommandKind::Share
            | CommandKind::Reset
            | CommandKind::Unblock
            | CommandKind::Decommission
            | CommandKind::Approve
            | CommandKind::Withdraw
            | CommandKind::DualControl
            | CommandKind::AdoptConfiguration
            | CommandKind::Stop
            | CommandKind::ReadStatus
            | CommandKind::ReadAudit
            | CommandKind::CreateSet
            | CommandKind::ChangeCardPin
            | CommandKind::ReassignCard
            | CommandKind::CopyCard
            | CommandKind::VerifySet
            | CommandKind::VerifyFile
            | CommandKind::RestoreKey
            | CommandKind::ReplaceSet
            | CommandKind::RotateKey
            | CommandKind::EraseCard
            | CommandKind::CardLost
            | CommandKind::SlotCards
            | CommandKind::AdministratorCards
            | CommandKind::AnswerCeremony
            | CommandKind::CancelCeremony
            | CommandKind::Export
            | CommandKind::Restore
            | CommandKind::Import
            | CommandKind::EndRestore
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
            | CommandKind::FollowRoster
            | CommandKind::ChooseRoster
            | CommandKind::Zeroize
            | CommandKind::CountKeys => "activate",
        }
        .to_owned(),
        progress: ProgressView::from(collection.progress),
        persons: collection.persons.iter().map(person).collect(),
        seconds_left: collection.seconds_left,
    }
}

/// The words that others script against; whether a share or part is of the present or of a
/// new code says the phase of the collection.
const fn wait_word(kind: WaitKind) -> &'static str {
    match kind {
        WaitKind::Code => "code",
        WaitKind::Parts | WaitKind::NewParts => "parts",
        WaitKind::Shares | WaitKind::Custodians => "shares",
        WaitKind::Cards => "cards",
        WaitKind::Person => "person",
    }
}

impl From<Progress> for ProgressView {
    fn from(progress: Progress) -> Self {
        let Progress { kind, have, need, attempt } = progress;
        let phase = match kind {
            WaitKind::NewParts => "new-parts",
            WaitKind::Custodians => "new-shares",
            WaitKind::Code | WaitKind::Parts | WaitKind::Shares | WaitKind::Cards | WaitKind::Person => wait_word(kind),
        };
        ProgressView { phase: phase.to_owned(), have, need, attempt: attempt.to_string() }
    }
}

impl ProgressView {
    /// For people: "1 of 2 shares entered, attempt 41: waits for 1 more".
    #[must_use]
    pub fn sentence(&self) -> String {
        let what = match self.phase.as_str() {
            "parts" => "parts entered",
            "new-parts" => "parts of the new code entered",
            "new-shares" => "new shares fetched and typed back",
            _ => "shares entered",
        };
        let (have, need, attempt) = (self.have, self.need, &self.attempt);
        format!("{have} of {need} {what}, attempt {attempt}: waits for {} more", need.saturating_sub(have))
    }
}

const fn attention_word(attention: Attention) -> &'static str {
    match attention {
        Attention::TriesSpentElsewhere => "tries-spent-elsewhere",
        Attention::CountLow => "count-low",
        Attention::FinalTry => "final-try",
        Attention::ApplicationFailed => "application-failed",
        Attention::CodeGone => "code-gone",
    }
}

const fn doubt_word(doubt: Doubt) -> &'static str {
    match doubt {
        Doubt::OldOrNew => "old-or-new",
        Doubt::BothRefused => "both-refused",
        Doubt::CallUnanswered => "call-unanswered",
    }
}

#[cfg(test)]
mod tests {
    use slotwarden_core::audit::CeremonyEnd;
    use slotwarden_core::card::sets::CardSet;
    use slotwarden_core::card::{CardSerial, ReaderId};
    use slotwarden_core::ceremony::{CeremonyId, Question};
    use slotwarden_core::command::{Answer, Command};
    use slotwarden_core::effect::{ApplicationId, ApplicationSet, ImportPlan, KeyCounts, SlotId};
    use slotwarden_core::fault::{ApplicationFault, Function, Refusal};
    use slotwarden_core::person::{PersonId, Roster};
    use slotwarden_core::share::card_set::CardQuorum;
    use slotwarden_core::status::{
        ApplicationStatus, BackupStatus, CeremonyStatus, CeremonyWait, TransferStage, TransferStatus, WaitsFor,
    };

    use super::*;
    use crate::names::SlotName;
    use crate::token_uri::TokenUri;

    fn slot(number: u8, state: StateName) -> SlotStatus {
        SlotStatus {
            slot: SlotId(number),
            mode: Mode::Generated,
            knowledge: KnowledgeStatus::Whole,
            collection: None,
            state,
            applications: heapless::Vec::new(),
            waits_for: None,
            tries_left: 3,
            attention: None,
            doubt: None,
            refusal: None,
            so_proven_s: None,
            fault: None,
            backup_key: None,
            unwrap_key: None,
            key_counts: None,
        }
    }

    fn status(slots: Vec<SlotStatus>) -> Status<8> {
        Status {
            slots: slots.into_iter().collect(),
            halted: None,
            single_person: true,
            approvals: heapless::Vec::new(),
            configuration_waits: false,
            restart_wanted: false,
            boot_done: true,
            worker: true,
            disk_reserve: false,
            ceremony: None,
            last_ceremony: None,
            backup: None,
            transfer: None,
            cluster: None,
        }
    }

    fn view(status: &Status<8>) -> StatusView {
        view_around(status, &around())
    }

    fn view_around(status: &Status<8>, around: &Surroundings) -> StatusView {
        let slot = |name: &str| SlotName {
            name: name.to_owned(),
            token: TokenUri { label: Some(name.to_owned()), serial: None },
        };
        let names = Names {
            slots: ["ca-root", "ocsp", "Übung"].map(slot).into(),
            applications: vec!["signer".to_owned(), "validator".to_owned()],
            persons: vec![],
            numbered: vec![],
            left_out: vec!["old-root".to_owned()],
        };
        join(status, &names, around)
    }

    fn around() -> Surroundings {
        Surroundings {
            seal: "key-file".to_owned(),
            security_level: SecurityLevel::None,
            module: "/usr/lib/softhsm/libsofthsm2.so".to_owned(),
            random: "hsm, system".to_owned(),
            readers: vec![ReaderView {
                number: Some(0),
                name: "Front Pad".to_owned(),
                present: true,
                card: true,
                reason: None,
            }],
            wall_s: Some(1_767_225_600),
            coverage: CoverageSettings::default(),
            last_export_s: Some(1_757_225_600),
            progress: None,
            cluster: None,
            node_fingerprint: "ABCDE-FGHIJ-KLMNO-PQRST".to_owned(),
            synchronised: Vec::new(),
        }
    }

    fn with_keys(keys: u32, can_leave: u32, uncovered: u32) -> Status<8> {
        let mut found = slot(1, StateName::Active);
        found.key_counts = Some(KeyCounts { keys, can_leave, uncovered });
        status(vec![found])
    }

    #[test]
    fn keys_that_could_be_exported_and_are_not_are_warned_of_from_the_configured_number_on() {
        let warned = |counts: Status<8>, uncovered_keys_warn| {
            let coverage = CoverageSettings { uncovered_keys_warn, export_age_warn_days: 0 };
            let security_level = SecurityLevel::Passphrase;
            view_around(&counts, &Surroundings { coverage, security_level, ..around() }).coverage.warnings
        };
        assert!(warned(with_keys(4, 3, 1), 1).is_empty(), "the one that is missing cannot leave");
        assert!(warned(with_keys(9, 9, 0), 1).is_empty());
        assert!(warned(with_keys(9, 9, 9), 0).is_empty(), "nobody wants to be told");
        assert!(warned(with_keys(9, 9, 2), 3).is_empty());
        let said = ["ocsp: 3 of 9 keys are in no export: `slotwarden backup export FILE`"];
        assert_eq!(warned(with_keys(9, 8, 4), 3), said);
        assert_eq!(warned(with_keys(9, 8, 4), 1), said);
        let at_none = Surroundings { security_level: SecurityLevel::None, ..around() };
        let said = view_around(&with_keys(9, 8, 4), &at_none).coverage.warnings;
        assert!(said[0].ends_with("exports need the security level `passphrase` or `cards`"), "{said:?}");
    }

    #[test]
    fn an_old_export_is_warned_of_where_there_are_keys_to_export() {
        const DAY_S: u64 = 86_400;
        let warned = |counts: Status<8>, age_s: Option<u64>, export_age_warn_days| {
            let around = around();
            let last_export_s = around.wall_s.zip(age_s).map(|(now_s, age_s)| now_s - age_s);
            let coverage = CoverageSettings { uncovered_keys_warn: 1, export_age_warn_days };
            view_around(&counts, &Surroundings { coverage, last_export_s, ..around }).coverage.warnings
        };
        assert!(warned(with_keys(2, 2, 0), Some(90 * DAY_S - 1), 90).is_empty());
        assert!(warned(with_keys(2, 2, 0), Some(900 * DAY_S), 0).is_empty(), "nobody wants to be told");
        assert!(warned(with_keys(2, 2, 0), None, 90).is_empty(), "its age is not known");
        assert!(warned(with_keys(2, 0, 2), Some(90 * DAY_S), 90).is_empty(), "no export would hold any");
        let said = warned(with_keys(2, 2, 0), Some(90 * DAY_S), 90);
        assert!(said.len() == 1 && said[0].starts_with("the last export is 90 days old"), "{said:?}");
        let later = around().wall_s.map(|now_s| now_s + DAY_S);
        let ahead = view_around(&with_keys(2, 2, 0), &Surroundings { last_export_s: later, ..around() });
        assert!(ahead.coverage.warnings.is_empty(), "the clock was set back: no age");
    }

    #[test]
    fn progress_is_shown_of_the_slot_whose_keys_travel_and_of_no_other() {
        let shown = |stage, slot, of_slot| {
            let mut status = status(vec![]);
            status.transfer = Some(TransferStatus { stage, slot: Some(SlotId(slot)), file: None, package: false });
            let progress = Some(KeysDone { slot: SlotId(of_slot), done: 3, of: 10 });
            let view = view_around(&status, &Surroundings { progress, ..around() });
            view.transfer.and_then(|transfer| transfer.progress)
        };
        let plan = ImportPlan { new: 3, same: 2, conflict: 1, removed: 0 };
        let halfway = TransferStage::Halfway(Answer::Refused(Refusal::ImportConflicts));
        for stage in [TransferStage::Prepared(plan), halfway, TransferStage::Ending] {
            assert_eq!(shown(stage, 1, 1), None, "{stage:?}: nothing travels");
        }
        for stage in [TransferStage::Exporting, TransferStage::Preparing, TransferStage::Importing] {
            assert_eq!(shown(stage, 1, 2), None, "{stage:?}: of another slot");
            assert_eq!(shown(stage, 1, 1), Some(KeysDoneView { done: 3, of: 10 }), "{stage:?}");
        }
    }

    fn waiting(number: u8, kind: WaitKind) -> SlotStatus {
        SlotStatus {
            waits_for: Some(WaitsFor { kind, have: 0, need: 1, attempt: None, seconds_left: None }),
            ..slot(number, StateName::Locked)
        }
    }

    #[test]
    fn the_exit_code_is_1_for_faults_before_2_for_people_before_75_for_work_before_0() {
        let exit = |slots| view(&status(slots)).exit();
        assert_eq!(exit(vec![slot(0, StateName::Active), slot(1, StateName::Absent), waiting(2, WaitKind::Code)]), 1);
        let broken = SlotStatus { fault: Some(Fault::TokenGone), ..waiting(1, WaitKind::Person) };
        assert_eq!(exit(vec![broken]), 1);
        let faulted = SlotStatus { fault: Some(Fault::TokenGone), ..waiting(1, WaitKind::Code) };
        assert_eq!(exit(vec![faulted]), 2);
        assert_eq!(exit(vec![slot(0, StateName::Activating), waiting(1, WaitKind::Code)]), 2);
        assert_eq!(exit(vec![slot(0, StateName::Active), slot(1, StateName::Changing)]), 75);
        assert_eq!(exit(vec![slot(0, StateName::Active), slot(1, StateName::Active)]), 0);
        let mut unserved = slot(0, StateName::Active);
        let state = ApplicationState::Failed(Fault::Application(ApplicationFault::NotInMemory));
        let application = ApplicationStatus { application: ApplicationId(0), state };
        unserved.applications.push(application).expect("four fit");
        assert_eq!(exit(vec![unserved]), 1);
        let mut halted = status(vec![slot(0, StateName::Active)]);
        halted.halted = Some(Fault::StoreFailed);
        assert_eq!(view(&halted).exit(), 1);
        let mut lost = status(vec![slot(0, StateName::Active)]);
        lost.worker = false;
        assert_eq!(view(&lost).exit(), 1);
    }

    #[test]
    fn the_boot_message_names_who_waits_for_what() {
        let person = SlotStatus { refusal: Some(Refusal::StoredCodeRefused), ..waiting(2, WaitKind::Person) };
        let view = view(&status(vec![waiting(0, WaitKind::Code), slot(1, StateName::Active), person]));
        assert_eq!(
            view.sentence(),
            "1 of 3 slots active; ca-root waits for a code; Übung waits for a person: the token refused the stored \
             code; it is kept, and not tried again without a person"
        );
    }

    #[test]
    fn a_slot_that_lacks_something_says_what_helps() {
        let lack = |slot| view(&status(vec![slot])).slots[0].lack();
        let faulted = SlotStatus { fault: Some(Fault::TokenGone), ..waiting(0, WaitKind::Code) };
        assert_eq!(lack(faulted), "waits for a code; last fault: the token disappeared");
        let either = SlotStatus { doubt: Some(Doubt::OldOrNew), ..waiting(0, WaitKind::Code) };
        assert_eq!(lack(either), "waits for a code: the new one, then the old one");
        let quorum = CardQuorum::new(2, 3).expect("a quorum");
        let cards = |with_code| SlotStatus {
            mode: Mode::Manual,
            knowledge: KnowledgeStatus::Cards { quorum, with_code },
            waits_for: Some(WaitsFor { kind: WaitKind::Cards, have: 0, need: 2, attempt: None, seconds_left: None }),
            ..slot(0, StateName::Locked)
        };
        assert_eq!(lack(cards(false)), "waits for cards of 2 of 3 users");
        assert_eq!(lack(cards(true)), "waits for a code and cards of 2 of 3 users");
        let free = SlotStatus { state: StateName::Uninitialised, ..waiting(0, WaitKind::Person) };
        assert!(lack(free).contains("slot init"));
        let absent = SlotStatus { fault: Some(Fault::TokenGone), ..slot(0, StateName::Absent) };
        assert_eq!(lack(absent), "is absent: the token disappeared");
    }

    #[test]
    fn the_json_has_the_shape_that_others_script_against() {
        let mut active = slot(0, StateName::Active);
        for (number, state) in [
            (0, ApplicationState::Active),
            (1, ApplicationState::Failed(Fault::Application(ApplicationFault::NotInMemory))),
        ] {
            let application = ApplicationStatus { application: ApplicationId(number), state };
            active.applications.push(application).expect("four fit");
        }
        active.attention = Some(Attention::ApplicationFailed);
        let mut waits = waiting(1, WaitKind::Code);
        waits.mode = Mode::Manual;
        waits.state = StateName::CoolingDown;
        waits.waits_for = waits.waits_for.map(|wait| WaitsFor { seconds_left: Some(30), ..wait });
        waits.tries_left = 0;
        waits.knowledge = KnowledgeStatus::Cards { quorum: CardQuorum::new(2, 3).expect("a quorum"), with_code: true };
        waits.backup_key = Some(false);
        waits.key_counts = Some(KeyCounts { keys: 4, can_leave: 3, uncovered: 2 });
        let mut doubtful = waiting(2, WaitKind::Person);
        doubtful.state = StateName::Doubtful;
        doubtful.doubt = Some(Doubt::CallUnanswered);
        doubtful.fault = Some(Fault::Pkcs11 { code: 0x30, function: Function::Login });
        doubtful.refusal = Some(Refusal::SlotDoubtful);
        let mut all = status(vec![active, waits, doubtful]);
        let operation = |slot| Command::Mode {
            slot: SlotId(slot),
            to: Mode::Generated,
            parts: None,
            code: None,
            new_code: None,
            confirmed: false,
            accept: ApplicationSet::NONE,
        };
        for (id, by) in [(7, None), (8, Some(PersonId::OWN_USER))] {
            let approval =
                ApprovalStatus { id, requester: PersonId(3), operation: operation(1), by, seconds_left: 300 };
            all.approvals.push(approval).expect("eight fit");
        }
        all.ceremony = Some(CeremonyStatus {
            id: CeremonyId([0xAB; 8]),
            command: CommandKind::CreateSet,
            slot: None,
            starter: PersonId::OWN_USER,
            step: 2,
            steps: 3,
            wait: CeremonyWait::Answer(Question::LastTry),
            who: Some(PersonId(3)),
            reader: ReaderId(0),
            x: Some(2),
            serial: CardSerial::new(&[0xD2, 0x76]),
            tries_left: Some(1),
            key_id: Some([0x22; 16]),
            seconds_left: Some(299),
            last: Some(Refusal::CardPinWrong),
            human_steps: 7,
            changes: 41,
        });
        all.last_ceremony =
            Some((CeremonyId([0xCD; 8]), CommandKind::CopyCard, CeremonyEnd::Refused(Refusal::CeremonyCancelled)));
        all.transfer = Some(TransferStatus {
            stage: TransferStage::Prepared(ImportPlan { new: 3, same: 2, conflict: 1, removed: 4 }),
            slot: Some(SlotId(0)),
            file: Some([0x33; 32]),
            package: false,
        });
        all.backup = Some(BackupStatus {
            set: CardSet {
                id: [0x11; 16],
                key_id: [0x22; 16],
                generation: 4,
                quorum: CardQuorum::new(2, 2).expect("a quorum"),
                holders: Roster::NOBODY,
                created_s: 0,
                split_knowledge: true,
                with_code: false,
                pin_chars: 0,
            },
            shares_in_use: 2,
            verified_s: None,
        });
        let view = view(&all);
        let json = serde_json::to_string_pretty(&view).expect("strings and numbers") + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/status.json");
        if std::env::var_os("SLOTWARDEN_GOLDEN").is_some_and(|value| value == "write") {
            std::fs::write(path, &json).expect("the golden file is writable");
        }
        let golden = std::fs::read_to_string(path).expect("the golden file is in the repository");
        assert_eq!(json, golden, "the shape is public: keys are added, never changed or removed");
        let wire = postcard::to_stdvec(&view).expect("it is plain data");
        assert_eq!(postcard::from_bytes::<StatusView>(&wire).expect("the same"), view);
    }
}
