//! When a try may be made, and what it costs.
