//! A typed set from its key to a token PIN: dealt, shown, typed back, judged, put together.

use core::hint::black_box;

use slotwarden_core::code::token_pin;
use slotwarden_core::fault::Refusal;
use slotwarden_core::person::PersonId;
use slotwarden_core::share::set::SET_BYTES_MAX;
use slotwarden_core::share::typed::TEXT_BYTES;
use slotwarden_core::share::{Quorum, Set, TypedShare, looks_like_share};

/// Lives the life of a set of 2 of 3.
///
/// # Errors
/// The refusal that came where none was expected, or the other way round.
pub fn life() -> Result<(), Refusal> {
    let key = black_box([0x5A; 32]);
    let mut set = Set::new(&key, 1, Quorum::new(black_box(2), 3)?, 32);
    let mut typed: [Option<TypedShare>; 3] = [None, None, None];
    for place in &mut typed {
        let x = set.next_x().ok_or(Refusal::SharesMissing)?;
        let holder = PersonId(x);
        let share = set.share(&key, x).ok_or(Refusal::SharesMissing)?;
        let mut text = [0; TEXT_BYTES];
        let whole = share.encode(&mut text) == TEXT_BYTES && looks_like_share(&text);
        let share = TypedShare::parse(black_box(&text))?;
        if !whole || !set.hand_out(x, holder) || !set.confirm(x) {
            return Err(Refusal::ShareWrong);
        }
        set.judge(holder, &share)?;
        *place = Some(share);
    }
    let mut record = [0; SET_BYTES_MAX];
    let set = Set::decode(set.encode(&mut record)?)?;
    let [Some(one), Some(two), Some(three)] = typed else { return Err(Refusal::SharesMissing) };
    let (mut secret, mut again) = ([0; 16], [0; 16]);
    if set.reconstruct(core::slice::from_ref(&one), &mut secret) != Err(Refusal::SharesMissing) {
        return Err(Refusal::ShareWrong);
    }
    set.reconstruct(&[one, three], &mut secret)?;
    set.reconstruct(&[two, set.share(&key, 1).ok_or(Refusal::SharesMissing)?], &mut again)?;
    let mut pin = [0; 32];
    let chars = token_pin(&secret, b"", &[1; 16], &set.id, 32, &mut pin);
    if secret == again && chars == 32 && set.all_confirmed() { Ok(()) } else { Err(Refusal::ShareWrong) }
}
