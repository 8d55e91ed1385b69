//! An order in full words, with names: what a second person reads before approving it.

use slotwarden_core::command::{Command, CommandKind};
use slotwarden_core::effect::{ApplicationId, ApplicationSet};
use slotwarden_core::person::Roster;

use crate::audit::hex;
use crate::names::Names;
use crate::status_json::mode_word;

/// The order as a sentence about what would happen.
#[must_use]
pub fn sentence(operation: &Command, names: &Names) -> String {
    let last_try = |confirmed: bool| if confirmed { ", although it could be the token's last try" } else { "" };
    match *operation {
        Command::Boot => "try every slot that opens without people".to_owned(),
        Command::Activate { slot, confirmed, .. } => {
            format!("activate {}{}", names.slot_name(slot), last_try(confirmed))
        }
        Command::Deactivate { slot } => format!("deactivate {}", names.slot_name(slot)),
        Command::EndCall { slot } => format!("end the HSM worker for {}", names.slot_name(slot)),
        Command::Init { slot, free_slot, confirmed, .. } => {
            let taken = match free_slot {
                Some(number) => format!("the free token in PKCS#11 slot {number}"),
                None => "the only free token".to_owned(),
            };
            let name = names.slot_name(slot);
            format!("initialise {name} on {taken} with a generated code{}", last_try(confirmed))
        }
        Command::ChangeCode { slot, confirmed, accept, .. } => {
            format!("change the code of {}{}{}", names.slot_name(slot), dead(accept, names), last_try(confirmed))
        }
        Command::Mode { slot, to, parts, confirmed, accept, .. } => {
            let (name, mode) = (names.slot_name(slot), mode_word(to));
            let known =
                parts.map_or_else(String::new, |roster| format!(" known to {} together", persons(roster, names)));
            format!("switch {name} to a {mode} code{known}{}{}", dead(accept, names), last_try(confirmed))
        }
        Command::Split { slot, quorum, custodians, confirmed, accept, .. } => {
            let (name, m, n) = (names.slot_name(slot), quorum.m(), quorum.n());
            let whose = match custodians.persons() {
                [] => "whoever may hold one".to_owned(),
                _ => persons(custodians, names),
            };
            let rest = format!("{}{}", dead(accept, names), last_try(confirmed));
            format!("make a new code of {name} that any {m} of {n} persons know, shares for {whose}{rest}")
        }
        Command::Share { slot, confirmed, .. } => {
            format!("fetch or enter a share or part of {}{}", names.slot_name(slot), last_try(confirmed))
        }
        Command::Reset { slot } => format!("end what is collected for {}", names.slot_name(slot)),
        Command::Unblock { slot, to, confirmed, accept, .. } => {
            let (name, mode) = (names.slot_name(slot), mode_word(to));
            let rest = format!("{}{}", dead(accept, names), last_try(confirmed));
            format!("give {name} a new {mode} code by its SO PIN, every key kept{rest}")
        }
        Command::Decommission { slot, so_pin, confirmed, accept } => {
            let what = match so_pin {
                Some(_) => "erase its token with every key and forget its codes",
                None => "forget its codes, the token is gone",
            };
            let rest = format!("{}{}", dead(accept, names), last_try(confirmed));
            format!("end the life of {}: {what}{rest}", names.slot_name(slot))
        }
        Command::Approve { id, .. } => format!("approve request {id}"),
        Command::Withdraw { id } => format!("withdraw request {id}"),
        Command::DualControl { on: true } => "switch dual control on".to_owned(),
        Command::DualControl { on: false } => "switch dual control off: one person alone decides again".to_owned(),
        Command::AdoptConfiguration { digest } => {
            let digest = hex(&digest);
            format!("let the changed configuration file count (SHA-256 of what counts: {digest})")
        }
        Command::Stop => "stop the daemon".to_owned(),
    }
}

/// Several persons by name, in their order.
fn persons(roster: Roster, names: &Names) -> String {
    let named: Vec<String> = roster.persons().iter().map(|person| names.person_name(*person)).collect();
    named.join(" and ")
}

/// The applications that need not be told to let go.
fn dead(accept: ApplicationSet, names: &Names) -> String {
    let numbers = (0..=u8::MAX).map(ApplicationId).filter(|application| accept.has(*application));
    let accepted: Vec<String> = numbers.map(|application| names.application_name(application)).collect();
    if accepted.is_empty() { String::new() } else { format!(", with {} accepted as dead", accepted.join(" and ")) }
}

/// The order's name, for scripts: `change-code`.
#[must_use]
pub fn word(kind: CommandKind) -> String {
    let mut word = String::new();
    for letter in format!("{kind:?}").chars() {
        if letter.is_uppercase() && !word.is_empty() {
            word.push('-');
        }
        word.extend(letter.to_lowercase());
    }
    word
}

#[cfg(test)]
mod tests {
    use slotwarden_core::SecretId;
    use slotwarden_core::effect::SlotId;
    use slotwarden_core::record::Mode;

    use super::*;

    #[test]
    fn every_parameter_that_an_approval_binds_is_in_the_sentence() {
        let names = Names::default();
        let said = |command: Command| sentence(&command, &names);
        let (slot, so_pin) = (SlotId(3), SecretId::NONE);
        let init = |free_slot, confirmed| said(Command::Init { slot, so_pin, free_slot, confirmed });
        let all = [init(None, false), init(Some(7), false), init(Some(8), false), init(None, true)];
        for (place, one) in all.iter().enumerate() {
            assert!(one.contains("slot 3"), "{one}");
            assert!(all[place + 1..].iter().all(|other| other != one), "{one}");
        }
        let decommission = |so_pin, accept| said(Command::Decommission { slot, so_pin, confirmed: false, accept });
        let none = ApplicationSet::NONE;
        assert!(decommission(Some(so_pin), none).contains("every key"));
        assert!(!decommission(None, none).contains("every key"));
        assert!(decommission(None, none.with(ApplicationId(2))).contains("application 2 accepted as dead"));
        let quorum = |m, n| slotwarden_core::share::Quorum::new(m, n).expect("a quorum");
        let roster = |who: &[u8]| {
            Roster::new(&who.iter().copied().map(slotwarden_core::person::PersonId).collect::<Vec<_>>()).expect("few")
        };
        let split = |quorum, custodians| {
            said(Command::Split { slot, quorum, custodians, code: None, confirmed: false, accept: none })
        };
        let splits = [
            split(quorum(2, 3), Roster::NOBODY),
            split(quorum(3, 3), Roster::NOBODY),
            split(quorum(2, 2), Roster::NOBODY),
            split(quorum(2, 2), roster(&[1, 2])),
            split(quorum(2, 2), roster(&[1, 3])),
        ];
        for (place, one) in splits.iter().enumerate() {
            assert!(splits[place + 1..].iter().all(|other| other != one), "{one}");
        }
        let unblock = |to| said(Command::Unblock { slot, so_pin, to, new_code: None, confirmed: false, accept: none });
        assert_ne!(unblock(Mode::Generated), unblock(Mode::Manual));
        assert!(said(Command::AdoptConfiguration { digest: [0xAB; 32] }).contains(&"ab".repeat(32)));
        assert_eq!(word(CommandKind::AdoptConfiguration), "adopt-configuration");
    }
}
