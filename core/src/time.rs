//! Time enters from outside; the core has no clock.

use serde::{Deserialize, Serialize};

/// The moment of an input.
///
/// Deadlines and back-off use only `mono_ms`. Wall time is information for the audit
/// log: it never decides a refusal, so a clock jump changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Now {
    /// Milliseconds on a clock that never goes back while the service runs.
    pub mono_ms: u64,
    /// Seconds since 1970-01-01 UTC, if the platform has a clock at all.
    pub wall_s: Option<u64>,
}

impl Now {
    /// The moment `wait_ms` later; saturates at the end of time instead of wrapping.
    #[must_use]
    pub fn after_ms(self, wait_ms: u64) -> u64 {
        self.mono_ms.saturating_add(wait_ms)
    }
}
