//! What a process that holds secrets asks of the kernel (P45).
//!
//! Not dumpable: no core dump, and no other process of the same user may read its memory
//! (prctl(2), `PR_SET_DUMPABLE`). Memory locked: no secret reaches swap.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Makes this process not dumpable and forbids core files. Tells what could not be done.
#[must_use]
pub fn forbid_dumps() -> Vec<String> {
    let mut failed = Vec::new();
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        failed.push(format!("the process stays dumpable: {error}"));
    }
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        failed.push(format!("core files are not forbidden: {error}"));
    }
    failed
}

/// Locks this process's memory, present and future, as pages are touched.
///
/// Where the limit is finite and the process is not privileged, only what is there now is
/// locked: future memory beyond the limit would be refused, and the daemon would die of it.
#[must_use]
pub fn lock_memory() -> Vec<String> {
    let unlimited = getrlimit(Resource::Memlock).current.is_none() || rustix::process::geteuid().is_root();
    let future = if unlimited { MlockAllFlags::FUTURE } else { MlockAllFlags::empty() };
    let mut failed = Vec::new();
    if let Err(error) = mlockall(MlockAllFlags::CURRENT | future | MlockAllFlags::ONFAULT) {
        failed.push(format!("memory is not locked and could be swapped out: {error}; raise LimitMEMLOCK"));
    } else if !unlimited {
        failed.push("only present memory is locked; set LimitMEMLOCK=infinity".to_owned());
    }
    failed
}
