//! The audit verbs. The log comes from the daemon, or from its store while the daemon does
//! not run; which of the two is said. An exported file needs neither.

use std::fs::File;
use std::io;
use std::path::Path;

use serde_json::json;
use slotwarden_core::Refusal;

use super::arguments::{AuditVerb, Reached};
use crate::audit::{Known, Log, Verified, hex};
use crate::audit_client;
use crate::client::{Client, Refused};
use crate::config::{self, Settings};
use crate::names::Names;
use crate::output::{self, Format};
use crate::problem::{EXIT_DONE, Own, Problem};
use crate::status_json::SCHEMA;
use crate::wire::AuditPage;

/// Runs one verb.
pub(super) fn run(config: &Path, format: Format, verb: AuditVerb) -> Result<u8, Refused> {
    match verb {
        AuditVerb::Show { last } => {
            let settings = config::load(config)?;
            let page = match Source::find(&settings)? {
                Source::Daemon(client) => audit_client::last(&client, last)?,
                Source::Stopped(log) => stopped_page(&log, &Names::new(&settings, log.persons().to_vec()), last)?,
            };
            output::audit(format, &page);
        }
        AuditVerb::Verify { file: Some(file), node_key, checkpoint } => {
            let known = known(node_key, &checkpoint)?;
            let found = audit_client::verify_file(&file, &known)?;
            verified(format, "file", &found, &known);
        }
        AuditVerb::Verify { file: None, node_key, checkpoint } => {
            let known = known(node_key, &checkpoint)?;
            let (source, found) = match Source::find(&config::load(config)?)? {
                Source::Daemon(client) => ("daemon", audit_client::verify_live(&client, &known)?),
                Source::Stopped(log) => ("stopped-store", audit_client::verify_stopped(&log, &known)?),
            };
            verified(format, source, &found, &known);
        }
        AuditVerb::Export { file } => {
            match Source::find(&config::load(config)?)? {
                Source::Daemon(client) => audit_client::export(&client, &file)?,
                Source::Stopped(log) => audit_client::export_stopped(&log, &file)?,
            }
            match format {
                Format::Json => output::json(&json!({"schema": SCHEMA, "file": file.display().to_string()})),
                Format::Table => output::line(&format!("the audit log is in {}", file.display())),
            }
        }
    }
    Ok(EXIT_DONE)
}

/// Where this node's log is read.
enum Source {
    /// From the daemon, as far as the person's roles allow.
    Daemon(Client),
    /// From the store, as far as its files' permissions allow.
    Stopped(Box<Log>),
}

impl Source {
    fn find(settings: &Settings) -> Result<Self, Problem> {
        let client = Client::new(&settings.socket);
        let unreachable = match client.reach() {
            Ok(()) => return Ok(Source::Daemon(client)),
            Err(problem) => problem,
        };
        if unreachable.number != Problem::from(Own::Unreachable).number {
            return Err(unreachable);
        }
        let state = settings.state_dir.display();
        match File::open(&settings.state_dir).and_then(|_| File::open(settings.state_dir.join("daemon.lock"))) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let detail = format!("and the stopped store in {state} cannot be read: {error}");
                return Err(Own::Unreachable.with(detail));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !settings.state_dir.exists() => {
                return Err(Own::Unreachable.with(format!("and there is no store, since {state} does not exist")));
            }
            // What else is wrong the store says itself; a copy may lack the lock file.
            Ok(_) | Err(_) => {}
        }
        match Log::of_store(&settings.state_dir) {
            Ok(log) => {
                output::aside(&format!("slotwarden: the daemon does not run; this is its stopped store in {state}"));
                Ok(Source::Stopped(Box::new(log)))
            }
            Err(refused) if refused.refusal == Refusal::StoreLocked => Err(Own::Unreachable.with(format!(
                "{}, but {state} is in use: a daemon is starting or stopping",
                settings.socket.display()
            ))),
            Err(refused) => Err(refused.into()),
        }
    }
}

fn stopped_page(log: &Log, names: &Names, count: u32) -> Result<AuditPage, Problem> {
    let (last, records) = log.last(usize::try_from(count).unwrap_or(usize::MAX))?;
    Ok(AuditPage { last, names: records.iter().map(|record| names.of_record(record)).collect(), records })
}

fn known(node_key: Option<[u8; 32]>, checkpoints: &[Reached]) -> Result<Known, Problem> {
    let mut known = Known { node_key, ..Known::default() };
    for reached in checkpoints {
        match reached {
            Reached::Record(sequence) => known.at_least = known.at_least.max(*sequence),
            Reached::File(file) => known = audit_client::earlier(file, known)?,
        }
    }
    Ok(known)
}

fn verified(format: Format, source: &str, found: &Verified, known: &Known) {
    let (head, key) = (hex(&found.head), hex(&found.node_key));
    let reached = known.heads.iter().map(|(sequence, _)| *sequence).max().unwrap_or(0).max(known.at_least);
    match format {
        Format::Json => output::json(&json!({
            "schema": SCHEMA, "source": source, "records": found.records, "head": head,
            "checkpoints": found.checkpoints, "signed": found.signed, "reaches": reached,
            "node_key": key, "trusted": found.trusted, "trusted_to": found.trusted_to,
            "former_node_keys": found.former.iter().map(|former| json!({
                "node_key": hex(&former.key), "replaced_by_record": former.until, "signed": former.signed,
            })).collect::<Vec<_>>(),
        })),
        Format::Table => {
            output::line(&format!("{} records form one unbroken chain", found.records));
            output::line(&format!("{} checkpoints; signed up to record {}", found.checkpoints, found.signed));
            let trust = if found.trusted { "" } else { ", not trusted: compare it with the node's" };
            for former in &found.former {
                let (key, until, signed) = (hex(&former.key), former.until, former.signed);
                let signed = if signed == 0 { "nothing".into() } else { format!("up to record {signed}") };
                output::line(&format!("before record {until}, where a zeroize replaced it, {key} signed {signed}"));
            }
            output::line(&format!("signed by {key}{trust}"));
            if !found.trusted && found.trusted_to > 0 {
                output::line(&format!("trusted up to record {}: what your key signed", found.trusted_to));
            }
            if reached > 0 {
                output::line(&format!("it reaches record {reached} of --checkpoint"));
            } else if found.records > 0 {
                let tail = "records cut off at the end are found only with --checkpoint";
                output::line(&format!("{tail}; next time bring --checkpoint {}", found.records));
            }
        }
    }
}
