//! A small HTTP server for stand-ins, plain or with TLS and certificates of its clients: one
//! request a connection, one thread each, no bodies in its answers.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Longest request, bytes.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// What a client asked for.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
}

/// Serves on a port of this machine until the test process ends. `answer` gives the status,
/// or `None`: no answer, and the connection stays open.
pub(crate) fn serve<F>(tls: Option<Arc<ServerConfig>>, answer: F) -> SocketAddr
where
    F: Fn(&Request) -> Option<u16> + Send + Sync + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("this machine has ports");
    let address = listener.local_addr().expect("it is bound");
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            let (tls, answer) = (tls.clone(), Arc::clone(&answer));
            thread::spawn(move || {
                // A client that goes away or is not let in is no error of the server.
                let _ = match tls {
                    None => converse(stream, answer.as_ref()),
                    Some(tls) => ServerConnection::new(tls)
                        .map_err(io::Error::other)
                        .and_then(|connection| converse(StreamOwned::new(connection, stream), answer.as_ref())),
                };
            });
        }
    });
    address
}

/// A port on which nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("this machine has ports");
    listener.local_addr().expect("it is bound")
}

fn converse<S: Read + Write>(mut stream: S, answer: &dyn Fn(&Request) -> Option<u16>) -> io::Result<()> {
    let request = read(&mut stream)?;
    let Some(status) = answer(&request) else {
        // Longer than any test waits.
        thread::sleep(Duration::from_secs(600));
        return Ok(());
    };
    write!(stream, "HTTP/1.1 {status} Stand-in\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    stream.flush()
}

fn read(stream: &mut impl Read) -> io::Result<Request> {
    let mut bytes = Vec::new();
    let mut part = [0; 1024];
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Request::new(&mut headers);
        if let httparse::Status::Complete(end) = head.parse(&bytes).map_err(io::Error::other)? {
            let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
            let length = length.and_then(|header| str::from_utf8(header.value).ok()?.parse().ok()).unwrap_or(0_usize);
            let (method, path) = (head.method.unwrap_or_default().to_owned(), head.path.unwrap_or_default().to_owned());
            if let Some(body) = bytes.get(end..end + length) {
                return Ok(Request { method, path, body: body.to_vec() });
            }
        }
        let filled = stream.read(&mut part)?;
        if filled == 0 || bytes.len() > REQUEST_BYTES_MAX {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&part[..filled]);
    }
}
