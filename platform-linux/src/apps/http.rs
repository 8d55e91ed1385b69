//! HTTP requests of the adapters: no proxy, no redirect, no connection kept, TLS with our
//! own certificate and nobody's but the configured authorities.
//!
//! Only the status of an answer is used; its body is never read, so nothing that a server
//! echoes can reach a log. What was sent stays in the client's own buffers until they are
//! used again: they are in locked memory of a process that nobody may read, and not wiped.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use slotwarden_core::fault::ApplicationFault;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Error};
use zeroize::Zeroizing;

use super::Failed;
use crate::config::TlsSettings;

/// `200 OK` (RFC 9110, section 15.3.1).
pub const OK: u16 = 200;

/// A client.
#[derive(Clone, Debug)]
pub struct Http(Agent);

impl Http {
    /// Without TLS: the configuration allows only addresses of this machine.
    #[must_use]
    pub fn plain() -> Self {
        // Nobody is believed, should an address be an encrypted one all the same.
        Http::with(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&[])))
    }

    /// With these certificates.
    ///
    /// # Errors
    /// Which file cannot be used.
    pub fn encrypted(settings: &TlsSettings) -> Result<Self, String> {
        let ours = certificates(&settings.certificate_file)?;
        let key = read(&settings.key_file)?;
        let key = PrivateKey::from_pem(&key).map_err(|_| unusable(&settings.key_file, "no private key"))?;
        let roots = RootCerts::new_with_certs(&certificates(&settings.ca_file)?);
        let client = ClientCert::new_with_certs(&ours, key);
        Ok(Http::with(TlsConfig::builder().client_cert(Some(client)).root_certs(roots)))
    }

    fn with(tls: ureq::tls::TlsConfigBuilder) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = Agent::config_builder()
            .tls_config(tls.unversioned_rustls_crypto_provider(provider).build())
            // The environment must not lead a token PIN through a proxy.
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .max_idle_connections(0)
            .user_agent("slotwarden");
        Http(config.build().into())
    }

    /// The status of a GET.
    ///
    /// # Errors
    /// [`ApplicationFault::TimedOut`], [`ApplicationFault::Unreachable`].
    pub fn get(&self, url: &str, until: Instant) -> Result<u16, Failed> {
        let left = until.saturating_duration_since(Instant::now());
        let answer = self.0.get(url).config().timeout_global(Some(left)).build().call();
        answer.map(|answer| answer.status().as_u16()).map_err(|error| failed(&error))
    }

    /// The status of a PUT, with a body in JSON or without any.
    ///
    /// # Errors
    /// [`ApplicationFault::TimedOut`], [`ApplicationFault::Unreachable`].
    pub fn put(&self, url: &str, json: Option<&[u8]>, until: Instant) -> Result<u16, Failed> {
        let left = until.saturating_duration_since(Instant::now());
        let request = self.0.put(url).config().timeout_global(Some(left)).build();
        let answer = match json {
            Some(json) => request.content_type("application/json").send(json),
            None => request.send_empty(),
        };
        answer.map(|answer| answer.status().as_u16()).map_err(|error| failed(&error))
    }
}

fn failed(error: &Error) -> Failed {
    let fault = match error {
        Error::Timeout(_) => ApplicationFault::TimedOut,
        // Everything else: the server was not reached, or did not speak HTTP, or is not believed.
        _ => ApplicationFault::Unreachable,
    };
    Failed::new(fault, format!("HTTP: {error}"))
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let items: Result<Vec<_>, _> = parse_pem(&read(path)?).collect();
    let items = items.map_err(|_| unusable(path, "not PEM"))?;
    let certificate = |item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    };
    let found: Vec<_> = items.into_iter().filter_map(certificate).collect();
    if found.is_empty() { Err(unusable(path, "no certificate")) } else { Ok(found) }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    fs::read(path).map(Zeroizing::new).map_err(|error| unusable(path, &error.to_string()))
}

fn unusable(path: &Path, why: &str) -> String {
    format!("{}: {why}", path.display())
}
