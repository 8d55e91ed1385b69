//! The loop with devices of a few lines each: what it does itself, beside the core.

use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use slotwarden::audit::NodeKeys;
use slotwarden::config::SecurityLevel;
use slotwarden::control::Request;
use slotwarden::daemon::{self, Devices, Ended, Notice, Setup, StoredCards, StoredCluster, SyncSetup};
use slotwarden::devices::{
    Applications, Cards, Checkpoint, Event, Events, FreeToken, Hsm, Lend, NoCards, ReaderView, Signer, Store,
    TranscriptPart,
};
use slotwarden::files::DiskFiles;
use slotwarden::member_keys::NodeSecrets;
use slotwarden::names::{Names, Peer, SlotName};
use slotwarden::problem::Problem;
use slotwarden::token_uri::TokenUri;
use slotwarden::wire::{Answered, Ask, At, CardTask, CeremonyNow, Order, SecretRole};
use slotwarden_core::audit::{AuditRecord, Chain};
use slotwarden_core::card::{CardAnswer, CardCall, CardFailure, Credential, ReaderEvent, ReaderId};
use slotwarden_core::ceremony::CeremonyId;
use slotwarden_core::effect::{
    ApplicationId, ApplicationOrder, HsmAnswer, HsmCall, Input, KeyCounts, Outcome, Room, SlotId, StoreResult, Ticket,
};
use slotwarden_core::fault::{Fault, Function, HsmFailure, Refusal, rv};
use slotwarden_core::person::{PersonId, Persons};
use slotwarden_core::record::{Owner, PolicyRecord, Record, SecretKey};
use slotwarden_core::service::SlotConfiguration;
use slotwarden_core::status::StateName;
use slotwarden_core::token::{LoginState, Presence, TokenState};
use slotwarden_core::{Configuration, SecretId};
use zeroize::Zeroizing;

const PIN: &[u8] = b"opensesame";
const SLOT: SlotId = SlotId(0);

/// What the devices did, in order.
type Deeds = Arc<Mutex<Vec<&'static str>>>;

struct TinyHsm {
    events: Events,
    deeds: Deeds,
    login: LoginState,
    /// Whether a look finds the token.
    found_by_look: bool,
    look_ends: bool,
}

impl TinyHsm {
    fn token(&self) -> TokenState {
        TokenState {
            serial: *b"0123456789abcdef",
            initialised: true,
            user_pin: true,
            count_low: false,
            final_try: false,
            locked: false,
            so_count_low: false,
            so_final_try: false,
            so_locked: false,
            pin_chars_max: 0,
            login: self.login,
        }
    }
}

impl Hsm for TinyHsm {
    fn perform(&mut self, ticket: Ticket, _slot: SlotId, call: HsmCall, secrets: &dyn Lend) {
        let answer = match call {
            HsmCall::Login { pin } => {
                let mut right = false;
                assert!(secrets.lend(pin, &mut |pin| right = pin == PIN));
                let refused = HsmFailure::Pkcs11 { code: rv::PIN_INCORRECT, function: Function::Login };
                if right { Ok(HsmAnswer::LoggedIn) } else { Err(refused) }
            }
            HsmCall::Initialise { .. } => Err(HsmFailure::Refused(Refusal::SeveralFreeTokens)),
            HsmCall::Observe => Ok(HsmAnswer::Observed(self.token())),
            HsmCall::Logout => Ok(HsmAnswer::LoggedOut),
            HsmCall::SetPin { .. } => Ok(HsmAnswer::PinSet),
            HsmCall::Settle => Ok(HsmAnswer::Settled),
            HsmCall::Unblock { .. } => Ok(HsmAnswer::Unblocked),
            HsmCall::PutBackupKeys { .. } => Ok(HsmAnswer::BackupKeysPut),
            HsmCall::KeepBackupKeys { key_id, .. } => {
                Ok(HsmAnswer::BackupKeysKept { present: key_id.is_some(), destroyed: 0, unwrap: false })
            }
            HsmCall::SetSoPin { .. } => Ok(HsmAnswer::SoPinSet),
            HsmCall::Inventory { .. } => Ok(HsmAnswer::Counted(KeyCounts { keys: 3, can_leave: 2, uncovered: 1 })),
            HsmCall::ExportSection { .. }
            | HsmCall::PrepareImport { .. }
            | HsmCall::Import { .. }
            | HsmCall::PlanPackage { .. }
            | HsmCall::ImportPackage { .. }
            | HsmCall::DropUnwrapKey { .. } => {
                Err(HsmFailure::Pkcs11 { code: rv::FUNCTION_NOT_SUPPORTED, function: Function::Other })
            }
            HsmCall::Erase { .. } => Ok(HsmAnswer::Erased(TokenState { user_pin: false, ..self.token() })),
        };
        if matches!(answer, Ok(HsmAnswer::LoggedIn)) {
            self.login = LoginState::User;
        } else if matches!(answer, Ok(HsmAnswer::LoggedOut)) {
            self.login = LoginState::Public;
        }
        let done = Input::Done { ticket, outcome: Outcome::Hsm(answer) };
        self.events.send(Event::Input(done)).expect("the loop runs");
    }

    fn look(&mut self) {
        self.deeds.lock().expect("no test panics in it").push("look");
        if self.found_by_look {
            let presence = Presence::Present(self.token());
            self.events.send(Event::Input(Input::Token { slot: SLOT, presence })).expect("the loop runs");
        }
        if self.look_ends {
            self.events.send(Event::Looked).expect("the loop runs");
        }
    }

    fn end_worker(&mut self) {}

    fn free_tokens(&self) -> Vec<FreeToken> {
        [7, 8].map(|slot_number| FreeToken { slot_number, description: "a free one".into() }).into()
    }

    fn random(&mut self, half: &mut [u8; 32]) -> bool {
        half.fill(0x5A);
        true
    }

    fn description(&self) -> String {
        "tiny".into()
    }

    fn stop(&mut self) {
        self.deeds.lock().expect("no test panics in it").push("hsm stopped");
    }
}

/// How the disk takes a zeroize.
#[derive(Clone, Copy, Debug, Default)]
enum Disk {
    /// At once.
    #[default]
    Confirms,
    /// When the store is closed.
    IsSlow,
    /// Never.
    Hangs,
}

struct TinyStore {
    events: Events,
    journal: Vec<AuditRecord>,
    nodes: NodeKeys,
    disk: Arc<Mutex<Disk>>,
    /// A zeroize that is told when the store is closed.
    late: Option<Ticket>,
}

impl TinyStore {
    fn destroyed(&self, ticket: Ticket) {
        let outcome = Outcome::Zeroized(Ok(()));
        self.events.send(Event::Input(Input::Done { ticket, outcome })).expect("somebody listens");
    }
}

impl Drop for TinyStore {
    fn drop(&mut self) {
        if let Some(ticket) = self.late {
            self.destroyed(ticket);
        }
    }
}

impl Store for TinyStore {
    fn put(&mut self, _record: &Record, _secrets: &dyn Lend) {}

    fn journal(&mut self, record: &AuditRecord) {
        self.journal.push(*record);
    }

    fn commit(&mut self, ticket: Ticket) {
        let result = StoreResult::Durable(Room::Plenty);
        self.events.send(Event::Input(Input::Stored { ticket, result })).expect("the loop runs");
    }

    fn unseal(&mut self, _key: SecretKey, _place: &mut [u8]) -> Result<usize, Fault> {
        Err(Fault::SealBroken)
    }

    fn checkpoint(&mut self, _sequence: u64, _head: [u8; 32]) {}

    fn sign_transcript(&mut self, _id: CeremonyId, _head: [u8; 32]) {}

    fn transcript(&mut self, _id: CeremonyId, _first: u16, _count: usize) -> Result<TranscriptPart, Refusal> {
        Ok(TranscriptPart::default())
    }

    fn audit(&mut self, first: u64, count: usize) -> Result<Vec<AuditRecord>, Refusal> {
        Ok(self.journal.iter().filter(|record| record.sequence >= first).take(count).copied().collect())
    }

    fn checkpoints(&mut self) -> Result<Vec<Checkpoint>, Refusal> {
        Ok(vec![Checkpoint { sequence: 1, head: [1; 32], signature: [2; 64] }])
    }

    fn kept_configuration(&self, _digest: &[u8; 32]) -> Option<Vec<u8>> {
        None
    }

    fn keep_configuration(&mut self, _bytes: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }

    fn seal(&self) -> &'static str {
        "none at all"
    }

    fn node_keys(&self) -> &NodeKeys {
        &self.nodes
    }

    fn zeroize(&mut self, ticket: Ticket, _who: PersonId) {
        let disk = *self.disk.lock().expect("no test panics in it");
        match disk {
            Disk::Confirms => self.destroyed(ticket),
            Disk::IsSlow => self.late = Some(ticket),
            Disk::Hangs => {}
        }
    }

    fn signer(&self) -> Signer {
        Arc::new(|_| [0; 64])
    }

    fn node_secrets(&self) -> Result<NodeSecrets, Fault> {
        NodeSecrets::of_node(&[1; 32])
    }
}

struct NoApplications(Deeds);

impl Applications for NoApplications {
    fn perform(&mut self, _: Ticket, _: ApplicationId, _: SlotId, _: ApplicationOrder, _: &dyn Lend) {
        unreachable!("no application is configured");
    }

    fn withdraw_all(&mut self) {
        self.0.lock().expect("no test panics in it").push("withdrawn");
    }
}

struct World {
    events: Sender<Event>,
    deeds: Deeds,
    disk: Arc<Mutex<Disk>>,
    looped: JoinHandle<Result<Ended, Problem>>,
}

/// A loop with one slot. `present`: the token is there from the start.
fn world(present: bool, found_by_look: bool) -> World {
    world_that_looks(present, found_by_look, true)
}

/// The same; `look_ends`: its end is told.
fn world_that_looks(present: bool, found_by_look: bool, look_ends: bool) -> World {
    world_of((present, found_by_look, look_ends), SecurityLevel::None, |_| Box::new(NoCards))
}

/// A loop at the security level that uses cards, with one reader where nobody inserts one.
fn world_with_a_reader() -> World {
    world_of((true, false, true), SecurityLevel::Cards, |events| {
        let input = Input::Reader { reader: ReaderId(0), event: ReaderEvent::Found };
        events.send(Event::Input(input)).expect("the loop takes it later");
        Box::new(OneReader(events.clone()))
    })
}

/// A reader that answers nothing but that its card is gone.
struct OneReader(Events);

impl Cards for OneReader {
    fn perform(&mut self, ticket: Ticket, _reader: ReaderId, call: CardCall, _secrets: &dyn Lend) {
        let result = match call {
            CardCall::Release => Ok(CardAnswer::Released),
            _ => Err(CardFailure::CardGone),
        };
        self.0.send(Event::Card { ticket, result, y: None }).expect("the loop runs");
    }

    fn readers(&self) -> Vec<ReaderView> {
        let name = "Front Pad".to_owned();
        vec![ReaderView { number: Some(0), name, present: true, card: false, reason: None }]
    }
}

fn world_of(
    (present, found_by_look, look_ends): (bool, bool, bool),
    level: SecurityLevel,
    cards: impl FnOnce(&Events) -> Box<dyn Cards + Send>,
) -> World {
    let (events, arriving): (_, Receiver<Event>) = channel();
    let deeds = Deeds::default();
    let disk = Arc::default();
    let hsm = TinyHsm {
        events: events.clone(),
        deeds: Arc::clone(&deeds),
        login: LoginState::Public,
        found_by_look,
        look_ends,
    };
    let presence = if present { Presence::Present(hsm.token()) } else { Presence::Absent { free: true } };
    for input in [Input::Token { slot: SLOT, presence }, Input::WorkerUp] {
        events.send(Event::Input(input)).expect("the loop takes it later");
    }
    let slot =
        SlotConfiguration { owner: Owner(1), uid: [9; 16], applications: heapless::Vec::new(), pin_chars_max: 0 };
    let configuration = Configuration {
        slots: [slot].into_iter().collect(),
        persons: Persons::single(),
        tries: 3,
        digest: [0; 32],
        in_force: [0; 32],
        offered: [0; 32],
        level,
        cluster: [0; 16],
    };
    let token = TokenUri { label: Some("token a".into()), serial: None };
    let names = Names { slots: vec![SlotName { name: "a".into(), token }], ..Names::default() };
    let devices = Devices {
        hsm,
        store: TinyStore {
            events: events.clone(),
            journal: Vec::new(),
            nodes: NodeKeys::only([3; 32]),
            disk: Arc::clone(&disk),
            late: None,
        },
        applications: NoApplications(Arc::clone(&deeds)),
        cards: cards(&events),
        files: Box::new(DiskFiles::new(
            std::env::temp_dir().join("slotwarden-nothing-is-written-here"),
            events.clone(),
            Arc::new(|_| [0; 64]),
            [0; 32],
        )),
        exchange: None,
    };
    let setup = Setup {
        names: Arc::new(names),
        configuration,
        records: Vec::new(),
        sets: Vec::new(),
        cards: StoredCards::default(),
        policy: PolicyRecord::default(),
        restoration: None,
        cluster: StoredCluster::default(),
        sync: SyncSetup {
            dir: std::env::temp_dir().join("slotwarden-nothing-is-written-here"),
            transfer_dir: std::env::temp_dir().join("slotwarden-nothing-is-written-here"),
            name: "node".to_owned(),
            settings: None,
        },
        chain: Chain::default(),
        protected: b"{}".to_vec(),
        coverage: slotwarden::config::CoverageSettings::default(),
        configuration_file: None,
    };
    let (ready, is_ready) = channel();
    let looped = std::thread::spawn(move || {
        daemon::run(setup, devices, &arriving, &mut |notice| {
            if matches!(notice, Notice::Ready(_)) {
                ready.send(()).expect("the test waits");
            }
        })
    });
    is_ready.recv_timeout(Duration::from_secs(10)).expect("boot is tried without being asked");
    World { events, deeds, disk, looped }
}

impl World {
    fn ask_as(&self, peer: Peer, ask: Ask, secrets: &[(SecretRole, &[u8])]) -> Answered {
        let (answer, answered) = sync_channel(1);
        let secrets = secrets.iter().map(|(role, secret)| (*role, Zeroizing::new(secret.to_vec()))).collect();
        self.events.send(Event::Control(Request { peer, ask, secrets, answer })).expect("the loop runs");
        answered.recv_timeout(Duration::from_secs(10)).expect("every request is answered").answered
    }

    fn ask(&self, ask: Ask, secrets: &[(SecretRole, &[u8])]) -> Answered {
        self.ask_as(Peer::Person(PersonId::OWN_USER), ask, secrets)
    }

    fn activate(&self, secrets: &[(SecretRole, &[u8])]) -> Answered {
        self.ask(Ask::Order(Order::Activate { slot: "token a".into(), confirmed: false }), secrets)
    }

    fn stop(self) -> Vec<&'static str> {
        self.events.send(Event::Stop).expect("the loop runs");
        self.looped.join().expect("it does not panic").expect("it ends well");
        self.deeds.lock().expect("no test panics in it").clone()
    }
}

fn refusal(answered: &Answered) -> u16 {
    match answered {
        Answered::Problem { problem, .. } => problem.number,
        other => panic!("a refusal was expected: {other:?}"),
    }
}

#[test]
fn the_daemons_own_user_is_only_the_boot_hook_when_persons_are_configured() {
    let world = world(true, false);
    let orders = [Order::Deactivate { slot: "a".into() }, Order::Activate { slot: "a".into(), confirmed: false }];
    for order in orders {
        assert_eq!(refusal(&world.ask_as(Peer::OwnUser, Ask::Order(order), &[])), Refusal::NotAllowed.number());
    }
    for ask in [Ask::Audit { first: None, count: 5 }, Ask::Checkpoints { skip: 0 }] {
        assert_eq!(refusal(&world.ask_as(Peer::OwnUser, ask, &[])), Refusal::NotAllowed.number());
    }
    let nobody = Peer::Person(PersonId(5));
    assert_eq!(refusal(&world.ask_as(nobody, Ask::Status, &[])), Refusal::NotAllowed.number());
    assert!(matches!(world.ask_as(Peer::OwnUser, Ask::Status, &[]), Answered::Status(_)));
    assert_eq!(world.ask_as(Peer::OwnUser, Ask::Order(Order::Boot), &[]), Answered::Done);
    world.stop();
}

#[test]
fn secrets_an_order_does_not_take_are_refused_and_fill_no_place_of_the_safe() {
    let world = world(true, false);
    let long = [b'x'; 65];
    // More often than the Safe has places: one that leaked would be missed at the end.
    for _ in 0..130 {
        let code = Refusal::CodeNotWanted.number();
        assert_eq!(refusal(&world.activate(&[(SecretRole::SoPin, PIN)])), code);
        assert_eq!(refusal(&world.activate(&[(SecretRole::Code, PIN), (SecretRole::Code, PIN)])), code);
        assert_eq!(refusal(&world.activate(&[(SecretRole::NewCode, PIN)])), Refusal::NewCodeNotWanted.number());
        assert_eq!(refusal(&world.activate(&[(SecretRole::Code, &long)])), Refusal::CodeTooLong.number());
        let init = Ask::Order(Order::Init { slot: "a".into(), free_slot: None, confirmed: false });
        assert_eq!(refusal(&world.ask(init, &[])), Refusal::SoPinMissing.number());
    }
    assert_eq!(refusal(&world.activate(&[(SecretRole::Code, b"wrong-code")])), Refusal::CodeWrong.number());
    assert_eq!(world.activate(&[(SecretRole::Code, PIN)]), Answered::Done);
    world.stop();
}

#[test]
fn several_free_tokens_are_listed_with_their_slot_numbers() {
    let world = world(false, false);
    let init = Ask::Order(Order::Init { slot: "a".into(), free_slot: None, confirmed: false });
    let Answered::Problem { problem, free_tokens } = world.ask(init, &[(SecretRole::SoPin, PIN)]) else {
        panic!("a refusal was expected")
    };
    assert!(problem.is(Refusal::SeveralFreeTokens), "{problem}");
    assert_eq!(free_tokens.iter().map(|token| token.slot_number).collect::<Vec<_>>(), [7, 8]);
    world.stop();
}

#[test]
fn an_order_for_an_absent_token_waits_for_one_look() {
    // A look that does not end is not waited for longer than a person would.
    let hangs = without_token(false, false);
    let begun = Instant::now();
    assert_eq!(refusal(&hangs.activate(&[(SecretRole::Code, PIN)])), Refusal::SlotAbsent.number());
    let waited = begun.elapsed();
    assert!(waited > Duration::from_secs(1) && waited < Duration::from_secs(8), "{waited:?}");
    assert!(hangs.stop().contains(&"look"));

    // One that ended without the token answers at once; each order has its own look.
    let absent = without_token(false, true);
    for _ in 0..3 {
        let begun = Instant::now();
        assert_eq!(refusal(&absent.activate(&[(SecretRole::Code, PIN)])), Refusal::SlotAbsent.number());
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    }
    assert_eq!(absent.stop().iter().filter(|deed| **deed == "look").count(), 3);

    let comes = without_token(true, false);
    assert_eq!(comes.activate(&[(SecretRole::Code, PIN)]), Answered::Done);
    let Answered::Slot(detail) = comes.ask(Ask::Slot { slot: "pkcs11:token=token%20a".into() }, &[]) else {
        panic!("the slot was asked for")
    };
    assert_eq!(detail.slot.state, StateName::Active.word());
    assert_eq!(detail.uid.as_deref(), Some("09".repeat(16).as_str()));
    assert_eq!(detail.serial.as_deref(), Some("0123456789abcdef"));
    assert!(comes.stop().contains(&"look"));
}

/// A world whose token was pulled, and that offers no other.
fn without_token(found_by_look: bool, look_ends: bool) -> World {
    let world = world_that_looks(false, found_by_look, look_ends);
    let gone = Input::Token { slot: SLOT, presence: Presence::Absent { free: false } };
    world.events.send(Event::Input(gone)).expect("the loop runs");
    world
}

#[test]
fn the_audit_log_is_read_in_pages_with_names() {
    let world = world(true, false);
    assert_eq!(world.activate(&[(SecretRole::Code, PIN)]), Answered::Done);
    let Answered::Audit(all) = world.ask(Ask::Audit { first: Some(1), count: 1000 }, &[]) else {
        panic!("the log was asked for")
    };
    assert_eq!(all.records.first().map(|record| record.sequence), Some(1));
    assert_eq!(all.records.last().map(|record| record.sequence), Some(all.last));
    assert!(all.names.contains(&("the daemon's user".into(), "a".into())), "{:?}", all.names);
    let Answered::Audit(last) = world.ask(Ask::Audit { first: None, count: 2 }, &[]) else {
        panic!("the log was asked for")
    };
    assert_eq!(last.records, all.records[all.records.len() - 2..]);
    let Answered::Checkpoints(none) = world.ask(Ask::Checkpoints { skip: 1 }, &[]) else {
        panic!("checkpoints were asked for")
    };
    assert_eq!((none.all, none.checkpoints.len()), (1, 0));
    world.stop();
}

#[test]
fn stop_takes_everything_back_and_ends_the_worker() {
    let world = world(true, false);
    assert_eq!(world.activate(&[(SecretRole::Code, PIN)]), Answered::Done);
    let begun = Instant::now();
    assert_eq!(world.stop(), ["withdrawn", "hsm stopped"]);
    assert!(begun.elapsed() < Duration::from_secs(5), "nothing had to be waited for");
}

#[test]
fn p41_a_zeroize_takes_everything_back_whatever_the_disk_does_and_says_done_only_when_it_confirmed() {
    for (disk, ends) in
        [(Disk::Confirms, Ended::Zeroized), (Disk::IsSlow, Ended::Zeroized), (Disk::Hangs, Ended::ZeroizeUnconfirmed)]
    {
        let world = world(true, false);
        *world.disk.lock().expect("no test panics in it") = disk;
        assert_eq!(world.activate(&[(SecretRole::Code, PIN)]), Answered::Done);
        let begun = Instant::now();
        let order = |confirm: Option<&str>| Ask::Order(Order::Zeroize { confirm: confirm.map(str::to_owned) });
        for wrong in [None, Some("Zeroize"), Some("")] {
            let Answered::Problem { problem, .. } = world.ask(order(wrong), &[]) else { panic!("not confirmed") };
            assert!(problem.is(Refusal::ZeroizeUnconfirmed), "{problem}");
        }
        let answered = world.ask(order(Some("zeroize")), &[]);
        assert!(begun.elapsed() < Duration::from_secs(1), "{disk:?}: {:?}", begun.elapsed());
        match disk {
            Disk::Confirms => assert_eq!(answered, Answered::Done),
            Disk::IsSlow | Disk::Hangs => {
                let Answered::Problem { problem, .. } = answered else { panic!("{disk:?}: {answered:?}") };
                assert_eq!(problem.name, Fault::StoreFailed.name());
            }
        }
        assert_eq!(world.looped.join().expect("it does not panic").expect("it ends well"), ends, "{disk:?}");
        let deeds = world.deeds.lock().expect("no test panics in it").clone();
        assert_eq!(deeds, ["withdrawn", "hsm stopped"], "{disk:?}");
    }
}

/// The trait is for the loop; a secret id that is stale finds nothing.
#[test]
fn a_stale_secret_is_not_lent() {
    let configuration = Configuration {
        slots: heapless::Vec::new(),
        persons: Persons::single(),
        tries: 3,
        digest: [0; 32],
        in_force: [0; 32],
        offered: [0; 32],
        level: SecurityLevel::None,
        cluster: [0; 16],
    };
    let mut service = Box::new(slotwarden_core::Appliance::empty());
    service.configure(&configuration).expect("nothing to serve");
    let id: SecretId = service.fill(|_| 0).expect("the Safe is empty");
    assert!(service.lend(id, &mut |_| {}));
    service.wipe(id);
    assert!(!service.lend(id, &mut |_| {}));
}

fn ceremony(answered: Answered) -> CeremonyNow {
    match answered {
        Answered::Ceremony(now) => *now,
        other => panic!("a ceremony was asked for: {other:?}"),
    }
}

fn change_pin(reader: Option<&str>) -> Order {
    let at = At { reader: reader.map(str::to_owned), ..At::default() };
    Order::Cards { task: CardTask::ChangePin { credential: Credential::BackupShare }, at }
}

#[test]
fn orders_about_cards_are_refused_with_the_reason() {
    let world = world(true, false);
    let refused = |order| refusal(&world.ask(Ask::Order(order), &[]));
    assert_eq!(refused(change_pin(None)), Refusal::LevelNotCards.number());
    assert_eq!(refused(Order::CancelCeremony { id: "ab".repeat(8) }), Refusal::NoCeremony.number());
    let lost = |serial: &str| Order::CardLost { serial: serial.into(), credential: Credential::BackupShare };
    assert_eq!(refused(lost("xyz")), Refusal::UnknownCard.number());
    assert_eq!(refusal(&world.ask(Ask::Transcript { id: "ab".repeat(8), first: 0 }, &[])), 643);
    world.stop();
    let world = world_with_a_reader();
    let refused = |order| refusal(&world.ask(Ask::Order(order), &[]));
    assert_eq!(refused(change_pin(Some("Rear Pad"))), Refusal::UnknownReader.number());
    let erase = CardTask::Erase { credential: Credential::BackupShare, confirmed: false };
    assert_eq!(refused(Order::Cards { task: erase, at: At::default() }), 642);
    let restore = CardTask::RestoreKey { slot: Some("b".into()), key_id: None };
    assert_eq!(refused(Order::Cards { task: restore, at: At::default() }), Refusal::UnknownSlot.number());
    let set = |m, n| CardTask::ReplaceSet { m, n, holders: Vec::new() };
    assert_eq!(refused(Order::Cards { task: set(4, 3), at: At::default() }), Refusal::QuorumInvalid.number());
    world.stop();
}

#[test]
fn p28_nobody_watches_a_ceremony_or_reads_cards_without_the_right_to_read() {
    let world = world_with_a_reader();
    let stranger = Peer::Person(PersonId(9));
    for ask in [Ask::Ceremony { seen: None }, Ask::Cards, Ask::Transcript { id: "ab".repeat(8), first: 0 }] {
        assert_eq!(refusal(&world.ask_as(stranger, ask, &[])), Refusal::NotAllowed.number());
    }
    world.stop();
}

#[test]
fn a_ceremony_is_watched_from_change_to_change_until_it_is_cancelled() {
    let world = world_with_a_reader();
    assert_eq!(ceremony(world.ask(Ask::Ceremony { seen: Some(7) }, &[])).ceremony, None, "there is none: at once");
    let (answer, ended) = sync_channel(1);
    let peer = Peer::Person(PersonId::OWN_USER);
    let ask = Ask::Order(change_pin(Some("Front")));
    let secrets = Vec::new();
    world.events.send(Event::Control(Request { peer, ask, secrets, answer })).expect("the loop runs");
    let now = ceremony(world.ask(Ask::Ceremony { seen: None }, &[]));
    let view = now.ceremony.expect("it is under way");
    assert_eq!(
        (view.wait.as_str(), view.reader.as_str(), view.command.as_str()),
        ("insert", "Front Pad", "change-card-pin")
    );
    assert_eq!(Some(&view.starter), now.you.as_ref());
    assert_eq!(refusal(&world.ask(Ask::Order(change_pin(None)), &[])), Refusal::CeremonyUnderWay.number());

    // Whoever has seen this is told when there is something else.
    let (told, is_told) = sync_channel(1);
    let ask = Ask::Ceremony { seen: Some(view.changes) };
    let watching = Request { peer, ask, secrets: Vec::new(), answer: told };
    world.events.send(Event::Control(watching)).expect("the loop runs");
    assert!(is_told.recv_timeout(Duration::from_millis(300)).is_err(), "nothing changed yet");
    let cancel = Order::CancelCeremony { id: view.id.to_uppercase() };
    assert_eq!(world.ask(Ask::Order(cancel), &[]), Answered::Done);
    let told = is_told.recv_timeout(Duration::from_secs(5)).expect("it changed").answered;
    let told = ceremony(told);
    assert!(told.ceremony.is_none_or(|ceremony| ceremony.changes != view.changes));
    let ended = ended.recv_timeout(Duration::from_secs(10)).expect("it ended").answered;
    assert_eq!(refusal(&ended), Refusal::CeremonyCancelled.number());
    let now = ceremony(world.ask(Ask::Ceremony { seen: Some(0) }, &[]));
    let last = now.last.expect("it ended");
    assert_eq!((now.ceremony, last.id, last.end.as_str()), (None, view.id, "refused"));
    assert_eq!(last.problem.expect("it was cancelled").number, Refusal::CeremonyCancelled.number());
    world.stop();
}

#[test]
fn whoever_watches_what_does_not_change_is_told_so_after_ten_seconds() {
    let world = world_with_a_reader();
    let (answer, _ended) = sync_channel(1);
    let peer = Peer::Person(PersonId::OWN_USER);
    let ordered = Request { peer, ask: Ask::Order(change_pin(None)), secrets: Vec::new(), answer };
    world.events.send(Event::Control(ordered)).expect("the loop runs");
    let view = ceremony(world.ask(Ask::Ceremony { seen: None }, &[])).ceremony.expect("it is under way");
    let begun = Instant::now();
    let (told, is_told) = sync_channel(1);
    let ask = Ask::Ceremony { seen: Some(view.changes) };
    world.events.send(Event::Control(Request { peer, ask, secrets: Vec::new(), answer: told })).expect("the loop runs");
    let told = is_told.recv_timeout(Duration::from_secs(15)).expect("it is told").answered;
    assert!(begun.elapsed() >= Duration::from_secs(9), "{:?}", begun.elapsed());
    assert_eq!(ceremony(told).ceremony.map(|ceremony| ceremony.changes), Some(view.changes));
    world.stop();
}
