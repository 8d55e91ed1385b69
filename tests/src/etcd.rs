//! A real etcd of several members on loopback, with its data in memory.
//!
//! Each member is a child known by its process id, which is also in a file beside its data; it is
//! ended by that id, and by the kernel when the thread that started it ends without doing so.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longest wait for etcd to be healthy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// An etcd, seen from the thread that started it.
pub struct Etcd {
    members: Vec<Member>,
    folder: TempDir,
}

struct Member {
    client_port: u16,
    peer_port: u16,
    child: Option<Child>,
}

impl Etcd {
    /// An etcd of so many members, healthy.
    ///
    /// # Panics
    /// Without etcd: with what is missing.
    #[must_use]
    pub fn start(members: usize) -> Self {
        // Held together, so that no port is given twice.
        let held: Vec<TcpListener> =
            (0..2 * members).map(|_| TcpListener::bind("127.0.0.1:0").expect("loopback is there")).collect();
        let ports: Vec<u16> = held.iter().map(|held| held.local_addr().expect("just bound").port()).collect();
        drop(held);
        let member = |pair: &[u16]| Member { client_port: pair[0], peer_port: pair[1], child: None };
        let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is writable");
        let mut etcd = Etcd { members: ports.chunks(2).map(member).collect(), folder };
        etcd.start_all();
        etcd
    }

    /// Where clients find its members, in their order.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::endpoint).collect()
    }

    /// Kills a member, counting from 0: it says nothing to anybody.
    pub fn kill(&mut self, member: usize) {
        let Some(mut child) = self.members[member].child.take() else { return };
        // Its own child, so the id is still its own.
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        fs::remove_file(self.place(member, "pid")).expect("written when it was started");
    }

    /// Kills every member.
    pub fn kill_all(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }

    /// Starts a member that was killed, with the data it had, and waits until it is healthy.
    pub fn start_again(&mut self, member: usize) {
        self.spawn(member);
        self.wait(member);
    }

    /// Starts every member that was killed, and waits until all are healthy.
    pub fn start_all(&mut self) {
        for member in 0..self.members.len() {
            self.spawn(member);
        }
        for member in 0..self.members.len() {
            self.wait(member);
        }
    }

    /// Kills every member and throws the data away; they begin anew at [`Etcd::start_all`].
    pub fn lose_everything(&mut self) {
        self.kill_all();
        for member in 0..self.members.len() {
            fs::remove_dir_all(self.place(member, "data")).expect("our own folder");
        }
    }

    /// Runs etcdctl with this on its standard input; what it printed.
    ///
    /// # Panics
    /// When it fails: with what it said.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let running: Vec<String> =
            self.members.iter().filter(|member| member.child.is_some()).map(Member::endpoint).collect();
        let mut child = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", running.join(",")))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("etcdctl is missing: apt-get install etcd-client");
        child.stdin.take().expect("it is piped").write_all(input).expect("etcdctl reads it");
        let output = child.wait_with_output().expect("our own child");
        assert!(output.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn spawn(&mut self, member: usize) {
        if self.members[member].child.is_some() {
            return;
        }
        let peer = |member: &Member| format!("http://127.0.0.1:{}", member.peer_port);
        let all: Vec<String> =
            self.members.iter().enumerate().map(|(number, member)| format!("m{number}={}", peer(member))).collect();
        let own = &self.members[member];
        let (client, peer) = (own.endpoint(), peer(own));
        let log = File::create(self.place(member, "log")).expect("our own folder");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd", "--name", &format!("m{member}"), "--data-dir"])
            .arg(self.place(member, "data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"])
            // In memory there is nothing to sync; a loaded machine must not lose its leader.
            .args(["--unsafe-no-fsync", "--heartbeat-interval", "100", "--election-timeout", "1500"])
            .args(["--logger", "zap", "--log-level", "warn"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("setpriv is missing: apt-get install util-linux");
        fs::write(self.place(member, "pid"), child.id().to_string()).expect("our own folder");
        self.members[member].child = Some(child);
    }

    fn wait(&mut self, member: usize) {
        let began = Instant::now();
        while !self.members[member].is_healthy() {
            let child = self.members[member].child.as_mut().expect("it was started");
            let ended = child.try_wait().expect("our own child");
            let log = || fs::read_to_string(self.folder.path().join(format!("m{member}.log"))).unwrap_or_default();
            assert!(ended.is_none(), "etcd ended: {}\napt-get install etcd-server", log());
            assert!(began.elapsed() < PATIENCE, "etcd is not healthy: {}", log());
            thread::sleep(LOOK_PAUSE);
        }
    }

    fn place(&self, member: usize, what: &str) -> PathBuf {
        Path::new(self.folder.path()).join(format!("m{member}.{what}"))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill_all();
    }
}

impl Member {
    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// Whether it says that it is, and has a leader (`GET /health`).
    fn is_healthy(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.client_port))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        };
        ask().is_ok_and(|answer: String| answer.contains("\"health\":\"true\""))
    }
}
