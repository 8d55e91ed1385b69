//! What people and scripts read: tables on a terminal, JSON on request.
//!
//! Answers go to standard output. A refusal goes to standard error as sentence, remedy and
//! number; with `--output json` it goes to standard output as JSON as well. A reader that
//! went away (`| head`) is no error.

mod cards;
pub mod cluster;
mod transcript;
pub mod transfers;

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use serde_json::{Value, json};

use crate::ceremony_words;
use crate::client::Refused;
use crate::config::ConfigProblem;
use crate::status_json::{ApprovalView, SCHEMA, SlotDetail, SlotView, StatusView, Told};
use crate::wire::AuditPage;

pub use cards::{card, cards, ceremony, ceremony_ended};
pub use transcript::transcript;

/// How answers are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For scripts.
    Json,
}

/// Prints a line.
pub fn line(text: &str) {
    // Nobody reads any more; there is nobody to tell either.
    let _ = writeln!(io::stdout(), "{text}");
}

/// Prints text that has its own line ends.
pub fn text(text: &[u8]) {
    let _ = io::stdout().write_all(text);
}

/// Prints a line beside the answer, for people only.
pub fn aside(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints a value as JSON.
pub fn json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(&text),
        Err(error) => aside(&format!("the answer cannot be written as JSON: {error}")),
    }
}

/// Shows a share at the terminal, on a screen of its own, which most terminals keep out of
/// what can be scrolled back to. Not buffered: no copy of the share stays in this process.
pub fn show_share(before: &str, share: &[u8], after: &str) {
    write_out(&[ALTERNATE_SCREEN, before.as_bytes(), b"\n\n    ", share, b"\n\n", after.as_bytes()]);
}

/// Ends the share's screen.
pub fn clear_screen() {
    write_out(&[CLEARED_SCREEN]);
}

/// Writes a share as one line, for scripts.
pub fn share_line(share: &[u8]) {
    write_out(&[share, b"\n"]);
}

/// The same as JSON. The characters of a share need no escape.
pub fn share_json(slot: &str, (x, m, n): (u8, u8, u8), share: &[u8]) {
    let slot = Value::from(slot);
    let before = format!("{{\"schema\":{SCHEMA},\"slot\":{slot},\"x\":{x},\"m\":{m},\"n\":{n},\"share\":\"");
    write_out(&[before.as_bytes(), share, b"\"}\n"]);
}

/// Erases and enters the alternate screen (xterm's control sequences, `1049`).
const ALTERNATE_SCREEN: &[u8] = b"\x1b[?1049h\x1b[2J\x1b[H";
/// Erases it and returns to the normal one.
const CLEARED_SCREEN: &[u8] = b"\x1b[2J\x1b[H\x1b[?1049l";

fn write_out(parts: &[&[u8]]) {
    for part in parts {
        let mut rest = *part;
        while !rest.is_empty() {
            match rustix::io::write(rustix::stdio::stdout(), rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or(&[]),
                Err(rustix::io::Errno::INTR) => {}
                // Nobody reads any more.
                Err(_) => return,
            }
        }
    }
}

/// Prints why something was not done.
pub fn refused(format: Format, refused: &Refused) {
    let problem = &refused.problem;
    aside(&format!("slotwarden: {problem}"));
    aside(&format!("  {}", problem.remedy));
    for token in &refused.free_tokens {
        aside(&format!("  --free-slot {}  {}", token.slot_number, token.description));
    }
    if format == Format::Json {
        let free: Vec<Value> = refused
            .free_tokens
            .iter()
            .map(|token| json!({"slot_number": token.slot_number, "description": token.description}))
            .collect();
        let approval = refused.approval.as_ref().map(|(id, code)| json!({"id": id, "code": code}));
        json(&json!({
            "schema": SCHEMA,
            "problem": Told::from((**problem).clone()),
            "free_tokens": free,
            "approval": approval,
        }));
    }
}

/// Prints the status.
pub fn status(format: Format, status: &StatusView) {
    if format == Format::Json {
        return json(status);
    }
    line(&slots_table(&status.slots));
    line(&status.sentence());
    let mode = if status.single_person { "single-person mode" } else { "dual control" };
    line(&format!("stored codes protected by {}; {mode}; backups: {}", status.seal, status.security_level));
    let worker = if status.hsm.worker { "" } else { " (its worker does not run)" };
    line(&format!("HSM: {}{worker}; random sources: {}", status.hsm.module, status.random));
    if status.configuration_waits {
        line(
            "configuration change waits for two persons: what they approved stays in force (`slotwarden check-config`)",
        );
    }
    if status.restart_wanted {
        line("the approved configuration counts from the next start of the daemon on");
    }
    for approval in &status.approvals {
        line(&approval_line(approval));
    }
    if let Some(ceremony) = &status.ceremony {
        line(&cards::ceremony_line(ceremony));
        line(&format!("  {}", ceremony_words::wait(ceremony)));
    } else if let Some(ended) = &status.last_ceremony {
        line(&cards::ended_line(ended));
    }
    if let Some(found) = &status.cluster {
        cluster::lines(found).iter().for_each(|text| line(text));
    }
    if let Some(transfer) = &status.transfer {
        transfers::lines(transfer).iter().for_each(|text| line(text));
    }
    for slot in &status.slots {
        let program = slot.export_program.as_deref();
        transfers::staying(&slot.name, slot.keys, program).iter().for_each(|text| line(text));
    }
    for warning in &status.coverage.warnings {
        line(warning);
    }
    for text in status.backup.iter().flat_map(cards::backup_lines) {
        line(&text);
    }
    for name in &status.kept_codes {
        line(&kept_code(name));
    }
    if status.disk_reserve {
        line("less than 4 MiB is free for the store: only activation at boot, deactivate and stop go on");
    }
    if let Some(halted) = &status.halted {
        line(&told("halted", halted));
    }
}

/// Prints the approvals under way.
pub fn approvals(format: Format, status: &StatusView) {
    if format == Format::Json {
        return json(&json!({"schema": SCHEMA, "approvals": status.approvals}));
    }
    if status.approvals.is_empty() {
        line("nothing waits for a second person");
    }
    for found in &status.approvals {
        approval(found);
    }
}

/// Prints one approval with everything its second person should read.
pub fn approval(approval: &ApprovalView) {
    line(&approval_line(approval));
    for difference in &approval.differences {
        line(&format!("  {difference}"));
    }
}

fn approval_line(approval: &ApprovalView) -> String {
    let ApprovalView { id, requester, operation, seconds_left, .. } = approval;
    let waits = match &approval.approver {
        None => "waits for a second person".to_owned(),
        Some(approver) => format!("approved by {approver}, waits for {requester} to give the order again"),
    };
    format!("request {id}: {requester} wants to {operation}; {waits}, {seconds_left} s left")
}

/// What there is to say about a slot that only the store still knows.
#[must_use]
pub fn kept_code(name: &str) -> String {
    format!(
        "a sealed code is kept for {name}, which the configuration does not name; if the slot was renamed or left out \
         by mistake, put its [[slot]] name back: only under that name is the code used"
    )
}

/// Prints the slots.
pub fn slots(format: Format, status: &StatusView) {
    match format {
        Format::Json => json(&json!({"schema": SCHEMA, "slots": status.slots})),
        Format::Table => line(&slots_table(&status.slots)),
    }
}

/// Prints one slot with everything known about it.
pub fn slot(format: Format, detail: &SlotDetail) {
    if format == Format::Json {
        return json(detail);
    }
    let slot = &detail.slot;
    let mut table = plain(&[]);
    let mut row = |name: &str, value: &str| {
        table.add_row([name, value]);
    };
    row("slot", &slot.name);
    row("token", &slot.token);
    row("slot uid", detail.uid.as_deref().unwrap_or("given with its first record"));
    row("token last opened", detail.serial.as_deref().unwrap_or("none yet"));
    row("mode", &slot.mode_sentence());
    if let Some(set) = &slot.knowledge.set {
        row("shares", &format!("set {} ({})", set.generation, set.mark));
    }
    row("state", &slot.state);
    if slot.waits_for.is_some() {
        row("", &slot.lack());
    }
    if let Some(collection) = &slot.collection {
        row(&collection.command, &collection.progress.sentence());
        for person in &collection.persons {
            row("", &format!("{}: {}", person.name, person.did));
        }
        row("", &format!("ends in {} s unless somebody goes on", collection.seconds_left));
    }
    row("tries left", &slot.tries_left.to_string());
    match slot.backup_key {
        Some(true) => row("backup key", "its derived keys are in the token"),
        Some(false) => row("backup key", "without: `slotwarden backup restore-key` brings its derived keys"),
        None => {}
    }
    if let Some(keys) = slot.keys {
        row("keys", &transfers::keys(keys, slot.export_program.as_deref()));
    }
    for text in detail.transfer.iter().flat_map(transfers::lines) {
        row("transfer", &text);
    }
    row("SO PIN last proven", &slot.so_pin_proven_s.map_or_else(|| "never".to_owned(), utc));
    for application in &slot.applications {
        row("application", &format!("{}: {}", application.name, application.state));
        if let Some(fault) = &application.fault {
            row("", &told("fault", fault));
        }
    }
    if let Some(attention) = &slot.attention {
        row("attention", attention_sentence(attention));
    }
    if let Some(doubt) = &slot.doubt {
        row("doubt", doubt_sentence(doubt));
    }
    if let Some(refusal) = &slot.refusal {
        row("refusal", &told(&refusal.name, refusal));
    }
    if let Some(fault) = &slot.fault {
        row("fault", &told(&fault.name, fault));
    }
    line(&table.trim_fmt());
}

/// Prints a part of the audit log.
pub fn audit(format: Format, page: &AuditPage) {
    let lines = page.records.iter().zip(&page.names).map(|(record, (who, slot))| {
        // The event is plain data, so it always has a form as JSON.
        (record, who, slot, with_hex(serde_json::to_value(record.event).unwrap_or(Value::Null)))
    });
    if format == Format::Json {
        let records: Vec<Value> = lines
            .map(|(record, who, slot, event)| {
                json!({
                    "sequence": record.sequence,
                    "wall_s": record.wall_s,
                    "who": (!who.is_empty()).then_some(who),
                    "slot": (!slot.is_empty()).then_some(slot),
                    "event": event,
                })
            })
            .collect();
        return json(&json!({"schema": SCHEMA, "last": page.last, "records": records}));
    }
    let mut table = plain(&["no", "time (UTC)", "who", "slot", "event"]);
    for (record, who, slot, event) in lines {
        let time = record.wall_s.map_or_else(|| "no clock".to_owned(), utc);
        table.add_row([&record.sequence.to_string(), &time, who, slot, &words(&event)]);
    }
    line(&table.trim_fmt());
}

/// Prints what a check of the configuration found.
///
/// `differences`: from what two persons approved; `None`: that is not known, or dual control is off.
pub fn configuration(format: Format, problems: &[ConfigProblem], differences: Option<&[String]>) {
    if format == Format::Json {
        return json(&json!({"schema": SCHEMA, "problems": problems, "differs_from_approved": differences}));
    }
    if problems.is_empty() {
        line("the configuration has no problems");
    }
    for problem in problems {
        line(&format!("{}: {}", problem.place, problem.sentence));
        line(&format!("  {}", problem.remedy));
    }
    match differences {
        Some([]) => line("it is what two persons approved"),
        Some(differences) => {
            line("it differs from what two persons approved, which stays in force:");
            for difference in differences {
                line(&format!("  {difference}"));
            }
            line("  `slotwarden dual-control adopt` asks for its approval");
        }
        None => {}
    }
}

/// The slots as a table, as wide as the terminal where standard output is one.
#[must_use]
pub fn slots_table(slots: &[SlotView]) -> String {
    let mut table = plain(&["slot", "mode", "state", "applications", "waits for"]);
    for slot in slots {
        let applications: Vec<String> =
            slot.applications.iter().map(|found| format!("{} {}", found.name, found.state)).collect();
        let lack = if slot.is_active() && slot.waits_for.is_none() { String::new() } else { slot.lack() };
        let lack = slot.attention.as_deref().map_or(lack.clone(), |attention| {
            let separator = if lack.is_empty() { "" } else { "; " };
            format!("{lack}{separator}attention: {attention}")
        });
        table.add_row([&slot.name, &slot.mode_sentence(), &slot.state, &applications.join(", "), &lack]);
    }
    table.trim_fmt()
}

fn plain(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    if let Some((columns, _)) = terminal_size() {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns);
    }
    if !header.is_empty() {
        table.set_header(header.iter().copied());
    }
    table
}

/// Columns and rows of the terminal; `None` where scripts read, whose lines are never broken.
#[must_use]
pub fn terminal_size() -> Option<(u16, u16)> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(out).ok()?;
    (size.ws_col >= 40).then_some((size.ws_col, size.ws_row))
}

fn told(what: &str, told: &Told) -> String {
    let detail = told.detail.as_ref().map_or_else(String::new, |detail| format!(" ({detail})"));
    format!("{what}: {}{detail}; {} [{}]", told.sentence, told.remedy, told.number)
}

fn attention_sentence(word: &str) -> &str {
    match word {
        "tries-spent-elsewhere" => "somebody else spends tries on this token",
        "count-low" => "the token counts at least one refused try",
        "final-try" => "one more refused try blocks the token",
        "application-failed" => "an application could not be served",
        "code-gone" => "its stored code was destroyed by a zeroize: `slotwarden slot unblock` gives the token another",
        other => other,
    }
}

fn doubt_sentence(word: &str) -> &str {
    match word {
        "old-or-new" => "the token has the old code or the new one: try the new, then the old",
        "both-refused" => "the token refused both stored codes; both are kept",
        "call-unanswered" => "a call to the token is, or twice stayed, without an answer",
        other => other,
    }
}

/// An event as words: `{"AttemptBegins":"Person"}` is "attempt begins: person".
fn words(event: &Value) -> String {
    match event {
        Value::String(name) => uncamel(name),
        Value::Object(members) => {
            let parts = members.iter().map(|(name, value)| match words(value) {
                value if value.is_empty() => uncamel(name),
                value => format!("{}: {value}", uncamel(name)),
            });
            parts.collect::<Vec<_>>().join(", ")
        }
        Value::Array(values) => values.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The event with its hashes, which are lists of numbers, as hexadecimal text.
fn with_hex(event: Value) -> Value {
    match event {
        Value::Array(values) if !values.is_empty() && values.iter().all(Value::is_u64) => {
            values.iter().filter_map(Value::as_u64).map(|byte| format!("{byte:02x}")).collect::<String>().into()
        }
        Value::Array(values) => values.into_iter().map(with_hex).collect(),
        Value::Object(members) => members.into_iter().map(|(name, value)| (name, with_hex(value))).collect(),
        other => other,
    }
}

fn uncamel(name: &str) -> String {
    let mut words = String::with_capacity(name.len() + 4);
    for (place, letter) in name.chars().enumerate() {
        if letter.is_uppercase() && place > 0 {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

/// Seconds since 1970 as date and time. The calendar is Howard Hinnant's `civil_from_days`
/// (public domain), for years from 1970 on.
pub(crate) fn utc(wall_s: u64) -> String {
    let (days, second) = (wall_s / 86_400, wall_s % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use slotwarden_core::audit::{AttemptCause, AuditEvent};
    use slotwarden_core::command::CommandKind;
    use slotwarden_core::fault::Refusal;

    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_827_696), "2000-02-29 12:34:56");
        assert_eq!(utc(4_102_444_799), "2099-12-31 23:59:59");
    }

    #[test]
    fn events_read_as_words() {
        let shown = |event: AuditEvent| with_hex(serde_json::to_value(event).expect("plain data"));
        let said = |event: AuditEvent| words(&shown(event));
        assert_eq!(said(AuditEvent::Activated), "activated");
        assert_eq!(said(AuditEvent::AttemptBegins(AttemptCause::Person)), "attempt begins: person");
        assert_eq!(
            said(AuditEvent::Refused(CommandKind::Activate, Refusal::CodeWrong)),
            "refused: activate, code wrong"
        );
        assert!(said(AuditEvent::Started { configuration: [0xAB; 32] }).ends_with(&"ab".repeat(32)));
        assert_eq!(shown(AuditEvent::ConfigurationWaits([0xAB; 32])), json!({"ConfigurationWaits": "ab".repeat(32)}));
        assert_eq!(shown(AuditEvent::BackupKeysDestroyed(2)), json!({"BackupKeysDestroyed": 2}));
    }
}
