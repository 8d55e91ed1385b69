//! What the simulator shows. On a terminal the slots stand at the top and are drawn anew
//! when something changes, the line being typed stays where it is at the bottom; anywhere
//! else each change is a line.
//!
//! The terminal's second screen is used (xterm's private mode 1049), so that what was there
//! before is there again afterwards.

use std::io::{self, Write as _};

use slotwarden::ceremony_words;
use slotwarden::output;
use slotwarden::status_json::{SlotView, StatusView};

use super::typed;

/// Where things are shown.
pub(super) struct Screen {
    terminal: bool,
    /// What stands under the slots: where everything is, and the commands to try.
    below: Vec<String>,
    status: Option<StatusView>,
    /// The answer to the last typed line.
    said: String,
    /// The line for typing is there.
    prompts: bool,
    /// Nobody reads any more.
    pub(super) closed: bool,
}

impl Screen {
    /// Begins to show.
    pub(super) fn open(below: Vec<String>) -> Self {
        let terminal = output::terminal_size().is_some();
        let mut screen = Screen { terminal, below, status: None, said: String::new(), prompts: false, closed: false };
        if terminal {
            screen.write("\x1b[?1049h");
        } else {
            screen.write(&format!("{}\n{}\n", screen.below.join("\n"), typing()));
        }
        screen
    }

    /// The status now.
    pub(super) fn status(&mut self, status: StatusView) {
        if !self.terminal {
            let before = self.status.as_ref().map_or(&[][..], |before| &before.slots);
            let changed = status.slots.iter().filter(|slot| !before.contains(slot));
            let lines: String = changed.map(|slot| format!("{}\n", sentence(slot))).collect();
            self.write(&lines);
        }
        self.status = Some(status);
        self.draw(false);
    }

    /// An answer to a typed line, or news.
    pub(super) fn say(&mut self, text: &str) {
        text.clone_into(&mut self.said);
        if !self.terminal && !text.is_empty() {
            self.write(&format!("{text}\n"));
        }
        self.draw(true);
    }

    /// Whether seconds tick down on it.
    pub(super) fn ticks(&self) -> bool {
        let waits = |slot: &SlotView| slot.waits_for.as_ref().is_some_and(|wait| wait.seconds_left.is_some());
        self.terminal && self.status.as_ref().is_some_and(|status| status.slots.iter().any(waits))
    }

    /// Draws everything. `prompt`: the typed line ended, or the terminal has another size.
    pub(super) fn draw(&mut self, prompt: bool) {
        let (Some((columns, rows)), Some(status)) = (output::terminal_size(), &self.status) else { return };
        let top = output::slots_table(&status.slots);
        let halted = status.halted.as_ref().map(|halted| format!("halted: {}", halted.sentence));
        let worker = (!status.hsm.worker).then(|| "the HSM worker does not run".to_owned());
        let ceremony = status.ceremony.as_ref().map(ceremony_words::wait);
        let above = top.lines().map(str::to_owned).chain(halted).chain(worker).chain(ceremony).chain([String::new()]);
        let said = if self.said.is_empty() { typing() } else { self.said.clone() };
        let foot: Vec<&str> = said.lines().collect();
        let height = |line: &str| line.chars().count().max(1).div_ceil(usize::from(columns));
        let foot_rows: usize = foot.iter().map(|line| height(line)).sum();
        // The last row is for typing.
        let room = usize::from(rows).saturating_sub(1 + foot_rows);
        let mut text = String::from("\x1b7");
        for row in 1..rows {
            text.push_str(&format!("\x1b[{row};1H\x1b[2K"));
        }
        let mut used = 0;
        for line in above.chain(self.below.iter().cloned()) {
            if used + height(&line) > room {
                break;
            }
            text.push_str(&format!("\x1b[{};1H{line}", used + 1));
            used += height(&line);
        }
        let mut row = room + 1;
        for line in foot {
            text.push_str(&format!("\x1b[{row};1H{line}"));
            row += height(line);
        }
        if prompt || !std::mem::replace(&mut self.prompts, true) {
            text.push_str(&format!("\x1b[{rows};1H\x1b[2K> "));
        } else {
            text.push_str("\x1b8");
        }
        self.write(&text);
    }

    fn write(&mut self, text: &str) {
        let mut out = io::stdout();
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
            self.closed = true;
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal {
            self.write("\x1b[?1049l");
        }
    }
}

/// One slot in a line.
fn sentence(slot: &SlotView) -> String {
    let mut text = format!("{}: {}, ", slot.name, slot.mode);
    text.push_str(&if slot.is_active() { "active".to_owned() } else { format!("{}, {}", slot.state, slot.lack()) });
    for application in &slot.applications {
        text.push_str(&format!("; {} {}", application.name, application.state));
    }
    if let Some(attention) = &slot.attention {
        text.push_str(&format!("; attention: {attention}"));
    }
    text
}

/// What can be typed, while there is nothing to answer.
fn typing() -> String {
    format!("here: {}", typed::SHORT)
}
