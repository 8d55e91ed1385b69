//! The client's side of the control socket: one connection, one request, one answer.
//!
//! The answer has no deadline: an order ends when the HSM has answered or the core's
//! deadline has passed, and a client that gives up changes nothing about it.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::control::{CLIENT_DEADLINE, Timed};
use crate::frame::{self, FrameProblem, Kind};
use crate::problem::{Own, Problem};
use crate::secret::Secret;
use crate::wire::{Answered, Ask, FreeTokenView, Request, SECRET_BYTES_MAX, SecretRole, VERSION};

/// Where the daemon listens.
#[derive(Clone, Debug)]
pub struct Client {
    /// The control socket.
    pub socket: PathBuf,
}

/// Why there is no answer, with what may help.
#[derive(Debug)]
pub struct Refused {
    /// What is so.
    pub problem: Box<Problem>,
    /// Tokens that `--free-slot` may name.
    pub free_tokens: Vec<FreeTokenView>,
    /// Id and code, when a second person is wanted first.
    pub approval: Option<(u32, String)>,
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Refused { problem: Box::new(problem), free_tokens: Vec::new(), approval: None }
    }
}

impl From<Own> for Refused {
    fn from(own: Own) -> Self {
        Problem::from(own).into()
    }
}

impl Client {
    /// A client of the daemon behind this socket.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Client { socket: socket.to_owned() }
    }

    /// Whether a daemon answers there now.
    #[must_use]
    pub fn answers(&self) -> bool {
        UnixStream::connect(&self.socket).is_ok()
    }

    /// Why no daemon can be asked, if so.
    ///
    /// # Errors
    /// [`Own::Unreachable`], [`Own::SocketForbidden`].
    pub fn reach(&self) -> Result<(), Problem> {
        self.connect().map(|_| ())
    }

    fn connect(&self) -> Result<UnixStream, Problem> {
        UnixStream::connect(&self.socket).map_err(|error| {
            let own = match error.kind() {
                io::ErrorKind::PermissionDenied => Own::SocketForbidden,
                _ => Own::Unreachable,
            };
            own.with(format!("{}: {error}", self.socket.display()))
        })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the daemon refused, or why it could not be asked.
    pub fn ask(&self, ask: Ask, secrets: &[(SecretRole, Zeroizing<Vec<u8>>)]) -> Result<Answered, Refused> {
        self.ask_for_share(ask, secrets).map(|(answered, _)| answered)
    }

    /// The same, with the share that the answer announces.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn ask_for_share(
        &self,
        ask: Ask,
        secrets: &[(SecretRole, Zeroizing<Vec<u8>>)],
    ) -> Result<(Answered, Option<Secret>), Refused> {
        let stream = self.connect()?;
        let request = Request { version: VERSION, ask, secrets: secrets.iter().map(|(role, _)| *role).collect() };
        let mut timed = Timed::new(&stream, Some(CLIENT_DEADLINE));
        let mut sent = frame::send(&mut timed, Kind::Request, &request);
        for (_, secret) in secrets {
            sent = sent.and_then(|()| frame::send_secret(&mut timed, secret));
        }
        // A daemon that turned us away has answered already, so its answer is read first.
        match (frame::receive(&mut Timed::new(&stream, None), Kind::Answer), sent) {
            (Ok(Answered::Problem { problem, free_tokens }), _) => {
                Err(Refused { problem: Box::new(problem), free_tokens, approval: None })
            }
            (Ok(Answered::NeedsApproval { id, code }), _) => {
                let problem = Box::new(Own::NeedsApproval.with(format!("request {id}, code {code}")));
                Err(Refused { problem, free_tokens: Vec::new(), approval: Some((id, code)) })
            }
            (Ok(answered @ Answered::Share { .. }), Ok(())) => {
                let share = frame::receive_secret(&mut Timed::new(&stream, None), SECRET_BYTES_MAX);
                share.map(|share| (answered, Some(share))).map_err(|_| Own::AnswerLost.into())
            }
            (Ok(answered), Ok(())) => Ok((answered, None)),
            (Err(FrameProblem::Unreadable | FrameProblem::WrongKind | FrameProblem::TooLong), _) => {
                Err(Own::OtherVersion.into())
            }
            (Ok(_), Err(_)) | (Err(_), _) => Err(Own::AnswerLost.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_is_not_there_is_named() {
        let refused = Client::new(Path::new("/dev/shm/nobody-listens-here.sock")).ask(Ask::Status, &[]);
        let problem = refused.expect_err("nobody listens").problem;
        assert_eq!(problem.number, 601);
        assert!(problem.to_string().contains("nobody-listens-here"));
    }
}
