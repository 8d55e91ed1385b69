//! The adapter `ejbca-rest`, against a stand-in for EJBCA Enterprise: the two calls of its
//! REST interface and its health check, answered as the documentation says. Its crypto token
//! is the slot's token: what it is given it tries there, with pkcs11-tool.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use slotwarden_tests::modules::{Kind, SO_PIN};
use slotwarden_tests::stage::{Stage, run};

use super::server::{self, Request};
use super::{CODE, NEW_CODE, application, at_once, tells_no_secret};

const BASE: &str = "/ejbca/ejbca-rest-api";
const HEALTH: &str = "/ejbca/publicweb/healthcheck/ejbcahealth";
/// Its name in EJBCA, and as a part of an address.
const TOKEN: (&str, &str) = ("Root CA", "Root%20CA");

/// How often it tries an old PIN.
const TRIES: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Well,
    /// A PIN of its own is stored: one that is supplied is ignored, and the crypto token is
    /// active whatever is asked for.
    AutoActivation,
    /// It activates and never gets healthy.
    Sick,
    /// It takes requests and never answers.
    Hangs,
    /// Our certificate has no right to the crypto token.
    Forbidden,
    /// Its device is offline.
    Offline,
    /// A part of it goes on with the PIN that it had first.
    KeepsTheOldPin,
}

struct World {
    mood: Mood,
    active: bool,
    /// What was supplied last and opened the token.
    has: Option<String>,
    first: Option<String>,
    /// Tries that the token refused after a change.
    refused: u32,
}

struct Ejbca {
    world: Mutex<World>,
    module: PathBuf,
    environment: Vec<(OsString, OsString)>,
}

impl Ejbca {
    fn on(stage: &Stage) -> Arc<Self> {
        let world = World { mood: Mood::Well, active: false, has: None, first: None, refused: 0 };
        let bench = &stage.bench;
        let (module, environment) = (bench.settings(&[]).module, bench.environment());
        Arc::new(Ejbca { world: Mutex::new(world), module, environment })
    }

    fn mood(&self, mood: Mood) {
        let mut world = self.world.lock().expect("nobody panics with it");
        world.mood = mood;
        world.active |= mood == Mood::AutoActivation;
    }

    fn has(&self) -> Option<String> {
        self.world.lock().expect("nobody panics with it").has.clone()
    }

    fn answer(self: &Arc<Self>, request: &Request) -> Option<u16> {
        let token = format!("{BASE}/v1/cryptotoken/{}", TOKEN.1);
        let mut world = self.world.lock().expect("nobody panics with it");
        let status = match (world.mood, request.method.as_str(), request.path.as_str()) {
            (Mood::Hangs, _, _) => return None,
            (mood, "GET", HEALTH) if world.active && mood != Mood::Sick => 200,
            (_, "GET", HEALTH) => 500,
            (Mood::Forbidden, "PUT", _) => 403,
            (Mood::Offline, "PUT", _) => 503,
            (Mood::AutoActivation, "PUT", path) if path.starts_with(&token) => {
                world.active = true;
                200
            }
            (_, "PUT", path) if path == format!("{token}/deactivate") => {
                (world.active, world.has) = (false, None);
                200
            }
            (_, "PUT", path) if path == format!("{token}/activate") => {
                let body: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
                let pin = body["activation_code"].as_str().expect("a text").to_owned();
                if self.opens(&pin) {
                    let first = world.first.get_or_insert_with(|| pin.clone()).clone();
                    if world.mood == Mood::KeepsTheOldPin && first != pin {
                        self.keep_trying(first);
                    }
                    (world.active, world.has) = (true, Some(pin));
                    200
                } else {
                    422
                }
            }
            _ => 422,
        };
        Some(status)
    }

    /// A part that nobody told of the new PIN.
    fn keep_trying(self: &Arc<Self>, old: String) {
        let of = Arc::clone(self);
        thread::spawn(move || {
            for _ in 0..TRIES {
                assert!(!of.opens(&old), "the old PIN opens nothing any more");
                of.world.lock().expect("nobody panics with it").refused += 1;
            }
        });
    }

    fn opens(&self, pin: &str) -> bool {
        let mut tool = Command::new("pkcs11-tool");
        tool.arg("--module").arg(&self.module).envs(self.environment.iter().cloned());
        run(tool.args(["--token-label", "ca", "--login", "--list-objects", "--pin", pin])).exit == 0
    }
}

struct Standin {
    stage: Stage,
    ejbca: Arc<Ejbca>,
}

impl Standin {
    fn new(timeout_s: u64) -> Self {
        let mut stage = stage();
        let ejbca = Ejbca::on(&stage);
        let of = Arc::clone(&ejbca);
        let address = server::serve(None, move |request| of.answer(request));
        bind(&mut stage, &format!("http://{address}"), &format!("timeout_s = {timeout_s}\n"));
        Standin { stage, ejbca }
    }

    /// Activates the slot, which has to fail like this.
    #[track_caller]
    fn fails(&self, mood: Mood, fault: &str) {
        self.ejbca.mood(mood);
        let failed = self.stage.activate("ca", CODE).exits(1);
        assert_eq!(application(&self.stage, "ca"), ("failed".to_owned(), fault.to_owned()), "{mood:?}");
        self.stage.run(&["boot"]).exits(1);
        tells_no_secret(&self.stage, &[&failed.stdout, &failed.stderr], &[CODE]);
    }

    #[track_caller]
    fn closes(&self) {
        self.ejbca.mood(Mood::Well);
        self.stage.run(&["slot", "deactivate", "ca"]).exits(0);
        assert_eq!(self.ejbca.has(), None);
    }
}

fn stage() -> Stage {
    let mut stage = Stage::new(Kind::SoftHsm, 2);
    stage.talkative = true;
    stage.bench.make_token_with("ca", SO_PIN, CODE);
    stage.bench.make_token_with("other", SO_PIN, CODE);
    stage
}

fn bind(stage: &mut Stage, server: &str, more: &str) {
    let adapter = format!(
        "adapter = \"ejbca-rest\"\nbase_url = \"{server}{BASE}\"\ncrypto_token = \"{}\"\n\
         health_url = \"{server}{HEALTH}\"\n{more}",
        TOKEN.0
    );
    stage.slot_with_adapter("ca", "ca", "ejbca", &adapter);
    stage.slot("other", "other", "timestamper");
}

const UNREACHABLE: &str = "the application or its service manager cannot be reached";
const AUTO_ACTIVATION: &str = "the application is active without our token PIN";

#[test]
fn a_crypto_token_that_cannot_be_opened_is_a_named_fault_and_one_that_can_has_the_pin_until_it_is_taken_back() {
    let mut standin = Standin::new(8);
    standin.stage.start();
    for (mood, fault) in [
        (Mood::Forbidden, "the application or its service manager refused the order"),
        (Mood::Offline, UNREACHABLE),
        (Mood::Sick, "the application was served and is not healthy"),
    ] {
        standin.fails(mood, fault);
        standin.closes();
    }
    standin.stage.activate("ca", CODE).exits(0);
    assert_eq!(application(&standin.stage, "ca"), ("active".to_owned(), String::new()));
    assert_eq!(standin.ejbca.has().as_deref(), Some(CODE));
    standin.stage.run_with_codes(&["slot", "change-code", "ca"], CODE, NEW_CODE).exits(0);
    assert_eq!(standin.ejbca.has().as_deref(), Some(NEW_CODE));
    standin.stage.run_with(&["slot", "mode", "ca", "generated"], "--code-file", NEW_CODE).exits(0);
    let generated = standin.ejbca.has().expect("it was handed over");
    assert!(standin.stage.opens("ca", &generated));
    standin.stage.run(&["slot", "deactivate", "ca"]).exits(0);
    assert_eq!(standin.ejbca.has(), None);
    standin.stage.run(&["slot", "activate", "ca"]).exits(0);
    standin.stage.stop();
    assert_eq!(standin.ejbca.has(), None, "a stop takes it back");
    standin.stage.start();
    assert_eq!(standin.ejbca.has(), Some(generated.clone()), "a boot hands it over");
    tells_no_secret(&standin.stage, &[], &[CODE, NEW_CODE, &generated]);
}

#[test]
fn auto_activation_that_ignores_our_pin_is_never_called_done() {
    let mut standin = Standin::new(8);
    standin.stage.start();
    standin.fails(Mood::AutoActivation, AUTO_ACTIVATION);
    assert_eq!(standin.ejbca.has(), None, "no PIN was sent to be ignored");
    // It cannot give back what it has of its own: neither a change nor a deactivation is done.
    standin.stage.run_with_codes(&["slot", "change-code", "ca"], CODE, NEW_CODE).refused(1, 316);
    assert!(standin.stage.opens("ca", CODE), "nothing was changed");
    // The PIN that rules is handed over again.
    standin.stage.wait_slot("ca", "served or not", |slot| slot.applications[0].state == "failed");
    standin.stage.run(&["slot", "deactivate", "ca"]).exits(1);
    assert_eq!(application(&standin.stage, "ca"), ("failed".to_owned(), AUTO_ACTIVATION.to_owned()));
    standin.closes();
    standin.stage.activate("ca", CODE).exits(0);
    assert_eq!(standin.ejbca.has().as_deref(), Some(CODE));
}

#[test]
fn a_server_that_hangs_delays_nobody_and_one_that_is_gone_is_named() {
    let mut standin = Standin::new(15);
    standin.stage.start();
    standin.ejbca.mood(Mood::Hangs);
    let begun = standin.stage.begin_with(&["slot", "activate", "ca"], "--code-file", CODE);
    standin.stage.wait_slot("ca", "handing over", |slot| {
        slot.applications.iter().any(|application| application.state == "pending")
    });
    at_once(|| standin.stage.activate("other", CODE).exits(0));
    assert_eq!(application(&standin.stage, "ca").0, "pending", "it still hangs");
    begun.end().exits(1);
    let fault = "the application was not done in the adapter's time";
    assert_eq!(application(&standin.stage, "ca"), ("failed".to_owned(), fault.to_owned()));

    let mut stage = stage();
    bind(&mut stage, &format!("http://{}", server::nobody()), "");
    stage.start();
    stage.activate("ca", CODE).exits(1);
    assert_eq!(application(&stage, "ca"), ("failed".to_owned(), UNREACHABLE.to_owned()));
}

/// Whoever has the old PIN still and tries it again and again spends tries of the token: that
/// is seen, though nobody here made an attempt.
#[test]
fn an_application_that_keeps_trying_the_old_pin_raises_attention() {
    let mut standin = Standin::new(8);
    standin.stage.start();
    standin.ejbca.mood(Mood::KeepsTheOldPin);
    standin.stage.activate("ca", CODE).exits(0);
    assert!(standin.stage.slot_status("ca")["attention"].is_null());
    standin.stage.run_with_codes(&["slot", "change-code", "ca"], CODE, NEW_CODE).exits(0);
    let slot = standin.stage.wait_slot("ca", "watched", |slot| slot.attention.is_some());
    assert_eq!(slot.attention.as_deref(), Some("tries-spent-elsewhere"));
    assert_eq!(standin.stage.events("ca", "TriesSpentElsewhere"), 1);
    assert!(standin.ejbca.world.lock().expect("nobody panics with it").refused > 0);
    // Ours were accepted: the activation, and what the change proved.
    assert_eq!(standin.stage.events("ca", "AttemptRefused"), 0);
    assert_eq!(standin.stage.slot_status("ca")["state"], "active");
}

/// An authority with the files of a client and the configuration of a server.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("there is randomness");
        Authority { issuer: CertifiedIssuer::self_signed(parameters, key).expect("it signs itself") }
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("there is randomness");
        let parameters = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        (parameters.signed_by(&key, &self.issuer).expect("it signs"), key)
    }

    /// A server that lets in only clients of this authority.
    fn server(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a certificate");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let (certificate, key) = self.issue("localhost");
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring knows them")
            .with_client_cert_verifier(verifier.build().expect("there is a root"))
            .with_single_cert(chain, key);
        Arc::new(config.expect("they belong together"))
    }

    /// Writes what a client needs, and gives the lines of the configuration.
    fn client_files(&self, stage: &Stage, believes: &Authority) -> String {
        let (certificate, key) = self.issue("slotwarden");
        let mut lines = String::new();
        for (name, text) in [
            ("ca_file", believes.issuer.pem()),
            ("certificate_file", certificate.pem()),
            ("key_file", key.serialize_pem()),
        ] {
            let path = stage.path(name);
            fs::write(&path, text).expect("the stage's own");
            lines.push_str(&format!("{name} = \"{}\"\n", path.display()));
        }
        lines
    }
}

#[test]
fn over_tls_both_sides_have_to_be_who_they_should_be() {
    let (right, wrong) = (Authority::new(), Authority::new());
    for (ours, believed, served) in [(&wrong, &right, false), (&right, &wrong, false), (&right, &right, true)] {
        let mut stage = stage();
        let ejbca = Ejbca::on(&stage);
        let of = Arc::clone(&ejbca);
        let address = server::serve(Some(right.server()), move |request| of.answer(request));
        let files = ours.client_files(&stage, believed);
        bind(&mut stage, &format!("https://localhost:{}", address.port()), &format!("{files}timeout_s = 8\n"));
        stage.start();
        let checked = stage.run(&["check-config"]);
        assert!(!checked.stdout.contains("_file"), "{}", checked.stdout);
        let activated = stage.activate("ca", CODE);
        if served {
            activated.exits(0);
            assert_eq!(ejbca.has().as_deref(), Some(CODE));
            // Its files are read each time, and stop nobody else.
            let (key, kept) = (stage.path("key_file"), stage.path("kept"));
            fs::rename(&key, &kept).expect("the stage's own");
            stage.run(&["slot", "deactivate", "ca"]).exits(1);
            assert_eq!(application(&stage, "ca"), ("failed".to_owned(), UNREACHABLE.to_owned()));
            stage.stop();
            stage.start();
            stage.activate("other", CODE).exits(0);
            fs::rename(&kept, &key).expect("the stage's own");
            stage.activate("ca", CODE).exits(0);
        } else {
            activated.exits(1);
            assert_eq!(application(&stage, "ca"), ("failed".to_owned(), UNREACHABLE.to_owned()));
            assert_eq!(ejbca.has(), None);
        }
        tells_no_secret(&stage, &[], &[CODE]);
    }
}
