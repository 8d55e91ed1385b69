//! The program `slotwarden-sim`: an appliance to try, campaigns on the core, readers with a keypad.

use std::ffi::OsString;
use std::io::{self, BufRead as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use slotwarden_sim::appliance;
use slotwarden_sim::cards::Manner;
use slotwarden_sim::courier;
use slotwarden_sim::cuts;
use slotwarden_sim::explore::{Order, explore, live_guarded, print};
use slotwarden_sim::reader::Server;
use slotwarden_sim::reader::desk::{Desk, TRIES};
use slotwarden_sim::world::World;

/// Slotwarden on simulated devices. Without a command: an appliance to try.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// End the appliance after so many seconds.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The command line of `slotwarden`, for an appliance that runs in another terminal.
    #[command(disable_help_flag = true)]
    Cli {
        /// As `slotwarden` takes them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run campaigns on the core in virtual time and check every promise about slots.
    Explore {
        /// How many seeds.
        #[arg(long, default_value_t = 1_000)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Threads; the result does not depend on them.
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// Cut the power at every point of every scripted order as well, and again at every
        /// point of the recovery: so many cuts one after another (3 when no number is given).
        #[arg(long, num_args = 0..=1, default_value_t = 0, default_missing_value = "3")]
        cuts: usize,
        /// Print everything that enters and leaves the core.
        #[arg(long)]
        trace: bool,
        /// Seeds of clusters instead: nodes that send each other packages, a courier who loses, repeats and
        /// reorders them, and power that goes.
        #[arg(long, conflicts_with_all = ["cuts", "replay_cut"])]
        clusters: bool,
        /// Replay one sequence of power cuts, as a failure names it.
        #[arg(long, value_name = "NAME")]
        replay_cut: Option<String>,
    },
    /// Serve card readers with a keypad to pcscd, and take orders at them: a line each, here and
    /// at the control socket. `@READER` before an order names the reader; else it is the first.
    #[command(after_help = ORDERS)]
    Reader {
        /// Where a reader is served: the `DEVICENAME` in pcscd's reader file, whose `LIBPATH` is
        /// `libslotwarden_ifd.so`. Once for each reader.
        #[arg(long, value_name = "PATH", required = true)]
        socket: Vec<PathBuf>,
        /// A blank card that lies on the desk from the start.
        #[arg(long, value_name = "NAME")]
        card: Vec<String>,
        /// Take orders at this socket too.
        #[arg(long, value_name = "PATH")]
        control: Option<PathBuf>,
    },
}

/// What can be ordered at a reader.
const ORDERS: &str = "\
Orders:
  new CARD [tries N] [MANNER]   a blank card appears on the desk
  insert CARD | remove          it goes into the reader, it comes back
  type PIN [PIN PIN]            somebody types, one PIN each time the keypad asks; digits alone do the same
  mistype | cancel | timeout | hesitate MS
  pull-after N | tear           the card is pulled after N commands, or in the middle of the next write
  count | cards | show CARD";

fn main() -> ExitCode {
    let Arguments { seconds, command } = Arguments::parse();
    match command {
        Some(Verb::Cli { arguments }) => appliance::command_line(arguments),
        Some(Verb::Explore { replay_cut: Some(name), .. }) => replay_cut(&name),
        Some(Verb::Explore { seeds, seed, trace: true, clusters: true, .. }) => {
            (seed..seed.saturating_add(seeds)).for_each(|seed| {
                println!("seed {seed}");
                let _ = courier::live(seed, true);
            });
            ExitCode::SUCCESS
        }
        Some(Verb::Explore { seeds, seed, jobs, clusters: true, .. }) => {
            let report = courier::explore(seed, seeds, jobs);
            courier::print(seed, seeds, &report);
            if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Some(Verb::Explore { seeds, seed, trace: true, .. }) => replay(seed, seeds),
        Some(Verb::Explore { seeds, seed, jobs, cuts, .. }) => {
            let order = Order { first: seed, seeds, jobs, cuts_deep: cuts };
            let report = explore(&order);
            print(&order, &report);
            if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Some(Verb::Reader { socket, card, control }) => serve_readers(&socket, &card, control.as_deref()),
        None => match appliance::run(seconds) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                eprintln!("slotwarden-sim: {problem}\n  {}", problem.remedy);
                ExitCode::from(problem.exit())
            }
        },
    }
}

/// Lives seeds one after another, printing everything.
fn replay(first: u64, seeds: u64) -> ExitCode {
    let mut world = World::default();
    world.trace.prints = true;
    for seed in first..first.saturating_add(seeds) {
        println!("seed {seed}");
        if let Err(what) = live_guarded(&mut world, seed) {
            println!("seed {seed}: {what}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn replay_cut(name: &str) -> ExitCode {
    let Some((script, character, cuts)) = cuts::named(name) else {
        eprintln!("`{name}` is no sequence of cuts: SCRIPT/TOKEN/POINT.WAY/…");
        return ExitCode::from(64);
    };
    let mut world = World::default();
    world.trace.prints = true;
    cuts::run(&mut world, script, character, &cuts);
    match world.checkers.violation {
        Some(violation) => {
            println!("{violation}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

/// Serves readers until standard input ends or says `quit`.
fn serve_readers(sockets: &[PathBuf], cards: &[String], control: Option<&Path>) -> ExitCode {
    let served = Server::announcing(sockets, |said| println!("{said}")).and_then(|server| {
        let desk = Arc::new(Desk::new(server));
        for name in cards {
            desk.put(name, TRIES, Manner::Proper);
        }
        let _ear = control.map(|path| desk.listen(path)).transpose()?;
        println!("ready");
        for line in io::stdin().lock().lines() {
            match line?.trim() {
                "" => {}
                "quit" => break,
                order => println!("{}", desk.order(order)),
            }
        }
        Ok(())
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slotwarden-sim: {error}\n  choose socket paths in a directory that can be written");
            ExitCode::FAILURE
        }
    }
}
