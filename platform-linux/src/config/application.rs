//! `[[application]]`: which adapter serves it, and what that adapter needs to know.
//!
//! One table with the keys of all adapters; a key of another adapter is a problem, as an
//! unknown one is. Addresses are checked for what would carry a token PIN over a network in
//! the clear, and are never repeated in a message: a password can stand in an address.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use slotwarden_core::limits::{APPLICATION_DEADLINE_MS, APPLICATIONS_MAX};

use super::file::Problems;

/// Longest time that an adapter may be given for one order, seconds. The core gives up
/// waiting after 30 s ([`APPLICATION_DEADLINE_MS`]); an adapter says before that what it
/// waited for.
const TIMEOUT_S_MAX: u64 = 25;
const _: () = assert!(TIMEOUT_S_MAX * 1000 < APPLICATION_DEADLINE_MS);
/// Time for one order when the configuration does not say, seconds.
const TIMEOUT_S_DEFAULT: u64 = 20;
/// How long a unit has to stay active when the configuration does not say, seconds: a
/// service that cannot log in mostly ends at once.
const HEALTHY_S_DEFAULT: u64 = 2;
/// Where systemd listens (`sd_bus_default_system(3)`).
const BUS_DEFAULT: &str = "unix:path=/run/dbus/system_bus_socket";

/// One application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplicationSettings {
    /// Its name.
    pub name: String,
    /// How it is served.
    pub adapter: Adapter,
}

/// The adapters there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adapter {
    /// A file for the `pin-source` of RFC 7512.
    PinFile(PinFileSettings),
    /// A program that is given the token PIN.
    Exec(ExecSettings),
    /// A unit that systemd restarts, with a file or without.
    Systemd(SystemdSettings),
    /// A crypto token of EJBCA Enterprise.
    EjbcaRest(EjbcaRestSettings),
}

/// A hand-over file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinFileSettings {
    /// Where it appears.
    pub path: PathBuf,
    /// The group that may read it; the daemon's own when absent.
    pub group: Option<String>,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecSettings {
    /// Its absolute path, then its arguments.
    pub command: Vec<String>,
    /// The user it runs as; the daemon's own when absent.
    pub user: Option<String>,
    /// Time for one run.
    pub timeout: Duration,
}

/// A unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemdSettings {
    /// Its name, with suffix.
    pub unit: String,
    /// The hand-over file that is written before, and removed before.
    pub pin_file: Option<PinFileSettings>,
    /// What is asked for when the slot is active.
    pub on_activate: OnActivate,
    /// What is asked for when it no longer is.
    pub on_deactivate: OnDeactivate,
    /// How long the unit has to stay active before it counts as healthy.
    pub healthy: Duration,
    /// An address on this machine that answers 200 when the application is healthy.
    pub health_url: Option<String>,
    /// A program that exits 0 when it is.
    pub health_command: Option<Vec<String>>,
    /// The D-Bus address of the service manager.
    pub bus: String,
    /// Time for one order, with everything.
    pub timeout: Duration,
}

/// What is done with a unit when its slot is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnActivate {
    /// Started, or stopped and started.
    Restart,
    /// Started, unless it runs.
    Start,
    /// Nothing; its health is looked at all the same.
    None,
}

/// What is done with a unit when its slot is no longer active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDeactivate {
    /// Stopped.
    Stop,
    /// Stopped and started, so that it runs without the token PIN.
    Restart,
    /// Nothing: the file is gone, and the unit does what it does.
    None,
}

/// A crypto token of EJBCA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EjbcaRestSettings {
    /// Address of the REST interface, without a slash at its end.
    pub base_url: String,
    /// Name of the crypto token there.
    pub crypto_token: String,
    /// EJBCA's health check, which is not well while the crypto token is offline.
    pub health_url: String,
    /// Who we are, and whom we believe; none over plain HTTP on this machine.
    pub tls: Option<TlsSettings>,
    /// Time for one order.
    pub timeout: Duration,
}

/// Files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Certificates of the authorities whose servers are believed.
    pub ca_file: PathBuf,
    /// Our certificate, and those between it and its authority.
    pub certificate_file: PathBuf,
    /// Our private key.
    pub key_file: PathBuf,
}

impl Adapter {
    /// The hand-over file, if it has one.
    #[must_use]
    pub const fn pin_file(&self) -> Option<&PinFileSettings> {
        match self {
            Adapter::PinFile(file) => Some(file),
            Adapter::Systemd(unit) => unit.pin_file.as_ref(),
            Adapter::Exec(_) | Adapter::EjbcaRest(_) => None,
        }
    }
}

/// The table as serde sees it: the keys of all adapters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplicationTable {
    name: String,
    adapter: AdapterWord,
    path: Option<PathBuf>,
    group: Option<String>,
    command: Option<Vec<String>>,
    user: Option<String>,
    unit: Option<String>,
    on_activate: Option<OnActivate>,
    on_deactivate: Option<OnDeactivate>,
    healthy_s: Option<u64>,
    health_url: Option<String>,
    health_command: Option<Vec<String>>,
    bus: Option<String>,
    base_url: Option<String>,
    crypto_token: Option<String>,
    ca_file: Option<PathBuf>,
    certificate_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    timeout_s: Option<u64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum AdapterWord {
    PinFile,
    Exec,
    Systemd,
    EjbcaRest,
}

impl AdapterWord {
    const fn word(self) -> &'static str {
        match self {
            AdapterWord::PinFile => "pin-file",
            AdapterWord::Exec => "exec",
            AdapterWord::Systemd => "systemd",
            AdapterWord::EjbcaRest => "ejbca-rest",
        }
    }

    const fn keys(self) -> &'static [&'static str] {
        match self {
            AdapterWord::PinFile => &["path", "group"],
            AdapterWord::Exec => &["command", "user", "timeout_s"],
            AdapterWord::Systemd => &[
                "unit",
                "path",
                "group",
                "on_activate",
                "on_deactivate",
                "healthy_s",
                "health_url",
                "health_command",
                "bus",
                "timeout_s",
            ],
            AdapterWord::EjbcaRest => {
                &["base_url", "crypto_token", "health_url", "ca_file", "certificate_file", "key_file", "timeout_s"]
            }
        }
    }

    /// Whether this program can serve it: the simulator is built without most of them.
    const fn is_built_in(self) -> bool {
        match self {
            AdapterWord::PinFile | AdapterWord::Exec => true,
            AdapterWord::Systemd => cfg!(feature = "systemd"),
            AdapterWord::EjbcaRest => cfg!(feature = "http"),
        }
    }
}

/// Checks all of them; the answer has one for each table that could be read, in order.
pub(super) fn check_applications(tables: Vec<ApplicationTable>, problems: &mut Problems) -> Vec<ApplicationSettings> {
    problems.at_most("application", tables.len(), APPLICATIONS_MAX);
    problems.names("application", tables.iter().map(|table| &table.name));
    let mut paths = HashSet::new();
    let mut checked = Vec::with_capacity(tables.len());
    for table in tables {
        let place = format!("application {}", table.name);
        if let Some(path) = &table.path
            && !paths.insert(path.clone())
        {
            problems.add(&place, "another application has the same path", "give each a hand-over file of its own");
        }
        let name = table.name.clone();
        // A table that lacks something is left out; its problem stops the daemon anyway.
        if let Some(adapter) = (Check { place: &place, problems }).adapter(table) {
            checked.push(ApplicationSettings { name, adapter });
        }
    }
    checked
}

/// Checks one table.
struct Check<'p> {
    place: &'p str,
    problems: &'p mut Problems,
}

impl Check<'_> {
    fn adapter(&mut self, table: ApplicationTable) -> Option<Adapter> {
        let word = table.adapter;
        for key in table.given() {
            if !word.keys().contains(&key) {
                self.add(
                    format!("`{key}` is no key of the adapter {}", word.word()),
                    format!("remove it; {}", known(word)),
                );
            }
        }
        if !word.is_built_in() {
            self.add(format!("this program is built without the adapter {}", word.word()), "build it with its feature");
            return None;
        }
        let timeout = self.seconds("timeout_s", table.timeout_s, TIMEOUT_S_DEFAULT, 1..=TIMEOUT_S_MAX);
        match word {
            AdapterWord::PinFile => {
                let path = self.needed("path", word, table.path)?;
                Some(Adapter::PinFile(self.pin_file(path, table.group)))
            }
            AdapterWord::Exec => {
                let command = self.needed("command", word, table.command)?;
                self.program("command", &command);
                Some(Adapter::Exec(ExecSettings { command, user: table.user, timeout }))
            }
            AdapterWord::Systemd => self.systemd(table, timeout),
            AdapterWord::EjbcaRest => self.ejbca_rest(table, timeout),
        }
    }

    fn systemd(&mut self, table: ApplicationTable, timeout: Duration) -> Option<Adapter> {
        let unit = self.needed("unit", table.adapter, table.unit)?;
        // Characters of unit names (systemd.unit(5)), and the suffix that the manager wants.
        let odd = |character: char| !(character.is_ascii_alphanumeric() || ":-_.\\@".contains(character));
        if unit.contains(odd) || !unit.trim_start_matches('.').contains('.') {
            self.add("`unit` is no name of a unit", "write it with its suffix, like \"ejbca.service\"");
        }
        if table.path.is_none() && table.group.is_some() {
            self.add("`group` is given without `path`", "add the hand-over file, or remove `group`");
        }
        let pin_file = table.path.map(|path| self.pin_file(path, table.group));
        let healthy = self.seconds("healthy_s", table.healthy_s, HEALTHY_S_DEFAULT, 0..=TIMEOUT_S_MAX);
        if healthy >= timeout {
            self.add("`healthy_s` is not under `timeout_s`", "leave time for the restart itself");
        }
        if let Some(url) = &table.health_url
            && self.address("health_url", url) == Some(true)
        {
            self.add(
                "`health_url` is not plain HTTP",
                "write http:// and an address on this machine, or use `health_command`",
            );
        }
        if let Some(command) = &table.health_command {
            self.program("health_command", command);
        }
        let bus = table.bus.unwrap_or_else(|| BUS_DEFAULT.to_owned());
        if !bus.starts_with("unix:") {
            self.add("`bus` is no Unix socket", "write it like \"unix:path=/run/dbus/system_bus_socket\"");
        }
        Some(Adapter::Systemd(SystemdSettings {
            unit,
            pin_file,
            on_activate: table.on_activate.unwrap_or(OnActivate::Restart),
            on_deactivate: table.on_deactivate.unwrap_or(OnDeactivate::Stop),
            healthy,
            health_url: table.health_url,
            health_command: table.health_command,
            bus,
            timeout,
        }))
    }

    fn ejbca_rest(&mut self, table: ApplicationTable, timeout: Duration) -> Option<Adapter> {
        let word = table.adapter;
        let base_url = self.needed("base_url", word, table.base_url);
        let crypto_token = self.needed("crypto_token", word, table.crypto_token);
        let health_url = self.needed("health_url", word, table.health_url);
        let (base_url, crypto_token, health_url) = (base_url?, crypto_token?, health_url?);
        if crypto_token.is_empty() || crypto_token.contains(['/', '\\']) || crypto_token.starts_with('.') {
            self.add("`crypto_token` cannot be a part of an address", "write its name as EJBCA shows it");
        }
        let encrypted = [self.address("base_url", &base_url), self.address("health_url", &health_url)];
        let tls = match (table.ca_file, table.certificate_file, table.key_file) {
            (Some(ca_file), Some(certificate_file), Some(key_file)) => {
                for (key, path) in
                    [("ca_file", &ca_file), ("certificate_file", &certificate_file), ("key_file", &key_file)]
                {
                    self.absolute(key, path);
                }
                Some(TlsSettings { ca_file, certificate_file, key_file })
            }
            (None, None, None) if !encrypted.contains(&Some(true)) => None,
            _ => {
                self.add(
                    "`ca_file`, `certificate_file` and `key_file` belong together, and https:// needs them",
                    "name all three files, in PEM",
                );
                None
            }
        };
        let base_url = base_url.trim_end_matches('/').to_owned();
        Some(Adapter::EjbcaRest(EjbcaRestSettings { base_url, crypto_token, health_url, tls, timeout }))
    }

    fn pin_file(&mut self, path: PathBuf, group: Option<String>) -> PinFileSettings {
        self.absolute("path", &path);
        PinFileSettings { path, group }
    }

    fn absolute(&mut self, key: &str, path: &Path) {
        if !path.is_absolute() {
            self.add(format!("`{key}` is not an absolute path"), "begin it with a slash");
        }
    }

    /// A list of arguments, the first of them an absolute path: no shell and no search.
    fn program(&mut self, key: &str, command: &[String]) {
        match command.first() {
            None => self.add(format!("`{key}` is empty"), "write [\"/path/of/the/program\", \"an argument\"]"),
            Some(program) => self.absolute(key, Path::new(program)),
        }
        if command.iter().any(|argument| argument.contains('\0')) {
            self.add(format!("`{key}` holds a NUL"), "remove it");
        }
    }

    /// Whether the address is an encrypted one; `None` if it is not usable.
    fn address(&mut self, key: &str, url: &str) -> Option<bool> {
        let (encrypted, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => {
                self.add(format!("`{key}` begins neither with https:// nor with http://"), "write the whole address");
                return None;
            }
        };
        let server = rest.split(['/', '?']).next().unwrap_or_default();
        if server.is_empty()
            || server.contains('@')
            || !url.bytes().all(|byte| byte.is_ascii_graphic())
            || url.contains('#')
        {
            self.add(
                format!("`{key}` is no address, or holds a user name, a password, a blank or a fragment"),
                "write it like \"https://ejbca.example:8443/ejbca/ejbca-rest-api\"",
            );
            return None;
        }
        if !encrypted && !is_this_machine(server) {
            self.add(
                format!("`{key}` is plain HTTP to another machine"),
                "write https://, or an address on this machine",
            );
            return None;
        }
        Some(encrypted)
    }

    fn seconds(
        &mut self,
        key: &str,
        given: Option<u64>,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Duration {
        let seconds = given.unwrap_or(default);
        if !range.contains(&seconds) {
            let remedy = format!("write {} to {}, or leave it out", range.start(), range.end());
            self.add(format!("`{key}` is out of range"), remedy);
        }
        Duration::from_secs(seconds)
    }

    fn needed<T>(&mut self, key: &str, word: AdapterWord, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.add(format!("a key is missing: `{key}`"), format!("add it; {}", known(word)));
        }
        value
    }

    fn add(&mut self, sentence: impl Into<String>, remedy: impl Into<String>) {
        self.problems.add(self.place, sentence, remedy);
    }
}

impl ApplicationTable {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Which keys beside name and adapter are there.
    fn given(&self) -> Vec<&'static str> {
        let all = [
            ("path", self.path.is_some()),
            ("group", self.group.is_some()),
            ("command", self.command.is_some()),
            ("user", self.user.is_some()),
            ("unit", self.unit.is_some()),
            ("on_activate", self.on_activate.is_some()),
            ("on_deactivate", self.on_deactivate.is_some()),
            ("healthy_s", self.healthy_s.is_some()),
            ("health_url", self.health_url.is_some()),
            ("health_command", self.health_command.is_some()),
            ("bus", self.bus.is_some()),
            ("base_url", self.base_url.is_some()),
            ("crypto_token", self.crypto_token.is_some()),
            ("ca_file", self.ca_file.is_some()),
            ("certificate_file", self.certificate_file.is_some()),
            ("key_file", self.key_file.is_some()),
            ("timeout_s", self.timeout_s.is_some()),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect()
    }
}

/// `host`, `host:port` or `[address]:port` of this machine's own loopback.
fn is_this_machine(server: &str) -> bool {
    let host = match server.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => server.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn known(word: AdapterWord) -> String {
    format!("its keys are {}", word.keys().join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::check;

    fn problems(application: &str) -> Vec<String> {
        let text = format!(
            "state_dir = \"/s\"\nsocket = \"/c\"\n[hsm]\nmodule = \"/m\"\n[[slot]]\nname = \"a\"\n\
             token = \"pkcs11:token=a\"\napplications = [\"app\"]\n[[application]]\nname = \"app\"\n{application}"
        );
        check(&text).map_or_else(|problems| problems.iter().map(ToString::to_string).collect(), |_| Vec::new())
    }

    #[track_caller]
    fn the_problem(application: &str) -> String {
        let found = problems(application);
        assert_eq!(found.len(), 1, "{application}: {found:?}");
        assert!(found[0].starts_with("application app: "), "{found:?}");
        found[0].clone()
    }

    const EXEC: &str = "adapter = \"exec\"\ncommand = [\"/bin/true\", \"now\"]\n";
    const SYSTEMD: &str = "adapter = \"systemd\"\nunit = \"ejbca.service\"\n";
    const EJBCA: &str = "adapter = \"ejbca-rest\"\nbase_url = \"http://127.0.0.1:8080/rest/\"\n\
                         crypto_token = \"root\"\nhealth_url = \"http://localhost:8080/health\"\n";

    #[test]
    fn keys_of_another_adapter_and_missing_ones_are_named() {
        assert!(the_problem(&format!("{EXEC}path = \"/run/a\"")).contains("`path` is no key of the adapter exec"));
        assert!(the_problem(&format!("{EXEC}unit = \"a.service\"")).contains("`unit`"));
        assert!(the_problem("adapter = \"pin-file\"\npath = \"/run/a\"\ntimeout_s = 3").contains("`timeout_s`"));
        assert!(the_problem("adapter = \"pin-file\"").contains("a key is missing: `path`"));
        assert!(the_problem("adapter = \"exec\"").contains("a key is missing: `command`"));
        assert!(the_problem("adapter = \"systemd\"").contains("a key is missing: `unit`"));
        let missing = problems("adapter = \"ejbca-rest\"");
        assert_eq!(missing.len(), 3, "{missing:?}");
        assert!(missing[1].contains("`crypto_token`"), "{missing:?}");
    }

    #[test]
    fn programs_are_named_by_absolute_paths_without_a_shell() {
        assert!(the_problem("adapter = \"exec\"\ncommand = []").contains("`command` is empty"));
        assert!(the_problem("adapter = \"exec\"\ncommand = [\"true\"]").contains("`command` is not an absolute path"));
        assert!(problems("adapter = \"exec\"\ncommand = \"/bin/true now\"")[0].contains("wrong form"));
        assert!(the_problem(&format!("{SYSTEMD}health_command = [\"curl\"]")).contains("`health_command`"));
    }

    #[test]
    fn times_beyond_the_cores_deadline_are_refused() {
        for seconds in [0, 26] {
            assert!(the_problem(&format!("{EXEC}timeout_s = {seconds}")).contains("`timeout_s` is out of range"));
        }
        assert!(the_problem(&format!("{SYSTEMD}timeout_s = 2")).contains("`healthy_s` is not under `timeout_s`"));
        assert!(the_problem(&format!("{SYSTEMD}healthy_s = 20")).contains("`healthy_s`"));
    }

    #[test]
    fn units_and_buses_are_checked() {
        for unit in ["ejbca", "a b.service", "../a.service", ""] {
            let text = SYSTEMD.replace("ejbca.service", unit);
            assert!(the_problem(&text).contains("`unit` is no name of a unit"), "{unit}");
        }
        assert!(the_problem(&format!("{SYSTEMD}bus = \"tcp:host=other\"")).contains("`bus`"));
        assert!(the_problem(&format!("{SYSTEMD}group = \"g\"")).contains("`group` is given without `path`"));
        assert!(the_problem(&format!("{SYSTEMD}path = \"run/a\"")).contains("`path` is not an absolute path"));
        assert!(problems(&format!("{SYSTEMD}on_activate = \"stop\""))[0].contains("restart"));
    }

    #[test]
    fn p03_a_pin_goes_over_no_network_in_the_clear_and_no_address_is_repeated() {
        let with = |from: &str, to: &str| the_problem(&EJBCA.replace(from, to));
        assert!(
            with("http://127.0.0.1:8080/rest/", "http://ca.example/rest").contains("plain HTTP to another machine")
        );
        assert!(with("http://127.0.0.1:8080/rest/", "http://127.0.0.1.example/rest").contains("another machine"));
        assert!(with("http://localhost:8080/health", "http://10.0.0.1/health").contains("`health_url` is plain HTTP"));
        assert!(with("http://127.0.0.1:8080/rest/", "https://ca.example/rest").contains("`ca_file`"));
        assert!(with("http://127.0.0.1:8080/rest/", "ftp://ca.example").contains("`base_url` begins neither"));
        for hidden in ["http://user:hunter2@127.0.0.1/", "http://127.0.0.1/hunter2#", "hunter2"] {
            assert!(!with("http://127.0.0.1:8080/rest/", hidden).contains("hunter2"), "{hidden}");
        }
        assert!(with("\"root\"", "\"a/b\"").contains("`crypto_token`"));
        assert!(the_problem(&format!("{SYSTEMD}health_url = \"https://127.0.0.1/\"")).contains("not plain HTTP"));
        assert!(the_problem(&format!("{SYSTEMD}health_url = \"http://other/\"")).contains("another machine"));
    }

    #[test]
    fn what_is_right_is_taken_with_its_defaults() {
        for text in [EXEC, SYSTEMD, EJBCA] {
            assert_eq!(problems(text), [""; 0], "{text}");
        }
        let files = "ca_file = \"/a\"\ncertificate_file = \"/b\"\nkey_file = \"/c\"\n";
        let encrypted = EJBCA.replace("http://127.0.0.1:8080", "https://ca.example:8443");
        assert_eq!(problems(&format!("{encrypted}{files}")), [""; 0]);
        assert_eq!(problems(&EJBCA.replace("127.0.0.1:8080", "[::1]:8080")), [""; 0]);
        let everything = "path = \"/run/a.pin\"\ngroup = \"g\"\non_activate = \"start\"\non_deactivate = \"restart\"\n\
                          healthy_s = 0\nhealth_url = \"http://[::1]:80/\"\nhealth_command = [\"/bin/true\"]\n\
                          bus = \"unix:path=/run/bus\"\ntimeout_s = 25\n";
        assert_eq!(problems(&format!("{SYSTEMD}{everything}")), [""; 0]);
    }
}
