//! Keys that are exported and restored: what tokens hold, and the files they go through.
//!
//! A key is an id and a value, both a byte: enough to tell new, same and conflict apart, and whether
//! everything came back. Files survive power; what was being written is not whole afterwards.

use std::collections::BTreeMap;

use slotwarden_core::backup;
use slotwarden_core::effect::{HsmAnswer, HsmCall, ImportPlan, KeyCounts, SlotId};
use slotwarden_core::fault::{Fault, Function, HsmFailure, Refusal, rv};
use slotwarden_core::transfer::FileOrder;

/// The keys of one token or section: value by id.
pub type Keys = BTreeMap<u8, u8>;

/// Tokens and files of one room.
#[derive(Clone, Debug, Default)]
pub struct Vault {
    /// What each slot's token holds.
    pub tokens: [Keys; 2],
    /// U in each token, by the section's slot uid.
    pub unwraps: [Option<[u8; 16]>; 2],
    /// Of which backup key it is.
    pub unwrap_keys: [Option<[u8; 16]>; 2],
    /// The export that is being made.
    pub part: Option<BTreeMap<[u8; 16], Keys>>,
    /// The export that was made last, whole.
    pub last: Option<BTreeMap<[u8; 16], Keys>>,
    /// Of which backup key the export that is being made, and the one made last, are.
    pub keys: [Option<[u8; 16]>; 2],
    /// Somebody altered the export that was made last.
    pub altered: bool,
    /// What a prepared restore is going to make.
    pub plan: Option<Keys>,
    /// Keys that a token has room for; without a number for any.
    pub room_for: Option<usize>,
}

/// How much of it is done when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All of it.
    Whole,
    /// The first of several.
    First,
}

impl Vault {
    /// Something at the files. False: it could not be done.
    pub fn file(&mut self, order: FileOrder) -> bool {
        match order {
            FileOrder::Begin(export) => {
                self.part = Some(BTreeMap::new());
                self.keys[0] = Some(export.key_id);
            }
            FileOrder::Finish => {
                self.keys[1] = self.keys[0].take().or(self.keys[1]);
                self.last = self.part.take().or(self.last.take());
            }
            FileOrder::Stretch { .. } => {}
            FileOrder::Discard => (self.part, self.plan) = (None, None),
            FileOrder::KeepRoster { .. } | FileOrder::Received { .. } | FileOrder::Check { .. } => return false,
        }
        true
    }

    /// Whether the export that was made last is of this backup key, as its MACs say.
    ///
    /// # Errors
    /// There is none.
    pub fn check(&self, backup_key: &[u8; 32]) -> Result<bool, Fault> {
        let [_, made_with] = self.keys;
        let made_with = made_with.filter(|_| self.last.is_some()).ok_or(Fault::StoreFailed)?;
        Ok(made_with == backup::key_id(backup_key) && !self.altered)
    }

    /// The keys of every backup key but this one go, and U is one of them; `None`: U may not stay at all.
    pub fn keep(&mut self, slot: SlotId, key_id: Option<[u8; 16]>, uid: [u8; 16]) {
        let number = usize::from(slot.0);
        let is_ours = self.unwraps.get(number) == Some(&Some(uid)) && self.unwrap_keys.get(number) == Some(&key_id);
        if let Some(unwraps) = self.unwraps.get_mut(number).filter(|_| !is_ours) {
            *unwraps = None;
        }
    }

    /// A call of a token.
    ///
    /// # Errors
    /// As a module answers that does not have what it is about.
    pub fn call(&mut self, slot: SlotId, call: &HsmCall, reach: Reach) -> Result<HsmAnswer, HsmFailure> {
        let gone = || HsmFailure::Pkcs11 { code: rv::TOKEN_NOT_PRESENT, function: Function::FindObjects };
        let number = usize::from(slot.0);
        let token = self.tokens.get_mut(number).ok_or_else(gone)?;
        let unwraps = self.unwraps.get_mut(number).ok_or_else(gone)?;
        let unwrap_key = self.unwrap_keys.get_mut(number).ok_or_else(gone)?;
        match *call {
            HsmCall::Inventory { uid } => {
                let held = self.last.as_ref().and_then(|last| last.get(&uid));
                let missing =
                    token.iter().filter(|(id, value)| held.and_then(|held| held.get(id)) != Some(value)).count();
                let keys = count(token.len());
                Ok(HsmAnswer::Counted(KeyCounts { keys, can_leave: keys, uncovered: count(missing) }))
            }
            HsmCall::ExportSection { uid, .. } => {
                let part = self.part.as_mut().ok_or_else(gone)?;
                part.insert(uid, token.clone());
                Ok(HsmAnswer::SectionExported { keys: count(token.len()), left_out: 0 })
            }
            HsmCall::PrepareImport { uid, key_id, .. } => {
                *unwraps = Some(uid);
                *unwrap_key = Some(key_id);
                let section = self.last.as_ref().and_then(|last| last.get(&uid)).ok_or_else(gone)?;
                let mut plan = ImportPlan::default();
                let mut new = Keys::new();
                for (id, value) in section {
                    match token.get(id) {
                        None => {
                            plan.new += 1;
                            new.insert(*id, *value);
                        }
                        Some(there) if there == value => plan.same += 1,
                        Some(_) => plan.conflict += 1,
                    }
                }
                self.plan = Some(new);
                Ok(HsmAnswer::ImportPrepared(plan))
            }
            HsmCall::Import { uid, .. } => {
                if *unwraps != Some(uid) {
                    return Err(HsmFailure::Pkcs11 { code: rv::DEVICE_ERROR, function: Function::UnwrapKey });
                }
                let plan = self.plan.as_ref().ok_or_else(gone)?;
                let mut made = 0;
                if self.room_for.is_some_and(|most| token.len().saturating_add(missing(token, plan)) > most) {
                    // What it made is destroyed again, key by key.
                    let gone = if reach == Reach::First { 1 } else { plan.len() };
                    for id in plan.keys().take(gone) {
                        token.remove(id);
                    }
                    return Err(HsmFailure::Refused(Refusal::TokenFull));
                }
                for (id, value) in plan {
                    if made > 0 && reach == Reach::First {
                        break;
                    }
                    made += u32::from(token.insert(*id, *value) != Some(*value));
                }
                Ok(HsmAnswer::Imported { made })
            }
            HsmCall::DropUnwrapKey { .. } => {
                *unwraps = None;
                Ok(HsmAnswer::UnwrapKeyDropped)
            }
            _ => Err(gone()),
        }
    }
}

/// Keys of a plan that are not in the token.
fn missing(token: &Keys, plan: &Keys) -> usize {
    plan.keys().filter(|id| !token.contains_key(*id)).count()
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
