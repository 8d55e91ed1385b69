//! The ledger: its merge is the larger count, whatever the order and however often; it brings and takes
//! no key, and what was removed last is wanted by nobody (P25).

// A test that panics has found something; the lints are for the rules.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::arithmetic_side_effects, clippy::std_instead_of_core, clippy::wildcard_enum_match_arm)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use slotwarden_core::export::{Attributes, Class, Entry, NO_KEY_TYPE, push};
use slotwarden_core::ledger::{Comparison, Fact, KeyName, Known, Named, ROW_BYTES, Standing, is_ready};

const fn known(count: u32, here: bool) -> Known {
    Known { count, here }
}

#[test]
fn every_observation_of_every_state_is_what_people_would_say() {
    // What is known, what the token has, what is known then.
    let table = [
        (known(0, false), false, known(0, false)),              // never seen
        (known(0, false), true, known(1, true)),                // made
        (known(1, true), true, known(1, true)),                 // still here
        (known(1, true), false, known(2, false)),               // removed
        (known(2, false), false, known(2, false)),              // still removed
        (known(2, false), true, known(3, true)),                // made again, on purpose
        (known(1, false), false, known(1, false)),              // made elsewhere, not here yet
        (known(1, false), true, known(1, true)),                // and now it came
        (known(2, true), true, known(2, true)),                 // removed elsewhere, still here: nothing is deleted
        (known(2, true), false, known(2, false)),               // and now it is removed here, too: once, not twice
        (known(u32::MAX, true), false, known(u32::MAX, false)), // at the end of counting nothing turns round
    ];
    for (mut state, there, wanted) in table {
        let before = state;
        state.observe(there);
        assert_eq!(state, wanted, "{before:?}, {there}");
        state.observe(there);
        assert_eq!(state, wanted, "{before:?}, {there}: seen twice is seen once");
    }
}

#[test]
fn p25_a_key_that_nobody_had_seen_is_older_than_a_removal_that_was_told() {
    // Told first and looked at afterwards: made again, and wanted by whoever removed it. That must not be.
    let removed = known(2, false);
    let mut unseen = Known::NEVER;
    unseen.merge(removed.count);
    unseen.observe(true);
    assert!(removed.is_wanted(unseen));
    // Looked at first, whenever it was told: it is still here, and is sent no further.
    let mut unseen = Known::NEVER;
    unseen.look(true, [removed.count, 1]);
    assert_eq!(unseen, known(2, true));
    assert!(unseen.is_removed_elsewhere() && !removed.is_wanted(unseen));
    unseen.look(true, [removed.count, 1]);
    assert_eq!(unseen, known(2, true), "once more is the same");
    // And one that is made again after that look is meant.
    let mut heard = Known::NEVER;
    heard.look(false, [removed.count]);
    heard.look(true, [removed.count]);
    assert!(removed.is_wanted(heard));
}

#[test]
fn a_key_is_wanted_where_it_is_not_and_where_no_later_removal_is_known() {
    let wants = |mine: Known, theirs: Known| mine.is_wanted(theirs);
    assert!(!wants(known(2, false), known(1, true)), "removed here since");
    assert!(!wants(known(0, false), known(2, true)), "removed elsewhere, still there");
    assert!(!wants(known(0, false), known(1, false)), "they only heard of it");
    assert!(!wants(known(1, true), known(1, true)), "it is here");
    assert!(!wants(known(2, true), known(3, true)), "the old one is still here: nothing is overwritten");
    assert!(!wants(known(3, false), known(1, true)), "theirs is the one before");
    assert!(wants(known(0, false), known(1, true)), "never seen");
    assert!(wants(known(1, false), known(1, true)), "heard of, and they have it");
    assert!(wants(known(2, false), known(3, true)), "made again elsewhere, on purpose");
}

#[test]
fn a_member_stands_as_the_keys_of_both_say() {
    let stands = |keys: &[(Known, Known)]| {
        let mut comparison = Comparison::default();
        keys.iter().for_each(|(mine, theirs)| comparison.see(*mine, *theirs));
        comparison.standing()
    };
    let (both, gone) = ((known(1, true), known(1, true)), (known(2, false), known(2, false)));
    let only_here = (known(1, true), Known::NEVER);
    let only_there = (Known::NEVER, known(1, true));
    assert_eq!(stands(&[]), Standing::InSync);
    assert_eq!(stands(&[both, gone, (known(2, false), Known::NEVER)]), Standing::InSync);
    assert_eq!(stands(&[both, only_there]), Standing::Ahead);
    assert_eq!(stands(&[both, only_here]), Standing::Behind);
    assert_eq!(stands(&[only_here, only_there]), Standing::Diverged);
    assert_eq!(stands(&[both, (known(2, false), known(1, true))]), Standing::Diverged, "removed here, still there");
    assert_eq!(stands(&[both, (known(2, true), known(2, false))]), Standing::Diverged, "removed there, still here");
    assert_eq!(stands(&[(known(2, true), known(2, true))]), Standing::InSync, "removed by a third, both have it");
}

#[test]
fn a_key_is_ready_where_everybody_has_it_and_was_heard() {
    let there = Some(known(1, true));
    assert!(!is_ready(known(1, false), [there]), "not here");
    assert!(!is_ready(known(1, true), [there, None]), "somebody was never heard");
    assert!(!is_ready(known(1, true), [there, Some(known(1, false))]), "somebody has it not");
    assert!(is_ready(known(1, true), [there, there]));
    assert!(is_ready(known(1, true), []), "alone");
}

#[test]
fn a_row_has_one_form() {
    let fact = Fact { name: KeyName([7; 16]), known: known(0x0102_0304, true) };
    let row = fact.to_bytes();
    assert_eq!(row[16..], [1, 2, 3, 4, 1]);
    assert_eq!(Fact::from_bytes(&row), Some(fact));
    let with = |at: usize, byte: u8| {
        let mut row = row;
        row[at] = byte;
        Fact::from_bytes(&row)
    };
    assert_eq!(with(20, 2), None, "neither here nor not");
    assert_eq!(Fact::from_bytes(&[0; ROW_BYTES]), None, "never seen is no fact");
}

#[test]
fn every_part_of_a_key_enters_its_name_and_certificates_their_value() {
    let named = |class, key_type, id, label, certificate| {
        let named = Named { class, key_type, id, label, certificate };
        KeyName::new(&[1; 16], &named).expect("short")
    };
    let names = [
        named(Class::Private, 0, b"\x01", b"key", b""),
        named(Class::Secret, 0, b"\x01", b"key", b""),
        named(Class::Public, 0, b"\x01", b"key", b""),
        named(Class::Private, 3, b"\x01", b"key", b""),
        named(Class::Private, 0, b"\x01k", b"ey", b""),
        named(Class::Private, 0, b"", b"\x01key", b""),
        named(Class::Certificate, NO_KEY_TYPE, b"\x01", b"key", b"one"),
        named(Class::Certificate, NO_KEY_TYPE, b"\x01", b"key", b"two"),
        KeyName::new(
            &[2; 16],
            &Named { class: Class::Private, key_type: 0, id: b"\x01", label: b"key", certificate: b"" },
        )
        .expect("short"),
    ];
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    assert_eq!(names[0], named(Class::Private, 0, b"\x01", b"key", b"no value of a key enters"));
    let long = vec![0; 65_536];
    let too_long = Named { class: Class::Private, key_type: 0, id: &long, label: b"", certificate: b"" };
    assert_eq!(KeyName::new(&[1; 16], &too_long), None);
}

/// Computed by another implementation: Python's hashlib over the bytes that the documentation says.
#[test]
fn names_are_those_of_the_vector() {
    let key = Named { class: Class::Private, key_type: 3, id: b"\x01\x02", label: b"ca", certificate: b"" };
    let name = KeyName::new(&[0x11; 16], &key).expect("short");
    assert_eq!(hex(&name.0), "e1f1998bb13b36464d91123553977d3a");
    let certificate = Named { class: Class::Certificate, key_type: NO_KEY_TYPE, certificate: b"DER", ..key };
    let name = KeyName::new(&[0x11; 16], &certificate).expect("short");
    assert_eq!(hex(&name.0), "0af571bbac5d963eb789727e168931fc");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_entry_of_an_export_has_the_name_of_its_object() {
    let mut place = [0; 64];
    let at = push(&mut place, 0, 0x11, b"DER").expect("it fits");
    let set = Attributes::new(&place[..at]).expect("just written");
    let entry = Entry {
        index: 0,
        class: Class::Certificate,
        key_type: NO_KEY_TYPE,
        id: b"\x01\x02",
        label: b"ca",
        set,
        recorded: Attributes::NONE,
        wrapped: b"",
    };
    let named =
        Named { class: Class::Certificate, key_type: NO_KEY_TYPE, id: b"\x01\x02", label: b"ca", certificate: b"DER" };
    assert_eq!(KeyName::of_entry(&[0x11; 16], &entry), KeyName::new(&[0x11; 16], &named));
    let key = Entry { class: Class::Private, key_type: 3, wrapped: &[1; 40], ..entry };
    let named = Named { class: Class::Private, key_type: 3, certificate: b"", ..named };
    assert_eq!(KeyName::of_entry(&[0x11; 16], &key), KeyName::new(&[0x11; 16], &named));
}

fn any_known() -> impl Strategy<Value = Known> {
    (prop_oneof![0u32..6, any::<u32>()], any::<bool>()).prop_map(|(count, here)| known(count, here))
}

/// What happens to a key at one of three members.
#[derive(Clone, Copy, Debug)]
enum Happens {
    Made(usize),
    Removed(usize),
    /// One hears the facts of another, and takes the key if it wants it.
    Hears(usize, usize),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        (0usize..3).prop_map(Happens::Made),
        (0usize..3).prop_map(Happens::Removed),
        (0usize..3, 0usize..3).prop_map(|(one, other)| Happens::Hears(one, other)),
    ]
}

proptest! {
    #[test]
    fn p25_merging_is_idempotent_commutative_and_associative(mine in any_known(), a in any::<u32>(), b in any::<u32>()) {
        let merged = |counts: &[u32]| {
            let mut state = mine;
            counts.iter().for_each(|count| state.merge(*count));
            state
        };
        prop_assert_eq!(merged(&[a, a]), merged(&[a]));
        prop_assert_eq!(merged(&[a, b]), merged(&[b, a]));
        // What somebody says who merged a and b before is what both said.
        let mut between = known(a, false);
        between.merge(b);
        prop_assert_eq!(merged(&[between.count]), merged(&[a, b]));
        prop_assert_eq!(merged(&[a, b, a, b, b]).here, mine.here, "it brings and takes no key");
        prop_assert!(merged(&[a, b]).count >= mine.count);
    }

    #[test]
    fn p25_what_was_removed_last_is_wanted_by_nobody(mine in any_known(), theirs in any_known(), removed in any::<u32>()) {
        let removed = removed & !1;
        // Whoever has heard of the removal wants nothing that is older, and whoever did not hear wants nothing of it.
        let mut heard = mine;
        heard.merge(removed);
        prop_assert!(heard.count > removed || !heard.is_wanted(known(theirs.count.min(removed), theirs.here)));
        prop_assert!(!mine.is_wanted(known(removed, theirs.here)));
        prop_assert!(!mine.here || !mine.is_wanted(theirs), "nothing that is here is brought again");
    }

    #[test]
    fn p25_whatever_the_order_a_removed_key_comes_back_only_by_being_made_again(
        story in prop::collection::vec(happens(), 0..40),
    ) {
        let mut members = [Known::NEVER; 3];
        for event in story {
            let before = members;
            match event {
                Happens::Made(who) => members[who].observe(true),
                Happens::Removed(who) => members[who].observe(false),
                Happens::Hears(who, from) => {
                    let theirs = members[from];
                    let takes = members[who].is_wanted(theirs);
                    members[who].merge(theirs.count);
                    if takes {
                        members[who].observe(true);
                        let newest = before.iter().map(|known| known.count).max();
                        prop_assert!(newest == Some(theirs.count) || before[who].count <= theirs.count);
                        prop_assert!(theirs.is_made() && members[who].count == theirs.count, "taking is no making");
                    }
                    prop_assert!(takes || members[who].here == before[who].here, "hearing moves no key");
                }
            }
        }
        // Then nothing happens any more, and everybody hears everybody, twice: all know the same, and want nothing.
        let mut rounds = members;
        for (who, from) in (0..2).flat_map(|_| 0..9).map(|pair| (pair / 3, pair % 3)) {
            let theirs = rounds[from];
            let takes = rounds[who].is_wanted(theirs);
            rounds[who].merge(theirs.count);
            if takes {
                rounds[who].observe(true);
            }
        }
        prop_assert!(rounds.iter().all(|known| known.count == rounds[0].count), "{rounds:?}");
        prop_assert!(rounds.iter().all(|one| rounds.iter().all(|other| !one.is_wanted(*other))), "{rounds:?}");
        // A key that was made last and is somewhere is everywhere then. One that was removed last came to nobody
        // who had heard of that.
        let newest = rounds[0];
        let somewhere = members.iter().any(|known| known.here);
        for (now, before) in rounds.iter().zip(members) {
            let had_heard = before.count == newest.count;
            let holds = if newest.is_made() { now.here == somewhere } else { !had_heard || now.here == before.here };
            prop_assert!(holds, "{members:?} {rounds:?}");
        }
    }
}
