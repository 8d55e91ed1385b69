//! The rules of Slotwarden, and nothing else.
//!
//! This crate decides; it performs nothing. It has no I/O, no clock, no randomness, no
//! allocation and no std. A platform feeds it [`Input`]s together with the time
//! ([`Now`]), performs the [`Effect`]s it asks for, and reports how each ended. The same
//! crate runs the appliance on Linux, the simulator, and firmware without an operating
//! system.
//!
//! # Reading order
//!
//! | file | what it holds |
//! |---|---|
//! | [`command`] | what people may order |
//! | [`approval`] | the second person: requested, approved, used once |
//! | [`effect`] | what the platform performs, and how it reports back |
//! | [`slot`] | the slot machine: locked, activating, active, … |
//! | [`pin_change`] | the token PIN change as a transaction that survives power cuts |
//! | [`quorum`] | people who know a code together: collecting, and handing new shares out |
//! | [`card`] | smart cards: what a reader is asked and answers, kinds of card, the session of a reader |
//! | [`slot_data`] | what the machines of a slot share |
//! | [`turn`] | what a machine may do while it handles one event |
//! | [`outbox`] | durable first, then the act |
//! | [`attempts`] | when a try may be made, and what it costs |
//! | [`service`] | routing, durability, deadlines: the four verbs |
//! | [`share`] | what m of n persons hold together: quorum, typed shares, shares on cards, sets |
//! | [`backup`] | keys that come from the backup key |
//! | [`export`] | files of wrapped keys, written and read as a stream |
//! | [`roster`] | which nodes are a cluster, one epoch after the other |
//! | [`join`] | a node's request to join a cluster |
//! | [`ledger`] | which keys a slot has had, has, and must not get back |
//! | [`package`] | files of keys for other members, and which of them are taken |
//! | [`frame`] | what all files of ours have in common |
//! | [`mod@derive`] | keys from keys |
//! | [`safe`] | where secrets live, and the only place |
//! | [`record`] | what is durable |
//! | [`audit`] | the chained log |
//! | [`fault`] | every refusal and fault, numbered, with its remedy |
//! | [`status`] | the one projection that lamps, console and CLI share |
//!
//! # Limits
//!
//! Collections have capacities with reasons, in [`limits`]. What exceeds one is refused
//! aloud, never dropped.

#![no_std]
#![forbid(unsafe_code)]

mod fmt;

pub mod approval;
pub mod attempts;
pub mod audit;
pub mod backup;
pub mod card;
pub mod ceremony;
pub mod cluster;
pub mod code;
pub mod command;
pub mod derive;
pub mod effect;
pub mod export;
pub mod fault;
pub mod frame;
pub mod join;
pub mod ledger;
pub mod limits;
pub mod outbox;
pub mod package;
pub mod person;
pub mod pin_change;
pub mod quorum;
pub mod reception;
pub mod record;
pub mod roster;
pub mod safe;
pub mod service;
pub mod share;
pub mod slot;
pub mod slot_data;
pub mod status;
pub mod time;
pub mod token;
pub mod transfer;
pub mod turn;

pub use command::{Answer, Caller, Command, ReplyId};
pub use effect::{Effect, Input, Outcome, Ticket};
pub use fault::{Fault, Refusal};
pub use safe::{Safe, SecretId};
pub use service::{Appliance, Configuration, Firmware, Service, SlotConfiguration};
pub use status::Status;
pub use time::Now;
