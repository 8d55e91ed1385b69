//! Sharing of codes: every quorum, every byte, every typing error.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![allow(clippy::std_instead_of_core)]

use bech32::{Bech32m, ByteIterExt as _, Fe32IterExt as _, Hrp};
use proptest::prelude::{Strategy as _, any, prop};
use proptest::{prop_assert, prop_oneof, proptest};
use slotwarden_core::fault::Refusal;
use slotwarden_core::limits::SHARES_MAX;
use slotwarden_core::person::PersonId;
use slotwarden_core::share::set::SET_BYTES_MAX;
use slotwarden_core::share::shamir::{Lanes, Point, combine, evaluate};
use slotwarden_core::share::typed::{PAYLOAD_BYTES, TEXT_BYTES};
use slotwarden_core::share::{Quorum, Set, TypedShare, looks_like_share, secret_of, set_id, share_of};

const KEY: [u8; 32] = *b"one key, from which a set comes.";
const ALICE: PersonId = PersonId(3);
const BOB: PersonId = PersonId(4);

// ---------------------------------------------------------------- quorums

#[test]
fn p09_quorums_outside_2_to_n_to_16_are_refused_and_the_120_others_exist() {
    let mut exist = 0;
    for m in 0..=u8::MAX {
        for n in 0..=u8::MAX {
            let possible = 2 <= m && m <= n && n <= 16;
            assert_eq!(Quorum::new(m, n).err(), (!possible).then_some(Refusal::QuorumInvalid), "{m} of {n}");
            let stored = postcard::from_bytes::<Quorum>(&[m, n]);
            assert_eq!(stored.is_ok(), possible, "{m} of {n} from a store");
            exist += u32::from(possible);
        }
    }
    assert_eq!(exist, 120);
}

#[test]
fn p09_every_quorum_gives_the_secret_and_one_share_less_does_not() {
    let (mut given, mut withheld) = (0u32, 0u32);
    for n in 2..=16 {
        for m in 2..=n {
            let quorum = Quorum::new(m, n).expect("within the bounds");
            let shares = all_shares(quorum);
            let mut secret = [0; 16];
            assert!(secret_of(&KEY, &set_id(&KEY), quorum, &mut secret));
            for chosen in 0u32..1 << n {
                let count = chosen.count_ones();
                if count == u32::from(m) {
                    assert_eq!(combined(&shares, chosen), Some(secret), "{m} of {n}, shares {chosen:b}");
                    given += 1;
                } else if count + 1 == u32::from(m) {
                    assert_ne!(combined(&shares, chosen), Some(secret), "{m} of {n}, shares {chosen:b}");
                    withheld += 1;
                }
            }
        }
    }
    // Of n there are 2^n subsets: all but those of none or one; all but those of none or all.
    let expected = (2..=16).fold((0, 0), |(some, not_all), n| (some + (1 << n) - n - 1, not_all + (1 << n) - 2));
    assert_eq!((given, withheld), expected);
}

#[test]
fn p09_points_at_0_repeated_too_few_or_too_many_are_refused() {
    let points = |xs: &[u8]| -> Vec<Point<2>> { xs.iter().map(|x| Point { x: *x, y: lanes(&[7; 16]) }).collect() };
    for xs in [&[][..], &[1], &[0, 1], &[1, 0], &[5, 5], &[1, 2, 1], &[3; 16], &(1..=17).collect::<Vec<u8>>()] {
        let mut secret = lanes(&[9; 16]);
        assert!(!combine(&points(xs), &mut secret), "{xs:?}");
        assert_eq!(bytes(&secret), [0; 16], "{xs:?} left something");
    }
    let mut secret = lanes(&[9; 16]);
    assert!(combine(&points(&[200, 255]), &mut secret));
}

#[test]
fn p09_a_set_reconstructs_from_m_different_shares_of_its_own_only() {
    let quorum = Quorum::new(3, 5).expect("within the bounds");
    let (set, other) = (held_set(quorum), Set::new(&[1; 32], 1, quorum, 32));
    let share = |x| set.share(&KEY, x).expect("a share of the set");
    let mut secret = [9; 16];
    assert_eq!(set.reconstruct(&[], &mut secret), Err(Refusal::SharesMissing));
    assert_eq!(set.reconstruct(&[share(1), share(4)], &mut secret), Err(Refusal::SharesMissing));
    assert_eq!(set.reconstruct(&[share(1), share(4), share(1)], &mut secret), Err(Refusal::SharesMissing));
    let foreign = other.share(&[1; 32], 2).expect("a share of the other set");
    assert_eq!(set.reconstruct(&[share(1), share(4), foreign], &mut secret), Err(Refusal::ShareForeign));
    assert_eq!(secret, [0; 16]);
    let mut expected = [0; 16];
    assert!(secret_of(&KEY, &set.id, quorum, &mut expected));
    for shares in [vec![share(5), share(1), share(3)], vec![share(2), share(2), share(4), share(3), share(1)]] {
        assert_eq!(set.reconstruct(&shares, &mut secret), Ok(()));
        assert_eq!(secret, expected);
    }
}

#[test]
fn shares_outside_1_to_n_do_not_exist() {
    let quorum = Quorum::new(2, 3).expect("within the bounds");
    for x in (0..=u8::MAX).filter(|x| !(1..=3).contains(x)) {
        let mut y = [9; 16];
        assert!(!share_of(&KEY, &set_id(&KEY), quorum, x, &mut y), "share {x}");
        assert_eq!(y, [0; 16]);
        assert!(held_set(quorum).share(&KEY, x).is_none());
    }
}

/// Share x of the set of `KEY` at x − 1.
fn all_shares(quorum: Quorum) -> Vec<[u8; 16]> {
    let id = set_id(&KEY);
    (1..=quorum.n())
        .map(|x| {
            let mut y = [0; 16];
            assert!(share_of(&KEY, &id, quorum, x, &mut y));
            y
        })
        .collect()
}

/// What the chosen shares (bit x − 1) combine to; `None` when that is refused.
fn combined(shares: &[[u8; 16]], chosen: u32) -> Option<[u8; 16]> {
    let chosen = (1..).zip(shares).filter(|(x, _)| chosen & (1 << (x - 1)) != 0);
    let points: Vec<Point<2>> = chosen.map(|(x, y)| Point { x, y: lanes(y) }).collect();
    let mut secret = Lanes::zero();
    combine(&points, &mut secret).then(|| bytes(&secret))
}

fn lanes<const LANES: usize>(bytes: &[u8]) -> Lanes<LANES> {
    let mut lanes = Lanes::zero();
    assert!(lanes.read(bytes));
    lanes
}

fn bytes(lanes: &Lanes<2>) -> [u8; 16] {
    let mut bytes = [0; 16];
    assert!(lanes.write(&mut bytes));
    bytes
}

/// A set of `KEY` whose share x Alice, Bob and so on hold.
fn held_set(quorum: Quorum) -> Set {
    let mut set = Set::new(&KEY, 7, quorum, 32);
    for x in 1..=quorum.n() {
        assert!(set.hand_out(x, PersonId(ALICE.0 + x - 1)));
    }
    set
}

// ---------------------------------------------------------------- what m − 1 shares say

/// Coefficients as a generator may draw them.
#[derive(Clone, Copy)]
enum Generator {
    /// Any of 256 values, as ours.
    Uniform,
    /// Never zero: "of full degree", a mistake found in the field.
    NeverZero,
}

impl Generator {
    /// Every value it draws, and how many they are; what follows them does not count.
    fn values(self) -> ([u8; 256], usize) {
        let mut values = [0; 256];
        let (drawn, count) = match self {
            Generator::Uniform => (0..=u8::MAX, 256),
            Generator::NeverZero => (1..=u8::MAX, 255),
        };
        values.iter_mut().zip(drawn).for_each(|(place, value)| *place = value);
        (values, count)
    }
}

/// Whether the share at `x` of a secret byte with m = 2 takes every value equally often over
/// all the coefficients that a generator draws: then the share says nothing about the secret.
fn one_of_two_says_nothing(secret: u8, x: u8, generator: Generator) -> bool {
    let mut seen = [0u32; 256];
    let (first, count) = generator.values();
    for y in &values(&[[secret; 256], first], x)[..count] {
        seen[usize::from(*y)] += 1;
    }
    seen.iter().all(|count| *count == seen[0])
}

/// The same for the pair of shares at two x with m = 3: 65,536 pairs of values.
fn two_of_three_say_nothing(secret: u8, xs: [u8; 2], generator: Generator) -> bool {
    let mut seen = vec![0u32; 1 << 16];
    let (first, count) = generator.values();
    for second in &first[..count] {
        let [one, other] = xs.map(|x| values(&[[secret; 256], first, [*second; 256]], x));
        for (one, other) in one.iter().zip(&other).take(count) {
            seen[usize::from(*one) << 8 | usize::from(*other)] += 1;
        }
    }
    seen.iter().all(|count| *count == seen[0])
}

/// The values at `x` of 256 polynomials of bytes beside each other.
fn values(coefficients: &[[u8; 256]], x: u8) -> [u8; 256] {
    let mut y = Lanes::<32>::zero();
    let mut bytes = [0; 256];
    let coefficients: heapless::Vec<Lanes<32>, 3> = coefficients.iter().map(|bytes| lanes(bytes)).collect();
    assert!(evaluate(&coefficients, x, &mut y) && y.write(&mut bytes));
    bytes
}

#[test]
fn p10_a_generator_that_never_draws_zero_fails_the_proof() {
    for secret in 0..=u8::MAX {
        assert!(!one_of_two_says_nothing(secret, 1, Generator::NeverZero));
    }
    assert!(!two_of_three_say_nothing(0x5A, [1, 2], Generator::NeverZero));
}

#[test]
fn p10_one_share_of_two_is_equally_likely_for_every_secret() {
    for secret in 0..=u8::MAX {
        for x in 1..=16 {
            assert!(one_of_two_says_nothing(secret, x, Generator::Uniform), "secret {secret}, share {x}");
        }
    }
}

#[test]
fn p10_two_shares_of_three_are_equally_likely_for_every_secret() {
    for secret in 0..=u8::MAX {
        // Over the secrets every pair of the 120 has its turn, twice.
        let nth = usize::from(secret) % 120;
        let pairs = (1..=16).flat_map(|one| (one + 1..=16).map(move |other| [one, other]));
        let pair = pairs.clone().nth(nth).expect("120 pairs");
        assert!(two_of_three_say_nothing(secret, pair, Generator::Uniform), "secret {secret}, shares {pair:?}");
    }
}

#[test]
fn p10_coefficients_of_real_sets_take_every_value_and_zero_as_often_as_others() {
    const SETS: u16 = 2048;
    let quorum = Quorum::new(2, 2).expect("within the bounds");
    let mut seen = [0u32; 256];
    for number in 0..SETS {
        let mut key = KEY;
        key[..2].copy_from_slice(&number.to_be_bytes());
        let (mut secret, mut share) = ([0; 16], [0; 16]);
        assert!(secret_of(&key, &set_id(&key), quorum, &mut secret));
        assert!(share_of(&key, &set_id(&key), quorum, 1, &mut share));
        // At x = 1 the share is the secret plus the coefficient.
        for (secret, share) in secret.iter().zip(share) {
            seen[usize::from(secret ^ share)] += 1;
        }
    }
    // 128 expected; seven standard deviations (11.3 each) do not happen in 256 draws.
    assert!(seen.iter().all(|count| (50..=206).contains(count)), "{seen:?}");
}

// ---------------------------------------------------------------- what people type

/// The set of the tests below, its first share as text, and that share's payload.
fn alices() -> (Set, String, [u8; PAYLOAD_BYTES]) {
    let set = held_set(Quorum::new(3, 5).expect("within the bounds"));
    let share = set.share(&KEY, 1).expect("a share of the set");
    let mut text = [0; TEXT_BYTES];
    assert_eq!(share.encode(&mut text), TEXT_BYTES);
    let mut payload = [0x12, 0x24, 1, 0, 7].to_vec();
    payload.extend_from_slice(&set.id[..6]);
    payload.extend_from_slice(share.y());
    (set, String::from_utf8(text.to_vec()).expect("ASCII"), payload.try_into().expect("27 bytes"))
}

fn text_of(payload: &[u8]) -> String {
    let prefix = Hrp::parse("slws").expect("a prefix");
    payload.iter().copied().bytes_to_fes().with_checksum::<Bech32m>(&prefix).chars().collect()
}

/// How a text typed by Alice is answered.
fn judged(set: &Set, text: &str) -> Result<(), Refusal> {
    set.judge(ALICE, &TypedShare::parse(text.as_bytes())?)
}

#[test]
fn p11_every_single_bit_flip_behind_a_right_checksum_is_refused_by_name() {
    let (set, _, payload) = alices();
    for bit in 0..PAYLOAD_BYTES * 8 {
        let mut altered = payload;
        altered[bit / 8] ^= 0x80 >> (bit % 8);
        let expected = match bit / 8 {
            0 | 5..=10 => Refusal::ShareForeign, // version, kind; set mark
            _ => Refusal::ShareWrong,            // m, n, x, generation, y
        };
        assert_eq!(judged(&set, &text_of(&altered)), Err(expected), "bit {bit}");
    }
    assert_eq!(judged(&set, &text_of(&payload)), Ok(()));
}

#[test]
fn p11_every_typing_error_of_one_character_is_refused_as_one() {
    let (set, text, _) = alices();
    let whole = without_separators(&text);
    let mut errors = 0u32;
    let mut check = |typed: String| {
        let expected = if without_separators(&typed) == whole { Ok(()) } else { Err(Refusal::ShareMistyped) };
        errors += u32::from(expected.is_err());
        assert_eq!(judged(&set, &typed), expected, "{typed:?}");
    };
    for at in 0..=text.len() {
        for character in (0u8..0x80).map(char::from).chain(['é', '’', '–']) {
            check(format!("{}{character}{}", &text[..at], &text[at..])); // one more
            if at < text.len() {
                check(format!("{}{character}{}", &text[..at], &text[at + 1..])); // another
            }
        }
        if at < text.len() {
            check(format!("{}{}", &text[..at], &text[at + 1..])); // one less
        }
    }
    for one in 0..text.len() {
        for other in one + 1..text.len() {
            let mut swapped = text.clone().into_bytes();
            swapped.swap(one, other); // two exchanged, neighbours among them
            check(String::from_utf8(swapped).expect("ASCII"));
        }
    }
    assert!(errors > 15_000, "only {errors}");
}

#[test]
fn p11_groups_that_are_missing_repeated_or_exchanged_are_typing_errors() {
    let (set, text, _) = alices();
    let groups: Vec<&str> = text.split('-').collect();
    assert_eq!(groups.len(), 11);
    for at in 0..groups.len() {
        let mut less = groups.clone();
        less.remove(at);
        assert_eq!(judged(&set, &less.join("-")), Err(Refusal::ShareMistyped), "without group {at}");
        for to in 0..groups.len() {
            let mut more = groups.clone();
            more.insert(to, groups[at]);
            assert_eq!(judged(&set, &more.join("-")), Err(Refusal::ShareMistyped), "group {at} again at {to}");
            if to != at {
                let mut exchanged = groups.clone();
                exchanged.swap(at, to);
                assert_eq!(judged(&set, &exchanged.join("-")), Err(Refusal::ShareMistyped), "groups {at} and {to}");
            }
        }
    }
    assert_eq!(judged(&set, ""), Err(Refusal::ShareMistyped));
    assert_eq!(judged(&set, &text.repeat(3)), Err(Refusal::ShareMistyped));
    assert_eq!(TypedShare::parse(&[0xFF; 65]).err(), Some(Refusal::ShareMistyped));
}

proptest! {
    #[test]
    fn p42_no_text_makes_reading_a_share_panic(
        text in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..120),
            "[sS][lL][wW][sS]1[ -]?[qpzry9x8gf2tvdw0s3jn54khce6mua7lQ1bio -]{0,100}".prop_map(String::into_bytes),
        ],
        payload in prop::collection::vec(any::<u8>(), 0..48),
        head in any::<bool>(),
    ) {
        let _ = looks_like_share(&text);
        // Nobody guesses a checksum: whatever is a share here was made from its payload.
        prop_assert!(TypedShare::parse(&text).is_err());
        let mut payload = payload;
        if let (true, Some(first)) = (head, payload.first_mut()) {
            *first = 0x12;
        }
        if let Ok(share) = TypedShare::parse(text_of(&payload).as_bytes()) {
            prop_assert!(payload.len() == PAYLOAD_BYTES && share.quorum().has(share.x()));
            let mut again = [0; TEXT_BYTES];
            prop_assert!(share.encode(&mut again) == TEXT_BYTES);
            let again = core::str::from_utf8(&again).expect("ASCII");
            prop_assert!(without_separators(again) == text_of(&payload));
        }
    }
}

#[test]
fn case_and_separators_do_not_matter_unless_case_is_mixed() {
    let (set, text, _) = alices();
    let mut mixed = text.clone();
    mixed.replace_range(0..1, "S");
    assert_eq!(judged(&set, &mixed), Err(Refusal::ShareMistyped));
    for typed in [
        text.to_uppercase(),
        text.replace('-', " "),
        without_separators(&text),
        format!("  {} -", text.replace('-', " - ")),
    ] {
        assert_eq!(judged(&set, &typed), Ok(()), "{typed:?}");
    }
}

#[test]
fn a_share_is_told_from_a_code_by_its_beginning() {
    let (_, text, _) = alices();
    for code in ["", "slws", "slwt1", "Slws1abc", "correct horse battery staple", "1slws1"] {
        assert!(!looks_like_share(code.as_bytes()), "{code:?}");
    }
    for share in [text.as_str(), "slws1", "SLWS1", " s-lws 1", "slws1 but mistyped"] {
        assert!(looks_like_share(share.as_bytes()), "{share:?}");
    }
}

#[test]
fn a_share_does_not_fit_into_less_than_its_65_characters() {
    let (set, text, _) = alices();
    let share = set.share(&KEY, 1).expect("a share of the set");
    let mut small = [0; TEXT_BYTES - 1];
    assert_eq!(share.encode(&mut small), 0);
    assert_eq!(small, [0; TEXT_BYTES - 1]);
    let mut place = [0; 80];
    assert_eq!(share.encode(&mut place), TEXT_BYTES);
    assert_eq!(&place[..TEXT_BYTES], text.as_bytes());
}

fn without_separators(text: &str) -> String {
    text.replace([' ', '-'], "")
}

// ---------------------------------------------------------------- sets

#[test]
fn p11_shares_of_another_set_generation_quorum_or_person_are_refused_by_name() {
    let quorum = Quorum::new(3, 5).expect("within the bounds");
    let set = held_set(quorum);
    let share = |of: &Set, key: &[u8; 32]| of.share(key, 1).expect("a share");
    assert_eq!(set.judge(ALICE, &share(&Set::new(&[1; 32], 7, quorum, 32), &[1; 32])), Err(Refusal::ShareForeign));
    assert_eq!(set.judge(ALICE, &share(&Set::new(&KEY, 8, quorum, 32), &KEY)), Err(Refusal::ShareWrong));
    for (m, n) in [(2, 5), (3, 4)] {
        let other = Set::new(&KEY, 7, Quorum::new(m, n).expect("within the bounds"), 32);
        assert_eq!(set.judge(ALICE, &share(&other, &KEY)), Err(Refusal::ShareWrong), "{m} of {n}");
    }
    assert_eq!(set.judge(BOB, &share(&set, &KEY)), Err(Refusal::ShareOfAnother));
    let unshown = Set::new(&KEY, 7, quorum, 32);
    assert_eq!(unshown.judge(ALICE, &share(&set, &KEY)), Err(Refusal::ShareWrong));
    assert_eq!(set.judge(ALICE, &share(&set, &KEY)), Ok(()));
    assert!(unshown.is_of_set(&share(&set, &KEY)));
    assert_eq!(set.set_mark(), share(&set, &KEY).set_mark());
}

#[test]
fn p12_a_wrong_share_is_refused_before_anything_is_reconstructed() {
    let (set, _, payload) = alices();
    let share = |x| set.share(&KEY, x).expect("a share of the set");
    for bit in 11 * 8..PAYLOAD_BYTES * 8 {
        let mut altered = payload;
        altered[bit / 8] ^= 0x80 >> (bit % 8);
        let forged = TypedShare::parse(text_of(&altered).as_bytes()).expect("the checksum is right");
        let mut secret = [9; 16];
        assert_eq!(set.reconstruct(&[share(3), forged, share(2)], &mut secret), Err(Refusal::ShareWrong), "bit {bit}");
        assert_eq!(secret, [0; 16], "bit {bit}");
    }
}

#[test]
fn p12_a_reconstruction_that_does_not_give_the_other_shares_is_refused_and_wiped() {
    let mut set = held_set(Quorum::new(3, 5).expect("within the bounds"));
    set.fingerprints[3][15] ^= 1;
    let share = |x| set.share(&KEY, x).expect("a share of the set");
    let mut secret = [9; 16];
    assert_eq!(set.reconstruct(&[share(1), share(2), share(3)], &mut secret), Err(Refusal::ShareWrong));
    assert_eq!(secret, [0; 16]);
}

#[test]
fn each_share_is_handed_to_one_person_and_each_person_holds_one() {
    let mut set = Set::new(&KEY, 1, Quorum::new(2, 2).expect("within the bounds"), 32);
    assert_eq!((set.next_x(), set.x_of(ALICE), set.all_confirmed()), (Some(1), None, false));
    assert!(!set.hand_out(0, ALICE) && !set.hand_out(3, ALICE) && !set.confirm(1));
    assert!(set.hand_out(1, ALICE));
    assert!(!set.hand_out(1, BOB) && !set.hand_out(2, ALICE));
    assert_eq!((set.next_x(), set.x_of(ALICE)), (Some(2), Some(1)));
    assert!(set.hand_out(2, BOB));
    assert_eq!((set.next_x(), set.x_of(BOB)), (None, Some(2)));
    assert!(set.confirm(2) && !set.all_confirmed());
    assert!(set.confirm(1) && set.all_confirmed());
}

#[test]
fn the_largest_set_fits_and_comes_back_and_damaged_ones_are_refused() {
    let mut set = Set::new(&KEY, u16::MAX, Quorum::new(16, 16).expect("within the bounds"), u8::MAX);
    set.holders = [Some(PersonId(u8::MAX)); SHARES_MAX];
    set.confirmed = [true; SHARES_MAX];
    let mut place = [0; SET_BYTES_MAX];
    let mut encoded = set.encode(&mut place).expect("the bound holds").to_vec();
    assert_eq!(encoded.len(), 327, "the documented size of the largest set");
    for len in 0..encoded.len() {
        assert_eq!(Set::decode(&encoded[..len]), Err(Refusal::StoreUnreadable));
    }
    // Version, id, generation in three bytes: then m.
    let mut impossible = encoded.clone();
    impossible[20] = 1;
    assert_eq!(Set::decode(&impossible), Err(Refusal::StoreUnreadable));
    assert_eq!(Set::decode(&encoded), Ok(set));
    encoded.push(0);
    assert_eq!(Set::decode(&encoded), Err(Refusal::StoreUnreadable));
    encoded[0] += 1;
    assert_eq!(Set::decode(&encoded), Err(Refusal::StoreNewer));
}
