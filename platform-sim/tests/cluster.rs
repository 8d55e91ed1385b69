//! Clusters of simulated nodes: keys made on one come to the others, whatever the courier does with the packages
//! and wherever the power goes.

use std::collections::BTreeMap;

use slotwarden_core::ceremony::order::SlotSet;
use slotwarden_core::cluster::ClusterOrder;
use slotwarden_core::command::{Answer, Command};
use slotwarden_core::effect::SlotId;
use slotwarden_core::fault::Refusal;
use slotwarden_core::reception::State;
use slotwarden_core::transfer::TransferOrder;
use slotwarden_sim::members::{DONE, Node, cluster, next, refused, slots_of};
use slotwarden_sim::room::{ADMINISTRATOR, Cut, CutWay};
use slotwarden_sim::sync::{Name, Package};
use slotwarden_sim::vault::Keys;

const WAYS: [CutWay; 3] = [CutWay::Before, CutWay::After, CutWay::Amid];

/// What the tokens of a node hold.
fn tokens(node: &Node) -> [Keys; 2] {
    node.room.vault.tokens.clone()
}

fn is_whole(node: &mut Node) -> bool {
    node.state() == State::Idle && node.room.stored.reception.is_none()
}

#[test]
fn p22_only_what_is_for_us_from_a_member_of_our_roster_is_taken() {
    let mut nodes = cluster(3, false);
    nodes[0].room.vault.tokens[0].insert(1, 11);
    let package = nodes[0].pack().expect("it is made");
    let judged = |node: &mut Node, change: &dyn Fn(&mut Package)| {
        let mut altered = package.clone();
        change(&mut altered);
        let header = node.room.core().judge_package(&altered.header).err();
        let whole = node.room.core().admit_package(&altered.header, &altered.hash);
        assert_eq!(whole.err(), header, "the header alone says it");
        // What was not admitted cannot be ordered either.
        let order = TransferOrder::Receive { hash: altered.hash, slots: slots_of(&altered) };
        assert_eq!(node.order(order), refused(Refusal::NothingReceived));
        header
    };
    let stranger = Node::new(9).key();
    let own = nodes[1].key();
    let node = &mut nodes[1];
    assert_eq!(judged(node, &|p| p.header.source = stranger), Some(Refusal::UnknownSource));
    assert_eq!(judged(node, &|p| p.header.source = own), Some(Refusal::NotForUs));
    assert_eq!(judged(node, &|p| p.header.cluster = [0; 16]), Some(Refusal::OtherCluster));
    assert_eq!(judged(node, &|p| p.header.roster_epoch -= 1), Some(Refusal::RosterOld));
    assert_eq!(judged(node, &|p| p.header.roster_epoch += 1), Some(Refusal::RosterNewer));
    assert_eq!(judged(node, &|p| p.header.roster_hash = [0; 32]), Some(Refusal::RosterDiverged));
    assert_eq!(judged(node, &|p| p.header.key_id = [0; 16]), Some(Refusal::PackageOfAnotherKey));
    assert_eq!(judged(node, &|p| p.header.targets.retain(|target| *target != own)), Some(Refusal::NotForUs));
    assert_eq!(tokens(node), [Keys::new(), Keys::new()]);
    // As it is, it is taken; a person says yes to the plan.
    assert_eq!(node.receive(&package), Ok(DONE));
    assert_eq!(tokens(node), [Keys::new(), Keys::new()], "it is a plan");
    assert_eq!(node.order(TransferOrder::Apply { hash: [0; 32] }), refused(Refusal::NothingReceived));
    assert_eq!(node.order(TransferOrder::Apply { hash: package.hash }), DONE);
    assert_eq!(tokens(node), [Keys::from([(1, 11)]), Keys::new()]);
    // Nobody in no cluster takes anything.
    let mut alone = Node::new(7);
    assert_eq!(alone.receive(&package), Err(Refusal::NoCluster));
}

#[test]
fn p22_a_node_that_was_shut_out_is_heard_no_more_and_hears_nothing() {
    let mut nodes = cluster(3, true);
    nodes[2].room.vault.tokens[0].insert(5, 55);
    let before = nodes[2].pack().expect("it is a member");
    let old = nodes[0].roster();
    let members = [nodes[0].member(), nodes[1].member()];
    let roster = next(Some(&old), &members);
    let hash = nodes[0].propose(&roster);
    assert_eq!(nodes[0].cluster(ClusterOrder::Remove { hash }), DONE);
    let signed = nodes[0].sign(&roster);
    // Not yet heard of it: what the others say is of a newer roster.
    let newer = nodes[0].pack().expect("it is a member");
    assert_eq!(nodes[1].receive(&newer), Err(Refusal::RosterNewer));
    for node in &mut nodes[1..] {
        node.offer(&signed);
        assert_eq!(node.cluster(ClusterOrder::Follow { hash }), DONE);
    }
    assert_eq!(nodes[1].receive(&before), Err(Refusal::UnknownSource));
    assert_eq!(nodes[2].receive(&newer), Err(Refusal::NotRosterMember));
    assert_eq!(nodes[2].pack(), None);
    assert_eq!(nodes[1].receive(&newer), Ok(DONE));
    // U is for members: it is gone from the tokens of the one that left, and stays in the others.
    let has_u = |node: &Node| {
        let keys = node.room.tokens.iter().flat_map(|token| token.live.backup_keys.iter().flatten());
        keys.filter(|key| key.purpose == slotwarden_sim::hsm::Purpose::Unwrap).count()
    };
    assert_eq!(nodes.iter().map(has_u).collect::<Vec<_>>(), [2, 2, 0]);
}

#[test]
fn p22_a_division_is_settled_once_by_two_persons_and_by_rosters_of_members_only() {
    let mut nodes = cluster(4, true);
    let before = nodes[0].roster();
    let without = |nodes: &[Node], out: usize| {
        let members: Vec<_> = (0..4).filter(|number| *number != out).map(|number| nodes[number].member()).collect();
        next(Some(&before), &members)
    };
    let [ours, theirs] = [without(&nodes, 3), without(&nodes, 2)];
    let hash = nodes[0].propose(&ours);
    assert_eq!(nodes[0].cluster(ClusterOrder::Remove { hash }), DONE);
    let other = nodes[1].propose(&theirs);
    assert_eq!(nodes[1].cluster(ClusterOrder::Remove { hash: other }), DONE);
    let signed = nodes[1].sign(&theirs);
    let forged = Node::new(9).sign(&theirs);
    let node = &mut nodes[0];
    let follows = |node: &mut Node, signed| {
        let hash = node.offer(signed);
        node.cluster(ClusterOrder::Follow { hash })
    };
    let chooses = |node: &mut Node, signed| {
        let hash = node.offer(signed);
        node.cluster(ClusterOrder::Choose { hash })
    };
    // Whoever is no member divides nothing.
    assert_eq!(follows(node, &forged), refused(Refusal::RosterOfStranger));
    assert_eq!(chooses(node, &signed), refused(Refusal::NotDivided));
    assert!(!node.is_divided());
    assert_eq!(follows(node, &signed), refused(Refusal::RosterDiverged));
    assert!(node.is_divided() && node.pack().is_none());
    // Nor does whoever followed one, or what no member signed, settle it.
    assert_eq!(node.cluster(ClusterOrder::Follow { hash }), DONE);
    assert_eq!(chooses(node, &forged), refused(Refusal::RosterOfStranger));
    assert_eq!(follows(node, &forged), refused(Refusal::RosterOfStranger));
    node.reopen();
    assert!(node.is_divided() && node.roster() == ours && node.pack().is_none());
    assert_eq!(node.cluster(ClusterOrder::Choose { hash }), DONE);
    // The other one comes once more, and changes nothing.
    for _ in 0..2 {
        assert_eq!(follows(node, &signed), refused(Refusal::RosterOld));
        assert!(!node.is_divided() && node.pack().is_some());
        node.reopen();
    }
    // Where the other one was in force it is the one that is not heard again.
    let kept = nodes[1].sign(&theirs);
    let chosen = nodes[0].sign(&ours);
    let node = &mut nodes[1];
    assert_eq!(follows(node, &chosen), refused(Refusal::RosterDiverged));
    assert_eq!(chooses(node, &chosen), DONE);
    assert_eq!(follows(node, &kept), refused(Refusal::RosterOld));
    assert!(node.roster() == ours && !node.is_divided());
    // What changes nothing, or takes the node itself out, has a name of its own.
    let alone = next(Some(&ours), &[nodes[0].member(), nodes[2].member()]);
    let hash = nodes[1].propose(&alone);
    assert_eq!(nodes[1].cluster(ClusterOrder::Remove { hash }), refused(Refusal::RemovesItself));
    let same = next(Some(&ours), &[0, 1, 2].map(|number| nodes[number].member()));
    let hash = nodes[0].propose(&same);
    assert_eq!(nodes[0].cluster(ClusterOrder::Renew { hash }), refused(Refusal::KeyNotRenewed));
}

#[test]
fn p23_a_replay_is_a_no_op_a_rollback_a_refusal_and_the_mark_survives() {
    let mut nodes = cluster(2, true);
    nodes[0].room.vault.tokens[0].insert(1, 11);
    let first = nodes[0].pack().expect("it is made");
    nodes[0].room.vault.tokens[1].insert(2, 22);
    let second = nodes[0].pack().expect("it is made");
    assert_eq!(nodes[1].receive(&second), Ok(DONE));
    let after = tokens(&nodes[1]);
    assert_eq!(after, [Keys::from([(1, 11)]), Keys::from([(2, 22)])], "each carries all that is lacking");
    for restarted in [false, true] {
        let calls = nodes[1].room.calls.len();
        assert_eq!(nodes[1].receive(&second), Ok(None), "restarted: {restarted}");
        assert_eq!(nodes[1].receive(&first), Err(Refusal::PackageOld), "restarted: {restarted}");
        let mut forked = second.clone();
        forked.hash = [0xF0; 32];
        assert_eq!(nodes[1].receive(&forked), Err(Refusal::PackageForked), "restarted: {restarted}");
        assert_eq!(nodes[1].room.calls.len(), calls, "no token was asked for anything");
        assert_eq!(tokens(&nodes[1]), after);
        nodes[1].reopen();
    }
}

#[test]
fn p25_a_key_with_the_same_id_and_another_value_in_one_slot_refuses_all_of_it() {
    let mut nodes = cluster(2, true);
    nodes[0].room.vault.tokens = [Keys::from([(1, 11), (2, 22)]), Keys::from([(3, 33)])];
    nodes[1].room.vault.tokens[1].insert(3, 99);
    let before = tokens(&nodes[1]);
    let package = nodes[0].pack().expect("it is made");
    assert_eq!(nodes[1].receive(&package), Ok(refused(Refusal::ImportConflicts)));
    assert_eq!(tokens(&nodes[1]), before, "nothing of the other slot either");
    assert!(is_whole(&mut nodes[1]));
    assert_eq!(nodes[1].room.core().marks().of(&package.header.source), None, "it was not taken");
    // Somebody takes the other one away: all comes in but the name that is now recorded as removed.
    nodes[1].room.vault.tokens[1].clear();
    assert_eq!(nodes[1].receive(&package), Ok(DONE));
    assert_eq!(tokens(&nodes[1]), [Keys::from([(1, 11), (2, 22)]), Keys::new()]);
    // It comes when somebody makes it again where it was removed, and means it.
    nodes[1].room.vault.tokens[1].insert(3, 33);
    let package = nodes[1].pack().expect("it is made");
    assert_eq!(nodes[0].receive(&package), Ok(DONE));
    assert_eq!(tokens(&nodes[1]), tokens(&nodes[0]));
}

#[test]
fn p25_three_sources_in_any_order_come_to_the_same_and_a_removed_key_stays_away() {
    let mut nodes = cluster(4, true);
    // What 1, 2 and 3 made; 2 has lost what it had from 1.
    nodes[1].room.vault.tokens[0].insert(1, 11);
    let shared = nodes[1].pack().expect("it is made");
    assert_eq!(nodes[2].receive(&shared), Ok(DONE));
    nodes[2].room.vault.tokens[0].remove(&1);
    nodes[2].room.vault.tokens[1].insert(2, 22);
    nodes[3].room.vault.tokens[0].insert(3, 33);
    let packages: Vec<Package> = (1..4).map(|number| nodes[number].pack().expect("it is made")).collect();
    let mut ends = BTreeMap::new();
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut node = cluster(4, true).swap_remove(0);
        for number in order {
            let answer = node.receive(&packages[number]);
            assert_eq!(answer, Ok(DONE), "{order:?}");
            let again = node.receive(&packages[number]);
            assert_eq!(again, Ok(None), "{order:?}");
        }
        // What others said counts from the next look at the tokens on.
        node.pack().expect("it is made");
        let counts: Vec<(Name, u32)> = node.room.sync.ledger.iter().map(|(name, known)| (*name, known.count)).collect();
        let key_came_first =
            order.iter().position(|number| *number == 0) < order.iter().position(|number| *number == 1);
        assert_eq!(
            tokens(&node)[0].contains_key(&1),
            key_came_first,
            "{order:?}: nothing is deleted, nothing comes back"
        );
        let mut others = tokens(&node);
        others[0].remove(&1);
        ends.entry((counts, others)).or_insert_with(Vec::new).push(order);
    }
    assert_eq!(ends.len(), 1, "{ends:?}");
}

#[test]
fn p24_power_that_goes_amid_a_package_leaves_all_of_it_or_nothing_and_nobody_has_to_mend_it() {
    let mut cuts = 0;
    for way in WAYS {
        for after in 0.. {
            let mut whole = true;
            for again in [None, Some(0), Some(1), Some(2), Some(3), Some(5)] {
                let mut nodes = cluster(2, true);
                nodes[0].room.vault.tokens = [Keys::from([(1, 11), (2, 22)]), Keys::from([(3, 33), (4, 44)])];
                let package = nodes[0].pack().expect("it is made");
                let source = tokens(&nodes[0]);
                let node = &mut nodes[1];
                node.room.vault.tokens[0].insert(9, 99);
                let before = tokens(node);
                node.room.cut = Some(Cut { after, way });
                let answer = node.receive(&package);
                if node.room.core.is_some() {
                    assert_eq!(answer, Ok(DONE));
                    break;
                }
                whole = false;
                cuts += 1;
                let note = format!("cut {way:?} {after}, again {again:?}");
                assert_ne!(answer, Ok(DONE), "{note}: it was said before the end");
                let committed = node.room.stored.reception.is_some();
                node.room.restart();
                if let Some(again) = again {
                    node.room.cut = Some(Cut { after: again, way });
                    node.open();
                    if node.room.core.is_none() {
                        cuts += 1;
                        node.room.restart();
                    }
                    node.room.cut = None;
                }
                node.open();
                assert!(is_whole(node), "{note}: {:?}", node.state());
                let mut all = before.clone();
                all.iter_mut().zip(&source).for_each(|(token, keys)| token.extend(keys));
                let now = tokens(node);
                let marked = node.room.core().marks().of(&package.header.source).is_some();
                assert_eq!(now, if marked { all.clone() } else { before }, "{note}");
                assert!(marked || !committed, "{note}: it was committed");
                // The same package once more is nothing, or brings all of it.
                assert_eq!(node.receive(&package), Ok(if marked { None } else { DONE }), "{note}");
                assert_eq!(tokens(node), all, "{note}");
            }
            if whole {
                break;
            }
        }
    }
    println!("{cuts} power cuts");
    assert!(cuts > 200, "{cuts}");
}

#[test]
fn p23_power_that_goes_amid_the_making_of_a_package_never_gives_its_number_to_another() {
    let mut cuts = 0;
    for way in WAYS {
        for after in 0.. {
            let mut nodes = cluster(2, true);
            nodes[0].room.vault.tokens[0].insert(1, 11);
            let former = nodes[0].pack().expect("it is made");
            nodes[0].room.vault.tokens[1].insert(2, 22);
            nodes[0].room.cut = Some(Cut { after, way });
            let _ = nodes[0].pack();
            if nodes[0].room.core.is_some() {
                break;
            }
            cuts += 1;
            let left = nodes[0].room.sync.made.clone().expect("the former one or the new one");
            nodes[0].reopen();
            let next = nodes[0].pack().expect("it is made");
            let note = format!("cut {way:?} {after}");
            assert!(left == former || left.header.sequence > former.header.sequence, "{note}");
            assert!(next.header.sequence > left.header.sequence, "{note}");
            for package in [&former, &left] {
                let taken = nodes[1].receive(package);
                assert!(taken == Ok(DONE) || (left == former && taken == Ok(None)), "{note}: {taken:?}");
            }
            assert_eq!(nodes[1].receive(&next), Ok(DONE), "{note}");
            assert_eq!(tokens(&nodes[1]), tokens(&nodes[0]), "{note}");
        }
    }
    assert!(cuts > 15, "{cuts}");
}

#[test]
fn a_slot_that_is_closed_amid_it_is_waited_for_and_what_cannot_be_made_stands_still() {
    let mut nodes = cluster(2, false);
    nodes[0].room.vault.tokens = [Keys::from([(1, 11)]), Keys::from([(3, 33)])];
    let package = nodes[0].pack().expect("it is made");
    let hash = package.hash;
    let source = tokens(&nodes[0]);
    let node = &mut nodes[1];
    let close = Command::Deactivate { slot: SlotId(1) };
    assert_eq!(node.room.order(ADMINISTRATOR, close), DONE);
    assert_eq!(node.receive(&package), Ok(refused(Refusal::SlotNotActive)), "every slot has to be open");
    node.open();
    assert_eq!(node.order(TransferOrder::EndReceive), refused(Refusal::NothingReceived));
    assert_eq!(node.receive(&package), Ok(DONE));
    // One transfer at a time, and the roster stays while it lasts.
    let export = TransferOrder::Export { slots: SlotSet::NONE.with(SlotId(0)), left_out: [0; 32], passphrase: None };
    assert_eq!(node.order(export), refused(Refusal::TransferUnderWay));
    assert_eq!(node.pack(), None);
    let roster = next(Some(&node.roster()), &[node.member()]);
    let follow = node.propose(&roster);
    assert_eq!(node.cluster(ClusterOrder::Follow { hash: follow }), refused(Refusal::TransferUnderWay));
    assert_eq!(node.order(TransferOrder::EndReceive), DONE);
    assert_eq!(node.receive(&package), Ok(DONE));
    assert_eq!(node.room.order(ADMINISTRATOR, close), DONE);
    assert_eq!(node.order(TransferOrder::Apply { hash }), refused(Refusal::SlotNotActive));
    node.open();
    // A token without room: what is there stays, and it goes on when somebody made room.
    let full = slotwarden_core::fault::HsmFailure::Pkcs11 {
        code: slotwarden_core::fault::rv::DEVICE_MEMORY,
        function: slotwarden_core::fault::Function::UnwrapKey,
    };
    node.room.failing = Some(("import package", full));
    let failed = Some(Answer::Failed(full.fault(slotwarden_core::fault::Function::UnwrapKey)));
    assert_eq!(node.order(TransferOrder::Apply { hash }), failed);
    assert!(matches!(node.state(), State::Halfway { .. }));
    assert_eq!(node.order(TransferOrder::EndReceive), refused(Refusal::PackageHalfway));
    node.room.failing = None;
    // The slot is closed while its call is under way: it goes on when it is open again.
    node.room.silent = Some("import package");
    assert_eq!(node.order(TransferOrder::Apply { hash }), None);
    node.room.wait(60 * 60_000);
    node.room.answer_late();
    assert!(is_whole(node), "{:?}", node.state());
    assert_eq!(tokens(node), source);
    // The next slot is closed meanwhile: whoever waits is told, and it goes on when that is open.
    for (token, id) in nodes[0].room.vault.tokens.iter_mut().zip([5, 6]) {
        token.insert(id, 55);
    }
    let package = nodes[0].pack().expect("it is made");
    let source = tokens(&nodes[0]);
    let node = &mut nodes[1];
    assert_eq!(node.receive(&package), Ok(DONE));
    node.room.silent = Some("import package");
    let apply = Command::Transfer { order: TransferOrder::Apply { hash: package.hash } };
    let reply = node.room.begin(ADMINISTRATOR, apply);
    assert_eq!(node.room.order(ADMINISTRATOR, close), DONE);
    assert_eq!(node.room.answer(reply), None);
    node.room.answer_late();
    assert_eq!(node.room.answer(reply), refused(Refusal::SlotNotActive), "nobody waits without end (P29)");
    node.open();
    assert!(is_whole(node) && tokens(node) == source, "{:?}", node.state());
}

#[test]
fn a_package_that_cannot_end_is_given_up_with_what_it_made_and_may_come_again() {
    let failure = slotwarden_core::fault::HsmFailure::Pkcs11 {
        code: slotwarden_core::fault::rv::DEVICE_ERROR,
        function: slotwarden_core::fault::Function::UnwrapKey,
    };
    let failed = Some(Answer::Failed(failure.fault(slotwarden_core::fault::Function::UnwrapKey)));
    let mut nodes = cluster(2, false);
    nodes[0].room.vault.tokens = [Keys::from([(1, 11)]), Keys::from([(3, 33)])];
    let package = nodes[0].pack().expect("it is made");
    let (hash, source) = (package.hash, tokens(&nodes[0]));
    let node = &mut nodes[1];
    let abandon = TransferOrder::Abandon { file: hash };
    assert_eq!(node.order(abandon), refused(Refusal::NothingHalfway));
    assert_eq!(node.receive(&package), Ok(DONE));
    assert_eq!(node.order(abandon), refused(Refusal::NothingHalfway), "a plan is ended otherwise");
    node.room.failing = Some(("import package", failure));
    assert_eq!(node.order(TransferOrder::Apply { hash }), failed);
    node.room.failing = None;
    assert_eq!(node.order(TransferOrder::Abandon { file: [9; 32] }), refused(Refusal::NothingHalfway));
    assert_eq!(node.order(abandon), DONE);
    assert_eq!(node.state(), State::Idle);
    node.reopen();
    assert!(is_whole(node), "nothing of it goes on");
    assert_eq!(node.receive(&package), Ok(DONE), "it was not taken");
    assert_eq!(node.order(TransferOrder::Apply { hash }), DONE);
    assert_eq!(tokens(node), source);
}

#[test]
fn p24_a_plan_that_power_left_is_not_taken_for_what_came_next() {
    let mut nodes = cluster(3, false);
    nodes[0].room.vault.tokens[0].insert(1, 11);
    let package = nodes[0].pack().expect("it is made");
    assert_eq!(nodes[1].receive(&package), Ok(DONE));
    assert!(matches!(nodes[1].state(), State::Planned { .. }));
    nodes[1].reopen();
    assert!(is_whole(&mut nodes[1]), "nobody had said yes");
    // One without keys is taken at once, and brings none.
    let empty = nodes[2].pack().expect("it is made");
    assert_eq!(slots_of(&empty), SlotSet::NONE);
    assert_eq!(nodes[1].receive(&empty), Ok(DONE));
    let answer = nodes[1].pack().expect("it is made");
    assert!(answer.facts.values().all(|known| !known.here), "{:?}", answer.facts);
    // The former one comes in all the same.
    assert_eq!(nodes[1].receive(&package), Ok(DONE));
    assert_eq!(nodes[1].order(TransferOrder::Apply { hash: package.hash }), DONE);
    assert_eq!(tokens(&nodes[1]), tokens(&nodes[0]));
}

#[test]
fn p25_a_key_that_nobody_had_seen_does_not_come_back_where_it_was_removed() {
    let mut nodes = cluster(2, true);
    nodes[0].room.vault.tokens[0].insert(1, 11);
    let package = nodes[0].pack().expect("it is made");
    // Node 1 has a key of this name that it has not looked at; node 0 has removed its own.
    nodes[0].room.vault.tokens[0].remove(&1);
    let removal = nodes[0].pack().expect("it is made");
    assert_ne!(package.facts, removal.facts);
    nodes[1].room.vault.tokens[0].insert(1, 99);
    assert_eq!(nodes[1].receive(&removal), Ok(DONE));
    let answer = nodes[1].pack().expect("it is made");
    assert_eq!(slots_of(&answer), SlotSet::NONE, "it is sent no further");
    assert_eq!(nodes[0].receive(&answer), Ok(DONE));
    assert_eq!(tokens(&nodes[0]), [Keys::new(), Keys::new()]);
    assert_eq!(tokens(&nodes[1]), [Keys::from([(1, 99)]), Keys::new()], "and nothing is deleted");
}
