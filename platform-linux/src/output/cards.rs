//! Cards, readers, ceremonies and the backup key as people read them.

use super::{Format, json, line, plain, told, utc};
use crate::ceremony_words;
use crate::status_json::{BackupView, CardView, CardsView, CeremonyView, LastCeremonyView, SCHEMA};

/// Prints the cards that are known, and the readers.
pub fn cards(format: Format, found: &CardsView) {
    if format == Format::Json {
        return json(found);
    }
    if found.cards.is_empty() {
        line("no card is known");
    } else {
        let mut table = plain(&["serial", "holds", "of", "holder", "share", "set", "PIN changed", "verified"]);
        for card in &found.cards {
            table.add_row([
                &card.serial,
                credential(&card.credential),
                card.slot.as_deref().unwrap_or(if card.credential == "backup" { "backup key" } else { "" }),
                card.holder.as_deref().unwrap_or(""),
                &card.x.map_or_else(String::new, |x| x.to_string()),
                &standing(card),
                &when(card.pin_changed_s, "never here"),
                &when(card.verified_s, "never"),
            ]);
        }
        line(&table.trim_fmt());
    }
    if found.readers.is_empty() {
        line("no card reader is there");
        return;
    }
    let mut table = plain(&["reader", "number", "state"]);
    for reader in &found.readers {
        let state = match (&reader.reason, reader.present, reader.card) {
            (Some(reason), _, _) => format!("not used: {reason}"),
            (None, false, _) => "gone".to_owned(),
            (None, true, true) => "a card is in it".to_owned(),
            (None, true, false) => "empty".to_owned(),
        };
        table.add_row([&reader.name, &reader.number.map_or_else(String::new, |number| number.to_string()), &state]);
    }
    line(&table.trim_fmt());
}

/// Prints everything known about one card.
pub fn card(format: Format, found: &CardsView) {
    if format == Format::Json {
        return json(&json!({"schema": SCHEMA, "cards": found.cards}));
    }
    for card in &found.cards {
        let mut table = plain(&[]);
        let mut row = |name: &str, value: &str| {
            table.add_row([name, value]);
        };
        row("card", &card.serial);
        row("kind", &card.profile);
        row("holds", credential(&card.credential));
        if let Some(slot) = &card.slot {
            row("slot", slot);
        }
        row("holder", card.holder.as_deref().unwrap_or("not known"));
        if let (Some(x), Some(set), Some(generation)) = (card.x, &card.set_id, card.generation) {
            row("share", &format!("{x} of set {set}, generation {generation}"));
        }
        row("set", &standing(card));
        row("PIN last changed here", &when(card.pin_changed_s, "never: it counts as on the PIN it came with"));
        row("last verified", &when(card.verified_s, "never"));
        line(&table.trim_fmt());
    }
}

/// Prints what a ceremony waits for.
pub fn ceremony(format: Format, view: &CeremonyView) {
    if format == Format::Json {
        return json(&json!({"schema": SCHEMA, "ceremony": view}));
    }
    line(&ceremony_line(view));
    line(&format!("{}{}", ceremony_words::wait(view), ceremony_words::left(view, view.seconds_left)));
    if let Some(last) = ceremony_words::last(view) {
        line(&last);
    }
    if view.wait == "answer" {
        line(ceremony_words::how_to_answer(view));
    }
}

/// Prints how a ceremony ended.
pub fn ceremony_ended(format: Format, ended: &LastCeremonyView) {
    if format == Format::Json {
        return json(&json!({"schema": SCHEMA, "last_ceremony": ended}));
    }
    line(&ended_line(ended));
}

pub(super) fn ceremony_line(view: &CeremonyView) -> String {
    let slot = view.slot.as_ref().map_or_else(String::new, |slot| format!(" for {slot}"));
    format!("ceremony {}: {}{slot}, begun by {}", view.id, view.command, view.starter)
}

pub(super) fn ended_line(ended: &LastCeremonyView) -> String {
    let how = match (&ended.problem, ended.end.as_str()) {
        (Some(problem), _) => told(&ended.end, problem),
        (None, "delivered") => "what the cards gave went to the slot".to_owned(),
        (None, end) => end.to_owned(),
    };
    format!("ceremony {} ({}): {how}; `slotwarden ceremony show {}`", ended.id, ended.command, ended.id)
}

pub(super) fn backup_lines(backup: &BackupView) -> Vec<String> {
    let BackupView { m, n, generation, key_id, shares_in_use, .. } = backup;
    let knowledge = if backup.split_knowledge { "" } else { ", not under split knowledge" };
    let verified = when(backup.verified, "never");
    let set = format!(
        "backup key {key_id}: any {m} of {n} cards, generation {generation}{knowledge}; {shares_in_use} shares in use, \
         verified: {verified}"
    );
    std::iter::once(set).chain(backup.warnings.iter().map(|warning| format!("WARNING: {warning}"))).collect()
}

fn credential(word: &str) -> &str {
    match word {
        "backup" => "backup key share",
        "user" => "slot user",
        "admin" => "HSM administrator",
        other => other,
    }
}

fn standing(card: &CardView) -> String {
    let lost = if card.lost { "LOST; " } else { "" };
    let standing = match card.standing.as_str() {
        "in-force" => "in force",
        "being-made" => "being made",
        "void" => "void: never came into force",
        "superseded" => "superseded by another set of the same key",
        "rotated" => "of an earlier key",
        "empty" => "nothing on it",
        _ => "not known here",
    };
    format!("{lost}{standing}")
}

fn when(wall_s: Option<u64>, never: &str) -> String {
    match wall_s {
        None => never.to_owned(),
        Some(0) => "at a time without a clock".to_owned(),
        Some(wall_s) => utc(wall_s),
    }
}
