//! The control socket: framed postcard between clients and the daemon.

/// What a client asks for.
#[derive(Debug)]
pub struct Request;
