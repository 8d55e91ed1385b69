//! The configuration: one TOML file, read once at start.
//!
//! Unknown keys are problems, since a mistyped one would silently be a default. Nothing
//! secret is in it, and a message about it never repeats a value, which could be a secret
//! in a wrong place (P3). Every problem that can be found is reported at once, each with
//! its remedy. A change takes effect when the daemon starts again; the digest of the text
//! goes into the audit log.

mod application;
mod cards;
mod coverage;
mod file;
mod places;
mod protected;
mod sync;

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};
use slotwarden_core::limits::TRIES_DEFAULT;
use slotwarden_core::person::Roles;

pub use application::{
    Adapter, ApplicationSettings, EjbcaRestSettings, ExecSettings, OnActivate, OnDeactivate, PinFileSettings,
    SystemdSettings, TlsSettings,
};
pub use cards::{CardsSettings, NamePattern, PadSettings, SecurityLevel};
pub use coverage::CoverageSettings;
pub use file::check;
pub use places::check_places;
pub use protected::{Offered, Places, approved, differences, digest, names_two};
pub use sync::{Engine, EtcdSettings, SyncSettings};

use crate::problem::{Own, Problem};
use crate::token_uri::TokenUri;
use file::Problems;

/// Where the configuration is when nobody says otherwise.
pub const PATH_DEFAULT: &str = "/etc/slotwarden/slotwarden.toml";
/// Longest configuration, bytes: 64 slots with everything are under 20 KiB.
pub const TEXT_BYTES_MAX: u64 = 256 * 1024;
/// Longest name of a slot, an application or a person, characters: fits a table's column.
pub const NAME_CHARS_MAX: usize = 64;
/// Most manual tries before each further one needs a confirmation. Tokens that lock do so
/// after 10 (Kryoptic) or fewer, and the confirmation has to come before that.
pub const TRIES_MAX: u8 = 9;
/// Longest interval between looks at the tokens, seconds: a token that is gone for an hour
/// unnoticed is not watched at all.
pub const LOOK_INTERVAL_S_MAX: u64 = 3600;
/// Most readers that are excluded, and most whose pad is described: more than a machine has ports.
pub const READER_NAMES_MAX: usize = 32;
/// Most calls into a module at the same time: more than any HSM we know serves at once.
pub const CALLS_IN_FLIGHT_MAX: u16 = 256;

/// A configuration that was read and found consistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where store, marker and lock are.
    pub state_dir: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// The key that protects the stored codes, when no systemd credential does.
    pub seal_key_file: Option<PathBuf>,
    /// The HSM.
    pub hsm: HsmSettings,
    /// The slots, in the order of the file: the place is the core's `SlotId`.
    pub slots: Vec<SlotSettings>,
    /// The applications: the place is the core's `ApplicationId`.
    pub applications: Vec<ApplicationSettings>,
    /// The persons; the store knows the number of each name. Empty: the daemon's own user is
    /// the only administrator.
    pub persons: Vec<PersonSettings>,
    /// Manual tries in a row before each further one needs a confirmation.
    pub tries: u8,
    /// What backup keys and activations rest on.
    pub security_level: SecurityLevel,
    /// The card readers.
    pub cards: CardsSettings,
    /// When exports do not cover what they should.
    pub coverage: CoverageSettings,
    /// How packages travel by themselves; `None`: by hand only.
    pub sync: Option<SyncSettings>,
    /// SHA-256 of the text.
    pub digest: [u8; 32],
    /// The part that counts only as approved, once dual control is on: see [`digest`].
    pub protected: Vec<u8>,
}

/// The PKCS#11 module.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HsmSettings {
    /// The module's shared library.
    pub module: PathBuf,
    /// Directory of the module's own files, made durable after each change.
    pub settle_dir: Option<PathBuf>,
    /// Seconds between looks at open tokens (10 if absent) and for absent ones (30 if absent).
    pub look_interval_s: Option<u64>,
    /// Calls into a slow module at the same time (64 if absent).
    pub calls_in_flight_max: Option<u16>,
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSettings {
    /// Its name.
    pub name: String,
    /// The token it means.
    pub token: TokenUri,
    /// Places of its applications in [`Settings::applications`].
    pub applications: Vec<usize>,
    /// The longest token PIN that all of them can read, characters. Bounds new codes only.
    pub pin_chars_max: Option<u16>,
    /// The vendor's backup program, where exports are made by it: `export = "vendor"`.
    pub export_program: Option<PathBuf>,
}

/// One person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersonSettings {
    /// Their name.
    pub name: String,
    /// User ids whose processes act for them.
    pub uids: Vec<u32>,
    /// What they may do.
    pub roles: Roles,
}

impl Settings {
    /// Of an appliance without HSM and slots, in a directory of its own: cards are read there, nothing else is done.
    #[must_use]
    pub fn cards_alone(dir: &Path, cards: CardsSettings) -> Self {
        Settings {
            state_dir: dir.to_owned(),
            socket: dir.join("control.sock"),
            seal_key_file: None,
            hsm: HsmSettings {
                module: PathBuf::new(),
                settle_dir: None,
                look_interval_s: None,
                calls_in_flight_max: None,
            },
            slots: Vec::new(),
            applications: Vec::new(),
            persons: Vec::new(),
            tries: TRIES_DEFAULT,
            security_level: SecurityLevel::Cards,
            cards,
            coverage: CoverageSettings::default(),
            sync: None,
            digest: [0; 32],
            protected: Vec::new(),
        }
    }
}

/// Something to correct in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigProblem {
    /// Where: a line, or the name of a slot, application or person.
    pub place: String,
    /// What is so.
    pub sentence: String,
    /// What to write instead.
    pub remedy: String,
}

/// Reads and checks the file.
///
/// # Errors
/// [`Own::ConfigurationUnreadable`], or [`Own::ConfigurationWrong`] with the first problem.
pub fn load(path: &Path) -> Result<Settings, Problem> {
    check(&read(path)?).map_err(|problems| {
        let first = problems.first().map_or_else(String::new, ToString::to_string);
        Own::ConfigurationWrong.with(format!("{}: {first}", path.display()))
    })
}

/// Reads the file's text.
///
/// # Errors
/// [`Own::ConfigurationUnreadable`].
pub fn read(path: &Path) -> Result<String, Problem> {
    let unreadable = |why: String| Own::ConfigurationUnreadable.with(format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut text = String::new();
    file.take(TEXT_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| unreadable(error.to_string()))?;
    if text.len() as u64 > TEXT_BYTES_MAX {
        return Err(unreadable(format!("longer than {TEXT_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Looks at what the configuration names on this machine: the module and its directory.
#[must_use]
pub fn check_machine(settings: &Settings) -> Vec<ConfigProblem> {
    let mut problems = Problems::default();
    let module = &settings.hsm.module;
    let readable = File::open(module).and_then(|file| file.metadata()).map(|found| found.is_file());
    match readable {
        Ok(true) => {}
        Ok(false) => problems.add("[hsm]", format!("{} is not a file", module.display()), "name the module's .so file"),
        Err(error) => problems.add(
            "[hsm]",
            format!("the module {} cannot be read: {error}", module.display()),
            "install the HSM's PKCS#11 module or correct `module`",
        ),
    }
    if let Some(directory) = &settings.hsm.settle_dir
        && !directory.is_dir()
    {
        problems.add(
            "[hsm]",
            format!("{} is not a directory", directory.display()),
            "name the directory of the module's token files, or leave `settle_dir` out",
        );
    }
    for application in &settings.applications {
        let place = format!("application {}", application.name);
        if let Some(group) = application.adapter.pin_file().and_then(|file| file.group.as_ref())
            && group_id(group).is_none()
        {
            problems.add(&place, format!("there is no group {group:?}"), "make the group, or correct `group`");
        }
        check_adapter(&place, &application.adapter, &mut problems);
    }
    for slot in &settings.slots {
        if let Some(program) = &slot.export_program {
            let command = [program.display().to_string()];
            check_program(&format!("slot {}", slot.name), "export_program", &command, &mut problems);
        }
    }
    if let Some(sync) = &settings.sync {
        sync::check_sync_machine(sync, &mut problems);
    }
    problems.0
}

/// The programs and files that an adapter names.
fn check_adapter(place: &str, adapter: &Adapter, problems: &mut Problems) {
    match adapter {
        Adapter::PinFile(_) => {}
        Adapter::Exec(exec) => {
            check_program(place, "command", &exec.command, problems);
            if let Some(user) = &exec.user
                && user_ids(user).is_none()
            {
                problems.add(place, format!("there is no user {user:?}"), "make the user, or correct `user`");
            }
        }
        Adapter::Systemd(unit) => {
            if let Some(command) = &unit.health_command {
                check_program(place, "health_command", command, problems);
            }
        }
        Adapter::EjbcaRest(ejbca) => {
            let Some(tls) = &ejbca.tls else { return };
            let files =
                [("ca_file", &tls.ca_file), ("certificate_file", &tls.certificate_file), ("key_file", &tls.key_file)];
            for (key, path) in files {
                if let Err(error) = File::open(path) {
                    let sentence = format!("`{key}` {} cannot be read: {error}", path.display());
                    problems.add(place, sentence, "name a file in PEM that the daemon's user may read");
                }
            }
        }
    }
}

fn check_program(place: &str, key: &str, command: &[String], problems: &mut Problems) {
    let Some(program) = command.first() else { return };
    let runs = access(program.as_str(), Access::EXEC_OK).is_ok() && Path::new(program).is_file();
    if !runs {
        problems.add(place, format!("`{key}`: {program} is not a program"), "install it, or correct the path");
    }
}

/// The number of a group, given by number or by its name in `/etc/group` (group(5)).
#[must_use]
pub fn group_id(group: &str) -> Option<u32> {
    if let Ok(number) = group.parse() {
        return Some(number);
    }
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != group {
            return None;
        }
        fields.nth(1)?.parse().ok()
    })
}

/// The number of a user, given by number or by its name in `/etc/passwd` (passwd(5)), and
/// of that user's group. A number that stands there for nobody has the group of that number.
#[must_use]
pub fn user_ids(user: &str) -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let known = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let (name, uid, gid) = (fields.first()?, fields.get(2)?, fields.get(3)?);
        if *name != user && *uid != user {
            return None;
        }
        Some((uid.parse().ok()?, gid.parse().ok()?))
    });
    known.or_else(|| user.parse().ok().map(|number| (number, number)))
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}; {}", self.place, self.sentence, self.remedy)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};
    use slotwarden_core::person::Role;

    use super::*;

    const GOOD: &str = r#"
state_dir = "/var/lib/slotwarden"
socket = "/run/slotwarden/control.sock"
tries = 5
[seal]
key_file = "/etc/slotwarden/seal.key"
[hsm]
module = "/usr/lib/softhsm/libsofthsm2.so"
settle_dir = "/var/lib/softhsm/tokens"
[[slot]]
name = "ca-root"
token = "pkcs11:token=ca-root"
applications = ["signer"]
[[slot]]
name = "Übung 2"
token = "pkcs11:token=%C3%9Cbung%202;serial=42"
[[application]]
name = "signer"
adapter = "pin-file"
path = "/run/slotwarden/signer.pin"
group = "signers"
[[person]]
name = "alice"
uids = [1001, 1002]
roles = ["administrator", "auditor"]
"#;

    /// The problems of the good configuration after one edit.
    fn problems_with(from: &str, to: &str) -> Vec<ConfigProblem> {
        assert!(GOOD.contains(from), "the edit must change something");
        check(&GOOD.replacen(from, to, 1)).expect_err("the edit makes it wrong")
    }

    fn the_problem(from: &str, to: &str) -> String {
        let problems = problems_with(from, to);
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].to_string()
    }

    #[test]
    fn unknown_keys_are_named_with_their_line_and_what_is_known() {
        let problem = the_problem("tries = 5", "trys = 5");
        assert!(problem.starts_with("line 4: unknown key `trys`"), "{problem}");
        assert!(problem.contains("tries"), "{problem}");
        for (from, to) in [
            ("settle_dir", "settledir"),
            ("group = ", "grp = "),
            ("roles", "rules"),
            ("token = \"pkcs11:token=ca-root\"", "token = \"pkcs11:token=ca-root\"\nslot = 1"),
            ("key_file", "key"),
        ] {
            assert!(the_problem(from, to).contains("unknown key"), "{to}");
        }
    }

    #[test]
    fn p03_a_secret_in_a_wrong_place_is_not_repeated() {
        for (from, to) in [
            ("tries = 5", "tries = \"hunter2-hunter2\""),
            ("tries = 5", "pin = \"hunter2-hunter2\""),
            ("tries = 5", "pin = hunter2-hunter2"),
            ("uids = [1001, 1002]", "uids = \"hunter2-hunter2\""),
            ("adapter = \"pin-file\"", "adapter = \"hunter2-hunter2\""),
            ("roles = [\"administrator\", \"auditor\"]", "roles = [\"hunter2-hunter2\"]"),
            ("pkcs11:token=ca-root", "pkcs11:token=ca-root?pin-value=hunter2-hunter2"),
            ("state_dir", "hunter2-hunter2\nstate_dir"),
        ] {
            for problem in problems_with(from, to) {
                assert!(!problem.to_string().contains("hunter2"), "{problem}");
            }
        }
    }

    #[test]
    fn two_slots_with_one_token_are_refused() {
        let problem = the_problem("pkcs11:token=%C3%9Cbung%202;serial=42", "pkcs11:token=ca-root;serial=42");
        assert!(problem.contains("slot ca-root means the same token"), "{problem}");
    }

    #[test]
    fn names_that_stand_twice_or_are_empty_are_refused() {
        assert!(the_problem("name = \"Übung 2\"", "name = \"ca-root\"").contains("stands twice"));
        assert!(the_problem("name = \"Übung 2\"", "name = \"\"").contains("a name is empty"));
        assert!(the_problem("name = \"alice\"", "name = \"al\\u0007ice\"").contains("control characters"));
        assert!(the_problem("name = \"Übung 2\"", "name = \"pkcs11:token=x\"").contains("pkcs11:"));
    }

    #[test]
    fn applications_that_are_unknown_or_bound_twice_are_refused() {
        assert!(the_problem("[\"signer\"]", "[\"singer\"]").contains("\"singer\" is not configured"));
        assert!(the_problem("[\"signer\"]", "[\"signer\", \"signer\"]").contains("bound twice"));
        let twice = format!(
            "{GOOD}[[application]]\nname = \"b\"\nadapter = \"pin-file\"\npath = \"/run/slotwarden/signer.pin\"\n"
        );
        assert!(check(&twice).expect_err("one path for two")[0].sentence.contains("same path"));
        assert!(the_problem("adapter = \"pin-file\"", "adapter = \"telepathy\"").contains("pin-file"));
    }

    #[test]
    fn a_person_without_roles_or_user_id_is_refused() {
        let problems = problems_with("roles = [\"administrator\", \"auditor\"]", "roles = []");
        assert!(problems[0].sentence.contains("no roles"), "{problems:?}");
        assert!(problems[0].remedy.contains("operator"));
        assert!(the_problem("uids = [1001, 1002]", "uids = []").contains("no user id"));
        assert!(the_problem("uids = [1001, 1002]", "uids = [1001, 1001]").contains("stands twice"));
        assert!(the_problem("\"administrator\", ", "").contains("nobody is an administrator"));
        assert!(the_problem("\"administrator\", ", "\"boss\", ").contains("administrator"));
    }

    #[test]
    fn more_than_is_served_is_refused() {
        let many = |what: &str, count: usize, body: &dyn Fn(usize) -> String| {
            let added: String =
                (0..count).map(|number| format!("[[{what}]]\nname = \"n{number}\"\n{}\n", body(number))).collect();
            check(&format!("{GOOD}{added}")).expect_err("too many")[0].to_string()
        };
        assert!(many("slot", 63, &|n| format!("token = \"pkcs11:token=t{n}\"")).contains("at most 64"));
        assert!(many("person", 32, &|n| format!("uids = [{n}]\nroles = [\"operator\"]")).contains("at most 32"));
        assert!(
            many("application", 64, &|n| format!("adapter = \"pin-file\"\npath = \"/run/{n}\"")).contains("at most 64")
        );
        assert!(the_problem("tries = 5", "tries = 0").contains("out of range"));
        assert!(the_problem("tries = 5", "tries = 10").contains("out of range"));
        assert!(the_problem("tries = 5", "tries = 300").contains("wrong form"));
        for seconds in [0, 3601] {
            let to = format!("[hsm]\nlook_interval_s = {seconds}");
            assert!(the_problem("[hsm]", &to).contains("out of range"));
        }
    }

    #[test]
    fn a_vendors_program_is_named_by_its_path_and_told_which_token_it_is() {
        let text = |token: &str, more: &str| {
            let slot = format!("[[slot]]\nname = \"ca\"\ntoken = \"pkcs11:{token}\"\n{more}");
            format!("state_dir = \"/s\"\nsocket = \"/r/c\"\n[hsm]\nmodule = \"/m.so\"\n{slot}\n")
        };
        let both = "token=ca;serial=0123";
        let vendor = "export = \"vendor\"\nexport_program = \"/opt/hsm/backup\"";
        for (token, more, wanted) in [
            (both, "export = \"vendor\"", "a key is missing: `export_program`"),
            (both, "export_program = \"/opt/hsm/backup\"", "no key of export = \"kwp\""),
            (both, "export = \"kwp\"\nexport_program = \"/opt/hsm/backup\"", "no key of export = \"kwp\""),
            (both, "export = \"vendor\"\nexport_program = \"backup\"", "not an absolute path"),
            (both, "export = \"copy\"", "line"),
            ("token=ca", vendor, "does not say label and serial"),
            ("serial=0123", vendor, "does not say label and serial"),
        ] {
            let problems = check(&text(token, more)).expect_err(more);
            assert!(problems.len() == 1 && problems[0].to_string().contains(wanted), "{more}: {problems:?}");
        }
        let program = |more: &str| check(&text(both, more)).expect("in order").slots[0].export_program.clone();
        assert_eq!(program(vendor), Some(PathBuf::from("/opt/hsm/backup")));
        assert_eq!(program("export = \"kwp\""), None);
        let settings = check(&text(both, vendor)).expect("in order");
        let missing = check_machine(&settings).iter().any(|found| found.to_string().contains("/opt/hsm/backup is not"));
        assert!(missing, "said at the start, before anybody needs it");
    }

    #[test]
    fn a_bound_on_codes_that_no_code_meets_is_refused() {
        let text = |chars: u16| {
            let slot = "[[slot]]\nname = \"ca\"\ntoken = \"pkcs11:token=ca\"";
            format!(
                "state_dir = \"/s\"\nsocket = \"/r/c\"\n[hsm]\nmodule = \"/m.so\"\n{slot}\npin_chars_max = {chars}\n"
            )
        };
        for chars in [0, 7, 65] {
            let problems = check(&text(chars)).expect_err("no code has so many characters");
            assert_eq!((problems.len(), problems[0].place.as_str()), (1, "slot ca"));
        }
        assert_eq!(check(&text(31)).expect("in range").slots[0].pin_chars_max, Some(31));
    }

    #[test]
    fn relative_paths_and_slot_numbers_are_refused() {
        assert!(the_problem("\"/var/lib/slotwarden\"", "\"state\"").contains("absolute"));
        assert!(the_problem("\"/run/slotwarden/control.sock\"", "\"x.sock\"").contains("absolute"));
        assert!(the_problem("pkcs11:token=ca-root", "pkcs11:slot-id=3").contains("slot numbers change"));
    }

    #[test]
    fn all_problems_come_at_once() {
        let text = GOOD
            .replace("tries = 5", "tries = 0")
            .replace("[\"signer\"]", "[\"singer\"]")
            .replace("[1001, 1002]", "[]");
        assert_eq!(check(&text).expect_err("three problems").len(), 3);
    }

    #[test]
    fn an_empty_file_and_one_without_slots_are_refused() {
        assert!(check("").expect_err("empty")[0].sentence.contains("a key is missing: `state_dir`"));
        let without = "state_dir = \"/s\"\nsocket = \"/c\"\n[hsm]\nmodule = \"/m\"\n";
        assert!(check(without).expect_err("no slots")[0].sentence.contains("no slot"));
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        let mut settings = check(GOOD).expect("consistent");
        settings.hsm.module = "/nowhere/module.so".into();
        settings.hsm.settle_dir = Some("/nowhere".into());
        let problems = check_machine(&settings);
        assert_eq!(problems.len(), 3);
        assert!(problems[0].sentence.contains("/nowhere/module.so"), "{problems:?}");
        assert!(problems[2].sentence.contains("no group \"signers\""), "{problems:?}");
        assert_eq!(group_id("root"), Some(0));
        assert_eq!(group_id("1234"), Some(1234));
    }

    #[test]
    fn a_configuration_that_is_not_there_is_refused_with_its_path() {
        let problem = load(Path::new("/nowhere/slotwarden.toml")).expect_err("not there");
        assert!(problem.to_string().contains("/nowhere/slotwarden.toml"));
    }

    #[test]
    fn the_example_of_the_design_is_read_as_written() {
        let settings = check(GOOD).expect("consistent");
        assert_eq!(settings.slots[0].applications, [0]);
        assert_eq!(settings.slots[1].token.label.as_deref(), Some("Übung 2"));
        assert_eq!(settings.persons[0].uids, [1001, 1002]);
        assert!(settings.persons[0].roles.has(Role::Auditor) && !settings.persons[0].roles.has(Role::Operator));
        assert_eq!(settings.tries, 5);
        assert_eq!(settings.digest, <[u8; 32]>::from(Sha256::digest(GOOD)));
    }

    proptest! {
        #[test]
        fn p42_no_text_makes_the_reader_panic(at in 0..GOOD.len(), noise in ".{0,12}") {
            let mut at = at;
            while !GOOD.is_char_boundary(at) { at -= 1; }
            let _ = check(&format!("{}{noise}{}", &GOOD[..at], &GOOD[at..]));
            let _ = check(&GOOD[..at]);
        }
    }
}
