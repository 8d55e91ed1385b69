//! What a person types at the simulator's own terminal: what happens to the devices.

use crate::code::Code;

/// PINs of one dialogue: the old one, and twice the new one.
const PINS_MAX: usize = 3;

/// What is done to the devices, or to the simulator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// The slot's token is taken out.
    Pull(u8),
    /// It is put in.
    Insert(u8),
    /// It answers no call any more.
    Hang(u8),
    /// It answers again.
    Answer(u8),
    /// Somebody else spends a try.
    Wrong(u8),
    /// This card is put into the reader.
    Card(u8),
    /// The card is taken out of it.
    CardOut,
    /// These PINs are typed on its pad, one each time it asks.
    Pins(Vec<Code>),
    /// Cancel is pressed on its pad.
    PadCancel,
    /// The worker dies.
    Kill,
    /// The power goes and comes back.
    Power,
    /// Explain.
    Help,
    /// Stop in order.
    Quit,
}

/// One line that names everything.
pub(super) const SHORT: &str = "pull|insert|hang|answer|wrong NAME, card NAME|out, pin PIN.., kill, power, help, quit";

/// What each does.
pub(super) const HELP: &str = "\
pull NAME    take the token out               insert NAME  put it in
hang NAME    it leaves calls unanswered       answer NAME  it answers again
wrong NAME   somebody else spends a try       kill         the HSM worker dies
card NAME    into the reader: alice, bob, carol, dave, spare (their PIN is 123456)
card out     out of it                        pin PIN..    typed on its pad; pin cancel
power        power cut: unsettled writes are lost, the daemon starts again
quit         stop in order (as Ctrl-C does)";

impl Typed {
    /// Reads a line; nothing for an empty one.
    pub(super) fn read(line: &str, slots: &[&str], cards: &[&str]) -> Result<Option<Typed>, String> {
        if let Some(typed) = at_reader(line, cards) {
            return typed.map(Some);
        }
        let mut words = line.split_whitespace();
        let Some(verb) = words.next() else { return Ok(None) };
        let (name, more) = (words.next(), words.next());
        let slot = || match name {
            _ if more.is_some() => Err(format!("one slot at a time: {verb} NAME")),
            None => Err(format!("{verb} whose token? One of: {}", slots.join(", "))),
            Some(name) => (0u8..)
                .zip(slots)
                .find(|(_, slot)| **slot == name)
                .map(|(number, _)| number)
                .ok_or_else(|| format!("there is no slot {name:?}; there are {}", slots.join(", "))),
        };
        let alone = |typed| if name.is_none() { Ok(typed) } else { Err(format!("{verb} takes no name")) };
        let typed = match verb {
            "pull" => Typed::Pull(slot()?),
            "insert" => Typed::Insert(slot()?),
            "hang" => Typed::Hang(slot()?),
            "answer" => Typed::Answer(slot()?),
            "wrong" => Typed::Wrong(slot()?),
            "kill" => alone(Typed::Kill)?,
            "power" => alone(Typed::Power)?,
            "help" => Typed::Help,
            "quit" | "exit" => alone(Typed::Quit)?,
            other => return Err(format!("{other:?} is not understood; here you type {SHORT}")),
        };
        Ok(Some(typed))
    }
}

/// What is done at the reader; nothing for what is not.
fn at_reader(line: &str, cards: &[&str]) -> Option<Result<Typed, String>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    Some(match words[..] {
        ["card", "out"] => Ok(Typed::CardOut),
        ["card", name] => {
            let found = (0u8..).zip(cards).find(|(_, card)| **card == name).map(|(number, _)| Typed::Card(number));
            found.ok_or_else(|| format!("there is no card {name:?}; there are {}", cards.join(", ")))
        }
        ["card", ..] => Err(format!("card NAME, or card out. Cards: {}", cards.join(", "))),
        ["pin", "cancel"] => Ok(Typed::PadCancel),
        ["pin", ref pins @ ..] => {
            let digits = |pin: &&str| pin.bytes().all(|byte| byte.is_ascii_digit());
            if pins.is_empty() || pins.len() > PINS_MAX || !pins.iter().all(digits) {
                return Some(Err("pin PIN, or pin OLD NEW NEW: digits, as on a keypad".to_owned()));
            }
            Ok(Typed::Pins(pins.iter().map(|pin| Code::new(pin.as_bytes())).collect()))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: [&str; 2] = ["a", "b"];
    const CARDS: [&str; 2] = ["alice", "bob"];

    #[test]
    fn what_is_not_understood_is_answered_with_what_would_be() {
        for (line, part) in [
            ("frob", "pull|insert"),
            ("pull", "a, b"),
            ("pull c", "\"c\""),
            ("pull a b", "one slot"),
            ("power a", "takes no name"),
            ("card", "alice, bob"),
            ("card eve", "\"eve\""),
            ("pin", "digits"),
            ("pin 12a456", "digits"),
            ("pin 1 2 3 4", "OLD NEW NEW"),
        ] {
            let said = Typed::read(line, &SLOTS, &CARDS).expect_err("it means nothing");
            assert!(said.contains(part), "{line}: {said}");
        }
    }

    #[test]
    fn lines_mean_what_they_say() {
        assert_eq!(Typed::read("  ", &SLOTS, &CARDS), Ok(None));
        assert_eq!(Typed::read("pull b", &SLOTS, &CARDS), Ok(Some(Typed::Pull(1))));
        assert_eq!(Typed::read(" hang  a ", &SLOTS, &CARDS), Ok(Some(Typed::Hang(0))));
        assert_eq!(Typed::read("card bob", &SLOTS, &CARDS), Ok(Some(Typed::Card(1))));
        assert_eq!(Typed::read("card out", &SLOTS, &CARDS), Ok(Some(Typed::CardOut)));
        let pins = vec![Code::new(b"123456")];
        assert_eq!(Typed::read("pin 123456", &SLOTS, &CARDS), Ok(Some(Typed::Pins(pins))));
        assert_eq!(Typed::read("quit", &SLOTS, &CARDS), Ok(Some(Typed::Quit)));
    }
}
