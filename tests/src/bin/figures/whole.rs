//! Instructions of the whole core for each effect it orders: what a dispatch is a part of.
//!
//! The life of two slots that the firmware lives (`tests/firmware/src/world.rs`): commands,
//! answers of the devices, the audit log's SHA-256, records, codes.

use crate::dispatch::instructions;
use crate::world::{self, World};
use slotwarden_core::Firmware;

/// Lives the two lives `rounds` times; returns how many effects they ordered.
pub(crate) fn live(rounds: u32) -> Result<u32, String> {
    let mut effects = 0;
    let mut service = Box::new(Firmware::empty());
    for _ in 0..rounds {
        let mut world = World::new();
        *service = Firmware::empty();
        world::configure(&mut service).map_err(|refusal| refusal.name().to_owned())?;
        world.first_life(&mut service).map_err(|deviation| format!("first life: {deviation:?}"))?;
        *service = Firmware::empty();
        world::configure(&mut service).map_err(|refusal| refusal.name().to_owned())?;
        world.second_life(&mut service).map_err(|deviation| format!("second life: {deviation:?}"))?;
        effects = world.effects();
    }
    Ok(effects)
}

/// Prints the figure.
pub(crate) fn print() -> Result<(), String> {
    const FEW: u32 = 10;
    const MANY: u32 = 60;
    let effects = live(1)?;
    let between = instructions(&["core", &MANY.to_string()])? - instructions(&["core", &FEW.to_string()])?;
    let per_effect = between / (f64::from(MANY - FEW) * f64::from(effects));
    println!("whole core, two lives of two slots ({effects} effects): {per_effect:.0} instructions per effect");
    Ok(())
}
