//! A transcript as it is printed: what was ordered, one line for each event, how it ended, and
//! whether the node's signature under it is good.

use serde_json::Value;
use slotwarden_core::ceremony::CeremonyId;
use slotwarden_core::person::PersonId;

use super::{Format, json, line, plain, utc};
use crate::audit::hex;
use crate::devices::TranscriptEnd;
use crate::names::{Names, SlotName};
use crate::operation;
use crate::status_json::{SCHEMA, end_word};
use crate::token_uri::TokenUri;
use crate::transcript::{Account, Named, Standing, end_words, head, parameters};
use crate::wire::TranscriptPage;

/// Prints a whole transcript.
pub fn transcript(format: Format, page: &TranscriptPage) {
    let names = names_of(page);
    let named = Named { names: &names, readers: &page.readers };
    let id = CeremonyId(page.id);
    let account = Account::of(id, &page.lines, named);
    let end = page.end.as_ref().and_then(|(head, signature)| {
        Some(TranscriptEnd { head: *head, signature: signature.as_slice().try_into().ok()? })
    });
    let standing = match (&page.end, &end) {
        // A signature of another length is none.
        (Some(_), None) => Standing::Wrong,
        (_, end) => Standing::of(id, &page.lines, end.as_ref(), &page.node_key),
    };
    match format {
        Format::Json => json(&as_json(page, &account, standing, &names)),
        Format::Table => print(page, &account, standing, &names),
    }
}

fn print(page: &TranscriptPage, account: &Account, standing: Standing, names: &Names) {
    let mut header = plain(&[]);
    let mut row = |name: &str, value: &str| {
        header.add_row([name, value]);
    };
    row("ceremony", &hex(&page.id));
    match &account.begun {
        Some((command, facts)) => {
            row("ordered", &operation::sentence(command, names));
            row("begun by", &names.person_name(facts.starter));
            row("begun", &page.lines.first().map_or_else(String::new, |line| time(line.wall_s, line.mono_ms)));
            if !account.others.is_empty() {
                row("also answered", &account.others.join(", "));
            }
            let who = if facts.two_persons { "two persons decide" } else { "one person alone decides" };
            row("dual control", who);
        }
        None => row("ordered", "not known: the first line is missing"),
    }
    for (name, value) in parameters(account) {
        row(name, &value);
    }
    line(&header.trim_fmt());
    line("");
    let mut table = plain(&["no", "time (UTC)", "who", "card", "share", "what"]);
    for ((number, entry), told) in page.lines.iter().enumerate().zip(&account.lines) {
        table.add_row([
            &number.to_string(),
            &time(entry.wall_s, entry.mono_ms),
            told.who.as_deref().unwrap_or(""),
            told.card.as_deref().unwrap_or(""),
            &told.share.map_or_else(String::new, |share| share.to_string()),
            &told.sentence,
        ]);
    }
    line(&table.trim_fmt());
    line("");
    let mut footer = plain(&[]);
    let mut row = |name: &str, value: &str| {
        footer.add_row([name, value]);
    };
    match account.ended {
        Some((end, human_steps)) => {
            row("end", &end_words(end));
            row("human steps", &human_steps.to_string());
        }
        None => row("end", "none: it is under way, or a power cut ended it"),
    }
    row("hash", &hex(&head(&page.lines)));
    row(
        "signature",
        match standing {
            Standing::Signed => "good",
            Standing::Unsigned => "none",
            Standing::Wrong => "WRONG: these are not the lines that the node signed",
        },
    );
    if let Some((_, signature)) = &page.end {
        row("", &hex(signature));
    }
    row("node key", &hex(&page.node_key));
    row("node now", &format!("{}; slotwarden {}, SHA-256 {}", page.module, page.version, page.program));
    line(&footer.trim_fmt());
}

fn as_json(page: &TranscriptPage, account: &Account, standing: Standing, names: &Names) -> Value {
    let lines: Vec<Value> = page
        .lines
        .iter()
        .zip(&account.lines)
        .map(|(entry, told)| {
            json!({
                "mono_ms": entry.mono_ms, "wall_s": entry.wall_s, "who": told.who, "card": told.card,
                "share": told.share, "sentence": told.sentence,
                // Plain data, so it always has a form as JSON.
                "entry": serde_json::to_value(entry.entry).unwrap_or(Value::Null),
            })
        })
        .collect();
    let begun = account.begun.as_ref();
    let end = account.ended.map(|(end, human_steps)| {
        let (word, problem) = end_word(end);
        json!({"end": word, "problem": problem.map(|problem| problem.name), "human_steps": human_steps})
    });
    json!({
        "schema": SCHEMA,
        "id": hex(&page.id),
        "command": begun.map(|(command, _)| operation::word(command.kind())),
        "operation": begun.map(|(command, _)| operation::sentence(command, names)),
        "starter": begun.map(|(_, facts)| names.person_name(facts.starter)),
        "two_persons": begun.map(|(_, facts)| facts.two_persons),
        "others": account.others,
        "set_id": account.made.map(|made| hex(&made.set_id)),
        "key_id": account.made.map(|made| hex(&made.key_id))
            .or_else(|| begun.and_then(|(_, facts)| facts.gather).map(|set| hex(&set.key_id))),
        "lines": lines,
        "ended": end,
        "hash": hex(&head(&page.lines)),
        "signature": page.end.as_ref().map(|(_, signature)| hex(signature)),
        "standing": standing.word(),
        "node_key": hex(&page.node_key),
        "module": page.module,
        "version": page.version,
        "program_sha256": page.program,
    })
}

fn time(wall_s: Option<u64>, mono_ms: u64) -> String {
    wall_s.map_or_else(|| format!("{} s after the start", mono_ms / 1000), utc)
}

fn names_of(page: &TranscriptPage) -> Names {
    let slot = |name: &String| SlotName { name: name.clone(), token: TokenUri { label: None, serial: None } };
    Names {
        slots: page.slots.iter().map(slot).collect(),
        applications: page.applications.clone(),
        persons: Vec::new(),
        numbered: page.persons.iter().map(|(name, number)| (name.clone(), PersonId(*number))).collect(),
        left_out: Vec::new(),
    }
}
