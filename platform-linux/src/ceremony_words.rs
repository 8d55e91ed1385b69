//! What a ceremony waits for, in one line for whoever stands at the reader. The rendered list
//! is `tests/golden/ceremony_words.md`.

use crate::status_json::CeremonyView;

/// What is to be done now: step, deed, person. Seconds and tries are told by [`left`].
#[must_use]
pub fn wait(view: &CeremonyView) -> String {
    format!("step {} of {}: {}", view.step, view.steps, deed(view))
}

/// Seconds left, and where a PIN is to be typed the tries that are, as far as they are known;
/// else empty.
#[must_use]
pub fn left(view: &CeremonyView, seconds_left: Option<u32>) -> String {
    let at_a_pin = matches!(view.wait.as_str(), "pin" | "new-pin") || view.question.as_deref() == Some("last-try");
    let tries_left = view.tries_left.filter(|_| at_a_pin);
    let seconds = seconds_left.map(|left| format!("{left} s left"));
    let tries = tries_left.map(|left| if left == 1 { "1 try left".to_owned() } else { format!("{left} tries left") });
    let parts: Vec<String> = seconds.into_iter().chain(tries).collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

/// Why the last card or PIN did not do, and what helps.
#[must_use]
pub fn last(view: &CeremonyView) -> Option<String> {
    view.last.as_ref().map(|told| format!("not done: {} [{}]; {}", told.sentence, told.number, told.remedy))
}

/// How somebody without this terminal answers.
#[must_use]
pub fn how_to_answer(view: &CeremonyView) -> &'static str {
    match view.question.as_deref() {
        Some("last-try") => {
            "answer with `slotwarden ceremony answer yes --confirm \"last try\"`, or `slotwarden ceremony answer no`"
        }
        _ => "answer with `slotwarden ceremony answer yes` or `slotwarden ceremony answer no`",
    }
}

fn deed(view: &CeremonyView) -> String {
    let reader = &view.reader;
    let card = view.card.as_ref().map_or_else(|| "the card".to_owned(), |serial| format!("card {serial}"));
    let who = view.who.as_deref();
    match view.wait.as_str() {
        "insert" => match (who, view.share) {
            (Some(who), Some(share)) => format!("{who}: insert the card for share {share} into {reader}"),
            (Some(who), None) => format!("{who}: insert your card into {reader}"),
            (None, Some(share)) => format!("insert the card for share {share} into {reader}"),
            (None, None) => format!("insert a card into {reader}"),
        },
        "pin" => {
            let who = who.map_or_else(String::new, |who| format!("{who}: "));
            format!("{who}type the PIN of {card} on the keypad of {reader}")
        }
        "new-pin" => {
            let who = who.map_or_else(String::new, |who| format!("{who}: "));
            format!("{who}type the old PIN of {card}, then a new one twice, on the keypad of {reader}")
        }
        "read" => format!("{card} is being read; leave it in {reader}"),
        "write" => format!("{card} is being written; leave it in {reader}"),
        "remove" => format!("take {card} out of {reader}"),
        "answer" => question(view, &card),
        "hsm" => "the HSM is at work; wait".to_owned(),
        "computing" => "the service is at work; wait".to_owned(),
        _ => format!("it ends when {reader} is done; finish or cancel on its keypad"),
    }
}

fn question(view: &CeremonyView, card: &str) -> String {
    match view.question.as_deref() {
        Some("overwrite") => format!("something is on {card}: may it be overwritten?"),
        Some("last-try") => format!("one more wrong PIN blocks {card}: shall it be typed?"),
        Some("another-card") => "is there another card to verify?".to_owned(),
        Some("adopt-key") => format!(
            "no set of cards is known here, and these cards name the key {}: is it the one that is wanted? (A transcript \
             or an export names it.)",
            view.key_id.as_deref().unwrap_or("?")
        ),
        Some("another-copy") => "is another copy wanted?".to_owned(),
        _ => "once more?".to_owned(),
    }
}
