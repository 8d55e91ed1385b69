//! `[sync]`: how packages travel between the members of a cluster by themselves, and what happens
//! with them.
//!
//! ```toml
//! [sync]
//! name = "node-1"                          # what this node wants to be called; its host name when absent
//! directory = "/srv/slotwarden-exchange"   # or:
//! etcd = ["https://etcd-1:2379", "https://etcd-2:2379"]
//! etcd_ca_file = "/etc/slotwarden/etcd-ca.pem"
//! etcd_certificate_file = "/etc/slotwarden/etcd.pem"
//! etcd_key_file = "/etc/slotwarden/etcd.key"
//! automatic = true                         # packages are made and taken without a person
//! interval_s = 30                          # between two looks, beside being told of changes
//! ```
//!
//! Without `directory` and `etcd` packages travel by hand. All of it is protected under dual control: what is
//! done without a person was decided by two. A user name or password for etcd is none of it, since
//! nothing secret is in the file; etcd knows its users by their certificates.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, access};
use serde::Deserialize;
use slotwarden_core::join::{NAME_CHARS_MAX, is_name};

use super::file::Problems;

/// Between two looks when nothing is written, seconds: watches tell sooner.
const INTERVAL_S_DEFAULT: u64 = 30;
/// Longest interval, seconds: what a watch missed is found within an hour.
const INTERVAL_S_MAX: u64 = 3600;
/// Most endpoints of one etcd: more than any has members.
const ENDPOINTS_MAX: usize = 16;

/// The node in its cluster, and how packages travel by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncSettings {
    /// What this node wants to be called; `None`: as its host is.
    pub name: Option<String>,
    /// What carries packages; `None`: people do.
    pub engine: Option<Engine>,
    /// Whether packages are made and taken without a person.
    pub automatic: bool,
    /// Between two looks.
    pub interval: Duration,
}

/// What carries packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// A directory that the members share.
    Directory(PathBuf),
    /// An etcd. In a program that was built without it this is a problem of the configuration.
    Etcd(EtcdSettings),
}

/// How etcd is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdSettings {
    /// `http://host:2379` or `https://…`, of one or several members of one etcd.
    pub endpoints: Vec<String>,
    /// Who may have issued the servers' certificates (PEM).
    pub ca_file: Option<PathBuf>,
    /// Our certificate and its key (PEM), where the servers want one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The table as serde sees it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SyncTable {
    name: Option<String>,
    directory: Option<PathBuf>,
    etcd: Option<Vec<String>>,
    etcd_ca_file: Option<PathBuf>,
    etcd_certificate_file: Option<PathBuf>,
    etcd_key_file: Option<PathBuf>,
    automatic: Option<bool>,
    interval_s: Option<u64>,
}

/// Checks the table; `None` where it is not usable.
pub(super) fn check_sync(table: SyncTable, problems: &mut Problems) -> Option<SyncSettings> {
    let interval_s = table.interval_s.unwrap_or(INTERVAL_S_DEFAULT);
    if !(1..=INTERVAL_S_MAX).contains(&interval_s) {
        let remedy = format!("write 1 to {INTERVAL_S_MAX}, or leave it out");
        problems.add("[sync]", "`interval_s` is out of range", remedy);
    }
    let of_etcd = [&table.etcd_ca_file, &table.etcd_certificate_file, &table.etcd_key_file];
    of_etcd.into_iter().flatten().for_each(|path| problems.absolute("[sync]", path));
    if table.etcd.is_none() && of_etcd.into_iter().any(Option::is_some) {
        problems.add("[sync]", "files for etcd are named, and etcd is not", "add `etcd`, or remove them");
    }
    let identity = match (table.etcd_certificate_file, table.etcd_key_file) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            let sentence = "of `etcd_certificate_file` and `etcd_key_file` only one is there";
            problems.add("[sync]", sentence, "name both, or none where etcd wants no certificate of ours");
            None
        }
    };
    let engine = match (table.directory, table.etcd) {
        (Some(directory), None) => {
            problems.absolute("[sync]", &directory);
            Some(Engine::Directory(directory))
        }
        (None, Some(endpoints)) => {
            let settings = EtcdSettings { endpoints, ca_file: table.etcd_ca_file, identity };
            check_etcd(&settings, problems);
            Some(Engine::Etcd(settings))
        }
        (Some(_), Some(_)) => {
            problems.add("[sync]", "both `directory` and `etcd` are named", "keep one: packages travel one way");
            return None;
        }
        (None, None) => {
            if table.automatic.is_some() || table.interval_s.is_some() {
                let remedy = "name one of them, or leave `automatic` and `interval_s` out: packages travel by hand";
                problems.add("[sync]", "neither `directory` nor `etcd` is named", remedy);
            }
            None
        }
    };
    if table.name.as_deref().is_some_and(|name| !is_name(name)) {
        let remedy = format!("write 1 to {NAME_CHARS_MAX} letters, digits, dots, hyphens or underscores");
        problems.add("[sync]", "`name` is no name of a node", remedy);
    }
    let automatic = table.automatic.unwrap_or(false);
    Some(SyncSettings { name: table.name, engine, automatic, interval: Duration::from_secs(interval_s) })
}

fn check_etcd(settings: &EtcdSettings, problems: &mut Problems) {
    if !cfg!(feature = "etcd") {
        let remedy = "use `directory`, or a program built with `--features etcd`";
        problems.add("[sync]", "`etcd` is named, and this program was built without it", remedy);
        return;
    }
    if settings.endpoints.is_empty() || settings.endpoints.len() > ENDPOINTS_MAX {
        let remedy = format!("name 1 to {ENDPOINTS_MAX}, such as [\"https://etcd-1:2379\"]");
        problems.add("[sync]", "`etcd` has no endpoints, or too many", remedy);
    }
    // Not repeated: somebody may have written a password into it.
    if !settings.endpoints.iter().all(|endpoint| is_endpoint(endpoint)) {
        let sentence = "an endpoint in `etcd` is not http:// or https:// with a host, a port and nothing else";
        problems.add("[sync]", sentence, "write it like \"https://etcd-1:2379\"");
        return;
    }
    let secure = settings.endpoints.iter().filter(|endpoint| endpoint.starts_with("https://")).count();
    if secure != 0 && secure != settings.endpoints.len() {
        problems.add("[sync]", "some endpoints in `etcd` are https and some are not", "write all of them alike");
    } else if secure != 0 && settings.ca_file.is_none() {
        let remedy = "add `etcd_ca_file`, the certificate of who issued theirs";
        problems.add("[sync]", "an https endpoint in `etcd` cannot be checked", remedy);
    } else if secure == 0 && (settings.ca_file.is_some() || settings.identity.is_some()) {
        let remedy = "write https://, or remove the files";
        problems.add("[sync]", "files for https are named, and no endpoint in `etcd` is https", remedy);
    }
}

fn is_endpoint(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let Some((host, port)) = rest.and_then(|rest| rest.rsplit_once(':')) else { return false };
    let plain = |found: char| found.is_ascii_alphanumeric() || ".-_:[]".contains(found);
    !host.is_empty() && host.chars().all(plain) && port.parse().is_ok_and(|port: u16| port != 0)
}

/// What only this machine can tell. A directory that is not there is said here and waited for by
/// the daemon: its file system may come later.
pub(super) fn check_sync_machine(settings: &SyncSettings, problems: &mut Problems) {
    match &settings.engine {
        None => {}
        Some(Engine::Directory(path)) => {
            if let Err(why) = usable(path) {
                let remedy = "make it, or mount it, and let the daemon's user write in it; run this check as that user";
                problems.add("[sync]", format!("{} cannot be used: {why}", path.display()), remedy);
            }
        }
        Some(Engine::Etcd(etcd)) => {
            let pair = etcd
                .identity
                .iter()
                .flat_map(|(certificate, key)| [("etcd_certificate_file", certificate), ("etcd_key_file", key)]);
            for (key, path) in etcd.ca_file.iter().map(|path| ("etcd_ca_file", path)).chain(pair) {
                if let Err(error) = File::open(path) {
                    let sentence = format!("`{key}` {} cannot be read: {error}", path.display());
                    problems.add("[sync]", sentence, "name a file in PEM that the daemon's user may read");
                }
            }
        }
    }
}

fn usable(path: &Path) -> Result<(), String> {
    let found = fs::metadata(path).map_err(|error| error.to_string())?;
    if !found.is_dir() {
        return Err("it is not a directory".to_owned());
    }
    access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::{ConfigProblem, check, check_machine};
    use super::*;

    fn checked(sync: &str) -> Result<SyncSettings, Vec<ConfigProblem>> {
        let text = format!(
            "state_dir = \"/s\"\nsocket = \"/c\"\n[hsm]\nmodule = \"/m\"\n[[slot]]\nname = \"a\"\n\
             token = \"pkcs11:token=a\"\n[sync]\n{sync}\n"
        );
        check(&text).map(|settings| settings.sync.expect("the table is there"))
    }

    #[track_caller]
    fn the_problem(sync: &str) -> String {
        let problems = checked(sync).expect_err("it is wrong");
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].to_string()
    }

    #[test]
    fn a_table_that_is_wrong_is_refused_with_a_remedy() {
        for (sync, sentence) in [
            ("interval_s = 5", "neither `directory` nor `etcd`"),
            ("name = \"a b\"", "`name` is no name of a node"),
            ("name = \"\"", "`name` is no name of a node"),
            ("automatic = true", "neither `directory` nor `etcd`"),
            ("directory = \"/x\"\netcd = [\"http://a:1\"]", "both `directory` and `etcd`"),
            ("directory = \"x\"", "x is not an absolute path"),
            ("directory = \"/x\"\ninterval_s = 0", "`interval_s` is out of range"),
            ("directory = \"/x\"\ninterval_s = 3601", "`interval_s` is out of range"),
            ("directory = \"/x\"\nmode = 7", "unknown key `mode`"),
            ("directory = \"/x\"\nautomatic = 1", "the wrong form"),
            ("directory = \"/x\"\netcd_ca_file = \"/ca\"", "files for etcd are named, and etcd is not"),
        ] {
            let problem = the_problem(sync);
            assert!(problem.contains(sentence), "{sync}: {problem}");
        }
    }

    #[test]
    fn a_directory_is_taken_with_its_defaults() {
        let settings = checked("directory = \"/x\"").expect("consistent");
        let directory = Some(Engine::Directory("/x".into()));
        let interval = Duration::from_secs(INTERVAL_S_DEFAULT);
        assert_eq!(settings, SyncSettings { name: None, engine: directory, automatic: false, interval });
        let settings = checked("name = \"node-1\"").expect("consistent");
        assert_eq!((settings.name.as_deref(), settings.engine, settings.automatic), (Some("node-1"), None, false));
        let settings = checked("directory = \"/x\"\nautomatic = true\ninterval_s = 5").expect("consistent");
        assert_eq!((settings.automatic, settings.interval), (true, Duration::from_secs(5)));
    }

    #[test]
    fn a_directory_that_is_not_there_or_is_none_is_told_by_the_machine() {
        let dir = tempfile::tempdir().expect("a place for temporary files");
        let told = |path: &Path| {
            let engine = Some(Engine::Directory(path.to_owned()));
            let settings = SyncSettings { name: None, engine, automatic: false, interval: Duration::from_secs(1) };
            let mut problems = Problems::default();
            check_sync_machine(&settings, &mut problems);
            problems.0.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let file = dir.path().join("file");
        fs::write(&file, "").expect("there is room");
        assert!(told(&file)[0].contains("it is not a directory"));
        assert!(told(&dir.path().join("absent"))[0].contains("No such file"));
        assert_eq!(told(dir.path()), [""; 0]);
        let text = "state_dir = \"/s\"\nsocket = \"/c\"\n[hsm]\nmodule = \"/m\"\n[[slot]]\nname = \"a\"\n\
                    token = \"pkcs11:token=a\"\n[sync]\ndirectory = \"/no/such\"\n";
        let problems = check_machine(&check(text).expect("consistent"));
        assert!(problems.iter().any(|problem| problem.place == "[sync]"), "{problems:?}");
    }

    #[cfg(not(feature = "etcd"))]
    #[test]
    fn etcd_in_a_program_without_it_is_refused() {
        let problem = the_problem("etcd = [\"http://a:2379\"]");
        assert!(problem.contains("this program was built without it"), "{problem}");
    }

    #[cfg(feature = "etcd")]
    #[test]
    fn p03_endpoints_that_are_none_are_refused_and_not_repeated() {
        for endpoint in [
            "a:2379",
            "ftp://a:1",
            "http://a",
            "http://:1",
            "http://a:0",
            "http://a:70000",
            "http://a:1/x",
            "http://root:hunter2@a:1",
            "http://a b:1",
        ] {
            let problem = the_problem(&format!("etcd = [\"http://a:1\", \"{endpoint}\"]"));
            assert!(problem.contains("an endpoint in `etcd` is not"), "{endpoint}: {problem}");
            assert!(!problem.contains("hunter2"), "{problem}");
        }
        assert!(the_problem("etcd = []").contains("no endpoints"));
    }

    #[cfg(feature = "etcd")]
    #[test]
    fn https_wants_its_files_and_http_none() {
        for (sync, sentence) in [
            ("etcd = [\"https://a:1\"]", "cannot be checked"),
            ("etcd = [\"https://a:1\", \"http://a:1\"]", "some endpoints"),
            ("etcd = [\"http://a:1\"]\netcd_ca_file = \"/ca\"", "no endpoint in `etcd` is https"),
            ("etcd = [\"https://a:1\"]\netcd_ca_file = \"ca\"", "not an absolute path"),
            ("etcd = [\"https://a:1\"]\netcd_ca_file = \"/ca\"\netcd_key_file = \"/k\"", "only one is there"),
        ] {
            let problem = the_problem(sync);
            assert!(problem.contains(sentence), "{sync}: {problem}");
        }
        let settings = checked(
            "etcd = [\"https://[::1]:2379\"]\netcd_ca_file = \"/ca\"\netcd_certificate_file = \"/c\"\n\
             etcd_key_file = \"/k\"",
        );
        let Some(Engine::Etcd(etcd)) = settings.expect("consistent").engine else { panic!("it is etcd") };
        assert_eq!(etcd.identity, Some(("/c".into(), "/k".into())));
        assert!(checked("etcd = [\"http://127.0.0.1:2379\"]").is_ok());
    }
}
