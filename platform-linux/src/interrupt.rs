//! Ctrl-C, a closed terminal and SIGTERM at the client: the terminal gets its settings
//! back, and whoever interrupted an order is told that it goes on in the daemon, where one is.
//!
//! A prompt switches the terminal's echo off; a client that simply died would leave it so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::output;
use crate::problem::EXIT_INTERRUPTED;

/// Most attempts to remove a directory, and the pause between them: half a second.
const REMOVALS_MAX: u32 = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(10);

/// Watches for signals until the process ends.
#[derive(Clone, Debug, Default)]
pub struct Interrupts {
    order_sent: Arc<AtomicBool>,
    share_shown: Arc<AtomicBool>,
    ceremony_runs: Arc<AtomicBool>,
    alone: Arc<OnceLock<PathBuf>>,
}

impl Interrupts {
    /// Begins to watch. Where that is not possible signals end the process as usual.
    #[must_use]
    pub fn watch() -> Self {
        let interrupts = Interrupts::default();
        let terminal = tcgetattr(io::stdin()).ok();
        let (order_sent, share_shown) = (Arc::clone(&interrupts.order_sent), Arc::clone(&interrupts.share_shown));
        let (ceremony_runs, alone) = (Arc::clone(&interrupts.ceremony_runs), Arc::clone(&interrupts.alone));
        if let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) {
            thread::spawn(move || {
                if signals.forever().next().is_some() {
                    let under_way = if share_shown.load(Ordering::SeqCst) {
                        UnderWay::Share
                    } else if let Some(dir) = alone.get() {
                        remove(dir);
                        UnderWay::Alone
                    } else if ceremony_runs.load(Ordering::SeqCst) {
                        UnderWay::Ceremony
                    } else if order_sent.load(Ordering::SeqCst) {
                        UnderWay::Order
                    } else {
                        UnderWay::Nothing
                    };
                    leave(terminal.as_ref(), under_way);
                }
            });
        }
        interrupts
    }

    /// Whether an order is with the daemon now.
    pub fn order_sent(&self, sent: bool) {
        self.order_sent.store(sent, Ordering::SeqCst);
    }

    /// Whether a ceremony is followed now.
    pub fn ceremony_runs(&self, runs: bool) {
        self.ceremony_runs.store(runs, Ordering::SeqCst);
    }

    /// What is asked runs in this process, which has files in this directory: both end together.
    pub fn alone_in(&self, dir: &Path) {
        // Said once.
        let _ = self.alone.set(dir.to_owned());
    }

    /// Whether a share stands on the screen now.
    pub fn share_shown(&self, shown: bool) {
        self.share_shown.store(shown, Ordering::SeqCst);
    }
}

/// What whoever interrupts should know of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum UnderWay {
    Nothing,
    Order,
    Ceremony,
    Alone,
    Share,
}

/// Removes a directory for temporary files, in which somebody may just be writing. Bounded: what stays is of
/// no use to anybody.
fn remove(dir: &Path) {
    for _ in 0..REMOVALS_MAX {
        if fs::remove_dir_all(dir).is_ok_and(|()| !dir.exists()) {
            return;
        }
        thread::sleep(REMOVAL_PAUSE);
    }
}

fn leave(terminal: Option<&Termios>, under_way: UnderWay) -> ! {
    if under_way == UnderWay::Share {
        output::clear_screen();
    }
    if let Some(settings) = terminal {
        // A closed terminal has no settings any more.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, settings);
    }
    output::aside(match under_way {
        UnderWay::Share => "\nslotwarden: your share was shown, and will not be shown again",
        UnderWay::Ceremony => {
            "\nslotwarden: the ceremony goes on in the daemon; `slotwarden ceremony watch` follows it again, \
             `slotwarden ceremony cancel` ends it"
        }
        UnderWay::Alone => "\nslotwarden: ended; nothing was checked to its end, and nothing is kept",
        UnderWay::Order => "\nslotwarden: the order goes on in the daemon; `slotwarden status` says how it ended",
        UnderWay::Nothing => "\nslotwarden: nothing was attempted",
    });
    process::exit(i32::from(EXIT_INTERRUPTED))
}
