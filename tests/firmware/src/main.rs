//! The core on a Cortex-M3: no operating system, no allocator, no std.
//!
//! Runs the life of two slots (`world`), with a restart between its two halves, then that of
//! a set on cards (`records`), and prints what they cost: sizes from the types, the stack's
//! high-water mark from paint. Output and exit status leave by semihosting (ARM's
//! "Semihosting for AArch32 and AArch64", 2.2), which QEMU performs; with the feature `defmt`
//! the core's transitions leave by UART0. Everything is lost at power-off.

#![no_std]
#![no_main]

#[cfg(feature = "defmt")]
mod log;
mod print;
mod records;
mod stack;
mod world;

use core::panic::PanicInfo;

use cortex_m as _; // its critical section
use cortex_m::singleton;
use cortex_m_rt::entry;
use cortex_m_semihosting::debug::{EXIT_FAILURE, EXIT_SUCCESS, exit};
use slotwarden_core::limits::{OUTBOX_FIRMWARE, PLACES_FIRMWARE, SLOTS_FIRMWARE};
use slotwarden_core::safe::Safe;
use slotwarden_core::{Effect, Firmware, Service};

use print::{figure, line};
use world::{Deviation, Found, World};

/// A service with room for one slot more: the difference is what a slot costs.
type OneSlotMore = Service<{ SLOTS_FIRMWARE + 1 }, PLACES_FIRMWARE, OUTBOX_FIRMWARE>;
/// A service with one more place in the outbox.
type OneEffectMore = Service<SLOTS_FIRMWARE, PLACES_FIRMWARE, { OUTBOX_FIRMWARE + 1 }>;

#[entry]
fn main() -> ! {
    let passed = run().is_some();
    exit(if passed { EXIT_SUCCESS } else { EXIT_FAILURE });
    loop {
        cortex_m::asm::wfi();
    }
}

/// Both lives and that of a set, then the figures; `None` when a step went otherwise.
fn run() -> Option<()> {
    let Some(world) = singleton!(: World = World::new()) else { return None };
    let service = install()?;
    figure("stack of construction, bytes", stack::high_water_bytes());

    stack::repaint();
    let steps = report("first life", world.first_life(service))?;
    figure("stack of the first life, bytes", stack::high_water_bytes());

    restart(service)?;
    stack::repaint();
    let more = report("second life", world.second_life(service))?;
    figure("stack of the second life, bytes", stack::high_water_bytes());

    stack::repaint();
    if records::life().is_err() {
        line("cards do not give what was shared");
        return None;
    }
    figure("stack of a set on cards, bytes", stack::high_water_bytes());

    figure("steps passed", steps + more);
    figure("effects performed", world.effects());
    sizes();
    Some(())
}

/// A service in static memory, copied there from a constant in flash: made on the stack it
/// would need more than there is. A function of its own, so that what it needs on the stack
/// is free again before the service works.
#[inline(never)]
fn install() -> Option<&'static mut Firmware> {
    let service = singleton!(: Firmware = const { Firmware::empty() })?;
    world::configure(service).ok()?;
    Some(service)
}

/// The service as after a power cut: a new one in the same place.
#[inline(never)]
fn restart(service: &mut Firmware) -> Option<()> {
    *service = const { Firmware::empty() };
    world::configure(service).ok()
}

fn report(life: &str, outcome: Result<u32, Deviation>) -> Option<u32> {
    match outcome {
        Ok(steps) => Some(steps),
        Err(Deviation { step, found }) => {
            line(life);
            figure("went otherwise at step", step);
            line(match found {
                Found::Answer(None) => "no answer",
                Found::Answer(Some(slotwarden_core::Answer::Done)) => "done",
                Found::Answer(Some(slotwarden_core::Answer::Refused(refusal))) => refusal.name(),
                Found::Answer(Some(slotwarden_core::Answer::Failed(fault))) => fault.name(),
                Found::Answer(Some(slotwarden_core::Answer::NeedsApproval { .. })) => "a second person is wanted",
                Found::Answer(Some(slotwarden_core::Answer::Waits(_))) => "more people are wanted",
                Found::Answer(Some(slotwarden_core::Answer::Share { .. })) => "a share was shown",
                Found::State(state) => state.map_or("no such slot", |state| state.word()),
                Found::HandOver => "the application has something else",
                Found::Runaway => "the core keeps asking for effects",
                Found::Chain => "the audit records do not follow from each other",
            });
            None
        }
    }
}

/// What the types cost, exactly.
fn sizes() {
    let service = size_of::<Firmware>();
    figure("slots", to_u32(SLOTS_FIRMWARE));
    figure("service, bytes", to_u32(service));
    figure("safe, bytes", to_u32(size_of::<Safe<PLACES_FIRMWARE>>()));
    figure("one slot, bytes", to_u32(size_of::<OneSlotMore>() - service));
    figure("one effect in the outbox, bytes", to_u32(size_of::<OneEffectMore>() - service));
    figure("one effect polled, bytes", to_u32(size_of::<Effect>()));
    figure("outbox, effects", to_u32(OUTBOX_FIRMWARE));
    figure("test devices, bytes", to_u32(size_of::<World>()));
}

fn to_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// A panic would be a bug of the core: no message, since formatting costs 1.5 KiB of flash.
#[panic_handler]
fn panic(_info: &PanicInfo<'_>) -> ! {
    line("panicked");
    exit(EXIT_FAILURE);
    loop {
        cortex_m::asm::wfi();
    }
}
