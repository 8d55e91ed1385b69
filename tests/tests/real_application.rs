//! An application nobody here wrote, from Debian's packages, with its key in the slot: nginx
//! over libp11's engine `pkcs11`.
//!
//! nginx is a process of its own that logs in by itself: the URI of its key names the
//! hand-over file (RFC 7512, `pin-source`). Each connection is a TLS handshake with a fresh
//! ECDHE key that the server signs with the key in the token, and that a client verifies with
//! the certificate; so whoever is served has a signature.
//!
//! A login belongs to a process (PKCS#11 v3.0, section 5.6): nobody can end nginx's but nginx.
//! So a deactivation takes effect when nginx is started again, which is what an adapter or an
//! administrator does; these tests do it themselves, and show what a running one still can.
//!
//! SoftHSM only: Kryoptic computes with the same OpenSSL that nginx loads the engine into, and
//! its signatures come back to the engine and fail there (`CKR_DEVICE_ERROR`).

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use slotwarden_tests::modules::{Kind, SO_PIN};
use slotwarden_tests::stage::{PATIENCE, Ran, Stage, run};

const CODE: &str = "manual code one";
const NEW_CODE: &str = "manual code two";
/// The longest PIN that libp11 0.4.12 reads from a file: a buffer of 32 with an end mark.
const ENGINE_PIN_CHARS_MAX: u16 = 31;
/// Where Debian puts libp11's engine.
const ENGINE: &str = "/usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so";
/// The name in the certificate.
const HOST: &str = "signed-in-the-token.example";
/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// A slot whose token has a key and a certificate for it, an application, and its nginx.
struct Site {
    stage: Stage,
    nginx: Option<Child>,
}

impl Site {
    /// The daemon does not run yet, nor does nginx.
    fn new() -> Self {
        let mut stage = Stage::new(Kind::SoftHsm, 1);
        stage.bench.make_token_with("ca root", SO_PIN, CODE);
        let mut tool = stage.bench.pkcs11_tool();
        tool.args(["--token-label", "ca root", "--login", "--pin", CODE, "--keypairgen"]);
        run(tool.args(["--key-type", "EC:prime256v1", "--label", "tls", "--id", "01", "--sensitive"])).exits(0);
        stage.slot("ca", "ca root", "nginx");
        stage.pin_chars_max(ENGINE_PIN_CHARS_MAX);
        let site = Site { stage, nginx: None };
        site.write_settings();
        site.make_certificate();
        site
    }

    /// The key, with the file that its PIN is in.
    fn key(pin_file: &std::path::Path) -> String {
        format!("pkcs11:token=ca%20root;object=tls;type=private?pin-source=file:{}", pin_file.display())
    }

    fn write_settings(&self) {
        assert!(fs::exists(ENGINE).is_ok_and(|there| there), "apt-get install libengine-pkcs11-openssl");
        let openssl = format!(
            "openssl_conf = all\n[all]\nengines = engines\n[engines]\npkcs11 = pkcs11\n[pkcs11]\nengine_id = pkcs11\n\
             dynamic_path = {ENGINE}\nMODULE_PATH = {}\ninit = 0\n",
            self.stage.bench.settings(&[]).module.display()
        );
        fs::write(self.stage.path("openssl.cnf"), openssl).expect("the stage's own");

        let at = |name: &str| self.stage.path(name).display().to_string();
        let kept: String = self.environment().iter().map(|(name, _)| format!("env {name};\n")).collect();
        let nginx = format!(
            "daemon off;\nworker_processes 1;\nuser root;\npid {pid};\nerror_log {log} info;\n{kept}\
             ssl_engine pkcs11;\nevents {{}}\nhttp {{\n access_log off;\n\
             client_body_temp_path {t}/1;\n proxy_temp_path {t}/2;\n fastcgi_temp_path {t}/3;\n\
             uwsgi_temp_path {t}/4;\n scgi_temp_path {t}/5;\n\
             server {{\n  listen unix:{socket} ssl;\n  ssl_certificate {certificate};\n\
             ssl_certificate_key \"engine:pkcs11:{key}\";\n  ssl_session_cache off;\n  ssl_session_tickets off;\n\
             location / {{ return 204; }}\n }}\n}}\n",
            pid = at("nginx.pid"),
            log = at("nginx.log"),
            t = at("nginx"),
            socket = at("nginx.sock"),
            certificate = at("certificate.pem"),
            key = Site::key(&self.stage.hand_over_file("nginx")),
        );
        fs::create_dir(self.stage.path("nginx")).expect("the stage's own");
        fs::write(self.stage.path("nginx.conf"), nginx).expect("the stage's own");
    }

    /// Signed by the key itself, when it was made.
    fn make_certificate(&self) {
        let key = Site::key(&self.stage.secret_file(CODE));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-new", "-x509", "-engine", "pkcs11", "-keyform", "engine", "-key", &key]);
        openssl.args(["-subj", &format!("/CN={HOST}"), "-days", "2", "-out"]).arg(self.stage.path("certificate.pem"));
        run(openssl.envs(self.environment())).exits(0);
    }

    /// What finds the engine, the module and its configuration.
    fn environment(&self) -> Vec<(String, std::ffi::OsString)> {
        let name = |name: std::ffi::OsString| name.into_string().expect("plain names");
        let module = self.stage.bench.environment().into_iter().map(|(variable, value)| (name(variable), value));
        module.chain([("OPENSSL_CONF".to_owned(), self.stage.path("openssl.cnf").into())]).collect()
    }

    /// Starts nginx, and waits until it serves or ends.
    fn start(&mut self) -> Result<(), ExitStatus> {
        assert!(self.nginx.is_none(), "one nginx at a time");
        let _ = fs::remove_file(self.stage.path("nginx.pid"));
        let mut command = Command::new("nginx");
        command.arg("-p").arg(self.stage.path("nginx")).arg("-e").arg(self.log_file());
        command.arg("-c").arg(self.stage.path("nginx.conf")).envs(self.environment());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut nginx = command.spawn().unwrap_or_else(|error| panic!("nginx: {error}: apt-get install nginx"));
        let until = Instant::now() + PATIENCE;
        // The file with its process id is written when everything it needs was loaded.
        while !self.stage.path("nginx.pid").exists() {
            if let Some(status) = nginx.try_wait().expect("our own child") {
                return Err(status);
            }
            assert!(Instant::now() < until, "nginx neither serves nor ends: {}", self.log());
            thread::sleep(LOOK_PAUSE);
        }
        self.nginx = Some(nginx);
        Ok(())
    }

    /// Ends nginx; its worker with it.
    fn stop(&mut self) {
        let mut nginx = self.nginx.take().expect("nginx was started");
        rustix::process::kill_process(process(&nginx), Signal::TERM).expect("our own child");
        nginx.wait().expect("our own child");
    }

    /// Started again, it serves.
    #[track_caller]
    fn starts_again(&mut self) {
        self.stop();
        let started = self.start();
        assert!(started.is_ok(), "{started:?}: {}", self.log());
        self.serves();
    }

    /// It does not start, for want of its key.
    #[track_caller]
    fn does_not_start(&mut self) {
        let before = self.log().len();
        assert!(self.start().is_err_and(|status| !status.success()));
        let log = self.log().split_off(before);
        assert!(log.contains("cannot load certificate key"), "{log}");
        assert_ne!(self.handshake().exit, 0);
    }

    #[track_caller]
    fn serves(&self) {
        let ran = self.handshake().exits(0);
        assert!(ran.stderr.contains("Verification: OK") && ran.stderr.contains("Signature type: ECDSA"), "{ran:?}");
    }

    /// A new connection, with a client that trusts this one certificate.
    fn handshake(&self) -> Ran {
        let mut client = Command::new("openssl");
        client.args(["s_client", "-brief", "-verify_return_error", "-verify_hostname", HOST]);
        client.arg("-CAfile").arg(self.stage.path("certificate.pem"));
        run(client.arg("-unix").arg(self.stage.path("nginx.sock")))
    }

    /// SIGHUP: nginx loads its configuration and its keys anew. Waits until it said whether it could.
    #[track_caller]
    fn reload(&self) -> String {
        let before = self.log().len();
        let nginx = self.nginx.as_ref().expect("nginx was started");
        rustix::process::kill_process(process(nginx), Signal::HUP).expect("our own child");
        let until = Instant::now() + PATIENCE;
        loop {
            let log = self.log().split_off(before);
            if log.contains("cannot load certificate key") || log.contains("start worker process ") {
                return log;
            }
            assert!(Instant::now() < until, "nginx did not answer: {log}");
            thread::sleep(LOOK_PAUSE);
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.stage.path("nginx.log")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut nginx) = self.nginx.take() {
            // Its worker is in its process group, which holds nothing else.
            let _ = rustix::process::kill_process_group(process(&nginx), Signal::KILL);
            let _ = nginx.wait();
        }
    }
}

fn process(child: &Child) -> Pid {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("process ids are positive")
}

#[test]
fn nginx_serves_while_its_slot_is_active_and_only_then() {
    let mut site = Site::new();
    site.does_not_start();
    site.stage.start();
    site.does_not_start();
    site.stage.activate("ca", "not the code").refused(1, 209);
    site.does_not_start();

    site.stage.activate("ca", CODE).exits(0);
    site.start().expect("the PIN is there");
    site.serves();
    site.starts_again();

    site.stop();
    site.stage.run(&["slot", "deactivate", "ca"]).exits(0);
    site.does_not_start();
    site.stage.activate("ca", CODE).exits(0);
    site.start().expect("the PIN is there again");
    site.serves();

    // What the daemon leaves behind when it is stopped opens nothing.
    site.stop();
    site.stage.stop();
    site.does_not_start();
}

#[test]
fn nginx_goes_on_while_its_code_is_changed_and_starts_with_the_new_one() {
    let mut site = Site::new();
    site.stage.start();
    site.stage.activate("ca", CODE).exits(0);
    site.start().expect("the PIN is there");

    site.stage.run_with_codes(&["slot", "change-code", "ca"], CODE, NEW_CODE).exits(0);
    site.serves();
    site.starts_again();

    // From here on the code is ours, and nobody types anything any more.
    site.stage.run_with(&["slot", "mode", "ca", "generated"], "--code-file", NEW_CODE).exits(0);
    site.serves();
    site.starts_again();
    let first = site.stage.handed_over("nginx").expect("the slot is active");
    assert_eq!(first.len(), usize::from(ENGINE_PIN_CHARS_MAX));
    site.stage.run(&["slot", "change-code", "ca"]).exits(0);
    assert_ne!(site.stage.handed_over("nginx").expect("the slot is active"), first);
    site.serves();
    site.starts_again();

    // The whole machine goes down and comes up.
    site.stop();
    site.stage.kill();
    site.stage.start();
    site.start().expect("the slot is active again");
    site.serves();
}

#[test]
fn nginx_keeps_its_login_until_it_is_started_again() {
    let mut site = Site::new();
    site.stage.start();
    site.stage.activate("ca", CODE).exits(0);
    site.start().expect("the PIN is there");
    site.stage.run(&["slot", "deactivate", "ca"]).exits(0);

    site.serves();
    // A reload finds no PIN, and nginx goes on with what it has: it must be stopped.
    assert!(site.reload().contains("cannot load certificate key"));
    site.serves();
    site.stop();
    site.does_not_start();
}

#[test]
fn nginx_without_a_hand_over_file_spends_no_try() {
    let mut site = Site::new();
    site.stage.start();
    let before = site.stage.bench.flags("ca root");
    assert!(!before.contains("count low"), "one refused login would show: {before}");
    site.does_not_start();
    assert_eq!(site.stage.bench.flags("ca root"), before);
    site.stage.activate("ca", CODE).exits(0);
    site.start().expect("the PIN is there");
    site.serves();
}
