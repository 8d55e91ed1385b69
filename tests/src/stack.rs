//! Searches the stack of the calling thread for what should have been wiped from it.
//!
//! Whoever searches keeps what they search for inverted, and computes it on another thread:
//! otherwise they find their own copy.

use std::fs;
use std::os::unix::fs::FileExt as _;

/// Calls with more stack below the caller than the search needs, so that it overwrites nothing.
#[inline(never)]
pub fn far_down(call: &mut dyn FnMut()) {
    let mut room = [1u8; 128 * 1024];
    std::hint::black_box(&mut room);
    call();
    std::hint::black_box(&mut room);
}

/// Whether these bytes, inverted, are anywhere in the memory that holds this thread's stack.
///
/// # Panics
/// As [`this_stack`].
#[must_use]
pub fn on_this_stack(inverted: &[u8]) -> bool {
    let is_there = |window: &[u8]| window.iter().zip(inverted).all(|(byte, inverted)| *byte == !*inverted);
    this_stack().windows(inverted.len()).any(is_there)
}

/// A copy of the memory that holds this thread's stack, used and unused. Once it is taken it
/// does no harm to have on the stack what is searched for in it.
///
/// # Panics
/// When the kernel does not say where the stack is, or does not let it be read.
#[must_use]
pub fn this_stack() -> Vec<u8> {
    let local = 0u8;
    let here = (&raw const local).addr();
    let maps = fs::read_to_string("/proc/self/maps").expect("proc is mounted");
    let mut ranges = maps.lines().filter_map(|line| line.split_once(' ')?.0.split_once('-'));
    let address = |text| usize::from_str_radix(text, 16).expect("an address");
    let (from, to) = ranges
        .find_map(|(from, to)| Some((address(from), address(to))).filter(|(from, to)| (*from..*to).contains(&here)))
        .expect("a stack is mapped");
    let mut stack = vec![0; to - from];
    let memory = fs::File::open("/proc/self/mem").expect("proc is mounted");
    memory.read_exact_at(&mut stack, from as u64).expect("one's own stack can be read");
    stack
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn forget_to_wipe(inverted_key: &[u8; 32]) {
        let key = std::hint::black_box(inverted_key.map(|byte| !byte));
        std::hint::black_box(&key);
    }

    #[test]
    fn a_key_that_is_not_wiped_is_found_on_the_stack() {
        let inverted_key = [!0x5C; 32];
        far_down(&mut || forget_to_wipe(&inverted_key));
        assert!(on_this_stack(&inverted_key), "this way of searching finds nothing");
    }
}
