//! One private shim, so that only this file knows whether `defmt` is there.

/// Logs one transition for a firmware's debug link. Without the feature it is nothing.
///
/// Arguments are positional, only `{}` and `{:?}`; nothing secret has a `Format`.
macro_rules! trace_transition {
    ($machine:literal, $source:expr, $target:expr) => {{
        #[cfg(feature = "defmt")]
        defmt::trace!("{}: {} -> {}", $machine, $source, $target);
        #[cfg(not(feature = "defmt"))]
        let _ = ($machine, $source, $target);
    }};
}

pub(crate) use trace_transition;
