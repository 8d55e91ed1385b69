//! The desk before the readers: cards with names, and orders a line each.
//!
//! | order | what happens |
//! |---|---|
//! | `new CARD [tries 3\|5\|10] [MANNER]` | a blank card appears on the desk |
//! | `insert CARD` | it goes into the reader |
//! | `remove` | it comes back |
//! | `type PIN [PIN PIN]` | somebody types, one PIN each time the keypad asks; digits alone do the same |
//! | `mistype`, `cancel`, `timeout`, `hesitate MS` | what somebody does instead |
//! | `pull-after N` | the card is pulled after N commands |
//! | `tear` | the card is pulled in the middle of the next write |
//! | `count` | commands since this was last asked, by instruction |
//! | `cards`, `show CARD` | what there is |
//!
//! `@READER` before an order names the reader; else it is the first. Each order is answered
//! by one line that begins with `ok` or `error`. A card's serial is a hash of its name, so it
//! is the same after a restart; what was written to it is not.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};
use slotwarden_core::card::{Credential, RecordPlace};

use super::{Gate, Pad, Server, held};
use crate::cards::{Card, Manner, SERIAL_BYTES, SmartCard};
use crate::pin_pad::{Entry, Pull};

/// Tries of a card when nothing else is said.
pub const TRIES: u8 = 3;

/// Cards with names, before the readers of a server.
pub struct Desk {
    server: Server,
    cards: Mutex<BTreeMap<String, Named>>,
}

/// A card on the desk, or in a reader.
#[derive(Clone)]
struct Named {
    card: Arc<Mutex<dyn SmartCard>>,
    /// The same, where it is ours and can be looked into.
    ours: Option<Arc<Mutex<Card>>>,
}

impl Desk {
    /// An empty desk.
    #[must_use]
    pub fn new(server: Server) -> Self {
        Desk { server, cards: Mutex::default() }
    }

    /// A blank card appears; one of the same name is replaced.
    pub fn put(&self, name: &str, tries: u8, manner: Manner) -> Arc<Mutex<Card>> {
        let hash: [u8; 32] = Sha256::digest(name.as_bytes()).into();
        let mut serial = [0; SERIAL_BYTES];
        serial.copy_from_slice(&hash[..SERIAL_BYTES]);
        let card = Arc::new(Mutex::new(Card::with(serial, tries, manner)));
        let named = Named { card: Arc::clone(&card) as Arc<Mutex<dyn SmartCard>>, ours: Some(Arc::clone(&card)) };
        held(&self.cards).insert(name.to_owned(), named);
        card
    }

    /// A card of another kind appears; one of the same name is replaced.
    pub fn put_other(&self, name: &str, card: Arc<Mutex<dyn SmartCard>>) {
        held(&self.cards).insert(name.to_owned(), Named { card, ours: None });
    }

    /// The readers.
    #[must_use]
    pub fn pads(&self) -> &[Pad] {
        self.server.pads()
    }

    /// Carries out one order; the line that answers it.
    #[must_use]
    pub fn order(&self, line: &str) -> String {
        match self.carry_out(line) {
            Ok(said) if said.is_empty() => "ok".to_owned(),
            Ok(said) => format!("ok {said}"),
            Err(why) => format!("error: {why}"),
        }
    }

    /// Takes orders at a socket as well, until what is returned is dropped.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(self: &Arc<Self>, path: &Path) -> io::Result<Ear> {
        let desk = Arc::clone(self);
        Ok(Ear { _gate: Gate::open(path, move |stream| desk.hear(stream))? })
    }

    fn hear(&self, stream: &UnixStream) {
        let Ok(mut out) = stream.try_clone() else { return };
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            if writeln!(out, "{}", self.order(&line)).is_err() {
                return;
            }
        }
    }

    fn carry_out(&self, line: &str) -> Result<String, String> {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let named = words.first().and_then(|word| word.strip_prefix('@'));
        let pad = match named {
            Some(name) => self.server.pads().iter().find(|pad| pad.name() == name),
            None => self.server.pads().first(),
        };
        let pad = pad.ok_or("there is no such reader")?;
        if named.is_some() {
            words.remove(0);
        }
        match words[..] {
            ["new", name, ref rest @ ..] => self.make(name, rest),
            ["insert", name] => {
                let card = held(&self.cards).get(name).cloned().ok_or("there is no such card")?;
                pad.insert(card.card);
                Ok(String::new())
            }
            ["remove"] => {
                pad.remove().ok_or("no card is in the reader")?;
                Ok(String::new())
            }
            ["type", ref pins @ ..] if !pins.is_empty() => types(pad, pins),
            ref pins @ [first, ..] if first.bytes().all(|byte| byte.is_ascii_digit()) => types(pad, pins),
            ["mistype"] => does(pad, Entry::Mistypes),
            ["cancel"] => does(pad, Entry::Cancels),
            ["timeout"] => does(pad, Entry::LetsTimePass),
            ["hesitate", ms] => does(pad, Entry::Hesitates(number(ms)?)),
            ["pull-after", apdus] => pulls(pad, Pull::AfterApdus(number(apdus)?)),
            ["tear"] => pulls(pad, Pull::AmidWrite),
            ["count"] => Ok(count(pad)),
            ["cards"] => Ok(held(&self.cards).keys().cloned().collect::<Vec<_>>().join(" ")),
            ["show", name] => {
                let card = held(&self.cards).get(name).cloned().ok_or("there is no such card")?;
                let said = card.ours.map_or_else(|| "is of another kind".to_owned(), |card| describe(&held(&card)));
                Ok(format!("{name} {said}"))
            }
            _ => Err("no such order".to_owned()),
        }
    }

    fn make(&self, name: &str, rest: &[&str]) -> Result<String, String> {
        let (tries, rest) = match rest {
            ["tries", tries, rest @ ..] => (number(tries)?, rest),
            _ => (TRIES.into(), rest),
        };
        let tries = u8::try_from(tries).ok().filter(|tries| (1..=15).contains(tries)).ok_or("1 to 15 tries")?;
        let manner = match rest {
            [] => Manner::Proper,
            [word] => Manner::ALL.iter().find(|(name, _)| name == word).ok_or("there is no such manner")?.1,
            _ => return Err("new CARD [tries N] [MANNER]".to_owned()),
        };
        self.put(name, tries, manner);
        Ok(String::new())
    }
}

/// Listens for orders until dropped.
pub struct Ear {
    _gate: Gate,
}

fn types(pad: &Pad, pins: &[&str]) -> Result<String, String> {
    if pins.iter().any(|pin| !pin.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("a keypad has digits only".to_owned());
    }
    pad.types(pins);
    Ok(String::new())
}

// One shape for every order.
#[expect(clippy::unnecessary_wraps)]
fn does(pad: &Pad, entry: Entry) -> Result<String, String> {
    pad.expect(entry);
    Ok(String::new())
}

fn pulls(pad: &Pad, pull: Pull) -> Result<String, String> {
    if !pad.has_card() {
        return Err("no card is in the reader".to_owned());
    }
    pad.pull(pull);
    Ok(String::new())
}

fn number(word: &str) -> Result<u32, String> {
    word.parse().map_err(|_| format!("`{word}` is no number"))
}

fn count(pad: &Pad) -> String {
    let apdus = pad.take_apdus();
    let mut by_instruction = BTreeMap::new();
    for apdu in &apdus {
        *by_instruction.entry(apdu.header[1]).or_insert(0) += 1;
    }
    let mut said = format!("{} commands", apdus.len());
    for (instruction, times) in by_instruction {
        let _ = write!(said, ", {instruction:02X}: {times}");
    }
    said
}

fn describe(card: &Card) -> String {
    let mut said = String::from("serial ");
    for byte in card.serial() {
        let _ = write!(said, "{byte:02X}");
    }
    for (credential, name) in Credential::ALL.into_iter().zip(["backup share", "slot user", "HSM administrator"]) {
        let record = match card.in_force(credential) {
            None => "no record",
            Some(RecordPlace::A) => "record at A",
            Some(RecordPlace::B) => "record at B",
        };
        let pin = if card.is_on_transport_pin(credential) { "transport PIN" } else { "PIN of its own" };
        let _ = write!(said, "; {name}: {record}, {} tries left, {pin}", card.tries_left(credential));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk(folder: &tempfile::TempDir) -> Arc<Desk> {
        let sockets = [folder.path().join("left.sock"), folder.path().join("right.sock")];
        Arc::new(Desk::new(Server::start(&sockets).unwrap()))
    }

    #[test]
    fn what_nobody_understands_is_refused_in_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let desk = desk(&folder);
        for line in ["", "fly", "insert anna", "remove", "@middle cards", "type", "type 12a", "pull-after 1", "tear"] {
            let said = desk.order(line);
            assert!(said.starts_with("error: ") && !said.contains('\n'), "{line}: {said}");
        }
        for line in ["new anna tries 0", "new anna tries x", "new anna rude", "new anna full full"] {
            assert!(desk.order(line).starts_with("error: "), "{line}");
        }
        assert_eq!(desk.order("cards"), "ok", "none was made");
    }

    #[test]
    fn orders_go_to_the_reader_that_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let desk = desk(&folder);
        for line in ["new anna tries 5", "new bert full", "@right insert anna", "@right type 123456", "654321 1"] {
            assert_eq!(desk.order(line), "ok", "{line}");
        }
        assert_eq!(desk.order("cards"), "ok anna bert");
        let [left, right] = desk.server.pads() else { panic!("two readers") };
        assert!(!left.has_card() && right.has_card());
        assert_eq!((left.expected(), right.expected()), (2, 1));
        assert_eq!(desk.order("@right count"), "ok 0 commands");
        let shown = desk.order("show anna");
        assert!(shown.contains("backup share: no record, 5 tries left, transport PIN; slot user"), "{shown}");
        assert_eq!(desk.order("@right pull-after 0"), "ok");
        assert!(!right.has_card());
    }

    #[test]
    fn orders_are_taken_at_a_socket_too() {
        let folder = tempfile::tempdir().unwrap();
        let desk = desk(&folder);
        let path = folder.path().join("control");
        let _ear = desk.listen(&path).unwrap();
        let mut stream = UnixStream::connect(&path).unwrap();
        writeln!(stream, "new anna\ncards").unwrap();
        let said: Vec<_> = BufReader::new(stream).lines().take(2).map(Result::unwrap).collect();
        assert_eq!(said, ["ok", "ok anna"]);
    }
}
