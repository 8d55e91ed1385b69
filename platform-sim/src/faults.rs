//! What can go wrong, and a seeded plan of when.
//!
//! A plan names a few faults; each strikes at the n-th opportunity of its kind. An
//! opportunity is a *step*: a device call, a commit, a draw, an order to an application, or
//! a moment in which nothing is under way. [`Tally`] counts where each kind struck (step
//! and state of the slot), so that "each kind at each reachable step at least once" can be
//! read off.

use heapless::Vec;
use slotwarden_core::card::CardCall;
use slotwarden_core::effect::HsmCall;
use slotwarden_core::status::StateName;

/// Faults of one plan: six of any kind (more at once drown each other), and power cuts.
pub const PLANNED_MAX: usize = ANY_MAX + CUTS_MAX + OF_CARDS_MAX;
const ANY_MAX: usize = 6;
const CUTS_MAX: usize = 16;
/// Of them those of cards and readers, in a world that has some.
const OF_CARDS_MAX: usize = 8;

/// Where a fault can strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `C_GetTokenInfo`
    Observe,
    /// `C_Login`
    Login,
    /// `C_Logout`
    Logout,
    /// `C_SetPIN`
    SetPin,
    /// `C_InitToken`, `C_InitPIN`
    Initialise,
    /// `C_InitPIN` by the SO.
    Unblock,
    /// `C_InitToken` on the slot's own token.
    Erase,
    /// Making the slot's keys of a backup key.
    PutBackupKeys,
    /// Destroying those of other backup keys.
    KeepBackupKeys,
    /// `C_SetPIN` by the SO.
    SetSoPin,
    /// Making the module's files durable.
    Settle,
    /// A commit of the store.
    Commit,
    /// A draw from the random sources.
    Random,
    /// Opening a sealed code.
    Unseal,
    /// Giving an application the token PIN.
    HandOver,
    /// Taking it back.
    Withdraw,
    /// Between orders.
    Idle,
    /// Taking hold of a card.
    CardHold,
    /// Selecting its application.
    CardSelect,
    /// Asking for its tries.
    CardTries,
    /// A PIN is typed.
    CardVerify,
    /// A PIN is changed.
    CardChange,
    /// Reading a record.
    CardRead,
    /// Writing one.
    CardWrite,
    /// Setting the pointer.
    CardPoint,
    /// Overwriting a record.
    CardErase,
    /// Letting go of a card.
    CardRelease,
    /// A moment at the table with the readers.
    Table,
}

impl Step {
    /// All steps, in the order of the enum.
    pub const ALL: [Step; 28] = [
        Step::Observe,
        Step::Login,
        Step::Logout,
        Step::SetPin,
        Step::Initialise,
        Step::Unblock,
        Step::Erase,
        Step::PutBackupKeys,
        Step::KeepBackupKeys,
        Step::SetSoPin,
        Step::Settle,
        Step::Commit,
        Step::Random,
        Step::Unseal,
        Step::HandOver,
        Step::Withdraw,
        Step::Idle,
        Step::CardHold,
        Step::CardSelect,
        Step::CardTries,
        Step::CardVerify,
        Step::CardChange,
        Step::CardRead,
        Step::CardWrite,
        Step::CardPoint,
        Step::CardErase,
        Step::CardRelease,
        Step::Table,
    ];

    /// The step of a call at a reader.
    #[must_use]
    pub const fn at_reader(call: &CardCall) -> Step {
        match call {
            CardCall::Hold => Step::CardHold,
            CardCall::Select { .. } => Step::CardSelect,
            CardCall::Tries { .. } => Step::CardTries,
            CardCall::Verify { .. } => Step::CardVerify,
            CardCall::ChangePin { .. } => Step::CardChange,
            CardCall::Read { .. } => Step::CardRead,
            CardCall::Write { .. } => Step::CardWrite,
            CardCall::Point { .. } => Step::CardPoint,
            CardCall::Erase { .. } => Step::CardErase,
            CardCall::Release => Step::CardRelease,
        }
    }

    /// The step of a device call.
    #[must_use]
    pub const fn of(call: &HsmCall) -> Step {
        match call {
            HsmCall::Observe => Step::Observe,
            HsmCall::Login { .. } => Step::Login,
            HsmCall::Logout => Step::Logout,
            HsmCall::SetPin { .. } => Step::SetPin,
            HsmCall::Initialise { .. } => Step::Initialise,
            HsmCall::Settle => Step::Settle,
            HsmCall::Unblock { .. } => Step::Unblock,
            HsmCall::Erase { .. } => Step::Erase,
            HsmCall::PutBackupKeys { .. } => Step::PutBackupKeys,
            HsmCall::KeepBackupKeys { .. } => Step::KeepBackupKeys,
            HsmCall::SetSoPin { .. } => Step::SetSoPin,
            // Nobody orders these here: a simulated token holds no keys.
            HsmCall::Inventory { .. }
            | HsmCall::ExportSection { .. }
            | HsmCall::PrepareImport { .. }
            | HsmCall::Import { .. }
            | HsmCall::PlanPackage { .. }
            | HsmCall::ImportPackage { .. }
            | HsmCall::DropUnwrapKey { .. } => Step::Observe,
        }
    }
}

/// Declares the kinds: variant, word, and the steps it can strike at.
macro_rules! kinds {
    ($($variant:ident $word:literal $sentence:literal $steps:pat,)*) => {
        /// One kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $(#[doc = $sentence] $variant,)*
        }

        impl Kind {
            /// All kinds, in the order of the enum.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant,)*];

            /// The word, for reports.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Kind::$variant => $word,)* }
            }

            /// Whether it can strike at this step.
            #[must_use]
            pub const fn strikes(self, step: Step) -> bool {
                match self { $(Kind::$variant => matches!(step, $steps),)* }
            }
        }
    };
}

use Step::{
    CardChange, CardErase, CardHold, CardPoint, CardRead, CardRelease, CardSelect, CardTries, CardVerify, CardWrite,
    Commit, Erase, HandOver, Idle, Initialise, KeepBackupKeys, Login, Logout, Observe, PutBackupKeys, Random, SetPin,
    SetSoPin, Settle, Table, Unblock, Unseal, Withdraw,
};

kinds! {
    DeviceErrorBefore "device-error-before" "CKR_DEVICE_ERROR, and the call did nothing." Observe | Login | Logout | SetPin | Initialise | Unblock | Erase | PutBackupKeys | KeepBackupKeys | SetSoPin | Settle,
    DeviceErrorAfter "device-error-after" "CKR_DEVICE_ERROR, although the call was carried out." Observe | Login | Logout | SetPin | Initialise | Unblock | Erase | PutBackupKeys | KeepBackupKeys | SetSoPin | Settle,
    DeviceErrorBurst "device-error-burst" "This call and the next four fail." Observe | Login | Logout | SetPin | Initialise | Unblock | Erase | PutBackupKeys | KeepBackupKeys | SetSoPin | Settle,
    UnexpectedCode "unexpected-code" "A vendor-defined CKR that no specification knows." Observe | Login | Logout | SetPin | Initialise | Unblock | Erase | PutBackupKeys | KeepBackupKeys | SetSoPin | Settle,
    WrongAnswer "wrong-answer" "The module answers what belongs to another call." Observe | Login | Logout | SetPin | Initialise | Unblock | Erase | PutBackupKeys | KeepBackupKeys | SetSoPin | Settle,
    HangBefore "hang-before" "The call hangs before it does anything." Observe | Login | Logout | SetPin | Initialise | Unblock | Erase | PutBackupKeys | KeepBackupKeys | SetSoPin | Settle,
    HangAfter "hang-after" "The call was carried out and hangs before it answers." Observe | Login | Logout | SetPin | Initialise | Unblock | Erase | PutBackupKeys | KeepBackupKeys | SetSoPin | Settle,
    LateAnswer "late-answer" "The answer comes after the deadline." Observe | Login | Logout | SetPin | Initialise | Unblock | Erase | PutBackupKeys | KeepBackupKeys | SetSoPin | Settle,
    SlowDevice "slow-device" "The call takes seconds, but less than the deadline." Observe | Login | Logout | SetPin | Initialise | Unblock | Erase | PutBackupKeys | KeepBackupKeys | SetSoPin | Settle,
    ReplyLost "reply-lost" "The call was carried out; its answer never comes." Observe | Login | Logout | SetPin | Initialise | Unblock | Erase | PutBackupKeys | KeepBackupKeys | SetSoPin | Settle,
    DuplicateAnswer "duplicate-answer" "The answer comes twice." Observe | Login | Logout | SetPin | Initialise | Unblock | Erase | PutBackupKeys | KeepBackupKeys | SetSoPin | Settle,
    WorkerKilledBefore "worker-killed-before" "The worker dies before the call." Observe | Login | Logout | SetPin | Initialise | Unblock | Erase | PutBackupKeys | KeepBackupKeys | SetSoPin | Settle,
    WorkerKilledAfter "worker-killed-after" "The worker dies after the call, before the answer." Observe | Login | Logout | SetPin | Initialise | Unblock | Erase | PutBackupKeys | KeepBackupKeys | SetSoPin | Settle,
    WorkerKilledInside "worker-killed-inside" "The worker dies between two steps of the call." Initialise | PutBackupKeys,
    TokenFileTorn "token-file-torn" "The worker dies while the module rewrites its token file, which nobody can read afterwards." SetPin | SetSoPin,
    TokenPulledInCall "token-pulled-in-call" "The token is pulled before the call reaches it." Observe | Login | Logout | SetPin | Initialise | Unblock | Erase | PutBackupKeys | KeepBackupKeys | SetSoPin | Settle,
    PowerCutBeforeCall "power-cut-before-call" "Power goes before the call." Observe | Login | Logout | SetPin | Initialise | Unblock | Erase | PutBackupKeys | KeepBackupKeys | SetSoPin | Settle,
    PowerCutAfterKept "power-cut-after-call-kept" "Power goes after the call; what was unsettled is kept." Observe | Login | Logout | SetPin | Initialise | Unblock | Erase | PutBackupKeys | KeepBackupKeys | SetSoPin | Settle,
    PowerCutAfterLost "power-cut-after-call-lost" "Power goes after the call; what was unsettled is lost." Observe | Login | Logout | SetPin | Initialise | Unblock | Erase | PutBackupKeys | KeepBackupKeys | SetSoPin | Settle,
    DaemonKilledAtCall "daemon-killed-at-call" "The daemon is killed; its worker ends the call in progress." Observe | Login | Logout | SetPin | Initialise | Unblock | Erase | PutBackupKeys | KeepBackupKeys | SetSoPin | Settle,
    LoginRefused "login-refused" "CKR_PIN_INCORRECT for a right PIN." Login,
    LoginLies "login-lies" "CKR_OK for any PIN, and nobody is logged in." Login,
    AlreadyLoggedIn "already-logged-in" "The module says that somebody is logged in." Login,
    SetPinLies "set-pin-lies" "CKR_OK, and the PIN is what it was." SetPin,
    PinLenRange "pin-len-range" "The token does not like the length." SetPin | Initialise | Unblock | SetSoPin,
    PinInvalid "pin-invalid" "The token does not like the characters." SetPin | Initialise | Unblock | SetSoPin,
    SessionReadOnly "session-read-only" "The session is read-only." SetPin | Unblock | PutBackupKeys | SetSoPin,
    NotLoggedIn "not-logged-in" "The login was lost unnoticed." SetPin | PutBackupKeys | KeepBackupKeys,
    NotSupported "not-supported" "The module does not know the function." SetPin | Unblock | Erase | PutBackupKeys | SetSoPin,
    ObserveLies "observe-lies" "The flags and the session state are invented." Observe,
    SettleFails "settle-fails" "The module's files could not be made durable." Settle,
    PowerCutBeforeWrite "power-cut-before-write" "Power goes; the transaction in flight is lost." Commit,
    PowerCutAfterWrite "power-cut-after-write" "Power goes; the transaction in flight is there, unanswered." Commit,
    PowerCutInRecovery "power-cut-in-recovery" "Power goes again before the last power cut is recovered from." Observe | Login | Logout | SetPin | Initialise | PutBackupKeys | KeepBackupKeys | SetSoPin | Settle | Commit | Unseal,
    DaemonKilledAtWrite "daemon-killed-at-write" "The daemon is killed during a commit." Commit,
    StoreFailed "store-failed" "The commit fails, and nothing of it is there." Commit,
    StoreFailedButThere "store-failed-but-there" "The commit fails, although all of it is there." Commit,
    StoreSlow "store-slow" "The commit takes longer than a minute." Commit,
    StoredTwice "stored-twice" "The end of a commit is told twice." Commit,
    DiskReserve "disk-reserve" "The disk is nearly full." Commit,
    RandomOneStuck "random-one-stuck" "One random source repeats itself." Random,
    RandomBothStuck "random-both-stuck" "Both random sources are constant." Random,
    RandomUnavailable "random-unavailable" "The random sources cannot be read." Random,
    RandomSlow "random-slow" "The random sources take longer than a minute." Random,
    SealBroken "seal-broken" "A sealed code cannot be opened." Unseal,
    UnsealSlow "unseal-slow" "Opening a sealed code takes longer than a minute." Unseal,
    ApplicationUnreachable "application-unreachable" "The application is out of reach for a while." HandOver | Withdraw,
    ApplicationSilent "application-silent" "The adapter answers after its deadline." HandOver | Withdraw,
    TokenPulled "token-pulled" "The token is pulled, and returns after a while." Idle,
    TokenReturned "token-returned" "A pulled token is there again." Idle,
    TokenReplaced "token-replaced" "Another token with the same label takes its place." Idle,
    TokenAmbiguous "token-ambiguous" "A second token with the same label appears." Idle,
    TrySpentElsewhere "try-spent-elsewhere" "Somebody else enters a wrong PIN." Idle,
    FinalTryElsewhere "final-try-elsewhere" "Somebody else spends all tries but one." Idle,
    LockedElsewhere "locked-elsewhere" "Somebody else locks the token." Idle,
    PinChangedElsewhere "pin-changed-elsewhere" "Somebody else changes the user PIN." Idle,
    PowerCutIdle "power-cut-idle" "Power goes while nothing is under way." Idle,
    DaemonKilledIdle "daemon-killed-idle" "The daemon is killed while nothing is under way." Idle,
    WorkerKilledIdle "worker-killed-idle" "The worker dies while nothing is under way." Idle,
    WorkerUnavailable "worker-unavailable" "The worker dies and cannot be started for a while." Idle,
    ClockForward "clock-forward" "Wall time jumps forward by years." Idle,
    ClockBack "clock-back" "Wall time jumps back to 1970." Idle,
    ClockLost "clock-lost" "There is no wall time any more." Idle,
    UnknownTicket "unknown-ticket" "An answer nobody waits for." Idle,
    SpuriousTick "spurious-tick" "A tick before anything is due." Idle,
    SpuriousWorkerUp "spurious-worker-up" "The worker is said to be up, again." Idle,
    SpuriousToken "spurious-token" "The token is reported again, unchanged." Idle,
    StaleSecret "stale-secret" "An order whose secret was wiped." Idle,
    NotAllowed "not-allowed" "An order of somebody without the right." Idle,
    CardPulledBefore "card-pulled-before" "The card is pulled before the command reaches it." CardHold | CardSelect | CardTries | CardVerify | CardChange | CardRead | CardWrite | CardPoint | CardErase | CardRelease,
    CardPulledUnheard "card-pulled-unheard" "The command is carried out; the card is pulled before its answer." CardSelect | CardTries | CardVerify | CardChange | CardRead | CardWrite | CardPoint | CardErase,
    CardPulledAmid "card-pulled-amid" "The card is pulled in the middle of the command." CardSelect | CardTries | CardVerify | CardChange | CardRead | CardWrite | CardPoint | CardErase,
    CardPulledAfter "card-pulled-after" "The card is pulled right after its answer." CardHold | CardSelect | CardTries | CardVerify | CardChange | CardRead | CardWrite | CardPoint | CardErase | CardRelease,
    ReaderLostInCall "reader-lost-in-call" "The reader is unplugged during the call, and comes back after a while." CardHold | CardSelect | CardTries | CardVerify | CardChange | CardRead | CardWrite | CardPoint | CardErase | CardRelease,
    CardHeldByOther "card-held-by-other" "Another program holds the card." CardHold,
    CardTransportBefore "card-transport-before" "The transport fails, and nothing was done." CardHold | CardSelect | CardTries | CardVerify | CardChange | CardRead | CardWrite | CardPoint | CardErase | CardRelease,
    CardTransportAfter "card-transport-after" "The transport fails, although the command was carried out." CardHold | CardSelect | CardTries | CardVerify | CardChange | CardRead | CardWrite | CardPoint | CardErase | CardRelease,
    CardGarbage "card-garbage" "The card answers what no card of its kind does." CardHold | CardSelect | CardTries | CardVerify | CardChange | CardRead | CardWrite | CardPoint | CardErase | CardRelease,
    CardStrangeWord "card-strange-word" "The card answers 6F00, and nothing was done." CardSelect | CardTries | CardVerify | CardChange | CardRead | CardWrite | CardPoint | CardErase,
    CardWrongAnswer "card-wrong-answer" "The reader answers what belongs to another call." CardHold | CardSelect | CardTries | CardVerify | CardChange | CardRead | CardWrite | CardPoint | CardErase | CardRelease,
    CardLateAnswer "card-late-answer" "The answer comes after the deadline." CardHold | CardSelect | CardTries | CardVerify | CardChange | CardRead | CardWrite | CardPoint | CardErase | CardRelease,
    CardAnswerTwice "card-answer-twice" "The answer comes twice." CardHold | CardSelect | CardTries | CardVerify | CardChange | CardRead | CardWrite | CardPoint | CardErase | CardRelease,
    ReaderSilent "reader-silent" "The reader never answers, until it is unplugged and plugged in again." CardHold | CardSelect | CardTries | CardVerify | CardChange | CardRead | CardWrite | CardPoint | CardErase | CardRelease,
    PowerCutBeforeCard "power-cut-before-card" "Power goes before the command." CardHold | CardSelect | CardTries | CardVerify | CardChange | CardRead | CardWrite | CardPoint | CardErase | CardRelease,
    PowerCutAfterCard "power-cut-after-card" "Power goes after the command." CardHold | CardSelect | CardTries | CardVerify | CardChange | CardRead | CardWrite | CardPoint | CardErase | CardRelease,
    PowerCutAmidCard "power-cut-amid-card" "Power goes in the middle of the command." CardSelect | CardTries | CardVerify | CardChange | CardRead | CardWrite | CardPoint | CardErase,
    DaemonKilledAtCard "daemon-killed-at-card" "The daemon is killed during the call." CardHold | CardSelect | CardTries | CardVerify | CardChange | CardRead | CardWrite | CardPoint | CardErase | CardRelease,
    PadTimesOut "pad-times-out" "Nobody types in time." CardVerify | CardChange,
    PadCancelled "pad-cancelled" "Somebody presses cancel." CardVerify | CardChange,
    PadMismatch "pad-mismatch" "The new PIN is typed differently the second time." CardChange,
    PadLength "pad-length" "A PIN is typed that is too short." CardVerify | CardChange,
    WrongCardPin "wrong-card-pin" "A wrong PIN is typed." CardVerify | CardChange,
    PersonWalksOff "person-walks-off" "The person at the pad goes away." CardVerify | CardChange,
    CardPulledAtPad "card-pulled-at-pad" "The card is pulled while somebody types." CardVerify | CardChange,
    ReaderUnplugged "reader-unplugged" "A reader is unplugged, and comes back after a while." Table,
    CardPulledIdle "card-pulled-idle" "Somebody pulls the card that is in." Table,
    CardSwapped "card-swapped" "The card that is in is replaced by another." Table,
    ReaderTellsTwice "reader-tells-twice" "A reader tells again what it told." Table,
    ForeignCard "foreign-card" "A card of another kind is inserted." Table,
    HostileCard "hostile-card" "A card that answers as badly as it can is inserted." Table,
    FullCard "full-card" "A card without memory is inserted." Table,
    CardOfOthers "card-of-others" "A card of another cluster is inserted." Table,
    UsedCard "used-card" "A card is inserted that has been used for something else." Table,
    CardBlockedElsewhere "card-blocked-elsewhere" "Somebody types wrong PINs elsewhere until a card is blocked." Table,
    CardAtLastTry "card-at-last-try" "Somebody types wrong PINs elsewhere until one try is left." Table,
    EverybodyLeaves "everybody-leaves" "Everybody walks away from the ceremony." Table,
    StrangerActs "stranger-acts" "Somebody without the right starts, answers or cancels a ceremony." Table,
    CeremonyCancelled "ceremony-cancelled" "Somebody who may cancels the ceremony." Table,
    CeremonyBeside "ceremony-beside" "Another ceremony is ordered while one is under way." Table,
    UnknownCardTicket "unknown-card-ticket" "An answer of a reader that nobody waits for." Table,
    PowerCutAtTable "power-cut-at-table" "Power goes during a ceremony." Table,
}

impl Kind {
    /// Those that need no card and no reader.
    #[must_use]
    pub fn without_cards() -> &'static [Kind] {
        &Kind::ALL[..Kind::CardPulledBefore as usize]
    }

    /// Those of cards, readers and the people at them.
    #[must_use]
    pub fn of_cards() -> &'static [Kind] {
        &Kind::ALL[Kind::CardPulledBefore as usize..]
    }

    /// Whether the core is told a falsehood that no rule can see through: which code the
    /// token has is then nobody's to promise.
    #[must_use]
    pub const fn is_a_lie(self) -> bool {
        matches!(self, Kind::LoginLies)
    }
}

/// The kinds of power cuts, and how many opportunities they may let pass.
const POWER_CUTS: [(Kind, u16); 7] = [
    (Kind::PowerCutBeforeWrite, 60),
    (Kind::PowerCutAfterWrite, 60),
    (Kind::PowerCutBeforeCall, 40),
    (Kind::PowerCutAfterKept, 40),
    (Kind::PowerCutAfterLost, 40),
    (Kind::PowerCutInRecovery, 20),
    (Kind::PowerCutIdle, 12),
];

/// One fault to come.
#[derive(Clone, Copy, Debug)]
struct Planned {
    kind: Kind,
    /// Opportunities to let pass.
    wait: u16,
}

/// The faults of one seed.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    planned: Vec<Planned, PLANNED_MAX>,
}

impl Plan {
    /// A plan without faults.
    #[must_use]
    pub fn none() -> Self {
        Plan::default()
    }

    /// None to six faults of any kinds; for nine seeds of ten many power cuts as well.
    #[must_use]
    pub fn draw(random: &mut fastrand::Rng) -> Self {
        let mut plan = Plan::default();
        let count = random.usize(..=ANY_MAX);
        for _ in 0..count {
            let kinds = Kind::without_cards();
            let kind = kinds[random.usize(..kinds.len())];
            // Most opportunities come early in a life; rare steps need a short wait.
            let wait_max = match kind {
                kind if kind.strikes(Step::Initialise) && !kind.strikes(Step::Login) => 1,
                kind if kind.strikes(Step::Login) && kind.strikes(Step::Settle) => 24,
                kind if kind.strikes(Step::Commit) => 20,
                kind if kind.strikes(Step::Idle) => 12,
                _ => 4,
            };
            plan.add(kind, random.u16(..=wait_max));
        }
        if random.u8(..10) != 0 {
            for _ in 0..random.usize(..=CUTS_MAX) {
                let (kind, wait_max) = POWER_CUTS[random.usize(..POWER_CUTS.len())];
                plan.add(kind, random.u16(..=wait_max));
            }
        }
        plan
    }

    /// None to eight faults of cards, readers and the people at them as well.
    pub fn add_of_cards(&mut self, random: &mut fastrand::Rng) {
        for _ in 0..random.usize(..=OF_CARDS_MAX) {
            let kinds = Kind::of_cards();
            let kind = kinds[random.usize(..kinds.len())];
            // A ceremony has dozens of calls, a few dialogues, and many moments at the table.
            let wait_max = match kind {
                kind if kind.strikes(Step::CardSelect) => 120,
                kind if kind.strikes(Step::Table) => 100,
                _ => 12,
            };
            self.add(kind, random.u16(..=wait_max));
        }
    }

    /// Adds a fault that strikes after `wait` opportunities; beyond [`PLANNED_MAX`] it is left out.
    pub fn add(&mut self, kind: Kind, wait: u16) {
        let _left_out = self.planned.push(Planned { kind, wait });
    }

    /// The fault that strikes now, if one does. `recovering` opens those of the recovery.
    pub fn due(&mut self, step: Step, recovering: bool) -> Option<Kind> {
        let mut due = None;
        for (index, planned) in self.planned.iter_mut().enumerate() {
            if !planned.kind.strikes(step) || (planned.kind == Kind::PowerCutInRecovery && !recovering) {
                continue;
            }
            if planned.wait > 0 {
                planned.wait -= 1;
            } else if due.is_none() {
                due = Some(index);
            }
        }
        due.map(|index| self.planned.swap_remove(index).kind)
    }

    /// No more faults.
    pub fn end(&mut self) {
        self.planned.clear();
    }

    /// Whether every fault struck.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.planned.is_empty()
    }
}

const STATES: usize = StateName::ALL.len();
const PLACES: usize = Step::ALL.len() * STATES;

/// Where each kind struck, and where it could have.
#[derive(Clone, Debug)]
pub struct Tally {
    struck: Box<[[u32; PLACES]]>,
    opportunities: [u32; PLACES],
}

impl Default for Tally {
    fn default() -> Self {
        Tally { struck: vec![[0; PLACES]; Kind::ALL.len()].into_boxed_slice(), opportunities: [0; PLACES] }
    }
}

impl Tally {
    /// Notes that a step was reached in a state.
    pub fn reached(&mut self, step: Step, state: StateName) {
        self.opportunities[place(step, state)] += 1;
    }

    /// Notes that a kind struck.
    pub fn struck(&mut self, kind: Kind, step: Step, state: StateName) {
        self.struck[kind as usize][place(step, state)] += 1;
        self.opportunities[place(step, state)] += 1;
    }

    /// How often a kind struck.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u64 {
        self.struck[kind as usize].iter().map(|count| u64::from(*count)).sum()
    }

    /// The steps at which a kind could strike and never did.
    #[must_use]
    pub fn missed(&self, kind: Kind) -> std::vec::Vec<Step> {
        let reached = |step: Step| StateName::ALL.iter().any(|state| self.opportunities[place(step, *state)] > 0);
        let struck =
            |step: Step| StateName::ALL.iter().any(|state| self.struck[kind as usize][place(step, *state)] > 0);
        Step::ALL.into_iter().filter(|step| kind.strikes(*step) && reached(*step) && !struck(*step)).collect()
    }

    /// The pairs of step and state at which a kind could strike, and at how many of them it did.
    #[must_use]
    pub fn covered(&self, kind: Kind) -> (usize, usize) {
        let mut struck = 0;
        let mut reached = 0;
        for step in Step::ALL.into_iter().filter(|step| kind.strikes(*step)) {
            for state in StateName::ALL {
                reached += usize::from(self.opportunities[place(step, state)] > 0);
                struck += usize::from(self.struck[kind as usize][place(step, state)] > 0);
            }
        }
        (struck, reached)
    }

    /// How often a kind struck while the slot was in this state.
    #[must_use]
    pub fn count_in(&self, kind: Kind, state: StateName) -> u64 {
        Step::ALL.iter().map(|step| u64::from(self.struck[kind as usize][place(*step, state)])).sum()
    }

    /// Takes over the counts of another.
    pub fn add(&mut self, other: &Tally) {
        for (mine, theirs) in self.struck.iter_mut().flatten().zip(other.struck.iter().flatten()) {
            *mine += theirs;
        }
        for (mine, theirs) in self.opportunities.iter_mut().zip(other.opportunities) {
            *mine += theirs;
        }
    }
}

fn place(step: Step, state: StateName) -> usize {
    step as usize * STATES + state as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_at_least_forty_kinds_with_words_of_their_own() {
        assert!(Kind::ALL.len() >= 40);
        for (index, one) in Kind::ALL.iter().enumerate() {
            assert!(Step::ALL.iter().any(|step| one.strikes(*step)), "{one:?} strikes nowhere");
            assert!(Kind::ALL[index + 1..].iter().all(|other| other.word() != one.word()));
        }
    }

    #[test]
    fn a_planned_fault_strikes_once_and_at_its_turn() {
        let mut plan = Plan::none();
        plan.add(Kind::LoginRefused, 1);
        assert_eq!(plan.due(Step::Logout, false), None);
        assert_eq!(plan.due(Step::Login, false), None);
        assert_eq!(plan.due(Step::Login, false), Some(Kind::LoginRefused));
        assert_eq!(plan.due(Step::Login, false), None);
        assert!(plan.is_over());
    }

    #[test]
    fn a_cut_in_recovery_waits_for_a_recovery() {
        let mut plan = Plan::none();
        plan.add(Kind::PowerCutInRecovery, 0);
        assert_eq!(plan.due(Step::Commit, false), None);
        assert_eq!(plan.due(Step::Commit, true), Some(Kind::PowerCutInRecovery));
    }

    #[test]
    fn the_tally_names_the_steps_a_kind_missed() {
        let mut tally = Tally::default();
        tally.reached(Step::Login, StateName::Activating);
        tally.struck(Kind::HangBefore, Step::Logout, StateName::Active);
        assert_eq!(tally.missed(Kind::HangBefore), [Step::Login]);
        assert_eq!(tally.covered(Kind::HangBefore), (1, 2));
        assert_eq!(tally.count_in(Kind::HangBefore, StateName::Active), 1);
    }
}
