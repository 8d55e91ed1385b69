//! Shares on cards: every bit, every length, every quorum, and what comes from a backup key.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![allow(clippy::std_instead_of_core)]

use proptest::prelude::{Strategy as _, any, prop};
use proptest::{prop_assert, prop_assert_eq, prop_oneof, proptest};
use slotwarden_core::backup;
use slotwarden_core::code::{so_pin, token_pin};
use slotwarden_core::fault::Refusal;
use slotwarden_core::share::card_set::{
    CardQuorum, check_combined, combine, key_id, public_key, set_id, share_of, sign,
};
use slotwarden_core::share::record::{
    HEADER_BYTES, RECORD_BYTES, RecordProblem, ShareHeader, ShareKind, SignedHeader, check, write,
};

const SEED: [u8; 32] = *b"a seed, from which one set comes";
const SECRET: [u8; 32] = *b"the secret that the cards share.";
const CLUSTER: [u8; 16] = *b"this very estate";
/// The order of Ed25519's base point (RFC 8032, section 5.1), the last byte first.
const ORDER: [u8; 32] = [
    0xED, 0xD3, 0xF5, 0x5C, 0x1A, 0x63, 0x12, 0x58, 0xD6, 0x9C, 0xF7, 0xA2, 0xDE, 0xF9, 0xDE, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

fn quorum(m: u8, n: u8) -> CardQuorum {
    CardQuorum::new(m, n).expect("within the bounds")
}

/// A header of the set that comes from this seed.
fn header(seed: &[u8; 32], kind: ShareKind, quorum: CardQuorum, x: u8) -> ShareHeader {
    ShareHeader {
        kind,
        set_id: set_id(&public_key(seed)),
        subject: CLUSTER,
        m: quorum.m(),
        n: quorum.n(),
        x,
        generation: 7,
        created_s: 1_790_000_000,
        key_id: key_id(&SECRET),
    }
}

fn share(seed: &[u8; 32], quorum: CardQuorum, x: u8) -> [u8; 32] {
    let mut y = [0; 32];
    assert!(share_of(seed, &SECRET, &set_id(&public_key(seed)), quorum, x, &mut y));
    y
}

/// A whole record with this header.
fn record_of(seed: &[u8; 32], header: &ShareHeader) -> [u8; RECORD_BYTES] {
    let y = share(seed, header.quorum().expect("a quorum"), header.x);
    let mut bytes = [0; RECORD_BYTES];
    write(&sign(seed, header, &y), &y, &mut bytes);
    bytes
}

/// Share 2 of 3 of 5 of a backup key.
fn record() -> [u8; RECORD_BYTES] {
    record_of(&SEED, &header(&SEED, ShareKind::BackupKey, quorum(3, 5), 2))
}

/// How bytes are answered; nothing of them is left in y when they are refused.
fn judged(bytes: &[u8]) -> Result<SignedHeader, RecordProblem> {
    let mut y = [9; 32];
    let answer = check(bytes, &mut y);
    match answer {
        Ok(_) => assert_eq!(y, bytes[72..104]),
        Err(_) => assert_eq!(y, [0; 32], "a refused record leaves something in y"),
    }
    answer
}

// ---------------------------------------------------------------- records

#[test]
fn p11_every_bit_flip_of_a_record_is_refused_by_name() {
    use RecordProblem::{Forged, Malformed, Newer, NotOurs};
    let whole = record();
    for bit in 0..RECORD_BYTES * 8 {
        let mut altered = whole;
        altered[bit / 8] ^= 0x80 >> (bit % 8);
        let expected = match (bit / 8, altered[bit / 8]) {
            (0..=3 | 7 | 43, _) => NotOurs,    // magic, reserved bytes
            (4, _) => Newer,                   // version
            (5, 3) => Forged,                  // the kind is another that there is
            (5, _) => Newer,                   // there is no such kind
            (6, 0) => Malformed,               // the secret itself, but 3 of 5
            (6, _) => Newer,                   // there is no such scheme
            (8..=23, _) => Malformed,          // set id
            (40, 2) => Forged,                 // 2 of 5
            (41, 4 | 7 | 13) => Forged,        // 3 of 4, of 7, of 13
            (42, 3) => Forged,                 // another share
            (40..=42, _) => Malformed,         // no such quorum, no such share
            (24..=39 | 44..=103, _) => Forged, // subject, generation, created, key id, y
            (104..=135, _) => Malformed,       // public key: the set id is not its own
            _ => Forged,                       // signature
        };
        assert_eq!(judged(&altered), Err(expected), "bit {bit}");
    }
    assert!(judged(&whole).is_ok());
}

#[test]
fn p11_every_prefix_and_every_extension_of_a_record_is_refused() {
    let whole = record();
    assert_eq!(judged(&[]), Err(RecordProblem::Missing));
    for len in 1..RECORD_BYTES {
        assert_eq!(judged(&whole[..len]), Err(RecordProblem::NotOurs), "{len} bytes");
    }
    for (filler, more) in
        [0, 0xFF, whole[0]].into_iter().flat_map(|filler| (1..=RECORD_BYTES).map(move |n| (filler, n)))
    {
        let mut longer = whole.to_vec();
        longer.resize(RECORD_BYTES + more, filler);
        assert_eq!(judged(&longer), Err(RecordProblem::NotOurs), "{more} more");
    }
    for len in (0..256).filter(|len| *len != HEADER_BYTES) {
        let expected = if len == 0 { RecordProblem::Missing } else { RecordProblem::NotOurs };
        let bytes: Vec<u8> = whole.iter().chain(&whole).copied().take(len).collect();
        assert_eq!(ShareHeader::parse(&bytes), Err(expected), "a header of {len} bytes");
    }
}

#[test]
fn p11_erased_records_and_records_of_one_byte_are_refused() {
    for byte in 0..=u8::MAX {
        assert_eq!(judged(&[byte; RECORD_BYTES]), Err(RecordProblem::NotOurs));
    }
}

#[test]
fn p11_a_signature_that_others_may_take_is_refused() {
    // A key of small order: with R the neutral point and s = 0 "signs" everything.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut header = header(&SEED, ShareKind::BackupKey, quorum(3, 5), 2);
    header.set_id = set_id(&neutral);
    let mut signature = [0; 64];
    signature[0] = 1;
    let mut bytes = [0; RECORD_BYTES];
    write(&SignedHeader { header, public_key: neutral, signature }, &[5; 32], &mut bytes);
    assert_eq!(judged(&bytes), Err(RecordProblem::Forged));

    // A key that is no point at all.
    let public_key = [0x02; 32];
    let no_point = (0..=u8::MAX).map(|byte| [byte; 32]).find(|key| {
        let mut other = header;
        other.set_id = set_id(key);
        write(&SignedHeader { header: other, public_key: *key, signature }, &[5; 32], &mut bytes);
        judged(&bytes) != Err(RecordProblem::Forged)
    });
    assert_eq!(no_point, None, "{public_key:?}");

    // The same s, plus the order of the group: the equation holds, the number is too large.
    let mut second = record();
    let mut carry = 0;
    for (place, add) in second[168..].iter_mut().zip(ORDER) {
        let sum = u16::from(*place) + u16::from(add) + carry;
        *place = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    assert_eq!(judged(&second), Err(RecordProblem::Forged));
}

#[test]
fn p11_a_record_with_any_field_of_another_is_refused() {
    let other_seed = [0x33; 32];
    let mut headers = Vec::new();
    for seed in [&SEED, &other_seed] {
        let first = header(seed, ShareKind::BackupKey, quorum(3, 5), 2);
        let mut others = [first; 7];
        others[0].kind = ShareKind::SlotUser;
        others[1].kind = ShareKind::SoPin;
        others[2].subject = *b"some other place";
        others[3].x = 3;
        others[4].generation = 8;
        others[5].key_id = [4; 16];
        others[6].m = 2;
        headers.push((seed, first));
        headers.extend(others.map(|other| (seed, other)));
    }
    let records: Vec<[u8; RECORD_BYTES]> = headers.iter().map(|(seed, header)| record_of(seed, header)).collect();
    let fields = [5..6, 8..24, 24..40, 40..41, 41..42, 42..43, 44..48, 48..56, 56..72, 72..104, 104..136, 136..200];
    let mut spliced = 0;
    for one in &records {
        for other in records.iter().filter(|other| *other != one) {
            // A field, and everything up to it: a head of one and a tail of the other.
            for part in fields.iter().cloned().chain(fields.iter().map(|field| 0..field.end)) {
                let mut altered = *one;
                altered[part.clone()].copy_from_slice(&other[part]);
                if altered != *one && altered != *other {
                    assert!(judged(&altered).is_err());
                    spliced += 1;
                }
            }
        }
    }
    assert!(spliced > 1500, "only {spliced}");
    for ((_, header), bytes) in headers.iter().zip(&records) {
        assert_eq!(judged(bytes).map(|record| record.header), Ok(*header));
    }
}

#[test]
fn p11_a_record_signed_with_the_key_of_another_set_is_refused() {
    let header = header(&SEED, ShareKind::BackupKey, quorum(3, 5), 2);
    let y = share(&SEED, quorum(3, 5), 2);
    let mut forged = sign(&[0x33; 32], &header, &y);
    let mut bytes = [0; RECORD_BYTES];
    write(&forged, &y, &mut bytes);
    assert_eq!(judged(&bytes), Err(RecordProblem::Malformed));
    forged.public_key = public_key(&SEED);
    write(&forged, &y, &mut bytes);
    assert_eq!(judged(&bytes), Err(RecordProblem::Forged));
}

#[test]
fn every_number_of_version_kind_scheme_quorum_and_share_is_judged() {
    let whole = record();
    let first = &whole[..HEADER_BYTES];
    let parsed = |at: usize, value: u8| {
        let mut altered = first.to_vec();
        altered[at] = value;
        ShareHeader::parse(&altered).err()
    };
    for value in 0..=u8::MAX {
        assert_eq!(parsed(4, value), (value != 1).then_some(RecordProblem::Newer), "version {value}");
        assert_eq!(parsed(5, value), (![1, 3, 4].contains(&value)).then_some(RecordProblem::Newer), "kind {value}");
        let expected = [Some(RecordProblem::Malformed), None].get(usize::from(value)).copied();
        assert_eq!(parsed(6, value), expected.unwrap_or(Some(RecordProblem::Newer)), "scheme {value}");
    }
    // Kind, scheme, m, n and x: all there are, and one beyond each bound.
    for (kind, scheme) in [(1, 0), (1, 1), (3, 0), (3, 1), (4, 0), (4, 1)] {
        for (m, n) in (0..=18).flat_map(|m| (0..=18).map(move |n| (m, n))) {
            for x in (0..=18).chain([u8::MAX]) {
                let mut altered = first.to_vec();
                (altered[5], altered[6]) = (kind, scheme);
                altered[40..43].copy_from_slice(&[m, n, x]);
                let itself = scheme == 0 && m == 1 && kind != 1;
                let possible = (itself || scheme == 1 && m >= 2) && m <= n && n <= 16 && (1..=n).contains(&x);
                let expected = (!possible).then_some(RecordProblem::Malformed);
                assert_eq!(ShareHeader::parse(&altered).err(), expected, "{:?}", &altered[5..43]);
            }
        }
    }
}

#[test]
fn a_record_is_laid_out_as_described_and_comes_back() {
    let header = header(&SEED, ShareKind::BackupKey, quorum(3, 5), 2);
    let y = share(&SEED, quorum(3, 5), 2);
    let signed = sign(&SEED, &header, &y);
    let bytes = record();
    let expected: [(usize, &[u8]); 9] = [
        (0, b"SLWS\x01\x01\x01\x00"),
        (8, &header.set_id),
        (24, &CLUSTER),
        (40, &[3, 5, 2, 0, 0, 0, 0, 7]),
        (48, &1_790_000_000u64.to_be_bytes()),
        (56, &header.key_id),
        (72, &y),
        (104, &public_key(&SEED)),
        (136, &signed.signature),
    ];
    for (at, field) in expected {
        assert_eq!(&bytes[at..at + field.len()], field, "at {at}");
    }
    assert_eq!(judged(&bytes), Ok(signed));
    assert_eq!(ShareHeader::parse(&bytes[..HEADER_BYTES]), Ok(header));
}

#[test]
fn a_secret_of_which_one_card_suffices_lies_on_each_and_is_never_a_backup_key() {
    let one = quorum(1, 3);
    let mut backup = header(&SEED, ShareKind::BackupKey, one, 1);
    assert_eq!(judged(&record_of(&SEED, &backup)), Err(RecordProblem::Malformed));
    for kind in [ShareKind::SlotUser, ShareKind::SoPin] {
        backup.kind = kind;
        for x in 1..=3 {
            backup.x = x;
            let bytes = record_of(&SEED, &backup);
            assert_eq!((bytes[6], &bytes[72..104]), (0, SECRET.as_slice()));
            assert_eq!(judged(&bytes).map(|record| record.header), Ok(backup));
        }
    }
}

/// Bytes that look like a header more often than chance has it.
fn nearly_headers() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
    let few = || prop_oneof![0u8..20, any::<u8>()];
    let looks = ([few(), few(), few(), few()], [few(), few(), few(), few()], prop::collection::vec(any::<u8>(), 60));
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..260),
        looks.prop_map(|(head, numbers, rest)| {
            [b"SLWS".as_slice(), &head, &rest[..32], &numbers, &rest[32..]].concat()
        }),
    ]
}

proptest! {
    #[test]
    fn p42_no_bytes_make_reading_a_record_panic_and_what_is_read_is_written_the_same(
        bytes in nearly_headers(),
        rest in prop::collection::vec(any::<u8>(), 128),
        at in 0..RECORD_BYTES,
        value in any::<u8>(),
    ) {
        if let Ok(header) = ShareHeader::parse(&bytes) {
            let mut again = [0; HEADER_BYTES];
            header.write(&mut again);
            prop_assert_eq!(bytes.as_slice(), again.as_slice());
        }
        let mut y = [9; 32];
        // Nobody guesses a signature.
        prop_assert!(check(&bytes, &mut y).is_err() && y == [0; 32]);
        prop_assert!(check(&[bytes, rest].concat(), &mut y).is_err());
        let mut altered = record();
        let unaltered = altered[at] == value;
        altered[at] = value;
        prop_assert_eq!(check(&altered, &mut y).is_ok(), unaltered);
    }
}

// ---------------------------------------------------------------- sets

#[test]
fn p09_card_quorums_outside_1_to_n_to_16_are_refused_and_one_is_none_for_a_backup_key() {
    let mut exist = 0;
    for m in 0..=u8::MAX {
        for n in 0..=u8::MAX {
            let possible = 1 <= m && m <= n && n <= 16;
            assert_eq!(CardQuorum::new(m, n).err(), (!possible).then_some(Refusal::QuorumInvalid), "{m} of {n}");
            assert_eq!(postcard::from_bytes::<CardQuorum>(&[m, n]).is_ok(), possible, "{m} of {n} from a store");
            let Ok(quorum) = CardQuorum::new(m, n) else { continue };
            exist += 1;
            let mut stored = [0; 2];
            assert_eq!(postcard::to_slice(&quorum, &mut stored).map(|bytes| bytes.to_vec()), Ok(vec![m, n]));
            assert_eq!(quorum.one_suffices(), m == 1);
            assert_eq!(quorum.is_for(ShareKind::BackupKey).is_ok(), m >= 2);
            assert!([ShareKind::SlotUser, ShareKind::SoPin].iter().all(|kind| quorum.is_for(*kind).is_ok()));
        }
    }
    assert_eq!(exist, 136);
}

#[test]
fn p09_every_quorum_of_cards_gives_the_secret_and_one_card_less_does_not() {
    let (mut given, mut withheld) = (0u32, 0u32);
    for (m, n) in (1..=16).flat_map(|n| (1..=n).map(move |m| (m, n))) {
        let shares: Vec<[u8; 32]> = (1..=n).map(|x| share(&SEED, quorum(m, n), x)).collect();
        for chosen in 0u32..1 << n {
            let count = u8::try_from(chosen.count_ones()).expect("16 at most");
            if count != m && count + 1 != m {
                continue;
            }
            let chosen: Vec<(u8, &[u8; 32])> =
                (1..=n).zip(&shares).filter(|(x, _)| chosen >> (x - 1) & 1 == 1).collect();
            let mut secret = [9; 32];
            if count == m {
                assert!(combine(m, &chosen, &mut secret) && check_combined(&mut secret, &key_id(&SECRET)));
                assert_eq!(secret, SECRET, "{m} of {n}");
                given += 1;
            } else {
                assert!(!combine(m, &chosen, &mut secret), "{m} of {n}");
                assert_eq!(secret, [0; 32]);
                // Nor as shares of a set that would need fewer.
                assert!(!combine(count, &chosen, &mut secret) || secret != SECRET, "{m} of {n}");
                withheld += 1;
            }
        }
    }
    // Of n there are 2^n subsets: all but the empty one; all but the whole.
    let expected = (1..=16).fold(0, |sum, n| sum + (1 << n) - 1);
    assert_eq!((given, withheld), (expected, expected));
}

#[test]
fn p09_shares_that_are_repeated_outside_the_range_too_few_or_too_many_are_refused() {
    let ys: Vec<[u8; 32]> = (1..=16).map(|x| share(&SEED, quorum(3, 16), x)).collect();
    let refused = |m: u8, xs: &[u8]| {
        let shares: Vec<(u8, &[u8; 32])> =
            xs.iter().map(|x| (*x, &ys[usize::from(x.saturating_sub(1)) % 16])).collect();
        let mut secret = [9; 32];
        let refused = !combine(m, &shares, &mut secret);
        assert!(!refused || secret == [0; 32], "m = {m}, {xs:?} leave something");
        refused
    };
    let all: Vec<u8> = (1..=17).collect();
    for (m, xs) in [
        (0, &[][..]),
        (1, &[]),
        (1, &[0]),
        (1, &[17]),
        (3, &[1, 2]),
        (3, &[1, 2, 3, 4]),
        (3, &[1, 2, 1]),
        (3, &[2, 2, 2]),
        (3, &[0, 1, 2]),
        (3, &[1, 2, 17]),
        (3, &[1, 2, 255]),
        (17, &all),
    ] {
        assert!(refused(m, xs), "m = {m}, {xs:?}");
    }
    assert!(!refused(3, &[16, 1, 9]));
}

#[test]
fn p09_a_share_outside_the_quorum_is_not_made() {
    for x in [0, 4, 17, 255] {
        let mut y = [9; 32];
        assert!(!share_of(&SEED, &SECRET, &[1; 16], quorum(2, 3), x, &mut y));
        assert_eq!(y, [0; 32]);
    }
}

#[test]
fn p10_coefficients_of_card_sets_take_every_value_and_zero_as_often_as_others() {
    let mut seen = [0u32; 256];
    for number in 0..1024u16 {
        let mut seed = SEED;
        seed[..2].copy_from_slice(&number.to_be_bytes());
        let mut y = [0; 32];
        assert!(share_of(&seed, &SECRET, &[1; 16], quorum(2, 2), 1, &mut y));
        // At x = 1 the share is the secret plus the coefficient.
        for (secret, share) in SECRET.iter().zip(y) {
            seen[usize::from(secret ^ share)] += 1;
        }
    }
    // 128 expected; seven standard deviations (11.3 each) do not happen in 256 draws.
    assert!(seen.iter().all(|count| (50..=206).contains(count)), "{seen:?}");
}

#[test]
fn p12_a_wrong_share_is_noticed_by_the_key_id_and_what_it_gave_is_wiped() {
    let is_noticed = |shares: &[(u8, &[u8; 32])]| {
        let mut secret = [9; 32];
        assert!(combine(u8::try_from(shares.len()).expect("16 at most"), shares, &mut secret));
        !check_combined(&mut secret, &key_id(&SECRET)) && secret == [0; 32]
    };
    for (m, n) in [(1, 2), (2, 3), (3, 5), (16, 16)] {
        // The last m: of shares 1, 2 and 3 every weight is 1, so their order would not count.
        let xs = n - m + 1..=n;
        let shares: Vec<[u8; 32]> = xs.clone().map(|x| share(&SEED, quorum(m, n), x)).collect();
        for (wrong, bit) in (0..shares.len()).flat_map(|wrong| (0..256).step_by(7).map(move |bit| (wrong, bit))) {
            let mut altered = shares.clone();
            altered[wrong][bit / 8] ^= 1 << (bit % 8);
            let chosen: Vec<(u8, &[u8; 32])> = xs.clone().zip(&altered).collect();
            assert!(is_noticed(&chosen), "{m} of {n}, share {wrong}, bit {bit}");
        }
        let right: Vec<(u8, &[u8; 32])> = xs.clone().zip(&shares).collect();
        assert!(!is_noticed(&right), "{m} of {n}");
        if m > 1 {
            let foreign = share(&[0x33; 32], quorum(m, n), right[0].0);
            let mut of_two_sets = right.clone();
            of_two_sets[0].1 = &foreign;
            assert!(is_noticed(&of_two_sets), "{m} of {n}, of two sets");
            let mut exchanged = right.clone();
            (exchanged[0].1, exchanged[1].1) = (right[1].1, right[0].1);
            assert!(is_noticed(&exchanged), "{m} of {n}, exchanged");
        }
    }
}

#[test]
fn p12_every_bit_of_a_key_id_counts() {
    for bit in 0..128 {
        let (mut secret, mut id) = (SECRET, key_id(&SECRET));
        id[bit / 8] ^= 1 << (bit % 8);
        assert!(!check_combined(&mut secret, &id), "bit {bit}");
        assert_eq!(secret, [0; 32]);
    }
    let mut secret = SECRET;
    assert!(check_combined(&mut secret, &key_id(&SECRET)));
    assert_eq!(secret, SECRET);
}

#[test]
fn a_re_share_changes_the_set_and_not_the_key_id() {
    let other_seed = [0x33; 32];
    let (one, other) = (public_key(&SEED), public_key(&other_seed));
    assert_ne!(set_id(&one), set_id(&other));
    assert_ne!(share(&SEED, quorum(2, 3), 1), share(&other_seed, quorum(2, 3), 1));
    let shares = [share(&other_seed, quorum(2, 3), 1), share(&other_seed, quorum(2, 3), 3)];
    let mut secret = [0; 32];
    assert!(combine(2, &[(1, &shares[0]), (3, &shares[1])], &mut secret));
    assert!(check_combined(&mut secret, &key_id(&SECRET)));
}

// ---------------------------------------------------------------- what comes from a secret

#[test]
fn p17_each_key_from_a_backup_key_has_one_purpose_and_one_slot() {
    let uid = |flipped: Option<usize>| {
        let mut uid = *b"the uid of slot1";
        if let Some(bit) = flipped {
            uid[bit / 8] ^= 1 << (bit % 8);
        }
        uid
    };
    let mut keys = vec![SECRET];
    for secret in [SECRET, [0x33; 32]] {
        for flipped in (0..128).map(Some).chain([None]) {
            let (mut kek, mut mak) = ([9; 32], [9; 32]);
            backup::kek(&secret, &uid(flipped), &mut kek);
            backup::mak(&secret, &uid(flipped), &mut mak);
            keys.extend([kek, mak, backup::mak_check(&mak)]);
        }
    }
    let made = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!((made, keys.len()), (775, 775), "two purposes or two slots have one key");
}

#[test]
fn p17_the_pins_and_ids_that_come_from_one_secret_tell_nothing_of_each_other() {
    let (uid, set) = ([2; 16], set_id(&public_key(&SEED)));
    let (mut slot, mut so) = ([0; 32], [0; 32]);
    assert_eq!(token_pin(&SECRET, b"", &uid, &set, 32, &mut slot), 32);
    assert_eq!(so_pin(&SECRET, &uid, &set, 32, &mut so), 32);
    let (mut kek, mut mak) = ([0; 32], [0; 32]);
    backup::kek(&SECRET, &uid, &mut kek);
    backup::mak(&SECRET, &uid, &mut mak);
    let all = [slot, so, kek, mak, SECRET];
    for (nth, one) in all.iter().enumerate() {
        assert_ne!(one[..16], key_id(&SECRET));
        assert!(all[nth + 1..].iter().all(|other| one != other && one[..16] != other[..16]));
    }
}
