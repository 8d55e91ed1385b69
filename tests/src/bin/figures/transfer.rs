//! What an export costs, against the least it can cost (`floor`): in the same minute, by turns.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use slotwarden_core::effect::HsmAnswer;
use slotwarden_core::export::{Part, Reader};
use slotwarden_tests::driver::Driver;
use slotwarden_tests::exports::{KEK, KEY_ID, MAK, UID, append, finish, spool};
use slotwarden_tests::modules::{Bench, Kind, PIN, label};
use slotwarden_tests::{build, modules};

use crate::median;

const TOKEN: &str = "ca-root";
const ROUNDS: usize = 9;
/// Each needs two fresh tokens.
const ROUNDS_OF_RESTORES: usize = 5;

/// The least that an export can cost, as a program that waits to be told.
struct Floor {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Floor {
    fn start(bench: &Bench, module: &std::path::Path, more: &[&str]) -> Result<Self, String> {
        let mechanism = match bench.kind {
            Kind::SoftHsm => 0x210A,
            Kind::Kryoptic => 0x210B,
        };
        let mut command = Command::new(program("floor")?);
        command.arg(module).args([TOKEN, PIN, &mechanism.to_string()]).args(more);
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

fn with_keys(bench: Bench, keys: u32) -> Result<Bench, String> {
    with("many", bench, keys)
}

/// A token with so many keys as `custody` makes them by this verb.
fn with(verb: &str, mut bench: Bench, keys: u32) -> Result<Bench, String> {
    bench.make_token(TOKEN);
    let mut command = Command::new(program("custody")?);
    command.arg(bench.real_module()).args([TOKEN, PIN, verb, &keys.to_string()]).envs(bench.environment());
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

/// How much more memory a process had meanwhile, at most, MiB.
fn grown(process: u32, meanwhile: impl FnOnce() -> Result<(), String>) -> Result<f64, String> {
    // Writing 5 there makes the highest mark begin anew (proc(5)).
    fs::write(format!("/proc/{process}/clear_refs"), "5").map_err(|error| error.to_string())?;
    let before = memory(process, "VmRSS")?;
    meanwhile()?;
    Ok(memory(process, "VmHWM")? - before)
}

/// Medians of exports by turns with the floor.
struct Compared {
    /// Microseconds a key.
    each: f64,
    ratio: f64,
}

/// Exports by turns with the floor; prints and returns the medians.
fn compared(kind: Kind, keys: u32) -> Result<Compared, String> {
    let bench = with_keys(Bench::new(kind, 1), keys)?;
    let mut driver = logged_in(&bench)?;
    let mut floor = Floor::start(&bench, &bench.real_module(), &[])?;
    floor.once()?;
    // The module has its objects since the login, when W was looked for.
    let process = driver.hsm.worker_process().ok_or("no worker")?;
    let first = grown(process, || export(&bench, &mut driver, keys).map(|_| ()))?;
    let (mut ours, mut least, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let raw = floor.once()?;
        let one = export(&bench, &mut driver, keys)?;
        ours.push(one / f64::from(keys));
        least.push(raw / f64::from(keys));
        ratios.push(one / raw);
    }
    let (each, least, ratio) = (median(ours), median(least), median(ratios));
    println!(
        "{kind:?}, {keys} keys: {each:.1} µs a key, floor {least:.1}, ratio {ratio:.3} (median of {ROUNDS}), memory of the first +{first:.1} MiB"
    );
    Ok(Compared { each, ratio })
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

fn slow(kind: Kind, keys: u32) -> Result<f64, String> {
    let mut bench = with_keys(Bench::forwarded(kind, 1), keys)?;
    drop(logged_in(&bench)?);
    bench.more.push(("FORWARD_LATENCY_MS".into(), "5".into()));
    let mut driver = logged_in(&bench)?;
    let ours = export(&bench, &mut driver, keys)?;
    drop(driver);
    let raw = Floor::start(&bench, build::forward(), &[])?.once()?;
    let each = |took: f64| took / 1000.0 / f64::from(keys);
    println!(
        "{kind:?}, {keys} keys, 5 ms a call: {:.3} ms a key, floor {:.2} ms, {:.1} times as fast",
        each(ours),
        each(raw),
        raw / ours
    );
    Ok(raw / ours)
}

/// Restores into fresh tokens by turns with the floor; prints and returns the median of the ratios.
fn restored(kind: Kind, keys: u32) -> Result<f64, String> {
    let bench = with_keys(Bench::new(kind, 1), keys)?;
    let mut driver = logged_in(&bench)?;
    export(&bench, &mut driver, keys)?;
    let file = finish(&bench);
    drop(driver);
    let fresh = || {
        let mut bench = Bench::new(kind, 1);
        bench.make_token(TOKEN);
        let (mut driver, _) = Driver::up(bench.settings(&[label(TOKEN)]));
        driver.login(0, modules::PIN).map_err(|failed| format!("{failed:?}"))?;
        spool(&bench, &file);
        Ok::<_, String>((bench, driver))
    };
    let prepare = |driver: &mut Driver| {
        driver.prepare_import(0, (KEY_ID, UID), &KEK, &MAK).map_err(|failed| format!("{failed:?}"))
    };
    let (mut prepared, mut made, mut least, mut ratios) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS_OF_RESTORES {
        let (bench, mut driver) = fresh()?;
        let begun = Instant::now();
        prepare(&mut driver)?;
        let half = begun.elapsed();
        let call = slotwarden_core::effect::HsmCall::Import { key_id: KEY_ID, uid: UID };
        driver.call(0, call).map_err(|failed| format!("{failed:?}"))?;
        let ours = begun.elapsed();
        drop((driver, bench));

        // U is there after the plan, and none of the keys.
        let (bench, mut driver) = fresh()?;
        prepare(&mut driver)?;
        drop(driver);
        let path = bench.dir().join("entries");
        fs::write(&path, for_floor(&file)).map_err(|error| error.to_string())?;
        let path = path.to_str().ok_or("another path")?;
        let raw = Floor::start(&bench, &bench.real_module(), &["restore", path])?.once()?;
        let each = |took: Duration| took.as_secs_f64() * 1e6 / f64::from(keys);
        prepared.push(each(half));
        made.push(each(ours - half));
        least.push(raw / f64::from(keys));
        ratios.push(ours.as_secs_f64() * 1e6 / raw);
    }
    let ratio = median(ratios);
    println!(
        "{kind:?}, {keys} keys restored: {:.0} µs a key prepared, {:.0} made; floor {:.0}, ratio {ratio:.3} \
         (median of {ROUNDS_OF_RESTORES})",
        median(prepared),
        median(made),
        median(least)
    );
    Ok(ratio)
}

/// The private keys of an export as the floor takes them: {count, for each attribute type, length, value; length, blob},
/// with what a restore sets, in its order.
fn for_floor(mut file: &[u8]) -> Vec<u8> {
    const MODIFIABLE: u32 = 0x170;
    const ALLOWED_MECHANISMS: u32 = 0x4000_0600;
    let length = |bytes: usize| u32::try_from(bytes).expect("small").to_ne_bytes();
    let mut all = Vec::new();
    let mut reader = Reader::new(&mut file);
    loop {
        let entry = match reader.next().expect("a whole file") {
            Part::Entry(entry) => entry,
            Part::End { .. } => return all,
            _ => continue,
        };
        let native = |number: u64| number.to_ne_bytes().to_vec();
        let mut with: Vec<(u32, Vec<u8>)> = vec![(0x1, vec![0]), (0x0, native(3)), (0x100, native(entry.key_type))];
        for (kind, name) in [(0x3, entry.label), (0x102, entry.id)] {
            with.push((kind, name.to_vec()));
        }
        let mut set: Vec<(u32, Vec<u8>)> = entry.set.iter().map(|(kind, value)| (kind, value.to_vec())).collect();
        for (kind, value) in &mut set {
            if *kind == ALLOWED_MECHANISMS {
                value.as_chunks_mut::<8>().0.iter_mut().for_each(|number| number.reverse());
            }
        }
        // SoftHSM takes nothing after it.
        set.sort_by_key(|(kind, _)| *kind == MODIFIABLE);
        with.extend(set);
        all.extend(length(with.len()));
        for (kind, value) in with {
            all.extend(u64::from(kind).to_ne_bytes());
            all.extend(length(value.len()));
            all.extend(value);
        }
        all.extend(length(entry.wrapped.len()));
        all.extend(entry.wrapped);
    }
}

/// `pkcs11-tool --wrap`, a process for each key, next to one export. It wraps secret keys only; a sample is timed.
fn by_the_tool(keys: u32) -> Result<f64, String> {
    const SAMPLE: u32 = 20;
    let bench = with("secrets", Bench::new(Kind::SoftHsm, 1), keys)?;
    let mut driver = logged_in(&bench)?;
    let mut ours = Vec::new();
    for _ in 0..ROUNDS {
        ours.push(export(&bench, &mut driver, keys)? / f64::from(keys));
    }
    drop(driver);
    // The tool finds the key that wraps by its id, which W and MAK share.
    let mut tool = bench.pkcs11_tool();
    tool.args(["--token-label", TOKEN, "--login", "--pin", PIN, "--delete-object", "--type", "secrkey"]);
    build::run("opensc", tool.args(["--label", "slotwarden MAK"]));
    let w: String = [KEY_ID, UID].concat().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut tools = Vec::new();
    for number in (0..SAMPLE).map(|number| number * (keys / SAMPLE)) {
        let id: String = number.to_be_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let mut tool = bench.pkcs11_tool();
        tool.args(["--token-label", TOKEN, "--login", "--pin", PIN, "--wrap", "--mechanism", "0x210A"]);
        tool.args(["--id", &w, "--application-id", &id, "--output-file"]).arg(bench.dir().join("wrapped"));
        let begun = Instant::now();
        build::run("opensc", &mut tool);
        tools.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    let (ours, tool) = (median(ours), median(tools));
    println!(
        "SoftHsm, {keys} AES keys: {ours:.1} µs a key, pkcs11-tool --wrap {tool:.0} µs a key (median of {SAMPLE} of \
         them), {:.0} times as fast",
        tool / ours
    );
    Ok(tool / ours)
}

/// Prints one of them, on SoftHSM.
pub(crate) fn one(what: &str, keys: u32) -> Result<(), String> {
    match what {
        "export" => compared(Kind::SoftHsm, keys).map(drop),
        "calls" => counted(Kind::SoftHsm, keys),
        "slow" => slow(Kind::SoftHsm, keys).map(drop),
        "restore" => restored(Kind::SoftHsm, keys).map(drop),
        "tool" => by_the_tool(keys).map(drop),
        _ => Err("usage: tests/figures transfer [export|calls|slow|restore|tool KEYS]".to_owned()),
    }
}

/// Prints all of it.
pub(crate) fn print() -> Result<(), String> {
    let mut missed = Vec::new();
    // Beyond 1.5 times the goal something is wrong, however busy the machine is.
    let mut goal = |what: &str, is: f64, goal: f64, more_is_better: bool| {
        if if more_is_better { is * 1.5 < goal } else { is > goal * 1.5 } {
            missed.push(format!("{what}: {is:.2}, goal {goal}"));
        }
    };
    for kind in [Kind::SoftHsm, Kind::Kryoptic] {
        let few = compared(kind, 100)?;
        let thousand = compared(kind, 1000)?;
        if kind == Kind::SoftHsm {
            goal("export next to the floor", thousand.ratio, 1.15, false);
            let many = compared(kind, 10_000)?;
            println!("{kind:?}: a key at 10,000 costs {:.2} of one at 100", many.each / few.each);
            goal("a key at 10,000 next to one at 100", many.each / few.each, 1.3, false);
        }
        counted(kind, 1000)?;
        goal("export at 5 ms a call next to the floor", slow(kind, 1000)?, 15.0, true);
        let restored = restored(kind, 200)?;
        if kind == Kind::SoftHsm {
            goal("restore next to the floor", restored, 1.15, false);
        }
    }
    goal("export next to pkcs11-tool", by_the_tool(1000)?, 400.0, true);
    if missed.is_empty() { Ok(()) } else { Err(format!("beyond 1.5 times the goal: {}", missed.join("; "))) }
}
