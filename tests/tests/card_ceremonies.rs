//! Ceremonies about cards and the backup key, end to end: the program and its daemon, SoftHSM2,
//! pcscd, keypads and cards. Nothing is left out between the order and the card's memory.
//!
//! Each test has a pcscd in a mount namespace of its own, so they run as root.

#[path = "card_ceremonies/backup_key.rs"]
mod backup_key;
#[path = "card_ceremonies/bad_cards.rs"]
mod bad_cards;
#[path = "card_ceremonies/bad_exports.rs"]
mod bad_exports;
#[path = "card_ceremonies/cluster.rs"]
mod cluster;
#[path = "card_ceremonies/exchanging.rs"]
mod exchanging;
#[path = "card_ceremonies/exports.rs"]
mod exports;
#[path = "card_ceremonies/one_card.rs"]
mod one_card;
#[path = "card_ceremonies/openpgp.rs"]
mod openpgp;
#[path = "card_ceremonies/scene.rs"]
mod scene;
#[path = "card_ceremonies/secrets.rs"]
mod secrets;
#[path = "card_ceremonies/sizes.rs"]
mod sizes;
#[path = "card_ceremonies/vendor.rs"]
mod vendor;
