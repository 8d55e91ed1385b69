//! The keys that packages are sealed for: a node's private ones, and what others know of them.
//!
//! They follow from the node key, so that there is one secret to seal, to destroy and to lose: a node with another
//! node key is another node. The store makes the private ones for as long as a package is being opened; they are
//! wiped on drop and printed by nothing. The public ones travel in requests to join and in the annex of a roster, whose
//! members are bound to them by [`roster::seal`].

use hkdf::Hkdf;
use hpke::kem::{DhP256HkdfSha256, XWing};
use hpke::{Deserializable, Kem, Serializable};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use slotwarden_core::fault::Fault;
use slotwarden_core::package::Suite;
use slotwarden_core::roster::{self, Member};
use zeroize::Zeroizing;

/// Bytes of a private key of either suite: X-Wing's seed, P-256's scalar.
pub const SECRET_BYTES: usize = 32;
const SALT: &[u8] = b"slotwarden/node-secrets/v1";

/// A node's private keys for packages: wiped on drop, printed by nothing.
pub struct NodeSecrets {
    x_wing: Zeroizing<[u8; SECRET_BYTES]>,
    p256: Zeroizing<[u8; SECRET_BYTES]>,
}

impl NodeSecrets {
    /// Those of the node with this Ed25519 private key (its seed), which is all that has to be kept: HKDF-SHA-256 (RFC
    /// 5869) gives each suite 32 bytes, and from them comes its key by `DeriveKeyPair` (RFC 9180).
    ///
    /// # Errors
    /// [`Fault::SealBroken`]: no bytes come from a key of another length; these have the right one.
    pub fn of_node(seed: &[u8; SECRET_BYTES]) -> Result<Self, Fault> {
        let kdf = Hkdf::<Sha256>::new(Some(SALT), seed);
        let derived = |info: &[u8]| {
            let mut ikm = Zeroizing::new([0; SECRET_BYTES]);
            kdf.expand(info, ikm.as_mut_slice()).map(|()| ikm).map_err(|_| Fault::SealBroken)
        };
        let (x_wing, p256) = (derived(b"x-wing")?, derived(b"p-256")?);
        Ok(NodeSecrets { x_wing: derive::<XWing>(&x_wing), p256: derive::<DhP256HkdfSha256>(&p256) })
    }

    /// The keys that [`NodeSecrets::private`] gave; `None` where they are no private keys.
    #[must_use]
    pub fn from_private(x_wing: &[u8; SECRET_BYTES], p256: &[u8; SECRET_BYTES]) -> Option<Self> {
        let possible = public_of::<XWing>(x_wing).is_some() && public_of::<DhP256HkdfSha256>(p256).is_some();
        possible.then(|| NodeSecrets { x_wing: Zeroizing::new(*x_wing), p256: Zeroizing::new(*p256) })
    }

    /// The private key of a suite.
    #[must_use]
    pub fn private(&self, suite: Suite) -> &[u8; SECRET_BYTES] {
        match suite {
            Suite::XWing => &self.x_wing,
            Suite::P256 => &self.p256,
        }
    }

    /// The public keys, with the node's own.
    ///
    /// # Errors
    /// [`Fault::SealBroken`] where one is no private key; no way of making one leads there.
    pub fn public(&self, node: [u8; 32]) -> Result<MemberKeys, Fault> {
        let x_wing = public_of::<XWing>(&self.x_wing).ok_or(Fault::SealBroken)?;
        let p256 = public_of::<DhP256HkdfSha256>(&self.p256).ok_or(Fault::SealBroken)?;
        Ok(MemberKeys { node, x_wing, p256 })
    }
}

/// What others need to seal packages for a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberKeys {
    /// Its Ed25519 public key, which names it.
    pub node: [u8; 32],
    /// Its X-Wing public key, 1,216 bytes.
    pub x_wing: Vec<u8>,
    /// Its P-256 public key, uncompressed (SEC 1, 2.3.3), 65 bytes.
    pub p256: Vec<u8>,
}

impl MemberKeys {
    /// The key of a suite.
    #[must_use]
    pub fn of(&self, suite: Suite) -> &[u8] {
        match suite {
            Suite::XWing => &self.x_wing,
            Suite::P256 => &self.p256,
        }
    }

    /// The node as a roster has it; `None` where one of both is no public key: nothing could be
    /// sealed for it.
    #[must_use]
    pub fn member(&self) -> Option<Member> {
        <XWing as Kem>::PublicKey::from_bytes(&self.x_wing).ok()?;
        <DhP256HkdfSha256 as Kem>::PublicKey::from_bytes(&self.p256).ok()?;
        let seal = roster::seal(self.x_wing.as_slice().try_into().ok()?, self.p256.as_slice().try_into().ok()?);
        Some(Member { node: self.node, seal })
    }
}

/// A private key from 32 secret bytes.
fn derive<K: Kem>(ikm: &[u8; SECRET_BYTES]) -> Zeroizing<[u8; SECRET_BYTES]> {
    let (private, _) = K::derive_keypair(ikm);
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    private.write_exact(secret.as_mut_slice());
    secret
}

fn public_of<K: Kem>(private: &[u8; SECRET_BYTES]) -> Option<Vec<u8>> {
    let private = K::PrivateKey::from_bytes(private).ok()?;
    Some(K::sk_to_pk(&private).to_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_node_follow_from_its_seed_and_differ_from_those_of_any_other() {
        let [one, same, other] =
            [1, 1, 2].map(|seed| NodeSecrets::of_node(&[seed; 32]).and_then(|found| found.public([9; 32])));
        assert!(one.is_ok() && one == same);
        let (one, other) = (one.expect("it is"), other.expect("it is a seed"));
        assert!(one.x_wing != other.x_wing && one.p256 != other.p256);
        // What is derived is not the seed itself.
        let secrets = NodeSecrets::of_node(&[1; 32]).expect("it is a seed");
        assert!([Suite::XWing, Suite::P256].iter().all(|suite| *secrets.private(*suite) != [1; 32]));
    }

    #[test]
    fn private_keys_come_back_from_their_bytes_and_others_are_refused() {
        let secrets = NodeSecrets::of_node(&[2; 32]).expect("it is a seed");
        let [x_wing, p256] = [Suite::XWing, Suite::P256].map(|suite| *secrets.private(suite));
        // RFC 9180, 7.1.2: zero, and what is not below the order of the curve, is no scalar.
        assert!(NodeSecrets::from_private(&x_wing, &[0; 32]).is_none());
        assert!(NodeSecrets::from_private(&x_wing, &[0xFF; 32]).is_none());
        let again = NodeSecrets::from_private(&x_wing, &p256).expect("they were made");
        assert_eq!(again.public([9; 32]), secrets.public([9; 32]));
    }
}
