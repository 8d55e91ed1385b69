//! Tables that repeat the code, written by a test and never by hand.
//!
//! `tests/golden/promises.md` (promise → the tests that keep it), `refusals.md` (every
//! refusal and fault), `roles.md` (every role × order, and which need two persons), `defects.md`
//! (each deliberate defect and the test that catches it). Each test compares the file with
//! what the code says; `SLOTWARDEN_GOLDEN=write cargo test -p slotwarden-tests --test golden`
//! writes it anew, and the difference is what a reviewer reads.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use slotwarden_core::SecretId;
use slotwarden_core::approval::ApprovalCode;
use slotwarden_core::card::{CardSerial, Credential};
use slotwarden_core::ceremony::order::{CardOrder, CeremonyId, Places, SlotSet, SoUse, Task};
use slotwarden_core::cluster::ClusterOrder;
use slotwarden_core::command::{Command, CommandKind};
use slotwarden_core::effect::{ApplicationSet, SlotId};
use slotwarden_core::fault::{ApplicationFault, Class, Fault, Function, Refusal};
use slotwarden_core::person::{PersonId, Role, Roles, Roster, may, needs_two};
use slotwarden_core::record::Mode;
use slotwarden_core::share::Quorum;
use slotwarden_core::share::card_set::CardQuorum;
use slotwarden_core::transfer::TransferOrder;
use slotwarden_tests::defects::DEFECTS;

/// The promises, in the words of the threat model. Its tests are found by their names.
const PROMISES: &[(u8, &str)] = &[
    (1, "A card PIN never enters the host."),
    (2, "Ceremonies refuse a reader without secure PIN entry."),
    (3, "No PIN, code, share or key byte appears in logs, audit, Debug output, API, store, panic text or a core dump."),
    (
        4,
        "Tries are read before every PIN entry where the card allows it without cost; the last try needs a second person.",
    ),
    (
        5,
        "The service never spends a try on its own: tries spent ≤ human entries; no retry after timeout, cancel or transport error.",
    ),
    (6, "Wrong, blocked, timeout, cancelled, mismatch, length, other: all 65,536 status words are classified."),
    (7, "After a PIN change with unknown outcome the service says \"old or new\", never success."),
    (8, "A card whose PIN was never changed on a pad before this service cannot finish enrolment."),
    (9, "Nothing is reconstructed from fewer than m distinct valid shares."),
    (10, "m − 1 shares say nothing about the secret."),
    (
        11,
        "A corrupted, forged, foreign, duplicate, wrong-kind or outdated share is refused when inserted, naming the card.",
    ),
    (12, "A wrong reconstruction is detected before use and wiped."),
    (13, "A new set is committed only after every card was re-read and two different quorums reconstructed it."),
    (14, "A 1:1 copy is byte-identical and leaves the source unchanged."),
    (15, "An interrupted card write leaves the old record, the new one or none."),
    (16, "After any exit no secret byte remains in the core (token PINs of active slots excepted)."),
    (17, "The backup key encrypts nothing itself; every derived key has one purpose and one slot."),
    (18, "A key is imported only with the id, blob and settable attributes of the authenticated manifest."),
    (19, "Nothing is imported before the whole file was verified."),
    (20, "An export is complete or absent; what cannot be exported is listed and accepted by name."),
    (21, "Every truncated, bit-flipped, reordered or spliced file is refused; none panics."),
    (22, "A package is accepted only by a named target, from a known source, of this cluster."),
    (23, "Replay is a no-op, rollback a refusal; the mark survives crashes."),
    (24, "An import is all or nothing at every power cut."),
    (25, "Merging packages is idempotent, commutative, associative; it never overwrites or deletes."),
    (26, "What needs two persons needs two different persons."),
    (27, "An approval binds the operation with all its parameters, is used once and expires."),
    (28, "No ceremony call (start, feed, cancel, watch) works without the right to it."),
    (29, "Nobody can block the others: every ceremony ends by deadline."),
    (30, "A share of a code is shown to one person, once."),
    (
        31,
        "A manual code is never stored in any form, not even as a hash (the hand-over file of an active slot excepted).",
    ),
    (32, "A generated code is never shown; one stuck random source does not make it guessable; two stuck ones refuse."),
    (33, "\"Accepted\" means CKR_OK from C_Login in a state verified as logged out."),
    (
        34,
        "Boot makes at most one attempt per stored code and slot, counted before it is made; a boot loop spends no more refused tries than one boot.",
    ),
    (
        35,
        "A code change interrupted anywhere ends in one known state, with at most one refused login to decide; a stored code is erased only after another was accepted and settled.",
    ),
    (36, "Intent is durable before effect, outcome after; when the log cannot be written, new operations are refused."),
    (
        37,
        "A deleted, altered or reordered audit record is found offline, a truncated tail up to the last signed checkpoint.",
    ),
    (38, "A transcript suffices to replay the machine to the same state."),
    (39, "After a power cut at any byte of any write the store holds the state before or after."),
    (40, "A failed fsync stops the service; it is never retried as if nothing happened."),
    (
        41,
        "Zeroize destroys sealing key, sealed codes and node keys, deactivates slots, within 1 s, and resumes after a power cut.",
    ),
    (42, "No input panics, loops or allocates without bound; the core has no panic path reachable from input."),
    (43, "Same seed and inputs, same trace, bit for bit."),
    (
        44,
        "A PKCS#11 module that crashes, hangs or lies leads to a defined state in bounded time, without a repeated login.",
    ),
    (45, "The daemon is not dumpable, its secrets are locked in memory, its unit is confined."),
];

#[test]
fn the_table_of_promises_names_the_tests_that_keep_them() {
    let tests = tests_by_promise();
    let mut table = String::from(
        "# Promises and the tests that keep them\n\nA test that keeps promise NN starts with `pNN_`. `none`: nothing checks it yet.\n\n\
         | promise | | tests |\n|---|---|---|\n",
    );
    for (number, promise) in PROMISES {
        let kept_by = match tests.get(number) {
            None => "none".to_owned(),
            Some(names) => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join("<br>"),
        };
        let _ = writeln!(table, "| P{number} | {promise} | {kept_by} |");
    }
    for number in tests.keys() {
        assert!(PROMISES.iter().any(|(known, _)| known == number), "a test keeps P{number}, which nobody promised");
    }
    check("promises.md", &table);
}

#[test]
fn the_table_of_refusals_and_faults_is_the_code() {
    let mut table = String::from(
        "# Refusals and faults\n\nA refusal: the operator can do something about it, and is told what. A fault: a device failed; it keeps the \
         call and the code. Numbers and names are stable.\n\n## Refusals\n\n| number | name | class | what is so | what to do |\n|---|---|---|---|---|\n",
    );
    for refusal in Refusal::ALL {
        let class = match refusal.class() {
            Class::Wrong => "wrong",
            Class::WaitsForPeople => "waits for people",
            Class::Later => "later",
            Class::NotAllowed => "not allowed",
        };
        let (number, name) = (refusal.number(), refusal.name());
        let _ = writeln!(table, "| {number} | `{name}` | {class} | {} | {} |", refusal.sentence(), refusal.remedy());
    }
    table.push_str("\n## Faults\n\n| number | name | what is so | what to do |\n|---|---|---|---|\n");
    for fault in every_fault() {
        let (number, name) = (fault.number(), fault.name());
        let _ = writeln!(table, "| {number} | `{name}` | {} | {} |", fault.sentence(), fault.remedy());
    }
    table.push_str(
        "\n## Faults of applications\n\nThe particulars of `application`.\n\n| what is so | what to do |\n|---|---|\n",
    );
    for fault in ApplicationFault::ALL {
        let _ = writeln!(table, "| {} | {} |", fault.sentence(), fault.remedy());
    }
    check("refusals.md", &table);
}

#[test]
fn the_table_of_roles_is_the_code() {
    let mut table = String::from(
        "# Roles\n\nWhich role may give which order. Somebody with several roles may what any of them may; somebody with none may nothing.\n\n| order |",
    );
    for role in Role::ALL {
        let _ = write!(table, " {} |", format!("{role:?}").to_lowercase());
    }
    table.push_str("\n|---|");
    table.push_str(&"---|".repeat(Role::ALL.len()));
    table.push('\n');
    for what in CommandKind::ALL {
        assert!(!may(Roles::NONE, what), "{what:?} without any role");
        let _ = write!(table, "| {} |", words(&format!("{what:?}")));
        for role in Role::ALL {
            table.push_str(if may(Roles::NONE.with(role), what) { " yes |" } else { " – |" });
        }
        table.push('\n');
    }
    table.push_str(
        "\n## With dual control on\n\nWhich order needs a second person. Whoever may *approve* above can be that person, \
         if they are another one.\n\n| order | alone | two persons |\n|---|---|---|\n",
    );
    for (name, command) in every_form_of_order() {
        let row = |lowers| if needs_two(&command, lowers) { "– | yes" } else { "yes | –" };
        let _ = writeln!(table, "| {name} | {} |", row(false));
        if row(true) != row(false) {
            let _ = writeln!(table, "| {name}, and fewer persons open the slot than before | {} |", row(true));
        }
    }
    check("roles.md", &table);
}

/// One of each kind of order, and each form that differs for the two-person rule. The match
/// makes a new order a compile error here.
fn every_form_of_order() -> Vec<(String, Command)> {
    let (slot, so_pin, accept) = (SlotId(0), SecretId::NONE, ApplicationSet::NONE);
    let quorum = Quorum::new(2, 3).expect("a quorum");
    let of_cards = CardQuorum::new(2, 3).expect("a quorum");
    let (holders, leave_out, at, credential) =
        (Roster::NOBODY, SlotSet::NONE, Places::default(), Credential::BackupShare);
    let cards = |task| Command::Cards { order: CardOrder { task, at } };
    let by_so = |then| Command::BySoCards { slot, then, confirmed: false, at };
    let forms = |kind| match kind {
        CommandKind::Boot => vec![("", Command::Boot)],
        CommandKind::Activate => vec![
            ("", Command::Activate { slot, code: None, confirmed: false }),
            ("last try", Command::Activate { slot, code: None, confirmed: true }),
        ],
        CommandKind::Deactivate => vec![("", Command::Deactivate { slot })],
        CommandKind::EndCall => vec![("", Command::EndCall { slot })],
        CommandKind::Init => vec![
            ("", Command::Init { slot, so_pin, free_slot: None, confirmed: false }),
            ("by cards", by_so(SoUse::Init { free_slot: None })),
        ],
        CommandKind::ChangeCode => vec![
            ("", Command::ChangeCode { slot, code: None, new_code: None, confirmed: false, accept }),
            ("last try", Command::ChangeCode { slot, code: None, new_code: None, confirmed: true, accept }),
        ],
        CommandKind::Mode => vec![
            (
                "to generated",
                Command::Mode {
                    slot,
                    to: Mode::Generated,
                    parts: None,
                    code: None,
                    new_code: None,
                    confirmed: false,
                    accept,
                },
            ),
            (
                "to manual",
                Command::Mode {
                    slot,
                    to: Mode::Manual,
                    parts: None,
                    code: None,
                    new_code: None,
                    confirmed: false,
                    accept,
                },
            ),
            (
                "to manual, last try",
                Command::Mode {
                    slot,
                    to: Mode::Manual,
                    parts: None,
                    code: None,
                    new_code: None,
                    confirmed: true,
                    accept,
                },
            ),
        ],
        CommandKind::Split => vec![
            ("", Command::Split { slot, quorum, custodians: Roster::NOBODY, code: None, confirmed: false, accept }),
            (
                "last try",
                Command::Split { slot, quorum, custodians: Roster::NOBODY, code: None, confirmed: true, accept },
            ),
        ],
        CommandKind::Share => vec![
            ("", Command::Share { slot, code: None, confirmed: false }),
            ("last try", Command::Share { slot, code: None, confirmed: true }),
        ],
        CommandKind::Reset => vec![("", Command::Reset { slot })],
        CommandKind::CreateSet => vec![("", cards(Task::CreateSet { quorum: of_cards, holders, leave_out }))],
        CommandKind::ChangeCardPin => vec![("", cards(Task::ChangePin { credential }))],
        CommandKind::ReassignCard => vec![("", cards(Task::Reassign { credential, to: PersonId(1) }))],
        CommandKind::CopyCard => vec![("", cards(Task::Copy { credential }))],
        CommandKind::VerifySet => vec![("", cards(Task::VerifySet))],
        CommandKind::VerifyFile => vec![("", cards(Task::VerifyFile { key_id: [0; 16], file: [0; 32] }))],
        CommandKind::RestoreKey => vec![("", cards(Task::RestoreKey { slot: None, key_id: None }))],
        CommandKind::ReplaceSet => vec![("", cards(Task::ReplaceSet { quorum: of_cards, holders }))],
        CommandKind::RotateKey => vec![("", cards(Task::Rotate { quorum: of_cards, holders, leave_out }))],
        CommandKind::EraseCard => vec![("", cards(Task::Erase { credential }))],
        CommandKind::CardLost => {
            let serial = CardSerial::new(&[1]).expect("a serial");
            vec![("", Command::CardLost { serial, credential })]
        }
        CommandKind::SlotCards => {
            let form = |confirmed| Command::SlotCards {
                slot,
                quorum: of_cards,
                holders,
                with_code: false,
                code: None,
                new_code: None,
                confirmed,
                accept,
                at,
            };
            vec![("", form(false)), ("last try", form(true))]
        }
        CommandKind::AdministratorCards => {
            let (quorum, confirmed) = (of_cards, false);
            vec![("", Command::AdministratorCards { slot, quorum, holders, so_pin: None, confirmed, at })]
        }
        CommandKind::AnswerCeremony => {
            vec![("", Command::AnswerCeremony { id: CeremonyId([0; 8]), yes: true, confirmed: false })]
        }
        CommandKind::CancelCeremony => vec![("", Command::CancelCeremony { id: CeremonyId([0; 8]) })],
        CommandKind::Export => {
            let order = TransferOrder::Export { slots: leave_out.with(slot), left_out: [0; 32], passphrase: None };
            vec![("", Command::Transfer { order })]
        }
        CommandKind::Restore => {
            vec![("", cards(Task::Restore { slot, uid: [0; 16], key_id: [0; 16], file: [0; 32] }))]
        }
        CommandKind::Import => {
            vec![("", Command::Transfer { order: TransferOrder::Import { slot, file: [0; 32] } })]
        }
        CommandKind::CountKeys => vec![("", Command::Transfer { order: TransferOrder::Count { slot } })],
        CommandKind::EndRestore => vec![("", Command::Transfer { order: TransferOrder::EndRestore })],
        CommandKind::MakePackage => {
            let order = TransferOrder::Package { targets: 2, roster_epoch: 1, slots: leave_out.with(slot) };
            vec![("", Command::Transfer { order })]
        }
        CommandKind::ReceivePackage => {
            let order = TransferOrder::Receive { hash: [0; 32], slots: leave_out.with(slot) };
            vec![("", Command::Transfer { order })]
        }
        CommandKind::ApplyPackage => {
            vec![("", Command::Transfer { order: TransferOrder::Apply { hash: [0; 32] } })]
        }
        CommandKind::EndReceive => vec![("", Command::Transfer { order: TransferOrder::EndReceive })],
        CommandKind::Abandon => vec![("", Command::Transfer { order: TransferOrder::Abandon { file: [1; 32] } })],
        CommandKind::FoundCluster => vec![("", Command::Cluster { order: ClusterOrder::Found { hash: [0; 32] } })],
        CommandKind::InviteMember => vec![("", Command::Cluster { order: ClusterOrder::Invite { hash: [0; 32] } })],
        CommandKind::RemoveMember => vec![("", Command::Cluster { order: ClusterOrder::Remove { hash: [0; 32] } })],
        CommandKind::RenewRoster => vec![("", Command::Cluster { order: ClusterOrder::Renew { hash: [0; 32] } })],
        CommandKind::JoinCluster => {
            vec![("", Command::Cluster { order: ClusterOrder::Join { hash: [0; 32], slots: [0; 32] } })]
        }
        CommandKind::FollowRoster => vec![("", Command::Cluster { order: ClusterOrder::Follow { hash: [0; 32] } })],
        CommandKind::ChooseRoster => vec![("", Command::Cluster { order: ClusterOrder::Choose { hash: [0; 32] } })],
        CommandKind::Stop => vec![("", Command::Stop)],
        CommandKind::Approve => {
            let code = ApprovalCode::parse("0000-0000").expect("a code");
            vec![("", Command::Approve { id: 1, code })]
        }
        CommandKind::Withdraw => vec![("", Command::Withdraw { id: 1 })],
        CommandKind::Zeroize => vec![("", Command::Zeroize)],
        CommandKind::DualControl => {
            vec![("on", Command::DualControl { on: true }), ("off", Command::DualControl { on: false })]
        }
        CommandKind::AdoptConfiguration => vec![("", Command::AdoptConfiguration { digest: [0; 32] })],
        CommandKind::Unblock => {
            let (to, new_code, confirmed) = (Mode::Generated, None, false);
            vec![("", Command::Unblock { slot, so_pin, to, new_code, confirmed, accept })]
        }
        CommandKind::Decommission => vec![
            ("", Command::Decommission { slot, so_pin: Some(so_pin), confirmed: false, accept }),
            ("without token", Command::Decommission { slot, so_pin: None, confirmed: false, accept }),
        ],
        CommandKind::ReadStatus | CommandKind::ReadAudit => vec![],
    };
    let mut all = Vec::new();
    for kind in CommandKind::ALL {
        for (form, command) in forms(kind) {
            assert_eq!(command.kind(), kind);
            let separator = if form.is_empty() { "" } else { ", " };
            all.push((format!("{}{separator}{form}", words(&format!("{kind:?}"))), command));
        }
    }
    all
}

/// One of each kind of fault, in the order of the enum. The match makes a new one a
/// compile error here.
fn every_fault() -> Vec<Fault> {
    let first = Fault::Pkcs11 { code: 0x30, function: Function::Login };
    let mut faults = vec![first];
    loop {
        let next = match faults[faults.len() - 1] {
            Fault::Pkcs11 { .. } => Fault::Unanswered(Function::Login),
            Fault::Unanswered(_) => Fault::WorkerLost(Function::Login),
            Fault::WorkerLost(_) => Fault::WorkerUnavailable,
            Fault::WorkerUnavailable => Fault::TokenGone,
            Fault::TokenGone => Fault::RandomStuck,
            Fault::RandomStuck => Fault::RandomUnavailable,
            Fault::RandomUnavailable => Fault::SealBroken,
            Fault::SealBroken => Fault::Application(ApplicationFault::NotWritten),
            Fault::Application(_) => Fault::StoreFailed,
            Fault::StoreFailed => Fault::SettleFailed,
            Fault::SettleFailed => Fault::ModuleLies(Function::Login),
            Fault::ModuleLies(_) => Fault::Zeroized,
            Fault::Zeroized => Fault::Bug(0),
            Fault::Bug(_) => Fault::OutOfMemory,
            Fault::OutOfMemory => return faults,
        };
        faults.push(next);
    }
}

/// `ReadStatus` → `read status`.
fn words(variant: &str) -> String {
    let mut text = String::new();
    for character in variant.chars() {
        if character.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.extend(character.to_lowercase());
    }
    text
}

/// That each test catches its defect is shown by the program `defects`; here only that every
/// place and every test is still there.
#[test]
fn the_table_of_defects_names_places_and_tests_that_exist() {
    let read =
        |file: &str| fs::read_to_string(repository().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut table = String::from(
        "# Deliberate defects and the test that catches each\n\n`cargo run -p slotwarden-tests --bin defects` plants \
         each in a copy of the sources and sees its test fail; without it the test passes.\n\n\
         | defect | breaks | planted in | caught by |\n|---|---|---|---|\n",
    );
    for defect in DEFECTS {
        assert_eq!(read(defect.file).matches(defect.find).count(), 1, "the place of: {}", defect.name);
        let (test, file) = (defect.caught_by, defect.caught_by.file());
        assert!(read(&file).contains(&format!("#[test]\nfn {}()", test.name)), "{file} has no {}", test.name);
        let breaks: Vec<String> = defect.breaks.iter().map(|number| format!("P{number}")).collect();
        assert!(defect.breaks.iter().all(|number| PROMISES.iter().any(|(known, _)| known == number)));
        let _ = writeln!(
            table,
            "| {} | {} | `{}` | `{file}: {}` |",
            defect.name,
            breaks.join(", "),
            defect.file,
            test.name
        );
    }
    check("defects.md", &table);
}

/// Every test function `pNN_…` in the sources, by promise, as `file: name`.
fn tests_by_promise() -> BTreeMap<u8, Vec<String>> {
    let mut sources = Vec::new();
    for folder in ["core/src", "core/tests", "platform-linux", "platform-sim", "tests"] {
        rust_files(&repository().join(folder), &mut sources);
    }
    sources.sort();
    let mut tests: BTreeMap<u8, Vec<String>> = BTreeMap::new();
    for source in sources {
        let text = fs::read_to_string(&source).expect("a source file that was just listed");
        let file = source.strip_prefix(repository()).expect("listed under the repository").display().to_string();
        let mut before = "";
        for line in text.lines() {
            if let Some((promise, name)) = test_name(line)
                && is_run(name, before, &text)
            {
                tests.entry(promise).or_default().push(format!("{file}: {name}"));
            }
            before = line;
        }
    }
    tests
}

/// Whether a function is run as a test: marked as one, or listed for both modules on a line
/// of its own. The simulator's checkers have such names too, and are no tests.
fn is_run(name: &str, line_before: &str, text: &str) -> bool {
    line_before.trim() == "#[test]" || text.lines().any(|line| line.trim() == name)
}

/// The promise and the name of a test that a line declares.
fn test_name(line: &str) -> Option<(u8, &str)> {
    let name = line.trim_start().trim_start_matches("pub ").strip_prefix("fn p")?;
    let (number, rest) = name.split_once('_')?;
    if number.len() != 2 {
        return None;
    }
    let end = rest.find(|character: char| !character.is_alphanumeric() && character != '_')?;
    let whole = line.trim_start().trim_start_matches("pub ").strip_prefix("fn ")?;
    Some((number.parse().ok()?, &whole[..1 + number.len() + 1 + end]))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Compares a golden file with what it should be, or writes it when that was asked for.
fn check(name: &str, now: &str) {
    let path = repository().join("tests/golden").join(name);
    if env::var_os("SLOTWARDEN_GOLDEN").is_some_and(|wish| wish == "write") {
        fs::write(&path, now).expect("tests/golden is writable");
        return;
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let differing = kept.lines().zip(now.lines()).find(|(kept, now)| kept != now);
    assert!(
        kept == now,
        "tests/golden/{name} is not what the code says (first difference: {differing:?}); after a review write it with \
         `SLOTWARDEN_GOLDEN=write cargo test -p slotwarden-tests --test golden`"
    );
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

#[test]
fn only_declarations_of_tests_count_as_tests() {
    assert_eq!(test_name("    fn p32_two_stuck_sources_refuse() {"), Some((32, "p32_two_stuck_sources_refuse")));
    assert_eq!(test_name("pub fn p05_tries(world: &World) {"), Some((5, "p05_tries")));
    assert_eq!(test_name("fn place(x: u8) {"), None);
    assert_eq!(test_name("fn p1_short() {"), None);
    assert_eq!(test_name("// fn p32_in_a_comment() {"), None);
    assert!(is_run("p32_a", "    #[test]", ""));
    assert!(is_run("p32_a", "", "on_both_modules! {\n    p32_a\n}"));
    assert!(!is_run("p32_a", "    /// A checker.", "self.p32_a();"));
}
