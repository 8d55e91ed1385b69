//! What a cluster exchanges: a package, facts, a roster, a request to join and an export, from their
//! writers to their readers. Nothing here signs, so that each is refused for its signature, and for that alone.

use core::hint::black_box;

use slotwarden_core::export;
use slotwarden_core::join::{self, Request};
use slotwarden_core::ledger::{Comparison, Fact, KeyName, Known, Standing};
use slotwarden_core::package::{
    Chunk, Commitment, FRAME_BYTES_MAX, Header, Mark, Marks, Part, Problem, Reader, Sealed, Suite, Writer, admit, facts,
};
use slotwarden_core::roster::{self, Member, P256_BYTES, Roster, SignedRoster, X_WING_BYTES, file, seal};

/// Something went otherwise.
pub struct Otherwise;

/// Lives the life of each format.
///
/// # Errors
/// Where a problem came that was not expected, or none where one was.
pub fn life() -> Result<(), Otherwise> {
    let seal = seal(&black_box([1; X_WING_BYTES]), &[2; P256_BYTES]);
    let members = [Member { node: [3; 32], seal }, Member { node: [4; 32], seal }];
    let roster = Roster {
        epoch: black_box(2),
        previous: [1; 32],
        cluster: [2; 16],
        key_id: [4; 16],
        annex: [6; 32],
        members: members.into_iter().collect(),
    };
    rosters(&roster)?;
    requests()?;
    packages(&roster)?;
    inside()?;
    exports()
}

fn rosters(roster: &Roster) -> Result<(), Otherwise> {
    let signed = SignedRoster { roster: roster.clone(), signer: [3; 32], signature: [0; 64] };
    let mut bytes = signed.encode();
    let judged = SignedRoster::decode(black_box(&bytes));
    let accepted = Roster::accepts(black_box(Some(roster)), &signed, &[3; 32]);
    let founded = Roster::accepts(None, &signed, &[3; 32]);
    bytes.truncate(40);
    let cut = SignedRoster::decode(&bytes);
    let mut annex = [0; file::ANNEX_BYTES_MAX];
    let mut reader =
        file::Reader::new(black_box(&b"SLWR\x01\x01\0\0\0\x01\x01\x02\0\0\0\x03\x01\x02\x03"[..]), &mut annex);
    let read = reader.next().err();
    let mut written = [0; 64];
    let mut writer = file::Writer::begin(&mut written[..], file::Begin { rosters: 1 }).map_err(|_| Otherwise)?;
    let pushed = writer.push(&signed, b"").is_err() && writer.end().is_err();
    let fingerprint = roster.members.first().map(Member::fingerprint).ok_or(Otherwise)?;
    let refused = [judged.err(), accepted.err(), founded.err()]
        .into_iter()
        .all(|problem| problem == Some(roster::Problem::Signature));
    let malformed = [cut.err(), read].into_iter().all(|problem| problem == Some(roster::Problem::Malformed));
    let typed = fingerprint.is(black_box(fingerprint.as_str()));
    if refused && malformed && pushed && typed { Ok(()) } else { Err(Otherwise) }
}

fn requests() -> Result<(), Otherwise> {
    let request = Request {
        node: [3; 32],
        x_wing: &[1; X_WING_BYTES],
        p256: &[2; P256_BYTES],
        name: black_box("n"),
        made_s: None,
    };
    let mut bytes = [0; join::FILE_BYTES_MAX];
    let length = {
        let mut place = &mut bytes[..];
        request.write(&mut place, &[0; 64]).map_err(|_| Otherwise)?;
        place.len()
    };
    let file = bytes.len().checked_sub(length).and_then(|length| bytes.get(..length)).ok_or(Otherwise)?;
    let problem = Request::read(black_box(file)).err();
    if problem == Some(join::Problem::Signature) && request.message().is_some() { Ok(()) } else { Err(Otherwise) }
}

fn packages(roster: &Roster) -> Result<(), Otherwise> {
    let header = Header {
        package_id: [1; 16],
        cluster: roster.cluster,
        source: [3; 32],
        roster_epoch: roster.epoch,
        roster_hash: roster.hash(),
        sequence: black_box(1),
        key_id: roster.key_id,
        made_s: Some(1),
        targets: [[4; 32]].into_iter().collect(),
        suite: Suite::P256,
    };
    let mut marks = Marks::new();
    let taken = admit(&header, &[0; 32], roster, &[4; 32], &marks).is_ok();
    let noted = marks.note(Mark { node: [3; 32], sequence: 2, hash: [0; 32] });
    let old = admit(&header, &[0; 32], roster, &[4; 32], &marks).is_err();
    marks.keep(roster);
    let mut bytes = [0; 1024];
    let left = {
        let mut writer = Writer::begin(&mut bytes[..], header).map_err(|_| Otherwise)?;
        writer.seal(&Sealed { target: [4; 32], enc: &[1; 65], key: &[2; 48] }).map_err(|_| Otherwise)?;
        writer.commit(&Commitment { commitment: [3; 32] }).map_err(|_| Otherwise)?;
        writer.chunk(&Chunk { is_last: true, sealed: &[4; 40] }).map_err(|_| Otherwise)?;
        writer.end([0; 64]).map_err(|_| Otherwise)?.1.len()
    };
    let file = bytes.len().checked_sub(left).and_then(|length| bytes.get(..length)).ok_or(Otherwise)?;
    let mut body = [0; FRAME_BYTES_MAX];
    let mut reader = Reader::new(black_box(file), &mut body);
    let problem = loop {
        match reader.next() {
            Ok(Part::End { .. }) => return Err(Otherwise),
            Ok(Part::Header | Part::Sealed(_) | Part::Commitment(_) | Part::Chunk { .. }) => {}
            Err(problem) => break problem,
        }
    };
    if taken && noted && old && problem == Problem::Signature { Ok(()) } else { Err(Otherwise) }
}

fn inside() -> Result<(), Otherwise> {
    let mut known = Known::NEVER;
    known.observe(black_box(true));
    known.merge(black_box(1));
    let mut bytes = [0; 256];
    {
        let mut writer = facts::Writer::new(&mut bytes[..]);
        writer.begin(facts::Begin { uid: [1; 16], count: 1 }).map_err(|_| Otherwise)?;
        writer.fact(Fact { name: KeyName([2; 16]), known }).map_err(|_| Otherwise)?;
        writer.end(true).map_err(|_| Otherwise)?;
    }
    let mut comparison = Comparison::default();
    let mut reader = facts::Reader::new(black_box(&bytes[..]));
    loop {
        match reader.next().map_err(|_| Otherwise)? {
            facts::Part::Begin(_) => {}
            facts::Part::Rows(rows) => rows.iter().for_each(|fact| comparison.see(Known::NEVER, fact.known)),
            facts::Part::End(_) => break,
        }
    }
    let stands = comparison.standing() == Standing::Ahead && Known::NEVER.is_wanted(known);
    if stands && reader.into_rest().is_some() { Ok(()) } else { Err(Otherwise) }
}

fn exports() -> Result<(), Otherwise> {
    let header = export::Header {
        export_id: [1; 16],
        cluster: [2; 16],
        node: [3; 32],
        protection: export::Protection::Cards { set_id: [3; 16] },
        key_id: [4; 16],
        sequence: black_box(1),
        made_s: None,
        previous: [0; 32],
        sections: 0,
    };
    let mut bytes = [0; 256];
    export::begin(&mut bytes[..], &header).map_err(|_| Otherwise)?;
    let mut reader = export::Reader::new(black_box(&bytes[..]));
    let begun = matches!(reader.next(), Ok(export::Part::Header(_)));
    // Behind the header there are zeros, which no frame begins with.
    let ended = reader.next() == Err(export::Problem::UnknownFrame);
    if begun && ended { Ok(()) } else { Err(Otherwise) }
}
