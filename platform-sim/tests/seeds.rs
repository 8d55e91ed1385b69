//! Seeds that failed once, each under the name of what it found.
//!
//! A campaign changes when faults, people or the core change, so a seed may walk another
//! path than it did; it stays because it cost nothing and once found something.

use slotwarden_sim::cuts::{self, Script};
use slotwarden_sim::explore::live_guarded;
use slotwarden_sim::hsm::Character;
use slotwarden_sim::world::World;

fn lives(seed: u64) {
    let lived = live_guarded(&mut World::default(), seed);
    assert!(lived.is_ok(), "seed {seed}: {lived:?}");
}

/// Makes a test of each seed.
macro_rules! seeds {
    ($($name:ident $seed:literal;)*) => {
        $(#[test] fn $name() { lives($seed); })*
    };
}

seeds! {
    p35_a_second_init_kept_the_code_of_the_undecided_first_one 1;
    p42_a_stopped_service_asks_for_no_more_ticks 3;
    p33_a_pin_is_not_handed_over_when_its_token_is_gone 8;
    p44_a_wrong_kind_of_answer_halts_nothing 12;
    p36_a_try_that_was_not_made_is_in_the_audit_log 14;
    p16_a_halted_service_reserves_no_place_of_the_safe 20;
    p33_no_pin_is_handed_over_again_after_the_token_went_during_a_change 30;
    p35_a_change_that_was_undone_is_not_answered_done 100;
    p35_a_change_that_was_called_is_never_answered_with_nothing_was_done 184;
    p44_an_order_is_answered_once_after_the_store_failed 273;
    p35_a_refused_stored_code_is_settled_away_before_the_record_says_so 295;
    p35_an_init_lost_with_the_power_can_be_made_again 912;
    p33_a_pin_accepted_by_a_lie 1082;
    p35_another_token_with_the_label_does_not_become_the_slots_token 1387;
    p35_an_activation_that_cannot_be_settled_is_not_done 1398;
    p16_a_change_under_way_when_the_store_fails_keeps_no_secret 1846;
    p34_a_low_count_after_an_unknown_outcome_ends_automatic_tries 9153;
    p35_flags_do_not_choose_between_two_codes_of_two_inits 696;
    p35_a_sealed_code_of_a_token_that_may_come_back_lies_in_the_store 918;
    p33_a_blocked_token_takes_its_pin_back_from_the_applications 36666;
    p34_a_pin_that_set_pin_refused_is_not_used_again 40418;
    p34_a_repeated_login_refused_before_a_power_cut_costs_one_try 55247;
    p35_the_token_that_was_initialised_is_known_by_its_own_serial 68165;
    p33_a_session_that_reads_otherwise_is_not_relied_on 82792;
    p11_a_whole_code_is_not_an_entry_into_a_hand_out 51;
    p35_a_mistyped_share_does_not_end_the_set_that_the_token_may_have 372;
    p35_an_undecided_set_rules_on_when_another_split_is_refused 8448;
    p35_two_codes_in_parts_are_told_apart_by_their_persons 501;
    p09_a_share_typed_with_spaces_counts 1893;
    p34_a_pin_refused_by_set_pin_before_a_power_cut_costs_one_more_try 39228;
    p35_a_token_swapped_during_a_change_is_counted_apart 27657;
    p35_a_whole_code_opens_after_an_interrupted_unblock_among_parts 18237;
    p35_parts_of_two_codes_are_not_mixed 11328;
    p35_two_codes_in_parts_of_the_same_persons_are_tried_in_turn 24513;
    p16_a_reset_carries_no_secret 20457;
    p44_an_order_to_a_daemon_that_is_gone_is_not_given 45039;
    p34_a_refusal_counts_when_it_is_durable 21834;
    p34_an_accepted_login_spends_no_try 74126;
    p26_an_approval_whose_use_was_not_durable_was_not_used 43170;
    p13_no_key_is_restored_from_a_set_whose_making_ended 35;
    p08_an_old_pin_that_is_accepted_after_an_unheard_change_proves_no_change 7;
    p08_a_card_pulled_while_a_new_pin_is_typed_counts_as_unchanged 12;
    p05_a_pull_that_did_not_come_spends_no_try_of_the_next_dialogue 40;
    p13_a_card_of_a_slot_whose_change_is_undecided_may_be_erased_only_beside_a_quorum 3765;
    p35_a_new_code_under_cards_is_known_while_other_orders_are_answered 879;
    p35_a_stored_code_stays_the_next_to_try_when_something_typed_was_refused 85691;
    p35_people_finish_entering_their_shares_before_they_try_what_is_kept 40188;
    p43_a_world_remembers_no_draw_of_the_one_before_it 138240;
    p16_no_ceremony_begins_with_a_secret_that_was_wiped 135417;
    p26_an_approval_asked_for_while_dual_control_is_switched_on_counts 213294;
}

#[test]
fn p35_every_single_power_cut_of_every_script_on_every_token_loses_no_code() {
    let mut world = World::default();
    let mut report = cuts::CutReport::default();
    for script in Script::ALL {
        for character in 0..Character::ALL.len() {
            cuts::cut_everywhere(&mut world, script, character, 1, &mut report);
        }
    }
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert!(report.states > 1_500, "only {} states", report.states);
}
