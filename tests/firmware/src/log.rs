//! Where the core's transitions go: UART0, as defmt frames for the decoder on a host.
//!
//! Registers: Stellaris LM3S6965 data sheet, section 12 ("UARTs"). QEMU's UART is always ready.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

/// `UARTDR` of UART0.
const DATA: *mut u32 = 0x4000_C000 as *mut u32;

#[defmt::global_logger]
struct Uart;

static TAKEN: AtomicBool = AtomicBool::new(false);
static ENCODER: Encoder = Encoder(UnsafeCell::new(defmt::Encoder::new()));

struct Encoder(UnsafeCell<defmt::Encoder>);

// SAFETY: one core, no interrupt handler that logs, and `acquire` refuses to nest.
unsafe impl Sync for Encoder {}

// SAFETY: `acquire` and `release` pair up; nothing else touches the encoder.
unsafe impl defmt::Logger for Uart {
    fn acquire() {
        if TAKEN.load(Ordering::Relaxed) {
            loop {
                cortex_m::asm::wfi(); // a nested log is a bug of this image; the run's deadline ends it
            }
        }
        TAKEN.store(true, Ordering::Relaxed);
        // SAFETY: taken above, so this is the only reference.
        unsafe { (*ENCODER.0.get()).start_frame(send) }
    }

    unsafe fn flush() {}

    unsafe fn release() {
        // SAFETY: called between `acquire` and the store below.
        unsafe { (*ENCODER.0.get()).end_frame(send) }
        TAKEN.store(false, Ordering::Relaxed);
    }

    unsafe fn write(bytes: &[u8]) {
        // SAFETY: called between `acquire` and `release`.
        unsafe { (*ENCODER.0.get()).write(bytes, send) }
    }
}

fn send(bytes: &[u8]) {
    for byte in bytes {
        // SAFETY: the data register of a UART that nothing else uses.
        unsafe { DATA.write_volatile(u32::from(*byte)) };
    }
}
