//! The systemd unit: that it confines the daemon (P45) and agrees with the program. Whether
//! systemd itself takes it is tested under `tests/`, where the package is installed.

use std::collections::BTreeMap;

use slotwarden::config::PATH_DEFAULT;
use slotwarden::hsm::Waits;
use slotwarden::seal::CREDENTIAL;

const UNIT: &str = include_str!("../systemd/slotwarden.service");
const SYSUSERS: &str = include_str!("../systemd/slotwarden.sysusers.conf");

/// The lines of a unit: (section, key) → values, in order (systemd.syntax(7)).
fn parsed(unit: &str) -> BTreeMap<(String, String), Vec<String>> {
    let mut found: BTreeMap<_, Vec<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in unit.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            name.clone_into(&mut section);
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("neither section nor assignment: {line}"));
        // A comment behind a value would be part of it.
        assert!(!value.contains(" #") && !line.ends_with('\\'), "{line}");
        found.entry((section.clone(), key.to_owned())).or_default().push(value.to_owned());
    }
    found
}

fn service(key: &str) -> Vec<String> {
    parsed(UNIT).remove(&("Service".to_owned(), key.to_owned())).unwrap_or_default()
}

/// The one value of a key in `[Service]`.
fn value(key: &str) -> String {
    let values = service(key);
    assert_eq!(values.len(), 1, "{key} stands once: {values:?}");
    values.concat()
}

#[test]
fn p45_the_unit_confines_the_daemon() {
    for (key, wanted) in [
        // Secrets: no core dump, memory that may be locked, no swap.
        ("LimitCORE", "0"),
        ("LimitMEMLOCK", "infinity"),
        ("MemorySwapMax", "0"),
        ("UMask", "0077"),
        ("StateDirectoryMode", "0700"),
        // Rights: none, and no way to some.
        ("User", "slotwarden"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("AmbientCapabilities", ""),
        ("RestrictSUIDSGID", "yes"),
        ("RestrictNamespaces", "yes"),
        ("RestrictRealtime", "yes"),
        ("LockPersonality", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("SystemCallArchitectures", "native"),
        ("SystemCallFilter", "@system-service"),
        // View: its own directories.
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("DevicePolicy", "closed"),
        ("ProtectProc", "invisible"),
        ("ProtectKernelTunables", "yes"),
        ("ProtectKernelModules", "yes"),
        ("ProtectKernelLogs", "yes"),
        ("ProtectControlGroups", "yes"),
        ("ProtectClock", "yes"),
        ("ProtectHostname", "yes"),
    ] {
        assert_eq!(value(key), wanted, "{key}");
    }
    // Whether memory may be swapped out is read here; without it no hand-over file is written.
    assert!(service("ProcSubset").is_empty(), "/proc/swaps is needed");
    assert!(service("Environment").is_empty() && service("EnvironmentFile").is_empty(), "no secret, no debug log");
}

#[test]
fn the_unit_agrees_with_the_program() {
    assert_eq!(value("Type"), "notify");
    assert_eq!(value("NotifyAccess"), "main", "the HSM's module must not speak for the daemon");
    assert_eq!(value("ExecStart"), "/usr/bin/slotwarden daemon", "with the default configuration");
    let (credential, path) = ("LoadCredentialEncrypted", value("LoadCredentialEncrypted"));
    assert_eq!(path.split_once(':').map(|(name, _)| name), Some(CREDENTIAL), "{credential}");
    assert!(PATH_DEFAULT.starts_with("/etc/slotwarden/") && path.ends_with("/etc/slotwarden/seal.cred"));
    assert!(UNIT.contains(&format!("--name={CREDENTIAL} ")), "systemd-creds binds the name into the credential");
    // The directories that the documented configuration names.
    assert_eq!((value("StateDirectory"), value("RuntimeDirectory")), ("slotwarden".into(), "slotwarden".into()));
    assert!(SYSUSERS.lines().any(|line| line.starts_with(&format!("u {} ", value("User")))));
    // A worker inside C_SetPIN is not killed with the daemon.
    assert_eq!(value("KillMode"), "process");
    let seconds = |key: &str| value(key).parse::<u64>().expect("seconds without a unit");
    let waits = Waits::default();
    assert!(seconds("TimeoutStartSec") > (waits.lock_wait + waits.start_wait).as_secs());
    assert!(seconds("TimeoutStopSec") > waits.stop_wait.as_secs());
}
