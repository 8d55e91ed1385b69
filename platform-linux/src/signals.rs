//! The daemon's signals: SIGTERM and SIGINT stop it in order; SIGHUP, a closed terminal,
//! does nothing.

use std::io;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::devices::{Event, Events};

/// Begins to watch. A second signal asks again, which changes nothing: the wait for
/// devices while stopping is bounded.
///
/// # Errors
/// Of the kernel; signals then end the process as usual.
pub fn watch(events: Events) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if signal != SIGHUP && events.send(Event::Stop).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
