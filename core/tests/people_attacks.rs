//! What one person could do to the others who know a code with them, and that it fails.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![allow(clippy::std_instead_of_core, clippy::wildcard_enum_match_arm)]

mod world;

use slotwarden_core::Refusal;
use slotwarden_core::audit::AuditEvent;
use slotwarden_core::command::{Answer, Command};
use slotwarden_core::effect::ApplicationSet;
use slotwarden_core::person::{PersonId, Role, Roster};
use slotwarden_core::record::{Knowledge, Mode};
use slotwarden_core::share::Quorum;
use slotwarden_core::status::StateName;
use world::{SLOT, World};

impl World {
    fn splits(&mut self, m: u8, n: u8, code: &str) -> Answer {
        let code = (!code.is_empty()).then(|| self.secret(code));
        let quorum = Quorum::new(m, n).expect("a quorum");
        let (custodians, accept) = (Roster::NOBODY, ApplicationSet::NONE);
        self.order(Command::Split { slot: SLOT, quorum, custodians, code, confirmed: false, accept })
    }

    fn fetches(&mut self, who: u8) -> String {
        match self.order_by(who, Command::Share { slot: SLOT, code: None, confirmed: false }) {
            Answer::Share { .. } => self.shown[&self.replies].clone(),
            other => panic!("a share was to be shown: {other:?}"),
        }
    }

    fn enters(&mut self, who: u8, text: &str) -> Answer {
        let code = Some(self.secret(text));
        self.order_by(who, Command::Share { slot: SLOT, code, confirmed: false })
    }

    /// A locked slot whose code custodians 1 to n know, any m of them.
    fn shared(m: u8, n: u8) -> (World, Vec<String>) {
        World::shared_by(World::with_custodians(b"the code of before", n), m, n)
    }

    /// The same in this world.
    fn shared_by(mut w: World, m: u8, n: u8) -> (World, Vec<String>) {
        w.splits(m, n, "the code of before");
        let shares: Vec<String> = (1..=n).map(|who| w.fetches(who)).collect();
        for who in 1..=n {
            w.enters(who, &shares[usize::from(who) - 1]);
        }
        assert_eq!(w.order(Command::Deactivate { slot: SLOT }), Answer::Done);
        (w, shares)
    }

    fn resets(&mut self, who: u8) -> Answer {
        self.order_by(who, Command::Reset { slot: SLOT })
    }

    fn switches(&mut self, to: Mode, new_code: Option<&str>) -> Answer {
        let new_code = new_code.map(|text| self.secret(text));
        let accept = ApplicationSet::NONE;
        self.order(Command::Mode { slot: SLOT, to, parts: None, code: None, new_code, confirmed: false, accept })
    }
}

#[test]
fn p11_an_old_share_typed_as_a_whole_code_costs_no_try() {
    let (mut w, shares) = World::shared(2, 3);
    assert!(matches!(w.switches(Mode::Manual, Some("one person knows it")), Answer::Waits(_)));
    w.enters(1, &shares[0]);
    assert_eq!(w.enters(2, &shares[1]), Answer::Done);
    assert_eq!(w.record().knowledge, Knowledge::Whole);
    assert_eq!(w.order(Command::Deactivate { slot: SLOT }), Answer::Done);
    // Without its hyphens it is short enough for a code.
    let bare: String = shares[0].chars().filter(|letter| *letter != '-').collect();
    assert!(bare.len() <= 64);
    let (logins, calls) = (w.logins, w.calls.len());
    for text in [&bare, &shares[0]] {
        let answer = w.activate(text, false);
        assert_eq!(answer, Answer::Refused(Refusal::ShareForeign), "{text}");
    }
    assert_eq!((w.logins, w.calls.len()), (logins, calls), "the token never saw it");
    let (code, new_code) = (Some(w.secret("one person knows it")), Some(w.secret(&bare)));
    let change = Command::ChangeCode { slot: SLOT, code, new_code, confirmed: false, accept: ApplicationSet::NONE };
    assert_eq!(w.order(change), Answer::Refused(Refusal::ShareForeign), "nor does a share become a code");
    assert_eq!(w.activate("one person knows it", false), Answer::Done);
}

#[test]
fn p29_a_custodian_cannot_undo_what_the_others_entered() {
    let (mut w, shares) = World::shared(3, 4);
    w.enters(1, &shares[0]);
    w.enters(2, &shares[1]);
    assert_eq!(w.resets(3), Answer::Refused(Refusal::NotAllowed), "who took no part");
    assert_eq!(w.resets(2), Answer::Refused(Refusal::NotAllowed), "who took part, as another did");
    assert_eq!(w.resets(1), Answer::Refused(Refusal::NotAllowed), "who began, where another went on");
    assert_eq!(w.enters(4, &shares[3]), Answer::Done);
    assert_eq!(w.state(), StateName::Active);
    assert_eq!(w.order(Command::Deactivate { slot: SLOT }), Answer::Done);
    // One's own alone can be taken back, and an administrator ends everybody's.
    w.enters(1, &shares[0]);
    assert_eq!(w.resets(1), Answer::Done);
    w.enters(1, &shares[0]);
    w.enters(2, &shares[1]);
    assert_eq!(w.resets(0), Answer::Done);
}

#[test]
fn p29_a_custodian_cannot_end_the_handing_out_of_others_shares() {
    let mut w = World::with_custodians(b"the code of before", 3);
    w.splits(2, 3, "the code of before");
    w.fetches(1);
    assert_eq!(w.resets(1), Answer::Refused(Refusal::NotAllowed), "the order is the administrator's");
    w.fetches(2);
    assert_eq!(w.resets(2), Answer::Refused(Refusal::NotAllowed));
    assert_eq!(w.resets(0), Answer::Done);
}

#[test]
fn whoever_may_do_nothing_cannot_fill_the_log_by_varying_what_they_try() {
    let mut w = World::of_persons(&[(3, &[Role::Administrator]), (4, &[Role::Auditor])]);
    let before = w.journal.len();
    for _ in 0..500 {
        for command in [Command::Boot, Command::Stop, Command::Reset { slot: SLOT }, Command::DualControl { on: true }]
        {
            assert_eq!(w.order_as(PersonId(4), command), Answer::Refused(Refusal::NotAllowed));
            w.perform();
        }
    }
    let refused = |record: &&slotwarden_core::audit::AuditRecord| matches!(record.event, AuditEvent::Refused(..));
    let noted = w.journal.iter().skip(before).filter(refused).count();
    assert!((1..=8).contains(&noted), "{noted} records within a minute");
    // Another person's refusal is written down all the same, and theirs again later.
    assert_eq!(w.order_as(PersonId(5), Command::Boot), Answer::Refused(Refusal::NotAllowed));
    w.perform();
    assert_eq!(w.journal.iter().skip(before).filter(refused).count(), noted + 1);
    w.now_ms += 60_000;
    assert_eq!(w.order_as(PersonId(4), Command::Boot), Answer::Refused(Refusal::NotAllowed));
    w.perform();
    assert_eq!(w.journal.iter().skip(before).filter(refused).count(), noted + 2);
}

#[test]
fn p26_an_order_of_one_person_does_not_outlive_the_switch_to_two() {
    let mut list = slotwarden_core::person::Persons::none();
    for who in 0..=3u8 {
        list.add(PersonId(who), slotwarden_core::person::Roles::NONE.with(Role::Administrator)).expect("few persons");
    }
    let (mut w, shares) = World::shared_by(World::of_all(list, b"the code of before"), 2, 3);
    // Ordered alone, while one person could; the custodians go on under dual control.
    assert!(matches!(w.switches(Mode::Manual, Some("one person knows it")), Answer::Waits(_)));
    w.enters(1, &shares[0]);
    assert_eq!(w.order_by(3, Command::DualControl { on: true }), Answer::Done);
    w.enters(2, &shares[1]);
    assert_eq!(w.record().knowledge, Knowledge::Shares, "one administrator lowered m alone");
    assert_eq!(w.state(), StateName::Collecting, "the share was taken for what it opens");
    assert!(matches!(w.switches(Mode::Manual, Some("one person knows it")), Answer::NeedsApproval { .. }));
}
