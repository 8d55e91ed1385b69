//! Lines to the host by semihosting, without `core::fmt`: the image should hold the core.

use cortex_m_semihosting::syscall1;

/// `SYS_WRITE0`: writes a string that ends with a zero byte.
const SYS_WRITE0: usize = 0x04;
/// Bytes written at once.
const CHUNK_BYTES: usize = 32;

/// Prints a line.
pub fn line(text: &str) {
    write(text);
    write("\n");
}

/// Prints `name: value`.
pub fn figure(name: &str, value: u32) {
    write(name);
    write(": ");
    let mut digits = [0u8; 10];
    let mut rest = value;
    let mut used = 0;
    for place in digits.iter_mut().rev() {
        *place = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        used += 1;
        if rest == 0 {
            break;
        }
    }
    write(core::str::from_utf8(digits.get(10 - used..).unwrap_or_default()).unwrap_or_default());
    write("\n");
}

fn write(text: &str) {
    for part in text.as_bytes().chunks(CHUNK_BYTES) {
        let mut buffer = [0u8; CHUNK_BYTES + 1];
        for (to, from) in buffer.iter_mut().zip(part) {
            *to = *from;
        }
        // SAFETY: the buffer ends with a zero byte and outlives the call.
        unsafe { syscall1(SYS_WRITE0, buffer.as_ptr() as usize) };
    }
}
