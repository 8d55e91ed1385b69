//! Secrets from people: by prompt, by file, by descriptor. Never by argument or environment.
//!
//! A file or descriptor holds one line; its newline is removed and nothing else is ("never
//! trimmed"). What no code can be is refused here, before the daemon is asked; what only
//! the token can say is left to the core. Buffers have their full size from the start, so
//! that no copy stays behind in a smaller one, and are wiped.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use slotwarden_core::Refusal;
use slotwarden_core::code::{check_passphrase, check_typed};
use slotwarden_core::limits::{CODE_CHARS_MAX, PASSPHRASE_CHARS_MAX};
use slotwarden_core::share::looks_like_share;
use zeroize::{Zeroize as _, Zeroizing};

use crate::problem::{Own, Problem};
use crate::wire::{SECRET_BYTES_MAX, SecretRole};

/// Longest file, bytes. A line with a secret is under 65; more is a wrong file.
pub const FILE_BYTES_MAX: usize = 4096;

/// How long Ctrl-C at a prompt may take to end the process.
const INTERRUPT_WAIT: Duration = Duration::from_secs(1);

/// A secret in a buffer that is wiped.
pub type Secret = Zeroizing<Vec<u8>>;

/// Where a secret comes from, if not from the prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// A file.
    pub file: Option<PathBuf>,
    /// An open descriptor.
    pub descriptor: Option<u32>,
}

impl Source {
    /// Reads it, if there is one.
    ///
    /// # Errors
    /// [`Own::SecretFileUnreadable`], [`Own::SecretFileEmpty`], [`Own::SecretFileTooLong`],
    /// and what [`check`] refuses.
    pub fn read(&self, role: SecretRole) -> Result<Option<Secret>, Problem> {
        let path = match (&self.file, self.descriptor) {
            (Some(file), _) => file.clone(),
            // Opened anew by its name: a number that is no descriptor is an error, not a crash.
            (None, Some(descriptor)) => PathBuf::from(format!("/proc/self/fd/{descriptor}")),
            (None, None) => return Ok(None),
        };
        let secret = read_line(&path)?;
        let secret = without_groups(secret);
        check(role, &secret)?;
        Ok(Some(secret))
    }
}

/// Asks at the terminal; a new secret twice.
///
/// # Errors
/// [`Own::NoTerminal`], [`Own::TerminalClosed`], [`Own::SecretsDiffer`], and what [`check`] refuses.
pub fn ask(role: SecretRole, prompt: &str, twice: bool) -> Result<Secret, Problem> {
    if !on_terminal() {
        return Err(Own::NoTerminal.into());
    }
    let first = without_groups(prompt_once(&format!("{prompt} (not shown): "))?);
    check(role, &first)?;
    if twice {
        let second = prompt_once(&format!("{prompt}, again: "))?;
        if *first != *second {
            return Err(Own::SecretsDiffer.into());
        }
    }
    Ok(first)
}

/// Asks at the terminal for a share or a part; nothing entered: `None`.
///
/// # Errors
/// As [`ask`].
pub fn ask_if_any(prompt: &str) -> Result<Option<Secret>, Problem> {
    if !on_terminal() {
        return Err(Own::NoTerminal.into());
    }
    let typed = without_groups(prompt_once(&format!("{prompt} (not shown): "))?);
    if typed.is_empty() {
        return Ok(None);
    }
    check(SecretRole::Code, &typed)?;
    Ok(Some(typed))
}

/// A share without the hyphens and spaces between its groups, in the same buffer; anything
/// else as it is.
fn without_groups(mut secret: Secret) -> Secret {
    if looks_like_share(&secret) {
        let mut kept = 0;
        for place in 0..secret.len() {
            if !matches!(secret[place], b' ' | b'-') {
                secret[kept] = secret[place];
                kept += 1;
            }
        }
        secret[kept..].zeroize();
        secret.truncate(kept);
    }
    secret
}

/// Whether somebody can be asked.
#[must_use]
pub fn on_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Refuses what no token needs to be asked about. The length of a code is the core's to
/// judge (`slotwarden_core::code::check_typed`): one rule, one sentence, one number.
///
/// # Errors
/// [`Refusal::CodeTooShort`] (new codes), [`Refusal::CodeTooLong`],
/// [`Refusal::SecretTooLong`], [`Refusal::CodeNotPrintable`], [`Refusal::PassphraseTooShort`],
/// [`Refusal::PassphraseMissing`].
pub fn check(role: SecretRole, secret: &[u8]) -> Result<(), Refusal> {
    match role {
        SecretRole::NewCode => check_typed(secret, 0),
        // A share in its groups is longer than a code. The core knows which one is meant.
        SecretRole::Code => match check_typed(secret, 0) {
            Err(Refusal::CodeTooShort) if !secret.is_empty() => Ok(()),
            Err(Refusal::CodeTooLong) if secret.len() <= SECRET_BYTES_MAX => Ok(()),
            checked => checked,
        },
        // PKCS#11 PINs are UTF-8 (v3.1, section 2.3); vendors' SO PINs need not keep to our rule for codes.
        SecretRole::SoPin if secret.len() > CODE_CHARS_MAX => Err(Refusal::SecretTooLong),
        SecretRole::SoPin if secret.iter().any(u8::is_ascii_control) => Err(Refusal::CodeNotPrintable),
        SecretRole::SoPin if secret.is_empty() => Err(Refusal::CodeTooShort),
        SecretRole::SoPin => Ok(()),
        SecretRole::NewPassphrase => check_passphrase(secret),
        // What is wrong with it the file says.
        SecretRole::Passphrase if secret.len() > PASSPHRASE_CHARS_MAX => Err(Refusal::SecretTooLong),
        SecretRole::Passphrase if secret.is_empty() => Err(Refusal::PassphraseMissing),
        SecretRole::Passphrase => Ok(()),
    }
}

fn read_line(path: &Path) -> Result<Secret, Problem> {
    let unreadable = |error: io::Error| Own::SecretFileUnreadable.with(format!("{}: {error}", path.display()));
    let mut file = File::open(path).map_err(unreadable)?;
    let mut line = Zeroizing::new(vec![0; FILE_BYTES_MAX + 1]);
    let mut filled = 0;
    while filled < line.len() {
        match file.read(&mut line[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
    if filled > FILE_BYTES_MAX {
        return Err(Own::SecretFileTooLong.with(path.display().to_string()));
    }
    if filled > 0 && line[filled - 1] == b'\n' {
        filled -= 1;
    }
    if filled == 0 {
        return Err(Own::SecretFileEmpty.with(path.display().to_string()));
    }
    // The rest was never written to; truncating moves nothing.
    line[filled..].zeroize();
    line.truncate(filled);
    Ok(line)
}

fn prompt_once(prompt: &str) -> Result<Secret, Problem> {
    match rpassword::prompt_password(prompt) {
        Ok(typed) => Ok(Zeroizing::new(typed.into_bytes())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Own::NoTerminal.into()),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            // Ctrl-C: the signal is on its way to the thread that ends this process.
            thread::sleep(INTERRUPT_WAIT);
            Err(Own::TerminalClosed.with(error.to_string()))
        }
        Err(error) => Err(Own::TerminalClosed.with(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    use super::*;

    fn read(content: &[u8], role: SecretRole) -> Result<Vec<u8>, Problem> {
        let mut file = tempfile::NamedTempFile::new_in("/dev/shm").expect("/dev/shm is writable");
        file.write_all(content).expect("there is room");
        let source = Source { file: Some(file.path().to_owned()), descriptor: None };
        source.read(role).map(|secret| secret.expect("a file was named").to_vec())
    }

    #[test]
    fn files_that_hold_no_code_are_refused_with_the_reason() {
        let number = |content: &[u8], role| read(content, role).expect_err("no code").number;
        assert_eq!(number(b"", SecretRole::Code), 608);
        assert_eq!(number(b"\n", SecretRole::Code), 608);
        assert_eq!(number(&[b'x'; 4097], SecretRole::Code), 609);
        assert_eq!(number(b"1234567\n", SecretRole::NewCode), Refusal::CodeTooShort.number());
        assert_eq!(number(&[b'x'; 65], SecretRole::NewCode), Refusal::CodeTooLong.number());
        assert_eq!(number(&[b'x'; 257], SecretRole::Code), Refusal::CodeTooLong.number());
        assert_eq!(number(b"1234\n5678\n", SecretRole::Code), Refusal::CodeNotPrintable.number());
        assert_eq!(number(b"12345678\r\n", SecretRole::Code), Refusal::CodeNotPrintable.number());
        assert_eq!(number(b"12345678\n\n", SecretRole::Code), Refusal::CodeNotPrintable.number());
        assert_eq!(number(b"1234\x005678", SecretRole::NewCode), Refusal::CodeNotPrintable.number());
        assert_eq!(number("1234ü5678".as_bytes(), SecretRole::NewCode), Refusal::CodeNotPrintable.number());
        assert_eq!(number(b"so\npin", SecretRole::SoPin), Refusal::CodeNotPrintable.number());
        assert_eq!(number(b"thirteen char", SecretRole::NewPassphrase), Refusal::PassphraseTooShort.number());
        assert_eq!(number("über vierzehn Zeichen".as_bytes(), SecretRole::NewPassphrase), 203);
        assert_eq!(number(&[b'x'; 81], SecretRole::NewPassphrase), Refusal::SecretTooLong.number());
        assert_eq!(number(&[b'x'; 65], SecretRole::SoPin), Refusal::SecretTooLong.number());
        let nowhere = Source { file: Some("/nowhere/code".into()), descriptor: None };
        assert_eq!(nowhere.read(SecretRole::Code).expect_err("not there").number, 610);
        let closed = Source { file: None, descriptor: Some(987) };
        assert_eq!(closed.read(SecretRole::Code).expect_err("not open").number, 610);
    }

    #[test]
    fn one_newline_is_removed_and_nothing_else() {
        assert_eq!(read(b" code with blanks \n", SecretRole::NewCode).expect("a code"), b" code with blanks ");
        assert_eq!(read(b"12345678", SecretRole::NewCode).expect("a code"), b"12345678");
        assert_eq!(read(b"1234\n", SecretRole::Code).expect("the core judges the length"), b"1234");
    }

    #[test]
    fn a_descriptor_is_read_like_a_file() {
        let mut file = tempfile::tempfile_in("/dev/shm").expect("/dev/shm is writable");
        file.write_all(b"hunter2-hunter2\n").expect("there is room");
        let descriptor = u32::try_from(file.as_raw_fd()).expect("descriptors are not negative");
        let source = Source { file: None, descriptor: Some(descriptor) };
        let secret = source.read(SecretRole::Code).expect("a code").expect("a descriptor was named");
        assert_eq!(secret.as_slice(), b"hunter2-hunter2");
        assert_eq!(Source::default().read(SecretRole::Code).expect("nothing to read"), None);
    }
}
