//! The format of packages, and which of them are taken: what is written is read, and nothing else is
//! (P21, P42); only a package for this node, of a member, of the roster in force is taken (P22), and none twice (P23).

// A test that panics has found something; the lints are for the rules.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::arithmetic_side_effects, clippy::std_instead_of_core, clippy::wildcard_enum_match_arm)]

use ed25519_dalek::{Signer as _, SigningKey};
use proptest::prelude::*;
use slotwarden_core::Refusal;
use slotwarden_core::export::{self, Protection};
use slotwarden_core::ledger::{Fact, KeyName, Known};
use slotwarden_core::package::{
    Admission, CHUNK_BYTES, Chunk, Commitment, FRAME_BYTES_MAX, Header, Mark, Marks, Part, Problem, Reader,
    SEALED_KEY_BYTES, Sealed, Suite, TAG_BYTES, WriteProblem, Writer, admit, facts, judge_header, message, nonce,
};
use slotwarden_core::roster::{Member, Roster};

/// A file that grows in memory.
#[derive(Default)]
struct Growing(Vec<u8>);

impl embedded_io::ErrorType for Growing {
    type Error = core::convert::Infallible;
}

impl embedded_io::Write for Growing {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

fn key(node: u8) -> SigningKey {
    SigningKey::from_bytes(&[node; 32])
}

fn public(node: u8) -> [u8; 32] {
    key(node).verifying_key().to_bytes()
}

/// Nodes 1 and 2 are what most tests are about.
fn roster(epoch: u32, nodes: &[u8]) -> Roster {
    let mut members: Vec<Member> = nodes.iter().map(|node| Member { node: public(*node), seal: [*node; 32] }).collect();
    members.sort_by_key(|member| member.node);
    Roster {
        epoch,
        previous: [u8::try_from(epoch - 1).expect("small"); 32],
        cluster: [2; 16],
        key_id: [4; 16],
        annex: [6; 32],
        members: members.into_iter().collect(),
    }
}

fn header(sequence: u64, suite: Suite, targets: &[u8]) -> Header {
    let roster = roster(3, &[1, 2, 3]);
    let mut targets: Vec<[u8; 32]> = targets.iter().map(|node| public(*node)).collect();
    targets.sort_unstable();
    Header {
        package_id: [1; 16],
        cluster: roster.cluster,
        source: public(1),
        roster_epoch: roster.epoch,
        roster_hash: roster.hash(),
        sequence,
        key_id: roster.key_id,
        made_s: Some(1_800_000_000),
        targets: targets.into_iter().collect(),
        suite,
    }
}

/// A whole file: a full chunk for each but the last, which has so many bytes.
fn file(header: Header, full: usize, last: usize) -> Vec<u8> {
    let enc = vec![9; header.suite.enc_bytes()];
    let targets = header.targets.clone();
    let mut writer = Writer::begin(Growing::default(), header).expect("a vector grows");
    for target in targets {
        writer.seal(&Sealed { target, enc: &enc, key: &[target[0]; SEALED_KEY_BYTES] }).expect("in order");
    }
    writer.commit(&Commitment { commitment: [7; 32] }).expect("in order");
    for number in 0..full {
        let sealed = vec![u8::try_from(number).expect("small"); CHUNK_BYTES + TAG_BYTES];
        writer.chunk(&Chunk { is_last: false, sealed: &sealed }).expect("full");
    }
    writer.chunk(&Chunk { is_last: true, sealed: &vec![8; last + TAG_BYTES] }).expect("the last");
    let hash = writer.unsigned().expect("the last was written").hash;
    let signature = key(1).sign(&message(writer.header_hash(), &hash)).to_bytes();
    writer.end(signature).expect("a vector grows").1.0
}

fn small(sequence: u64) -> Vec<u8> {
    file(header(sequence, Suite::P256, &[2, 3]), 0, 40)
}

/// Reads to the end; how many parts there were and the package's hash, or why it is refused.
fn read(bytes: &[u8]) -> Result<(usize, [u8; 32]), Problem> {
    let mut body = [0; FRAME_BYTES_MAX];
    let mut reader = Reader::new(bytes, &mut body);
    for count in 1.. {
        if let Part::End { hash, .. } = reader.next()? {
            return Ok((count, hash));
        }
    }
    panic!("a file of finite length ends")
}

/// Where the frames begin and end.
fn frames(bytes: &[u8], mut at: usize) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    while at < bytes.len() {
        let length = u32::from_be_bytes(bytes[at + 1..at + 5].try_into().expect("four"));
        let end = at + 5 + usize::try_from(length).expect("small");
        found.push(at..end);
        at = end;
    }
    found
}

#[test]
fn what_is_written_is_read_part_by_part() {
    for suite in [Suite::XWing, Suite::P256] {
        let wanted = header(7, suite, &[2, 3]);
        let bytes = file(wanted.clone(), 2, 1);
        let mut body = [0; FRAME_BYTES_MAX];
        let mut reader = Reader::new(&bytes[..], &mut body);
        assert_eq!(reader.header(), None);
        assert_eq!(reader.next(), Ok(Part::Header));
        assert_eq!(reader.header().map(|(header, _)| header), Some(&wanted));
        for target in &wanted.targets {
            assert!(matches!(reader.next(), Ok(Part::Sealed(sealed)) if sealed.target == *target));
        }
        assert_eq!(reader.next(), Ok(Part::Commitment(Commitment { commitment: [7; 32] })));
        for number in 0..2 {
            let part = reader.next().expect("whole");
            assert!(matches!(part, Part::Chunk { number: found, chunk } if found == number && !chunk.is_last));
        }
        assert!(matches!(
            reader.next(),
            Ok(Part::Chunk { number: 2, chunk: Chunk { is_last: true, sealed: [8, ..] } })
        ));
        assert!(matches!(reader.next(), Ok(Part::End { end, .. }) if end.chunks == 3));
        assert!(matches!(reader.next(), Ok(Part::End { .. })), "however often it is asked for");
    }
}

#[test]
fn a_chunk_has_the_form_of_its_struct_although_it_is_written_in_pieces() {
    // A length of one, of two and of three bytes.
    for last in [40, 400, CHUNK_BYTES] {
        assert!(read(&file(header(1, Suite::P256, &[2]), 1, last)).is_ok(), "{last}");
    }
}

#[test]
fn p21_every_bit_flip_and_every_prefix_of_a_package_is_refused() {
    let bytes = small(1);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(read(&flipped).is_err(), "byte {at}, bit {bit}");
        }
    }
    for length in 0..bytes.len() {
        let problem = read(&bytes[..length]).expect_err("it was cut");
        assert!(matches!(problem, Problem::Truncated | Problem::NotOurs), "{length}: {problem:?}");
    }
    assert_eq!(read(&[&bytes[..], &[0]].concat()), Err(Problem::Trailing));
    assert_eq!(read(&[&bytes[..], &bytes[..]].concat()), Err(Problem::Trailing));
}

#[test]
fn p21_every_other_order_of_a_packages_frames_is_refused() {
    let bytes = file(header(1, Suite::P256, &[2, 3]), 2, 40);
    let all = frames(&bytes, 5);
    let build = |order: &[usize]| {
        let mut built = bytes[..5].to_vec();
        order.iter().for_each(|number| built.extend_from_slice(&bytes[all[*number].clone()]));
        built
    };
    let right: Vec<usize> = (0..all.len()).collect();
    assert_eq!(read(&build(&right)).map(|(count, _)| count), Ok(all.len()));
    for one in 0..all.len() {
        let without: Vec<usize> = right.iter().copied().filter(|number| *number != one).collect();
        assert!(read(&build(&without)).is_err(), "without {one}");
        let mut twice = right.clone();
        twice.insert(one, one);
        assert!(read(&build(&twice)).is_err(), "{one} twice");
        for other in one + 1..all.len() {
            let mut swapped = right.clone();
            swapped.swap(one, other);
            assert!(read(&build(&swapped)).is_err(), "{one} for {other}");
        }
    }
}

#[test]
fn p21_parts_of_two_packages_of_one_node_make_no_third() {
    let (first, second) = (small(1), small(2));
    let (of_first, of_second) = (frames(&first, 5), frames(&second, 5));
    assert_eq!(of_first.len(), of_second.len());
    for at in 1..of_first.len() {
        let spliced = [&first[..of_first[at].start], &second[of_second[at].start..]].concat();
        assert!(read(&spliced).is_err(), "from {at} on");
    }
    assert_ne!(read(&first).expect("whole").1, read(&second).expect("whole").1, "a hash names one package");
}

#[test]
fn p21_each_problem_of_a_package_has_its_name() {
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = small(1);
        change(&mut bytes);
        read(&bytes).expect_err("it was changed")
    };
    let frame = |number: usize| frames(&small(1), 5)[number].clone();
    assert_eq!(read(b""), Err(Problem::NotOurs));
    assert_eq!(read(&[0; 1 << 20]), Err(Problem::NotOurs));
    assert_eq!(with(&|bytes| bytes[4] = 2), Problem::Newer);
    assert_eq!(with(&|bytes| bytes[5] = 9), Problem::UnknownFrame);
    assert_eq!(with(&|bytes| bytes[5] = 2), Problem::OutOfOrder);
    assert_eq!(with(&|bytes| bytes[7] = 1), Problem::TooLong);
    let huge = u32::try_from(FRAME_BYTES_MAX + 1).expect("small").to_be_bytes();
    assert_eq!(with(&|bytes| bytes[frame(4).start + 1..][..4].copy_from_slice(&huge)), Problem::TooLong);
    assert_eq!(with(&|bytes| bytes[frame(1).start + 5] ^= 1), Problem::Targets);
    assert_eq!(with(&|bytes| bytes.swap(frame(0).end - 66, frame(0).end - 34)), Problem::Malformed);
    // An X-Wing package's keys are longer than those.
    assert_eq!(with(&|bytes| bytes[frame(0).end - 1] = 1), Problem::Sealing);
    assert_eq!(with(&|bytes| bytes[frame(0).end - 1] = 3), Problem::Malformed);
    assert_eq!(with(&|bytes| bytes[frame(4).start + 5] = 0), Problem::ChunkLength);
    assert_eq!(with(&|bytes| bytes[frame(5).start + 5] = 2), Problem::Counts);
    assert_eq!(with(&|bytes| bytes[frame(5).start + 6] ^= 1), Problem::Hash);
    let last = small(1).len() - 1;
    assert_eq!(with(&|bytes| bytes[last] ^= 1), Problem::Signature);
    let mut names: Vec<&str> = Problem::ALL.iter().map(|problem| problem.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Problem::ALL.len());
}

#[test]
fn the_writer_of_a_package_writes_nothing_that_the_reader_refuses() {
    let begin = |header: Header| Writer::begin(Growing::default(), header);
    let good = || header(1, Suite::P256, &[2, 3]);
    let none = Header { targets: heapless::Vec::new(), ..good() };
    let falling = Header { targets: good().targets.iter().rev().copied().collect(), ..good() };
    for impossible in [none, falling, Header { sequence: 0, ..good() }, Header { roster_epoch: 0, ..good() }] {
        assert!(matches!(begin(impossible), Err(WriteProblem::Impossible)));
    }
    let mut writer = begin(good()).expect("a vector grows");
    let [first, second] = [good().targets[0], good().targets[1]];
    let sealed = |target, enc, key| Sealed { target, enc, key };
    let (enc, key) = (&[9; 65][..], &[9; SEALED_KEY_BYTES][..]);
    let impossible = Err(WriteProblem::Impossible);
    assert_eq!(writer.seal(&sealed(second, enc, key)), impossible, "not its turn");
    assert_eq!(writer.seal(&sealed(first, &enc[1..], key)), impossible, "not of the suite");
    assert_eq!(writer.seal(&sealed(first, enc, &key[1..])), impossible, "no key");
    writer.seal(&sealed(first, enc, key)).expect("its turn");
    let commitment = Commitment { commitment: [7; 32] };
    assert_eq!(writer.commit(&commitment), impossible, "a target has no key");
    writer.seal(&sealed(second, enc, key)).expect("its turn");
    let chunk = |is_last, length: usize| (is_last, vec![1; length]);
    let write = |writer: &mut Writer<Growing>, (is_last, sealed): (bool, Vec<u8>)| {
        writer.chunk(&Chunk { is_last, sealed: &sealed })
    };
    assert_eq!(write(&mut writer, chunk(true, 40)), impossible, "no commitment");
    writer.commit(&commitment).expect("its turn");
    assert_eq!(write(&mut writer, chunk(false, 40)), impossible, "not full");
    assert_eq!(write(&mut writer, chunk(true, TAG_BYTES)), impossible, "empty");
    assert_eq!(write(&mut writer, chunk(true, CHUNK_BYTES + TAG_BYTES + 1)), impossible, "too full");
    assert_eq!(writer.unsigned(), None, "no last chunk");
    write(&mut writer, chunk(true, 40)).expect("the last");
    assert_eq!(write(&mut writer, chunk(true, 40)), impossible, "after the last");
    let hash = writer.unsigned().expect("the last was written").hash;
    let signature = self::key(1).sign(&message(writer.header_hash(), &hash)).to_bytes();
    let (named, bytes) = writer.end(signature).expect("a vector grows");
    assert_eq!(read(&bytes.0), Ok((6, named)), "what went wrong before left nothing");
}

#[test]
fn no_two_chunks_have_one_nonce() {
    let nonces = [nonce(0, false), nonce(0, true), nonce(1, false), nonce(u32::MAX, true)];
    assert_eq!(nonces[3], [0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 1]);
    assert!((0..4).all(|one| (0..one).all(|other| nonces[one] != nonces[other])));
}

fn fact(name: u32, count: u32, here: bool) -> Fact {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&name.to_be_bytes());
    Fact { name: KeyName(bytes), known: Known { count, here } }
}

/// Facts of slots with so many keys each.
fn payload(slots: &[u32], keys: bool) -> Vec<u8> {
    let mut writer = facts::Writer::new(Growing::default());
    for (uid, count) in (1..).zip(slots) {
        writer.begin(facts::Begin { uid: [uid; 16], count: *count }).expect("rising");
        (0..*count).for_each(|name| writer.fact(fact(name, 1 + name % 3, name % 2 == 0)).expect("rising"));
    }
    writer.end(keys).expect("whole").0
}

/// A slot's uid and its facts.
type OfSlot = ([u8; 16], Vec<Fact>);

fn read_facts(bytes: &[u8]) -> Result<Vec<OfSlot>, Problem> {
    let (mut reader, mut found) = (facts::Reader::new(bytes), Vec::<OfSlot>::new());
    loop {
        match reader.next()? {
            facts::Part::Begin(begin) => found.push((begin.uid, Vec::new())),
            facts::Part::Rows(rows) => found.last_mut().expect("inside").1.extend(rows.iter()),
            facts::Part::End(_) => return Ok(found),
        }
    }
}

#[test]
fn facts_are_read_as_they_were_written_and_keys_may_follow() {
    for slots in [&[][..], &[0], &[1], &[255, 0, 256, 257, 1000]] {
        let found = read_facts(&payload(slots, false)).expect("whole");
        assert_eq!(found.len(), slots.len());
        for ((uid, facts), (wanted_uid, count)) in found.iter().zip((1..).zip(slots)) {
            assert_eq!(*uid, [wanted_uid; 16]);
            let wanted: Vec<Fact> = (0..*count).map(|name| fact(name, 1 + name % 3, name % 2 == 0)).collect();
            assert_eq!(*facts, wanted);
        }
    }
    let mut with_keys = payload(&[3], true);
    with_keys.extend_from_slice(b"SLWX and so on");
    let mut reader = facts::Reader::new(&with_keys[..]);
    while !matches!(reader.next().expect("whole"), facts::Part::End(_)) {}
    assert_eq!(reader.into_rest(), Some(&b"SLWX and so on"[..]));
    let receipt = payload(&[3], false);
    let mut reader = facts::Reader::new(&receipt[..]);
    assert!(facts::Reader::new(&receipt[..]).into_rest().is_none(), "not before the end");
    while !matches!(reader.next().expect("whole"), facts::Part::End(_)) {}
    assert!(reader.into_rest().is_none(), "a receipt has no keys");
}

#[test]
fn p21_every_bit_flip_prefix_and_other_order_of_facts_is_refused() {
    let bytes = payload(&[3, 0, 260], false);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(read_facts(&flipped).is_err(), "byte {at}, bit {bit}");
        }
    }
    assert!((0..bytes.len()).all(|length| read_facts(&bytes[..length]) == Err(Problem::Truncated)));
    assert_eq!(read_facts(&[&bytes[..], &[0]].concat()), Err(Problem::Trailing));
    let all = frames(&bytes, 0);
    for one in 0..all.len() {
        for other in one + 1..all.len() {
            let mut order: Vec<usize> = (0..all.len()).collect();
            order.swap(one, other);
            let swapped: Vec<u8> = order.iter().flat_map(|number| bytes[all[*number].clone()].to_vec()).collect();
            assert!(read_facts(&swapped).is_err(), "{one} for {other}");
        }
        let without = [&bytes[..all[one].start], &bytes[all[one].end..]].concat();
        assert!(read_facts(&without).is_err(), "without {one}");
    }
}

#[test]
fn p21_each_problem_of_facts_has_its_name() {
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = payload(&[3, 1], false);
        change(&mut bytes);
        read_facts(&bytes).expect_err("it was changed")
    };
    let frame = |number: usize| frames(&payload(&[3, 1], false), 0)[number].clone();
    let row = |number: usize| frame(1).start + 6 + 21 * number;
    assert_eq!(with(&|bytes| bytes[0] = 1), Problem::UnknownFrame);
    assert_eq!(with(&|bytes| bytes[0] = 17), Problem::OutOfOrder);
    assert_eq!(with(&|bytes| bytes[2] = 1), Problem::TooLong);
    assert_eq!(with(&|bytes| bytes[frame(0).end - 1] = 2), Problem::Counts);
    assert_eq!(with(&|bytes| bytes[row(1) + 3] = 0), Problem::Facts);
    assert_eq!(with(&|bytes| bytes[row(0) + 20] = 2), Problem::Facts);
    assert_eq!(with(&|bytes| bytes[row(0) + 19] = 0), Problem::Facts);
    assert_eq!(with(&|bytes| bytes[frame(2).start + 5..][..16].copy_from_slice(&[1; 16])), Problem::Slots);
    assert_eq!(with(&|bytes| bytes[frame(4).start + 5] = 1), Problem::Counts);
    assert_eq!(with(&|bytes| bytes[frame(4).start + 7] ^= 1), Problem::Hash);
}

#[test]
fn the_writer_of_facts_writes_nothing_that_the_reader_refuses() {
    let impossible = Err(WriteProblem::Impossible);
    let mut writer = facts::Writer::new(Growing::default());
    assert_eq!(writer.fact(fact(0, 1, true)), impossible, "in no slot");
    assert_eq!(writer.begin(facts::Begin { uid: [5; 16], count: 100_001 }), impossible, "too many");
    writer.begin(facts::Begin { uid: [5; 16], count: 2 }).expect("the first");
    assert_eq!(writer.begin(facts::Begin { uid: [6; 16], count: 0 }), impossible, "in the middle");
    assert_eq!(writer.fact(fact(4, 0, false)), impossible, "never seen");
    writer.fact(fact(4, 1, true)).expect("the first");
    assert_eq!(writer.fact(fact(4, 1, true)), impossible, "not rising");
    writer.fact(fact(5, 2, false)).expect("the second");
    assert_eq!(writer.fact(fact(6, 1, true)), impossible, "one too many");
    assert_eq!(writer.begin(facts::Begin { uid: [5; 16], count: 0 }), impossible, "not rising");
    let bytes = writer.end(false).expect("whole").0;
    assert_eq!(read_facts(&bytes), Ok(vec![([5; 16], vec![fact(4, 1, true), fact(5, 2, false)])]));
    let mut cut = facts::Writer::new(Growing::default());
    cut.begin(facts::Begin { uid: [5; 16], count: 1 }).expect("the first");
    assert!(matches!(cut.end(false), Err(WriteProblem::Impossible)), "in the middle");
}

#[test]
fn p22_a_package_is_taken_only_by_its_target_from_a_member_at_the_roster_in_force() {
    let ours = roster(3, &[1, 2, 3]);
    let good = header(1, Suite::XWing, &[2]);
    let judge = |header: &Header, ours: &Roster, own: u8| judge_header(header, ours, &public(own));
    let because = |change: &dyn Fn(&mut Header)| {
        let mut changed = good.clone();
        change(&mut changed);
        judge(&changed, &ours, 2).expect_err("it was changed")
    };
    // The refusal first; each but for one thing is the package that is taken below.
    assert_eq!(because(&|header| header.cluster = [9; 16]), Refusal::OtherCluster);
    assert_eq!(because(&|header| header.source = public(9)), Refusal::UnknownSource);
    assert_eq!(because(&|header| (header.source, header.roster_epoch) = (public(9), 4)), Refusal::RosterNewer);
    assert_eq!(because(&|header| (header.source, header.roster_epoch) = (public(9), 2)), Refusal::UnknownSource);
    assert_eq!(because(&|header| header.roster_epoch = 2), Refusal::RosterOld);
    assert_eq!(because(&|header| header.roster_epoch = 4), Refusal::RosterNewer);
    assert_eq!(because(&|header| header.roster_hash = [9; 32]), Refusal::RosterDiverged);
    assert_eq!(because(&|header| header.key_id = [9; 16]), Refusal::PackageOfAnotherKey);
    assert_eq!(because(&|header| header.targets[0] = public(3)), Refusal::NotForUs);
    assert_eq!(judge(&good, &ours, 3), Err(Refusal::NotForUs), "another member reads it");
    assert_eq!(judge(&good, &ours, 1), Err(Refusal::NotForUs), "its source gets it back");
    let to_itself = header(1, Suite::XWing, &[1, 2]);
    assert_eq!(judge(&to_itself, &ours, 1), Err(Refusal::NotForUs), "its source named itself");
    // The source was removed since.
    let without = Roster { members: roster(4, &[2, 3]).members, ..roster(4, &[2, 3]) };
    assert_eq!(judge(&good, &without, 2), Err(Refusal::UnknownSource));
    assert_eq!(judge(&good, &ours, 2), Ok(()));
}

#[test]
fn p23_a_replay_is_nothing_and_a_rollback_is_refused() {
    let ours = roster(3, &[1, 2, 3]);
    let mut marks = Marks::new();
    let judge = |marks: &Marks, sequence: u64, hash: u8| {
        admit(&header(sequence, Suite::P256, &[2]), &[hash; 32], &ours, &public(2), marks)
    };
    assert_eq!(judge(&marks, 5, 5), Ok(Admission::Take));
    assert!(marks.note(Mark { node: public(1), sequence: 5, hash: [5; 32] }));
    assert_eq!(judge(&marks, 4, 4), Err(Refusal::PackageOld));
    assert_eq!(judge(&marks, 5, 6), Err(Refusal::PackageForked));
    assert_eq!(judge(&marks, 5, 5), Ok(Admission::Nothing));
    assert_eq!(judge(&marks, 6, 6), Ok(Admission::Take), "there may be gaps, too");
    assert_eq!(judge(&marks, 9, 9), Ok(Admission::Take));
    for (sequence, hash) in [(4, 4), (5, 5), (5, 6)] {
        assert!(!marks.note(Mark { node: public(1), sequence, hash: [hash; 32] }), "a mark only rises");
    }
    assert_eq!(marks.of(&public(1)), Some(&Mark { node: public(1), sequence: 5, hash: [5; 32] }));
    // What is wrong with the header comes before what is wrong with its number.
    let foreign = Header { key_id: [9; 16], ..header(4, Suite::P256, &[2]) };
    assert_eq!(admit(&foreign, &[4; 32], &ours, &public(2), &marks), Err(Refusal::PackageOfAnotherKey));
}

#[test]
fn p23_a_member_that_left_and_came_back_brings_nothing_old() {
    let mut marks = Marks::new();
    assert!(marks.note(Mark { node: public(1), sequence: 5, hash: [5; 32] }));
    assert!(marks.note(Mark { node: public(3), sequence: 8, hash: [8; 32] }));
    marks.keep(&roster(4, &[2, 3]));
    assert_eq!(marks.of(&public(1)), None);
    assert_eq!(marks.taken().len(), 1, "the other one stays");
    let back = roster(5, &[1, 2, 3]);
    let old = header(5, Suite::P256, &[2]);
    assert_eq!(admit(&old, &[5; 32], &back, &public(2), &marks), Err(Refusal::RosterOld));
    // And there is never a source too many: a roster has no more members than there are marks.
    let all: Vec<u8> = (10..18).collect();
    let full = roster(6, &all);
    marks.keep(&full);
    assert!(all.iter().all(|node| marks.note(Mark { node: public(*node), sequence: 1, hash: [0; 32] })));
    assert!(!marks.note(Mark { node: public(1), sequence: 1, hash: [0; 32] }), "of nobody");
}

#[test]
fn the_export_in_a_package_is_of_its_source_cluster_and_key() {
    let package = header(1, Suite::P256, &[2]);
    let inside = export::Header {
        export_id: [1; 16],
        cluster: package.cluster,
        node: package.source,
        protection: Protection::Cards { set_id: [3; 16] },
        key_id: package.key_id,
        sequence: 12,
        made_s: None,
        previous: [0; 32],
        sections: 1,
    };
    assert!(!package.holds(&export::Header { cluster: [9; 16], ..inside }));
    assert!(!package.holds(&export::Header { node: public(3), ..inside }));
    assert!(!package.holds(&export::Header { key_id: [9; 16], ..inside }));
    assert!(package.holds(&inside));
}

proptest! {
    /// Nothing that anybody writes makes the readers panic or read for ever.
    #[test]
    fn p42_no_bytes_make_the_readers_of_packages_panic(
        tail in prop::collection::vec(any::<u8>(), 0..400),
        keep in 0usize..900,
    ) {
        let whole = small(1);
        let bytes = [&whole[..keep.min(whole.len())], &tail[..]].concat();
        prop_assert!(bytes == whole || read(&bytes).is_err());
        let _ = read(&tail);
        let inside = payload(&[3, 0, 2], false);
        let bytes = [&inside[..keep.min(inside.len())], &tail[..]].concat();
        prop_assert!(bytes == inside || read_facts(&bytes).is_err());
        let _ = read_facts(&tail);
    }
}
