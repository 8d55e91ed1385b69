//! etcd, as an engine: the members of the cluster need no common file system.
//!
//! ```text
//! slotwarden/1/⟨cluster⟩/offer/⟨node⟩/package                        length, SHA-256, parts
//! slotwarden/1/⟨cluster⟩/part/⟨node⟩/package/⟨SHA-256⟩/00000000      512 KiB of it
//! ```
//!
//! etcd refuses requests over 1.5 MiB (`--max-request-bytes`), so a file is cut. Parts lie under the
//! hash of their file, so those of a new one replace none of the old one's; when all are there, one
//! transaction writes the offer and removes every part of other files, provided that the last part is
//! still the one that was written. Who reads sees the old file, the new one, or that it changed
//! meanwhile. What a publication that was cut off left behind goes with the next one.
//!
//! A watch on the offers rings the bell and carries nothing: what there is, is always looked up. So
//! a watch that broke is begun anew from now on and rings once, and neither revisions nor their
//! compaction matter. No lease is used: offers stay while their node is down.
//!
//! One endpoint is used until it fails, then the next one. Requests are bounded in time, and
//! connections are pinged, so a member that vanished without a word is noticed.
//!
//! etcd keeps what was removed until its history is compacted: it wants `--auto-compaction-retention`.

use std::fs;
use std::future::Future;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, Error, Identity, TlsOptions, Txn, TxnOp,
    WatchOptions,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::{Bell, Exchange, Failure, Members, Name, Offer, Source, Version, ours};
use crate::audit::{hex, unhex};
use crate::config::EtcdSettings;

/// Length of a part, bytes: a third of what etcd takes in one request.
pub const PART_BYTES: usize = 512 * 1024;
/// Longest text of an offer, bytes: ours have under 200.
const OFFER_BYTES_MAX: usize = 1024;
/// Longest wait for the answer to a request: 512 KiB at 52 KB/s.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// How often a connection is pinged, and how long an answer is waited for.
const PING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3));
/// First and longest pause before a broken watch is begun anew.
const WATCH_PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// The layout of keys and offers that is described above.
const FORMAT: u32 = 1;

/// An etcd.
pub struct Etcd {
    endpoints: Vec<String>,
    options: ConnectOptions,
    /// Which endpoint is used.
    place: usize,
    client: Option<Client>,
    watching: Option<AbortHandle>,
    /// `Some` until the end.
    runtime: Option<Runtime>,
}

/// What an offer says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    length_bytes: u64,
    sha256: String,
    /// The revision of the last part, so that the same file published anew is another version.
    revision: i64,
}

impl Etcd {
    /// Reads the certificates; nothing is connected yet.
    ///
    /// # Errors
    /// A file cannot be read, or no thread can be started.
    pub fn new(settings: &EtcdSettings) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("exchange etcd")
            .enable_all()
            .build()?;
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_MAX)
            .with_keep_alive(PING.0, PING.1)
            .with_require_leader(true);
        if settings.ca_file.is_some() || settings.identity.is_some() {
            let mut tls = TlsOptions::new();
            if let Some(ca) = &settings.ca_file {
                tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
            }
            if let Some((certificate, key)) = &settings.identity {
                tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
            }
            options = options.with_tls(tls);
        }
        Ok(Etcd {
            endpoints: settings.endpoints.clone(),
            options,
            place: 0,
            client: None,
            watching: None,
            runtime: Some(runtime),
        })
    }

    /// Asks one endpoint after the other until one answers. What is asked can be asked twice.
    fn ask<T, F>(&mut self, request: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let Some(runtime) = &self.runtime else { return Err(Failure::Unreachable("it ended".to_owned())) };
        let mut reason = "no endpoint is configured".to_owned();
        for _ in 0..self.endpoints.len() {
            let Some(endpoint) = self.endpoints.get(self.place) else { break };
            let known = self.client.take();
            // Its clock is the runtime's, so it is made in there.
            let asked = runtime.block_on(async {
                let exchange = async {
                    let client = match known {
                        Some(client) => client,
                        None => Client::connect([endpoint.as_str()], Some(self.options.clone())).await?,
                    };
                    let answer = request(client.clone()).await?;
                    Ok((client, answer))
                };
                timeout(REQUEST_MAX, exchange).await
            });
            match asked {
                Ok(Ok((client, answer))) => {
                    self.client = Some(client);
                    return Ok(answer);
                }
                Ok(Err(error)) if is_oversized(&error) => return Err(Failure::Changed),
                Ok(Err(error)) => reason = format!("{endpoint}: {error}"),
                Err(_) => reason = format!("{endpoint}: it does not answer"),
            }
            self.place = (self.place + 1) % self.endpoints.len();
        }
        Err(Failure::Unreachable(reason))
    }

    fn offered(&mut self, name: &Name) -> Result<Option<Offer>, Failure> {
        let key = offer_key(name);
        let mut answer = match self.ask(|mut client| {
            let key = key.clone();
            async move { client.get(key, None).await }
        }) {
            Ok(answer) => answer,
            // Somebody put there what no member would: as if there were nothing.
            Err(Failure::Changed) => return Ok(None),
            Err(failure @ (Failure::Unreachable(_) | Failure::Ours(_))) => return Err(failure),
        };
        Ok(answer.take_kvs().first().and_then(|found| understood(name, found.value())))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // Not waited for: a request may be under way.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Exchange for Etcd {
    fn description(&self) -> String {
        format!("etcd {}", self.endpoints.join(", "))
    }

    fn watch(&mut self, members: &Members, bell: Bell) -> Result<(), Failure> {
        if let Some(watching) = self.watching.take() {
            watching.abort();
        }
        let Some(runtime) = &self.runtime else { return Err(Failure::Unreachable("it ended".to_owned())) };
        let prefix = format!("slotwarden/{FORMAT}/{}/offer/", hex(&members.cluster));
        let (endpoints, options) = (self.endpoints.clone(), self.options.clone());
        self.watching = Some(runtime.spawn(watch(endpoints, options, prefix, bell)).abort_handle());
        Ok(())
    }

    fn look(&mut self, wanted: &[Name]) -> Result<Vec<Offer>, Failure> {
        let mut offers = Vec::new();
        // One by one: what lies under one name must not hide the others by its size.
        for name in wanted {
            offers.extend(self.offered(name)?);
        }
        Ok(offers)
    }

    fn fetch(&mut self, offer: &Offer, into: &mut dyn Write) -> Result<(), Failure> {
        let hash = offer.hash.ok_or(Failure::Changed)?;
        let mut left_bytes = offer.length_bytes;
        for number in 0.. {
            if left_bytes == 0 {
                break;
            }
            let key = part_key(&offer.name, &hash, number);
            let mut answer = self.ask(|mut client| {
                let key = key.clone();
                async move { client.get(key, None).await }
            })?;
            let part = answer.take_kvs().into_iter().next().ok_or(Failure::Changed)?;
            let expected = left_bytes.min(PART_BYTES as u64);
            if part.value().len() as u64 != expected {
                return Err(Failure::Changed);
            }
            into.write_all(part.value()).map_err(|error| ours(&error))?;
            left_bytes -= expected;
        }
        Ok(())
    }

    fn publish(&mut self, name: &Name, source: &mut Source<'_>) -> Result<Offer, Failure> {
        let (mut hash, mut length_bytes, mut last) = (Sha256::new(), 0, None);
        let mut part = vec![0; PART_BYTES];
        for number in 0.. {
            let count = fill(&mut part, source).map_err(|error| ours(&error))?;
            let Some(bytes) = part.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            hash.update(bytes);
            length_bytes += count as u64;
            let key = part_key(name, &source.hash, number);
            let answer = self.ask(|mut client| {
                let (key, bytes) = (key.clone(), bytes.to_vec());
                async move { client.put(key, bytes, None).await }
            })?;
            last = Some((key, answer.header().map_or(0, |header| header.revision())));
        }
        if length_bytes != source.length_bytes || hash.finalize()[..] != source.hash {
            return Err(Failure::Changed);
        }
        let revision = last.as_ref().map_or(0, |(_, revision)| *revision);
        let manifest = Manifest { format: FORMAT, length_bytes, sha256: hex(&source.hash), revision };
        let text = serde_json::to_vec(&manifest).map_err(|error| Failure::Ours(error.to_string()))?;
        let (all, own) = (parts_prefix(name), format!("{}{}", parts_prefix(name), hex(&source.hash)));
        let still: Vec<Compare> =
            last.into_iter().map(|(key, revision)| Compare::mod_revision(key, CompareOp::Equal, revision)).collect();
        let others = [(all.clone(), format!("{own}/")), (format!("{own}0"), format!("{}0", all.trim_end_matches('/')))];
        let answer = self.ask(|mut client| {
            let mut orders = vec![TxnOp::put(offer_key(name), text.clone(), None)];
            // From one key up to another, which stays; `0` follows `/`.
            orders.extend(
                others
                    .iter()
                    .map(|(from, to)| TxnOp::delete(from.clone(), Some(DeleteOptions::new().with_range(to.clone())))),
            );
            let order = Txn::new().when(still.clone()).and_then(orders);
            async move { client.txn(order).await }
        })?;
        if !answer.succeeded() {
            return Err(Failure::Changed);
        }
        understood(name, &text).ok_or(Failure::Changed)
    }

    fn withdraw(&mut self, name: &Name) -> Result<(), Failure> {
        self.ask(|mut client| {
            let parts = DeleteOptions::new().with_prefix();
            let orders = vec![TxnOp::delete(offer_key(name), None), TxnOp::delete(parts_prefix(name), Some(parts))];
            async move { client.txn(Txn::new().and_then(orders)).await }
        })
        .map(|_| ())
    }
}

/// The key of an offer: whose, and of which file.
#[must_use]
pub fn offer_key(name: &Name) -> String {
    format!("slotwarden/{FORMAT}/{}/offer/{}/{}", name.cluster_hex(), name.node_hex(), name.what.word())
}

/// The key of a part of the file that has this hash, counting from 0.
#[must_use]
pub fn part_key(name: &Name, hash: &[u8; 32], number: u32) -> String {
    format!("{}{}/{number:08}", parts_prefix(name), hex(hash))
}

fn parts_prefix(name: &Name) -> String {
    format!("slotwarden/{FORMAT}/{}/part/{}/{}/", name.cluster_hex(), name.node_hex(), name.what.word())
}

/// An offer, if it is one.
fn understood(name: &Name, text: &[u8]) -> Option<Offer> {
    let text = Some(text).filter(|text| text.len() <= OFFER_BYTES_MAX)?;
    let manifest: Manifest = serde_json::from_slice(text).ok().filter(|found: &Manifest| found.format == FORMAT)?;
    let hash = Some(unhex(&manifest.sha256)?);
    let version = Version(Sha256::digest(text).into());
    Some(Offer { name: *name, version, length_bytes: manifest.length_bytes, hash })
}

/// Whether a message was longer than any of ours (4 MiB, the bound of the client).
fn is_oversized(error: &Error) -> bool {
    // The code itself is of a crate that we do not name: `OutOfRange` says so in its text.
    matches!(error, Error::GRpcStatus(status) if status.message().contains("message length too large"))
}

fn fill(part: &mut [u8], source: &mut Source<'_>) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = part.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match source.bytes.read(rest) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Rings whenever an offer changed, until it is aborted.
async fn watch(endpoints: Vec<String>, options: ConnectOptions, prefix: String, bell: Bell) {
    let mut pause = WATCH_PAUSES.0;
    for endpoint in endpoints.iter().cycle() {
        if watch_at(endpoint, &options, &prefix, &bell).await {
            pause = WATCH_PAUSES.0;
            // What happens until the next one begins is found then.
            bell();
        }
        sleep(pause).await;
        pause = (pause * 2).min(WATCH_PAUSES.1);
    }
}

/// Watches at one endpoint until that fails. Whether it began at all.
async fn watch_at(endpoint: &str, options: &ConnectOptions, prefix: &str, bell: &Bell) -> bool {
    let begun = timeout(REQUEST_MAX, async {
        let mut client = Client::connect([endpoint], Some(options.clone())).await?;
        client.watch(prefix, Some(WatchOptions::new().with_prefix())).await
    });
    let Ok(Ok(mut changes)) = begun.await else { return false };
    bell();
    while let Ok(Some(change)) = changes.message().await {
        if change.canceled() {
            break;
        }
        bell();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::super::What;
    use super::*;

    const NAME: Name = Name { cluster: [0xC1; 16], node: [0xA0; 32], what: What::Package };

    #[test]
    fn what_is_no_offer_is_not_understood_and_an_offer_is() {
        let hash = hex(&[7; 32]);
        let good = format!(r#"{{"format":1,"length_bytes":5,"sha256":"{hash}","revision":9}}"#);
        for wrong in [
            String::new(),
            "{}".to_owned(),
            good.replace("\"format\":1", "\"format\":2"),
            good.replace(":5", ":-5"),
            good.replace("0707", "07"),
            good.replace("0707", "zz07"),
            good.replace(":9", ":9,\"more\":1"),
            format!("{good}{}", " ".repeat(OFFER_BYTES_MAX)),
        ] {
            assert_eq!(understood(&NAME, wrong.as_bytes()), None, "{wrong}");
        }
        let found = understood(&NAME, good.as_bytes()).expect("an offer");
        assert_eq!((found.name, found.length_bytes, found.hash), (NAME, 5, Some([7; 32])));
        let again = understood(&NAME, good.replace(":9", ":10").as_bytes()).expect("an offer");
        assert_ne!(again.version, found.version, "published anew is another version");
    }

    #[test]
    fn an_etcd_that_is_not_there_is_unreachable_within_seconds_and_its_end_waits_for_nothing() {
        // Nothing listens on this port: it is held and not listened on.
        let held = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
        let port = held.local_addr().expect("just bound").port();
        let endpoints = vec![format!("http://127.0.0.1:{port}"), "http://127.0.0.1:1".to_owned()];
        let mut etcd =
            Etcd::new(&EtcdSettings { endpoints, ..EtcdSettings::default() }).expect("threads can be started");
        let began = std::time::Instant::now();
        assert!(matches!(etcd.look(&[NAME]), Err(Failure::Unreachable(_))));
        assert!(began.elapsed() < REQUEST_MAX * 3);
        let began = std::time::Instant::now();
        drop(etcd);
        assert!(began.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn certificates_that_cannot_be_read_are_named() {
        let settings = EtcdSettings { ca_file: Some("/no/such/ca.pem".into()), ..EtcdSettings::default() };
        assert!(Etcd::new(&settings).is_err_and(|error| error.to_string().starts_with("/no/such/ca.pem: ")));
    }
}
