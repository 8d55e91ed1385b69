//! A set on cards from its seed to what comes of its secret: dealt, signed, written, judged,
//! put together.

use core::hint::black_box;

use slotwarden_core::backup;
use slotwarden_core::code::so_pin;
use slotwarden_core::fault::Refusal;
use slotwarden_core::share::card_set::{
    CardQuorum, check_combined, combine, key_id, public_key, set_id, share_of, sign,
};
use slotwarden_core::share::record::{self, RECORD_BYTES, ShareHeader, ShareKind};

/// Lives the life of a set of 2 of 3; a function of its own, so that its stack is its own.
///
/// # Errors
/// The refusal that came where none was expected, or the other way round.
#[inline(never)]
pub fn life() -> Result<(), Refusal> {
    let (seed, secret) = (black_box([0x5A; 32]), black_box([0xC3; 32]));
    let quorum = CardQuorum::new(black_box(2), 3)?;
    quorum.is_for(ShareKind::BackupKey)?;
    let (set_id, key_id) = (set_id(&public_key(&seed)), key_id(&secret));
    let mut cards = [[0; RECORD_BYTES]; 3];
    for (x, card) in (1..=quorum.n()).zip(&mut cards) {
        let mut y = [0; 32];
        let header = ShareHeader {
            kind: ShareKind::BackupKey,
            set_id,
            subject: [7; 16],
            m: quorum.m(),
            n: quorum.n(),
            x,
            generation: 1,
            created_s: 0,
            key_id,
        };
        if !share_of(&seed, &secret, &set_id, quorum, x, &mut y) {
            return Err(Refusal::ShareWrong);
        }
        record::write(&sign(&seed, &header, &y), &y, card);
    }
    let [one, mut altered, three] = black_box(cards);
    altered[80] ^= 1;
    let mut ys = [[0; 32]; 3];
    let [y_one, y_two, y_three] = &mut ys;
    let (Ok(one), Err(_), Ok(three)) =
        (record::check(&one, y_one), record::check(&altered, y_two), record::check(&three, y_three))
    else {
        return Err(Refusal::ShareWrong);
    };
    let mut again = [0; 32];
    let combined = combine(one.header.m, &[(one.header.x, &*y_one), (three.header.x, &*y_three)], &mut again);
    if !combined || !check_combined(&mut again, &key_id) || again != secret {
        return Err(Refusal::ShareWrong);
    }
    let (mut kek, mut mak, mut pin) = ([0; 32], [0; 32], [0; 32]);
    backup::kek(&again, &[1; 16], &mut kek);
    backup::mak(&again, &[1; 16], &mut mak);
    let chars = so_pin(&again, &[1; 16], &set_id, 32, &mut pin);
    if chars == 32 && kek != mak && backup::mak_check(&mak) != mak { Ok(()) } else { Err(Refusal::ShareWrong) }
}
