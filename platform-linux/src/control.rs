//! The control socket: who is there, what they want, and their secrets.
//!
//! A Unix socket. The kernel says who the peer is (`SO_PEERCRED`, unix(7)); a user id
//! that belongs to nobody is turned away before a byte is read. One connection carries one
//! request; it has a deadline for arriving, so a slow or silent client costs one thread
//! for a few seconds and nothing else. Garbage, half a frame and a length of 1 GB are
//! refused and the connection is closed. At most [`CLIENTS_MAX`] are served at once.
//!
//! A client that goes away while it waits changes nothing: its order continues. After a
//! restart of the daemon the socket is made anew; a stale file of a dead daemon is
//! replaced, that of a living one is refused.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use slotwarden_core::Refusal;
use zeroize::Zeroizing;

use crate::devices::{Event, Events};
use crate::frame::{self, FrameProblem, Kind};
use crate::names::{Names, Peer};
use crate::problem::{Own, Problem};
use crate::wire::{self, Answered, Ask, SECRET_BYTES_MAX, SECRETS_MAX, SecretRole};

/// Clients served at once. Twice the orders that the core takes (`COMMANDS_MAX`), so that
/// a status is answered while every order waits.
pub const CLIENTS_MAX: usize = 32;
/// Clients of one person served at once, whichever of their user ids they come with: a runaway
/// script leaves room for others.
pub const CLIENTS_PER_PERSON_MAX: usize = 24;
/// How long a request may take to arrive whole, and an answer to be taken.
pub const CLIENT_DEADLINE: Duration = Duration::from_secs(5);
/// Stack of a client's thread, bytes: one request and one answer, which are on the heap.
const CLIENT_STACK_BYTES: usize = 256 * 1024;
/// Pause after a failed accept (no descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A request that arrived whole.
pub struct Request {
    /// Who asks.
    pub peer: Peer,
    /// What they want.
    pub ask: Ask,
    /// Their secrets, wiped when dropped.
    pub secrets: Vec<(SecretRole, Zeroizing<Vec<u8>>)>,
    /// Where the one answer goes; dropping it closes the connection.
    pub answer: SyncSender<Reply>,
}

/// An answer with the share it announces, if it does; wiped when dropped.
pub struct Reply {
    /// What is serialised.
    pub answered: Answered,
    /// The text of a share.
    pub share: Option<Zeroizing<Vec<u8>>>,
}

/// Shares are not printed.
impl fmt::Debug for Reply {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Reply").field("answered", &self.answered).finish_non_exhaustive()
    }
}

impl<T: Into<Answered>> From<T> for Reply {
    fn from(answered: T) -> Self {
        Reply { answered: answered.into(), share: None }
    }
}

/// Secrets are not printed, not even their lengths.
impl fmt::Debug for Request {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Request").field("peer", &self.peer).field("ask", &self.ask).finish_non_exhaustive()
    }
}

/// The listening socket. Dropping it removes the file and ends the accepting thread.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    ended: Arc<AtomicBool>,
}

/// Listens. With persons configured the socket is open to every user, who is then told
/// apart by user id; without, only the daemon's own user may connect.
///
/// # Errors
/// [`Own::SocketUnusable`]; [`Refusal::StoreLocked`] when another daemon answers there.
pub fn listen(path: &Path, names: Arc<Names>, events: Events) -> Result<ControlSocket, Problem> {
    let unusable = |error: io::Error| Own::SocketUnusable.with(format!("{}: {error}", path.display()));
    if UnixStream::connect(path).is_ok() {
        return Err(Problem::from(Refusal::StoreLocked).with(format!("a daemon answers on {}", path.display())));
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(unusable)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(unusable)?;
    let mode = if names.persons.is_empty() { 0o600 } else { 0o666 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(unusable)?;
    let socket = ControlSocket { path: path.to_owned(), ended: Arc::new(AtomicBool::new(false)) };
    let ended = Arc::clone(&socket.ended);
    thread::Builder::new()
        .name("control".into())
        .spawn(move || accept(&listener, &names, &events, &ended))
        .map_err(unusable)?;
    Ok(socket)
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the accepting thread; it may be gone already.
        let _ = UnixStream::connect(&self.path);
        let _ = fs::remove_file(&self.path);
    }
}

/// A stream whose every byte has to be there before one deadline.
#[derive(Debug)]
pub(crate) struct Timed<'s> {
    stream: &'s UnixStream,
    deadline: Option<Instant>,
}

impl<'s> Timed<'s> {
    /// With a deadline from now, or without one.
    pub(crate) fn new(stream: &'s UnixStream, within: Option<Duration>) -> Self {
        Timed { stream, deadline: within.map(|within| Instant::now() + within) }
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let Some(deadline) = self.deadline else { return Ok(None) };
        match deadline.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(Some(left)),
            Some(_) | None => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl embedded_io::ErrorType for Timed<'_> {
    type Error = io::Error;
}

impl embedded_io::Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.stream.set_read_timeout(self.left()?)?;
            match self.stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                ended => return ended.map_err(timed),
            }
        }
    }
}

impl embedded_io::Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.stream.set_write_timeout(self.left()?)?;
            match self.stream.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // embedded-io does not allow a write of nothing.
                Ok(0) if !bytes.is_empty() => return Err(io::ErrorKind::WriteZero.into()),
                ended => return ended.map_err(timed),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// A socket's timeout is told as `WouldBlock` (socket(7), `SO_RCVTIMEO`).
fn timed(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

/// How many clients are served, by user id.
#[derive(Default)]
struct Clients(Mutex<HashMap<Peer, usize>>);

impl Clients {
    /// Takes a seat; false when there is none.
    fn enter(&self, peer: Peer) -> bool {
        let mut served = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = served.values().sum();
        let own = served.entry(peer).or_insert(0);
        if all >= CLIENTS_MAX || *own >= CLIENTS_PER_PERSON_MAX {
            return false;
        }
        *own += 1;
        true
    }

    fn leave(&self, peer: Peer) {
        let mut served = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = served.get_mut(&peer) {
            *own -= 1;
            if *own == 0 {
                served.remove(&peer);
            }
        }
    }
}

/// Ends with the socket. One turn for each connection, none without.
fn accept(listener: &UnixListener, names: &Names, events: &Events, ended: &AtomicBool) {
    let clients = Arc::new(Clients::default());
    let own_uid = rustix::process::geteuid().as_raw();
    while !ended.load(Ordering::SeqCst) {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(_) => {
                thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        if ended.load(Ordering::SeqCst) {
            return;
        }
        let Ok(credentials) = rustix::net::sockopt::socket_peercred(&stream) else { continue };
        let uid = credentials.uid.as_raw();
        let Some(peer) = names.peer(uid, own_uid) else {
            refuse(&stream, Own::NobodyKnown.with(format!("user id {uid}")));
            continue;
        };
        if !clients.enter(peer) {
            refuse(&stream, Own::TooManyClients.into());
            continue;
        }
        let (events, seats) = (events.clone(), Arc::clone(&clients));
        let served = thread::Builder::new().name("client".into()).stack_size(CLIENT_STACK_BYTES).spawn(move || {
            serve(&stream, peer, &events);
            seats.leave(peer);
        });
        if served.is_err() {
            clients.leave(peer);
        }
    }
}

/// One client from its request to its answer.
fn serve(stream: &UnixStream, peer: Peer, events: &Events) {
    let (answer, answered) = sync_channel(1);
    let reply = match receive(stream) {
        Ok((ask, secrets)) => {
            if events.send(Event::Control(Request { peer, ask, secrets, answer })).is_err() {
                return refuse(stream, Refusal::Stopping.into());
            }
            // Without a deadline: the core answers every order, and its own deadlines bound the wait.
            match answered.recv() {
                Ok(reply) => reply,
                Err(_) => Problem::from(Refusal::Stopping).into(),
            }
        }
        Err(problem) => problem.into(),
    };
    // A client that left does not get its answer; the order is done all the same.
    let mut timed = Timed::new(stream, Some(CLIENT_DEADLINE));
    let sent = frame::send(&mut timed, Kind::Answer, &reply.answered);
    if let (Ok(()), Some(share)) = (sent, &reply.share) {
        // As above; whoever did not get their share has the collection reset.
        let _ = frame::send_secret(&mut timed, share);
    }
}

type Received = (Ask, Vec<(SecretRole, Zeroizing<Vec<u8>>)>);

fn receive(stream: &UnixStream) -> Result<Received, Problem> {
    let refused = |problem: FrameProblem| Own::FrameRefused.with(problem.to_string());
    let mut timed = Timed::new(stream, Some(CLIENT_DEADLINE));
    let request: wire::Request = frame::receive(&mut timed, Kind::Request).map_err(refused)?;
    if request.version != wire::VERSION {
        return Err(Own::OtherVersion.with(format!("daemon {}, client {}", wire::VERSION, request.version)));
    }
    if request.secrets.len() > SECRETS_MAX {
        return Err(Own::FrameRefused.with("more secrets than any order takes"));
    }
    let mut secrets = Vec::with_capacity(request.secrets.len());
    for role in request.secrets {
        secrets.push((role, frame::receive_secret(&mut timed, SECRET_BYTES_MAX).map_err(refused)?));
    }
    Ok((request.ask, secrets))
}

/// Answers without having read: a few hundred bytes always fit a fresh socket's buffer,
/// and a peer that does not take them is not waited for.
fn refuse(stream: &UnixStream, problem: Problem) {
    let _ =
        frame::send(&mut Timed::new(stream, Some(Duration::from_millis(100))), Kind::Answer, &Answered::from(problem));
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use slotwarden_core::person::PersonId;

    use super::*;
    use crate::names::PersonName;
    use crate::wire::Order;

    struct World {
        path: PathBuf,
        events: Receiver<Event>,
        socket: Option<ControlSocket>,
        _dir: tempfile::TempDir,
    }

    fn world() -> World {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is writable");
        let path = dir.path().join("run/control.sock");
        let (sender, events) = channel();
        let socket = listen(&path, Arc::new(Names::default()), sender).expect("the directory is ours");
        World { path, events, socket: Some(socket), _dir: dir }
    }

    impl World {
        fn connect(&self) -> UnixStream {
            UnixStream::connect(&self.path).expect("it listens")
        }

        /// What the daemon answers to these bytes.
        fn answer_to(&self, bytes: &[u8], close: bool) -> Problem {
            let mut stream = self.connect();
            stream.write_all(bytes).expect("it reads");
            if close {
                stream.shutdown(std::net::Shutdown::Write).expect("it is connected");
            }
            match frame::receive(&mut Timed::new(&stream, Some(Duration::from_secs(10))), Kind::Answer) {
                Ok(Answered::Problem { problem, .. }) => problem,
                other => panic!("a refusal was expected: {other:?}"),
            }
        }

        fn still_serves(&self) {
            let stream = self.connect();
            let ask = wire::Request { version: wire::VERSION, ask: Ask::Status, secrets: vec![] };
            frame::send(&mut Timed::new(&stream, None), Kind::Request, &ask).expect("it reads");
            match self.events.recv_timeout(Duration::from_secs(5)) {
                Ok(Event::Control(request)) => {
                    assert_eq!(request.ask, Ask::Status);
                    request.answer.send(Answered::Done.into()).expect("the client waits");
                }
                other => panic!("a request was expected: {other:?}"),
            }
            let answer = frame::receive(&mut Timed::new(&stream, None), Kind::Answer);
            assert_eq!(answer, Ok(Answered::Done));
        }
    }

    fn encoded(request: &wire::Request) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame::send(&mut bytes, Kind::Request, request).expect("a vector takes everything");
        bytes
    }

    #[test]
    fn p42_garbage_half_a_frame_and_one_gigabyte_are_refused_and_harm_nothing() {
        let world = world();
        assert_eq!(world.answer_to(&[0xFF; 64], false).number, 604);
        let mut gigabyte = 0x4000_0000u32.to_le_bytes().to_vec();
        gigabyte.push(1);
        assert_eq!(world.answer_to(&gigabyte, false).number, 604);
        let whole = encoded(&wire::Request { version: wire::VERSION, ask: Ask::Status, secrets: vec![] });
        assert_eq!(world.answer_to(&whole[..whole.len() - 1], true).number, 604);
        assert_eq!(world.answer_to(b"", true).number, 604);
        let other = wire::Request { version: 99, ask: Ask::Status, secrets: vec![] };
        assert_eq!(world.answer_to(&encoded(&other), false).number, 605);
        let many = wire::Request { version: wire::VERSION, ask: Ask::Status, secrets: vec![SecretRole::Code; 3] };
        assert_eq!(world.answer_to(&encoded(&many), false).number, 604);
        world.still_serves();
        assert!(world.events.try_recv().is_err(), "nothing of that reached the loop");
    }

    #[test]
    fn a_client_that_says_nothing_is_closed_after_the_deadline() {
        let world = world();
        let stream = world.connect();
        let begun = Instant::now();
        let answer: Result<Answered, _> =
            frame::receive(&mut Timed::new(&stream, Some(CLIENT_DEADLINE * 3)), Kind::Answer);
        assert!(matches!(answer, Ok(Answered::Problem { problem, .. }) if problem.number == 604));
        assert!(begun.elapsed() >= CLIENT_DEADLINE);
        world.still_serves();
    }

    #[test]
    fn p29_a_person_with_two_user_ids_takes_no_more_seats_than_with_one() {
        let (id, name) = (PersonId(1), "alice".to_owned());
        let names = Names { persons: vec![PersonName { id, name, uids: vec![1001, 1002] }], ..Names::default() };
        let clients = Clients::default();
        for place in 0..CLIENTS_MAX {
            let uid = if place % 2 == 0 { 1001 } else { 1002 };
            let seated = clients.enter(names.peer(uid, 0).expect("it is hers"));
            assert_eq!(seated, place < CLIENTS_PER_PERSON_MAX);
        }
        assert!(clients.enter(Peer::OwnUser), "the boot hook has a seat left");
    }

    #[test]
    fn clients_beyond_the_bound_are_turned_away_and_seats_are_given_back() {
        let world = world();
        let waiting: Vec<UnixStream> = (0..CLIENTS_PER_PERSON_MAX).map(|_| world.connect()).collect();
        let mut refused = false;
        // The seats are taken when the accepting thread has seen all of them, not before.
        for _ in 0..50 {
            let stream = world.connect();
            let answer: Result<Answered, _> =
                frame::receive(&mut Timed::new(&stream, Some(Duration::from_millis(100))), Kind::Answer);
            refused = matches!(answer, Ok(Answered::Problem { problem, .. }) if problem.number == 606);
            if refused {
                break;
            }
        }
        assert!(refused);
        drop(waiting);
        thread::sleep(Duration::from_millis(200));
        world.still_serves();
    }

    #[test]
    fn secrets_arrive_in_their_roles_and_are_not_printed() {
        let world = world();
        let stream = world.connect();
        let order = Order::ChangeCode { slot: "a".into(), confirmed: false, accept: Vec::new() };
        let secrets = vec![SecretRole::Code, SecretRole::NewCode];
        let mut timed = Timed::new(&stream, None);
        let request = wire::Request { version: wire::VERSION, ask: Ask::Order(order), secrets };
        frame::send(&mut timed, Kind::Request, &request).expect("it reads");
        frame::send_secret(&mut timed, b"hunter2-old").expect("it reads");
        frame::send_secret(&mut timed, b"hunter2-new").expect("it reads");
        let event = world.events.recv_timeout(Duration::from_secs(5)).expect("it arrives");
        assert!(!format!("{event:?}").contains("hunter2"));
        let Event::Control(request) = event else { panic!("a request was expected") };
        let arrived: Vec<_> = request.secrets.iter().map(|(role, secret)| (*role, secret.as_slice())).collect();
        assert_eq!(arrived, [(SecretRole::Code, &b"hunter2-old"[..]), (SecretRole::NewCode, &b"hunter2-new"[..])]);
    }

    #[test]
    fn a_living_daemons_socket_is_not_taken_and_a_dead_ones_is() {
        let mut world = world();
        let (sender, _events) = channel();
        let taken = listen(&world.path, Arc::new(Names::default()), sender.clone());
        assert!(taken.expect_err("it listens").is(Refusal::StoreLocked));
        world.socket = None;
        assert!(!world.path.exists());
        drop(UnixListener::bind(&world.path).expect("the path is free"));
        assert!(world.path.exists(), "a dead daemon leaves its file");
        listen(&world.path, Arc::new(Names::default()), sender).expect("nobody answers there");
    }

    #[test]
    fn a_loop_that_ended_answers_that_it_stops() {
        let world = world();
        let stream = world.connect();
        let ask = wire::Request { version: wire::VERSION, ask: Ask::Status, secrets: vec![] };
        frame::send(&mut Timed::new(&stream, None), Kind::Request, &ask).expect("it reads");
        drop(world.events.recv_timeout(Duration::from_secs(5)).expect("it arrives"));
        let answer: Result<Answered, _> = frame::receive(&mut Timed::new(&stream, None), Kind::Answer);
        assert!(matches!(answer, Ok(Answered::Problem { problem, .. }) if problem.is(Refusal::Stopping)));
    }
}
