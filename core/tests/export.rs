//! The format of exports: what is written is read, and nothing else is (P21).

// A test that panics has found something; the lints are for the rules.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::arithmetic_side_effects, clippy::std_instead_of_core, clippy::wildcard_enum_match_arm)]

use ed25519_dalek::{Signer as _, SigningKey};
use proptest::prelude::*;
use slotwarden_core::export::{
    Attributes, Class, Entry, FRAME_BYTES_MAX, Header, LeftOut, NO_KEY_TYPE, PIECE_BYTES, Part, Piece, Problem,
    Protection, Reader, Section, SectionWriter, Strategy, Trailer, Why, WriteProblem, begin, push, trailer_message,
    write_trailer,
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

fn node() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn header(sections: u8, sequence: u64) -> Header {
    Header {
        export_id: [1; 16],
        cluster: [2; 16],
        node: node().verifying_key().to_bytes(),
        protection: Protection::Cards { set_id: [3; 16] },
        key_id: [4; 16],
        sequence,
        made_s: Some(1_800_000_000),
        previous: [0; 32],
        sections,
    }
}

fn section(name: &str, uid: u8) -> Section<'_> {
    Section {
        uid: [uid; 16],
        name,
        strategy: Strategy::Kwp,
        token_label: "ca",
        token_serial: "0001",
        manufacturer: "maker",
        model: "model",
        firmware: (2, 6),
    }
}

/// Two attributes, in rising order.
fn attributes(place: &mut [u8; 64]) -> Attributes<'_> {
    let at = push(place, 0, 0x02, &[1]).expect("it fits");
    let at = push(place, at, 0x103, &[0]).expect("it rises");
    Attributes::new(&place[..at]).expect("just written")
}

fn entry<'a>(index: u32, set: Attributes<'a>, wrapped: &'a [u8]) -> Entry<'a> {
    let (class, key_type) = if wrapped.is_empty() { (Class::Certificate, NO_KEY_TYPE) } else { (Class::Private, 0) };
    Entry { index, class, key_type, id: b"\x01", label: b"key", set, recorded: set, wrapped }
}

/// A whole file with so many sections, each with two entries and a key that stayed behind.
fn file(sections: u8, sequence: u64) -> Vec<u8> {
    let mut bytes = Growing::default();
    let hash = begin(&mut bytes, &header(sections, sequence)).expect("a vector grows");
    for number in 0..sections {
        let mut place = [0; 64];
        let set = attributes(&mut place);
        let name = format!("slot-{number}");
        let mut writer = SectionWriter::begin(&mut bytes, hash, &section(&name, number)).expect("a vector grows");
        writer.entry(&entry(0, set, &[number; 40])).expect("the first");
        let left = LeftOut { class: Class::Secret, key_type: 0x1F, id: b"", label: b"stays", why: Why::NotExtractable };
        writer.left_out(&left).expect("a key");
        writer.entry(&entry(1, set, &[])).expect("the second");
        let mac = [number; 32];
        writer.end(mac).expect("a vector grows");
    }
    sign(&mut bytes, &hash);
    bytes.0
}

/// A whole file with one section, whose vendor part has so many bytes.
fn file_of_vendor(length: usize) -> Vec<u8> {
    let mut bytes = Growing::default();
    let hash = begin(&mut bytes, &header(1, 1)).expect("a vector grows");
    let section = Section { strategy: Strategy::Vendor, ..section("slot-0", 0) };
    let mut writer = SectionWriter::begin(&mut bytes, hash, &section).expect("a vector grows");
    let part: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).expect("small")).collect();
    let count = part.chunks(PIECE_BYTES).count();
    for (index, bytes) in (0u32..).zip(part.chunks(PIECE_BYTES)) {
        let last = usize::try_from(index).expect("small") + 1 == count;
        writer.piece(&Piece { index, last, bytes }).expect("the next one");
    }
    writer.end([0; 32]).expect("a vector grows");
    sign(&mut bytes, &hash);
    bytes.0
}

fn sign(bytes: &mut Growing, header: &[u8; 32]) {
    let unsigned = {
        let mut reader = Reader::new(&bytes.0[..]);
        loop {
            if let Some(unsigned) = reader.unsigned() {
                break unsigned;
            }
            reader.next().expect("it is in order so far");
        }
    };
    let signature = node().sign(&trailer_message(header, &unsigned.hash)).to_bytes();
    write_trailer(bytes, &Trailer { signature, ..unsigned }).expect("a vector grows");
}

/// Reads to the end; how many parts there were, or why it is refused.
fn read(bytes: &[u8]) -> Result<usize, Problem> {
    let mut reader = Reader::new(bytes);
    for count in 1.. {
        let ended = matches!(reader.next()?, Part::End { .. });
        if ended {
            return Ok(count);
        }
    }
    panic!("a file of finite length ends")
}

/// Where the frames begin and end: after magic and version.
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
fn what_is_written_is_read_part_by_part() {
    let bytes = file(2, 1);
    assert_eq!(read(&bytes), Ok(12));
    let mut reader = Reader::new(&bytes[..]);
    assert_eq!(reader.next(), Ok(Part::Header(header(2, 1))));
    assert_eq!(reader.next(), Ok(Part::Section(section("slot-0", 0))));
    let mut place = [0; 64];
    let set = attributes(&mut place);
    assert_eq!(reader.next(), Ok(Part::Entry(entry(0, set, &[0; 40]))));
    assert!(matches!(reader.next(), Ok(Part::LeftOut(LeftOut { label: b"stays", .. }))));
    assert_eq!(set.iter().collect::<Vec<_>>(), [(0x02, &[1][..]), (0x103, &[0][..])]);
    // The end is the end, however often it is asked for.
    while !matches!(reader.next().expect("whole"), Part::End { .. }) {}
    assert!(matches!(reader.next(), Ok(Part::End { .. })));
}

#[test]
fn p21_every_bit_flip_and_every_prefix_is_refused() {
    let bytes = file(2, 1);
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
fn p21_every_other_order_of_frames_is_refused() {
    let bytes = file(2, 1);
    let all = frames(&bytes);
    let build = |order: &[usize]| {
        let mut built = bytes[..5].to_vec();
        order.iter().for_each(|number| built.extend_from_slice(&bytes[all[*number].clone()]));
        built
    };
    let right: Vec<usize> = (0..all.len()).collect();
    assert_eq!(read(&build(&right)), Ok(all.len()));
    for one in 0..all.len() {
        // One is missing, or comes twice in a row.
        let without: Vec<usize> = right.iter().copied().filter(|number| *number != one).collect();
        assert!(read(&build(&without)).is_err(), "without {one}");
        let mut twice = right.clone();
        twice.insert(one, one);
        assert!(read(&build(&twice)).is_err(), "{one} twice");
        for other in (one + 1..all.len()).filter(|other| bytes[all[*other].clone()] != bytes[all[one].clone()]) {
            let mut swapped = right.clone();
            swapped.swap(one, other);
            assert!(read(&build(&swapped)).is_err(), "{one} for {other}");
        }
    }
}

#[test]
fn p21_parts_of_two_files_of_one_node_make_no_third() {
    let (first, second) = (file(2, 1), file(2, 2));
    let (of_first, of_second) = (frames(&first), frames(&second));
    assert_eq!(of_first.len(), of_second.len());
    // From any frame on it is the other file's; or only one frame is.
    for at in 1..of_first.len() {
        let spliced = [&first[..of_first[at].start], &second[of_second[at].start..]].concat();
        assert!(read(&spliced).is_err(), "from {at} on");
        let (before, after) = (&first[..of_first[at].start], &first[of_first[at].end..]);
        let one = [before, &second[of_second[at].clone()], after].concat();
        // Sections without a MAC of their own header are equal in both, so only frames that differ count.
        if first[of_first[at].clone()] != second[of_second[at].clone()] {
            assert!(read(&one).is_err(), "{at}");
        }
    }
    let message = |bytes: &[u8]| {
        let mut reader = Reader::new(bytes);
        loop {
            if let Part::SectionEnd { message, .. } = reader.next().expect("whole") {
                return message;
            }
        }
    };
    assert_ne!(message(&first), message(&second), "a MAC ties a section to its header");
}

#[test]
fn p21_each_problem_has_its_name() {
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = file(1, 1);
        change(&mut bytes);
        read(&bytes).expect_err("it was changed")
    };
    assert_eq!(read(b""), Err(Problem::NotOurs));
    assert_eq!(read(&[0; 1 << 20]), Err(Problem::NotOurs));
    assert_eq!(with(&|bytes| bytes[4] = 2), Problem::Newer);
    assert_eq!(with(&|bytes| bytes[5] = 9), Problem::UnknownFrame);
    assert_eq!(with(&|bytes| bytes[5] = 2), Problem::OutOfOrder);
    let too_long = u32::try_from(FRAME_BYTES_MAX + 1).expect("small").to_be_bytes();
    assert_eq!(with(&|bytes| bytes[6..10].copy_from_slice(&too_long)), Problem::TooLong);
    let last = file(1, 1).len() - 1;
    assert_eq!(with(&|bytes| bytes[last] ^= 1), Problem::Signature);
    // A number with zeros before it says the same and is another file.
    let longer = with(&|bytes| {
        let range = frames(bytes)[2].clone();
        let index = range.start + 5;
        assert_eq!(bytes[index], 0, "the index of the first entry");
        bytes.splice(index..=index, [0x80, 0x00]);
        let length = u32::try_from(range.len() - 5 + 1).expect("small").to_be_bytes();
        bytes[range.start + 1..range.start + 5].copy_from_slice(&length);
    });
    assert_eq!(longer, Problem::Malformed);
    let mut names: Vec<&str> = Problem::ALL.iter().map(|problem| problem.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Problem::ALL.len());
}

#[test]
fn the_writer_writes_nothing_that_the_reader_refuses() {
    let mut bytes = Growing::default();
    assert!(matches!(begin(&mut bytes, &header(65, 1)), Err(WriteProblem::Impossible)));
    let hash = begin(&mut bytes, &header(1, 1)).expect("a vector grows");
    let mut place = [0; 64];
    let set = attributes(&mut place);
    let mut writer = SectionWriter::begin(&mut bytes, hash, &section("s", 1)).expect("a vector grows");
    assert!(matches!(writer.entry(&entry(1, set, &[1; 40])), Err(WriteProblem::Impossible)), "the index");
    let long = [1; FRAME_BYTES_MAX];
    assert!(writer.entry(&entry(0, set, &long)).is_err(), "too long for a frame");
    let mixed = Entry { class: Class::Private, key_type: 0, ..entry(0, set, &[]) };
    assert!(matches!(writer.entry(&mixed), Err(WriteProblem::Impossible)), "a private key without a blob");
    writer.entry(&entry(0, set, &[1; 40])).expect("what went wrong before left nothing");
    writer.end([0; 32]).expect("a vector grows");
    sign(&mut bytes, &hash);
    assert_eq!(read(&bytes.0), Ok(5));
}

#[test]
fn a_vendor_part_is_read_as_it_was_written() {
    for (length, pieces) in [(1, 1), (PIECE_BYTES, 1), (PIECE_BYTES + 1, 2), (3 * PIECE_BYTES, 3)] {
        let bytes = file_of_vendor(length);
        let mut reader = Reader::new(&bytes[..]);
        let (mut found, mut count) = (Vec::new(), 0);
        loop {
            match reader.next().expect("whole") {
                Part::Piece(piece) => {
                    assert_eq!((piece.index, piece.last), (count, count + 1 == pieces));
                    found.extend_from_slice(piece.bytes);
                    count += 1;
                }
                Part::End { trailer } => {
                    assert_eq!((trailer.entries, trailer.left_out), (0, 0));
                    break;
                }
                _ => {}
            }
        }
        assert_eq!((found.len(), count), (length, pieces));
        assert!((0..).zip(&found).all(|(at, byte): (usize, _)| usize::from(*byte) == at % 251));
    }
}

#[test]
fn p21_every_bit_flip_and_every_prefix_of_a_vendor_part_is_refused() {
    let bytes = file_of_vendor(40);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(read(&flipped).is_err(), "byte {at}, bit {bit}");
        }
        let problem = read(&bytes[..at]).expect_err("it was cut");
        assert!(matches!(problem, Problem::Truncated | Problem::NotOurs), "{at}: {problem:?}");
    }
}

#[test]
fn p21_a_vendor_part_with_a_piece_too_few_too_many_or_elsewhere_is_refused_where_it_is() {
    let bytes = file_of_vendor(2 * PIECE_BYTES + 5);
    let all = frames(&bytes);
    let build = |order: &[usize]| {
        let mut built = bytes[..5].to_vec();
        order.iter().for_each(|number| built.extend_from_slice(&bytes[all[*number].clone()]));
        read(&built)
    };
    // Header, section, three pieces, section end, trailer.
    assert_eq!(build(&[0, 1, 2, 3, 4, 5, 6]), Ok(7));
    for (order, problem) in [
        (&[0, 1, 3, 4, 5, 6][..], Problem::Index),
        (&[0, 1, 2, 4, 5, 6], Problem::Index),
        (&[0, 1, 2, 3, 5, 6], Problem::Counts),
        (&[0, 1, 2, 2, 3, 4, 5, 6], Problem::Index),
        (&[0, 1, 2, 3, 4, 4, 5, 6], Problem::OutOfOrder),
        (&[0, 1, 3, 2, 4, 5, 6], Problem::Index),
        (&[0, 2, 1, 3, 4, 5, 6], Problem::OutOfOrder),
        (&[0, 1, 2, 3, 4, 5, 2, 6], Problem::OutOfOrder),
        // Without its part the section could be one; the file is another.
        (&[0, 1, 5, 6], Problem::Hash),
    ] {
        assert_eq!(build(order), Err(problem), "{order:?}");
    }
    // In the section of a slot whose keys are wrapped by RFC 5649 there is none.
    let kwp = file(1, 1);
    let of_kwp = frames(&kwp);
    let mixed = [&kwp[..of_kwp[2].start], &bytes[all[2].clone()], &kwp[of_kwp[2].start..]].concat();
    assert_eq!(read(&mixed), Err(Problem::OutOfOrder));
    // Entries are before it.
    let late = [&bytes[..all[5].start], &kwp[of_kwp[2].clone()], &bytes[all[5].start..]].concat();
    assert_eq!(read(&late), Err(Problem::OutOfOrder));
}

#[test]
fn a_writer_of_a_vendor_part_writes_nothing_that_the_reader_refuses() {
    let mut bytes = Growing::default();
    let hash = begin(&mut bytes, &header(1, 1)).expect("a vector grows");
    let whole = [7; PIECE_BYTES];
    let mut other = Growing::default();
    let mut kwp = SectionWriter::begin(&mut other, hash, &section("s", 1)).expect("a vector grows");
    let piece = |index, last, bytes| Piece { index, last, bytes };
    assert!(matches!(kwp.piece(&piece(0, true, &whole)), Err(WriteProblem::Impossible)), "not in such a section");
    let vendor = Section { strategy: Strategy::Vendor, ..section("s", 1) };
    let mut writer = SectionWriter::begin(&mut bytes, hash, &vendor).expect("a vector grows");
    for wrong in [
        piece(1, true, &whole),
        piece(0, false, &whole[1..]),
        piece(0, true, &[]),
        piece(0, true, &[7; PIECE_BYTES + 1]),
    ] {
        assert!(matches!(writer.piece(&wrong), Err(WriteProblem::Impossible)), "{}", wrong.bytes.len());
    }
    writer.piece(&piece(0, false, &whole)).expect("the first");
    let mut place = [0; 64];
    let set = attributes(&mut place);
    assert!(matches!(writer.entry(&entry(0, set, &[1; 40])), Err(WriteProblem::Impossible)), "entries are before it");
    writer.piece(&piece(1, true, &whole)).expect("the last");
    assert!(matches!(writer.piece(&piece(2, true, &whole)), Err(WriteProblem::Impossible)), "behind the last");
    writer.end([0; 32]).expect("a vector grows");
    sign(&mut bytes, &hash);
    assert_eq!(read(&bytes.0), Ok(6));
    let mut writer = SectionWriter::begin(Growing::default(), hash, &vendor).expect("a vector grows");
    writer.piece(&piece(0, false, &whole)).expect("the first");
    assert!(matches!(writer.end([0; 32]), Err(WriteProblem::Impossible)), "more was announced");
}

#[test]
fn attributes_rise_and_are_whole() {
    let mut place = [0; 64];
    let at = push(&mut place, 0, 5, b"abc").expect("it fits");
    assert_eq!(push(&mut place, at, 5, b"x"), None, "the same type");
    assert_eq!(push(&mut place, at, 4, b"x"), None, "a lower one");
    assert_eq!(push(&mut place, at, 6, &[0; 64]), None, "too long for the place");
    for length in 1..at {
        assert!(Attributes::new(&place[..length]).is_err(), "{length}");
    }
    let twice = [&place[..at], &place[..at]].concat();
    assert_eq!(Attributes::new(&twice), Err(Problem::Attributes));
    assert_eq!(Attributes::new(&place[..at]).expect("whole").value(5), Some(&b"abc"[..]));
}

proptest! {
    /// Nothing that anybody writes makes the reader panic or read for ever.
    #[test]
    fn p42_no_bytes_make_the_reader_panic(tail in prop::collection::vec(any::<u8>(), 0..400), keep in 0usize..700) {
        let whole = file(1, 1);
        let bytes = [&whole[..keep.min(whole.len())], &tail[..]].concat();
        if bytes != whole {
            prop_assert!(read(&bytes).is_err());
        }
        let _ = read(&tail);
    }
}
