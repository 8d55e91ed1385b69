//! What a person types at the simulator's own terminal: what happens to the devices.

/// What is done to the devices, or to the simulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
pub(super) const SHORT: &str = "pull|insert|hang|answer|wrong NAME, kill, power, help, quit";

/// What each does.
pub(super) const HELP: &str = "\
pull NAME    take the token out               insert NAME  put it in
hang NAME    it leaves calls unanswered       answer NAME  it answers again
wrong NAME   somebody else spends a try       kill         the HSM worker dies
power        power cut: unsettled writes are lost, the daemon starts again
quit         stop in order (as Ctrl-C does)";

impl Typed {
    /// Reads a line; nothing for an empty one.
    pub(super) fn read(line: &str, slots: &[&str]) -> Result<Option<Typed>, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: [&str; 2] = ["a", "b"];

    #[test]
    fn what_is_not_understood_is_answered_with_what_would_be() {
        for (line, part) in [
            ("frob", "pull|insert"),
            ("pull", "a, b"),
            ("pull c", "\"c\""),
            ("pull a b", "one slot"),
            ("power a", "takes no name"),
        ] {
            let said = Typed::read(line, &SLOTS).expect_err("it means nothing");
            assert!(said.contains(part), "{line}: {said}");
        }
    }

    #[test]
    fn lines_mean_what_they_say() {
        assert_eq!(Typed::read("  ", &SLOTS), Ok(None));
        assert_eq!(Typed::read("pull b", &SLOTS), Ok(Some(Typed::Pull(1))));
        assert_eq!(Typed::read(" hang  a ", &SLOTS), Ok(Some(Typed::Hang(0))));
        assert_eq!(Typed::read("quit", &SLOTS), Ok(Some(Typed::Quit)));
    }
}
