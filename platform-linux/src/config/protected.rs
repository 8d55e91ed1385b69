//! The part of a configuration that counts only as two persons approved it.
//!
//! Under dual control everything in the file is protected except where things of this machine
//! are: `state_dir`, `socket`, `[seal]`, `[hsm] look_interval_s`. A key that a later version
//! adds is protected unless it is named here. The protected part is kept as JSON with sorted
//! keys, so comments, blanks and the order of keys do not matter; the order of slots and
//! applications does, since their numbers follow from it. Its SHA-256 is what is approved.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use slotwarden_core::limits::TRIES_DEFAULT;
use slotwarden_core::person::{PersonId, Persons};
use toml::Table;

use super::{PATH_DEFAULT, Settings, TEXT_BYTES_MAX, file};
use crate::problem::{Own, Problem};

/// Where the state is when a file that cannot be read says nothing about it.
const STATE_DIR_DEFAULT: &str = "/var/lib/slotwarden";
/// Where the daemon listens when such a file says nothing about it.
const SOCKET_DEFAULT: &str = "/run/slotwarden/control.sock";

/// What the file says about where things of this machine are: never protected, and taken
/// from the file also when the rest of it is not usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Where store, marker and lock are.
    pub state_dir: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// The key that protects the stored codes.
    pub seal_key_file: Option<PathBuf>,
    /// Seconds between looks at the tokens.
    pub look_interval_s: Option<u64>,
}

/// A configuration file as it is found, usable or not.
#[derive(Clone, Debug)]
pub struct Offered {
    /// What it says, if it can be used.
    pub settings: Result<Settings, Problem>,
    /// Where things are, as far as it says that.
    pub places: Places,
    /// The file; `None` where there is none to read again.
    pub path: Option<PathBuf>,
}

impl Offered {
    /// Reads a file, whatever it is.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let settings = super::load(path);
        let places = match &settings {
            Ok(settings) => Places::of(settings),
            Err(_) => Places::guess(path),
        };
        Offered { settings, places, path: Some(path.to_owned()) }
    }

    /// What stands in no file.
    pub(crate) fn alone(settings: Settings) -> Self {
        Offered { places: Places::of(&settings), settings: Ok(settings), path: None }
    }
}

impl Places {
    fn of(settings: &Settings) -> Self {
        Places {
            state_dir: settings.state_dir.clone(),
            socket: settings.socket.clone(),
            seal_key_file: settings.seal_key_file.clone(),
            look_interval_s: settings.hsm.look_interval_s,
        }
    }

    /// What a file that cannot be used says all the same. Line by line, since one wrong line
    /// must not hide the others.
    fn guess(path: &Path) -> Self {
        let mut places = Places {
            state_dir: PathBuf::from(if path == Path::new(PATH_DEFAULT) { STATE_DIR_DEFAULT } else { "" }),
            socket: PathBuf::from(SOCKET_DEFAULT),
            seal_key_file: None,
            look_interval_s: None,
        };
        let readable = fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= TEXT_BYTES_MAX);
        let text = if readable { fs::read(path).unwrap_or_default() } else { Vec::new() };
        let mut table = String::new();
        for line in String::from_utf8_lossy(&text).lines() {
            if line.trim_start().starts_with('[') {
                line.trim().clone_into(&mut table);
                continue;
            }
            let Ok(keys) = toml::from_str::<Table>(line) else { continue };
            for (key, value) in keys {
                let path = value.as_str().map(PathBuf::from).filter(|path| path.is_absolute());
                match (table.as_str(), key.as_str(), path) {
                    ("", "state_dir", Some(path)) => places.state_dir = path,
                    ("", "socket", Some(path)) => places.socket = path,
                    ("[seal]", "key_file", path @ Some(_)) => places.seal_key_file = path,
                    _ => {}
                }
            }
        }
        places
    }
}

/// The protected part of a text that was checked: JSON.
pub(super) fn of_text(text: &str) -> Vec<u8> {
    let mut table: Table = toml::from_str(text).unwrap_or_default();
    for place in ["state_dir", "socket", "seal"] {
        table.remove(place);
    }
    if let Some(hsm) = table.get_mut("hsm").and_then(toml::Value::as_table_mut) {
        hsm.remove("look_interval_s");
    }
    // What a later version takes for absent must not change what was approved.
    table.entry("tries").or_insert_with(|| toml::Value::Integer(TRIES_DEFAULT.into()));
    serde_json::to_vec(&table).unwrap_or_default()
}

/// SHA-256 of a protected part.
#[must_use]
pub fn digest(protected: &[u8]) -> [u8; 32] {
    Sha256::digest(protected).into()
}

/// The settings that two persons approved, with the places of the file as it is.
///
/// # Errors
/// [`Own::ConfigurationWrong`]: kept by a version that knew keys which this one does not.
pub fn approved(protected: &[u8], places: &Places) -> Result<Settings, Problem> {
    let wrong = |why: String| Own::ConfigurationWrong.with(format!("as two persons approved it: {why}"));
    let mut table: Table = serde_json::from_slice(protected).map_err(|error| wrong(error.to_string()))?;
    let text = |path: &Path| toml::Value::String(path.to_string_lossy().into_owned());
    table.insert("state_dir".into(), text(&places.state_dir));
    table.insert("socket".into(), text(&places.socket));
    if let Some(key_file) = &places.seal_key_file {
        table.insert("seal".into(), Table::from_iter([("key_file".to_owned(), text(key_file))]).into());
    }
    if let Some(seconds) = places.look_interval_s.and_then(|seconds| i64::try_from(seconds).ok())
        && let Some(hsm) = table.get_mut("hsm").and_then(toml::Value::as_table_mut)
    {
        hsm.insert("look_interval_s".into(), toml::Value::Integer(seconds));
    }
    let checked = file::check_table(table, digest(protected), protected.to_vec());
    checked.map_err(|problems| wrong(problems.first().map_or_else(String::new, ToString::to_string)))
}

/// Whether a configuration names two persons of whom one may ask and the other approve.
#[must_use]
pub fn names_two(settings: &Settings) -> bool {
    let mut persons = Persons::none();
    for (number, person) in (1..=PersonId::LAST.0).zip(&settings.persons) {
        // At most as many as the core takes: `check` counted them.
        let _ = persons.add(PersonId(number), person.roles);
    }
    persons.are_two()
}

/// What differs between two protected parts, one sentence each. Of applications the keys are
/// named and not their values: a command line can hold what is not for every eye.
#[must_use]
pub fn differences(approved: &[u8], offered: &[u8]) -> Vec<String> {
    let read = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or(Value::Null);
    let (before, after): (Value, Value) = (read(approved), read(offered));
    let mut found = Vec::new();
    for key in keys(&before, &after) {
        let (old, new) = (&before[&key], &after[&key]);
        if old == new {
            continue;
        }
        match (old, new) {
            (Value::Array(_) | Value::Null, Value::Array(_) | Value::Null) => of_list(&key, old, new, &mut found),
            (Value::Object(_), Value::Object(_) | Value::Null) | (Value::Null, Value::Object(_)) => {
                of_table(&format!("[{key}]"), old, new, true, &mut found)
            }
            _ => found.push(format!("{key}: {old} becomes {new}")),
        }
    }
    found
}

fn of_list(what: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    let empty = Vec::new();
    let list = |value: &Value| value.as_array().unwrap_or(&empty).clone();
    let (before, after) = (list(before), list(after));
    let named = |list: &[Value], name: &Value| list.iter().find(|one| one["name"] == *name).cloned();
    let count = found.len();
    for old in &before {
        let name = &old["name"];
        let place = format!("{what} {}", name.as_str().unwrap_or("?"));
        match named(&after, name) {
            None => found.push(format!("{place} is gone")),
            Some(new) => of_table(&place, old, &new, what != "application", found),
        }
    }
    for new in &after {
        if named(&before, &new["name"]).is_none() {
            let name = new["name"].as_str().unwrap_or("?");
            let mut shown = new.clone();
            if let Some(members) = shown.as_object_mut() {
                members.remove("name");
            }
            let values = if what == "application" { String::new() } else { format!(": {shown}") };
            found.push(format!("{what} {name} is new{values}"));
        }
    }
    if found.len() == count {
        found.push(format!("the order of each {what} is another one"));
    }
}

fn of_table(place: &str, before: &Value, after: &Value, values: bool, found: &mut Vec<String>) {
    for key in keys(before, after) {
        let (old, new) = (&before[&key], &after[&key]);
        if old != new {
            let change = if values { format!("{old} becomes {new}") } else { "is another one".to_owned() };
            found.push(format!("{place}: {key}: {change}"));
        }
    }
}

fn keys(one: &Value, other: &Value) -> Vec<String> {
    let mut keys: Vec<String> =
        [one, other].into_iter().filter_map(Value::as_object).flat_map(|table| table.keys().cloned()).collect();
    keys.sort();
    keys.dedup();
    keys
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    const FILE: &str = r#"
state_dir = "/s"
socket = "/c"
[hsm]
module = "/m.so"
look_interval_s = 5
[[slot]]
name = "ca"
token = "pkcs11:token=ca"
applications = ["signer"]
[[application]]
name = "signer"
adapter = "pin-file"
path = "/run/signer.pin"
[[person]]
name = "alice"
uids = [1001]
roles = ["administrator"]
[[person]]
name = "bob"
uids = [1002]
roles = ["approver"]
"#;

    fn protected(text: &str) -> Vec<u8> {
        check(text).expect("consistent").protected
    }

    fn edited(from: &str, to: &str) -> String {
        assert!(FILE.contains(from), "the edit must change something");
        FILE.replacen(from, to, 1)
    }

    #[test]
    fn places_comments_and_order_of_keys_are_not_protected_and_everything_else_is() {
        for (from, to) in [
            ("\"/s\"", "\"/other\""),
            ("\"/c\"", "\"/other\""),
            ("look_interval_s = 5\n", ""),
            ("[hsm]", "[seal]\nkey_file = \"/k\"\n# a comment\n[hsm]"),
            ("state_dir", "tries = 3\nstate_dir"),
            ("name = \"ca\"\ntoken = \"pkcs11:token=ca\"", "token = \"pkcs11:token=ca\"\nname = \"ca\""),
        ] {
            assert_eq!(protected(&edited(from, to)), protected(FILE), "{to}");
        }
        for (from, to, difference) in [
            ("/m.so", "/evil.so", "[hsm]: module: \"/m.so\" becomes \"/evil.so\""),
            ("state_dir", "tries = 9\nstate_dir", "tries: 3 becomes 9"),
            ("[hsm]", "[cards]\nexclude = [\"x\"]\n[hsm]", "[cards]: exclude: null becomes [\"x\"]"),
            ("state_dir", "security_level = \"cards\"\nstate_dir", "security_level: null becomes \"cards\""),
            ("[hsm]", "[sync]\ndirectory = \"/x\"\nautomatic = true\n[hsm]", "[sync]: automatic: null becomes true"),
            ("[1002]", "[1002, 1001000]", "person bob: uids: [1002] becomes [1002,1001000]"),
            ("[\"approver\"]", "[\"administrator\"]", "person bob: roles: [\"approver\"] becomes [\"administrator\"]"),
            ("\"bob\"", "\"eve\"", "person bob is gone"),
            ("token=ca", "token=cb", "slot ca: token: \"pkcs11:token=ca\" becomes \"pkcs11:token=cb\""),
            ("[\"signer\"]", "[]", "slot ca: applications: [\"signer\"] becomes []"),
            ("/run/signer.pin", "/run/other.pin", "application signer: path: is another one"),
        ] {
            let other = protected(&edited(from, to));
            assert_ne!(digest(&other), digest(&protected(FILE)));
            let found = differences(&protected(FILE), &other);
            assert_eq!(found.first().map(String::as_str), Some(difference), "{found:?}");
        }
        assert_eq!(differences(&protected(FILE), &protected(FILE)), [""; 0]);
    }

    #[test]
    fn what_was_approved_comes_back_with_the_places_of_the_file() {
        let settings = check(FILE).expect("consistent");
        let mut places = Places::of(&settings);
        assert_eq!(approved(&settings.protected, &places).map(|found| found.slots), Ok(settings.slots.clone()));
        places.socket = "/elsewhere".into();
        places.look_interval_s = Some(9);
        let found = approved(&settings.protected, &places).expect("it was consistent");
        assert_eq!((found.socket, found.hsm.look_interval_s), ("/elsewhere".into(), Some(9)));
        assert_eq!((found.protected, found.persons), (settings.protected, settings.persons));
        assert!(approved(b"", &places).is_err());
        assert!(approved(b"{\"hsm\":{\"module\":\"/m\"},\"later\":1}", &places).is_err());
    }

    #[test]
    fn a_broken_file_still_says_where_the_state_is() {
        let dir = tempfile::tempdir().expect("a place for temporary files");
        let path = dir.path().join("slotwarden.toml");
        for (from, to) in [
            ("[hsm]", "[hsm"),
            ("module", "modul"),
            ("[\"administrator\"]", "[]"),
            ("[[slot]]", "\u{7}==="),
            ("[hsm]", "[seal]\nkey_file = \"/k\"\n[hsm]\nmodule = 3"),
        ] {
            fs::write(&path, edited(from, to)).expect("just made");
            let offered = Offered::read(&path);
            assert!(offered.settings.is_err(), "{to}");
            assert_eq!((offered.places.state_dir, offered.places.socket), ("/s".into(), "/c".into()), "{to}");
        }
        assert_eq!(Offered::read(&path).places.seal_key_file, Some("/k".into()));
        fs::write(&path, [0xFF; 100]).expect("just made");
        assert_eq!(Offered::read(&path).places.state_dir, PathBuf::new());
        assert_eq!(Offered::read(Path::new(PATH_DEFAULT)).places.state_dir, Path::new(STATE_DIR_DEFAULT));
    }

    #[test]
    fn two_user_ids_of_one_person_are_not_two_persons() {
        assert!(names_two(&check(FILE).expect("consistent")));
        for (from, to) in [("\"approver\"", "\"operator\""), ("roles = [\"approver\"]", "roles = [\"auditor\"]")] {
            assert!(!names_two(&check(&edited(from, to)).expect("consistent")));
        }
        let (alone, _) = FILE.rsplit_once("[[person]]").expect("two persons");
        let two_uids =
            alone.replace("[1001]", "[1001, 1002]").replace("[\"administrator\"]", "[\"administrator\", \"approver\"]");
        assert!(!names_two(&check(&two_uids).expect("consistent")));
    }
}
