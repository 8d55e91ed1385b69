//! The backup key that a passphrase gives: Argon2id (RFC 9106), 32 bytes, with salt and costs from the header
//! of an export.
//!
//! It is computed in a thread of the daemon, or by `slotwarden verify` in its own process: never by the loop,
//! which may not wait for a second, and never by the HSM worker, which runs foreign code. What a
//! file asks for is bounded before anything is allocated (P21). The passphrase and the memory that was
//! filled with it are wiped; nothing here survives a restart.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use slotwarden_core::export::Protection;
use slotwarden_core::fault::Fault;
use zeroize::{Zeroize as _, Zeroizing};

/// What a new export costs whoever tries a passphrase: RFC 9106, section 4, recommends 64 MiB where memory is
/// scarce and 2 GiB where it is not; 256 MiB in three passes take about a second of one core. One lane, since
/// we fill it with one thread: more would help only whoever has more cores than we use.
pub const COST: Cost = Cost { memory_kib: 256 * 1024, passes: 3, lanes: 1 };
/// Most memory that a file may ask for, KiB: four times what we write.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
/// Most passes over it.
const PASSES_MAX: u32 = 64;
/// Most memory times passes, KiB: some 15 seconds of one core.
const WORK_KIB_MAX: u64 = 4 * 1024 * 1024;
/// Most lanes.
const LANES_MAX: u32 = 64;

/// What one try of a passphrase costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Memory, KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Cost {
    /// Whether a file may ask for it: enough for Argon2 to be defined, and no more than a machine has to spare.
    #[must_use]
    pub fn is_sane(self) -> bool {
        let Cost { memory_kib, passes, lanes } = self;
        (1..=LANES_MAX).contains(&lanes)
            && (8 * lanes..=MEMORY_KIB_MAX).contains(&memory_kib)
            && (1..=PASSES_MAX).contains(&passes)
            && u64::from(memory_kib) * u64::from(passes) <= WORK_KIB_MAX
    }
}

/// Salt and costs of a header; `None`: no passphrase protects it.
#[must_use]
pub const fn of_header(protection: Protection) -> Option<([u8; 16], Cost)> {
    match protection {
        Protection::Passphrase { salt, memory_kib, passes, lanes } => Some((salt, Cost { memory_kib, passes, lanes })),
        Protection::Cards { .. } => None,
    }
}

/// The backup key. Takes about a second, and the memory that the costs say.
///
/// # Errors
/// [`Fault::OutOfMemory`], also for costs that are not [sane](Cost::is_sane).
pub fn backup_key(passphrase: &[u8], salt: &[u8; 16], cost: Cost) -> Result<Zeroizing<[u8; 32]>, Fault> {
    if !cost.is_sane() {
        return Err(Fault::OutOfMemory);
    }
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(|_| Fault::OutOfMemory)?;
    let count = params.block_count();
    let mut memory: Vec<Block> = Vec::new();
    memory.try_reserve_exact(count).map_err(|_| Fault::OutOfMemory)?;
    memory.resize(count, Block::new());
    let mut key = Zeroizing::new([0; 32]);
    let filled = Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into_with_memory(
        passphrase,
        salt,
        key.as_mut_slice(),
        &mut memory,
    );
    memory.iter_mut().for_each(|block| block.zeroize());
    filled.map(|()| key).map_err(|_| Fault::OutOfMemory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p21_a_file_that_asks_for_a_hundred_gigabytes_or_an_hour_is_refused_before_anything_is_allocated() {
        let asks = |memory_kib, passes, lanes| Cost { memory_kib, passes, lanes };
        for hostile in [
            asks(100 * 1024 * 1024, 1, 1),
            asks(u32::MAX, u32::MAX, u32::MAX),
            asks(MEMORY_KIB_MAX + 1, 1, 1),
            asks(MEMORY_KIB_MAX, 5, 1),
            asks(64, PASSES_MAX + 1, 1),
            asks(64, 0, 1),
            asks(64, 1, 0),
            asks(64, 1, 9),
            asks(7, 1, 1),
            asks(1024 * 1024, 1, LANES_MAX + 1),
        ] {
            assert!(!hostile.is_sane(), "{hostile:?}");
            assert_eq!(backup_key(b"whatever it is", &[1; 16], hostile).err(), Some(Fault::OutOfMemory));
        }
        assert!(COST.is_sane() && asks(MEMORY_KIB_MAX, 4, 64).is_sane() && asks(8, 1, 1).is_sane());
    }

    #[test]
    fn each_of_passphrase_salt_and_costs_gives_another_key() {
        let cost = Cost { memory_kib: 64, passes: 2, lanes: 1 };
        let key = |passphrase: &[u8], salt, cost| backup_key(passphrase, &[salt; 16], cost).expect("64 KiB");
        let first = key(b"one two three four", 1, cost);
        for other in [
            key(b"one two three fouR", 1, cost),
            key(b"one two three four", 2, cost),
            key(b"one two three four", 1, Cost { memory_kib: 72, ..cost }),
            key(b"one two three four", 1, Cost { passes: 3, ..cost }),
            key(b"one two three four", 1, Cost { lanes: 2, ..cost }),
        ] {
            assert_ne!(*first, *other);
        }
        assert_eq!(*first, *key(b"one two three four", 1, cost));
    }
}
