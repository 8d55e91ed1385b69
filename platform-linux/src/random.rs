//! Two random sources for everything that is generated.
//!
//! The first half of each draw is the HSM's, the second the kernel's (`getrandom(2)`). Where
//! the HSM gives none, `/dev/hwrng` stands in, a device of its own; where there is no such
//! device either, both halves are the kernel's, and the status says that there is one source
//! only. The core mixes the halves and watches each for being stuck (P32).

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::fs::OFlags;
use slotwarden_core::fault::Fault;

/// Bytes of one half.
pub const HALF_BYTES: usize = 32;
/// A hardware random generator of the kernel's, where there is one.
const HARDWARE: &str = "/dev/hwrng";

/// Where the first half came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstSource {
    /// `C_GenerateRandom` of the HSM.
    Hsm,
    /// `/dev/hwrng`.
    Hardware,
    /// `getrandom(2)`, like the second half: one source only.
    System,
}

impl FirstSource {
    /// Both sources, as the status names them.
    #[must_use]
    pub const fn pair(self) -> &'static str {
        match self {
            FirstSource::Hsm => "hsm, system",
            FirstSource::Hardware => "hwrng, system",
            FirstSource::System => "system only",
        }
    }
}

/// Fills two halves; `hsm` gives the first if it can.
///
/// # Errors
/// [`Fault::RandomUnavailable`] when the kernel gives none.
pub fn draw(
    halves: &mut [u8; 2 * HALF_BYTES],
    hsm: impl FnOnce(&mut [u8; HALF_BYTES]) -> bool,
) -> Result<FirstSource, Fault> {
    let (first, second) = halves.split_at_mut(HALF_BYTES);
    let first: &mut [u8; HALF_BYTES] = first.try_into().map_err(|_| Fault::RandomUnavailable)?;
    getrandom::fill(second).map_err(|_| Fault::RandomUnavailable)?;
    if hsm(first) {
        return Ok(FirstSource::Hsm);
    }
    if hardware(first) {
        return Ok(FirstSource::Hardware);
    }
    getrandom::fill(first).map_err(|_| Fault::RandomUnavailable)?;
    Ok(FirstSource::System)
}

/// Not waited for: a slow device would hold up the loop.
fn hardware(half: &mut [u8; HALF_BYTES]) -> bool {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let device = OpenOptions::new().read(true).custom_flags(flags).open(HARDWARE);
    device.and_then(|mut device| device.read_exact(half)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_hsm_the_first_half_is_still_filled_and_the_source_named() {
        let mut halves = [0; 64];
        let source = draw(&mut halves, |_| false).expect("the kernel gives");
        assert_ne!(source, FirstSource::Hsm);
        assert_ne!(halves[..32], [0; 32]);
        assert_ne!(halves[32..], [0; 32]);
        assert_ne!(halves[..32], halves[32..]);
    }

    #[test]
    fn the_hsms_half_is_kept_as_it_came() {
        let mut halves = [0; 64];
        let source = draw(&mut halves, |half| {
            half.fill(0xA5);
            true
        });
        assert_eq!(source, Ok(FirstSource::Hsm));
        assert_eq!(halves[..32], [0xA5; 32]);
        assert_eq!(FirstSource::Hsm.pair(), "hsm, system");
    }
}
