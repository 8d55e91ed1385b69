//! Codes that several persons know, with the real program on real tokens: each person is a
//! user of their own, and only what they type opens a slot. The same list for SoftHSM2 and
//! Kryoptic.

use std::os::unix::process::CommandExt as _;

use slotwarden_tests::modules::{Kind, SO_PIN};
use slotwarden_tests::stage::{Ran, Stage, run};

slotwarden_tests::on_both_modules! {
    any_m_of_n_open_the_slot_through_kills_and_restarts
    p11_every_bad_share_is_refused_by_name_and_good_ones_stay
    p30_a_share_is_shown_to_one_person_once_and_until_all_are_back_the_old_code_rules
    sixteen_persons_split_a_code_and_open_their_slot_together
    a_conjunction_of_three_opens_in_any_order_and_a_wrong_part_is_asked_of_all_again
    a_reset_begins_again_and_is_for_those_who_took_part
    p26_two_user_ids_of_one_person_are_one_person
}

const CODE: &str = "the code of before";
/// User id of the first custodian; the others follow. Nobody of the machine has these.
const FIRST_UID: u32 = 54_400;

/// A stage with root as administrator, so many custodians `p1`, `p2`, …, and two slots with
/// manual codes, `ca` and `other`, for the applications `signer` and `validator`.
fn stage(kind: Kind, custodians: u32) -> Stage {
    let mut stage = Stage::new(kind, 2);
    for (slot, application) in [("ca", "signer"), ("other", "validator")] {
        stage.bench.make_token_with(slot, SO_PIN, CODE);
        stage.slot(slot, slot, application);
    }
    stage.more = "[[person]]\nname = \"root\"\nuids = [0]\nroles = [\"administrator\", \"auditor\"]\n".into();
    for who in 1..=custodians {
        let uid = FIRST_UID + who;
        stage.more.push_str(&format!("[[person]]\nname = \"p{who}\"\nuids = [{uid}]\nroles = [\"custodian\"]\n"));
    }
    stage.open_to_all();
    stage.start();
    stage
}

/// A custodian enters something: a share, a part, their new share.
fn enters(stage: &Stage, who: u32, slot: &str, text: &str) -> Ran {
    let file = stage.secret_file(text);
    let mut command = stage.command();
    command.args(["slot", "share", slot, "--code-file"]).arg(file);
    run(command.uid(FIRST_UID + who).gid(FIRST_UID + who))
}

/// A custodian asks for their new share.
fn asks(stage: &Stage, who: u32, slot: &str) -> Ran {
    stage.run_as(FIRST_UID + who, &["slot", "share", slot])
}

fn fetches(stage: &Stage, who: u32, slot: &str) -> String {
    let ran = asks(stage, who, slot).exits(0);
    let share = ran.stdout.trim_end().to_owned();
    assert!(share.len() == 65 && share.starts_with("slws1-"), "{ran:?}");
    share
}

fn splits(stage: &Stage, slot: &str, (m, n): (usize, usize), code: Option<&str>) -> Ran {
    let (m, n) = (m.to_string(), n.to_string());
    let arguments = ["slot", "split", slot, "-m", &m, "-n", &n];
    match code {
        Some(code) => stage.run_with(&arguments, "--code-file", code),
        None => stage.run(&arguments),
    }
}

/// What the command says for how many more people the slot waits.
#[track_caller]
fn waits(ran: Ran, sentence: &str) {
    let ran = ran.exits(2);
    assert!(ran.stdout.contains(sentence), "{}", ran.stdout);
}

/// Splits and hands out to `p1`, `p2`, …, who all type theirs back.
fn handed_out(stage: &Stage, slot: &str, (m, n): (usize, usize), code: Option<&str>) -> Vec<String> {
    splits(stage, slot, (m, n), code).exits(2);
    let shares: Vec<String> = (1..).take(n).map(|who| fetches(stage, who, slot)).collect();
    for (who, share) in (1..).zip(&shares) {
        let ran = enters(stage, who, slot, share);
        ran.exits(if who as usize == n { 0 } else { 2 });
    }
    assert_eq!(stage.slot_status(slot)["state"], "active");
    shares
}

fn any_m_of_n_open_the_slot_through_kills_and_restarts(kind: Kind) {
    let mut stage = stage(kind, 5);
    let warned = splits(&stage, "ca", (3, 3), Some("short")).refused(1, 201);
    assert!(warned.stderr.contains("WARNING: as many are needed as there are"), "{}", warned.stderr);
    splits(&stage, "ca", (1, 3), Some(CODE)).refused(1, 801);
    splits(&stage, "ca", (2, 17), Some(CODE)).refused(1, 801);
    splits(&stage, "ca", (2, 9), Some(CODE)).refused(1, 812);

    let two = handed_out(&stage, "ca", (2, 3), Some(CODE));
    let three = handed_out(&stage, "other", (3, 5), Some(CODE));
    let pin = stage.handed_over("signer").expect("the slot is active");
    // The application gets the derived PIN; neither the code before nor a share opens the token.
    assert_eq!(pin.len(), 32);
    assert!(stage.opens("ca", &pin) && !stage.opens("ca", CODE) && !stage.opens("ca", &two[0][..32]));
    let knows = stage.slot_status("ca")["knowledge"].clone();
    assert_eq!((&knows["kind"], &knows["set"]["m"], &knows["set"]["n"]), (&"shares".into(), &2.into(), &3.into()));

    for (killed, first, second) in [(true, 1, 3), (false, 3, 2), (true, 2, 1)] {
        if killed {
            stage.kill();
        } else {
            assert!(stage.stop().success());
        }
        stage.start();
        assert_eq!(stage.handed_over("signer"), None);
        let boot = stage.run(&["boot"]).exits(2);
        assert!(boot.stdout.contains("ca waits for 2 of 3 shares; other waits for 3 of 5 shares"), "{}", boot.stdout);
        waits(enters(&stage, first, "ca", &two[first as usize - 1]), "1 of 2 shares entered");
        let waiting = stage.slot_status("ca");
        assert_eq!((&waiting["state"], &waiting["waits_for"]["kind"]), (&"collecting".into(), &"shares".into()));
        assert_eq!((&waiting["waits_for"]["have"], &waiting["waits_for"]["need"]), (&1.into(), &2.into()));
        assert_eq!(waiting["collection"]["persons"][0]["name"], format!("p{first}"));
        enters(&stage, second, "ca", &two[second as usize - 1]).exits(0);
        assert_eq!(stage.handed_over("signer").as_ref(), Some(&pin));
        assert!(stage.opens("ca", &pin));
    }
    for (who, exit) in [(5, 2), (1, 2), (4, 0)] {
        enters(&stage, who, "other", &three[who as usize - 1]).exits(exit);
    }
    assert_eq!(stage.run(&["status"]).exits(0).exit, 0);
}

fn p11_every_bad_share_is_refused_by_name_and_good_ones_stay(kind: Kind) {
    let stage = stage(kind, 4);
    let old = handed_out(&stage, "ca", (2, 3), Some(CODE));
    let foreign = handed_out(&stage, "other", (2, 3), Some(CODE));
    // A set that was handed out and never came into force is void.
    waits(splits(&stage, "ca", (2, 4), None), "0 of 2 shares entered");
    enters(&stage, 1, "ca", &old[0]).exits(2);
    waits(enters(&stage, 2, "ca", &old[1]), "0 of 4 new shares");
    let void = fetches(&stage, 1, "ca");
    stage.run(&["slot", "share", "ca", "--reset"]).exits(0);
    // Another one supersedes the first.
    splits(&stage, "ca", (2, 3), None).exits(2);
    enters(&stage, 3, "ca", &old[2]).exits(2);
    enters(&stage, 1, "ca", &old[0]).exits(2);
    let new: Vec<String> = (1..=3).map(|who| fetches(&stage, who, "ca")).collect();
    enters(&stage, 4, "ca", &new[0]).refused(1, 810);
    enters(&stage, 1, "ca", &new[1]).refused(77, 805);
    enters(&stage, 1, "ca", &old[0]).refused(1, 807);
    enters(&stage, 1, "ca", &foreign[0]).refused(1, 803);
    enters(&stage, 1, "ca", &new[0]).exits(2);
    enters(&stage, 1, "ca", &new[0]).refused(1, 808);
    enters(&stage, 2, "ca", &new[1]).exits(2);
    enters(&stage, 3, "ca", &new[2]).exits(0);
    stage.run(&["slot", "deactivate", "ca"]).exits(0);

    let attempts = stage.attempts("ca").len();
    enters(&stage, 1, "ca", "not a share at all").refused(1, 802);
    enters(&stage, 2, "ca", &new[1]).exits(2);
    let mut mistyped = new[0].clone().into_bytes();
    mistyped[30] = if mistyped[30] == b'q' { b'p' } else { b'q' };
    let refused = enters(&stage, 1, "ca", &String::from_utf8(mistyped).expect("ASCII")).refused(1, 802);
    assert!(refused.stderr.contains("typing error"), "{}", refused.stderr);
    enters(&stage, 1, "ca", &new[0][..64]).refused(1, 802);
    enters(&stage, 1, "ca", &foreign[0]).refused(1, 803);
    enters(&stage, 1, "ca", &void).refused(1, 807);
    enters(&stage, 1, "ca", &old[0]).refused(1, 807);
    enters(&stage, 2, "ca", &new[1]).refused(1, 808);
    enters(&stage, 1, "ca", &new[2]).refused(77, 805);
    enters(&stage, 4, "ca", &new[0]).refused(77, 805);
    let slot = stage.slot_status("ca");
    assert_eq!((&slot["state"], &slot["collection"]["progress"]["have"]), (&"collecting".into(), &1.into()));
    assert_eq!(stage.attempts("ca").len(), attempts, "no bad share reached the token");
    // Typed in capital letters, with spaces for hyphens, it is the same share.
    enters(&stage, 1, "ca", &new[0].to_uppercase().replace('-', " ")).exits(0);
    assert_eq!(stage.slot_status("ca")["state"], "active");
}

fn p30_a_share_is_shown_to_one_person_once_and_until_all_are_back_the_old_code_rules(kind: Kind) {
    let mut stage = stage(kind, 4);
    asks(&stage, 1, "ca").refused(1, 818);
    splits(&stage, "ca", (2, 3), Some("not the code of before")).exits(2);
    let shares: Vec<String> = (1..=3).map(|who| fetches(&stage, who, "ca")).collect();
    asks(&stage, 1, "ca").refused(77, 809);
    asks(&stage, 4, "ca").refused(1, 811);
    let persons = stage.slot_status("ca")["collection"]["persons"].clone();
    assert_eq!(persons.as_array().map(Vec::len), Some(3));
    assert_eq!((&persons[0]["name"], &persons[0]["did"]), (&"p1".into(), &"fetched".into()));
    enters(&stage, 1, "ca", &shares[0]).exits(2);
    assert_eq!(stage.slot_status("ca")["collection"]["persons"][0]["did"], "confirmed");
    enters(&stage, 2, "ca", &shares[1]).exits(2);
    // The present code was wrong, as the token says only now.
    enters(&stage, 3, "ca", &shares[2]).refused(1, 209);
    stage.activate("ca", CODE).exits(0);
    assert!(stage.opens("ca", CODE));

    // A restart while shares are out voids them.
    splits(&stage, "ca", (2, 3), Some(CODE)).exits(2);
    let void = fetches(&stage, 1, "ca");
    enters(&stage, 1, "ca", &void).exits(2);
    assert!(stage.opens("ca", CODE), "until all are typed back the old code rules");
    stage.kill();
    stage.start();
    enters(&stage, 1, "ca", &void).refused(1, 818);
    stage.activate("ca", CODE).exits(0);
    let shares = handed_out(&stage, "ca", (2, 3), Some(CODE));
    stage.run(&["slot", "deactivate", "ca"]).exits(0);
    enters(&stage, 1, "ca", &void).refused(1, 807);
    // Only those who are named may fetch.
    let named = ["slot", "split", "ca", "-m", "2", "-n", "2", "--custodians", "p4,p1"];
    stage.run(&["slot", "split", "ca", "-m", "2", "-n", "2", "--custodians", "p4,nobody"]).refused(1, 627);
    stage.run(&["slot", "split", "ca", "-m", "2", "-n", "2", "--custodians", "p4,p4"]).refused(1, 817);
    stage.run(&["slot", "split", "ca", "-m", "2", "-n", "2", "--custodians", "p4"]).refused(1, 812);
    stage.run(&named).exits(2);
    enters(&stage, 1, "ca", &shares[0]).exits(2);
    enters(&stage, 3, "ca", &shares[2]).exits(2);
    asks(&stage, 2, "ca").refused(77, 813);
    let fourth = fetches(&stage, 4, "ca");
    let first = fetches(&stage, 1, "ca");
    enters(&stage, 4, "ca", &fourth).exits(2);
    enters(&stage, 1, "ca", &first).exits(0);
}

fn sixteen_persons_split_a_code_and_open_their_slot_together(kind: Kind) {
    let mut stage = stage(kind, 16);
    let all = handed_out(&stage, "ca", (16, 16), Some(CODE));
    let some = handed_out(&stage, "other", (3, 16), Some(CODE));
    stage.kill();
    stage.start();
    for who in (1..=16).rev() {
        enters(&stage, who, "ca", &all[who as usize - 1]).exits(if who == 1 { 0 } else { 2 });
    }
    for (who, exit) in [(16, 2), (7, 2), (9, 0)] {
        enters(&stage, who, "other", &some[who as usize - 1]).exits(exit);
    }
    assert!(stage.opens("ca", &stage.handed_over("signer").expect("it is active")));
    // From shares to a single code takes them again, and then one person is enough.
    let single = stage.run_with(&["slot", "mode", "other", "manual"], "--new-code-file", "a single code");
    waits(single, "0 of 3 shares entered");
    for (who, exit) in [(1, 2), (2, 2), (3, 0)] {
        enters(&stage, who, "other", &some[who as usize - 1]).exits(exit);
    }
    stage.run(&["slot", "deactivate", "other"]).exits(0);
    stage.activate("other", "a single code").exits(0);
}

fn a_conjunction_of_three_opens_in_any_order_and_a_wrong_part_is_asked_of_all_again(kind: Kind) {
    const PARTS: [&str; 3] = ["part of one", "part of two", "part of three"];
    let mut stage = stage(kind, 4);
    let part = |who: u32| PARTS[who as usize - 1];
    let to_parts =
        |names: &str| stage.run_with(&["slot", "mode", "ca", "manual", "--parts", names], "--code-file", CODE);
    to_parts("p1").refused(1, 814);
    to_parts("p1,p1").refused(1, 817);
    to_parts("p1,nobody").refused(1, 627);
    let said = to_parts("p2,p1,p3").exits(2);
    assert!(said.stderr.contains("all of p2, p1, p3 have to enter their parts"), "{}", said.stderr);
    assert!(said.stdout.contains("0 of 3 parts of the new code entered"), "{}", said.stdout);
    enters(&stage, 4, "ca", "somebody's part").refused(77, 813);
    enters(&stage, 1, "ca", "short").refused(1, 201);
    enters(&stage, 1, "ca", part(1)).exits(2);
    enters(&stage, 1, "ca", part(1)).refused(1, 815);
    enters(&stage, 2, "ca", &"x".repeat(60)).refused(1, 816);
    enters(&stage, 3, "ca", part(3)).exits(2);
    enters(&stage, 2, "ca", part(2)).exits(0);
    assert_eq!(stage.handed_over("signer").as_deref(), Some("part of twopart of onepart of three"));
    assert_eq!(stage.slot_status("ca")["knowledge"]["persons"], serde_json::json!(["p2", "p1", "p3"]));

    for order in [[1, 2, 3], [3, 1, 2], [2, 3, 1]] {
        stage.kill();
        stage.start();
        waits(enters(&stage, order[0], "ca", part(order[0])), "1 of 3 parts entered");
        enters(&stage, order[1], "ca", part(order[1])).exits(2);
        enters(&stage, order[2], "ca", part(order[2])).exits(0);
        assert!(stage.opens("ca", "part of twopart of onepart of three"));
    }
    stage.run(&["slot", "deactivate", "ca"]).exits(0);
    enters(&stage, 1, "ca", part(1)).exits(2);
    enters(&stage, 3, "ca", "part of nobody").exits(2);
    enters(&stage, 2, "ca", part(2)).refused(1, 209);
    let slot = stage.slot_status("ca");
    assert_eq!((&slot["state"], &slot["collection"]), (&"locked".into(), &serde_json::Value::Null));
    for (who, exit) in [(2, 2), (3, 2), (1, 0)] {
        enters(&stage, who, "ca", part(who)).exits(exit);
    }
}

fn a_reset_begins_again_and_is_for_those_who_took_part(kind: Kind) {
    let stage = stage(kind, 3);
    let reset = |who: u32| stage.run_as(FIRST_UID + who, &["slot", "share", "ca", "--reset"]);
    reset(1).refused(1, 818);
    let shares = handed_out(&stage, "ca", (2, 3), Some(CODE));
    stage.run(&["slot", "deactivate", "ca"]).exits(0);
    enters(&stage, 1, "ca", &shares[0]).exits(2);
    reset(2).refused(77, 101);
    reset(1).exits(0);
    assert_eq!(stage.slot_status("ca")["state"], "locked");
    enters(&stage, 2, "ca", &shares[1]).exits(2);
    let first = stage.slot_status("ca")["waits_for"]["attempt"].clone();
    stage.run(&["slot", "share", "ca", "--reset"]).exits(0);
    enters(&stage, 2, "ca", &shares[1]).exits(2);
    let second = stage.slot_status("ca")["waits_for"]["attempt"].clone();
    assert!(first.is_string() && first != second, "{first} and {second}");
    let shown = stage.run(&["slot", "show", "ca"]).exits(0).stdout;
    assert!(shown.contains("manual, any 2 of 3 persons") && shown.contains("p2: entered"), "{shown}");
    assert!(shown.contains(second.as_str().expect("a string")), "{shown}");
    splits(&stage, "ca", (2, 3), None).refused(75, 819);
    enters(&stage, 3, "ca", &shares[2]).exits(0);
}

fn p26_two_user_ids_of_one_person_are_one_person(kind: Kind) {
    let mut stage = stage(kind, 2);
    stage.stop();
    // The second custodian gets another user id.
    let (one, other) = (FIRST_UID + 2, FIRST_UID + 3);
    stage.more = stage.more.replace(&format!("uids = [{one}]"), &format!("uids = [{one}, {other}]"));
    stage.start();
    splits(&stage, "ca", (2, 4), Some(CODE)).refused(1, 812);
    splits(&stage, "ca", (2, 2), Some(CODE)).exits(2);
    let shares: Vec<String> = (1..=2).map(|who| fetches(&stage, who, "ca")).collect();
    asks(&stage, 3, "ca").refused(77, 809);
    enters(&stage, 3, "ca", &shares[1]).exits(2);
    enters(&stage, 2, "ca", &shares[1]).refused(1, 808);
    enters(&stage, 1, "ca", &shares[0]).exits(0);
    stage.run(&["slot", "deactivate", "ca"]).exits(0);
    enters(&stage, 2, "ca", &shares[1]).exits(2);
    enters(&stage, 3, "ca", &shares[1]).refused(1, 808);
    enters(&stage, 3, "ca", &shares[0]).refused(77, 805);
    enters(&stage, 1, "ca", &shares[0]).exits(0);
}
