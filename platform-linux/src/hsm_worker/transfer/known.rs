//! W, MAK and the mechanism, as they were found last in this process.
//!
//! A search has SoftHSM look at every object of the token, which at a thousand keys costs as much
//! as a tenth of their export; over a network each attribute that is asked for by itself costs a
//! round trip. So handles are kept, and believed only for what they are when they are used: one call reads
//! every attribute that such a key has to have. A handle that does not lead to it any more (the
//! key was destroyed, the user logged out, a module gave its number to something else) is forgotten,
//! and the key is searched. The mechanism is what the module in this process did in this slot.

use cryptoki::object::Attribute;
use cryptoki::session::Session;
use cryptoki::slot::Slot;
use cryptoki_sys::{CK_OBJECT_HANDLE, CKA_CLASS, CKA_ID, CKA_TRUSTED, CKA_VALUE, CKO_SECRET_KEY};
use slotwarden_core::fault::{HsmFailure, Refusal};

use super::super::backup_keys::{Objects, Purpose, attributes};
use super::super::module::Module;
use super::calls::{Calls, Place, Said, raw};
use super::mechanism::KeyWrap;

/// Longer than any of their attributes by an odd number of bytes (see [`Said::Nothing`]).
const MORE_BYTES: usize = 9;
const ROOM_OF_A_FLAG: usize = 3;

/// What is kept of one token.
#[derive(Default)]
pub(in super::super) struct Known {
    keys: Option<Keys>,
    wrap: Option<(Slot, KeyWrap)>,
}

struct Keys {
    place: Slot,
    id: Vec<u8>,
    w: CK_OBJECT_HANDLE,
    mak: CK_OBJECT_HANDLE,
}

impl Known {
    /// Keeps where W and MAK of this id are.
    pub(in super::super) fn learn(&mut self, place: Slot, id: &[u8], (w, mak): (CK_OBJECT_HANDLE, CK_OBJECT_HANDLE)) {
        self.keys = Some(Keys { place, id: id.to_vec(), w, mak });
    }

    /// W and MAK of this id, each with every attribute as it has to be.
    pub(super) fn keys(
        &mut self,
        module: &Module,
        open: &Session,
        place: Slot,
        id: &[u8],
    ) -> Result<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE), HsmFailure> {
        let calls = Calls::new(module, open)?;
        let is = |object, purpose| is_surely(&calls, object, purpose, id);
        if let Some(keys) = self.keys.take_if(|keys| keys.place == place && keys.id == id)
            && is(keys.w, Purpose::Wrap)
            && is(keys.mak, Purpose::Authenticate)
        {
            let found = (keys.w, keys.mak);
            self.keys = Some(keys);
            return Ok(found);
        }
        let named = calls.find(&[(CKA_CLASS, &CKO_SECRET_KEY.to_ne_bytes()), (CKA_ID, id)])?;
        let find = |purpose| match named.iter().find(|object| is(**object, purpose)) {
            Some(object) => Ok(*object),
            // Asked attribute by attribute a module may answer what it does not answer together.
            None => {
                let found = Objects { module, open }.right(purpose, id)?;
                found.map(|key| key.handle()).ok_or(HsmFailure::Refused(Refusal::NoBackupKey))
            }
        };
        let found = (find(Purpose::Wrap)?, find(Purpose::Authenticate)?);
        self.learn(place, id, found);
        Ok(found)
    }

    /// The mechanism that wraps by RFC 5649.
    pub(super) fn wrap(&mut self, module: &Module, open: &Session, place: Slot) -> Result<KeyWrap, HsmFailure> {
        if let Some((at, wrap)) = self.wrap
            && at == place
        {
            return Ok(wrap);
        }
        let wrap = KeyWrap::find(module, open, &Calls::new(module, open)?)?;
        self.wrap = Some((place, wrap));
        Ok(wrap)
    }
}

/// Whether the token says by one call that this is the key: with all its attributes, not trusted, its value inside.
fn is_surely(calls: &Calls<'_>, object: CK_OBJECT_HANDLE, purpose: Purpose, id: &[u8]) -> bool {
    let wanted = attributes(purpose, id);
    let wanted: Vec<_> = wanted.iter().map(|attribute: &Attribute| raw(attribute)).collect();
    let mut rooms: Vec<Vec<u8>> = wanted.iter().map(|(_, value)| vec![0; value.len() + MORE_BYTES]).collect();
    let mut trusted = [0; ROOM_OF_A_FLAG];
    let mut places: Vec<Place<'_>> =
        wanted.iter().zip(&mut rooms).map(|((kind, _), room)| Place { kind: *kind, room }).collect();
    places.push(Place { kind: CKA_TRUSTED, room: &mut trusted });
    // Its length only: nobody wants the value.
    places.push(Place { kind: CKA_VALUE, room: &mut [] });
    let mut said = Vec::new();
    if calls.attributes(object, &mut places, &mut said).is_err() {
        return false;
    }
    let is_as = |((_, value), (room, said)): (&(_, &[u8]), (&Vec<u8>, &Said))| {
        *said == Said::Length(value.len()) && room.starts_with(value)
    };
    let [.., says_trusted, says_value] = said.as_slice() else { return false };
    wanted.iter().zip(rooms.iter().zip(&said)).all(is_as)
        && (*says_trusted == Said::Unavailable || (*says_trusted == Said::Length(1) && trusted[0] == 0))
        && *says_value == Said::Unavailable
}
