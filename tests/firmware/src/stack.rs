//! How deep the stack went: cortex-m-rt paints it before `main` (feature `paint-stack`).

use core::arch::asm;
use core::ptr;

/// What cortex-m-rt paints with (`STACK_PAINT_VALUE`, 0.7.5).
const PAINT: u32 = 0xCCCC_CCCC;
/// Left unpainted below the stack pointer: the frames of `repaint` itself.
const MARGIN_WORDS: usize = 64;

unsafe extern "C" {
    /// The stack's lowest address, by cortex-m-rt's linker script.
    static mut _stack_end: u32;
    /// The stack's highest address.
    static mut _stack_start: u32;
}

/// Paints what is below the stack pointer again.
pub fn repaint() {
    let mut place = ptr::addr_of_mut!(_stack_end);
    let end = stack_pointer().wrapping_sub(MARGIN_WORDS);
    while place < end {
        // SAFETY: between the stack's end and the frames in use nothing lives; no interrupt is enabled.
        unsafe { place.write_volatile(PAINT) };
        place = place.wrapping_add(1);
    }
}

/// Bytes between the stack's start and the deepest place that lost its paint.
pub fn high_water_bytes() -> u32 {
    let start = ptr::addr_of_mut!(_stack_start);
    let mut place = ptr::addr_of_mut!(_stack_end);
    // SAFETY: reads words of the stack's own memory; the start is beyond its last word.
    while place < start && unsafe { place.read_volatile() } == PAINT {
        place = place.wrapping_add(1);
    }
    u32::try_from(start as usize - place as usize).unwrap_or(u32::MAX)
}

fn stack_pointer() -> *mut u32 {
    let pointer: *mut u32;
    // SAFETY: reads one register.
    unsafe { asm!("mov {}, sp", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}
