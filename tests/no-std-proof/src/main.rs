//! A program without std, without an allocator and without start files, that drives the
//! core's service through the life of two slots, shares, typed and on cards, through theirs, and the files of
//! a cluster through theirs.
//!
//! That it links is the proof: std would bring a second `panic_impl` (error E0152), and an
//! allocator would leave `__rust_alloc` in the symbol table. It is run as well: exit status
//! 0, or the number of the step that went otherwise. Nothing survives a run.

#![no_std]
#![no_main]

mod exchange;
#[path = "../../firmware/src/records.rs"]
mod records;
mod shares;
#[path = "../../firmware/src/world.rs"]
mod world;

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;

use slotwarden_core::Firmware;
use world::World;

// Gives its symbols to std when the negative check asks for it; see Cargo.toml.
#[cfg(feature = "drag-in-std")]
use fastrand as _;

// Only `memcpy` and its like are taken from the C library, which is there on every host.
#[link(name = "c")]
unsafe extern "C" {}

// The kernel enters with an aligned stack and no return address; a Rust function expects one.
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call {live}", "ud2", live = sym live);

/// Exit status of a panic: no step has this number.
const PANICKED: u32 = 101;
/// Exit status when the service refuses its configuration.
const REFUSED: u32 = 102;
/// Exit status when shares do not give what was shared.
const SHARED_OTHERWISE: u32 = 103;
/// Exit status when cards do not give what was shared.
const ON_CARDS_OTHERWISE: u32 = 104;
/// Exit status when what a cluster exchanges is not refused as it has to be.
const EXCHANGED_OTHERWISE: u32 = 105;
/// Added to a step's number in the life after the restart.
const SECOND_LIFE: u32 = 120;

extern "C" fn live() -> ! {
    let mut world = World::new();
    let mut service = Firmware::empty();
    if world::configure(&mut service).is_err() {
        exit(REFUSED);
    }
    if let Err(deviation) = world.first_life(&mut service) {
        exit(deviation.step);
    }
    let mut service = Firmware::empty();
    if world::configure(&mut service).is_err() {
        exit(REFUSED);
    }
    if let Err(deviation) = world.second_life(&mut service) {
        exit(deviation.step.saturating_add(SECOND_LIFE));
    }
    if shares::life().is_err() {
        exit(SHARED_OTHERWISE);
    }
    if records::life().is_err() {
        exit(ON_CARDS_OTHERWISE);
    }
    if exchange::life().is_err() {
        exit(EXCHANGED_OTHERWISE);
    }
    #[cfg(feature = "reach-a-panic")]
    exit([0, REFUSED][world.effects() as usize]);
    #[cfg(not(feature = "reach-a-panic"))]
    exit(if world.effects() > 0 { 0 } else { REFUSED })
}

/// A panic would be a bug of the core.
#[panic_handler]
fn panic(_info: &PanicInfo<'_>) -> ! {
    exit(PANICKED)
}

fn exit(status: u32) -> ! {
    // SAFETY: `exit_group` (231 on x86_64 Linux) reads one register and never returns.
    unsafe { asm!("syscall", in("rax") 231, in("rdi") status, options(noreturn, nostack)) }
}
