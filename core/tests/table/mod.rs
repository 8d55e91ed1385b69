//! How golden tables and diagrams are written, and compared with their files.

// Each test file uses its part; a test that panics has found something.
#![allow(dead_code, missing_docs, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::arithmetic_side_effects, clippy::std_instead_of_core)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use slotwarden_core::record::{SecretKey, SlotRecord};

/// Replaces the long names of small things by short ones.
pub fn readable(line: &str) -> String {
    let mut text = line.to_owned();
    for (long, short) in [
        ("Ticket { slot: Some(SlotId(0)), number: 900 }", "#ours"),
        ("Ticket { slot: Some(SlotId(0)), number: 901 }", "#application"),
        ("Ticket { slot: Some(SlotId(0)), number: ", "#"),
        ("Caller { who: PersonId(0), reply: ReplyId(5) }", "caller"),
        ("slot: SlotId(0), ", ""),
        ("reply: ReplyId(5), ", ""),
        ("SecretId { place: 0, use_count: 0 }", "PIN"),
        ("SecretId { place: 1, use_count: 0 }", "code"),
        ("SecretId { place: 2, use_count: 0 }", "new code"),
        ("SecretId { place: 3, use_count: 0 }", "short code"),
        ("SecretId { place: 4, use_count: 0 }", "SO PIN"),
        ("SecretId { place: 5, use_count: 0 }", "drawn"),
        ("SecretId { place: 6, use_count: 0 }", "reserved"),
        ("SecretKey { kind: GeneratedCode, owner: Owner(3), generation: ", "sealed code { "),
        ("ApplicationId(2)", "application"),
    ] {
        text = text.replace(long, short);
    }
    for number in 1..20 {
        text = text.replace(&format!("#{number} }}"), &format!("#{number}"));
    }
    text
}

/// The lines of one state: events with the same answer share a line.
pub fn grouped(lines: Vec<(String, String)>) -> String {
    let mut groups: Vec<(Vec<String>, String)> = Vec::new();
    for (event, answer) in lines {
        match groups.iter_mut().find(|(_, known)| *known == answer) {
            Some((events, _)) => events.push(event),
            None => groups.push((vec![event], answer)),
        }
    }
    groups.iter().fold(String::new(), |mut text, (events, answer)| {
        writeln!(text, "- {} → {answer}", events.join("; ")).expect("strings grow");
        text
    })
}

pub fn generations(keys: &[SecretKey]) -> Vec<u32> {
    keys.iter().map(|key| key.generation).collect()
}

/// The fields of a record that changed, as `name: value`.
pub fn difference(before: &SlotRecord, after: &SlotRecord) -> String {
    let mut fields = Vec::new();
    let mut field = |name: &str, same: bool, value: String| {
        if !same {
            fields.push(format!("{name}: {value}"));
        }
    };
    field("mode", before.mode == after.mode, format!("{:?}", after.mode));
    field("serial", before.serial == after.serial, format!("{}", after.serial.is_some()));
    field("accepted", before.accepted == after.accepted, format!("{:?}", after.accepted));
    field("pending", before.pending == after.pending, format!("{:?}", after.pending));
    field("change", before.change == after.change, format!("{:?}", after.change));
    field("knowledge", before.knowledge == after.knowledge, format!("{:?}", after.knowledge));
    let next = format!("{:?}", after.knowledge_next);
    field("knowledge_next", before.knowledge_next == after.knowledge_next, next);
    field("doubt", before.doubt == after.doubt, format!("{:?}", after.doubt));
    field("user", before.user == after.user, format!("{:?}", after.user));
    field("so", before.so == after.so, format!("{:?}", after.so));
    field("by_so", before.by_so == after.by_so, format!("{:?}", after.by_so));
    field("unblocking", before.unblocking == after.unblocking, format!("{:?}", after.unblocking));
    field("so_proven_s", before.so_proven_s == after.so_proven_s, format!("{:?}", after.so_proven_s));
    field("shows_count_low", before.shows_count_low == after.shows_count_low, format!("{}", after.shows_count_low));
    fields.join(", ")
}

/// The variant's name, without its fields.
pub fn first_word(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.split([' ', '(', '{']).next().expect("split yields at least one part").to_owned()
}

/// Compares a table with its file, or writes it when asked to.
pub fn check(relative: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(relative);
    if std::env::var("SLOTWARDEN_GOLDEN").as_deref() == Ok("write") {
        std::fs::write(&path, text).expect("the golden folder can be written");
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{relative}: {error}"));
    if let Some((number, (kept, made))) =
        (1..).zip(kept.lines().zip(text.lines())).find(|(_, (kept, made))| kept != made)
    {
        panic!("{relative}:{number} differs\n  file: {kept}\n  code: {made}");
    }
    assert_eq!(kept.lines().count(), text.lines().count(), "{relative} has lines missing");
}

pub fn diagram(title: &str, edges: &BTreeSet<(String, String, String)>) -> String {
    let id = |name: &str| name.replace(' ', "_");
    let mut text = format!(
        "# {title}\n\nMade by `core/tests/golden.rs` from the same exploration as the golden table; \
         never by hand.\nLoops and refusals are in the table.\n\n```mermaid\nstateDiagram-v2\n"
    );
    let mut labels: std::collections::BTreeMap<(&str, &str), Vec<&str>> = std::collections::BTreeMap::new();
    for (from, to, event) in edges {
        labels.entry((from, to)).or_default().push(event);
    }
    for ((from, to), events) in labels {
        let shown = if events.len() > 3 {
            format!("{} and {} more", events[..2].join(" / "), events.len() - 2)
        } else {
            events.join(" / ")
        };
        writeln!(text, "    {} --> {}: {}", id(from), id(to), shown.replace(':', ",")).expect("strings grow");
    }
    text.push_str("```\n");
    text
}
