//! Codes that several persons know, told as stories: parts in conjunction, shares of a set.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![allow(clippy::std_instead_of_core, clippy::wildcard_enum_match_arm)]

mod world;

use slotwarden_core::Refusal;
use slotwarden_core::audit::AuditEvent;
use slotwarden_core::command::{Answer, Command, CommandKind};
use slotwarden_core::effect::ApplicationSet;
use slotwarden_core::person::{PersonId, Roster};
use slotwarden_core::record::{Knowledge, Mode, Owner};
use slotwarden_core::share::Quorum;
use slotwarden_core::status::{StateName, WaitKind};
use world::{SLOT, World};

impl World {
    fn split(&mut self, m: u8, n: u8, code: &str) -> Answer {
        let code = (!code.is_empty()).then(|| self.secret(code));
        let quorum = Quorum::new(m, n).expect("a quorum");
        self.order(Command::Split {
            slot: SLOT,
            quorum,
            custodians: Roster::NOBODY,
            code,
            confirmed: false,
            accept: ApplicationSet::NONE,
        })
    }

    fn fetch(&mut self, who: u8) -> Result<String, Answer> {
        match self.order_by(who, Command::Share { slot: SLOT, code: None, confirmed: false }) {
            Answer::Share { .. } => Ok(self.shown[&self.replies].clone()),
            other => Err(other),
        }
    }

    fn enter(&mut self, who: u8, text: &str) -> Answer {
        let code = Some(self.secret(text));
        self.order_by(who, Command::Share { slot: SLOT, code, confirmed: false })
    }

    fn deactivate(&mut self) {
        assert_eq!(self.order(Command::Deactivate { slot: SLOT }), Answer::Done);
    }

    /// Hands a set of m of n out to custodians 1 to n, from this code.
    fn handed_out(&mut self, m: u8, n: u8, code: &str) -> Vec<String> {
        assert_eq!(have(self.split(m, n, code)), (WaitKind::Custodians, 0, n));
        let shares: Vec<String> = (1..=n).map(|who| self.fetch(who).expect("theirs")).collect();
        for who in 1..n {
            assert_eq!(have(self.enter(who, &shares[usize::from(who) - 1])), (WaitKind::Custodians, who, n));
        }
        assert_eq!(self.enter(n, &shares[usize::from(n) - 1]), Answer::Done);
        assert_eq!(self.state(), StateName::Active);
        shares
    }
}

fn have(answer: Answer) -> (WaitKind, u8, u8) {
    match answer {
        Answer::Waits(progress) => (progress.kind, progress.have, progress.need),
        other => panic!("people were to be waited for: {other:?}"),
    }
}

#[test]
fn an_attempt_is_named_by_the_audit_record_that_began_it() {
    let mut w = World::with_custodians(b"the code of before", 3);
    let shares = w.handed_out(2, 3, "the code of before");
    w.deactivate();
    let Answer::Waits(progress) = w.enter(1, &shares[0]) else { panic!("one share does not open it") };
    let began = w.journal.iter().find(|record| record.sequence == progress.attempt).expect("it is durable");
    assert_eq!(began.event, AuditEvent::CollectionBegan(CommandKind::Activate));
    let status = w.service.status(slotwarden_core::Now { mono_ms: w.now_ms, wall_s: None });
    let collection = status.slots[0].collection.clone().expect("it is under way");
    assert_eq!(collection.progress, progress);
    assert_eq!((collection.persons.len(), collection.persons[0].who, collection.seconds_left), (1, PersonId(1), 600));
}

#[test]
fn the_last_share_is_refused_as_busy_rather_than_lost_while_the_worker_is_away() {
    let mut w = World::with_custodians(b"the code of before", 3);
    w.activate("the code of before", false);
    w.split(2, 3, "the code of before");
    let shares: Vec<String> = (1..=3).map(|who| w.fetch(who).expect("theirs")).collect();
    w.enter(1, &shares[0]);
    w.enter(2, &shares[1]);
    w.input(slotwarden_core::Input::WorkerLost);
    assert_eq!(refused(w.enter(3, &shares[2])), Refusal::Busy);
    w.login = slotwarden_core::token::LoginState::Public;
    w.present();
    assert_eq!(w.state(), StateName::Active);
    assert_eq!(w.enter(3, &shares[2]), Answer::Done);
}

fn refused(answer: Answer) -> Refusal {
    match answer {
        Answer::Refused(refusal) => refusal,
        other => panic!("a refusal was expected: {other:?}"),
    }
}

#[test]
fn two_of_three_shares_open_the_slot_after_a_restart_and_no_single_one_does() {
    let mut w = World::with_custodians(b"the code of before", 3);
    let shares = w.handed_out(2, 3, "the code of before");
    assert_ne!(w.pin, b"the code of before");
    assert_eq!(w.pin.len(), 32);
    w.restart();
    assert_eq!(w.state(), StateName::Locked);
    assert_eq!(have(w.enter(1, &shares[0])), (WaitKind::Shares, 1, 2));
    assert_eq!(w.state(), StateName::Collecting);
    assert_eq!(w.enter(3, &shares[2]), Answer::Done);
    assert_eq!(w.state(), StateName::Active);
    assert_eq!(w.handed_over.as_deref(), Some(w.pin.as_slice()));
}

#[test]
fn p11_every_bad_share_is_refused_by_name_and_good_ones_stay() {
    let mut w = World::with_custodians(b"the code of before", 4);
    let old = w.handed_out(2, 3, "the code of before");
    w.deactivate();
    // Split again: the old shares are superseded.
    assert_eq!(have(w.split(2, 3, "")), (WaitKind::Shares, 0, 2));
    assert_eq!(have(w.enter(1, &old[0])), (WaitKind::Shares, 1, 2));
    assert_eq!(have(w.enter(2, &old[1])), (WaitKind::Custodians, 0, 3));
    let new: Vec<String> = (2..=4).map(|who| w.fetch(who).expect("theirs")).collect();
    assert_eq!(refused(w.enter(2, &old[1])), Refusal::ShareOutdated);
    assert_eq!(refused(w.enter(2, &new[1])), Refusal::ShareOfAnother);
    assert_eq!(refused(w.enter(1, &old[0])), Refusal::ShareNotFetched);
    for who in 2..=4u8 {
        w.enter(who, &new[usize::from(who) - 2]);
    }
    assert_eq!(w.state(), StateName::Active);
    w.deactivate();

    let logins = w.logins;
    assert_eq!(have(w.enter(2, &new[0])), (WaitKind::Shares, 1, 2));
    let mut mistyped = new[1].clone().into_bytes();
    mistyped[20] = if mistyped[20] == b'q' { b'p' } else { b'q' };
    let mistyped = String::from_utf8(mistyped).expect("ASCII");
    assert_eq!(refused(w.enter(3, &mistyped)), Refusal::ShareMistyped);
    assert_eq!(refused(w.enter(3, "not a share at all")), Refusal::ShareMistyped);
    assert_eq!(refused(w.enter(2, &new[0])), Refusal::ShareRepeated);
    assert_eq!(refused(w.enter(1, &old[0])), Refusal::ShareOutdated);
    assert_eq!(refused(w.enter(4, &new[1])), Refusal::ShareOfAnother);
    assert_eq!(w.state(), StateName::Collecting);
    assert_eq!(w.logins, logins, "no bad share reached the token");
    assert_eq!(w.enter(3, &new[1]), Answer::Done);
    assert_eq!(w.state(), StateName::Active);
}

#[test]
fn p30_a_share_is_shown_to_one_person_once() {
    let mut w = World::with_custodians(b"the code of before", 3);
    assert_eq!(refused(w.fetch(1).expect_err("nothing is handed out")), Refusal::NothingCollected);
    w.split(2, 3, "the code of before");
    let first = w.fetch(1).expect("theirs");
    assert_eq!(refused(w.fetch(1).expect_err("shown already")), Refusal::ShareShownAlready);
    assert_eq!(refused(w.enter(2, &first)), Refusal::ShareNotFetched);
    let stored = w.sets[&Owner(7)].next.as_ref().expect("the set is durable");
    assert_eq!(stored.holder(1), Some(PersonId(1)), "what was shown was durable before it was shown");
    w.fetch(2).expect("theirs");
    w.fetch(3).expect("theirs");
    assert_eq!(refused(w.fetch(0).expect_err("none is left")), Refusal::NoShareLeft);
}

#[test]
fn until_all_shares_are_typed_back_the_old_code_rules_and_a_restart_voids_the_set() {
    let mut w = World::with_custodians(b"the code of before", 3);
    w.split(2, 3, "the code of before");
    let shares: Vec<String> = (1..=3).map(|who| w.fetch(who).expect("theirs")).collect();
    w.enter(1, &shares[0]);
    w.enter(2, &shares[1]);
    assert_eq!(w.pin, b"the code of before");
    w.restart();
    assert_eq!(refused(w.enter(3, &shares[2])), Refusal::NothingCollected);
    assert!(w.sets[&Owner(7)].next.is_none());
    assert_eq!(w.activate("the code of before", false), Answer::Done);
    // A later set knows the void one's shares.
    let new = w.handed_out(2, 3, "the code of before");
    w.deactivate();
    assert_eq!(refused(w.enter(1, &shares[0])), Refusal::ShareOutdated);
    w.enter(1, &new[0]);
    assert_eq!(w.enter(2, &new[1]), Answer::Done);
}

#[test]
fn a_conjunction_of_three_opens_in_any_order_and_names_no_wrong_part() {
    let mut w = World::with_custodians(b"the code of before", 3);
    let roster = Roster::new(&[PersonId(2), PersonId(1), PersonId(3)]).expect("three persons");
    let code = Some(w.secret("the code of before"));
    let mode = Command::Mode {
        slot: SLOT,
        to: Mode::Manual,
        parts: Some(roster),
        code,
        new_code: None,
        confirmed: false,
        accept: ApplicationSet::NONE,
    };
    assert_eq!(have(w.order(mode)), (WaitKind::NewParts, 0, 3));
    assert_eq!(refused(w.enter(0, "somebody's part")), Refusal::NotInRoster);
    assert_eq!(refused(w.enter(1, "short")), Refusal::CodeTooShort);
    assert_eq!(have(w.enter(1, "part of one")), (WaitKind::NewParts, 1, 3));
    assert_eq!(refused(w.enter(1, "part of one")), Refusal::PartRepeated);
    let too_long = "x".repeat(46);
    assert_eq!(refused(w.enter(2, &too_long)), Refusal::PartsTooLong);
    assert_eq!(have(w.enter(3, "part of three")), (WaitKind::NewParts, 2, 3));
    assert_eq!(w.enter(2, "part of two"), Answer::Done);
    assert_eq!(w.pin, b"part of twopart of onepart of three");
    for order in [[1, 2, 3], [3, 1, 2], [2, 3, 1]] {
        w.deactivate();
        let part = |who| ["", "part of one", "part of two", "part of three"][usize::from(who)];
        assert_eq!(have(w.enter(order[0], part(order[0]))), (WaitKind::Parts, 1, 3));
        assert_eq!(have(w.enter(order[1], part(order[1]))), (WaitKind::Parts, 2, 3));
        assert_eq!(w.enter(order[2], part(order[2])), Answer::Done);
    }
    w.deactivate();
    w.enter(1, "part of one");
    w.enter(2, "a wrong part");
    assert_eq!(refused(w.enter(3, "part of three")), Refusal::CodeWrong);
    assert_eq!(w.state(), StateName::Locked, "all are asked again");
}

#[test]
fn from_shares_to_generated_and_to_a_single_code_takes_the_quorum() {
    let mut w = World::with_custodians(b"the code of before", 3);
    let shares = w.handed_out(2, 3, "the code of before");
    let generated = Command::Mode {
        slot: SLOT,
        to: Mode::Generated,
        parts: None,
        code: None,
        new_code: None,
        confirmed: false,
        accept: ApplicationSet::NONE,
    };
    // The slot is active, but nobody takes it away from its custodians alone.
    assert_eq!(have(w.order(generated)), (WaitKind::Shares, 0, 2));
    assert_eq!(w.state(), StateName::Active);
    w.enter(2, &shares[1]);
    assert_eq!(w.enter(1, &shares[0]), Answer::Done);
    assert_eq!(w.records[&Owner(7)].mode, Mode::Generated);
    assert_eq!(w.records[&Owner(7)].knowledge, Knowledge::Whole);

    let shares = w.handed_out(3, 3, "");
    let new_code = Some(w.secret("a single new code"));
    let single = Command::Mode {
        slot: SLOT,
        to: Mode::Manual,
        parts: None,
        code: None,
        new_code,
        confirmed: false,
        accept: ApplicationSet::NONE,
    };
    assert_eq!(have(w.order(single)), (WaitKind::Shares, 0, 3));
    w.enter(2, &shares[1]);
    w.enter(3, &shares[2]);
    assert_eq!(w.enter(1, &shares[0]), Answer::Done);
    assert_eq!(w.pin, b"a single new code");
    w.deactivate();
    assert_eq!(w.activate("a single new code", false), Answer::Done);
}

#[test]
fn p29_a_collection_that_nobody_goes_on_with_ends_and_is_wiped() {
    let mut w = World::with_custodians(b"the code of before", 3);
    let shares = w.handed_out(2, 3, "the code of before");
    w.deactivate();
    w.enter(1, &shares[0]);
    w.now_ms += 600_000;
    w.input(slotwarden_core::Input::Tick);
    assert_eq!(w.state(), StateName::Locked);
    assert_eq!(w.service.secrets_taken_and_owned(), (0, 0));
    // A stranger to it cannot end one; who is alone in it, or an operator, can.
    w.enter(1, &shares[0]);
    assert_eq!(refused(w.order_by(2, Command::Reset { slot: SLOT })), Refusal::NotAllowed);
    assert_eq!(w.order_by(1, Command::Reset { slot: SLOT }), Answer::Done);
    assert_eq!(w.state(), StateName::Locked);
}

#[test]
fn a_split_without_enough_people_or_with_another_order_under_way_is_refused() {
    let mut w = World::with_custodians(b"the code of before", 2);
    assert_eq!(refused(w.split(2, 4, "the code of before")), Refusal::TooFewCustodians);
    assert_eq!(have(w.split(2, 3, "the code of before")), (WaitKind::Custodians, 0, 3));
    assert_eq!(refused(w.split(2, 3, "the code of before")), Refusal::CollectionUnderWay);
    assert_eq!(w.order(Command::Reset { slot: SLOT }), Answer::Done);
    assert_eq!(refused(w.split(2, 3, "")), Refusal::CodeMissing);
    assert_eq!(refused(w.split(2, 3, "short")), Refusal::CodeTooShort);
}

/// The power goes while `C_SetPIN` of the last order is under way; `took` says whether the token
/// has the new PIN. Then everything starts again.
fn cut_in_set_pin(w: &mut World, took: bool, last: impl FnOnce(&mut World)) {
    let before = w.pin.clone();
    w.silent = Some(|call| matches!(call, slotwarden_core::effect::HsmCall::SetPin { .. }));
    w.dies_after_set_pin = true;
    last(w);
    w.silent = None;
    if !took {
        w.pin = before;
    }
    w.held.clear();
    w.restart();
}

#[test]
fn p35_manual_to_shares_interrupted_opens_with_what_the_token_has_shares_or_code() {
    for took in [false, true] {
        let mut w = World::with_custodians(b"the code of before", 3);
        let mut shares = Vec::new();
        w.split(2, 3, "the code of before");
        for who in 1..=3 {
            shares.push(w.fetch(who).expect("theirs"));
        }
        w.enter(1, &shares[0]);
        w.enter(2, &shares[1]);
        let last = shares[2].clone();
        cut_in_set_pin(&mut w, took, |w| w.enter_unanswered(3, &last));
        assert_eq!(w.state(), StateName::Doubtful, "old or new");
        if took {
            assert_eq!(refused(w.activate("the code of before", false)), Refusal::CodeWrong);
            w.enter(3, &shares[2]);
            assert_eq!(w.enter(1, &shares[0]), Answer::Done);
            assert_eq!(w.records[&Owner(7)].knowledge, Knowledge::Shares);
        } else {
            w.enter(3, &shares[2]);
            assert_eq!(refused(w.enter(1, &shares[0])), Refusal::CodeWrong);
            assert_eq!(w.activate("the code of before", false), Answer::Done);
            assert_eq!(w.records[&Owner(7)].knowledge, Knowledge::Whole);
            w.deactivate();
            assert_eq!(refused(w.enter(1, &shares[0])), Refusal::NothingCollected);
        }
        assert_eq!(w.records[&Owner(7)].knowledge_next, None);
        assert!(w.sets[&Owner(7)].next.is_none());
    }
}

#[test]
fn p35_nothing_that_is_entered_ends_the_set_that_the_token_may_have() {
    let mut w = World::with_custodians(b"the code of before", 3);
    w.split(2, 3, "the code of before");
    let shares: Vec<String> = (1..=3).map(|who| w.fetch(who).expect("theirs")).collect();
    w.enter(1, &shares[0]);
    w.enter(2, &shares[1]);
    let last = shares[2].clone();
    cut_in_set_pin(&mut w, true, |w| w.enter_unanswered(3, &last));
    assert_eq!(refused(w.enter(1, "slws1-mistyped")), Refusal::ShareMistyped);
    assert_eq!(have(w.enter(1, &shares[0])), (WaitKind::Shares, 1, 2));
    assert_eq!(w.order(Command::Reset { slot: SLOT }), Answer::Done);
    assert_eq!(have(w.enter(2, &shares[1])), (WaitKind::Shares, 1, 2));
    w.now_ms += 600_000;
    w.input(slotwarden_core::Input::Tick);
    assert!(w.sets[&Owner(7)].next.is_some(), "an undecided set is not void");
    w.enter(1, &shares[0]);
    assert_eq!(w.enter(3, &shares[2]), Answer::Done);
    assert_eq!(w.records[&Owner(7)].knowledge, Knowledge::Shares);
}

#[test]
fn p35_shares_to_shares_interrupted_opens_with_the_set_that_the_token_has() {
    for took in [false, true] {
        let mut w = World::with_custodians(b"the code of before", 4);
        let old = w.handed_out(2, 3, "the code of before");
        w.split(3, 3, "");
        w.enter(1, &old[0]);
        w.enter(2, &old[1]);
        let new: Vec<String> = (2..=4).map(|who| w.fetch(who).expect("theirs")).collect();
        w.enter(2, &new[0]);
        w.enter(3, &new[1]);
        let last = new[2].clone();
        cut_in_set_pin(&mut w, took, |w| w.enter_unanswered(4, &last));
        assert_eq!(w.state(), StateName::Doubtful);
        assert_eq!(have(w.enter(2, &new[0])), (WaitKind::Shares, 1, 3), "the new set is asked for first");
        assert_eq!(refused(w.enter(1, &old[0])), Refusal::ShareOutdated);
        w.enter(3, &new[1]);
        if took {
            assert_eq!(w.enter(4, &new[2]), Answer::Done);
            w.deactivate();
            assert_eq!(refused(w.enter(1, &old[0])), Refusal::ShareOutdated);
        } else {
            assert_eq!(refused(w.enter(4, &new[2])), Refusal::CodeWrong);
            assert_eq!(have(w.enter(1, &old[0])), (WaitKind::Shares, 1, 2), "then the old one");
            assert_eq!(w.enter(2, &old[1]), Answer::Done);
            w.deactivate();
            assert_eq!(refused(w.enter(2, &new[0])), Refusal::ShareOutdated);
        }
    }
}

#[test]
fn p35_generated_to_shares_interrupted_stays_generated_or_waits_for_the_new_shares() {
    for took in [false, true] {
        let mut w = World::with_custodians(b"right code", 3);
        w.generated();
        w.split(2, 3, "");
        let shares: Vec<String> = (1..=3).map(|who| w.fetch(who).expect("theirs")).collect();
        w.enter(1, &shares[0]);
        w.enter(2, &shares[1]);
        let last = shares[2].clone();
        cut_in_set_pin(&mut w, took, |w| w.enter_unanswered(3, &last));
        if took {
            assert_eq!(w.records[&Owner(7)].mode, Mode::Manual);
            assert_eq!(w.sealed.len(), 1, "the stored code is kept until a manual one is accepted");
            w.enter(1, &shares[0]);
            assert_eq!(w.enter(3, &shares[2]), Answer::Done);
            assert!(w.sealed.is_empty());
        } else {
            assert_eq!(w.state(), StateName::Active, "the stored code opened it");
            assert_eq!(w.records[&Owner(7)].mode, Mode::Generated);
            assert!(w.sets[&Owner(7)].next.is_none(), "the new set is void");
        }
        assert_eq!(w.records[&Owner(7)].knowledge_next, None);
    }
}

#[test]
fn p35_shares_to_generated_interrupted_is_generated_or_waits_for_the_old_shares() {
    for took in [false, true] {
        let mut w = World::with_custodians(b"the code of before", 3);
        let shares = w.handed_out(2, 3, "the code of before");
        let generated = Command::Mode {
            slot: SLOT,
            to: Mode::Generated,
            parts: None,
            code: None,
            new_code: None,
            confirmed: false,
            accept: ApplicationSet::NONE,
        };
        w.order(generated);
        w.enter(1, &shares[0]);
        let last = shares[1].clone();
        cut_in_set_pin(&mut w, took, |w| w.enter_unanswered(2, &last));
        if took {
            assert_eq!(w.state(), StateName::Active);
            assert_eq!(w.records[&Owner(7)].mode, Mode::Generated);
        } else {
            assert_eq!(w.records[&Owner(7)].mode, Mode::Manual);
            w.enter(3, &shares[2]);
            assert_eq!(w.enter(1, &shares[0]), Answer::Done);
            assert_eq!(w.records[&Owner(7)].knowledge, Knowledge::Shares);
        }
    }
}

#[test]
fn where_old_and_new_code_are_typed_alike_each_is_asked_for_in_turn() {
    let mut w = World::with_custodians(b"the code of before", 3);
    let roster = Roster::new(&[PersonId(1), PersonId(2)]).expect("two persons");
    let code = Some(w.secret("the code of before"));
    w.order(Command::Mode {
        slot: SLOT,
        to: Mode::Manual,
        parts: Some(roster),
        code,
        new_code: None,
        confirmed: false,
        accept: ApplicationSet::NONE,
    });
    w.enter(1, "part of one");
    cut_in_set_pin(&mut w, false, |w| w.enter_unanswered(2, "part of two"));
    // The token has the old code. New first: parts; then old: the whole code.
    assert_eq!(have(w.enter(2, "part of two")), (WaitKind::Parts, 1, 2));
    assert_eq!(refused(w.enter(1, "part of one")), Refusal::CodeWrong);
    assert_eq!(w.activate("the code of before", false), Answer::Done);
    assert_eq!(w.records[&Owner(7)].knowledge, Knowledge::Whole);
}

#[test]
fn a_reset_asks_for_the_other_code_where_a_change_is_undecided() {
    let mut w = World::with_custodians(b"the code of before", 3);
    let roster = Roster::new(&[PersonId(1), PersonId(2)]).expect("two persons");
    let code = Some(w.secret("the code of before"));
    w.order(Command::Mode {
        slot: SLOT,
        to: Mode::Manual,
        parts: Some(roster),
        code,
        new_code: None,
        confirmed: false,
        accept: ApplicationSet::NONE,
    });
    w.enter(1, "part of one");
    cut_in_set_pin(&mut w, false, |w| w.enter_unanswered(2, "part of two"));
    let logins = w.logins;
    assert_eq!(refused(w.order_by(1, Command::Reset { slot: SLOT })), Refusal::NothingCollected);
    assert_eq!(w.order(Command::Reset { slot: SLOT }), Answer::Done);
    assert_eq!(w.activate("the code of before", false), Answer::Done);
    assert_eq!(w.logins, logins + 1, "no try was spent on the new code");
}

#[test]
fn a_token_that_goes_ends_what_is_collected_for_it() {
    let mut w = World::with_custodians(b"the code of before", 3);
    let shares = w.handed_out(2, 3, "the code of before");
    w.deactivate();
    w.enter(1, &shares[0]);
    let presence = slotwarden_core::token::Presence::Absent { free: false };
    w.input(slotwarden_core::Input::Token { slot: SLOT, presence });
    assert_eq!(w.service.secrets_taken_and_owned(), (0, 0));
    w.present();
    assert_eq!(have(w.enter(2, &shares[1])), (WaitKind::Shares, 1, 2), "people begin again");
}
