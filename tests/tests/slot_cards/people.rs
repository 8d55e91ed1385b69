//! One test's appliance with readers, and people who come to the keypad with their cards.
//!
//! What people do is told beforehand, one act after the other; they look at the status as
//! everybody may, and do it when a ceremony asks for it. A ceremony that asks for anything else
//! fails the test. Nobody waits longer than [`PATIENCE`].

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use slotwarden::client::Client;
use slotwarden::status_json::CeremonyView;
use slotwarden::wire::{Answered, Ask};
use slotwarden_core::card::Credential;
use slotwarden_sim::cards::Card;
use slotwarden_sim::code::Code;
use slotwarden_sim::reader::Pad;
use slotwarden_tests::modules::{Bench, Kind, SO_PIN};
use slotwarden_tests::pcscd::Pcscd;
use slotwarden_tests::stage::{Begun, Ran, Stage, begin};

/// Longest time in which a ceremony does not change.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Nobody takes a card out sooner after being asked to. By then the daemon has let it go: pcscd
/// can lose track of a card that leaves in the milliseconds in which it is being reset.
const REACTION: Duration = Duration::from_millis(60);
/// The reader of these tests.
const READER: &str = "Left";
/// The code of every token before it has another.
pub(crate) const CODE: &str = "manual code one";
/// The PIN that people give their cards, and one that is wrong.
const CARD_PIN: &str = "7654321";
const WRONG_PIN: &str = "111111";
/// The persons of the configuration, beside the daemon's own user, who is `ada`.
pub(crate) const ANNA: u32 = 54_341;
pub(crate) const BEN: u32 = 54_342;
pub(crate) const CARL: u32 = 54_343;
pub(crate) const OTTO: u32 = 54_344;
pub(crate) const OLGA: u32 = 54_345;
pub(crate) const STRANGER: u32 = 54_349;

const PERSONS: &str = "\
[[person]]\nname = \"ada\"\nuids = [0]\nroles = [\"administrator\"]\n\
[[person]]\nname = \"anna\"\nuids = [54341]\nroles = [\"administrator\", \"custodian\"]\n\
[[person]]\nname = \"ben\"\nuids = [54342]\nroles = [\"administrator\", \"custodian\"]\n\
[[person]]\nname = \"carl\"\nuids = [54343]\nroles = [\"custodian\"]\n\
[[person]]\nname = \"otto\"\nuids = [54344]\nroles = [\"auditor\"]\n\
[[person]]\nname = \"olga\"\nuids = [54345]\nroles = [\"operator\"]\n";

/// What somebody does when the ceremony asks for it.
pub(crate) enum Act<'a> {
    /// Puts this card in, types its PIN, and takes it out when that is asked for.
    Card(&'a str),
    /// The same, but the card is refused for this reason.
    Refused(&'a str, u16),
    /// The same as the first, but the first PIN is a wrong one.
    Mistypes(&'a str),
    /// For the card that is in: a wrong PIN, and the card is refused for this reason.
    MistypesLast(u16),
    /// Puts this card in and waits until the keypad asks; then this happens, and nobody types.
    AtPad(&'a str, &'a dyn Fn(&CeremonyView)),
    /// This happens when the ceremony waits for this.
    At(&'a str, &'a dyn Fn(&CeremonyView)),
    /// Puts this card in and leaves it to the acts that follow.
    In(&'a str),
}

/// One appliance, its reader, and everybody's cards.
pub(crate) struct Scene {
    pub(crate) stage: Stage,
    cards: BTreeMap<&'static str, Arc<Mutex<Card>>>,
    credential: Credential,
    pcscd: Pcscd,
}

/// Everybody who has a card; `Anna's copy` is another card of hers.
const OWNERS: [&str; 7] = ["anna", "anna's copy", "ben", "ben's copy", "carl", "olga", "nobody"];

impl Scene {
    /// Slots with these names, each with a token of that label, the code [`CODE`] and an
    /// application `NAME-app`; the daemon runs, the slots are not active.
    pub(crate) fn new(kind: Kind, slots: &[&str]) -> Self {
        Scene::on(Bench::new(kind, slots.len()), slots)
    }

    /// The same, with the forwarding module in front of the tokens.
    pub(crate) fn forwarded(kind: Kind, slots: &[&str]) -> Self {
        Scene::on(Bench::forwarded(kind, slots.len()), slots)
    }

    fn on(bench: Bench, slots: &[&str]) -> Self {
        let pcscd = Pcscd::start(&[READER]);
        let mut stage = Stage::on(bench);
        stage.top = "security_level = \"cards\"\n".to_owned();
        stage.more = PERSONS.to_owned();
        for slot in slots {
            stage.bench.make_token_with(slot, SO_PIN, CODE);
            stage.slot(slot, slot, &format!("{slot}-app"));
        }
        stage.open_to_all();
        stage.start();
        let card = |serial: usize| Card::new([u8::try_from(serial).expect("few") + 1; 8]);
        let cards = OWNERS.iter().enumerate().map(|(serial, owner)| (*owner, Arc::new(Mutex::new(card(serial)))));
        let scene = Scene { stage, cards: cards.collect(), credential: Credential::SlotUser, pcscd };
        scene.wait_for_reader();
        scene
    }

    /// A restart, with or without asking the daemon first.
    pub(crate) fn restart(&mut self, killed: bool) {
        if killed {
            self.stage.kill();
        } else {
            self.stage.stop();
        }
        self.start();
    }

    /// The daemon again.
    pub(crate) fn start(&mut self) {
        self.stage.start();
        self.wait_for_reader();
    }

    /// Until the reader was asked what it can do: before that no ceremony begins.
    #[track_caller]
    fn wait_for_reader(&self) {
        let began = Instant::now();
        loop {
            let listed = self.stage.run(&["card", "list", "--output", "json"]).exits(0).json();
            if listed["readers"].as_array().is_some_and(|readers| {
                readers.iter().any(|found| found["present"] == true && found["reason"].is_null())
            }) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "no reader is used: {listed}");
            thread::sleep(LOOK_PAUSE);
        }
    }

    /// From now on people mean this credential of their cards.
    pub(crate) fn means(&mut self, credential: Credential) {
        self.credential = credential;
    }

    pub(crate) fn pad(&self) -> &Pad {
        self.pcscd.pad(0)
    }

    pub(crate) fn card(&self, owner: &str) -> MutexGuard<'_, Card> {
        self.cards[owner].lock().expect("no card panics")
    }

    /// Gives an order as the daemon's own user, and lets people act until it ended.
    #[track_caller]
    pub(crate) fn order(&self, arguments: &[&str], acts: &[Act<'_>]) -> Ran {
        self.order_as(0, arguments, &[], acts)
    }

    /// The same with secrets in files: each an option and the secret.
    #[track_caller]
    pub(crate) fn order_with(&self, arguments: &[&str], secrets: &[(&str, &str)], acts: &[Act<'_>]) -> Ran {
        self.order_as(0, arguments, secrets, acts)
    }

    /// The same as somebody else.
    #[track_caller]
    pub(crate) fn order_as(&self, uid: u32, arguments: &[&str], secrets: &[(&str, &str)], acts: &[Act<'_>]) -> Ran {
        self.follow(self.begin_as(uid, arguments, secrets), acts)
    }

    /// Gives an order as somebody, and waits for nothing.
    pub(crate) fn begin_as(&self, uid: u32, arguments: &[&str], secrets: &[(&str, &str)]) -> Begun {
        let files: Vec<(&str, PathBuf)> =
            secrets.iter().map(|(option, secret)| (*option, self.stage.secret_file(secret))).collect();
        let mut command = self.command_as(uid);
        command.args(arguments);
        for (option, file) in files {
            command.arg(option).arg(file);
        }
        begin(&mut command)
    }

    fn command_as(&self, uid: u32) -> Command {
        let mut command = self.stage.command();
        command.uid(uid).gid(uid);
        command
    }

    /// Lets people act until this order is answered.
    #[track_caller]
    pub(crate) fn follow(&self, order: Begun, acts: &[Act<'_>]) -> Ran {
        let ending = thread::spawn(move || order.end());
        let client = Client::new(&self.stage.socket());
        let mut visit = Visit { acts, done: 0, card: None, dialogues: self.pad().dialogues() };
        let mut seen: Option<(u32, String)> = None;
        let mut since = Instant::now();
        while !ending.is_finished() {
            // Before the status: what that says of a keypad is then not older than the keypad's question.
            let asking = Some(self.pad().dialogues()).filter(|_| self.pad().is_asking());
            if let Ok(Answered::Status(status)) = client.ask(Ask::Status, &[])
                && let Some(view) = status.ceremony
            {
                let now = (view.changes, view.wait.clone());
                if seen.as_ref() != Some(&now) {
                    (seen, since) = (Some(now), Instant::now());
                }
                self.act(&mut visit, &view, asking);
            }
            assert!(since.elapsed() < PATIENCE, "nothing goes on: {seen:?}, act {}", visit.done);
            thread::sleep(LOOK_PAUSE);
        }
        self.pad().remove();
        self.pad().forget();
        let ran = ending.join().expect("the command ended");
        assert_eq!(visit.done, acts.len(), "not asked for; {}{}", ran.stdout, ran.stderr);
        ran
    }

    #[track_caller]
    fn act(&self, visit: &mut Visit<'_, '_>, view: &CeremonyView, asking: Option<u32>) {
        if let Some(Act::At(wait, act)) = visit.acts.get(visit.done)
            && view.wait == *wait
        {
            visit.done += 1;
            return act(view);
        }
        match view.wait.as_str() {
            "insert" if !self.pad().has_card() => {
                let owner = match visit.acts.get(visit.done) {
                    Some(Act::Card(owner) | Act::Refused(owner, _) | Act::Mistypes(owner) | Act::AtPad(owner, _)) => {
                        *owner
                    }
                    Some(Act::In(owner)) => {
                        visit.done += 1;
                        *owner
                    }
                    Some(Act::MistypesLast(_)) => panic!("that card is in: {view:?}"),
                    Some(Act::At(wait, _)) => panic!("a card is wanted before {wait:?}: {view:?}"),
                    None => panic!("another card is wanted: {view:?}"),
                };
                visit.card = self.cards.get_key_value(owner).map(|(owner, _)| *owner);
                self.pad().insert(Arc::clone(&self.cards[owner]));
            }
            "pin" | "new-pin"
                if asking.is_some_and(|dialogue| dialogue != visit.dialogues)
                    && asking == Some(self.pad().dialogues()) =>
            {
                visit.dialogues = self.pad().dialogues();
                self.at_pad(visit, view);
            }
            "remove" if self.pad().has_card() => {
                let last = view.last.as_ref().map(|told| told.number);
                match visit.acts.get(visit.done) {
                    Some(Act::Refused(_, number) | Act::MistypesLast(number)) => {
                        assert_eq!(last, Some(*number), "{view:?}")
                    }
                    Some(Act::Card(_) | Act::Mistypes(_)) => assert_eq!(last, None, "{view:?}"),
                    Some(Act::At(..) | Act::AtPad(..) | Act::In(_)) | None => panic!("it is to go: {view:?}"),
                }
                visit.done += 1;
                thread::sleep(REACTION);
                self.pad().remove();
            }
            "answer" => panic!("nobody was to be asked: {view:?}"),
            _ => {}
        }
    }

    fn at_pad(&self, visit: &mut Visit<'_, '_>, view: &CeremonyView) {
        let owner = visit.card.expect("a keypad asks about a card");
        let present = self.card(owner).pin(self.credential);
        let new = Code::new(CARD_PIN.as_bytes());
        let entries = match (visit.acts.get(visit.done), view.wait == "new-pin", view.last.is_some()) {
            (Some(Act::AtPad(_, act)), _, _) => {
                visit.done += 1;
                return act(view);
            }
            (Some(Act::MistypesLast(_)), _, _) => vec![Code::new(WRONG_PIN.as_bytes())],
            (Some(Act::Mistypes(_)), true, false) => vec![Code::new(WRONG_PIN.as_bytes()), new, new],
            (Some(Act::Mistypes(_)), false, false) if !visit.mistyped(view) => vec![Code::new(WRONG_PIN.as_bytes())],
            (_, true, _) => vec![present, new, new],
            (_, false, _) => vec![present],
        };
        for entry in entries {
            self.pad().expect(slotwarden_sim::pin_pad::Entry::Types(entry));
        }
    }
}

/// What people did so far for one order.
struct Visit<'v, 'a> {
    acts: &'v [Act<'a>],
    done: usize,
    card: Option<&'static str>,
    dialogues: u32,
}

impl Visit<'_, '_> {
    /// A wrong PIN was typed for the card that is in: fewer tries are left than a card has.
    fn mistyped(&self, view: &CeremonyView) -> bool {
        view.tries_left.is_some_and(|left| left < 3)
    }
}
