//! A ceremony followed live: what is to be done, by whom, for how long; its questions asked here
//! where somebody can answer them.
//!
//! The order that begins a ceremony is answered only when it ended, so it travels on one
//! connection while a second one asks for the next change. Neither is needed by the ceremony:
//! a client that ends leaves it running in the daemon.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use slotwarden_core::Refusal;

use super::CONFIRM_LAST_TRY;
use super::session::Session;
use crate::ceremony_words;
use crate::client::{Client, Refused};
use crate::output::{self, Format};
use crate::problem::{Own, Problem};
use crate::secret::{self, Secret};
use crate::status_json::{CeremonyView, LastCeremonyView};
use crate::wire::{Answered, Ask, CeremonyNow, Order, SecretRole};

/// Between two looks while no ceremony is under way yet: an order that needs an approval, or is
/// refused, is answered within it.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// How often the seconds at a terminal are redrawn, and the keyboard looked at.
const TICK: Duration = Duration::from_millis(200);
/// Columns of a terminal that does not say how many it has.
const COLUMNS_DEFAULT: u16 = 80;
/// Longest answer that is read from the terminal, bytes.
const LINE_BYTES_MAX: usize = 256;

/// The secrets of an order.
pub(super) type Secrets = Vec<(SecretRole, Secret)>;
/// How an order ended.
pub(super) type Ended = Result<(Answered, Option<Secret>), Refused>;

/// What the two connections report.
enum Heard {
    /// What is under way now.
    Now(Box<CeremonyNow>),
    /// The order ended; its secrets come back, in case it is given again.
    Order(Box<Ended>, Secrets),
    /// Nobody tells any more how it goes on.
    Lost(Box<Refused>),
}

impl Session {
    /// The ceremony under way, and how the last one ended.
    pub(super) fn ceremony_now(&self) -> Result<CeremonyNow, Refused> {
        now(&self.client, None)
    }

    /// Sends an order that may begin a ceremony, and follows that until the order is answered. The
    /// ceremony's id, if one began.
    pub(super) fn order_followed(&self, order: Order, secrets: Secrets) -> (Ended, Secrets, Option<String>) {
        // Who may not read the status is not shown what happens, and may give the order all the same.
        let Ok(before) = self.ceremony_now() else {
            self.interrupts.order_sent(true);
            let ended = self.client.ask_for_share(Ask::Order(order), &secrets);
            self.interrupts.order_sent(false);
            return (ended, secrets, None);
        };
        let others = before.ceremony.map(|ceremony| ceremony.id);
        let (heard, hearing) = channel();
        self.interrupts.order_sent(true);
        watch(self.client.clone(), heard.clone());
        let client = self.client.clone();
        thread::spawn(move || {
            let ended = client.ask_for_share(Ask::Order(order), &secrets);
            // Whoever followed it is gone together with the process.
            let _ = heard.send(Heard::Order(Box::new(ended), secrets));
        });
        let mut live = Live::new(self);
        let ended = live
            .follow(&hearing, |ceremony, you| Some(&ceremony.id) != others.as_ref() && Some(&ceremony.starter) == you);
        live.close();
        self.interrupts.order_sent(false);
        self.interrupts.ceremony_runs(false);
        let id = live.id.take();
        match ended {
            Some((ended, secrets)) => (ended, secrets, id),
            None => (Err(Own::AnswerLost.into()), Vec::new(), id),
        }
    }

    /// Follows the ceremony under way until it ends: how it did.
    pub(super) fn watch_ceremony(&self) -> Result<LastCeremonyView, Refused> {
        let Some(ceremony) = self.ceremony_now()?.ceremony else {
            return Err(Problem::from(Refusal::NoCeremony).into());
        };
        let (heard, hearing) = channel();
        watch(self.client.clone(), heard);
        let mut live = Live::new(self);
        live.every = self.format == Format::Json;
        let ended = live.follow_until_end(&hearing, &ceremony.id);
        live.close();
        self.interrupts.ceremony_runs(false);
        ended
    }
}

fn now(client: &Client, seen: Option<u32>) -> Result<CeremonyNow, Refused> {
    match client.ask(Ask::Ceremony { seen }, &[])? {
        Answered::Ceremony(now) => Ok(*now),
        _ => Err(Own::OtherVersion.into()),
    }
}

/// Asks for one change after the other until nobody listens.
fn watch(client: Client, heard: Sender<Heard>) {
    thread::spawn(move || {
        let mut seen = None;
        loop {
            let told = match now(&client, seen) {
                Ok(now) => {
                    seen = now.ceremony.as_ref().map(|ceremony| ceremony.changes);
                    heard.send(Heard::Now(Box::new(now)))
                }
                Err(refused) => {
                    let _ = heard.send(Heard::Lost(Box::new(refused)));
                    return;
                }
            };
            if told.is_err() {
                return;
            }
            if seen.is_none() {
                thread::sleep(LOOK_PAUSE);
            }
        }
    });
}

/// What is on the screen of one ceremony.
struct Live<'s> {
    session: &'s Session,
    /// Whether the last line is drawn anew as its seconds tick down.
    redraws: bool,
    /// Whether each change is printed as JSON.
    every: bool,
    id: Option<String>,
    view: Option<CeremonyView>,
    heard_at: Instant,
    /// The line as it was printed, without its seconds.
    line: String,
    /// The same with them.
    drawn: String,
    /// The refusal that was printed last.
    last: Option<String>,
    /// A line stands on the screen that is drawn anew.
    open: bool,
    /// The question that stands on the screen, by its ceremony's changes.
    asked: Option<u32>,
}

impl<'s> Live<'s> {
    fn new(session: &'s Session) -> Self {
        Live {
            session,
            redraws: io::stderr().is_terminal(),
            every: false,
            id: None,
            view: None,
            heard_at: Instant::now(),
            line: String::new(),
            drawn: String::new(),
            last: None,
            open: false,
            asked: None,
        }
    }

    /// Until the order is answered.
    fn follow(
        &mut self,
        hearing: &Receiver<Heard>,
        is_ours: impl Fn(&CeremonyView, Option<&String>) -> bool,
    ) -> Option<(Ended, Secrets)> {
        loop {
            match hearing.recv_timeout(TICK) {
                Ok(Heard::Order(ended, secrets)) => return Some((*ended, secrets)),
                Ok(Heard::Now(now)) => match now.ceremony {
                    Some(ceremony)
                        if self.id.as_ref() == Some(&ceremony.id) || is_ours(&ceremony, now.you.as_ref()) =>
                    {
                        self.show(ceremony);
                    }
                    Some(_) | None => self.view = None,
                },
                // The order is still answered, or its connection says why not.
                Ok(Heard::Lost(_)) => self.view = None,
                Err(RecvTimeoutError::Timeout) => self.tick(),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Until this ceremony ended.
    fn follow_until_end(&mut self, hearing: &Receiver<Heard>, id: &str) -> Result<LastCeremonyView, Refused> {
        loop {
            match hearing.recv_timeout(TICK) {
                Ok(Heard::Now(now)) => match (now.ceremony, now.last) {
                    (Some(ceremony), _) if ceremony.id == id => self.show(ceremony),
                    (_, Some(last)) if last.id == id => return Ok(last),
                    // A daemon that was restarted meanwhile knows nothing of it any more.
                    (_, _) => return Err(Problem::from(Refusal::NoCeremony).into()),
                },
                Ok(Heard::Lost(refused)) => return Err(*refused),
                Ok(Heard::Order(..)) => {}
                Err(RecvTimeoutError::Timeout) => self.tick(),
                Err(RecvTimeoutError::Disconnected) => return Err(Own::AnswerLost.into()),
            }
        }
    }

    /// One change.
    fn show(&mut self, view: CeremonyView) {
        self.session.interrupts.ceremony_runs(true);
        self.heard_at = Instant::now();
        if self.every {
            match serde_json::to_string(&view) {
                Ok(text) => output::line(&text),
                Err(error) => output::aside(&format!("the ceremony cannot be written as JSON: {error}")),
            }
        }
        if self.id.is_none() {
            let goes_on = match self.session.alone {
                true => "without a daemon: it ends with this program, and nothing of it is kept",
                false => "it goes on without this terminal: `slotwarden ceremony watch`, `slotwarden ceremony cancel`",
            };
            output::aside(&format!("ceremony {} ({}); {goes_on}", view.id, view.command));
        }
        self.id = Some(view.id.clone());
        let last = ceremony_words::last(&view);
        if let Some(last) = last.as_ref().filter(|last| self.last.as_ref() != Some(last)) {
            self.close();
            output::aside(&format!("  {last}"));
        }
        self.last = last;
        let line = ceremony_words::wait(&view);
        let changed = line != self.line;
        if changed && !self.every {
            self.close();
            self.line = line;
        }
        let asks = view.wait == "answer" && self.asked != Some(view.changes);
        self.view = Some(view);
        if changed && !self.every {
            self.draw(true);
        }
        if asks {
            self.ask();
        }
    }

    /// Time passed.
    fn tick(&mut self) {
        if self.asked.is_some() {
            if let Some(typed) = typed_line() {
                self.answer(&typed);
            }
        } else if self.redraws {
            self.draw(false);
        }
    }

    /// Prints the line; at a terminal in place of the one before.
    fn draw(&mut self, new: bool) {
        let Some(view) = &self.view else { return };
        let passed = u32::try_from(self.heard_at.elapsed().as_secs()).unwrap_or(u32::MAX);
        let seconds_left = view.seconds_left.map(|left| left.saturating_sub(passed));
        let text = format!("{}{}", self.line, ceremony_words::left(view, seconds_left));
        if text == self.drawn && !new {
            return;
        }
        if self.redraws && fits(&text) {
            // Back to the beginning, and the rest of the line erased (ECMA-48: CR, EL).
            let _ = write!(io::stderr(), "\r{text}\x1b[K");
            let _ = io::stderr().flush();
            self.open = true;
        } else if new {
            output::aside(&text);
        }
        self.drawn = text;
    }

    /// Leaves the line that is drawn anew.
    fn close(&mut self) {
        if self.open {
            output::aside("");
            self.open = false;
        }
        self.asked = None;
    }

    /// Says how to answer, here or elsewhere.
    fn ask(&mut self) {
        let Some(view) = &self.view else { return };
        let how = match self.session.alone {
            true => "it is answered at a terminal only, and this program has none",
            false => ceremony_words::how_to_answer(view),
        };
        let (changes, question) = (view.changes, view.question.clone());
        self.close();
        if !secret::on_terminal() {
            output::aside(&format!("  {how}"));
            return;
        }
        let prompt = match question.as_deref() {
            Some("last-try") => format!("Type `{CONFIRM_LAST_TRY}` to have it typed, or `no`: "),
            _ => "Type `yes` or `no`: ".to_owned(),
        };
        let _ = write!(io::stderr(), "{prompt}");
        let _ = io::stderr().flush();
        (self.asked, self.open) = (Some(changes), true);
    }

    /// Somebody typed an answer.
    fn answer(&mut self, typed: &str) {
        let Some(view) = self.view.clone() else { return };
        self.open = false;
        let last_try = view.question.as_deref() == Some("last-try");
        let (yes, confirmed) = match typed.trim() {
            CONFIRM_LAST_TRY if last_try => (true, true),
            "yes" if !last_try => (true, false),
            "no" => (false, false),
            _ => return self.ask(),
        };
        self.asked = None;
        let order = Order::AnswerCeremony { id: view.id, yes, confirmed };
        if let Err(refused) = self.session.client.ask(Ask::Order(order), &[]) {
            output::aside(&format!("  {}; {}", refused.problem, refused.problem.remedy));
        }
    }
}

/// Whether a line can be drawn anew: one that the terminal breaks would leave its beginning behind.
fn fits(text: &str) -> bool {
    // A terminal that does not know its size says 0.
    let columns = rustix::termios::tcgetwinsize(io::stderr()).map_or(0, |size| size.ws_col);
    text.chars().count() < usize::from(if columns == 0 { COLUMNS_DEFAULT } else { columns })
}

/// A line that was typed, if one was. Read without a buffer, so that nothing typed ahead is lost
/// to who asks next; a terminal hands over whole lines.
fn typed_line() -> Option<String> {
    let stdin = io::stdin();
    let mut found = [PollFd::new(&stdin, PollFlags::IN)];
    let ready = poll(&mut found, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0);
    if !ready {
        return None;
    }
    let mut line = [0; LINE_BYTES_MAX];
    let length = rustix::io::read(&stdin, &mut line).unwrap_or(0);
    // An end of the terminal is an empty line: it is asked again, and answered nowhere.
    Some(String::from_utf8_lossy(&line[..length]).into_owned())
}
