//! What the service costs between two commands to a card, next to a bare client of the same
//! pcscd, and how often people have to do something in each ceremony.
//!
//! The card notes when each command reaches it. Measured is from a command's arrival to that of the
//! next, wherever no person has to do anything between: SELECT to the question for the tries,
//! VERIFY at the keypad to READ. Both sides do the same at the same reader, A B A B, in one run; the
//! figure is the median of the pairs' ratios. Tokens and store are in memory. A ratio beyond 1.5
//! times the goal ends the run with an error.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pcsc::{Context, Disposition, Protocols, Scope, ShareMode};
use serde_json::Value;
use slotwarden_core::card::Credential;
use slotwarden_sim::cards::{Card, SmartCard, aid};
use slotwarden_sim::pin_pad::verify_structure;
use slotwarden_sim::reader::Pad;
use slotwarden_tests::custodians::Act::{self, Card as Brings, Says};
use slotwarden_tests::custodians::{Reader, Table};
use slotwarden_tests::modules::{Kind, SO_PIN};
use slotwarden_tests::pcscd::Pcscd;
use slotwarden_tests::stage::{Ran, Stage};

use crate::appliance::said;
use crate::median;

/// Pairs that are counted.
const PAIRS: usize = 31;
/// What performance asks for: service / bare client.
const GOAL: f64 = 1.2;
const CODE: &str = "manual code one";
const PERSONS: &str = "\
[[person]]\nname = \"alice\"\nuids = [0]\nroles = [\"administrator\", \"auditor\"]\n\
[[person]]\nname = \"bob\"\nuids = [54331]\nroles = [\"custodian\"]\n\
[[person]]\nname = \"carol\"\nuids = [54332]\nroles = [\"custodian\"]\n\
[[person]]\nname = \"dave\"\nuids = [54333]\nroles = [\"custodian\"]\n";

/// When commands reached a card.
type Arrivals = Arc<Mutex<Vec<Instant>>>;

/// A card that notes when commands reach it.
struct Noting {
    card: Arc<Mutex<Card>>,
    arrivals: Arrivals,
}

impl SmartCard for Noting {
    fn power(&mut self) -> Vec<u8> {
        self.card.power()
    }
    fn transmit(&mut self, apdu: &[u8], response: &mut Vec<u8>) {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        self.card.transmit(apdu, response);
    }
}

/// The reader, with cards that note.
struct Watched {
    pad: Pad,
    arrivals: Arrivals,
}

impl Reader for Watched {
    fn name(&self) -> &str {
        Reader::name(&self.pad)
    }
    fn insert(&self, card: &str, table: &Table) {
        self.pad.insert(Noting { card: table.shared(card), arrivals: Arc::clone(&self.arrivals) });
    }
    fn remove(&self) {
        self.pad.remove();
    }
    fn has_card(&self) -> bool {
        self.pad.has_card()
    }
    fn types(&self, pins: &[&str]) {
        self.pad.types(pins);
    }
    fn forget(&self) {
        self.pad.forget();
    }
}

/// Runs everything, prints.
pub(crate) fn print() -> Result<(), String> {
    let pcscd = Pcscd::start(&["Front"]);
    let arrivals = Arrivals::default();
    let reader = || Watched { pad: pcscd.pad(0).clone(), arrivals: Arc::clone(&arrivals) };
    let table = Table::new(vec![Box::new(reader())]);
    let mut stage = Stage::new(Kind::SoftHsm, 1);
    stage.bench.make_token_with("ca", SO_PIN, CODE);
    stage.slot("ca", "ca", "signer");
    stage.top = "security_level = \"cards\"\n".to_owned();
    stage.more = PERSONS.to_owned();
    stage.start();
    stage.activate("ca", CODE).exits(0);
    wait_for_reader(&stage)?;

    people(&stage, &table)?;
    let take = || std::mem::take(&mut *arrivals.lock().unwrap_or_else(PoisonError::into_inner));
    let (mut ratios, mut times) = (Vec::new(), [Vec::new(), Vec::new()]);
    for pair in 0..=PAIRS {
        let _ = take();
        table.order(&stage, &["backup", "verify-set"], &[Brings("1"), Says("no")]).exits(0);
        let ours = between(&take())?;
        bare(&reader(), &table)?;
        let floor = between(&take())?;
        if pair > 0 {
            ratios.push(ours / floor);
            times[0].push(ours);
            times[1].push(floor);
        }
    }
    let least = times.each_ref().map(|times| times.iter().copied().fold(f64::INFINITY, f64::min));
    println!("least: {:.0} µs and {:.0} µs", least[0], least[1]);
    let [ours, floor] = times.map(median);
    let ratio = median(ratios);
    println!("between two commands to a card: {PAIRS} pairs, medians {ours:.0} µs and {floor:.0} µs");
    println!("service / bare client of the same pcscd: {ratio:.2} (goal at most {GOAL})");
    if ratio > GOAL * 1.5 { Err(format!("beyond 1.5 times the goal: {ratio:.2}")) } else { Ok(()) }
}

/// SELECT, tries, VERIFY, READ: the mean of the two intervals that no person is in, µs.
fn between(arrivals: &[Instant]) -> Result<f64, String> {
    let [select, tries, verify, read] = arrivals else {
        return Err(format!("{} commands where four were to be sent", arrivals.len()));
    };
    let sum = tries.duration_since(*select) + read.duration_since(*verify);
    Ok(sum.as_secs_f64() * 1e6 / 2.0)
}

/// The same four commands by a client that does nothing else.
fn bare(reader: &Watched, table: &Table) -> Result<(), String> {
    let context = Context::establish(Scope::System).map_err(said("pcscd"))?;
    let name = context.list_readers_owned().map_err(said("pcscd"))?.pop().ok_or("pcscd has no reader")?;
    reader.insert("1", table);
    let began = Instant::now();
    let card = loop {
        match context.connect(&name, ShareMode::Exclusive, Protocols::ANY) {
            Ok(card) => break card,
            Err(_) if began.elapsed() < Duration::from_secs(30) => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(format!("the reader: {error}")),
        }
    };
    // pcscd and whoever else watches the reader have seen the card: only the commands are measured.
    std::thread::sleep(Duration::from_millis(300));
    let mut room = [0; 300];
    let select = [&[0, 0xA4, 4, 0, 12][..], &aid(Credential::BackupShare), &[0]].concat();
    card.transmit(&select, &mut room).map_err(said("SELECT"))?;
    card.transmit(&[0, 0x20, 0, 0x81], &mut room).map_err(said("the tries"))?;
    reader.types(&[&table.pin("1")]);
    let verify = verify_structure(&[0, 0x20, 0, 0x81, 0], [6, 12], 30);
    card.control(VERIFY_CODE.into(), &verify, &mut room).map_err(said("VERIFY"))?;
    let record = card.transmit(&[0, 0xB0, 0x81, 0, 200], &mut room).map_err(said("READ"))?;
    let whole = record.len() == 202;
    card.disconnect(Disposition::ResetCard).map_err(|(_, error)| format!("the reader: {error}"))?;
    reader.remove();
    reader.forget();
    if whole { Ok(()) } else { Err("the PIN was not taken".to_owned()) }
}

/// What a driver calls FEATURE_VERIFY_PIN_DIRECT here.
const VERIFY_CODE: u32 = slotwarden_sim::pin_pad::VERIFY_PIN;

/// What people do in each ceremony, as its transcript counts it.
fn people(stage: &Stage, table: &Table) -> Result<(), String> {
    let create = ["backup", "create-set", "-m", "2", "-n", "3", "--holders", "bob,carol,dave"];
    let replace = ["backup", "replace-set", "-m", "2", "-n", "3", "--holders", "bob,carol,dave"];
    let rotate = ["backup", "rotate", "-m", "2", "-n", "3", "--holders", "bob,carol,dave"];
    let all: [(&str, &[&str], &[Act<'_>]); 7] = [
        ("create 2 of 3", &create, &[Brings("a"), Brings("b"), Brings("c")]),
        ("change a PIN", &["card", "change-pin"], &[Brings("a")]),
        ("copy a card, one reader", &["card", "copy"], &[Brings("a"), Brings("copy"), Says("no")]),
        ("verify one card", &["backup", "verify-set"], &[Brings("a"), Says("no")]),
        ("restore with 2 of 3", &["backup", "restore-key"], &[Brings("a"), Brings("b")]),
        ("replace 2 of 3 by 2 of 3", &replace, &[Brings("a"), Brings("b"), Brings("d"), Brings("e"), Brings("f")]),
        ("rotate to 2 of 3", &rotate, &[Brings("1"), Brings("2"), Brings("3")]),
    ];
    for (what, order, acts) in all {
        let ran = table.order(stage, order, acts).exits(0);
        println!("human steps, {what}: {}", human_steps(stage, &ran)?);
    }
    Ok(())
}

fn human_steps(stage: &Stage, ran: &Ran) -> Result<u64, String> {
    let text = format!("{}{}", ran.stdout, ran.stderr);
    let id: String = text.split("ceremony show ").nth(1).unwrap_or("").chars().take(16).collect();
    let transcript: Value = stage.run(&["ceremony", "show", &id, "--output", "json"]).exits(0).json();
    transcript["ended"]["human_steps"].as_u64().ok_or_else(|| format!("{id}: no human steps in {transcript}"))
}

fn wait_for_reader(stage: &Stage) -> Result<(), String> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(30) {
        let listed = stage.run(&["card", "list", "--output", "json"]).exits(0).json();
        if listed["readers"].as_array().is_some_and(|readers| readers.iter().any(|found| found["reason"].is_null())) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err("no reader is used".to_owned())
}
