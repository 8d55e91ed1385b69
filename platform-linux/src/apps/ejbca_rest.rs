//! The adapter `ejbca-rest`: a crypto token of EJBCA Enterprise, by its REST interface.
//!
//! `PUT {base_url}/v1/cryptotoken/{crypto_token}/activate` with `{"activation_code": "..."}`
//! and `PUT .../deactivate` without a body; both answer 200 without a body, also when nothing
//! changed, and something else when the code is wrong, the name unknown (400 or 422, by
//! version), the right missing (403) or the device offline (503). From: "V1CryptotokenApi"
//! of Keyfactor/ejbca-go-client-sdk and ejbca-java-client-sdk; EJBCA's own
//! `CryptoTokenRestResource`, its system test, and `ExceptionHandler` (Keyfactor/ejbca-ce).
//!
//! **200 to `activate` does not prove that our token PIN opened anything.** With
//! auto-activation EJBCA keeps a PIN of its own and uses that one, and a crypto token that is
//! deactivated is active again at once (`deactivate` in `CryptoTokenManagementSessionBean`
//! and the PKCS#11 tokens). And the interface has no resource that tells a crypto token's
//! state: `GET /v1/cryptotoken/status` is about the interface itself. What is documented to
//! depend on it is the health check ("an activated CA cannot remain online if the Crypto
//! Token goes offline": "Monitoring and Healthcheck" of EJBCA's documentation), which answers
//! 200 when all is well. So an order is done only when the health check followed it:
//!
//! - give back: `deactivate`, and then the health check is *not* well;
//! - hand over: give back first; then `activate`, and then the health check is well.
//!
//! A crypto token that stays well after `deactivate` is one with auto-activation, or one that
//! no CA of the health check uses: either way nobody can tell what our PIN did, and it is refused.

use std::thread;
use std::time::{Duration, Instant};

use slotwarden_core::fault::ApplicationFault;
use zeroize::Zeroizing;

use super::http::{Http, OK};
use super::pin::Pin;
use super::{Failed, Served};
use crate::config::{EjbcaRestSettings, TlsSettings};

/// Pause between two looks at the health check.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Which part of an order's time a health check has to follow `deactivate`: one in four.
const FOLLOW_PART: u32 = 4;
/// `503 Service Unavailable`: the crypto token's device is offline.
const DEVICE_OFFLINE: u16 = 503;

/// One crypto token.
#[derive(Debug)]
pub struct CryptoToken {
    tls: Option<TlsSettings>,
    activate: String,
    deactivate: String,
    health: String,
}

impl CryptoToken {
    /// As configured.
    #[must_use]
    pub fn new(settings: &EjbcaRestSettings) -> Self {
        let token = format!("{}/v1/cryptotoken/{}", settings.base_url, path_segment(&settings.crypto_token));
        CryptoToken {
            tls: settings.tls.clone(),
            activate: format!("{token}/activate"),
            deactivate: format!("{token}/deactivate"),
            health: settings.health_url.clone(),
        }
    }

    /// Files are read for each order: a renewed certificate needs no restart, and one that
    /// cannot be used stops this application alone.
    fn http(&self) -> Result<Http, Failed> {
        let http = self.tls.as_ref().map_or_else(|| Ok(Http::plain()), Http::encrypted);
        http.map_err(|why| Failed::new(ApplicationFault::Unreachable, why))
    }

    fn put(&self, http: &Http, what: &str, url: &str, json: Option<&[u8]>, until: Instant) -> Result<(), Failed> {
        let fault = match http.put(url, json, until)? {
            OK => return Ok(()),
            DEVICE_OFFLINE => Failed::new(ApplicationFault::Unreachable, format!("`{what}`: its device is offline")),
            status => Failed::new(ApplicationFault::Refused, format!("`{what}` was answered with {status}")),
        };
        Err(fault)
    }

    /// Whether the health check comes to say this before `until`.
    fn becomes(&self, http: &Http, well: bool, until: Instant) -> Result<bool, Failed> {
        loop {
            match http.get(&self.health, until) {
                Ok(status) if (status == OK) == well => return Ok(true),
                Ok(_) => {}
                Err(failed) if failed.fault == ApplicationFault::TimedOut => return Ok(false),
                Err(failed) => return Err(failed),
            }
            if Instant::now() + LOOK_PAUSE >= until {
                return Ok(false);
            }
            thread::sleep(LOOK_PAUSE);
        }
    }

    fn give_back(&self, http: &Http, until: Instant) -> Result<(), Failed> {
        self.put(http, "deactivate", &self.deactivate, None, until)?;
        let now = Instant::now();
        let follows = now + until.saturating_duration_since(now) / FOLLOW_PART;
        if self.becomes(http, false, follows)? {
            return Ok(());
        }
        let reason = "the health check stays well after `deactivate`: auto-activation is on, or no CA that it \
                      checks uses the crypto token";
        Err(Failed::new(ApplicationFault::AutoActivation, reason))
    }
}

impl Served for CryptoToken {
    fn hand_over(&mut self, pin: Pin, until: Instant) -> Result<(), Failed> {
        let http = self.http()?;
        self.give_back(&http, until)?;
        let body = activation(&pin);
        drop(pin);
        let answer = self.put(&http, "activate", &self.activate, Some(&body), until);
        drop(body);
        answer?;
        if self.becomes(&http, true, until)? {
            return Ok(());
        }
        Err(Failed::new(ApplicationFault::NotHealthy, "the health check does not become well after `activate`"))
    }

    fn withdraw(&mut self, until: Instant) -> Result<(), Failed> {
        self.give_back(&self.http()?, until)
    }
}

/// `{"activation_code": "..."}`, in a buffer that never grows and is wiped.
fn activation(pin: &Pin) -> Zeroizing<Vec<u8>> {
    const BEFORE: &[u8] = b"{\"activation_code\":\"";
    const AFTER: &[u8] = b"\"}";
    let mut body = Zeroizing::new(Vec::with_capacity(BEFORE.len() + 2 * pin.bytes().len() + AFTER.len()));
    body.extend_from_slice(BEFORE);
    for byte in pin.bytes() {
        // Token PINs are printable ASCII; of these JSON escapes two (RFC 8259, section 7).
        if matches!(byte, b'"' | b'\\') {
            body.push(b'\\');
        }
        body.push(*byte);
    }
    body.extend_from_slice(AFTER);
    body
}

/// A name as a part of an address' path: everything but unreserved characters in percent
/// notation (RFC 3986, section 2.3).
fn path_segment(name: &str) -> String {
    let mut segment = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use slotwarden_core::SecretId;

    use super::*;
    use crate::devices::Lend;

    struct One(&'static [u8]);

    impl Lend for One {
        fn lend(&self, _: SecretId, read: &mut dyn FnMut(&[u8])) -> bool {
            read(self.0);
            true
        }
    }

    #[test]
    fn every_printable_character_of_a_pin_arrives() {
        let id = slotwarden_core::Safe::<1>::new().fill(|_| 1).expect("it is empty");
        let pin = Pin::of(id, &One(br#"a"b\c {}~"#)).expect("it is lent");
        let body: serde_json::Value = serde_json::from_slice(&activation(&pin)).expect("JSON");
        assert_eq!(body, serde_json::json!({ "activation_code": r#"a"b\c {}~"# }));
    }

    #[test]
    fn names_of_crypto_tokens_stay_one_part_of_the_path() {
        assert_eq!(path_segment("Root CA/1?ü"), "Root%20CA%2F1%3F%C3%BC");
    }
}
