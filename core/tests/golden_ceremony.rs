//! Ceremonies: every state × every event, as `golden` has it for the machines of a slot.
//!
//! Each state is brought about by what people, cards and the service would do, from the
//! beginning; then the event. States that stand for several things have a table for each.

// A test that panics has found something; the lints are for the rules.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![allow(clippy::std_instead_of_core, clippy::wildcard_enum_match_arm)]

mod table;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use slotwarden_core::Now;
use slotwarden_core::card::session::{CardProblem, HeldCard, PadEnd, SessionOrder, SessionReport};
use slotwarden_core::card::sets::{CardSet, Fate, Standing};
use slotwarden_core::card::{CardSerial, Credential, ProfileId, ReaderId, RecordPlace};
use slotwarden_core::ceremony::order::{CardOrder, Facts, Places, SlotSet, Task};
use slotwarden_core::ceremony::{
    CardFacts, Ceremony, CeremonyEvent as On, CeremonyId, CeremonyTurn, DEEDS_MAX, Deed, MadeSet, Noted, SoPinEnd,
    State,
};
use slotwarden_core::command::Command;
use slotwarden_core::effect::{ApplicationSet, SlotId};
use slotwarden_core::fault::{Fault, Function, Refusal};
use slotwarden_core::person::{PersonId, Roster};
use slotwarden_core::record::Owner;
use slotwarden_core::safe::{SecretId, Secrets};
use slotwarden_core::share::card_set::CardQuorum;
use slotwarden_core::share::record::{RecordProblem, ShareHeader, ShareKind, SignedHeader};
use table::{check, diagram, first_word, grouped};

const READER: ReaderId = ReaderId(0);
const SLOT: SlotId = SlotId(3);
const KEY: [u8; 16] = [6; 16];

/// Places without anything in them.
struct Empty;

impl Secrets for Empty {
    fn reserve(&mut self) -> Result<SecretId, Refusal> {
        Ok(SecretId::NONE)
    }

    fn lend(&self, _id: SecretId, _read: &mut dyn FnMut(&[u8])) -> Option<()> {
        None
    }

    fn rewrite(&mut self, _id: SecretId, _write: &mut dyn FnMut(&mut [u8]) -> usize) -> bool {
        false
    }

    fn wipe(&mut self, _id: SecretId) {}
}

/// A ceremony, and what it wants done after the last event.
struct Scene {
    ceremony: Ceremony,
    deeds: Vec<Deed>,
    bug: Option<u16>,
}

impl Scene {
    fn new(command: Command, facts: Facts, before: &[On]) -> Scene {
        let (mut deeds, mut bug) = (heapless::Vec::<Deed, DEEDS_MAX>::new(), None);
        let now = Now { mono_ms: 1_000, wall_s: None };
        let mut turn = CeremonyTurn { now, secrets: &mut Empty, deeds: &mut deeds, bug: &mut bug };
        let ceremony = Ceremony::new(CeremonyId([7; 8]), command, facts, &mut turn);
        let mut scene = Scene { ceremony, deeds: Vec::new(), bug: None };
        for event in before {
            scene.play(*event);
            assert_eq!(scene.bug, None, "{event:?}");
        }
        scene
    }

    fn play(&mut self, event: On) {
        let mut deeds = heapless::Vec::<Deed, DEEDS_MAX>::new();
        let now = Now { mono_ms: 1_000, wall_s: None };
        let mut turn = CeremonyTurn { now, secrets: &mut Empty, deeds: &mut deeds, bug: &mut self.bug };
        self.ceremony.handle(event, &mut turn);
        self.deeds = deeds.into_iter().collect();
    }
}

fn set(generation: u8) -> CardSet {
    CardSet {
        id: [generation; 16],
        key_id: KEY,
        generation: generation.into(),
        quorum: CardQuorum::new(2, 2).expect("a quorum"),
        holders: Roster::new(&[PersonId(31), PersonId(32)]).expect("two persons"),
        created_s: 5,
        split_knowledge: true,
        with_code: false,
        pin_chars: 32,
    }
}

fn facts() -> Facts {
    Facts {
        starter: PersonId(1),
        credential: Credential::BackupShare,
        subject: [2; 16],
        owner: None,
        gather: None,
        others: [None; 2],
        make: None,
        fresh_secret: false,
        reader: READER,
        target: READER,
        overwrite: false,
        slots: SlotSet::NONE.with(SLOT),
        two_persons: true,
    }
}

/// Share `x` of the set of this generation.
fn share(generation: u8, x: u8) -> SignedHeader {
    let header = ShareHeader {
        kind: ShareKind::BackupKey,
        set_id: [generation; 16],
        subject: [2; 16],
        m: 2,
        n: 2,
        x,
        generation: generation.into(),
        created_s: 5,
        key_id: KEY,
    };
    SignedHeader { header, public_key: [7; 32], signature: [8; 64] }
}

/// The same for users of a slot and for HSM administrators.
fn share_of(kind: ShareKind, x: u8) -> SignedHeader {
    let mut share = share(1, x);
    share.header.kind = kind;
    share
}

fn serial(number: u8) -> CardSerial {
    CardSerial::new(&[0xCA, number]).expect("a serial")
}

/// A card without a record.
fn blank(number: u8) -> HeldCard {
    let profile = ProfileId::Iso7816Files;
    HeldCard { profile, serial: serial(number), tries_left: Some(3), place: None, header: None }
}

/// A card with this record.
fn with(number: u8, record: SignedHeader) -> HeldCard {
    HeldCard { place: Some(RecordPlace::A), header: Some(record.header), ..blank(number) }
}

fn known(standing: Standing) -> CardFacts {
    let in_force = standing == Standing::Current;
    CardFacts { pin_changed: true, standing: Some(standing), in_force, cards_of_share: 1, ..CardFacts::default() }
}

fn reported(report: SessionReport) -> On {
    On::Reported(READER, report)
}

fn failed(problem: CardProblem) -> On {
    reported(SessionReport::Failed(problem))
}

fn seen(card: HeldCard, facts: CardFacts) -> On {
    On::Identified(READER, card, facts)
}

fn read(record: SignedHeader) -> On {
    On::RecordRead(READER, Ok(record), Some(Standing::Current))
}

const ACCEPTED: On = On::Reported(READER, SessionReport::PinAccepted);
const CHANGED: On = On::Reported(READER, SessionReport::PinChanged);
const WRITTEN: On = On::Reported(READER, SessionReport::Written);
const REMOVED: On = On::Reported(READER, SessionReport::Removed);
const YES: On = On::Answered { who: PersonId(2), yes: true };
const CANCEL: On = On::CancelOrdered { who: Some(PersonId(1)) };

fn cards(task: Task) -> Command {
    Command::Cards { order: CardOrder { task, at: Places::default() } }
}

/// A state by its name, and how it comes about.
struct Before {
    name: &'static str,
    command: Command,
    facts: Facts,
    events: Vec<On>,
}

/// States while a set is made.
fn making() -> Vec<Before> {
    let holders = set(1).holders;
    let create = cards(Task::CreateSet { quorum: set(1).quorum, holders, leave_out: SlotSet::NONE });
    let facts = Facts { make: Some(set(1)), fresh_secret: true, ..facts() };
    let before = |name, events: &[&[On]]| Before { name, command: create, facts, events: events.concat() };
    let drawn = On::Drawn(Ok(()));
    let made = On::Made(Ok(MadeSet { set_id: [1; 16], key_id: KEY }));
    let begun = [On::Begin, drawn, drawn, made];
    let new = |number| seen(blank(number), CardFacts::default());
    let other = seen(with(8, share(9, 1)), known(Standing::Foreign));
    let openpgp = HeldCard { profile: ProfileId::OpenPgp, ..blank(5) };
    let openpgp = seen(openpgp, CardFacts { pin_changed: true, ..CardFacts::default() });
    let dealt = |x| [new(x), CHANGED, ACCEPTED, On::ShareReady(Some(share(1, x))), WRITTEN, On::Verdict(true)];
    let (first, second) = (dealt(1), dealt(2));
    vec![
        before("waiting", &[]),
        before("drawing the seed", &[&begun[..1]]),
        before("drawing the secret", &[&begun[..2]]),
        before("judging: a set", &[&begun[..3]]),
        before("inserting a card for share 1", &[&begun]),
        before("at the pad: a new card", &[&begun, &first[..1]]),
        before("at the pad: the new PIN once more", &[&begun, &first[..2]]),
        before("judging: a share", &[&begun, &first[..3]]),
        before("writing a share", &[&begun, &first[..4]]),
        before("judging: what was read back", &[&begun, &first[..5]]),
        before("removing a card that has its share", &[&begun, &first]),
        before("removing a card that did not do", &[&begun, &[failed(CardProblem::UnknownCard)]]),
        before("inserting a card that was torn", &[&begun, &first[..4], &[failed(CardProblem::TornWrite)]]),
        before(
            "inserting a card after its PIN became doubtful",
            &[&begun, &first[..1], &[reported(SessionReport::PinOldOrNew), REMOVED]],
        ),
        before("asking to overwrite", &[&begun, &[other]]),
        before(
            "asking for another try of the pad",
            &[&begun, &first[..1], &[reported(SessionReport::PadEnded(PadEnd::TimedOut))]],
        ),
        before("reading what is on an OpenPGP card", &[&begun, &[openpgp, ACCEPTED]]),
        before("inserting a card for share 2", &[&begun, &first, &[REMOVED]]),
        before("removing the last card", &[&begun, &first, &[REMOVED], &second]),
        before("judging: the rehearsal", &[&begun, &first, &[REMOVED], &second, &[REMOVED]]),
        before("at the HSM: keys of a new set", &[&begun, &first, &[REMOVED], &second, &[REMOVED, On::Verdict(true)]]),
        before("leaving while a share is written", &[&begun, &first[..4], &[CANCEL]]),
        before("ended", &[&begun[..1], &[CANCEL]]),
    ]
}

/// States while cards are read.
fn reading() -> Vec<Before> {
    let facts = Facts { gather: Some(set(1)), ..facts() };
    let restore = cards(Task::RestoreKey { slot: Some(SLOT), key_id: None });
    let verify = cards(Task::VerifyFile { key_id: KEY, file: [0xF1; 32] });
    let before = |name, command, events: &[&[On]]| Before { name, command, facts, events: events.concat() };
    let was_read = |x| [seen(with(x, share(1, x)), known(Standing::Current)), ACCEPTED, read(share(1, x)), REMOVED];
    let (first, second) = (was_read(1), was_read(2));
    let begin = [On::Begin];
    let refused = [failed(CardProblem::UnknownCard), REMOVED].repeat(64);
    let unknown = Facts { gather: None, ..facts };
    let strange = [seen(with(1, share(1, 1)), known(Standing::Foreign)), ACCEPTED, read(share(1, 1)), REMOVED];
    let last = HeldCard { tries_left: Some(1), ..with(1, share(1, 1)) };
    let last = seen(last, known(Standing::Current));
    vec![
        before("inserting a card to be read", restore, &[&begin]),
        before("at the pad: a card to be read", restore, &[&begin, &first[..1]]),
        before("asking about the last try", restore, &[&begin, &[last]]),
        before("at the pad: the last try", restore, &[&begin, &[last, YES]]),
        before("reading", restore, &[&begin, &first[..2]]),
        before("removing a card that was read", restore, &[&begin, &first[..3]]),
        before("inserting the second card to be read", restore, &[&begin, &first]),
        before("judging: the secret", restore, &[&begin, &first, &second]),
        before("at the HSM: the only slot that is wanted", restore, &[&begin, &first, &second, &[On::Verdict(true)]]),
        before("at the file: its MACs are checked", verify, &[&begin, &first, &second, &[On::Verdict(true)]]),
        before("leaving while a PIN is typed", restore, &[&begin, &first[..1], &[CANCEL]]),
        before("asking for another card", cards(Task::VerifySet), &[&begin, &first]),
        before("removing the last card that may be refused", restore, &[&begin, &refused, &refused[..1]]),
        Before { facts: unknown, ..before("asking whose key it is", restore, &[&begin, &strange]) },
    ]
}

/// States while one card is changed, copied or erased.
fn single() -> Vec<Before> {
    let before = |name, task, events: &[&[On]]| Before {
        name,
        command: cards(task),
        facts: facts(),
        events: [&[On::Begin][..], &events.concat()].concat(),
    };
    let credential = Credential::BackupShare;
    let (change, copy, erase) = (Task::ChangePin { credential }, Task::Copy { credential }, Task::Erase { credential });
    let own = seen(with(1, share(1, 1)), known(Standing::Current));
    let source = [own, ACCEPTED, read(share(1, 1)), REMOVED];
    let target = [seen(blank(9), CardFacts::default()), CHANGED, ACCEPTED, WRITTEN, On::Verdict(true), REMOVED];
    let openpgp = HeldCard { profile: ProfileId::OpenPgp, ..blank(5) };
    let openpgp = seen(openpgp, CardFacts { pin_changed: true, ..CardFacts::default() });
    let doubtful = [own, reported(SessionReport::PinOldOrNew), REMOVED];
    vec![
        before("inserting a card whose PIN is changed", change, &[]),
        before("at the pad: a PIN is changed", change, &[&[own]]),
        before("removing a card whose PIN was changed", change, &[&[own, CHANGED]]),
        before("inserting a card that has the old PIN or the new one", change, &[&doubtful]),
        before("at the pad: the old PIN or the new one", change, &[&doubtful, &[own]]),
        before("leaving while a PIN is changed", change, &[&[own, CANCEL]]),
        before("inserting the card to be copied", copy, &[]),
        before("inserting the card for the copy", copy, &[&source]),
        before("writing the copy", copy, &[&source, &target[..3]]),
        before("removing the copy", copy, &[&source, &target[..5]]),
        before("asking for another copy", copy, &[&source, &target]),
        before("leaving while a copy is written", copy, &[&source, &target[..3], &[CANCEL]]),
        before("inserting a card to be erased", erase, &[]),
        before("erasing", erase, &[&[own, ACCEPTED]]),
        before("reading what is on an OpenPGP card that is erased", erase, &[&[openpgp, ACCEPTED]]),
    ]
}

/// States of what is ordered for a slot.
fn for_slots() -> Vec<Before> {
    let owner = Some(Owner(4));
    let holders = set(2).holders;
    let users = Command::SlotCards {
        slot: SLOT,
        quorum: set(2).quorum,
        holders,
        with_code: false,
        code: None,
        new_code: None,
        confirmed: false,
        accept: ApplicationSet::NONE,
        at: Places::default(),
    };
    let administrators = Command::AdministratorCards {
        slot: SLOT,
        quorum: set(2).quorum,
        holders,
        so_pin: None,
        confirmed: false,
        at: Places::default(),
    };
    let was_read = |kind| -> Vec<On> {
        let one = |x| {
            [seen(with(x, share_of(kind, x)), known(Standing::Current)), ACCEPTED, read(share_of(kind, x)), REMOVED]
        };
        [&[On::Begin][..], &one(1), &one(2), &[On::Verdict(true)]].concat()
    };
    let dealt = |x| {
        let ready = On::ShareReady(Some(share(2, x)));
        [seen(blank(10 + x), CardFacts::default()), CHANGED, ACCEPTED, ready, WRITTEN, On::Verdict(true), REMOVED]
    };
    let drawn = On::Drawn(Ok(()));
    let made = On::Made(Ok(MadeSet { set_id: [2; 16], key_id: KEY }));
    let rehearsed = [&[On::Verdict(true), drawn, drawn, made][..], &dealt(1), &dealt(2), &[On::Verdict(true)]].concat();
    let state = |name, command, credential, before: Vec<On>| Before {
        name,
        command,
        facts: Facts { credential, owner, gather: Some(set(1)), make: Some(set(2)), fresh_secret: true, ..facts() },
        events: before,
    };
    let user = was_read(ShareKind::SlotUser);
    let so = was_read(ShareKind::SoPin);
    let so_made = [&so[..], &rehearsed].concat();
    vec![
        state("judging: the PIN of the users' cards", users, Credential::SlotUser, user.clone()),
        state(
            "judging: the PIN of the users' new cards",
            users,
            Credential::SlotUser,
            [&user[..], &rehearsed].concat(),
        ),
        state("judging: the SO PIN of the new cards", administrators, Credential::HsmAdministrator, so_made.clone()),
        state("at the HSM: the SO PIN is changed", administrators, Credential::HsmAdministrator, {
            [&so_made[..], &[On::Verdict(true)]].concat()
        }),
    ]
}

fn events() -> Vec<(&'static str, On)> {
    let fault = Fault::Unanswered(Function::Other);
    let own = with(1, share(1, 1));
    let wrong = |left| reported(SessionReport::PinWrong { left });
    let current = known(Standing::Current);
    vec![
        ("begin", On::Begin),
        ("drawn", On::Drawn(Ok(()))),
        ("nothing drawn", On::Drawn(Err(Fault::RandomUnavailable))),
        ("set made", On::Made(Ok(MadeSet { set_id: [1; 16], key_id: KEY }))),
        ("no set made", On::Made(Err(Fault::RandomUnavailable))),
        ("share ready", On::ShareReady(Some(share(1, 1)))),
        ("no share", On::ShareReady(None)),
        ("verdict good", On::Verdict(true)),
        ("verdict bad", On::Verdict(false)),
        ("keys put", On::KeysPut(SLOT, Ok(()))),
        ("keys not put", On::KeysPut(SLOT, Err(fault))),
        ("keys put elsewhere", On::KeysPut(SlotId(9), Ok(()))),
        ("restore refused", On::RestoreRefused(Refusal::NothingPrepared)),
        ("MACs right", On::FileChecked(Ok(true))),
        ("MACs wrong", On::FileChecked(Ok(false))),
        ("MACs not checked", On::FileChecked(Err(Fault::StoreFailed))),
        ("SO PIN set", On::SoPinSet(Ok(()))),
        ("SO PIN refused", On::SoPinSet(Err(SoPinEnd::Refused(Refusal::SoPinWrong)))),
        ("SO PIN unknown", On::SoPinSet(Err(SoPinEnd::OldOrNew(fault)))),
        ("card 1 with share 1", seen(own, current)),
        ("card 2 with share 2", seen(with(2, share(1, 2)), current)),
        ("card 1 with share 1, one try left", seen(HeldCard { tries_left: Some(1), ..own }, current)),
        ("card 1 with share 1, blocked", seen(HeldCard { tries_left: Some(0), ..own }, current)),
        ("card 1 with share 1, lost", seen(own, CardFacts { lost: true, ..current })),
        ("card 1 with share 1, needed", seen(own, CardFacts { only_quorum: true, ..current })),
        ("card 3, new", seen(blank(3), CardFacts::default())),
        ("card 3, PIN changed before", seen(blank(3), CardFacts { pin_changed: true, ..CardFacts::default() })),
        ("card 3, one too many", seen(blank(3), CardFacts { no_room: true, ..CardFacts::default() })),
        ("card 4, superseded", seen(with(4, share(4, 1)), known(Standing::Former(Fate::Superseded)))),
        ("card 5, void", seen(with(5, share(5, 1)), known(Standing::Former(Fate::Void)))),
        ("card 6, foreign", seen(with(6, share(6, 1)), known(Standing::Foreign))),
        ("card 7, for an SO PIN", seen(with(7, share_of(ShareKind::SoPin, 1)), current)),
        ("a card at another reader", On::Identified(ReaderId(9), own, current)),
        ("record read: share 1", read(share(1, 1))),
        ("record read: share 2", read(share(1, 2))),
        ("record read: foreign", On::RecordRead(READER, Ok(share(6, 1)), Some(Standing::Foreign))),
        ("record read: none", On::RecordRead(READER, Err(RecordProblem::Missing), None)),
        ("record read: forged", On::RecordRead(READER, Err(RecordProblem::Forged), None)),
        ("PIN accepted", ACCEPTED),
        ("PIN changed", CHANGED),
        ("PIN wrong, 2 left", wrong(Some(2))),
        ("PIN wrong, 1 left", wrong(Some(1))),
        ("PIN wrong, nobody knows", wrong(None)),
        ("PIN blocked", reported(SessionReport::PinBlocked)),
        ("pad timed out", reported(SessionReport::PadEnded(PadEnd::TimedOut))),
        ("PIN old or new", reported(SessionReport::PinOldOrNew)),
        ("written", WRITTEN),
        ("erased", reported(SessionReport::Erased)),
        ("removed", REMOVED),
        ("step cancelled", reported(SessionReport::Cancelled)),
        ("not inserted", failed(CardProblem::NotInserted)),
        ("not removed", failed(CardProblem::NotRemoved)),
        ("card gone", failed(CardProblem::CardGone)),
        ("torn write", failed(CardProblem::TornWrite)),
        ("reader gone", failed(CardProblem::ReaderGone)),
        ("reader silent", failed(CardProblem::Unanswered)),
        ("not now", failed(CardProblem::NotNow)),
        ("in use", failed(CardProblem::InUse)),
        ("unknown card", failed(CardProblem::UnknownCard)),
        ("read back differs", failed(CardProblem::ReadBackDiffers)),
        ("card full", failed(CardProblem::Status(0x6A84))),
        ("transport failed", failed(CardProblem::Transport)),
        ("yes", YES),
        ("no", On::Answered { who: PersonId(2), yes: false }),
        ("cancel", CANCEL),
        ("stop", On::CancelOrdered { who: None }),
        ("deadline passed", On::DeadlinePassed),
    ]
}

#[test]
fn a_ceremony_answers_every_event_in_every_state() {
    let mut table = String::from(
        "# A ceremony: every state × every event\n\nWhat changes nothing and wants nothing done is the last line of \
         each. Deadlines run from 1000.\n",
    );
    let (mut edges, mut reached) = (BTreeSet::new(), BTreeSet::new());
    let states = [making(), reading(), single(), for_slots()].concat();
    for Before { name, command, facts, events: before } in &states {
        writeln!(table, "\n## {name}\n").expect("strings grow");
        let mut lines = Vec::new();
        let mut idle = 0;
        for (event, happens) in events() {
            let mut scene = Scene::new(*command, *facts, before);
            let from = first_word(&scene.ceremony.state());
            reached.insert(from.clone());
            let (state, rules) = (scene.ceremony.state(), scene.ceremony.rules().clone());
            scene.play(happens);
            let to = first_word(&scene.ceremony.state());
            if from != to {
                edges.insert((from, to, event.to_owned()));
            }
            if scene.ceremony.state() == state
                && *scene.ceremony.rules() == rules
                && scene.deeds.is_empty()
                && scene.bug.is_none()
            {
                idle += 1;
                continue;
            }
            lines.push((event.to_owned(), line(&scene)));
        }
        table.push_str(&grouped(lines));
        if idle > 0 {
            writeln!(table, "- {idle} others → nothing").expect("strings grow");
        }
    }
    assert_eq!(reached.len(), 14, "every state of the machine has its table: {reached:?}");
    assert!(table.lines().count() < 3_000);
    check("tests/golden/ceremony.md", &table);
    check("core/docs/ceremony.md", &diagram("A ceremony", &edges));
}

impl Clone for Before {
    fn clone(&self) -> Self {
        Before { name: self.name, command: self.command, facts: self.facts, events: self.events.clone() }
    }
}

fn line(scene: &Scene) -> String {
    let status = scene.ceremony.status(Now { mono_ms: 1_000, wall_s: None }, None);
    let mut line = state(scene.ceremony.state());
    if let Some(last) = status.last {
        write!(line, " (last {last:?})").expect("strings grow");
    }
    if let Some(place) = scene.bug {
        write!(line, " | BUG {place}").expect("strings grow");
    }
    let mut wiped = 0;
    for deed in &scene.deeds {
        match deed {
            Deed::Wipe(_) => wiped += 1,
            deed => write!(line, " | {}", shown(deed)).expect("strings grow"),
        }
    }
    if wiped > 0 {
        write!(line, " | wipe {wiped}").expect("strings grow");
    }
    line
}

fn state(state: State) -> String {
    let name = first_word(&state);
    match state {
        State::Drawing { part } => format!("{name} {part:?}"),
        State::Judging { what } => format!("{name} {what:?}"),
        State::Asking { question } => format!("{name} {question:?}"),
        State::AtPad { change } => format!("{name}, {}", if change { "change" } else { "verify" }),
        State::Removing { after } => format!("{name}, then {after:?}"),
        State::Leaving { refusal } => format!("{name} as {refusal:?}"),
        State::Waiting
        | State::AtHsm { .. }
        | State::AtFile
        | State::Inserting
        | State::Reading
        | State::Writing
        | State::Erasing
        | State::Ended => name,
    }
}

fn shown(deed: &Deed) -> String {
    let name = first_word(deed);
    match deed {
        Deed::Session(reader, order) => {
            let order = match order {
                SessionOrder::Write { record, .. } => format!("Write share {}", record.header.x),
                order => first_word(order),
            };
            format!("reader {}: {order}", reader.0)
        }
        Deed::Draw(_) | Deed::CheckFile | Deed::Same(..) | Deed::VoidSet | Deed::Wipe(_) => name,
        Deed::Make { fresh, .. } => format!("{name}{}", if *fresh { " with a new secret" } else { "" }),
        Deed::Share { header, .. } => format!("{name} {}", header.x),
        Deed::Combine { shares, m, .. } => format!("{name} {m} of {}", shares.len()),
        Deed::Rehearse { shares, m, .. } => format!("{name} {m} of {}", shares.len()),
        Deed::Pin { set, code, .. } => {
            format!("{name} of set {}{}", set.generation, if code.is_some() { " and a code" } else { "" })
        }
        Deed::PutKeys { slot, .. } | Deed::SetSoPin { slot, .. } => format!("{name} of slot {}", slot.0),
        Deed::BeginSet(set) => format!("{name} {}", set.generation),
        Deed::CommitSet(adopted) => format!("{name}{}", if adopted.is_some() { " of the cards" } else { "" }),
        Deed::Note(note) => {
            let what = match note.what {
                Noted::PinChanged(holder) => format!("PIN changed by {}", person(holder)),
                Noted::Written { header, holder } => format!("share {} written for {}", header.x, person(holder)),
                Noted::Verified(header) => format!("share {} verified", header.x),
                what => format!("{what:?}"),
            };
            format!("note of card {}: {what}", note.serial)
        }
        Deed::Deliver { present, new } => {
            format!("{name}{}{}", present.map_or("", |_| " present"), new.map_or("", |_| " new"))
        }
        Deed::Journal(_, event) => format!("journal {event:?}"),
        Deed::End(answer) => format!("end {answer:?}"),
    }
}

fn person(who: Option<PersonId>) -> String {
    who.map_or("nobody".to_owned(), |who| who.0.to_string())
}
