//! The boot hook: make sure that the automatic slots were tried, say what is missing, exit.
//!
//! It is a client: it waits for the daemon's socket, asks, prints. It never opens the
//! store. With `--spawn` it starts the daemon when none listens (an initramfs without a
//! service manager); that daemon is detached and writes its log beside the socket.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use slotwarden_core::Refusal;

use crate::client::{Client, Refused};
use crate::problem::{EXIT_LATER, Own, Problem};
use crate::status_json::StatusView;
use crate::wire::{Answered, Ask, Order};

/// Pause between two looks for the socket.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// The last slot is heard of a moment before the worker counts as up: a boot hook that asks just then
/// must not take that for a fault. A worker that cannot be started is one a second later too.
const WORKER_WAIT: Duration = Duration::from_secs(1);

/// Has the automatic slots tried and answers with the status after that.
///
/// # Errors
/// [`Own::Unreachable`] when no daemon came within `wait`, and what the daemon refused.
pub fn boot(client: &Client, spawn: Option<&Path>, wait: Duration) -> Result<StatusView, Refused> {
    let deadline = Instant::now() + wait;
    let mut spawned = None;
    if let Some(config) = spawn
        && !client.answers()
    {
        spawned = Some(spawn_daemon(config, &client.socket)?);
    }
    loop {
        match client.ask(Ask::Order(Order::Boot), &[]) {
            Ok(_) => break,
            Err(refused) if may_come(&refused.problem) && Instant::now() < deadline => {}
            Err(refused) => return Err(refused),
        }
        if let Some(child) = &mut spawned {
            still_runs(child, &client.socket)?;
        }
        thread::sleep(LOOK_PAUSE);
    }
    let heard_by = deadline.min(Instant::now() + WORKER_WAIT);
    loop {
        let Answered::Status(status) = client.ask(Ask::Status, &[])? else { return Err(Own::OtherVersion.into()) };
        // An interrupted change may still be under way; it ends by itself.
        let settled = status.exit() != EXIT_LATER && (status.hsm.worker || Instant::now() >= heard_by);
        if settled || Instant::now() >= deadline {
            return Ok(*status);
        }
        thread::sleep(LOOK_PAUSE);
    }
}

/// Whether waiting may help: the socket is not there yet, or the service is starting.
fn may_come(problem: &Problem) -> bool {
    problem.number == Problem::from(Own::Unreachable).number || problem.is(Refusal::NotStarted)
}

fn spawn_daemon(config: &Path, socket: &Path) -> Result<Child, Problem> {
    let failed = |error: io::Error| Own::SpawnFailed.with(error.to_string());
    if let Some(directory) = socket.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(socket.with_file_name("daemon.log"))
        .map_err(failed)?;
    Command::new(env::current_exe().map_err(failed)?)
        .args(["daemon", "--detached", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(failed)
}

fn still_runs(child: &mut Child, socket: &Path) -> Result<(), Problem> {
    match child.try_wait() {
        Ok(None) => Ok(()),
        Ok(Some(status)) => {
            let log = socket.with_file_name("daemon.log");
            Err(Own::SpawnFailed.with(format!("it ended with {status}; its log is {}", log.display())))
        }
        Err(error) => Err(Own::SpawnFailed.with(error.to_string())),
    }
}
