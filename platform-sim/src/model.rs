//! The reference model, so plain that it is obviously right.
//!
//! A token can be opened by one PIN now, and after a power cut by that one or by the one
//! that was settled last. Somebody has to have each of them: the store, sealed; a person, in
//! the head; several persons, who have all parts of it, or m shares of a set that the store
//! still knows. That is all of "lose no code" (P35), and it is asked after every change
//! of a token, of the store and of what people remember, so that it covers the power cut
//! at each of these moments too.

use slotwarden_core::record::{Mode, Owner, SecretKey, SecretKind, SlotRecord};

use crate::code::Code;
use crate::hsm::Token;
use crate::people::Knowledge;
use crate::store::Disk;

/// The codes that could open a token: now, or after a power cut.
#[must_use]
pub fn could_open(token: &Token) -> [Code; 2] {
    [token.live.user_pin, token.settled.user_pin]
}

/// Whether the store or people have this code.
#[must_use]
pub fn somebody_has(pin: &Code, disk: &Disk, owner: Owner, people: &Knowledge) -> bool {
    pin.is_none() || people_have(pin, disk, owner, people) || disk.codes(owner).any(|code| code == pin)
}

/// Whether people have this code, one of them or several together.
#[must_use]
pub fn people_have(pin: &Code, disk: &Disk, owner: Owner, people: &Knowledge) -> bool {
    let sets = disk.durable.sets.get(usize::from(owner.0)).and_then(Option::as_deref);
    people.knows(pin) || people.together.can_open(pin, sets)
}

/// Whether some power cut now would leave a token with a code that nobody has.
#[must_use]
pub fn nobody_has(token: &Token, disk: &Disk, owner: Owner, people: &Knowledge) -> bool {
    token.readable && could_open(token).iter().any(|pin| !somebody_has(pin, disk, owner, people))
}

/// Whether a change that was answered *done* is what token, store and people agree on. A
/// sealed code that no record names any more may lie in the store: of a token that only its
/// flags spoke for, and that may come back.
#[must_use]
pub fn change_is_done(token: &Token, disk: &Disk, owner: Owner, record: &SlotRecord, new: &Code) -> bool {
    let sealed = record
        .accepted
        .and_then(|generation| disk.unseal(SecretKey { kind: SecretKind::GeneratedCode, owner, generation }).copied());
    let in_force = match record.mode {
        Mode::Manual => sealed.is_none().then_some(*new),
        Mode::Generated => sealed.filter(|_| new.is_none()),
    };
    let kept = record.pending.is_some() || record.unblocking.is_some();
    let undecided = record.change.is_some() || record.by_so.is_some() || record.doubt.is_some() || kept;
    !undecided && could_open(token).iter().all(|pin| Some(*pin) == in_force)
}

/// Whether a decommission that was answered *done* left nothing behind: no user PIN, not even
/// after a power cut, and no sealed code that the record names.
#[must_use]
pub fn decommission_is_done(token: &Token, record: &SlotRecord) -> bool {
    could_open(token).iter().all(Code::is_none)
        && record.serial.is_none()
        && record.by_so.is_none()
        && record.sealed().iter().all(Option::is_none)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::Character;

    const OWNER: Owner = Owner(0);

    fn key(generation: u32) -> SecretKey {
        SecretKey { kind: SecretKind::GeneratedCode, owner: OWNER, generation }
    }

    fn sealed(disk: &mut Disk, generation: u32, code: &[u8]) {
        disk.seal(key(generation), Code::new(code));
        disk.commit();
        let _durable = disk.finish();
    }

    fn token(pin: &[u8]) -> Token {
        Token::initialised(1, Character::SOFT, 0, Code::new(pin), Code::new(b"S-so"))
    }

    #[test]
    fn a_code_erased_before_the_new_one_is_settled_is_a_code_that_nobody_has() {
        let mut disk = Disk::default();
        let people = crate::people::People::default().slots[0].clone();
        let mut token = token(b"old");
        assert!(nobody_has(&token, &disk, OWNER, &people));
        sealed(&mut disk, 1, b"old");
        assert!(!nobody_has(&token, &disk, OWNER, &people));
        sealed(&mut disk, 2, b"new");
        assert!(token.login(&Code::new(b"old")).is_ok());
        assert!(token.set_pin(&Code::new(b"old"), &Code::new(b"new!")).is_ok());
        assert!(nobody_has(&token, &disk, OWNER, &people), "the token has a code that was never sealed");
        sealed(&mut disk, 2, b"new!");
        assert!(!nobody_has(&token, &disk, OWNER, &people));
        disk.erase(key(1));
        disk.commit();
        let _durable = disk.finish();
        assert!(nobody_has(&token, &disk, OWNER, &people), "a power cut would bring the erased code back");
        token.settle();
        assert!(!nobody_has(&token, &disk, OWNER, &people));
    }

    #[test]
    fn done_is_not_done_while_a_code_is_unsettled_or_an_old_one_kept() {
        let mut disk = Disk::default();
        let mut record = SlotRecord::new([0; 16]);
        record.mode = Mode::Generated;
        record.accepted = Some(1);
        let mut token = token(b"old");
        sealed(&mut disk, 1, b"new!");
        assert!(token.login(&Code::new(b"old")).is_ok());
        assert!(token.set_pin(&Code::new(b"old"), &Code::new(b"new!")).is_ok());
        assert!(!change_is_done(&token, &disk, OWNER, &record, &Code::NONE));
        token.settle();
        assert!(change_is_done(&token, &disk, OWNER, &record, &Code::NONE));
        record.pending = Some(2);
        assert!(!change_is_done(&token, &disk, OWNER, &record, &Code::NONE));
        record.pending = None;
        record.mode = Mode::Manual;
        assert!(!change_is_done(&token, &disk, OWNER, &record, &Code::new(b"new!")));
        record.accepted = None;
        assert!(change_is_done(&token, &disk, OWNER, &record, &Code::new(b"new!")));
    }
}
