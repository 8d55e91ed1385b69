//! Sealing: stored codes and the node key, encrypted under one data key.
//!
//! The data key is 32 random bytes, made with the store and wrapped once in a file of its
//! own (`seal.blob`), so that destroying that file destroys every sealed secret. What wraps
//! it comes from a *seal source*: a systemd credential (`systemd.exec(5)`,
//! `LoadCredentialEncrypted=`) or a key file. The blob says which one, and only that one
//! opens it later: a credential that appears afterwards changes nothing.
//!
//! Secrets are sealed with AES-256-GCM (NIST SP 800-38D) under a random 96-bit nonce each;
//! kind, owner, generation and cluster are bound in, so that a sealed code can be taken for
//! no other slot's, no older one and no other appliance's. One start unwraps once.
//!
//! The key stays in one heap place that is wiped on drop; the daemon locks its whole memory
//! (`mlockall`), so nothing is locked here page by page.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use aes_gcm::aead::{AeadInOut, KeyInit, Nonce, Tag};
use aes_gcm::{Aes256Gcm, Key};
use hkdf::Hkdf;
use sha2::Sha256;
use slotwarden_core::fault::{Fault, Refusal};
use slotwarden_core::record::{SecretKey, SecretKind};
use zeroize::Zeroizing;

use crate::store::{Refused, directory};

/// Name of the systemd credential.
pub const CREDENTIAL: &str = "slotwarden-seal";
/// Bytes of the key file and of the data key.
const KEY_BYTES: usize = 32;
/// Longest credential that is read, bytes: a key, not a document.
const CREDENTIAL_BYTES_MAX: usize = 4096;
/// AES-GCM nonce, bytes (SP 800-38D, 5.2.1.1: 96 bit is the length to use).
const NONCE_BYTES: usize = 12;
/// AES-GCM tag, bytes.
const TAG_BYTES: usize = 16;
/// Bytes a sealed secret is longer than the secret.
pub const SEALED_EXTRA_BYTES: usize = NONCE_BYTES + TAG_BYTES;

/// First bytes of `seal.blob`.
const BLOB_MAGIC: &[u8; 4] = b"SLWK";
/// Version of `seal.blob`. A higher one is refused.
const BLOB_VERSION: u8 = 1;
/// Magic, version, source, two reserved bytes, salt.
const BLOB_HEADER_BYTES: usize = 4 + 1 + 1 + 2 + 16;
/// The whole blob: header, nonce, wrapped data key, tag.
const BLOB_BYTES: usize = BLOB_HEADER_BYTES + NONCE_BYTES + KEY_BYTES + TAG_BYTES;

/// Where the key that wraps the data key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealSource {
    /// `$CREDENTIALS_DIRECTORY/slotwarden-seal`: systemd decrypts it for this service only.
    SystemdCredential,
    /// A file of 32 random bytes: whoever has the disk has the key. The embedded default.
    KeyFile,
}

impl SealSource {
    /// The name that `status` shows.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            SealSource::SystemdCredential => "systemd-credential",
            SealSource::KeyFile => "key-file",
        }
    }

    const fn code(self) -> u8 {
        match self {
            SealSource::SystemdCredential => 1,
            SealSource::KeyFile => 2,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(SealSource::SystemdCredential),
            2 => Some(SealSource::KeyFile),
            _ => None,
        }
    }
}

/// Where seal sources are looked for.
#[derive(Clone, Debug)]
pub struct SealPlaces {
    /// The credential's path, if systemd gave a credentials directory.
    pub credential: Option<PathBuf>,
    /// The key file's path.
    pub key_file: PathBuf,
}

/// The data key: in one heap place, wiped on drop, printed by nothing.
pub struct DataKey(Box<Zeroizing<[u8; KEY_BYTES]>>);

impl DataKey {
    /// Seals a secret for one key of one cluster: nonce ‖ ciphertext ‖ tag. The plaintext
    /// is encrypted in the returned buffer itself; no other copy is made.
    ///
    /// # Errors
    /// [`Fault::RandomUnavailable`] without a nonce, [`Fault::SealBroken`] if AES-GCM refuses.
    pub fn seal(&self, cluster: &[u8; 16], key: SecretKey, secret: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|_| Fault::RandomUnavailable)?;
        // Zeroizing until it is ciphertext: the capacity is exact, so nothing is moved.
        let mut sealed = Zeroizing::new(Vec::with_capacity(secret.len() + SEALED_EXTRA_BYTES));
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(secret);
        let body = sealed.get_mut(NONCE_BYTES..).ok_or(Fault::SealBroken)?;
        let tag = self
            .cipher()
            .encrypt_inout_detached(&Nonce::<Aes256Gcm>::from(nonce), &bound(cluster, key), body.into())
            .map_err(|_| Fault::SealBroken)?;
        sealed.extend_from_slice(&tag);
        Ok(std::mem::take(&mut *sealed))
    }

    /// Opens what [`DataKey::seal`] made, into `place`; returns the secret's length in bytes.
    ///
    /// # Errors
    /// [`Fault::SealBroken`] for anything that was not sealed for exactly this key and
    /// cluster, or is longer than `place`. `place` then holds no byte of a secret.
    pub fn unseal(&self, cluster: &[u8; 16], key: SecretKey, sealed: &[u8], place: &mut [u8]) -> Result<usize, Fault> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(Fault::SealBroken)?;
        let (body, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or(Fault::SealBroken)?;
        let place = place.get_mut(..body.len()).ok_or(Fault::SealBroken)?;
        place.copy_from_slice(body);
        // The tag is checked before anything is decrypted, so a refusal leaves ciphertext only.
        self.cipher()
            .decrypt_inout_detached(
                &Nonce::<Aes256Gcm>::from(*nonce),
                &bound(cluster, key),
                (&mut *place).into(),
                &Tag::<Aes256Gcm>::from(*tag),
            )
            .map_err(|_| Fault::SealBroken)?;
        Ok(place.len())
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new(<&Key<Aes256Gcm>>::from(&**self.0))
    }
}

/// Makes a data key and wraps it under the best source there is: the credential if systemd
/// gave one, else the key file, which is made if it is missing. Returns the blob's bytes.
///
/// # Errors
/// [`Refusal::SealMissing`] when a key cannot be read or made.
pub fn make(places: &SealPlaces) -> Result<(DataKey, SealSource, Vec<u8>), Refused> {
    let source = match &places.credential {
        Some(path) if path.exists() => SealSource::SystemdCredential,
        _ => SealSource::KeyFile,
    };
    if source == SealSource::KeyFile && !places.key_file.exists() {
        make_key_file(&places.key_file)?;
    }
    let mut blob = Vec::with_capacity(BLOB_BYTES);
    blob.extend_from_slice(BLOB_MAGIC);
    blob.extend_from_slice(&[BLOB_VERSION, source.code(), 0, 0]);
    let mut salt = [0; 16];
    random(&mut salt)?;
    blob.extend_from_slice(&salt);
    let wrapping = wrapping_key(source, places, &salt)?;

    let mut key = DataKey(Box::new(Zeroizing::new([0; KEY_BYTES])));
    random(&mut **key.0)?;
    let mut nonce = [0; NONCE_BYTES];
    random(&mut nonce)?;
    let mut wrapped = Zeroizing::new([0; KEY_BYTES]);
    wrapped.copy_from_slice(&**key.0);
    let tag = wrapping
        .cipher()
        .encrypt_inout_detached(&Nonce::<Aes256Gcm>::from(nonce), &blob, wrapped.as_mut_slice().into())
        .map_err(|_| Refused::new(Refusal::SealWrong, "the data key could not be wrapped"))?;
    blob.extend_from_slice(&nonce);
    blob.extend_from_slice(wrapped.as_slice());
    blob.extend_from_slice(&tag);
    Ok((key, source, blob))
}

/// Unwraps the data key with the source that the blob names.
///
/// # Errors
/// [`Refusal::StoreUnreadable`] for a damaged blob, [`Refusal::StoreNewer`],
/// [`Refusal::SealMissing`] when the source is not there, [`Refusal::SealWrong`] when it
/// holds another key.
pub fn open(blob: &[u8], places: &SealPlaces) -> Result<(DataKey, SealSource), Refused> {
    let damaged = || Refused::new(Refusal::StoreUnreadable, "seal.blob is damaged");
    let (magic, rest) = blob.split_first_chunk::<4>().ok_or_else(damaged)?;
    let (version, _) = rest.split_first().ok_or_else(damaged)?;
    if magic != BLOB_MAGIC {
        return Err(damaged());
    }
    if *version > BLOB_VERSION {
        return Err(Refused::new(Refusal::StoreNewer, format!("seal.blob has version {version}")));
    }
    let (header, rest) = blob.split_first_chunk::<BLOB_HEADER_BYTES>().ok_or_else(damaged)?;
    let (nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>().ok_or_else(damaged)?;
    let (wrapped, rest) = rest.split_first_chunk::<KEY_BYTES>().ok_or_else(damaged)?;
    let tag: &[u8; TAG_BYTES] = rest.try_into().map_err(|_| damaged())?;
    let [_, _, _, _, _, source, _, _, salt @ ..] = header;
    let source = SealSource::from_code(*source).ok_or_else(damaged)?;
    let wrapping = wrapping_key(source, places, salt)?;

    let mut key = DataKey(Box::new(Zeroizing::new(*wrapped)));
    wrapping
        .cipher()
        .decrypt_inout_detached(
            &Nonce::<Aes256Gcm>::from(*nonce),
            header,
            key.0.as_mut_slice().into(),
            &Tag::<Aes256Gcm>::from(*tag),
        )
        .map_err(|_| {
            Refused::new(Refusal::SealWrong, format!("{} does not open seal.blob", describe(source, places)))
        })?;
    Ok((key, source))
}

/// What is bound into each sealed secret besides the secret.
fn bound(cluster: &[u8; 16], key: SecretKey) -> Vec<u8> {
    let mut bound = Vec::with_capacity(64);
    bound.extend_from_slice(b"slotwarden/sealed/v1");
    bound.extend_from_slice(cluster);
    bound.push(kind_code(key.kind));
    bound.extend_from_slice(&key.owner.0.to_be_bytes());
    bound.extend_from_slice(&key.generation.to_be_bytes());
    bound
}

/// The stored number of a kind of secret.
pub(crate) const fn kind_code(kind: SecretKind) -> u8 {
    match kind {
        SecretKind::GeneratedCode => 1,
        SecretKind::NodeKey => 2,
    }
}

/// The kind behind a stored number.
pub(crate) const fn kind_from_code(code: u8) -> Option<SecretKind> {
    match code {
        1 => Some(SecretKind::GeneratedCode),
        2 => Some(SecretKind::NodeKey),
        _ => None,
    }
}

/// HKDF-SHA-256 (RFC 5869) over what the source holds.
fn wrapping_key(source: SealSource, places: &SealPlaces, salt: &[u8]) -> Result<DataKey, Refused> {
    let material = match (source, &places.credential) {
        (SealSource::SystemdCredential, Some(path)) => {
            let material = read_secret(path, CREDENTIAL_BYTES_MAX)?;
            if material.len() < KEY_BYTES {
                return Err(Refused::new(
                    Refusal::SealWrong,
                    format!("{} is shorter than {KEY_BYTES} bytes", path.display()),
                ));
            }
            material
        }
        (SealSource::SystemdCredential, None) => {
            return Err(Refused::new(
                Refusal::SealMissing,
                format!("the systemd credential {CREDENTIAL} is not given: CREDENTIALS_DIRECTORY is not set"),
            ));
        }
        (SealSource::KeyFile, _) => {
            let material = read_secret(&places.key_file, KEY_BYTES)?;
            if material.len() != KEY_BYTES {
                return Err(Refused::new(
                    Refusal::SealWrong,
                    format!("{} does not have {KEY_BYTES} bytes", places.key_file.display()),
                ));
            }
            material
        }
    };
    let (_, kdf) = Hkdf::<Sha256>::extract(Some(salt), &material);
    let mut key = DataKey(Box::new(Zeroizing::new([0; KEY_BYTES])));
    kdf.expand_multi_info(&[b"slotwarden/seal/v1/", source.name().as_bytes()], &mut **key.0)
        .map_err(|_| Refused::new(Refusal::SealWrong, "HKDF refused"))?;
    Ok(key)
}

/// Reads a whole secret file of at most `bytes_max` bytes.
fn read_secret(path: &Path, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, Refused> {
    let missing = |error: std::io::Error| Refused::of_file(Refusal::SealMissing, path, &error);
    let file = fs::File::open(path).map_err(missing)?;
    // Two bytes more than allowed, so that no read ever makes the buffer grow and leave a copy.
    let mut secret = Zeroizing::new(Vec::with_capacity(bytes_max + 2));
    file.take(bytes_max as u64 + 1).read_to_end(&mut secret).map_err(missing)?;
    if secret.len() > bytes_max {
        return Err(Refused::new(Refusal::SealWrong, format!("{} is longer than {bytes_max} bytes", path.display())));
    }
    Ok(secret)
}

/// Makes the key file: complete and durable under its name, or absent.
fn make_key_file(path: &Path) -> Result<(), Refused> {
    let refused = |error: std::io::Error| Refused::new(Refusal::SealMissing, format!("{}: {error}", path.display()));
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    random(key.as_mut_slice())?;
    directory::write_durably(path, key.as_slice()).map_err(refused)
}

fn random(bytes: &mut [u8]) -> Result<(), Refused> {
    getrandom::fill(bytes).map_err(|error| Refused::new(Refusal::SealMissing, format!("no randomness: {error}")))
}

fn describe(source: SealSource, places: &SealPlaces) -> String {
    match (source, &places.credential) {
        (SealSource::SystemdCredential, Some(path)) => path.display().to_string(),
        (SealSource::SystemdCredential, None) => format!("the systemd credential {CREDENTIAL}"),
        (SealSource::KeyFile, _) => places.key_file.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotwarden_core::record::Owner;

    const CLUSTER: [u8; 16] = [7; 16];
    const CODE: SecretKey = SecretKey { kind: SecretKind::GeneratedCode, owner: Owner(3), generation: 9 };

    fn places(dir: &Path) -> SealPlaces {
        SealPlaces { credential: None, key_file: dir.join("seal.key") }
    }

    fn refusal<T>(result: Result<T, Refused>) -> Refusal {
        match result {
            Ok(_) => panic!("not refused"),
            Err(refused) => refused.refusal,
        }
    }

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").expect("/dev/shm is there")
    }

    #[test]
    fn a_sealed_code_opens_for_no_other_owner_generation_kind_or_cluster() {
        let dir = directory();
        let (key, _, _) = make(&places(dir.path())).expect("a key file can be made");
        let sealed = key.seal(&CLUSTER, CODE, b"a code of some length").expect("it can be sealed");
        let mut place = [0; 64];
        let others = [
            SecretKey { owner: Owner(4), ..CODE },
            SecretKey { generation: 10, ..CODE },
            SecretKey { kind: SecretKind::NodeKey, ..CODE },
        ];
        for other in others {
            assert_eq!(key.unseal(&CLUSTER, other, &sealed, &mut place), Err(Fault::SealBroken));
        }
        assert_eq!(key.unseal(&[8; 16], CODE, &sealed, &mut place), Err(Fault::SealBroken));
        assert!(!place.windows(6).any(|window| window == b"a code"));
        assert_eq!(key.unseal(&CLUSTER, CODE, &sealed, &mut place), Ok(21));
        assert_eq!(&place[..21], b"a code of some length");
    }

    #[test]
    fn every_flipped_bit_and_every_shorter_length_of_a_sealed_code_is_refused() {
        let dir = directory();
        let (key, _, _) = make(&places(dir.path())).expect("a key file can be made");
        let sealed = key.seal(&CLUSTER, CODE, b"twelve chars").expect("it can be sealed");
        let mut place = [0; 64];
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.unseal(&CLUSTER, CODE, &damaged, &mut place), Err(Fault::SealBroken));
        }
        for length in 0..sealed.len() {
            assert_eq!(key.unseal(&CLUSTER, CODE, &sealed[..length], &mut place), Err(Fault::SealBroken));
        }
        assert_eq!(key.unseal(&CLUSTER, CODE, &sealed, &mut [0; 11]), Err(Fault::SealBroken));
        assert_eq!(key.unseal(&CLUSTER, CODE, &sealed, &mut place), Ok(12));
    }

    #[test]
    fn a_missing_a_short_a_long_and_another_key_file_are_refused() {
        let dir = directory();
        let places = places(dir.path());
        let (_, source, blob) = make(&places).expect("a key file can be made");
        assert_eq!(source, SealSource::KeyFile);
        let right = fs::read(&places.key_file).expect("it was made");
        fs::remove_file(&places.key_file).expect("it is there");
        assert_eq!(refusal(open(&blob, &places)), Refusal::SealMissing);
        for wrong in [vec![1; 31], vec![1; 33], vec![1; 32], Vec::new()] {
            fs::write(&places.key_file, wrong).expect("the directory is writable");
            assert_eq!(refusal(open(&blob, &places)), Refusal::SealWrong);
        }
        fs::write(&places.key_file, right).expect("the directory is writable");
        assert!(open(&blob, &places).is_ok());
    }

    #[test]
    fn every_damaged_byte_and_length_of_the_blob_is_refused_and_a_higher_version_is_named() {
        let dir = directory();
        let places = places(dir.path());
        let (_, _, blob) = make(&places).expect("a key file can be made");
        for index in 0..blob.len() {
            let mut damaged = blob.clone();
            damaged[index] ^= 0x10;
            assert!(open(&damaged, &places).is_err(), "byte {index}");
        }
        for length in 0..blob.len() {
            assert_eq!(refusal(open(&blob[..length], &places)), Refusal::StoreUnreadable);
        }
        let mut newer = blob.clone();
        newer[4] = BLOB_VERSION + 1;
        assert_eq!(refusal(open(&newer, &places)), Refusal::StoreNewer);
        assert!(open(&blob, &places).is_ok());
    }

    #[test]
    fn the_blob_is_opened_by_the_source_that_sealed_it_and_by_no_other() {
        let dir = directory();
        let credential = dir.path().join(CREDENTIAL);
        let with = SealPlaces { credential: Some(credential.clone()), key_file: dir.path().join("seal.key") };
        let without = SealPlaces { credential: None, ..with.clone() };

        fs::write(&credential, [5; 31]).expect("the directory is writable");
        assert_eq!(refusal(make(&with)), Refusal::SealWrong);
        fs::write(&credential, [5; 44]).expect("the directory is writable");
        let (_, source, blob) = make(&with).expect("the credential is long enough");
        assert_eq!(source.name(), "systemd-credential");
        assert!(!with.key_file.exists());
        assert_eq!(refusal(open(&blob, &without)), Refusal::SealMissing);
        assert!(open(&blob, &with).is_ok());

        let (_, source, blob) = make(&without).expect("a key file can be made");
        assert_eq!(source.name(), "key-file");
        let (_, source) = open(&blob, &with).expect("the key file is there");
        assert_eq!(source, SealSource::KeyFile);
    }
}
