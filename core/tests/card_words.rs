//! Every status word of every command, against a table that is plain enough to be read.

#![allow(clippy::expect_used, clippy::std_instead_of_core)]

use std::collections::BTreeMap;

use slotwarden_core::card::StatusWord;

/// A line: the first word, the last word, and what they mean, by its name.
type Table = &'static [(u16, u16, &'static str)];

/// What a command's words mean where the table says nothing.
struct Command {
    name: &'static str,
    class: fn(StatusWord) -> String,
    otherwise: &'static str,
    table: Table,
    /// How many words have each meaning.
    counts: &'static [(&'static str, usize)],
}

const SELECT: Table = &[
    (0x9000, 0x9000, "Found"),
    (0x6100, 0x61FF, "Found"),
    (0x6700, 0x6700, "NotThisKind"),
    (0x6881, 0x6882, "NotThisKind"),
    (0x6999, 0x6999, "NotThisKind"),
    (0x6A80, 0x6A82, "NotThisKind"),
    (0x6A86, 0x6A87, "NotThisKind"),
    (0x6B00, 0x6B00, "NotThisKind"),
    (0x6D00, 0x6D00, "NotThisKind"),
    (0x6E00, 0x6E00, "NotThisKind"),
];

const TRIES: Table = &[
    (0x9000, 0x9000, "InData"),
    (0x6100, 0x61FF, "InData"),
    (0x63C0, 0x63C0, "Blocked"),
    (0x6983, 0x6984, "Blocked"),
    (0x63C1, 0x63C1, "Left(1)"),
    (0x63C2, 0x63C2, "Left(2)"),
    (0x63C3, 0x63C3, "Left(3)"),
    (0x63C4, 0x63C4, "Left(4)"),
    (0x63C5, 0x63C5, "Left(5)"),
    (0x63C6, 0x63C6, "Left(6)"),
    (0x63C7, 0x63C7, "Left(7)"),
    (0x63C8, 0x63C8, "Left(8)"),
    (0x63C9, 0x63C9, "Left(9)"),
    (0x63CA, 0x63CA, "Left(10)"),
    (0x63CB, 0x63CB, "Left(11)"),
    (0x63CC, 0x63CC, "Left(12)"),
    (0x63CD, 0x63CD, "Left(13)"),
    (0x63CE, 0x63CE, "Left(14)"),
    (0x63CF, 0x63CF, "Left(15)"),
    (0x6300, 0x6300, "NotSaid"),
    (0x6700, 0x6700, "NotSaid"),
];

/// Common to both commands with a PIN.
const PIN: Table = &[
    (0x63C0, 0x63C0, "Blocked"),
    (0x6983, 0x6984, "Blocked"),
    (0x6300, 0x6300, "Wrong { left: None }"),
    (0x6982, 0x6982, "Wrong { left: None }"),
    (0x63C1, 0x63C1, "Wrong { left: Some(1) }"),
    (0x63C2, 0x63C2, "Wrong { left: Some(2) }"),
    (0x63C3, 0x63C3, "Wrong { left: Some(3) }"),
    (0x63C4, 0x63C4, "Wrong { left: Some(4) }"),
    (0x63C5, 0x63C5, "Wrong { left: Some(5) }"),
    (0x63C6, 0x63C6, "Wrong { left: Some(6) }"),
    (0x63C7, 0x63C7, "Wrong { left: Some(7) }"),
    (0x63C8, 0x63C8, "Wrong { left: Some(8) }"),
    (0x63C9, 0x63C9, "Wrong { left: Some(9) }"),
    (0x63CA, 0x63CA, "Wrong { left: Some(10) }"),
    (0x63CB, 0x63CB, "Wrong { left: Some(11) }"),
    (0x63CC, 0x63CC, "Wrong { left: Some(12) }"),
    (0x63CD, 0x63CD, "Wrong { left: Some(13) }"),
    (0x63CE, 0x63CE, "Wrong { left: Some(14) }"),
    (0x63CF, 0x63CF, "Wrong { left: Some(15) }"),
    (0x6400, 0x6400, "TimedOut"),
    (0x6401, 0x6401, "Cancelled"),
    (0x6403, 0x6403, "Length"),
    (0x6700, 0x6700, "Length"),
];

const VERIFY: Table = &[
    (0x9000, 0x9000, "Accepted"),
    (0x6A81, 0x6A81, "NotTried"),
    (0x6A86, 0x6A86, "NotTried"),
    (0x6A88, 0x6A88, "NotTried"),
    (0x6B00, 0x6B00, "NotTried"),
    (0x6D00, 0x6D00, "NotTried"),
    (0x6E00, 0x6E00, "NotTried"),
];

const CHANGE: Table = &[
    (0x9000, 0x9000, "Changed"),
    (0x6402, 0x6402, "Mismatch"),
    (0x6985, 0x6985, "NotChanged"),
    (0x6A80, 0x6A81, "NotChanged"),
    (0x6A86, 0x6A86, "NotChanged"),
    (0x6A88, 0x6A88, "NotChanged"),
    (0x6B00, 0x6B00, "NotChanged"),
    (0x6D00, 0x6D00, "NotChanged"),
    (0x6E00, 0x6E00, "NotChanged"),
];

const READ: Table = &[
    (0x9000, 0x9000, "Read"),
    (0x6100, 0x61FF, "Read"),
    (0x6282, 0x6282, "Missing"),
    (0x6A82, 0x6A83, "Missing"),
    (0x6A88, 0x6A88, "Missing"),
];

const WRITE: Table = &[
    (0x9000, 0x9000, "Written"),
    (0x6700, 0x6700, "NotWritten"),
    (0x6981, 0x6982, "NotWritten"),
    (0x6985, 0x6986, "NotWritten"),
    (0x6A80, 0x6A82, "NotWritten"),
    (0x6A84, 0x6A86, "NotWritten"),
    (0x6A88, 0x6A88, "NotWritten"),
    (0x6B00, 0x6B00, "NotWritten"),
    (0x6D00, 0x6D00, "NotWritten"),
    (0x6E00, 0x6E00, "NotWritten"),
];

const COMMANDS: &[Command] = &[
    Command {
        name: "Select",
        class: |word| format!("{:?}", word.of_select()),
        otherwise: "Failed",
        table: SELECT,
        counts: &[("Found", 257), ("NotThisKind", 12), ("Failed", 65_267)],
    },
    Command {
        name: "Tries",
        class: |word| format!("{:?}", word.of_tries()),
        otherwise: "Failed",
        table: TRIES,
        counts: &[("InData", 257), ("Blocked", 3), ("Left", 15), ("NotSaid", 2), ("Failed", 65_259)],
    },
    Command {
        name: "Verify",
        class: |word| format!("{:?}", word.of_verify()),
        otherwise: "MaybeTried",
        table: VERIFY,
        counts: &[
            ("Accepted", 1),
            ("Wrong", 17),
            ("Blocked", 3),
            ("TimedOut", 1),
            ("Cancelled", 1),
            ("Length", 2),
            ("NotTried", 6),
            ("MaybeTried", 65_505),
        ],
    },
    Command {
        name: "ChangePin",
        class: |word| format!("{:?}", word.of_change()),
        otherwise: "OldOrNew",
        table: CHANGE,
        counts: &[
            ("Changed", 1),
            ("Wrong", 17),
            ("Blocked", 3),
            ("TimedOut", 1),
            ("Cancelled", 1),
            ("Mismatch", 1),
            ("Length", 2),
            ("NotChanged", 8),
            ("OldOrNew", 65_502),
        ],
    },
    Command {
        name: "Read",
        class: |word| format!("{:?}", word.of_read()),
        otherwise: "Failed",
        table: READ,
        counts: &[("Read", 257), ("Missing", 4), ("Failed", 65_275)],
    },
    Command {
        name: "Write, Point and Erase",
        class: |word| format!("{:?}", word.of_write()),
        otherwise: "MaybeWritten",
        table: WRITE,
        counts: &[("Written", 1), ("NotWritten", 15), ("MaybeWritten", 65_520)],
    },
];

#[test]
fn p06_every_status_word_has_its_meaning_after_each_command() {
    for command in COMMANDS {
        let pin = if matches!(command.name, "Verify" | "ChangePin") { PIN } else { &[] };
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for word in 0..=u16::MAX {
            let lines: Vec<_> = command
                .table
                .iter()
                .chain(pin)
                .filter(|(first, last, _)| (*first..=*last).contains(&word))
                .map(|(_, _, meaning)| *meaning)
                .collect();
            assert!(lines.len() <= 1, "{}: {word:04X} stands twice in the table", command.name);
            let expected = lines.first().copied().unwrap_or(command.otherwise);
            let is = (command.class)(StatusWord(word));
            assert_eq!(is, expected, "{}: {word:04X}", command.name);
            let kind = is.split([' ', '(']).next().expect("split yields at least one part").to_owned();
            *counts.entry(kind).or_default() += 1;
        }
        let expected: BTreeMap<String, usize> =
            command.counts.iter().map(|(meaning, count)| ((*meaning).to_owned(), *count)).collect();
        assert_eq!(counts, expected, "{}", command.name);
        assert_eq!(counts.values().sum::<usize>(), 65_536);
    }
}

#[test]
fn p07_only_one_word_says_that_a_pin_was_changed() {
    let changed: Vec<u16> =
        (0..=u16::MAX).filter(|word| format!("{:?}", StatusWord(*word).of_change()) == "Changed").collect();
    assert_eq!(changed, [0x9000]);
}
