//! What an export costs, against the least it can cost (`floor`): in the same minute, by turns.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use slotwarden_core::effect::HsmAnswer;
use slotwarden_tests::driver::Driver;
use slotwarden_tests::exports::{KEK, KEY_ID, MAK, UID, append, finish, spool};
use slotwarden_tests::modules::{Bench, Kind, PIN, label};
use slotwarden_tests::{build, modules};

use crate::median;

const TOKEN: &str = "ca-root";
const ROUNDS: usize = 9;

/// The least that an export can cost, as a program that waits to be told.
struct Floor {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Floor {
    fn start(bench: &Bench, module: &std::path::Path) -> Result<Self, String> {
        let mechanism = match bench.kind {
            Kind::SoftHsm => 0x210A,
            Kind::Kryoptic => 0x210B,
        };
        let mut command = Command::new(program("floor")?);
        command.arg(module).args([TOKEN, PIN, &mechanism.to_string()]);
        command.envs(bench.environment()).envs(bench.more.clone());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
        let (to, from) = (child.stdin.take().ok_or("no stdin")?, child.stdout.take().ok_or("no stdout")?);
        Ok(Floor { child, to, from: BufReader::new(from) })
    }

    /// Microseconds for all keys.
    fn once(&mut self) -> Result<f64, String> {
        writeln!(self.to).map_err(|error| error.to_string())?;
        let mut line = String::new();
        self.from.read_line(&mut line).map_err(|error| error.to_string())?;
        let (_, took) = line.trim().split_once(' ').ok_or("floor said nothing")?;
        took.parse().map_err(|error| format!("{line}: {error}"))
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(name: &str) -> Result<std::path::PathBuf, String> {
    env::current_exe().map(|path| path.with_file_name(name)).map_err(|error| error.to_string())
}

fn with_keys(mut bench: Bench, keys: u32) -> Result<Bench, String> {
    bench.make_token(TOKEN);
    let mut command = Command::new(program("custody")?);
    command.arg(bench.real_module()).args([TOKEN, PIN, "many", &keys.to_string()]).envs(bench.environment());
    build::run("softhsm2", &mut command);
    Ok(bench)
}

fn logged_in(bench: &Bench) -> Result<Driver, String> {
    let (mut driver, _) = Driver::up(bench.settings(&[label(TOKEN)]));
    driver.login(0, PIN).map_err(|failed| format!("{failed:?}"))?;
    driver.put_backup_keys(0, (KEY_ID, UID), &KEK, &MAK).map_err(|failed| format!("{failed:?}"))?;
    Ok(driver)
}

/// Microseconds of one export.
fn export(bench: &Bench, driver: &mut Driver, keys: u32) -> Result<f64, String> {
    let begun = Instant::now();
    let answer = append(bench, driver, &[]);
    let took = begun.elapsed();
    match answer {
        Ok(HsmAnswer::SectionExported { keys: exported, left_out: 0 }) if exported == keys => {
            Ok(took.as_secs_f64() * 1e6)
        }
        other => Err(format!("{other:?}")),
    }
}

fn memory(process: u32, what: &str) -> Result<f64, String> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).map_err(|error| error.to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix(what)).ok_or("no such line")?;
    let kib: f64 = line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().map_err(|error| format!("{line}: {error}"))?;
    Ok(kib / 1024.0)
}

/// Exports by turns with the floor; prints and returns the median, microseconds a key.
fn compared(kind: Kind, keys: u32) -> Result<f64, String> {
    let bench = with_keys(Bench::new(kind, 1), keys)?;
    let mut driver = logged_in(&bench)?;
    let mut floor = Floor::start(&bench, &bench.real_module())?;
    floor.once()?;
    export(&bench, &mut driver, keys)?;
    let process = driver.hsm.worker_process().ok_or("no worker")?;
    // Writing 5 there makes the highest mark begin anew (proc(5)).
    fs::write(format!("/proc/{process}/clear_refs"), "5").map_err(|error| error.to_string())?;
    let before = memory(process, "VmRSS")?;
    let (mut ours, mut least, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let raw = floor.once()?;
        let one = export(&bench, &mut driver, keys)?;
        ours.push(one / f64::from(keys));
        least.push(raw / f64::from(keys));
        ratios.push(one / raw);
    }
    let grown = memory(process, "VmHWM")? - before;
    let (ours, least) = (median(ours), median(least));
    println!(
        "{kind:?}, {keys} keys: {ours:.1} µs a key, floor {least:.1}, ratio {:.3} (median of {ROUNDS}), memory +{grown:.1} MiB",
        median(ratios)
    );
    Ok(ours)
}

fn counted(kind: Kind, keys: u32) -> Result<(), String> {
    let mut bench = with_keys(Bench::forwarded(kind, 1), keys)?;
    let mut driver = logged_in(&bench)?;
    drop(driver);
    bench.more.push(("FORWARD_COUNT".into(), "all".into()));
    driver = Driver::up(bench.settings(&[label(TOKEN)])).0;
    driver.login(0, PIN).map_err(|failed| format!("{failed:?}"))?;
    let before = bench.calls_of(TOKEN).len();
    export(&bench, &mut driver, keys)?;
    let calls = bench.calls_of(TOKEN).len() - before;
    println!("{kind:?}, {keys} keys: {calls} calls, {:.3} a key", calls as f64 / f64::from(keys));
    Ok(())
}

fn slow(kind: Kind, keys: u32) -> Result<(), String> {
    let mut bench = with_keys(Bench::forwarded(kind, 1), keys)?;
    drop(logged_in(&bench)?);
    bench.more.push(("FORWARD_LATENCY_MS".into(), "5".into()));
    let mut driver = logged_in(&bench)?;
    let ours = export(&bench, &mut driver, keys)?;
    drop(driver);
    let raw = Floor::start(&bench, build::forward())?.once()?;
    let each = |took: f64| took / 1000.0 / f64::from(keys);
    println!(
        "{kind:?}, {keys} keys, 5 ms a call: {:.3} ms a key, floor {:.2} ms, {:.1} times as fast",
        each(ours),
        each(raw),
        raw / ours
    );
    Ok(())
}

fn restored(kind: Kind, keys: u32) -> Result<(), String> {
    let bench = with_keys(Bench::new(kind, 1), keys)?;
    let mut driver = logged_in(&bench)?;
    export(&bench, &mut driver, keys)?;
    let file = finish(&bench);
    drop(driver);
    let mut bench = Bench::new(kind, 1);
    bench.make_token(TOKEN);
    let (mut driver, _) = Driver::up(bench.settings(&[label(TOKEN)]));
    driver.login(0, modules::PIN).map_err(|failed| format!("{failed:?}"))?;
    spool(&bench, &file);
    let each = |took: Duration| took.as_secs_f64() * 1e6 / f64::from(keys);
    let begun = Instant::now();
    driver.prepare_import(0, (KEY_ID, UID), &KEK, &MAK).map_err(|failed| format!("{failed:?}"))?;
    let prepared = begun.elapsed();
    let begun = Instant::now();
    let call = slotwarden_core::effect::HsmCall::Import { key_id: KEY_ID, uid: UID };
    driver.call(0, call).map_err(|failed| format!("{failed:?}"))?;
    println!(
        "{kind:?}, {keys} keys restored: {:.0} µs a key prepared, {:.0} µs a key made",
        each(prepared),
        each(begun.elapsed())
    );
    Ok(())
}

/// Prints one of them, on SoftHSM.
pub(crate) fn one(what: &str, keys: u32) -> Result<(), String> {
    match what {
        "export" => compared(Kind::SoftHsm, keys).map(drop),
        "calls" => counted(Kind::SoftHsm, keys),
        "slow" => slow(Kind::SoftHsm, keys),
        "restore" => restored(Kind::SoftHsm, keys),
        _ => Err("usage: tests/figures transfer [export|calls|slow|restore KEYS]".to_owned()),
    }
}

/// Prints all of it.
pub(crate) fn print() -> Result<(), String> {
    for kind in [Kind::SoftHsm, Kind::Kryoptic] {
        let few = compared(kind, 100)?;
        compared(kind, 1000)?;
        if kind == Kind::SoftHsm {
            let many = compared(kind, 10_000)?;
            println!("{kind:?}: a key at 10,000 costs {:.2} of one at 100", many / few);
        }
        counted(kind, 1000)?;
        slow(kind, 1000)?;
        restored(kind, 200)?;
    }
    Ok(())
}
