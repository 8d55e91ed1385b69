//! What the appliance to try is made of: a directory, a configuration, tokens, and the codes
//! that open them, beside the configuration for the commands to name. Removed when dropped.

use std::fs::{OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::code::Code;
use crate::hsm::{Character, LABELS_MAX, Token};

/// The slots; the place is the token's label.
pub(super) const SLOTS: [&str; LABELS_MAX] = ["ca-root", "signer", "issuing", "archive"];
/// The one application: it uses `ca-root`.
const APPLICATION: &str = "ca";
/// A directory in memory on every Linux.
const MEMORY: &str = "/dev/shm";

/// Where everything is.
pub(super) struct Stage {
    pub(super) directory: TempDir,
    /// This program, as it is called from here.
    program: String,
    pub(super) tokens: [Token; LABELS_MAX],
    code: Code,
}

impl Stage {
    pub(super) fn set() -> io::Result<Self> {
        let make = |place: &Path| {
            let private = Permissions::from_mode(0o700);
            tempfile::Builder::new().prefix("slotwarden-").rand_bytes(4).permissions(private).tempdir_in(place)
        };
        let directory = make(Path::new(MEMORY)).or_else(|_| make(&std::env::temp_dir()))?;
        let program = std::env::current_exe()?;
        let mut random = fastrand::Rng::new();
        let [code, issuing, archive] = std::array::from_fn(|_| Code::manual(&mut random));
        let so_pin = Code::so_pin(&mut random);
        let mut absent = Token::initialised(3, Character::SOFT, 3, archive, so_pin);
        absent.inserted = false;
        let tokens = [
            Token::initialised(0, Character::STRICT, 0, code, so_pin),
            Token::free(1, Character::COUNTING),
            Token::initialised(2, Character::SOFT, 2, issuing, so_pin),
            absent,
        ];
        let here = std::env::current_dir().ok();
        let shown = here.and_then(|here| program.strip_prefix(here).ok().map(Path::to_owned));
        let stage = Stage { directory, program: quoted(&shown.unwrap_or_else(|| program.clone())), tokens, code };
        stage.write("slotwarden.toml", stage.configuration(&program).as_bytes())?;
        for (name, code) in
            [("ca-root.code", code), ("issuing.code", issuing), ("archive.code", archive), ("so-pin", so_pin)]
        {
            stage.write(name, &[code.bytes(), b"\n"].concat())?;
        }
        Ok(stage)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path(name));
        file.and_then(|mut file| file.write_all(bytes))
    }

    fn configuration(&self, program: &Path) -> String {
        let path = |name: &str| format!("{:?}", self.path(name).display().to_string());
        let mut text = format!("state_dir = {}\nsocket = {}\n", path("state"), path("control.sock"));
        text.push_str("security_level = \"cards\"\n");
        // The simulator itself is the module: `check-config` wants a file that is there.
        text.push_str(&format!("[hsm]\nmodule = {:?}\n", program.display().to_string()));
        for (slot, name) in SLOTS.iter().enumerate() {
            text.push_str(&format!("[[slot]]\nname = \"{name}\"\ntoken = \"pkcs11:token={name}\"\n"));
            if slot == 0 {
                text.push_str(&format!("applications = [\"{APPLICATION}\"]\n"));
            }
        }
        text.push_str(&format!("[[application]]\nname = \"{APPLICATION}\"\nadapter = \"pin-file\"\n"));
        text.push_str(&format!("path = {}\n", path("ca.pin")));
        text
    }

    /// What stands below the slots.
    pub(super) fn below(&self) -> Vec<String> {
        let file = |name: &str| quoted(&self.path(name));
        let cli = |rest: &str| format!("{} cli --config {} {rest}", self.program, file("slotwarden.toml"));
        vec![
            format!("The code of ca-root is {}. Log: {}", String::from_utf8_lossy(self.code.bytes()), file("log")),
            "In a second terminal, from the same directory:".to_owned(),
            cli(&format!("slot activate ca-root --code-file {}", file("ca-root.code"))),
            format!("cat {}", file("ca.pin")),
            cli(&format!("slot init signer --so-pin-file {}", file("so-pin"))),
            cli(&format!("slot mode issuing generated --code-file {}", file("issuing.code"))),
            cli("backup create-set -m 2 -n 3"),
            "and here, as it says: card alice, pin 123456 654321 654321, pin 654321, card out; then bob, then carol"
                .to_owned(),
            cli("slot deactivate ca-root"),
            cli("status"),
            cli("audit show"),
        ]
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
