//! Rosters, their file, and requests to join: each roster follows on the one before it, or is refused by
//! name; and of both formats nothing is read but what was written (P21, P42).

// A test that panics has found something; the lints are for the rules.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::arithmetic_side_effects, clippy::std_instead_of_core, clippy::wildcard_enum_match_arm)]

use ed25519_dalek::{Signer as _, SigningKey};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use slotwarden_core::Refusal;
use slotwarden_core::frame::WriteProblem;
use slotwarden_core::join::{self, Request, is_name};
use slotwarden_core::limits::MEMBERS_MAX;
use slotwarden_core::roster::file::{ANNEX_BYTES_MAX, Begin, Reader, Writer};
use slotwarden_core::roster::{
    Change, Member, P256_BYTES, Problem, ROSTER_BYTES_MAX, Roster, SignedRoster, X_WING_BYTES, seal,
};

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

const ANNEX: &[u8] = b"names and slots";

fn founding(nodes: &[u8]) -> Roster {
    let mut members: Vec<Member> = nodes.iter().map(|node| Member { node: public(*node), seal: [*node; 32] }).collect();
    members.sort_by_key(|member| member.node);
    Roster {
        epoch: 1,
        previous: [0; 32],
        cluster: [2; 16],
        key_id: [4; 16],
        annex: Sha256::digest(ANNEX).into(),
        members: members.into_iter().collect(),
    }
}

fn after(before: &Roster, nodes: &[u8]) -> Roster {
    Roster { epoch: before.epoch + 1, previous: before.hash(), ..founding(nodes) }
}

fn signed(roster: Roster, signer: u8) -> SignedRoster {
    let signature = key(signer).sign(&roster.message()).to_bytes();
    SignedRoster { roster, signer: public(signer), signature }
}

/// 1 founds, invites 2, they invite 3, and remove 1.
fn chain() -> [SignedRoster; 4] {
    let first = founding(&[1]);
    let second = after(&first, &[1, 2]);
    let third = after(&second, &[1, 2, 3]);
    let fourth = after(&third, &[2, 3]);
    [signed(first, 1), signed(second, 1), signed(third, 2), signed(fourth, 3)]
}

#[test]
fn a_roster_that_does_not_follow_is_refused_by_name() {
    let [first, second, third, fourth] = chain();
    let current = &second.roster;
    let accepts = |next: &SignedRoster| Roster::accepts(Some(current), next, &public(2));
    assert_eq!(accepts(&first), Err(Problem::Old));
    assert_eq!(accepts(&fourth), Err(Problem::NotNext), "one is missing");
    let another = signed(after(&first.roster, &[1, 5]), 1);
    assert_eq!(accepts(&another), Err(Problem::Diverged), "another of our epoch");
    assert_eq!(accepts(&signed(after(&another.roster, &[1, 2]), 1)), Err(Problem::NotNext), "it follows on another");
    assert_eq!(accepts(&signed(third.roster.clone(), 3)), Err(Problem::Signer), "invited, and signed by itself");
    assert_eq!(accepts(&signed(third.roster.clone(), 9)), Err(Problem::Signer), "signed by nobody");
    let foreign = Roster { cluster: [9; 16], ..third.roster.clone() };
    assert_eq!(accepts(&signed(foreign, 1)), Err(Problem::OtherCluster));
    let forged = SignedRoster { signer: public(1), ..third.clone() };
    assert_eq!(accepts(&forged), Err(Problem::Signature));
    let forged = SignedRoster { roster: Roster { key_id: [9; 16], ..third.roster.clone() }, ..third.clone() };
    assert_eq!(accepts(&forged), Err(Problem::Signature));

    assert_eq!(accepts(&second), Ok(Change::Same));
    assert_eq!(accepts(&third), Ok(Change::Follows));
    assert_eq!(
        Roster::accepts(Some(&third.roster), &fourth, &public(1)),
        Ok(Change::Leaves),
        "who is removed hears it"
    );
    assert_eq!(Roster::accepts(Some(&third.roster), &fourth, &public(2)), Ok(Change::Follows));
}

#[test]
fn the_same_roster_signed_by_another_member_is_the_same() {
    let [_, _, third, _] = chain();
    let again = signed(third.roster.clone(), 1);
    assert_eq!(Roster::accepts(Some(&third.roster), &again, &public(2)), Ok(Change::Same));
    let forged = SignedRoster { signature: [1; 64], ..again };
    assert_eq!(Roster::accepts(Some(&third.roster), &forged, &public(2)), Err(Problem::Signature));
}

#[test]
fn only_a_member_founds_or_joins() {
    let [first, second, ..] = chain();
    assert_eq!(Roster::accepts(None, &first, &public(2)), Err(Problem::NotMember));
    assert_eq!(Roster::accepts(None, &signed(first.roster.clone(), 2), &public(1)), Err(Problem::Signer));
    assert_eq!(Roster::accepts(None, &first, &public(1)), Ok(Change::Joins));
    assert_eq!(Roster::accepts(None, &second, &public(2)), Ok(Change::Joins));
}

#[test]
fn a_roster_whose_members_or_numbers_are_not_in_order_is_refused() {
    let [first, second, ..] = chain();
    let check = |roster: Roster| signed(roster, 1).check();
    let none = Roster { members: heapless::Vec::new(), ..first.roster.clone() };
    assert_eq!(check(none), Err(Problem::Members));
    let turned = second.roster.members.iter().rev().copied().collect();
    assert_eq!(check(Roster { members: turned, ..second.roster.clone() }), Err(Problem::Members));
    let twice = [first.roster.members[0]; 2].into_iter().collect();
    assert_eq!(check(Roster { members: twice, ..first.roster.clone() }), Err(Problem::Members));
    assert_eq!(check(Roster { epoch: 0, ..first.roster.clone() }), Err(Problem::Malformed));
    assert_eq!(check(Roster { epoch: 2, ..first.roster.clone() }), Err(Problem::Malformed), "it follows on none");
    assert_eq!(check(Roster { epoch: 1, ..second.roster }), Err(Problem::Malformed), "the first follows on one");
    let last = Roster { epoch: u32::MAX, previous: [1; 32], ..founding(&[1]) };
    let again = Roster { epoch: 1, ..founding(&[1]) };
    assert_eq!(last.is_followed_by(&signed(again, 1)), Err(Problem::Old), "epochs do not begin again");
}

#[test]
fn p21_every_bit_flip_and_every_prefix_of_a_roster_is_refused() {
    let full: Vec<u8> = (1..=u8::try_from(MEMBERS_MAX).expect("small")).collect();
    for roster in [signed(founding(&full), 1), chain()[3].clone()] {
        let bytes = roster.encode();
        assert!(bytes.len() <= 712 && bytes.len() < ROSTER_BYTES_MAX);
        assert_eq!(SignedRoster::decode(&bytes), Ok(roster));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(SignedRoster::decode(&flipped).is_err(), "byte {at}, bit {bit}");
            }
            assert!(SignedRoster::decode(&bytes[..at]).is_err(), "{at}");
        }
        assert_eq!(SignedRoster::decode(&[&bytes[..], &[0]].concat()), Err(Problem::Malformed));
    }
    assert_eq!(SignedRoster::decode(&[1; ROSTER_BYTES_MAX + 1]), Err(Problem::TooLong));
    assert_eq!(SignedRoster::decode(&[2; 10]), Err(Problem::Newer));
}

fn file(rosters: &[SignedRoster]) -> Vec<u8> {
    let count = u16::try_from(rosters.len()).expect("few");
    let mut writer = Writer::begin(Growing::default(), Begin { rosters: count }).expect("a vector grows");
    rosters.iter().for_each(|roster| writer.push(roster, ANNEX).expect("they follow"));
    writer.end().expect("whole").0
}

/// The rosters of a file, or why it is refused.
fn read(bytes: &[u8]) -> Result<Vec<SignedRoster>, Problem> {
    let (mut annex, mut found) = ([0; ANNEX_BYTES_MAX], Vec::new());
    let mut reader = Reader::new(bytes, &mut annex);
    while let Some(link) = reader.next()? {
        assert_eq!(link.annex, ANNEX);
        found.push(link.signed.clone());
    }
    Ok(found)
}

fn frames(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut at, mut found) = (5, Vec::new());
    while at < bytes.len() {
        let length = u32::from_be_bytes(bytes[at + 1..at + 5].try_into().expect("four"));
        let end = at + 5 + usize::try_from(length).expect("small");
        found.push(at..end);
        at = end;
    }
    found
}

#[test]
fn p21_a_file_of_rosters_is_read_as_it_was_written_and_nothing_else_is() {
    let all = chain();
    for some in [&all[..], &all[1..], &all[3..]] {
        assert_eq!(read(&file(some)).as_deref(), Ok(some));
    }
    let bytes = file(&all[..2]);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(read(&flipped).is_err(), "byte {at}, bit {bit}");
        }
        assert!(matches!(read(&bytes[..at]), Err(Problem::Truncated | Problem::NotOurs)), "{at}");
    }
    assert_eq!(read(&[&bytes[..], &[0]].concat()), Err(Problem::Trailing));
    let (bytes, places) = (file(&all), frames(&file(&all)));
    let build = |order: &[usize]| {
        let mut built = bytes[..5].to_vec();
        order.iter().for_each(|number| built.extend_from_slice(&bytes[places[*number].clone()]));
        built
    };
    let right: Vec<usize> = (0..places.len()).collect();
    for one in 0..places.len() {
        let without: Vec<usize> = right.iter().copied().filter(|number| *number != one).collect();
        assert!(read(&build(&without)).is_err(), "without {one}");
        for other in (one + 1..places.len()).filter(|other| bytes[places[*other].clone()] != bytes[places[one].clone()])
        {
            let mut swapped = right.clone();
            swapped.swap(one, other);
            assert!(read(&build(&swapped)).is_err(), "{one} for {other}");
        }
    }
}

#[test]
fn p21_each_problem_of_a_file_of_rosters_has_its_name() {
    let all = chain();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = file(&all[..2]);
        change(&mut bytes);
        read(&bytes).expect_err("it was changed")
    };
    let annex = frames(&file(&all[..2]))[2].clone();
    assert_eq!(read(b"SLWX\x01"), Err(Problem::NotOurs));
    assert_eq!(read(&[0; 1 << 20]), Err(Problem::NotOurs));
    assert_eq!(with(&|bytes| bytes[4] = 2), Problem::Newer);
    assert_eq!(with(&|bytes| bytes[5] = 7), Problem::UnknownFrame);
    assert_eq!(with(&|bytes| bytes[5] = 3), Problem::OutOfOrder);
    assert_eq!(with(&|bytes| bytes[7] = 1), Problem::TooLong);
    assert_eq!(with(&|bytes| bytes[10] = 0), Problem::Malformed, "no rosters");
    assert_eq!(with(&|bytes| bytes[10] = 1), Problem::Trailing);
    assert_eq!(with(&|bytes| bytes[10] = 3), Problem::Truncated);
    assert_eq!(with(&|bytes| bytes[annex.start + 6] ^= 1), Problem::Annex);
    let mut names: Vec<&str> = Problem::ALL.iter().map(|problem| problem.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Problem::ALL.len());
}

#[test]
fn what_an_operator_is_told_of_a_roster_is_a_refusal() {
    assert_eq!(Problem::Annex.refusal(), Refusal::RosterFileInvalid);
    assert_eq!(Problem::Signer.refusal(), Refusal::RosterOfStranger);
    assert_eq!(Problem::Old.refusal(), Refusal::RosterOld);
    assert_eq!(Problem::NotNext.refusal(), Refusal::RosterNotNext);
    assert_eq!(Problem::Diverged.refusal(), Refusal::RosterDiverged);
    assert_eq!(Problem::NotMember.refusal(), Refusal::NotRosterMember);
    assert_eq!(Problem::OtherCluster.refusal(), Refusal::OtherCluster);
}

#[test]
fn the_writer_of_rosters_writes_nothing_that_the_reader_refuses() {
    let [first, second, third, _] = chain();
    for rosters in [0, 257] {
        assert!(matches!(Writer::begin(Growing::default(), Begin { rosters }), Err(WriteProblem::Impossible)));
    }
    let impossible = Err(WriteProblem::Impossible);
    let mut writer = Writer::begin(Growing::default(), Begin { rosters: 2 }).expect("a vector grows");
    assert_eq!(writer.push(&first, b"other names"), impossible);
    assert_eq!(writer.push(&SignedRoster { signature: [0; 64], ..first.clone() }, ANNEX), impossible);
    writer.push(&first, ANNEX).expect("the first");
    assert_eq!(writer.push(&third, ANNEX), impossible, "one is missing");
    writer.push(&second, ANNEX).expect("it follows");
    assert_eq!(writer.push(&third, ANNEX), impossible, "one more than was said");
    assert_eq!(read(&writer.end().expect("whole").0), Ok(vec![first, second]));
    let none = Writer::begin(Growing::default(), Begin { rosters: 1 }).expect("a vector grows");
    assert!(matches!(none.end(), Err(WriteProblem::Impossible)));
}

/// Computed by another implementation: Python's hashlib and base64 over the bytes that the documentation says.
#[test]
fn a_fingerprint_is_that_of_the_vector_and_is_compared_as_people_type_it() {
    let member = Member { node: [0x11; 32], seal: seal(&[0x22; X_WING_BYTES], &[0x33; P256_BYTES]) };
    let fingerprint = member.fingerprint();
    assert_eq!(fingerprint.as_str(), "KHSOW-QJA7J-MIZXN-ASMDQ");
    let typed = fingerprint.as_str();
    assert!(!fingerprint.is(""));
    assert!(!fingerprint.is(&typed[..22]));
    assert!(!fingerprint.is(&format!("{typed}A")));
    assert!(!fingerprint.is(&typed.replacen(&typed[..1], "9", 1)));
    assert!(fingerprint.is(typed));
    assert!(fingerprint.is(&typed.to_lowercase().replace('-', " ")));
    assert!(fingerprint.is(&typed.replace('-', "")));
    let others = [Member { node: [0x12; 32], ..member }, Member { seal: [0; 32], ..member }];
    assert!(others.iter().all(|other| other.fingerprint() != fingerprint));
}

#[test]
fn members_are_found_by_their_keys_and_places() {
    let [_, _, third, _] = chain();
    let places: Vec<Option<u8>> = third.roster.members.iter().map(|member| third.roster.place(&member.node)).collect();
    assert_eq!(places, [Some(0), Some(1), Some(2)]);
    assert_eq!(third.roster.place(&public(9)), None);
    assert_eq!(third.roster.member(&public(3)).map(|member| member.seal), Some([3; 32]));
}

fn request(name: &str) -> Request<'_> {
    Request { node: public(4), x_wing: &[5; X_WING_BYTES], p256: &[6; P256_BYTES], name, made_s: Some(1_800_000_000) }
}

fn join_file(request: &Request<'_>) -> Vec<u8> {
    let mut bytes = Growing::default();
    let signature = key(4).sign(&request.message().expect("a reader takes it")).to_bytes();
    request.write(&mut bytes, &signature).expect("a vector grows");
    bytes.0
}

#[test]
fn p21_a_request_to_join_is_read_as_it_was_written_and_nothing_else_is() {
    let longest = "n".repeat(32);
    for name in ["a", "ca-2.example_x", &longest] {
        assert_eq!(Request::read(&join_file(&request(name))), Ok(request(name)));
    }
    let bytes = join_file(&request("node-4"));
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(Request::read(&flipped).is_err(), "byte {at}, bit {bit}");
        }
        assert!(matches!(Request::read(&bytes[..at]), Err(join::Problem::Truncated | join::Problem::NotOurs)), "{at}");
    }
}

#[test]
fn p21_each_problem_of_a_request_has_its_name() {
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = join_file(&request("node-4"));
        change(&mut bytes);
        Request::read(&bytes).expect_err("it was changed")
    };
    let (first, second) = {
        let places = frames(&join_file(&request("node-4")));
        (places[0].clone(), places[1].clone())
    };
    assert_eq!(Request::read(&[0; 1 << 20]), Err(join::Problem::NotOurs));
    assert_eq!(Request::read(b""), Err(join::Problem::NotOurs));
    assert_eq!(with(&|bytes| bytes.resize(join::FILE_BYTES_MAX + 1, 0)), join::Problem::TooLong);
    assert_eq!(with(&|bytes| bytes[4] = 2), join::Problem::Newer);
    assert_eq!(with(&|bytes| bytes[5] = 7), join::Problem::UnknownFrame);
    assert_eq!(with(&|bytes| bytes[5] = 2), join::Problem::OutOfOrder);
    assert_eq!(with(&|bytes| bytes.push(0)), join::Problem::Trailing);
    assert_eq!(with(&|bytes| bytes[first.end - 7] = b'/'), join::Problem::Name);
    assert_eq!(with(&|bytes| bytes[first.end - 7] = b'x'), join::Problem::Signature);
    assert_eq!(with(&|bytes| bytes[second.start + 5] ^= 1), join::Problem::Signature);
    assert_eq!(with(&|bytes| bytes[first.start + 5 + 32] ^= 1), join::Problem::Malformed);
    let mut names: Vec<&str> = join::Problem::ALL.iter().map(|problem| problem.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), join::Problem::ALL.len());
}

#[test]
fn nothing_is_signed_or_written_that_would_be_refused() {
    for name in ["", "a b", "a/b", "../x", "\u{1b}[31m", "knöten", &"n".repeat(33)] {
        assert!(!is_name(name));
        assert_eq!(request(name).message(), None, "{name:?}");
        assert!(request(name).write(&mut Growing::default(), &[0; 64]).is_err());
    }
    let short = Request { x_wing: &[5; X_WING_BYTES - 1], ..request("a") };
    assert_eq!((short.message(), short.member()), (None, Err(join::Problem::Keys)));
    let short = Request { p256: &[6; P256_BYTES - 1], ..request("a") };
    assert_eq!((short.message(), short.member()), (None, Err(join::Problem::Keys)));
    let wanted = Member { node: public(4), seal: seal(&[5; X_WING_BYTES], &[6; P256_BYTES]) };
    assert_eq!(request("a").member(), Ok(wanted));
}

proptest! {
    /// Nothing that anybody writes makes the readers panic or read for ever.
    #[test]
    fn p42_no_bytes_make_the_readers_of_rosters_and_requests_panic(
        tail in prop::collection::vec(any::<u8>(), 0..400),
        keep in 0usize..1800,
    ) {
        for whole in [file(&chain()[..2]), join_file(&request("node-4")), chain()[2].encode().to_vec()] {
            let bytes = [&whole[..keep.min(whole.len())], &tail[..]].concat();
            for bytes in [&bytes, &tail].into_iter().filter(|bytes| **bytes != whole) {
                prop_assert!(read(bytes).is_err());
                prop_assert!(Request::read(bytes).is_err());
                prop_assert!(SignedRoster::decode(bytes).is_err());
            }
        }
    }
}
