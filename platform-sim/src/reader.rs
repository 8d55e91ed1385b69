//! Readers with a keypad on Unix sockets: what the IFD handler (`platform-sim/ifd-handler`)
//! asks for is done by a [`PinPad`] here.
//!
//! Each reader has a socket of its own; its path is the `DEVICENAME` that pcscd is told. A
//! client sends frames and gets one frame for each, in order. A frame is its length (u32,
//! little-endian, of what follows), a byte, and a body:
//!
//! | request | body | done: body |
//! |---|---|---|
//! | 1 presence | | 1 or 0 |
//! | 2 power | | answer to reset |
//! | 3 power off | | |
//! | 4 reset | | answer to reset |
//! | 5 transmit | command | response and status word |
//! | 6 control | code (u32, little-endian), data | what the feature answers |
//! | 7 wait | presence that is known, milliseconds (u32, little-endian) | 1 or 0, as soon as it differs |
//! | 8 card | | 1 or 0, as it is now; no removal counts as told by it |
//!
//! An answer begins with 0 done, 1 no card, 2 not supported. A dialogue of the keypad is
//! answered when it ended; other connections are served meanwhile. A removal is told at
//! least once by *presence* or *wait*, also when another card followed at once.
//!
//! The socket's file stays when the server ends: pcscd wants the path to exist, and the IFD
//! handler connects again when somebody serves it again. Cards are in memory only.

pub mod desk;

use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::cards::SmartCard;
use crate::code::Code;
use crate::pin_pad::{
    Apdu, Contact, Dialogue, Entry, GET_FEATURES, MODIFY_PIN, PIN_PROPERTIES, PinPad, Progress, Pull, Quirks,
    VERIFY_PIN,
};

/// Longest frame that is taken: an extended command and some more.
const FRAME_BYTES_MAX: usize = 0x1_1000;

/// Any card.
pub type AnyCard = Box<dyn SmartCard>;

/// Several readers, each on its socket, until dropped.
pub struct Server {
    pads: Vec<Pad>,
    gates: Vec<Gate>,
}

/// Who waits for clients at a socket.
struct Gate {
    path: PathBuf,
    closing: Arc<AtomicBool>,
    waiter: Option<JoinHandle<()>>,
}

/// One reader: what people do with it. Clones are the same reader.
#[derive(Clone)]
pub struct Pad {
    name: String,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    announce: Box<dyn Fn(&str) + Send + Sync>,
}

#[derive(Default)]
struct State {
    pad: PinPad<AnyCard>,
    /// A card was removed, and nobody was told yet.
    removal_untold: bool,
    /// The contact shows a card once more that is not there.
    bounces: bool,
    closed: bool,
}

impl Server {
    /// Serves a reader at each of these paths; a file that is there is replaced.
    ///
    /// # Errors
    /// When a socket cannot be made.
    pub fn start(sockets: &[impl AsRef<Path>]) -> io::Result<Self> {
        Server::announcing(sockets, |_| {})
    }

    /// The same; `announce` is told in a sentence when a keypad asks somebody, and how it ended.
    ///
    /// # Errors
    /// When a socket cannot be made.
    pub fn announcing(
        sockets: &[impl AsRef<Path>],
        announce: impl Fn(&str) + Send + Sync + Clone + 'static,
    ) -> io::Result<Self> {
        let mut server = Server { pads: Vec::new(), gates: Vec::new() };
        for path in sockets {
            let path = path.as_ref();
            let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
            let shared =
                Shared { state: Mutex::default(), changed: Condvar::new(), announce: Box::new(announce.clone()) };
            let pad = Pad { name, shared: Arc::new(shared) };
            let seen = pad.clone();
            server.gates.push(Gate::open(path, move |stream| seen.serve(stream))?);
            server.pads.push(pad);
        }
        Ok(server)
    }

    /// The readers, in the order of their sockets.
    #[must_use]
    pub fn pads(&self) -> &[Pad] {
        &self.pads
    }

    /// The reader at the first socket, the second, …
    ///
    /// # Panics
    /// When there are fewer.
    #[must_use]
    pub fn pad(&self, number: usize) -> &Pad {
        &self.pads[number]
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for pad in &self.pads {
            pad.state().closed = true;
            pad.shared.changed.notify_all();
        }
        self.gates.clear();
    }
}

impl Gate {
    /// Serves every client at this path in a thread of its own.
    fn open(path: &Path, serve: impl Fn(&UnixStream) + Send + Sync + Clone + 'static) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        let closing = Arc::new(AtomicBool::new(false));
        let waiter = thread::spawn({
            let closing = Arc::clone(&closing);
            move || {
                let mut clients: Vec<(UnixStream, JoinHandle<()>)> = Vec::new();
                while let Ok((stream, _)) = listener.accept() {
                    if closing.load(Ordering::Acquire) {
                        break;
                    }
                    // Without a handle to end it by, it is not served.
                    let Ok(handle) = stream.try_clone() else { continue };
                    let serve = serve.clone();
                    let served = thread::spawn(move || {
                        serve(&stream);
                        let _ = stream.shutdown(Shutdown::Both);
                    });
                    clients.push((handle, served));
                    clients.retain(|(_, served)| !served.is_finished());
                }
                for (stream, served) in clients {
                    let _ = stream.shutdown(Shutdown::Both);
                    let _ = served.join();
                }
            }
        });
        Ok(Gate { path: path.to_path_buf(), closing, waiter: Some(waiter) })
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        // Wakes the waiter. Somebody else may have taken the path over: then it is left waiting.
        if UnixStream::connect(&self.path).is_ok()
            && let Some(waiter) = self.waiter.take()
        {
            let _ = waiter.join();
        }
    }
}

impl Pad {
    /// The file name of its socket, without what follows the dot.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Somebody puts a card in; what was in comes out.
    pub fn insert(&self, card: impl SmartCard + 'static) -> Option<AnyCard> {
        let mut state = self.state();
        let before = state.pad.remove();
        state.removal_untold |= before.is_some();
        state.pad.insert(Box::new(card));
        self.shared.changed.notify_all();
        before
    }

    /// Somebody takes the card out, or picks up the one that was pulled by itself.
    pub fn remove(&self) -> Option<AnyCard> {
        let mut state = self.state();
        let card = state.pad.remove();
        state.removal_untold |= card.is_some();
        self.shared.changed.notify_all();
        card
    }

    /// Whether a card is in.
    #[must_use]
    pub fn has_card(&self) -> bool {
        self.state().pad.has_card()
    }

    /// Somebody is going to do this when the keypad asks, after what was said before.
    pub fn expect(&self, entry: Entry) {
        self.state().pad.expect(entry);
        self.shared.changed.notify_all();
    }

    /// Somebody types these PINs, one each time the keypad asks.
    pub fn types(&self, pins: &[&str]) {
        for pin in pins {
            self.expect(Entry::Types(Code::new(pin.as_bytes())));
        }
    }

    /// Somebody presses cancel.
    pub fn cancels(&self) {
        self.expect(Entry::Cancels);
    }

    /// The keypad's time passes without anybody, at once.
    pub fn lets_time_pass(&self) {
        self.expect(Entry::LetsTimePass);
    }

    /// Nobody is going to do what was said.
    pub fn forget(&self) {
        self.state().pad.forget();
    }

    /// What people were still going to do.
    #[must_use]
    pub fn expected(&self) -> usize {
        self.state().pad.expected()
    }

    /// The card will be pulled by itself.
    pub fn pull(&self, pull: Pull) {
        let mut state = self.state();
        let had = state.pad.has_card();
        state.pad.pull(pull);
        self.note_loss(&mut state, had);
    }

    /// Whoever looks next is told of a card that is not there, or not any more: a contact that bounces.
    pub fn bounce(&self) {
        self.state().bounces = true;
    }

    /// Makes it another kind of pad.
    pub fn set_quirks(&self, quirks: Quirks) {
        self.state().pad.quirks = quirks;
    }

    /// The commands that cards were sent since this was last asked.
    #[must_use]
    pub fn take_apdus(&self) -> Vec<Apdu> {
        self.state().pad.take_apdus()
    }

    /// How often the keypad began to ask.
    #[must_use]
    pub fn dialogues(&self) -> u32 {
        self.state().pad.dialogues()
    }

    /// Whether it asks somebody now.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.state().pad.is_asking()
    }

    /// Waits until it asks somebody; false when it did not so long.
    #[must_use]
    pub fn wait_until_asking(&self, longest: Duration) -> bool {
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(self.state(), longest, |state| !state.pad.is_asking())
            .unwrap_or_else(PoisonError::into_inner);
        state.pad.is_asking()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        held(&self.shared.state)
    }

    fn note_loss(&self, state: &mut State, had_card: bool) {
        if had_card && !state.pad.has_card() {
            state.removal_untold = true;
            self.shared.changed.notify_all();
        }
    }

    /// Serves one client until it goes.
    fn serve(&self, mut stream: &UnixStream) {
        let mut frame = Vec::new();
        let mut response = Vec::new();
        let mut out = Vec::new();
        while read_frame(&mut stream, &mut frame).is_ok() {
            response.clear();
            let outcome = match frame.split_first() {
                Some((kind, body)) => self.perform(*kind, body, &mut response),
                None => Outcome::NotSupported,
            };
            if outcome != Outcome::Done {
                response.clear();
            }
            let len = u32::try_from(response.len() + 1).expect("a response is bounded by its card");
            out.clear();
            out.extend(len.to_le_bytes());
            out.push(outcome as u8);
            out.extend(&response);
            if stream.write_all(&out).is_err() {
                return;
            }
        }
    }

    fn perform(&self, kind: u8, body: &[u8], response: &mut Vec<u8>) -> Outcome {
        match kind {
            1 => {
                let mut state = self.state();
                let bounced = std::mem::take(&mut state.bounces);
                response.push(u8::from(bounced || tell_presence(&mut state)));
                Outcome::Done
            }
            2 => {
                let answer = self.state().pad.power();
                self.shared.changed.notify_all();
                Outcome::with(answer, response)
            }
            3 => {
                self.state().pad.power_off();
                Outcome::Done
            }
            4 => Outcome::with(self.state().pad.reset(), response),
            5 => {
                let mut state = self.state();
                let had = state.pad.has_card();
                let contact = state.pad.transmit(body, response);
                self.note_loss(&mut state, had);
                Outcome::of(contact)
            }
            6 => match body.split_first_chunk() {
                Some((code, data)) => self.control(u32::from_le_bytes(*code), data, response),
                None => Outcome::NotSupported,
            },
            7 => match *body {
                [known, a, b, c, d] => {
                    let longest = Duration::from_millis(u32::from_le_bytes([a, b, c, d]).into());
                    response.push(u8::from(self.wait_for_change(known != 0, longest)));
                    Outcome::Done
                }
                _ => Outcome::NotSupported,
            },
            8 => {
                response.push(u8::from(self.has_card()));
                Outcome::Done
            }
            _ => Outcome::NotSupported,
        }
    }

    fn wait_for_change(&self, known: bool, longest: Duration) -> bool {
        let (mut state, _) = self
            .shared
            .changed
            .wait_timeout_while(self.state(), longest, |state| {
                !state.closed && !state.removal_untold && state.pad.has_card() == known
            })
            .unwrap_or_else(PoisonError::into_inner);
        if state.closed { known } else { tell_presence(&mut state) }
    }

    fn control(&self, code: u32, data: &[u8], response: &mut Vec<u8>) -> Outcome {
        let state = self.state();
        match code {
            GET_FEATURES => {
                response.extend(state.pad.features());
                Outcome::Done
            }
            PIN_PROPERTIES if state.pad.quirks.keypad => {
                response.extend(state.pad.properties());
                Outcome::Done
            }
            VERIFY_PIN => self.ask(state, Dialogue::Verify, data, response),
            MODIFY_PIN => self.ask(state, Dialogue::Modify, data, response),
            _ => Outcome::NotSupported,
        }
    }

    /// Lives through a dialogue in real time.
    fn ask(&self, mut state: MutexGuard<'_, State>, kind: Dialogue, data: &[u8], response: &mut Vec<u8>) -> Outcome {
        let began = Instant::now();
        let had = state.pad.has_card();
        let mut progress = state.pad.begin(kind, data, response);
        // Another dialogue can only begin when the host of this one is gone.
        let mine = state.pad.dialogues();
        self.shared.changed.notify_all();
        let mut announced = false;
        let contact = loop {
            let thinks_until = match progress {
                Progress::Ended(contact) => break contact,
                Progress::Hesitates(pause_ms) => Some(Instant::now() + Duration::from_millis(pause_ms.into())),
                Progress::Waits { .. } => None,
            };
            let until = match progress {
                Progress::Waits { timeout_ms } => began + Duration::from_millis(timeout_ms.into()),
                _ => thinks_until.unwrap_or(began),
            };
            if thinks_until.is_none() && !announced {
                announced = true;
                let wanted = match kind {
                    Dialogue::Verify => "the PIN",
                    Dialogue::Modify => "the old PIN, the new one, and the new one again",
                };
                (self.shared.announce)(&format!("{}: asks for {wanted}", self.name));
            }
            let left = until.saturating_duration_since(Instant::now());
            let waited = self
                .shared
                .changed
                .wait_timeout_while(state, left, |state| {
                    let somebody = thinks_until.is_none() && state.pad.expected() > 0;
                    let ours = state.pad.is_asking() && state.pad.dialogues() == mine;
                    !state.closed && state.pad.has_card() && ours && !somebody
                })
                .unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            if state.closed || !state.pad.is_asking() || state.pad.dialogues() != mine {
                break Contact::Lost;
            }
            progress = if waited.1.timed_out() && thinks_until.is_none() {
                state.pad.time_out(response)
            } else {
                state.pad.go_on(response)
            };
        };
        self.note_loss(&mut state, had);
        drop(state);
        if announced {
            let word = response.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
            (self.shared.announce)(&format!("{}: {}", self.name, if word.is_empty() { "no card" } else { &word }));
        }
        Outcome::of(contact)
    }
}

/// First byte of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done = 0,
    NoCard = 1,
    NotSupported = 2,
}

impl Outcome {
    fn of(contact: Contact) -> Self {
        match contact {
            Contact::Answered => Outcome::Done,
            Contact::Lost => Outcome::NoCard,
        }
    }

    fn with(answer: Option<Vec<u8>>, response: &mut Vec<u8>) -> Self {
        match answer {
            Some(answer) => {
                response.extend(answer);
                Outcome::Done
            }
            None => Outcome::NoCard,
        }
    }
}

/// Whether a card is in; a removal that nobody was told of is told first.
fn tell_presence(state: &mut State) -> bool {
    let untold = std::mem::take(&mut state.removal_untold);
    state.pad.has_card() && !untold
}

fn read_frame(stream: &mut impl io::Read, frame: &mut Vec<u8>) -> io::Result<()> {
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let len = usize::try_from(u32::from_le_bytes(len)).map_err(io::Error::other)?;
    if len > FRAME_BYTES_MAX {
        return Err(io::Error::other("a frame longer than any command"));
    }
    frame.resize(len, 0);
    stream.read_exact(frame)
}

/// A card or a client that panicked has left nothing half done behind its lock.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::cards::{ATR, Card};
    use crate::pin_pad::verify_structure;

    struct Client(UnixStream);

    impl Client {
        fn ask(&mut self, kind: u8, body: &[u8]) -> (u8, Vec<u8>) {
            let len = u32::try_from(body.len() + 1).unwrap();
            self.0.write_all(&[&len.to_le_bytes()[..], &[kind], body].concat()).unwrap();
            let mut frame = Vec::new();
            read_frame(&mut self.0, &mut frame).unwrap();
            let body = frame.split_off(1);
            (frame[0], body)
        }
    }

    fn stage() -> (tempfile::TempDir, Server, Client) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("left.sock");
        let server = Server::start(&[&socket]).unwrap();
        let client = Client(UnixStream::connect(&socket).unwrap());
        (folder, server, client)
    }

    #[test]
    fn an_empty_reader_says_so_and_a_card_answers() {
        let (_folder, server, mut client) = stage();
        assert_eq!(client.ask(1, &[]), (0, vec![0]));
        assert_eq!(client.ask(2, &[]), (1, vec![]));
        assert_eq!(client.ask(9, &[]), (2, vec![]));
        server.pad(0).insert(Card::new([1; 8]));
        assert_eq!(client.ask(1, &[]), (0, vec![1]));
        assert_eq!(client.ask(5, &[0, 0x20, 0, 0x81]), (1, vec![]), "no power");
        assert_eq!(client.ask(2, &[]), (0, ATR.to_vec()));
        assert_eq!(client.ask(5, &[0, 0x20, 0, 0x81]), (0, vec![0x69, 0x85]));
        assert_eq!(server.pad(0).take_apdus().len(), 1);
    }

    #[test]
    fn a_card_that_was_swapped_is_missed_once() {
        let (_folder, server, mut client) = stage();
        server.pad(0).insert(Card::new([1; 8]));
        assert_eq!(client.ask(1, &[]).1, [1]);
        server.pad(0).insert(Card::new([2; 8]));
        assert_eq!(client.ask(8, &[]).1, [1], "and this tells nobody");
        assert_eq!(client.ask(7, &[1, 0xFF, 0xFF, 0, 0]).1, [0]);
        assert_eq!(client.ask(7, &[0, 0xFF, 0xFF, 0, 0]).1, [1]);
    }

    #[test]
    fn a_dialogue_waits_for_somebody_and_ends_with_its_card() {
        let (folder, server, mut client) = stage();
        let pad = server.pad(0);
        pad.insert(Card::new([1; 8]));
        client.ask(2, &[]);
        let mut control = VERIFY_PIN.to_le_bytes().to_vec();
        control.extend(verify_structure(&[0, 0x20, 0, 0x81], [6, 12], 60));
        let asked = thread::spawn({
            let control = control.clone();
            move || (client.ask(6, &control), client)
        });
        assert!(pad.wait_until_asking(Duration::from_secs(30)));
        let mut other = Client(UnixStream::connect(folder.path().join("left.sock")).unwrap());
        assert_eq!(other.ask(1, &[]).1, [1], "another connection is served meanwhile");
        pad.expect(Entry::Hesitates(20));
        pad.types(&["123456"]);
        let ((outcome, word), mut client) = asked.join().unwrap();
        assert_eq!((outcome, word), (0, vec![0x69, 0x85]), "nothing was selected");
        let asked = thread::spawn(move || client.ask(6, &control));
        assert!(pad.wait_until_asking(Duration::from_secs(30)));
        pad.remove();
        assert_eq!(asked.join().unwrap(), (1, vec![]));
    }

    #[test]
    fn what_is_typed_for_a_new_host_does_not_go_to_the_dialogue_of_one_that_died() {
        let (folder, server, mut client) = stage();
        let pad = server.pad(0);
        pad.insert(Card::new([1; 8]));
        client.ask(2, &[]);
        let mut control = VERIFY_PIN.to_le_bytes().to_vec();
        control.extend(verify_structure(&[0, 0x20, 0, 0x81], [6, 12], 60));
        let len = u32::try_from(control.len() + 1).unwrap();
        client.0.write_all(&[&len.to_le_bytes()[..], &[6], &control].concat()).unwrap();
        assert!(pad.wait_until_asking(Duration::from_secs(30)));
        drop(client);
        let mut fresh = Client(UnixStream::connect(folder.path().join("left.sock")).unwrap());
        assert_eq!(fresh.ask(2, &[]).0, 0);
        assert!(!pad.is_asking());
        let asked = thread::spawn(move || fresh.ask(6, &control));
        assert!(pad.wait_until_asking(Duration::from_secs(30)));
        pad.types(&["123456"]);
        assert_eq!(asked.join().unwrap(), (0, vec![0x69, 0x85]), "nothing was selected");
        assert_eq!((pad.take_apdus().len(), pad.dialogues()), (1, 2));
    }

    #[test]
    fn a_frame_too_long_ends_its_connection_and_no_other() {
        let (folder, server, mut client) = stage();
        client.0.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert_eq!(client.0.read(&mut [0]).unwrap(), 0);
        let mut other = Client(UnixStream::connect(folder.path().join("left.sock")).unwrap());
        assert_eq!(other.ask(1, &[]).1, [0]);
        drop(server);
    }
}
