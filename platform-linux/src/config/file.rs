//! The file as serde sees it, and every check of what it says.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use slotwarden_core::limits::{
    APPLICATIONS_PER_SLOT_MAX, CODE_CHARS_MAX, CODE_CHARS_MIN, PERSONS_MAX, SLOTS_APPLIANCE, TRIES_DEFAULT,
};
use slotwarden_core::person::{Role, Roles};

use super::application::{ApplicationTable, check_applications};
use super::cards::{CardsTable, LevelWord, SecurityLevel, check_cards};
use super::coverage::{CoverageTable, check_coverage};
use super::protected;
use super::sync::{SyncTable, check_sync};
use super::{
    CALLS_IN_FLIGHT_MAX, ConfigProblem, HsmSettings, LOOK_INTERVAL_S_MAX, NAME_CHARS_MAX, PersonSettings, Settings,
    SlotSettings, TRIES_MAX,
};
use crate::token_uri::TokenUri;

/// Checks a text; what only this machine can tell is looked at by [`check_machine`].
///
/// # Errors
/// Every problem that was found.
pub fn check(text: &str) -> Result<Settings, Vec<ConfigProblem>> {
    let file: ConfigFile = toml::from_str(text).map_err(|error| vec![syntax_problem(text, &error)])?;
    check_file(file, Sha256::digest(text).into(), protected::of_text(text))
}

/// The same for a table that was put together: its digest and protected part are known.
pub(super) fn check_table(
    table: toml::Table,
    digest: [u8; 32],
    protected: Vec<u8>,
) -> Result<Settings, Vec<ConfigProblem>> {
    let file: ConfigFile = table.try_into().map_err(|error| vec![syntax_problem("", &error)])?;
    check_file(file, digest, protected)
}

fn check_file(file: ConfigFile, digest: [u8; 32], protected: Vec<u8>) -> Result<Settings, Vec<ConfigProblem>> {
    let mut problems = Problems::default();
    problems.absolute("state_dir", &file.state_dir);
    problems.absolute("socket", &file.socket);
    problems.absolute("[hsm]", &file.hsm.module);
    if let Some(settle_dir) = &file.hsm.settle_dir {
        problems.absolute("[hsm]", settle_dir);
    }
    if file.hsm.look_interval_s.is_some_and(|seconds| !(1..=LOOK_INTERVAL_S_MAX).contains(&seconds)) {
        problems.add(
            "[hsm]",
            "`look_interval_s` is out of range",
            format!("write 1 to {LOOK_INTERVAL_S_MAX}, or leave it out"),
        );
    }
    if file.hsm.calls_in_flight_max.is_some_and(|calls| !(1..=CALLS_IN_FLIGHT_MAX).contains(&calls)) {
        problems.add(
            "[hsm]",
            "`calls_in_flight_max` is out of range",
            format!("write 1 to {CALLS_IN_FLIGHT_MAX}, or leave it out"),
        );
    }
    let seal_key_file = file.seal.and_then(|seal| seal.key_file);
    if let Some(key_file) = &seal_key_file {
        problems.absolute("[seal]", key_file);
    }
    let tries = file.tries.unwrap_or(TRIES_DEFAULT);
    if !(1..=TRIES_MAX).contains(&tries) {
        problems.add(
            "tries",
            "the number of tries is out of range",
            format!("write 1 to {TRIES_MAX}, or leave it out"),
        );
    }
    let names: Vec<String> = file.application.iter().map(|table| table.name().to_owned()).collect();
    let applications = check_applications(file.application, &mut problems);
    let slots = check_slots(&file.slot, &names, &mut problems);
    let persons = check_persons(&file.person, &mut problems);
    let security_level = file.security_level.map_or(SecurityLevel::None, SecurityLevel::from);
    let cards = check_cards(file.cards.unwrap_or_default(), security_level, &mut problems);
    let coverage = check_coverage(&file.coverage.unwrap_or_default(), &mut problems);
    let sync = file.sync.and_then(|table| check_sync(table, &mut problems));
    if !problems.0.is_empty() {
        return Err(problems.0);
    }
    Ok(Settings {
        state_dir: file.state_dir,
        socket: file.socket,
        seal_key_file,
        hsm: file.hsm,
        slots,
        applications,
        persons,
        tries,
        security_level,
        cards,
        coverage,
        sync,
        digest,
        protected,
    })
}

/// The file as serde sees it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    state_dir: PathBuf,
    socket: PathBuf,
    tries: Option<u8>,
    security_level: Option<LevelWord>,
    seal: Option<SealTable>,
    hsm: HsmSettings,
    cards: Option<CardsTable>,
    coverage: Option<CoverageTable>,
    sync: Option<SyncTable>,
    #[serde(default)]
    slot: Vec<SlotTable>,
    #[serde(default)]
    application: Vec<ApplicationTable>,
    #[serde(default)]
    person: Vec<PersonTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SealTable {
    key_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SlotTable {
    name: String,
    token: String,
    #[serde(default)]
    applications: Vec<String>,
    pin_chars_max: Option<u16>,
    export: Option<ExportWord>,
    export_program: Option<PathBuf>,
}

/// How the keys of a slot are exported.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ExportWord {
    Kwp,
    Vendor,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PersonTable {
    name: String,
    uids: Vec<u32>,
    roles: Vec<RoleWord>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RoleWord {
    Administrator,
    Operator,
    Approver,
    Custodian,
    Auditor,
}

#[derive(Default)]
pub(super) struct Problems(pub(super) Vec<ConfigProblem>);

impl Problems {
    pub(super) fn add(&mut self, place: impl Into<String>, sentence: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(ConfigProblem { place: place.into(), sentence: sentence.into(), remedy: remedy.into() });
    }

    pub(super) fn absolute(&mut self, place: &str, path: &Path) {
        if !path.is_absolute() {
            self.add(place, format!("{} is not an absolute path", path.display()), "begin it with a slash");
        }
    }

    /// Checks the form of names and that each stands once.
    pub(super) fn names<'a>(&mut self, what: &str, names: impl Iterator<Item = &'a String>) {
        let mut seen = HashSet::new();
        for name in names {
            let odd = name.trim() != name || name.chars().any(char::is_control) || name.starts_with("pkcs11:");
            if name.is_empty() || odd || name.chars().count() > NAME_CHARS_MAX {
                self.add(
                    what,
                    "a name is empty, too long, begins with `pkcs11:` or with a blank, or holds control characters",
                    format!("use 1 to {NAME_CHARS_MAX} printable characters"),
                );
            } else if !seen.insert(name) {
                self.add(format!("{what} {name}"), "the name stands twice", "give each its own name");
            }
        }
    }

    pub(super) fn at_most(&mut self, what: &str, found: usize, most: usize) {
        if found > most {
            self.add(what, format!("there are {found}, and at most {most} are served"), "remove some");
        }
    }
}

fn check_slots(slots: &[SlotTable], known: &[String], problems: &mut Problems) -> Vec<SlotSettings> {
    problems.at_most("slot", slots.len(), SLOTS_APPLIANCE);
    problems.names("slot", slots.iter().map(|slot| &slot.name));
    if slots.is_empty() {
        problems.add("slot", "no slot is configured", "add a [[slot]] with `name` and `token`");
    }
    let mut checked: Vec<SlotSettings> = Vec::with_capacity(slots.len());
    let mut bound = HashSet::new();
    for slot in slots {
        let place = format!("slot {}", slot.name);
        let mut applications = Vec::new();
        for wanted in &slot.applications {
            let Some(number) = known.iter().position(|name| name == wanted) else {
                problems.add(
                    &place,
                    format!("the application {wanted:?} is not configured"),
                    "add an [[application]] of that name or correct it",
                );
                continue;
            };
            if !bound.insert(number) {
                problems.add(
                    &place,
                    format!("the application {wanted:?} is bound twice, and it is given one token PIN"),
                    "add an [[application]] for each slot",
                );
            }
            applications.push(number);
        }
        if applications.len() > APPLICATIONS_PER_SLOT_MAX {
            problems.add(
                &place,
                format!("more than {APPLICATIONS_PER_SLOT_MAX} applications are bound to it"),
                "bind fewer",
            );
        }
        if slot.pin_chars_max.is_some_and(|chars| !(CODE_CHARS_MIN..=CODE_CHARS_MAX).contains(&usize::from(chars))) {
            problems.add(
                &place,
                "`pin_chars_max` is out of range",
                format!("write {CODE_CHARS_MIN} to {CODE_CHARS_MAX}, or leave it out"),
            );
        }
        match TokenUri::parse(&slot.token) {
            Err(problem) => problems.add(
                &place,
                format!("`token` is not usable: {problem}"),
                "write it like \"pkcs11:token=ca-root\" or \"pkcs11:token=ca-root;serial=0123\"",
            ),
            Ok(token) => {
                check_export(slot, &place, &token, problems);
                if let Some(other) = checked.iter().find(|other| other.token.overlaps(&token)) {
                    problems.add(
                        &place,
                        format!("slot {} means the same token", other.name),
                        "give each slot a token of its own; two tokens with one label are told apart by `serial=`",
                    );
                }
                let (name, pin_chars_max) = (slot.name.clone(), slot.pin_chars_max);
                let export_program = slot.export_program.clone();
                checked.push(SlotSettings { name, token, applications, pin_chars_max, export_program });
            }
        }
    }
    checked
}

/// A program of the vendor's is told which token is meant by what the configuration says, not by what a module says.
fn check_export(slot: &SlotTable, place: &str, token: &TokenUri, problems: &mut Problems) {
    match (slot.export.unwrap_or(ExportWord::Kwp), &slot.export_program) {
        (ExportWord::Kwp, None) => {}
        (ExportWord::Kwp, Some(_)) => problems.add(
            place,
            "`export_program` is no key of export = \"kwp\"",
            "write export = \"vendor\", or remove the key",
        ),
        (ExportWord::Vendor, None) => problems.add(
            place,
            "a key is missing: `export_program`",
            "name the backup program of the HSM's vendor, or leave `export` out",
        ),
        (ExportWord::Vendor, Some(program)) => {
            if !program.is_absolute() || program.as_os_str().as_encoded_bytes().contains(&0) {
                problems.add(place, "`export_program` is not an absolute path", "begin it with a slash");
            }
            if token.label.is_none() || token.serial.is_none() {
                problems.add(
                    place,
                    "`export_program` has to be told which token it is, and `token` does not say label and serial",
                    "write both, as `slotwarden slot show` prints them: \"pkcs11:token=ca-root;serial=0123\"",
                );
            }
        }
    }
}

fn check_persons(persons: &[PersonTable], problems: &mut Problems) -> Vec<PersonSettings> {
    problems.at_most("person", persons.len(), PERSONS_MAX);
    problems.names("person", persons.iter().map(|person| &person.name));
    let mut uids_seen = HashSet::new();
    let mut checked = Vec::with_capacity(persons.len());
    for person in persons {
        let place = format!("person {}", person.name);
        if person.roles.is_empty() {
            problems.add(
                &place,
                "the person has no roles and may do nothing",
                "write roles = [\"operator\"] or another of administrator, operator, approver, custodian, auditor",
            );
        }
        if person.uids.is_empty() {
            problems.add(&place, "the person has no user id", "write uids = [1001], as `id -u` says it");
        }
        for uid in &person.uids {
            if !uids_seen.insert(*uid) {
                problems.add(&place, format!("the user id {uid} stands twice"), "one user id belongs to one person");
            }
        }
        let roles = person.roles.iter().fold(Roles::NONE, |roles, word| roles.with(word.role()));
        checked.push(PersonSettings { name: person.name.clone(), uids: person.uids.clone(), roles });
    }
    let administrators = checked.iter().any(|person| person.roles.has(Role::Administrator));
    if !persons.is_empty() && !administrators {
        problems.add("person", "nobody is an administrator", "give one person the role \"administrator\"");
    }
    checked
}

impl RoleWord {
    const fn role(self) -> Role {
        match self {
            RoleWord::Administrator => Role::Administrator,
            RoleWord::Operator => Role::Operator,
            RoleWord::Approver => Role::Approver,
            RoleWord::Custodian => Role::Custodian,
            RoleWord::Auditor => Role::Auditor,
        }
    }
}

/// What serde or the TOML reader found, with its line. The reader's own text would quote
/// the line, and with it whatever stands there.
fn syntax_problem(text: &str, error: &toml::de::Error) -> ConfigProblem {
    let place = error.span().and_then(|span| text.get(..span.start)).map_or_else(
        || "the file".to_owned(),
        |before| format!("line {}", before.bytes().filter(|byte| *byte == b'\n').count() + 1),
    );
    let message = error.message();
    let (sentence, remedy) = if message.starts_with("unknown field") {
        // "unknown field `key`, expected one of `a`, `b`": keys only.
        let (sentence, expected) = message.split_once(", ").unwrap_or((message, "see the README"));
        (sentence.replace("unknown field", "unknown key"), format!("{expected}, or remove the key"))
    } else if message.starts_with("missing field") {
        (message.replace("missing field", "a key is missing:"), "add it".to_owned())
    } else if message.starts_with("duplicate") {
        ("a key stands twice".to_owned(), "remove one".to_owned())
    } else if let Some((_, expected)) = message.rsplit_once("expected") {
        ("what stands here has the wrong form".to_owned(), format!("expected{expected}"))
    } else {
        ("what stands here is not TOML".to_owned(), "see the README for an example".to_owned())
    };
    ConfigProblem { place, sentence, remedy }
}
