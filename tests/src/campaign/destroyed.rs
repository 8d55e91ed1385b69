//! A token that its own module cannot read any more: what must still be there.

use std::sync::mpsc;

use slotwarden::devices::Store as _;
use slotwarden::store::{DiskStore, StoreSettings};
use slotwarden::wire::{Order, SecretRole};
use slotwarden_core::fault::Refusal;
use slotwarden_core::limits::GENERATED_CHARS;
use slotwarden_core::record::{Mode, Owner, SecretKey, SecretKind};

use super::appliance::Appliance;
use crate::modules::SO_PIN;

/// A slot that had a token is never initialised again.
pub fn no_init_is_offered(appliance: &Appliance, slot: usize) {
    let order = Order::Init { slot: appliance.names[slot].clone(), free_slot: None, confirmed: false };
    let refused = appliance.order(order, &[(SecretRole::SoPin, SO_PIN)]);
    let problem = refused.expect_err("the slot had a token");
    assert!(problem.is(Refusal::SlotHasToken), "{problem:?}");
}

/// The stopped daemon's store still has every code that the token may have, and can unseal it.
pub fn codes_are_kept(appliance: &Appliance, slot: usize, from: Mode, to: Mode) {
    let mut settings = StoreSettings::new(&appliance.stage.state_dir());
    settings.seal.credential = None;
    let (events, _heard) = mpsc::channel();
    let mut store = DiskStore::open(&settings, events).expect("the daemon has stopped");
    let owner: Owner = store.owner_of(&appliance.names[slot]).expect("it was numbered at the first start");
    let record = store.loaded().slots.iter().find(|(of, _)| *of == owner).expect("it has a record").1;
    let kept = [(from, record.accepted), (to, record.pending)];
    for (mode, generation) in kept {
        assert_eq!(generation.is_some(), mode == Mode::Generated, "{record:?}");
        let Some(generation) = generation else { continue };
        let mut place = [0; 64];
        let key = SecretKey { kind: SecretKind::GeneratedCode, owner, generation };
        assert_eq!(store.unseal(key, &mut place), Ok(GENERATED_CHARS), "{record:?}");
    }
}
