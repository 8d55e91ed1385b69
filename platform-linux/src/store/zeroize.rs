//! Zeroize on the disk: the data key is destroyed, and a start finishes what is left of it.
//!
//! | file | what |
//! |---|---|
//! | `zeroize` | the intent: an id and who ordered it; as long as it is there nothing else is done first |
//! | `seal.next` | the wrapped new data key, until it takes the place of `seal.blob` |
//!
//! The order of things, each durable before the next:
//!
//! 1. `zeroize` is written. From here on a power cut is followed by a start that goes on.
//! 2. `seal.blob` and then the key file are overwritten with random bytes, and what lost stores that were
//!    set aside left of theirs; all are removed, the blob last: as long as it is there the destruction is
//!    not over. Now nothing opens a sealed secret any more.
//! 3. (next start) `seal.next` is written, under a new key file where the old one was ours to destroy.
//! 4. One transaction: sealed secrets out, new node key in, records of slots without their codes, the
//!    former public key kept, two audit records, the intent's id.
//! 5. `zeroize` is removed, `seal.next` becomes `seal.blob`.
//!
//! Before step 4 a repetition begins again from step 2; after it the id in the store says so, and only
//! step 5 is left. Steps 1 and 2 need no store: they are done also for one that is halted or damaged.
//!
//! What overwriting means: on a disk that writes in place the wrapped key is gone. A flash translation
//! layer or a copying file system may keep the old block until it is reused; what it holds is the data
//! key, wrapped. With a key file the wrapping key lay on the same medium and may be kept likewise; with a
//! systemd credential sealed to a TPM it did not. Copies in backups are out of reach in any case.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use redb::backends::FileBackend;
use slotwarden_core::audit::{AuditEvent, AuditRecord, Chain};
use slotwarden_core::command::CommandKind;
use slotwarden_core::fault::Refusal;
use slotwarden_core::person::PersonId;
use zeroize::Zeroizing;

use super::directory::{Directory, remove_if_there, rename_durably, sync_directory, write_durably};
use super::format::{self, Rekey};
use super::room::Ballast;
use super::{NODE_KEY, Refused, StoreSettings, failed, inspect, lost};
use crate::audit::{hex, unhex};
use crate::seal;

/// What the intent's line begins with.
const INTENT_PREFIX: &str = "slotwarden zeroize 1 ";
/// The largest file that is overwritten, bytes: blob and key file have less than a hundred.
const OVERWRITE_BYTES_MAX: u64 = 4096;

/// A zeroize that was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Names it, so that the store can say whether it was finished.
    pub id: [u8; 16],
    /// Who ordered it.
    pub who: PersonId,
}

impl Directory {
    /// The intent.
    #[must_use]
    pub fn zeroize_intent(&self) -> PathBuf {
        self.path.join("zeroize")
    }

    /// The wrapped data key that takes the place of a destroyed one.
    #[must_use]
    pub fn next_blob(&self) -> PathBuf {
        self.path.join("seal.next")
    }
}

/// Makes the intent durable and destroys the data key.
///
/// # Errors
/// Of the file system. What could be destroyed is destroyed all the same.
pub fn order(directory: &Directory, key_file: &Path, who: PersonId) -> io::Result<()> {
    let mut id = [0; 16];
    let drawn = getrandom::fill(&mut id).map_err(io::Error::other);
    let intent = || {
        let line = format!("{INTENT_PREFIX}{} {}\n", hex(&id), who.0);
        write_durably(&directory.zeroize_intent(), line.as_bytes())
    };
    let written = drawn.and_then(|()| {
        intent().or_else(|_| {
            // On a full disk the ballast is what zeroize is kept room by.
            Ballast::new(&directory.path).give_up()?;
            intent()
        })
    });
    let destroyed = destroy(directory, key_file);
    // What is destroyed made room: without an intent the next start would take the store for lost.
    let written = if written.is_err() && id != [0; 16] { intent() } else { written };
    written.and(destroyed)
}

/// What is left of a zeroize is done before anything else: see the head of this file.
///
/// # Errors
/// [`Refusal::StoreFailed`], and whatever forbids the store to be read; the data key is gone even so.
pub fn finish(directory: &Directory, settings: &StoreSettings) -> Result<(), Refused> {
    let Some(intent) = pending(directory)? else {
        return match directory.next_blob().exists() {
            true => rename_durably(&directory.next_blob(), &directory.blob()).map_err(|error| failed(&error)),
            false => Ok(()),
        };
    };
    let content = inspect(directory);
    let finished = content.as_ref().is_ok_and(|content| content.zeroized == Some(intent.id));
    if !finished {
        destroy(directory, &settings.seal.key_file).map_err(|error| failed(&error))?;
        rekey(directory, settings, &content?, intent)?;
    }
    remove_if_there(&directory.zeroize_intent()).map_err(|error| failed(&error))?;
    sync_directory(&directory.path).map_err(|error| failed(&error))?;
    rename_durably(&directory.next_blob(), &directory.blob()).map_err(|error| failed(&error))
}

/// For a store that is about to be moved aside: no key that was to be destroyed is moved with it.
///
/// # Errors
/// [`Refusal::StoreFailed`].
pub fn destroy_if_ordered(directory: &Directory, settings: &StoreSettings) -> Result<(), Refused> {
    match pending(directory)? {
        Some(_) => destroy(directory, &settings.seal.key_file).map_err(|error| failed(&error)),
        None => Ok(()),
    }
}

/// The intent that lies there.
fn pending(directory: &Directory) -> Result<Option<Intent>, Refused> {
    let path = directory.zeroize_intent();
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Refused::of_file(Refusal::StoreUnreadable, &path, &error)),
    };
    let parsed = text.strip_prefix(INTENT_PREFIX).and_then(|rest| rest.strip_suffix('\n')?.split_once(' '));
    let intent = parsed.and_then(|(id, who)| Some(Intent { id: unhex(id)?, who: PersonId(who.parse().ok()?) }));
    let damaged = || Refused::new(Refusal::StoreUnreadable, format!("{} is damaged", path.display()));
    intent.map(Some).ok_or_else(damaged)
}

/// Overwrites the wrapped data key and the key file, and removes them. Done where no blob is.
fn destroy(directory: &Directory, key_file: &Path) -> io::Result<()> {
    let blob = directory.blob();
    // The first start's way to the blob, left by a power cut, holds a key that protects nothing.
    if !blob.exists() {
        return Ok(());
    }
    let overwritten = overwrite(&blob);
    // A key file that may not be written is not ours: it opened the blob, and there is none any more. Where
    // the blob could not be overwritten, this alone makes it useless.
    let removed = match overwrite(key_file) {
        Ok(()) => remove_if_there(key_file).and_then(|()| key_file.parent().map_or(Ok(()), sync_directory)),
        Err(_) => Ok(()),
    };
    let set_aside = destroy_set_aside(directory, key_file);
    overwritten.and(removed).and(set_aside)?;
    remove_if_there(&blob)?;
    sync_directory(&directory.path)
}

/// The same for stores that were lost and set aside: their codes may still open a token.
fn destroy_set_aside(directory: &Directory, key_file: &Path) -> io::Result<()> {
    for aside in lost::set_aside_in(&directory.path)? {
        let lost = Directory { path: aside };
        let key_file = key_file.file_name().map(|name| lost.path.join(name));
        for path in [lost.blob(), lost.next_blob()].into_iter().chain(key_file) {
            match overwrite(&path) {
                Ok(()) => remove_if_there(&path)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        sync_directory(&lost.path)?;
    }
    Ok(())
}

/// Overwrites a file in its own blocks, as far as the file system has them there, and syncs it.
fn overwrite(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let length = file.metadata()?.len().min(OVERWRITE_BYTES_MAX);
    let mut noise = vec![0; usize::try_from(length).unwrap_or(0)];
    // Zeros overwrite as well.
    let _ = getrandom::fill(&mut noise);
    file.write_all(&noise)?;
    file.sync_all()
}

/// Steps 3 and 4: a new data key, a new node key, a store that says so.
fn rekey(
    directory: &Directory,
    settings: &StoreSettings,
    content: &format::Content,
    intent: Intent,
) -> Result<(), Refused> {
    remove_if_there(&directory.next_blob()).map_err(|error| failed(&error))?;
    let (key, _, blob) = seal::make(&settings.seal)?;
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(|error| failed(&error))?;
    let node = SigningKey::from_bytes(&seed).verifying_key().to_bytes();
    let sealed = key
        .seal(&content.cluster, NODE_KEY, seed.as_slice())
        .map_err(|fault| Refused::new(Refusal::StoreFailed, fault.sentence()))?;
    write_durably(&directory.next_blob(), &blob).map_err(|error| failed(&error))?;

    let records = records(content.chain, intent.who, content.node, node);
    let file = OpenOptions::new().read(true).write(true).open(directory.store());
    let file: File = file.map_err(|error| Refused::of_file(Refusal::StoreFailed, &directory.store(), &error))?;
    let backend = FileBackend::new(file).map_err(|error| failed(&error))?;
    let database = format::open(backend).map_err(|error| failed(&error))?;
    let change = Rekey { id: intent.id, node, sealed: &sealed, former: content.node, records: &records, content };
    format::rekey(&database, &change).map_err(|error| failed(&error))
}

/// What the audit log says of it: the order, its end, the keys.
fn records(chain: Chain, who: PersonId, old: [u8; 32], new: [u8; 32]) -> Vec<AuditRecord> {
    let wall_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs());
    let events = [
        (Some(who), AuditEvent::Ordered(CommandKind::Zeroize)),
        (None, AuditEvent::Zeroized),
        (None, AuditEvent::NodeKeyReplaced { old, new }),
    ];
    let mut chain = chain;
    let following = events.into_iter().map(|(who, event)| {
        let (sequence, previous) = (chain.sequence.saturating_add(1), chain.head);
        let record = AuditRecord { sequence, wall_s, previous, who, slot: None, event };
        chain = Chain { sequence, head: record.hash() };
        record
    });
    following.collect()
}
