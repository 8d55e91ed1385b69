//! Slots whose keys cannot leave: their exports are made by the backup program of the HSM's vendor.
//!
//! No HSM with such a program is here. What runs in its place is a stand-in, a script that copies the files of
//! SoftHSM's objects from the token's directory and back: it shows what we do with a program, and nothing of
//! what a vendor's does.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest as _, Sha256};
use slotwarden_core::export::{
    Header, Part, Piece, Reader as FileReader, SectionWriter, Trailer, begin, trailer_message, write_trailer,
};
use slotwarden_tests::custodians::Act::Card;
use slotwarden_tests::custodians::{PATIENCE, Reader, Table};
use slotwarden_tests::modules::Kind;
use slotwarden_tests::pcscd::Pcscd;
use slotwarden_tests::stage::{Stage, run};
use tempfile::TempDir;

use crate::scene::{CODE, Scene};

/// A stand-in for the program of a vendor; TOKENS is where SoftHSM keeps its tokens. What it does beside
/// that stands in a file `mode`, and what it was given goes into a file `given`.
const STAND_IN: &str = r#"#!/usr/bin/python3 -I
import io, os, pathlib, sys, tarfile, time
here = pathlib.Path(__file__).parent
mode = (here / "mode").read_text().strip()
order, label, serial = sys.argv[1:]
with open(here / "given", "a") as given:
    environment = pathlib.Path("/proc/self/environ").read_bytes().decode().replace("\0", " ")
    print(order, pathlib.Path("/proc/self/cmdline").read_bytes(), environment, sep="|", file=given)
if mode == order + "-fails":
    sys.stdout.write("half a backup")
    sys.exit("the HSM says no")
if mode == "empty":
    sys.exit(0)
if mode == "hangs":
    time.sleep(600)
token, = [found for found in pathlib.Path("TOKENS").iterdir() if found.name.replace("-", "").endswith(serial)]
if order == "backup":
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
        for found in sorted(token.glob("*.object")):
            if found.name != "token.object":
                tar.add(found, found.name)
else:
    with tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read())) as tar:
        for found in tar.getmembers():
            if not (token / found.name).exists():
                (token / found.name).write_bytes(tar.extractfile(found).read())
    count = int.from_bytes((token / "generation").read_bytes(), "big") + 1
    (token / "generation").write_bytes(count.to_bytes(8, "big"))
"#;

/// An appliance whose slot `ca` is exported by the stand-in.
struct Vendor {
    scene: Scene,
    folder: TempDir,
    file: String,
}

impl Vendor {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
        let program = folder.path().join("stand-in");
        let pcscd = Pcscd::start(&["Front"]);
        let table = Table::new(vec![Box::new(pcscd.pad(0).clone()) as Box<dyn Reader>]);
        let scene = Scene::on(Kind::SoftHsm, pcscd, table, |stage| {
            let script = STAND_IN.replace("TOKENS", stage.bench.tokens_dir().to_str().expect("ASCII"));
            fs::write(&program, script).expect("a fresh folder");
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
            stage.export_program("ca", "ca", &program);
        });
        scene.create(2, 2);
        let file = folder.path().join("keys.slwx").to_str().expect("ASCII").to_owned();
        let vendor = Vendor { scene, folder, file };
        vendor.mode("works");
        vendor
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn mode(&self, mode: &str) {
        fs::write(self.path("mode"), mode).expect("the folder is there");
    }

    /// What the stand-in was given so far, a line for each run.
    fn given(&self) -> Vec<String> {
        fs::read_to_string(self.path("given")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn restores(&self) -> usize {
        self.given().iter().filter(|line| line.starts_with("restore|")).count()
    }

    fn tool(&self, arguments: &[&str]) -> String {
        let mut tool = self.scene.stage.bench.pkcs11_tool();
        run(tool.args(["--token-label", "ca", "--login", "--pin", CODE]).args(arguments)).exits(0).stdout
    }

    /// A key that cannot leave, and its public key.
    fn make_key(&self) -> PathBuf {
        let how = ["--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign", "--label", "stays", "--id", "02"];
        self.tool(&how);
        let public = self.path("public.der");
        let to = public.to_str().expect("ASCII");
        self.tool(&["--read-object", "--type", "pubkey", "--id", "02", "--output-file", to]);
        public
    }

    fn destroy_key(&self) {
        for kind in ["privkey", "pubkey"] {
            self.tool(&["--delete-object", "--type", kind, "--id", "02"]);
        }
        assert!(!self.tool(&["--list-objects"]).contains("stays"));
    }

    /// What the key signs now verifies against its public key from before.
    #[track_caller]
    fn signs_as_before(&self, public: &Path) {
        let [message, digest, signature] = ["message", "digest", "signature"].map(|name| self.path(name));
        fs::write(&message, b"signed after the restore").expect("the folder is there");
        // SoftHSM signs a digest with a curve, and digests nothing for it.
        fs::write(&digest, Sha256::digest(b"signed after the restore")).expect("the folder is there");
        let text = |path: &Path| path.to_str().expect("ASCII").to_owned();
        let (from, to) = (text(&digest), text(&signature));
        let sign = ["--sign", "--id", "02", "--mechanism", "ECDSA", "--signature-format", "openssl"];
        self.tool(&[&sign[..], &["--input-file", &from, "--output-file", &to]].concat());
        let mut openssl = Command::new("openssl");
        openssl.args(["dgst", "-sha256", "-keyform", "DER", "-verify"]).arg(public);
        run(openssl.arg("-signature").arg(&signature).arg(&message)).exits(0);
    }

    #[track_caller]
    fn export(&self) {
        self.scene.stage.run(&["backup", "export", &self.file, "--slot", "ca"]).exits(0);
    }

    /// The ceremony before an import.
    #[track_caller]
    fn restore(&self) -> String {
        let restore = ["backup", "restore", &self.file, "--slot", "ca"];
        self.scene.order(&restore, &[Card("1"), Card("2")]).exits(0).stdout
    }
}

/// Whether such a file is where exports are made.
fn held(stage: &Stage, name: &str) -> bool {
    stage.state_dir().join("transfer").join(name).exists()
}

const IMPORT: [&str; 5] = ["backup", "import", "ca", "--confirm", "import"];

#[test]
fn a_key_that_cannot_leave_comes_back_by_the_vendors_program() {
    let vendor = Vendor::new();
    let stage = &vendor.scene.stage;
    let public = vendor.make_key();
    let keys = || stage.run(&["slot", "show", "ca", "--output", "json"]).exits(0).json()["slot"]["keys"].clone();
    assert_eq!(keys(), serde_json::json!({"keys": 1, "can_leave": 0, "uncovered": 1}));
    // Nobody has to accept that it stays: the program takes it.
    vendor.export();
    assert_eq!(keys(), serde_json::json!({"keys": 1, "can_leave": 0, "uncovered": 0}));
    let shown = stage.run(&["slot", "show", "ca"]).exits(0).stdout;
    assert!(shown.contains("1 of 1 keys were there when") && shown.contains("only that knows"), "{shown}");
    let status = run(stage.command().arg("status")).exits(0).stdout;
    assert!(!status.contains("cannot leave") && !status.contains("are in no export"), "{status}");
    // A key that is made later is in no export, and nobody claims that it is.
    vendor.tool(&["--keygen", "--key-type", "AES:32", "--label", "later", "--id", "03"]);
    assert_eq!(keys(), serde_json::json!({"keys": 2, "can_leave": 0, "uncovered": 1}));

    let shown = run(stage.command().args(["verify", &vendor.file])).exits(0).stdout;
    assert!(shown.contains("vendor part: ") && shown.contains("only that knows"), "{shown}");
    let told = run(stage.command().args(["verify", &vendor.file, "--output", "json"])).exits(0).json();
    let section = &told["export"]["sections"][0];
    assert_eq!((&section["strategy"], &section["objects"]), (&"vendor".into(), &serde_json::json!([])));
    let bytes = section["vendor_bytes"].as_u64().expect("a number");
    assert!(bytes > 10_000, "several pieces: {bytes}");
    another_reader_finds_the_part(&vendor, bytes);

    vendor.destroy_key();
    let plan = vendor.restore();
    assert!(plan.contains(&format!("vendor part: {bytes} bytes")) && plan.contains("stand-in"), "{plan}");
    assert_eq!(vendor.restores(), 0, "a plan changes nothing");
    stage.run(&["backup", "import", "ca"]).refused(2, 649);
    stage.run(&IMPORT).exits(0);
    vendor.signs_as_before(&public);
    assert!(vendor.tool(&["--list-objects"]).contains("later"), "what was there stays");
    stage.wait("it is over", |status| status.transfer.is_none());

    // What the program was given: three arguments, one word, and no code.
    let given = vendor.given();
    assert_eq!(given.len(), 2, "{given:?}");
    for line in &given {
        let parts: Vec<&str> = line.split('|').collect();
        assert!(parts[1].contains("ca") && !line.contains(CODE), "{line}");
        assert!(parts[2].trim().starts_with("PATH=/usr/local/sbin:") && !parts[2].trim().contains(' '), "{line}");
    }
    assert!(!held(stage, "vendor.part"), "the part is in the export alone");
}

/// Knows nothing of our code: it checks the MAC with the cards, and has the very bytes of the part.
fn another_reader_finds_the_part(vendor: &Vendor, bytes: u64) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/open_export.py");
    let out = vendor.path("opened");
    fs::create_dir(&out).expect("a fresh folder");
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-B", script, &vendor.file]);
    for card in ["1", "2"] {
        let path = vendor.path(&format!("record-{card}"));
        fs::write(&path, vendor.scene.record(card)).expect("the folder is there");
        python.arg(path);
    }
    let opened = run(python.arg("--out").arg(&out)).exits(0).stdout;
    assert!(opened.contains(&format!("ca: vendor part of {bytes} bytes")), "{opened}");
    assert!(opened.contains("0 keys opened"), "{opened}");
    let part = fs::read(out.join("ca.vendor")).expect("it was written");
    assert_eq!(part.len() as u64, bytes);
    assert_eq!(&part[257..262], b"ustar", "what the stand-in makes");
}

#[test]
fn p20_a_vendors_program_that_fails_is_named_and_leaves_no_export() {
    let vendor = Vendor::new();
    let stage = &vendor.scene.stage;
    let public = vendor.make_key();
    let export = ["backup", "export", &vendor.file, "--slot", "ca"];
    let nothing_is_left = || {
        assert!(!Path::new(&vendor.file).exists());
        stage.wait("nothing is under way", |status| status.transfer.is_none());
        assert!(!held(stage, "export.part") && !held(stage, "vendor.part"));
    };
    for (mode, said) in [("backup-fails", "exit status: 1: the HSM says no"), ("empty", "wrote no backup")] {
        vendor.mode(mode);
        let ran = stage.run(&export).refused(1, 1031);
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
        nothing_is_left();
    }
    let (program, aside) = (vendor.path("stand-in"), vendor.path("aside"));
    fs::rename(&program, &aside).expect("it is there");
    let ran = stage.run(&export).refused(1, 1031);
    assert!(ran.stderr.contains("No such file"), "{}", ran.stderr);
    nothing_is_left();
    fs::rename(&aside, &program).expect("it is there");
    vendor.mode("works");
    vendor.export();

    // A restore whose program fails stands still, and goes on without cards once the cause is mended.
    vendor.destroy_key();
    vendor.restore();
    vendor.mode("restore-fails");
    let ran = stage.run(&IMPORT).refused(1, 1031);
    assert!(ran.stderr.contains("the HSM says no"), "{}", ran.stderr);
    // Or it is given up, and nothing of it stays with us.
    stage.run(&["backup", "end-restore"]).exits(0);
    stage.wait("it is over", |status| status.transfer.is_none());
    stage.run(&IMPORT).refused(1, 1002);
    vendor.restore();
    stage.run(&IMPORT).refused(1, 1031);
    let transfer = vendor.scene.status()["transfer"].clone();
    assert_eq!((&transfer["stage"], &transfer["why"]["number"]), (&"halfway".into(), &1031.into()), "{transfer}");
    vendor.mode("works");
    stage.run(&IMPORT).exits(0);
    vendor.signs_as_before(&public);
}

#[test]
fn p21_a_vendor_part_that_was_altered_never_reaches_the_program() {
    let vendor = Vendor::new();
    let stage = &vendor.scene.stage;
    vendor.make_key();
    vendor.export();
    let whole = fs::read(&vendor.file).expect("it was written");
    let hostile = |bytes: &[u8]| {
        fs::write(&vendor.file, bytes).expect("the folder is there");
        ["backup", "restore", &vendor.file, "--slot", "ca"]
    };
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for bytes in [&flipped[..], &whole[..whole.len() - 1], &whole[..whole.len() / 2]] {
        stage.run(&hostile(bytes)).refused(1, 646);
    }
    // Whoever has no token can sign a whole file, and cannot make the MAC.
    let restore = hostile(&signed_by_another(&whole));
    run(stage.command().args(["verify", &vendor.file])).exits(0);
    vendor.scene.order(&restore, &[Card("1"), Card("2")]).refused(1, 1010);
    stage.wait("nothing is under way", |status| status.transfer.is_none());
    stage.run(&IMPORT).refused(1, 1002);
    // A slot without a program takes no such part, and nobody is called to a reader for it.
    hostile(&whole);
    stage.run(&["backup", "restore", &vendor.file, "--slot", "tsa", "--section", "ca"]).refused(1, 1032);
    assert!(vendor.scene.status()["ceremony"].is_null());
    assert_eq!(vendor.restores(), 0);
}

/// The same file with a bit of its vendor part turned, in order in every other way, and signed by another node.
fn signed_by_another(whole: &[u8]) -> Vec<u8> {
    let node = SigningKey::from_bytes(&[9; 32]);
    let mut bytes = Vec::new();
    let mut reader = FileReader::new(whole);
    let Part::Header(header) = reader.next().expect("whole") else { panic!("it begins with its header") };
    let header = Header { node: node.verifying_key().to_bytes(), ..header };
    let hash = begin(&mut bytes, &header).expect("a vector grows");
    {
        let mut section = Vec::new();
        let Part::Section(begun) = reader.next().expect("whole") else { panic!("there is one section") };
        let mut writer = SectionWriter::begin(&mut section, hash, &begun).expect("a vector grows");
        loop {
            match reader.next().expect("whole") {
                Part::Piece(piece) => {
                    let mut altered = piece.bytes.to_vec();
                    altered[0] ^= u8::from(piece.index == 0);
                    writer.piece(&Piece { bytes: &altered, ..piece }).expect("the next one");
                }
                Part::SectionEnd { end, .. } => {
                    writer.end(end.mac).expect("a vector grows");
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        bytes.extend(section);
    }
    let unsigned = {
        let mut reader = FileReader::new(&bytes[..]);
        loop {
            if let Some(unsigned) = reader.unsigned() {
                break unsigned;
            }
            reader.next().expect("it is in order so far");
        }
    };
    let signature = node.sign(&trailer_message(&hash, &unsigned.hash)).to_bytes();
    write_trailer(&mut bytes, &Trailer { signature, ..unsigned }).expect("a vector grows");
    bytes
}

#[test]
fn one_file_holds_a_slot_by_its_program_and_another_key_by_key() {
    let vendor = Vendor::new();
    let stage = &vendor.scene.stage;
    let public = vendor.make_key();
    let of_tsa = |arguments: &[&str]| {
        let mut tool = stage.bench.pkcs11_tool();
        run(tool.args(["--token-label", "tsa", "--login", "--pin", CODE]).args(arguments)).exits(0).stdout
    };
    of_tsa(&["--keygen", "--key-type", "AES:32", "--extractable", "--label", "moves", "--id", "07"]);
    // Without a name it is of every active slot.
    stage.run(&["backup", "export", &vendor.file]).exits(0);
    let told = run(stage.command().args(["verify", &vendor.file, "--output", "json"])).exits(0).json();
    let strategies: Vec<&str> = told["export"]["sections"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|section| section["strategy"].as_str())
        .collect();
    assert_eq!(strategies, ["vendor", "kwp"]);
    vendor.destroy_key();
    of_tsa(&["--delete-object", "--type", "secrkey", "--id", "07"]);
    let restore = ["backup", "restore", &vendor.file, "--slot", "tsa"];
    let ran = vendor.scene.order(&restore, &[Card("1"), Card("2")]).exits(0);
    assert!(ran.stdout.contains("1 new") && !ran.stdout.contains("vendor part"), "{}", ran.stdout);
    stage.run(&["backup", "import", "tsa", "--confirm", "import"]).exits(0);
    assert!(of_tsa(&["--list-objects", "--type", "secrkey"]).contains("moves"));
    assert_eq!(vendor.restores(), 0, "it is for the other slot");
    vendor.restore();
    stage.run(&IMPORT).exits(0);
    vendor.signs_as_before(&public);
}

#[test]
fn p24_a_kill_while_the_vendors_program_restores_runs_it_once_more() {
    let mut vendor = Vendor::new();
    let public = vendor.make_key();
    vendor.export();
    vendor.destroy_key();
    vendor.restore();
    vendor.mode("hangs");
    let mut import = vendor.scene.stage.command().args(IMPORT).spawn().expect("the program was built");
    let began = Instant::now();
    while vendor.restores() == 0 {
        assert!(began.elapsed() < PATIENCE, "the program was not begun");
        std::thread::sleep(Duration::from_millis(20));
    }
    vendor.scene.stage.kill();
    let _ = import.wait();
    vendor.mode("works");
    vendor.scene.start();
    vendor.scene.stage.wait("the import has ended", |status| status.transfer.is_none());
    assert_eq!(vendor.restores(), 2);
    vendor.signs_as_before(&public);
}

#[test]
fn a_daemon_that_is_stopped_ends_the_vendors_program() {
    let mut vendor = Vendor::new();
    vendor.mode("hangs");
    let export = ["backup", "export", &vendor.file, "--slot", "ca"];
    let mut ordered = vendor.scene.stage.command().args(export).spawn().expect("the program was built");
    let began = Instant::now();
    while vendor.given().is_empty() {
        assert!(began.elapsed() < PATIENCE, "the program was not begun");
        std::thread::sleep(Duration::from_millis(20));
    }
    vendor.scene.stage.stop();
    let _ = ordered.wait();
    let program = vendor.path("stand-in").display().to_string();
    let runs = fs::read_dir("/proc").expect("it is there").flatten().any(|found| {
        fs::read(found.path().join("cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(&program))
    });
    assert!(!runs, "it outlived the daemon");
    assert!(!Path::new(&vendor.file).exists());
}
