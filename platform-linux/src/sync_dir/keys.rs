//! The keys of a slot, one by one: which members are known to have each.
//!
//! They come in parts, in the order of their names. Nothing is kept between two parts: a part says how it is when it is
//! asked for, and each key that is known all the time is in exactly one of them. What it says of a key agrees with
//! [`SyncDir::counts`].

use std::io;
use std::iter::{self, Peekable};

use slotwarden_core::ledger::{KeyName, Known};

use super::rows::Rows;
use super::{Member, Node, SyncDir, Uid, known_of};

/// A part of the keys of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerKeys {
    /// In the order of their names.
    pub keys: Vec<LedgerKey>,
    /// Whether there are others behind the last one.
    pub more: bool,
}

/// A key that a slot has or had, here or at a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerKey {
    /// Which.
    pub name: KeyName,
    /// Where it is.
    pub readiness: Readiness,
}

/// Whether a key can be used at every member. Members are in the order in which they were asked for, this node first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It is here, and the last facts of every member that keeps the slot have it there.
    Ready,
    /// Of these members it is not known that they have it. One that was never heard of is one of them.
    NotYetKnown {
        /// At least one.
        at: Vec<Node>,
    },
    /// The newest fact is that it was removed.
    Removed {
        /// Members that are known to have it nonetheless: nothing is deleted there, and it is sent to nobody.
        still_at: Vec<Node>,
    },
}

impl SyncDir {
    /// The keys of a slot behind `after`, at most so many. `own`: this node; `members`: all of them but this node.
    ///
    /// # Errors
    /// As [`SyncDir::comparison`]: each ledger is read to its end, since only there it says whether it is whole.
    pub fn keys(
        &self,
        uid: Uid,
        (own, members): (Node, &[Node]),
        after: Option<KeyName>,
        keys_max: usize,
    ) -> io::Result<LedgerKeys> {
        let mut mine = Rows::open(self.own(uid))?.peekable();
        let mut theirs = self.members(uid, members)?;
        let mut part = LedgerKeys::default();
        while let Some(name) = lowest(&mut mine, &mut theirs) {
            let mine = known_of(&mut mine, name)?;
            let mut said = vec![(own, Some(mine))];
            for (node, their) in members.iter().zip(&mut theirs) {
                match their {
                    Member::Unheard => said.push((*node, None)),
                    Member::WithoutSlot => {}
                    Member::Said(rows) => said.push((*node, Some(known_of(rows, name)?))),
                }
            }
            if after.is_some_and(|after| name <= after) {
                continue;
            }
            if part.keys.len() == keys_max {
                part.more = true;
                continue;
            }
            part.keys.push(LedgerKey { name, readiness: readiness(mine, &said) });
        }
        Ok(part)
    }
}

/// `said`: what each member that keeps the slot knows of it, this node first; `None`: nothing was heard of it.
fn readiness(mine: Known, said: &[(Node, Option<Known>)]) -> Readiness {
    let has = |known: Option<Known>| known.is_some_and(|known| known.here);
    let those = |which: bool| said.iter().filter(|(_, known)| has(*known) == which).map(|(node, _)| *node).collect();
    let mut newest = mine;
    if !mine.here {
        // Of a key that is here, what was told counts from the next look at the token on (P25).
        said.iter().filter_map(|(_, known)| *known).for_each(|known| newest.merge(known.count));
    }
    if !newest.is_made() {
        return Readiness::Removed { still_at: those(true) };
    }
    let at: Vec<Node> = those(false);
    if at.is_empty() { Readiness::Ready } else { Readiness::NotYetKnown { at } }
}

/// The lowest name that is next in any of them; a problem comes before every name, and is met when it is read.
fn lowest(mine: &mut Peekable<Rows>, theirs: &mut [Member]) -> Option<KeyName> {
    let theirs = theirs.iter_mut().filter_map(|their| match their {
        Member::Said(rows) => Some(&mut **rows),
        Member::Unheard | Member::WithoutSlot => None,
    });
    let next = |rows: &mut Peekable<Rows>| rows.peek().map(|row| row.as_ref().map_or(KeyName([0; 16]), |row| row.name));
    iter::once(mine).chain(theirs).filter_map(next).min()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use proptest::prelude::*;
    use slotwarden_core::ledger::Fact;

    use super::super::tests::{ONE, TWO, UID, directory, fact, hears, name, names};
    use super::super::{Heard, SlotCounts};
    use super::*;

    const OWN: Node = [9; 32];

    fn listed(sync: &SyncDir, members: &[Node]) -> Vec<(KeyName, Readiness)> {
        let part = sync.keys(UID, (OWN, members), None, 100).expect("it can be read");
        assert!(!part.more);
        part.keys.into_iter().map(|LedgerKey { name, readiness }| (name, readiness)).collect()
    }

    fn not_yet(at: &[Node]) -> Readiness {
        Readiness::NotYetKnown { at: at.to_vec() }
    }

    fn removed(still_at: &[Node]) -> Readiness {
        Readiness::Removed { still_at: still_at.to_vec() }
    }

    #[test]
    fn a_damaged_ledger_refuses_every_part_of_the_list() {
        let (_dir, sync) = directory();
        sync.observe(UID, &names(&[1, 2])).expect("it can be written");
        hears(&sync, ONE, 1, &[fact(1, 1, true), fact(3, 1, true)]);
        for path in [sync.own(UID), sync.of_member(&ONE, UID)] {
            let whole = fs::read(&path).expect("it was written");
            for place in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[place] ^= 1;
                fs::write(&path, damaged).expect("it can be written");
                for after in [None, Some(name(2)), Some(name(9))] {
                    let part = sync.keys(UID, (OWN, &[ONE]), after, 1);
                    assert_eq!(part.expect_err("it is damaged").kind(), io::ErrorKind::InvalidData);
                }
            }
            fs::write(&path, &whole).expect("it can be written");
        }
    }

    #[test]
    fn a_key_is_not_ready_before_every_member_is_known_to_have_it_and_removed_is_told_apart() {
        let (_dir, sync) = directory();
        assert_eq!(listed(&sync, &[ONE]), []);
        sync.observe(UID, &names(&[1, 2])).expect("it can be written");
        assert_eq!(listed(&sync, &[]), [(name(1), Readiness::Ready), (name(2), Readiness::Ready)], "it is alone");
        let nobody = not_yet(&[ONE, TWO]);
        assert_eq!(listed(&sync, &[ONE, TWO]), [(name(1), nobody.clone()), (name(2), nobody)]);
        hears(&sync, ONE, 1, &[fact(1, 1, true), fact(3, 1, true)]);
        let expected = [(name(1), not_yet(&[TWO])), (name(2), not_yet(&[ONE, TWO])), (name(3), not_yet(&[OWN, TWO]))];
        assert_eq!(listed(&sync, &[ONE, TWO]), expected);
        hears(&sync, TWO, 1, &[fact(1, 1, true)]);
        assert_eq!(listed(&sync, &[ONE, TWO])[0], (name(1), Readiness::Ready));
        // Removed here, and still there; then nowhere any more.
        sync.observe(UID, &names(&[2])).expect("it can be written");
        assert_eq!(listed(&sync, &[ONE, TWO])[0], (name(1), removed(&[ONE, TWO])));
        hears(&sync, ONE, 2, &[fact(1, 2, false), fact(2, 2, false)]);
        hears(&sync, TWO, 2, &[fact(1, 2, false)]);
        assert_eq!(listed(&sync, &[ONE, TWO])[0], (name(1), removed(&[])));
        // Removed there: that counts from the next look at the own token on.
        assert_eq!(listed(&sync, &[ONE, TWO])[1], (name(2), not_yet(&[ONE, TWO])));
        sync.observe(UID, &names(&[2])).expect("it can be written");
        assert_eq!(listed(&sync, &[ONE, TWO])[1], (name(2), removed(&[OWN])));
    }

    #[test]
    fn a_member_that_does_not_keep_the_slot_is_not_waited_for() {
        let (_dir, sync) = directory();
        sync.observe(UID, &names(&[1])).expect("it can be written");
        let heard = Heard { node: ONE, sequence: 1, hash: [1; 32], made_s: None };
        sync.received(&heard, &[([7; 16], vec![fact(9, 1, true)])]).expect("it can be written");
        assert_eq!(listed(&sync, &[ONE]), [(name(1), Readiness::Ready)]);
    }

    #[test]
    fn ten_thousand_keys_come_in_parts_each_of_them_once() {
        const KEYS: u32 = 10_000;
        const PART: usize = 256;
        let (_dir, sync) = directory();
        let name = |number: u32| {
            let mut name = [0; 16];
            name[..4].copy_from_slice(&number.to_be_bytes());
            KeyName(name)
        };
        let here: BTreeSet<KeyName> = (0..KEYS).map(name).collect();
        sync.observe(UID, &here).expect("it can be written");
        // The other has the second half of them, and as many that are not here.
        let facts: Vec<Fact> = (KEYS / 2..KEYS * 3 / 2)
            .map(|number| Fact { name: name(number), known: Known { count: 1, here: true } })
            .collect();
        hears(&sync, ONE, 1, &facts);
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let part = sync.keys(UID, (OWN, &[ONE]), after, PART).expect("it can be read");
            assert!(part.keys.len() == PART || !part.more);
            all.extend(part.keys);
            if !part.more {
                break;
            }
            after = all.last().map(|key: &LedgerKey| key.name);
        }
        let expected = (0..KEYS * 3 / 2).map(|number| {
            let readiness = match number {
                0..5_000 => not_yet(&[ONE]),
                5_000..KEYS => Readiness::Ready,
                _ => not_yet(&[OWN]),
            };
            LedgerKey { name: name(number), readiness }
        });
        assert!(all.into_iter().eq(expected));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// The list says of every key what the count says of all of them, in parts of whatever length.
        #[test]
        fn the_list_agrees_with_the_counts_of_the_status(
            before in proptest::collection::btree_set(0_u8..12, 0..8),
            after in proptest::collection::btree_set(0_u8..12, 0..8),
            told in proptest::collection::btree_map(0_u8..12, (1_u32..5, any::<bool>()), 0..8),
            members in 0_usize..3,
            part in 1_usize..5,
        ) {
            let (_dir, sync) = directory();
            let members = &[ONE, TWO][..members];
            let set = |numbers: &BTreeSet<u8>| numbers.iter().map(|number| name(*number)).collect();
            sync.observe(UID, &set(&before)).expect("it can be written");
            let facts: Vec<Fact> = told.iter().map(|(number, (count, here))| fact(*number, *count, *here)).collect();
            hears(&sync, ONE, 1, &facts);
            sync.observe(UID, &set(&after)).expect("it can be written");
            let all = listed(&sync, members);
            let mut counts = SlotCounts::default();
            for (name, readiness) in &all {
                let is_here = after.iter().any(|number| self::name(*number) == *name);
                counts.here += u32::from(is_here);
                match readiness {
                    Readiness::Ready => prop_assert!(sync.is_ready_to_use(UID, *name, members).expect("it can be read")),
                    Readiness::NotYetKnown { at } => {
                        prop_assert_eq!(at.contains(&OWN), !is_here);
                        counts.not_ready += u32::from(is_here);
                    }
                    Readiness::Removed { still_at } => {
                        prop_assert_eq!(still_at.contains(&OWN), is_here);
                        counts.removed_elsewhere += u32::from(is_here);
                    }
                }
            }
            prop_assert_eq!(counts, sync.counts(UID, members).expect("it can be read"));
            let (mut parts, mut after) = (Vec::new(), None);
            loop {
                let found = sync.keys(UID, (OWN, members), after, part).expect("it can be read");
                parts.extend(found.keys.into_iter().map(|LedgerKey { name, readiness }| (name, readiness)));
                if !found.more {
                    break;
                }
                after = parts.last().map(|(name, _)| *name);
            }
            prop_assert_eq!(parts, all);
        }
    }
}
