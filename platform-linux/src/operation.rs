//! An order in full words, with names: what a second person reads before approving it, and
//! what stands over a transcript.

use slotwarden_core::card::Credential;
use slotwarden_core::ceremony::{CardOrder, Places, SlotSet, SoUse, Task};
use slotwarden_core::cluster::ClusterOrder;
use slotwarden_core::command::{Command, CommandKind};
use slotwarden_core::effect::{ApplicationId, ApplicationSet, SlotId};
use slotwarden_core::person::Roster;
use slotwarden_core::record::Mode;
use slotwarden_core::share::card_set::CardQuorum;
use slotwarden_core::transfer::TransferOrder;

use crate::audit::hex;
use crate::names::Names;
use crate::status_json::mode_word;

/// The order as a sentence about what would happen.
#[must_use]
pub fn sentence(operation: &Command, names: &Names) -> String {
    match *operation {
        Command::Boot => "try every slot that opens without people".to_owned(),
        Command::Activate { slot, confirmed, .. } => {
            format!("activate {}{}", names.slot_name(slot), last_try(confirmed))
        }
        Command::Deactivate { slot } => format!("deactivate {}", names.slot_name(slot)),
        Command::EndCall { slot } => format!("end the HSM worker for {}", names.slot_name(slot)),
        Command::Init { slot, free_slot, confirmed, .. } => {
            format!("{}{}", initialise(slot, free_slot, names), last_try(confirmed))
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
            format!("{}{}{}", unblock(slot, to, names), dead(accept, names), last_try(confirmed))
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
        Command::Cards { order: CardOrder { task, at } } => format!("{}{}", cards(task, names), places(at)),
        Command::SlotCards { slot, quorum, holders, with_code, confirmed, accept, at, .. } => {
            let (name, k, n) = (names.slot_name(slot), quorum.m(), quorum.n());
            let code = if with_code { " on top of a code" } else { "" };
            let rest = format!("{}{}{}", dead(accept, names), last_try(confirmed), places(at));
            let users = persons(holders, names);
            format!("let any {k} of {n} users with cards open {name}{code}, cards for {users}{rest}")
        }
        Command::AdministratorCards { slot, quorum, holders, so_pin, confirmed, at } => {
            let (name, set) = (names.slot_name(slot), set_of(quorum, holders, names));
            let present = if so_pin.is_some() { "the SO PIN as typed" } else { "that of the cards in force" };
            format!(
                "let cards give the SO PIN of {name} instead of {present}: {set}{}{}",
                last_try(confirmed),
                places(at)
            )
        }
        Command::BySoCards { slot, then, confirmed, at } => {
            let what = match then {
                SoUse::Init { free_slot } => initialise(slot, free_slot, names),
                SoUse::Unblock { to, accept, .. } => format!("{}{}", unblock(slot, to, names), dead(accept, names)),
                SoUse::Decommission { accept } => {
                    let name = names.slot_name(slot);
                    let erase = "erase its token with every key and forget its codes";
                    format!("end the life of {name}: {erase}{}", dead(accept, names))
                }
            };
            format!("{what}, the SO PIN from cards{}{}", last_try(confirmed), places(at))
        }
        Command::CardLost { serial, credential } => {
            format!("declare card {serial} lost, with {}", credential_words(credential))
        }
        Command::AnswerCeremony { id, yes, confirmed } => {
            let answer = if yes { "yes" } else { "no" };
            let typed = if confirmed { ", the text for a last try typed" } else { "" };
            format!("answer {answer} in ceremony {id}{typed}")
        }
        Command::CancelCeremony { id } => format!("cancel ceremony {id}"),
        Command::Transfer { order: TransferOrder::Export { slots, left_out, passphrase } } => {
            let named: Vec<String> = slots.slots().map(|slot| names.slot_name(slot)).collect();
            let behind = hex(&left_out[..8]);
            let by = if passphrase.is_some() { ", protected by a passphrase that its requester knows" } else { "" };
            format!("export the keys of {}{by} (SHA-256 of what stays behind: {behind}…)", named.join(", "))
        }
        Command::Transfer { order: TransferOrder::Restore { slot, uid, key_id, file, .. } } => {
            format!(
                "bring the key that unwraps the file with SHA-256 {} into {}, by its passphrase (key {}, section {}), and \
                 see what it would import",
                hex(&file),
                names.slot_name(slot),
                hex(&key_id),
                hex(&uid)
            )
        }
        Command::Transfer { order: TransferOrder::Import { slot, file } } => {
            format!("import the file with SHA-256 {} into {}", hex(&file), names.slot_name(slot))
        }
        Command::Transfer { order: TransferOrder::Count { slot } } => {
            format!("count the keys of {}", names.slot_name(slot))
        }
        Command::Transfer { order: TransferOrder::EndRestore } => "give the restore up".to_owned(),
        Command::Transfer { order: TransferOrder::Package { targets, roster_epoch, slots } } => {
            let named: Vec<String> = slots.slots().map(|slot| names.slot_name(slot)).collect();
            let members: Vec<String> =
                (0..8).filter(|place| targets & (1 << place) != 0).map(|place| format!("{}", place + 1)).collect();
            let (members, named) = (members.join(", "), named.join(", "));
            format!("send the keys of {named} to members {members} of the roster of epoch {roster_epoch}")
        }
        Command::Transfer { order: TransferOrder::Receive { hash, .. } } => {
            format!("plan the import of the package {}", hex(&hash))
        }
        Command::Transfer { order: TransferOrder::Apply { hash } } => format!("import the package {}", hex(&hash)),
        Command::Transfer { order: TransferOrder::EndReceive } => "give the package up".to_owned(),
        Command::Transfer { order: TransferOrder::Abandon { file } } => {
            format!("give up the import of {}, which cannot end; what it made stays", hex(&file))
        }
        Command::Cluster { order } => cluster(order),
        Command::Zeroize => {
            "zeroize: destroy every sealed code and the node key, and deactivate every slot; keys in tokens stay"
                .to_owned()
        }
    }
}

fn cluster(order: ClusterOrder) -> String {
    let roster = hex(&order.hash());
    match order {
        ClusterOrder::Found { .. } => format!("found a cluster by the roster {roster}"),
        ClusterOrder::Invite { .. } => format!("let one more node into the cluster by the roster {roster}"),
        ClusterOrder::Remove { .. } => format!("shut one node out of the cluster by the roster {roster}"),
        ClusterOrder::Renew { .. } => format!("have the cluster use the backup key in force, by the roster {roster}"),
        ClusterOrder::Join { .. } => format!("join the cluster of the roster {roster}"),
        ClusterOrder::Follow { .. } => format!("take the roster {roster}"),
        ClusterOrder::Choose { .. } => format!("end the division of the cluster by the roster {roster}"),
    }
}

const fn last_try(confirmed: bool) -> &'static str {
    if confirmed { ", although it could be the token's last try" } else { "" }
}

fn initialise(slot: SlotId, free_slot: Option<u64>, names: &Names) -> String {
    let taken = match free_slot {
        Some(number) => format!("the free token in PKCS#11 slot {number}"),
        None => "the only free token".to_owned(),
    };
    format!("initialise {} on {taken} with a generated code", names.slot_name(slot))
}

fn unblock(slot: SlotId, to: Mode, names: &Names) -> String {
    format!("give {} a new {} code by its SO PIN, every key kept", names.slot_name(slot), mode_word(to))
}

/// What a ceremony about cards does.
fn cards(task: Task, names: &Names) -> String {
    match task {
        Task::CreateSet { quorum, holders, leave_out } => {
            format!("make a backup key: {}{}", set_of(quorum, holders, names), without(leave_out, names))
        }
        Task::ChangePin { credential } => format!("change the PIN of a card with {}", credential_words(credential)),
        Task::Reassign { credential, to } => {
            format!("give a card with {} to {}", credential_words(credential), names.person_name(to))
        }
        Task::Copy { credential } => format!("copy a card with {}", credential_words(credential)),
        Task::VerifySet => "verify cards of the backup key".to_owned(),
        Task::RestoreKey { slot, key_id } => {
            let into = slot.map_or_else(|| "every slot that is open".to_owned(), |slot| names.slot_name(slot));
            let named = key_id.map_or_else(String::new, |key_id| format!(", key {}", hex(&key_id)));
            format!("bring the keys of the backup key into {into}{named}")
        }
        Task::ReplaceSet { quorum, holders } => {
            format!("replace the cards of the backup key: {}", set_of(quorum, holders, names))
        }
        Task::Rotate { quorum, holders, leave_out } => {
            format!(
                "replace the backup key by another: {}{}",
                set_of(quorum, holders, names),
                without(leave_out, names)
            )
        }
        Task::Erase { credential } => {
            format!("erase {} from a card", credential_words(credential))
        }
        Task::Restore { slot, key_id, file, .. } => {
            let name = names.slot_name(slot);
            format!(
                "bring the key that unwraps the file with SHA-256 {} into {name}, key {}, and see what it would import",
                hex(&file),
                hex(&key_id)
            )
        }
        Task::VerifyFile { key_id, file } => {
            format!("check the MACs of the file with SHA-256 {}, key {}", hex(&file), hex(&key_id))
        }
    }
}

fn set_of(quorum: CardQuorum, holders: Roster, names: &Names) -> String {
    format!("any {} of {} cards, for {}", quorum.m(), quorum.n(), persons(holders, names))
}

fn without(slots: SlotSet, names: &Names) -> String {
    let named: Vec<String> = slots.slots().map(|slot| names.slot_name(slot)).collect();
    if named.is_empty() { String::new() } else { format!(", {} left out", named.join(" and ")) }
}

/// At which readers, and whether what is on the cards may be overwritten.
fn places(at: Places) -> String {
    let reader = at.reader.map_or_else(String::new, |reader| format!(", at reader {}", reader.0));
    let target = at.target.map_or_else(String::new, |reader| format!(", the target at reader {}", reader.0));
    let overwrite = if at.overwrite { ", whatever is on the new cards overwritten" } else { "" };
    format!("{reader}{target}{overwrite}")
}

/// What a card holds for us, with an article.
#[must_use]
pub const fn credential_words(credential: Credential) -> &'static str {
    match credential {
        Credential::BackupShare => "a backup key share",
        Credential::SlotUser => "a slot user",
        Credential::HsmAdministrator => "an HSM administrator",
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
        let set = |m, n| slotwarden_core::share::card_set::CardQuorum::new(m, n).expect("a quorum");
        let slots = |slots: &[u8]| slots.iter().fold(SlotSet::NONE, |set, slot| set.with(SlotId(*slot)));
        let create = |quorum, who: &[u8], left_out: &[u8], overwrite| {
            let task = Task::CreateSet { quorum, holders: roster(who), leave_out: slots(left_out) };
            said(Command::Cards { order: CardOrder { task, at: Places { overwrite, ..Places::default() } } })
        };
        let creates = [
            create(set(2, 3), &[1, 2, 3], &[], false),
            create(set(3, 3), &[1, 2, 3], &[], false),
            create(set(2, 3), &[1, 2, 4], &[], false),
            create(set(2, 3), &[2, 1, 3], &[], false),
            create(set(2, 3), &[1, 2, 3], &[5], false),
            create(set(2, 3), &[1, 2, 3], &[5, 6], false),
            create(set(2, 3), &[1, 2, 3], &[], true),
        ];
        for (place, one) in creates.iter().enumerate() {
            assert!(creates[place + 1..].iter().all(|other| other != one), "{one}");
        }
        let restore = |slot, key_id| {
            let order = CardOrder { task: Task::RestoreKey { slot, key_id }, at: Places::default() };
            said(Command::Cards { order })
        };
        assert_ne!(restore(None, None), restore(Some(slot), None));
        assert!(restore(None, Some([0xAB; 16])).contains(&"ab".repeat(16)));
        let by_cards = |then| said(Command::BySoCards { slot, then, confirmed: false, at: Places::default() });
        assert!(by_cards(SoUse::Decommission { accept: none }).contains("every key"));
        assert_ne!(by_cards(SoUse::Init { free_slot: Some(7) }), by_cards(SoUse::Init { free_slot: None }));
        assert!(said(Command::AdoptConfiguration { digest: [0xAB; 32] }).contains(&"ab".repeat(32)));
        assert_eq!(word(CommandKind::AdoptConfiguration), "adopt-configuration");
    }
}
