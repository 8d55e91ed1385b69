//! Shares against others: vectors that a second implementation made, the crate vsss-rs, a
//! plain schoolbook sharing, and valgrind, which counts instructions.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

use rand_core::{TryCryptoRng, TryRng};
use serde_json::Value;
use slotwarden_core::code::token_pin;
use slotwarden_core::fault::Refusal;
use slotwarden_core::share::shamir::{Lanes, Point, combine, evaluate};
use slotwarden_core::share::typed::TEXT_BYTES;
use slotwarden_core::share::{Quorum, Set, TypedShare, secret_of, set_id, share_of};
use slotwarden_tests::excluded;
use slotwarden_tests::stack::{far_down, on_this_stack};
use vsss_rs::Gf256;
use zeroize::Zeroizing;

// ---------------------------------------------------------------- vectors

#[test]
fn texts_that_the_vectors_refuse_are_refused_by_the_same_name() {
    let vectors = vectors();
    let refused = vectors["refused"].as_array().expect("a list");
    assert!(refused.len() >= 20);
    for case in refused {
        let answer = TypedShare::parse(text(&case["text"]).as_bytes()).err().map(Refusal::name);
        assert_eq!(answer, Some(text(&case["refusal"])), "{}", case["why"]);
    }
}

#[test]
fn texts_that_the_vectors_accept_are_accepted() {
    let vectors = vectors();
    let accepted = &vectors["accepted"];
    for case in accepted["texts"].as_array().expect("a list") {
        let share = TypedShare::parse(text(&case["text"]).as_bytes()).expect("an accepted text");
        assert_eq!(payload(&share), bytes(&accepted["payload"]), "{}", case["why"]);
    }
}

#[test]
fn sets_shares_and_token_pins_are_those_of_the_vectors() {
    let vectors = vectors();
    for vector in vectors["sets"].as_array().expect("a list") {
        let key = array(&vector["key"]);
        let quorum = Quorum::new(number(&vector["m"]), number(&vector["n"])).expect("a quorum");
        let generation = vector["generation"].as_u64().expect("a number") as u16;
        let set = Set::new(&key, generation, quorum, 32);
        assert_eq!(set_id(&key).to_vec(), bytes(&vector["set_id"]));
        let mut secret = [0; 16];
        assert!(secret_of(&key, &set.id, quorum, &mut secret));
        assert_eq!(secret.to_vec(), bytes(&vector["secret"]));
        let shares = vector["shares"].as_array().expect("a list");
        assert_eq!(shares.len(), usize::from(quorum.n()));
        for (x, vector) in (1..).zip(shares) {
            let mut y = [0; 16];
            assert!(share_of(&key, &set.id, quorum, x, &mut y));
            assert_eq!((number(&vector["x"]), bytes(&vector["y"])), (x, y.to_vec()));
            let share = set.share(&key, x).expect("a share of the set");
            let mut shown = [0; TEXT_BYTES];
            assert_eq!(share.encode(&mut shown), TEXT_BYTES);
            assert_eq!(shown, text(&vector["text"]).as_bytes());
            assert_eq!(payload(&share), bytes(&vector["payload"]));
            assert_eq!(share.fingerprint().to_vec(), bytes(&vector["fingerprint"]));
            assert_eq!(set.fingerprints[usize::from(x) - 1], share.fingerprint());
        }
        for pin in vector["token_pins"].as_array().expect("a list") {
            let (chars, code) = (usize::from(number(&pin["chars"])), text(&pin["code"]).as_bytes());
            let mut out = [0; 32];
            assert_eq!(token_pin(&secret, code, &array(&vector["slot_uid"]), &set.id, chars, &mut out), chars);
            assert_eq!(&out[..chars], text(&pin["pin"]).as_bytes());
        }
    }
}

fn vectors() -> Value {
    let path = excluded::repository().join("tests/vectors/typed-share.json");
    serde_json::from_str(&fs::read_to_string(&path).expect("the vectors are there")).expect("the vectors are JSON")
}

/// What a share carries, put together by its description.
fn payload(share: &TypedShare) -> Vec<u8> {
    let mut payload = vec![0x12, (share.quorum().m() - 1) << 4 | (share.quorum().n() - 1), share.x()];
    payload.extend(share.generation().to_be_bytes());
    payload.extend(share.set_mark());
    payload.extend(share.y());
    payload
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn number(value: &Value) -> u8 {
    value.as_u64().and_then(|number| u8::try_from(number).ok()).expect("a small number")
}

fn bytes(value: &Value) -> Vec<u8> {
    let digits = text(value);
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal")).collect()
}

fn array<const BYTES: usize>(value: &Value) -> [u8; BYTES] {
    bytes(value).try_into().expect("as many bytes as its place has")
}

// ---------------------------------------------------------------- other implementations

/// Quorums to try with others: the smallest, the usual, the largest.
const QUORUMS: [(u8, u8); 6] = [(2, 2), (2, 3), (3, 5), (5, 8), (2, 16), (16, 16)];

/// A generator with a seed, for vsss-rs. Not fit for secrets.
struct Draw(fastrand::Rng);

impl TryRng for Draw {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(self.0.u32(..))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(self.0.u64(..))
    }

    fn try_fill_bytes(&mut self, place: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill(place);
        Ok(())
    }
}

impl TryCryptoRng for Draw {}

#[test]
fn shares_of_vsss_rs_combine_here_and_ours_combine_there() {
    let mut draw = Draw(fastrand::Rng::with_seed(9));
    for (m, n) in QUORUMS {
        let secret: [u8; 32] = std::array::from_fn(|_| draw.0.u8(..));
        let theirs = Gf256::split_bytes(usize::from(m), usize::from(n), secret, &mut draw).expect("a quorum");
        let ours = split(&secret, m, n, &mut draw.0);
        for _ in 0..20 {
            let chosen = draw.0.choose_multiple(0..usize::from(n), usize::from(m));
            let theirs: Vec<Vec<u8>> = chosen.iter().map(|nth| theirs[*nth].clone()).collect();
            assert_eq!(combined(&theirs), secret, "{m} of {n}: theirs, combined here");
            let ours: Vec<Vec<u8>> = chosen.iter().map(|nth| ours[*nth].clone()).collect();
            assert_eq!(Gf256::combine_bytes(&ours).expect("a quorum"), secret, "{m} of {n}: ours, combined there");
        }
    }
}

#[test]
fn every_product_and_share_is_that_of_schoolbook_arithmetic() {
    // The published example of FIPS 197, section 4.2: {57} • {83} = {c1}.
    assert_eq!(schoolbook_product(0x57, 0x83), 0xC1);
    for x in 1..=u8::MAX {
        for first in 0..=u8::MAX {
            // Of degree 1 without a secret: the share is the product of coefficient and x.
            let polynomial = [[0; 32], [first; 32]].map(|bytes| lanes(&bytes));
            let mut y = Lanes::zero();
            assert!(evaluate(&polynomial, x, &mut y));
            assert_eq!(plain(&y), [schoolbook_product(first, x); 32], "{first:#x} times {x:#x}");
        }
    }
    let mut draw = fastrand::Rng::with_seed(10);
    for (m, _) in QUORUMS {
        let polynomial: Vec<[u8; 32]> = (0..m).map(|_| std::array::from_fn(|_| draw.u8(..))).collect();
        let ours: Vec<Lanes<4>> = polynomial.iter().map(|bytes| lanes(bytes)).collect();
        for x in 0..=u8::MAX {
            let mut y = Lanes::zero();
            assert!(evaluate(&ours, x, &mut y));
            let expected: [u8; 32] = std::array::from_fn(|nth| {
                polynomial.iter().rev().fold(0, |sum, coefficient| schoolbook_product(sum, x) ^ coefficient[nth])
            });
            assert_eq!(plain(&y), expected, "degree {}, x {x}", m - 1);
        }
    }
}

/// Multiplies bit by bit and divides by 0x11B with remainder, as on paper.
fn schoolbook_product(one: u8, other: u8) -> u8 {
    let mut product = (0..8).filter(|bit| other >> bit & 1 == 1).fold(0u16, |sum, bit| sum ^ u16::from(one) << bit);
    for bit in (8..16).rev() {
        if product >> bit & 1 == 1 {
            product ^= 0x11B << (bit - 8);
        }
    }
    product as u8
}

/// Our shares in vsss-rs's form: x, then y.
fn split(secret: &[u8; 32], m: u8, n: u8, draw: &mut fastrand::Rng) -> Vec<Vec<u8>> {
    let mut coefficients = vec![lanes(secret)];
    coefficients.extend((1..m).map(|_| lanes(&std::array::from_fn::<u8, 32, _>(|_| draw.u8(..)))));
    (1..=n)
        .map(|x| {
            let mut y = Lanes::zero();
            assert!(evaluate(&coefficients, x, &mut y));
            [&[x], &plain(&y)[..]].concat()
        })
        .collect()
}

fn combined(shares: &[Vec<u8>]) -> [u8; 32] {
    let points: Vec<Point<4>> = shares.iter().map(|share| Point { x: share[0], y: lanes(&share[1..]) }).collect();
    let mut secret = Lanes::zero();
    assert!(combine(&points, &mut secret));
    plain(&secret)
}

fn lanes(bytes: &[u8]) -> Lanes<4> {
    let mut lanes = Lanes::zero();
    assert!(lanes.read(bytes));
    lanes
}

fn plain(lanes: &Lanes<4>) -> [u8; 32] {
    let mut bytes = [0; 32];
    assert!(lanes.write(&mut bytes));
    bytes
}

// ---------------------------------------------------------------- what stays behind

/// Deals a set, reads its shares back, puts them together and derives a PIN. The key comes
/// inverted, as everything the test keeps, so that the test does not find its own copies.
#[inline(never)]
fn live_with_shares(inverted_key: &[u8; 32]) {
    let quorum = Quorum::new(3, 5).expect("a quorum");
    let mut key = Zeroizing::new([0; 32]);
    key.iter_mut().zip(inverted_key).for_each(|(place, byte)| *place = !byte);
    let set = Set::new(&key, 1, quorum, 32);
    let mut shares = Vec::new();
    for x in [1, 2, 5] {
        let mut shown = Zeroizing::new([0; TEXT_BYTES]);
        let share = set.share(&key, x).expect("a share of the set");
        assert_eq!(share.encode(shown.as_mut_slice()), TEXT_BYTES);
        shares.push(TypedShare::parse(shown.as_slice()).expect("a whole share"));
    }
    let (mut secret, mut pin) = (Zeroizing::new([0; 16]), Zeroizing::new([0; 32]));
    assert_eq!(set.reconstruct(&shares, &mut secret), Ok(()));
    assert_eq!(token_pin(secret.as_slice(), b"", &[1; 16], &set.id, 32, pin.as_mut_slice()), 32);
}

#[test]
fn p16_dealing_typing_and_combining_shares_leave_no_key_secret_or_pin_on_the_stack() {
    let inverted_key: [u8; 32] = std::array::from_fn(|nth| (nth as u8).wrapping_mul(37) ^ 0xA3);
    let secrets = on_another_thread(inverted_key);
    far_down(&mut || live_with_shares(&inverted_key));
    for (what, inverted) in &secrets {
        assert!(!on_this_stack(inverted), "{what} stays behind");
    }
}

/// What must not stay behind, inverted, computed where this thread's stack does not see it.
fn on_another_thread(inverted_key: [u8; 32]) -> Vec<(String, Vec<u8>)> {
    let compute = move || {
        let key = inverted_key.map(|byte| !byte);
        let (id, quorum) = (set_id(&key), Quorum::new(3, 5).expect("a quorum"));
        let (mut secret, mut pin) = ([0; 16], [0; 32]);
        assert!(secret_of(&key, &id, quorum, &mut secret));
        assert_eq!(token_pin(&secret, b"", &[1; 16], &id, 32, &mut pin), 32);
        let mut secrets = vec![
            ("the key".to_owned(), key.to_vec()),
            ("the secret".into(), secret.into()),
            ("the PIN".into(), pin.into()),
        ];
        secrets.iter_mut().for_each(|(_, secret)| secret.iter_mut().for_each(|byte| *byte = !*byte));
        secrets
    };
    std::thread::spawn(compute).join().expect("the arithmetic does not panic")
}

// ---------------------------------------------------------------- instructions

/// Secrets whose bits could hardly differ more; also used as keys.
const SECRETS: [&str; 5] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "8000000000000000000000000000000000000000000000000000000000000001",
    "3b1fa2c95e7760d48813bf02ce69f4a5d7311c0e9a4486fb25d0e87c6392b15a",
    "c6d8041f9e7ba35320fe4c8865b1d297ea0533c7487f1d6ab294e15d0c38a6f0",
];

#[test]
fn a_branch_on_the_secret_is_counted() {
    let counts: Vec<u64> = SECRETS[..2].iter().map(|secret| instructions("counted_by_branches", secret)).collect();
    assert!(counts[0] > 0 && counts[0] < counts[1], "{counts:?}: this way of counting finds nothing");
}

#[test]
fn split_and_combine_take_equally_many_instructions_for_every_secret() {
    for function in ["counted_split", "counted_combine", "counted_share", "counted_card_share", "counted_key_id"] {
        let counts: Vec<u64> = SECRETS.iter().map(|secret| instructions(function, secret)).collect();
        println!("{function}: {} instructions", counts[0]);
        assert!(counts[0] > 100, "{function} was not counted");
        assert!(counts.iter().all(|count| *count == counts[0]), "{function}: {counts:?}");
    }
}

/// What callgrind counts in one function, and in all it calls, of the optimised program.
fn instructions(function: &str, secret: &str) -> u64 {
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg(format!("--toggle-collect=*{function}*"))
        .arg(program())
        .args([secret, secret])
        .output()
        .expect("valgrind is there: install valgrind");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "the program failed ({}):\n{said}", run.status);
    let count = said.lines().find_map(|line| line.split_once("Collected : "));
    count
        .and_then(|(_, count)| count.trim().parse().ok())
        .unwrap_or_else(|| panic!("valgrind counted nothing:\n{said}"))
}

/// `core/examples/count_shares.rs`, built as the product is.
fn program() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--quiet", "--release", "-p", "slotwarden-core", "--example", "count_shares"])
            .current_dir(excluded::repository())
            .env("CARGO_TARGET_DIR", excluded::target_dir())
            .output()
            .expect("cargo built this test, so it can be started");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        excluded::target_dir().join("release/examples/count_shares")
    })
}
