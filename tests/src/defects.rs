//! Deliberate defects, and the test that catches each: who guards the guards.
//!
//! A defect is one edit of a source file: a text that stands there exactly once, and what
//! replaces it. The program `defects` plants each in a copy of the sources and asks the test
//! that is named for it. `tests/golden/defects.md` is this table for readers; the golden test
//! that writes it also finds every text and every test, so that a defect whose place was
//! rewritten is noticed at once and not when the slow tier runs.

/// One mistake that somebody could make, and who would notice.
#[derive(Clone, Copy, Debug)]
pub struct Defect {
    /// The mistake, in a few words.
    pub name: &'static str,
    /// Numbers of the promises it breaks.
    pub breaks: &'static [u8],
    /// The source file, from the repository's root.
    pub file: &'static str,
    /// Stands in the file exactly once.
    pub find: &'static str,
    /// What stands there instead; it has to compile.
    pub replace: &'static str,
    /// The test that fails then.
    pub caught_by: Test,
}

/// A test, as cargo is asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Test {
    /// The package.
    pub package: &'static str,
    /// The folder of the package, from the repository's root.
    pub folder: &'static str,
    /// The test program, `tests/⟨program⟩.rs` in that folder.
    pub program: &'static str,
    /// The function.
    pub name: &'static str,
}

impl Test {
    /// The file that declares it, from the repository's root.
    #[must_use]
    pub fn file(&self) -> String {
        format!("{}/tests/{}.rs", self.folder, self.program)
    }
}

const fn core(program: &'static str, name: &'static str) -> Test {
    Test { package: "slotwarden-core", folder: "core", program, name }
}

const fn sim(program: &'static str, name: &'static str) -> Test {
    Test { package: "slotwarden-sim", folder: "platform-sim", program, name }
}

const fn linux(program: &'static str, name: &'static str) -> Test {
    Test { package: "slotwarden", folder: "platform-linux", program, name }
}

/// Every defect, in the order in which they are planted: neighbours build the same programs.
pub const DEFECTS: &[Defect] = &[
    Defect {
        name: "the signature of an export is computed and not judged",
        breaks: &[21],
        file: "core/src/export/read.rs",
        find: "        node.verify_strict(&message, &signature).map_err(|_| Problem::Signature)?;",
        replace: "        let _ = node.verify_strict(&message, &signature);",
        caught_by: core("export", "p21_every_bit_flip_and_every_prefix_is_refused"),
    },
    Defect {
        name: "a package is taken whoever it is for",
        breaks: &[22],
        file: "core/src/package.rs",
        find: "    if header.source == *own || !header.targets.contains(own) { Err(Refusal::NotForUs) } else { Ok(()) }",
        replace: "    if header.source == *own { Err(Refusal::NotForUs) } else { Ok(()) }",
        caught_by: core("package", "p22_a_package_is_taken_only_by_its_target_from_a_member_at_the_roster_in_force"),
    },
    Defect {
        name: "an older package is taken again",
        breaks: &[23],
        file: "core/src/package.rs",
        find: "        Some(mark) if mark.sequence > header.sequence => Err(Refusal::PackageOld),",
        replace: "        Some(mark) if mark.sequence > header.sequence => Ok(Admission::Take),",
        caught_by: core("package", "p23_a_replay_is_nothing_and_a_rollback_is_refused"),
    },
    Defect {
        name: "what members told counts before the own token was looked at",
        breaks: &[25],
        file: "core/src/ledger.rs",
        find: "        self.observe(there);
        told.into_iter().for_each(|count| self.merge(count));",
        replace: "        told.into_iter().for_each(|count| self.merge(count));
        self.observe(there);",
        caught_by: core("ledger", "p25_a_key_that_nobody_had_seen_is_older_than_a_removal_that_was_told"),
    },
    Defect {
        name: "a package with a key of another value is made but for that one",
        breaks: &[25],
        file: "core/src/reception.rs",
        find: "    if plan.conflict > 0 {",
        replace: "    if plan.conflict == u32::MAX {",
        caught_by: core("golden_reception", "p25_a_conflict_in_the_last_slot_leaves_the_first_one_untouched"),
    },
    Defect {
        name: "a package of which some was made is forgotten when the token refuses the rest",
        breaks: &[24],
        file: "core/src/reception.rs",
        find: "                State::AtToken { progress: Progress { touched: false, .. }, waiter, .. },",
        replace: "                State::AtToken { waiter, .. },",
        caught_by: core("golden_reception", "p24_a_restart_goes_on_from_the_first_slot_and_gives_nothing_up"),
    },
    Defect {
        name: "a login that timed out is made again",
        breaks: &[5, 44],
        file: "core/src/slot.rs",
        find: "                Transition(State::Doubtful { ticket, step: step.without_caller() })",
        replace: "                if let Step::Login(attempt, id) = step {
                    return attempt::begin_login(turn, Try { caller: None, ..attempt }, id);
                }
                Transition(State::Doubtful { ticket, step: step.without_caller() })",
        caught_by: core("attacks", "p05_a_login_without_an_answer_is_not_made_again"),
    },
    Defect {
        name: "\"already logged in\" is taken for success",
        breaks: &[33],
        file: "core/src/slot/attempt.rs",
        find: "        Ok(HsmAnswer::LoggedIn) => {
            if attempt.cause",
        replace: "        Ok(HsmAnswer::LoggedIn) | Err(HsmFailure::AlreadyLoggedIn) => {
            if attempt.cause",
        caught_by: core("attacks", "p33_a_login_that_was_there_already_proves_no_code"),
    },
    Defect {
        name: "a try is counted after it was made",
        breaks: &[34, 36],
        file: "core/src/slot/attempt.rs",
        find: "        attempts::begin(turn, attempt.caller, attempt.cause);",
        replace: "        turn.slot.tried_serial = turn.slot.token.map(|token| token.serial);",
        caught_by: core("attacks", "p34_a_try_that_a_power_cut_ended_was_counted_before_it_was_made"),
    },
    Defect {
        name: "the late answer to an earlier call is believed",
        breaks: &[33, 44],
        file: "core/src/slot.rs",
        find: "            (State::AtToken { ticket, step }, On::Done(done, EffectOutcome::Hsm(result))) if done == ticket => {",
        replace: "            (State::AtToken { step, .. }, On::Done(_, EffectOutcome::Hsm(result))) => {",
        caught_by: core("attacks", "p33_an_answer_to_an_earlier_call_is_not_taken_for_this_one"),
    },
    Defect {
        name: "a call is made before its record is durable",
        breaks: &[36],
        file: "core/src/outbox.rs",
        find: "            && batch <= self.durable
",
        replace: "            && batch <= self.forming
",
        caught_by: core("attacks", "p36_nothing_is_called_and_nobody_answered_before_the_commit_is_durable"),
    },
    Defect {
        name: "the code that a token refused is not wiped",
        breaks: &[16],
        file: "core/src/slot/attempt.rs",
        find: "    turn.wipe(id);
    turn.slot.ask_other(attempt.by);",
        replace: "    turn.slot.ask_other(attempt.by);",
        caught_by: core("scenario", "a_wrong_code_is_refused_and_the_right_one_activates"),
    },
    Defect {
        name: "a stored code is erased before the new one is settled",
        breaks: &[35],
        file: "core/src/pin_change/answer.rs",
        find: "                self.logged_in = true;
                self.ask(turn, Step::Settle, HsmCall::Settle)",
        replace: "                self.logged_in = true;
                let superseded = turn.slot.record.accepted.take();
                turn.erase(superseded);
                self.ask(turn, Step::Settle, HsmCall::Settle)",
        caught_by: core("ways_out", "p35_every_sealed_code_is_kept_until_the_new_one_is_accepted_and_settled"),
    },
    Defect {
        name: "a person approves their own request",
        breaks: &[26],
        file: "core/src/approval.rs",
        find: "            (_, ApprovalEvent::CodeGiven { who, .. }) if who == requester => Reaction::Refused(Refusal::ApprovalOwn),
",
        replace: "",
        caught_by: core("approvals", "p26_two_persons_do_what_one_cannot"),
    },
    Defect {
        name: "the same share counts twice",
        breaks: &[9, 11],
        file: "core/src/quorum/enter.rs",
        find: "        if self.entered.iter().any(|entered| entered.place == share.x()) {
            return Err(Refusal::ShareRepeated);
        }
",
        replace: "",
        caught_by: core("people", "p11_every_bad_share_is_refused_by_name_and_good_ones_stay"),
    },
    Defect {
        name: "a coefficient of the sharing is never zero",
        breaks: &[10],
        file: "core/src/share.rs",
        find: "lanes.read(block))",
        replace: "lanes.read(&block.map(|byte| byte.max(1))))",
        caught_by: core("shares", "p10_coefficients_of_real_sets_take_every_value_and_zero_as_often_as_others"),
    },
    Defect {
        name: "what a card gives back is not compared with what was written",
        breaks: &[13, 15],
        file: "core/src/ceremony/deal.rs",
        find: "        if !same {
            return self.reject(turn, Refusal::CardReadBackDiffers);",
        replace: "        if !same && self.dealt.is_full() {
            return self.reject(turn, Refusal::CardReadBackDiffers);",
        caught_by: core("golden_ceremony", "a_ceremony_answers_every_event_in_every_state"),
    },
    Defect {
        name: "the last try of a card's PIN is made without a question",
        breaks: &[4],
        file: "core/src/ceremony/pad.rs",
        find: "|card| card.tries_left == Some(1)",
        replace: "|card| card.tries_left == Some(0)",
        caught_by: sim("ceremonies_refused", "p4_the_last_try_is_asked_about_and_a_blocked_card_is_turned_away"),
    },
    Defect {
        name: "a change of a PIN that nobody saw the end of counts as made",
        breaks: &[7, 8],
        file: "core/src/ceremony/pad.rs",
        find: "        self.visit.changed = false;",
        replace: "        self.visit.changed = true;",
        caught_by: sim("ceremonies_refused", "p8_a_change_of_unknown_outcome_is_none"),
    },
    Defect {
        name: "cards of two sets are put together",
        breaks: &[11],
        file: "core/src/ceremony/visit.rs",
        find: "first.set_id != header.set_id",
        replace: "first.set_id != header.set_id && header.x == 0",
        caught_by: sim("ceremonies", "p12_cards_of_two_sets_of_one_key_are_not_put_together"),
    },
    Defect {
        name: "a card is copied onto itself",
        breaks: &[14],
        file: "core/src/ceremony/visit.rs",
        find: "Purpose::CopyTarget if read =>",
        replace: "Purpose::CopyTarget if read && facts.no_room =>",
        caught_by: sim("ceremonies_refused", "p11_a_card_that_does_not_fit_is_refused_by_name_before_its_pin_is_asked_for"),
    },
    Defect {
        name: "the share of a card that is turned away is not wiped",
        breaks: &[16],
        file: "core/src/ceremony/visit.rs",
        find: "        self.forget(turn, |visit| visit.y_back.take());
        turn.push(Deed::Session(self.visit.reader, LET_GO));",
        replace: "        turn.push(Deed::Session(self.visit.reader, LET_GO));",
        caught_by: sim("ceremonies_refused", "p11_a_record_that_only_its_pin_shows_to_be_none_is_refused_by_name"),
    },
    Defect {
        name: "the token gets the key that unwraps before that is durable",
        breaks: &[24],
        file: "core/src/transfer.rs",
        find: "                out.remember(Some(restoration));
                State::Preparing { restoration }",
        replace: "                State::Preparing { restoration }",
        caught_by: sim("transfers", "p24_power_that_goes_amid_a_restore_leaves_nothing_or_all_of_it_and_never_u"),
    },
    Defect {
        name: "the key that unwraps goes before it is durable that everything was made",
        breaks: &[24],
        file: "core/src/transfer.rs",
        find: "                let restoration = Restoration { reached: Reached::Made, ..restoration };
                out.remember(Some(restoration));",
        replace: "                let restoration = Restoration { reached: Reached::Made, ..restoration };",
        caught_by: sim("transfers", "p24_power_that_goes_amid_a_restore_leaves_nothing_or_all_of_it_and_never_u"),
    },
    Defect {
        name: "whoever ordered an import waits for a slot that was closed",
        breaks: &[29],
        file: "core/src/service/transfers.rs",
        find: "            self.transfer.patience_ms = None;
            self.transfer_event(TransferEvent::SlotClosed(Refusal::SlotNotActive));",
        replace: "            self.transfer.patience_ms = None;",
        caught_by: sim(
            "transfers",
            "p29_an_import_that_made_everything_is_done_though_its_slot_was_closed_and_u_goes_when_it_is_opened",
        ),
    },
    Defect {
        name: "a file with a wrong MAC is called verified",
        breaks: &[19],
        file: "core/src/ceremony/finish.rs",
        find: "            (Ok(true), Some(Task::VerifyFile { file, .. })) => {",
        replace: "            (Ok(true | false), Some(Task::VerifyFile { file, .. })) => {",
        caught_by: sim("transfers", "p19_a_file_that_was_altered_or_is_of_another_key_is_not_called_verified"),
    },
    Defect {
        name: "a zeroize that the disk did not confirm is done",
        breaks: &[41],
        file: "core/src/service/zeroize.rs",
        find: "            (None, _) => Answer::Failed(Fault::StoreFailed),",
        replace: "            (None, _) => Answer::Done,",
        caught_by: linux(
            "daemon",
            "p41_a_zeroize_takes_everything_back_whatever_the_disk_does_and_says_done_only_when_it_confirmed",
        ),
    },
    Defect {
        name: "a commit is answered before it is synced",
        breaks: &[36, 39],
        file: "platform-linux/src/store/format.rs",
        find: "pub fn apply(database: &Database, batch: &[Change]) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
",
        replace: "pub fn apply(database: &Database, batch: &[Change]) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::None)?;
",
        caught_by: linux("store_cuts", "p39_a_power_cut_at_any_byte_of_any_write_leaves_the_state_before_or_after"),
    },
];
