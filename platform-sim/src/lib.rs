//! The world in memory.
//!
//! Tokens, a disk, applications, people, a clock and whatever can go wrong with them, as
//! plain data. [`explore`] runs the core through it in virtual time, single-threaded, and
//! checks the promises about slots; [`appliance`] gives the same tokens to the daemon's
//! loop, to try it by hand.
//!
//! | file | what it holds |
//! |---|---|
//! | [`code`] | the bytes of one PIN or code |
//! | [`hsm`] | tokens with counters, flags, sessions and a store of their own |
//! | [`terminal`] | a PIN pad as the core's calls drive it |
//! | [`room`] | one core, readers, cards, tokens: ceremonies step by step |
//! | [`sync`] | what a member of a cluster keeps: its ledger, and packages |
//! | [`members`] | rooms that are members of one cluster |
//! | [`courier`] | one seed of a cluster: packages are lost, repeated, late, and power goes |
//! | [`store`] | a disk that loses power |
//! | [`cards`] | smart cards: ours, and what it takes to be any |
//! | [`pin_pad`] | a reader with a keypad, and the person at it |
//! | [`reader`] | such readers on sockets, for the real PC/SC service |
//! | [`apps`] | applications that hold a token PIN or not |
//! | [`table`] | the card readers, every card there is, and what is remembered of them |
//! | [`people`] | what people know and order |
//! | [`together`] | what several persons know of one code |
//! | [`shares`] | shares computed a second time, plainly |
//! | [`faults`] | what can go wrong, and when |
//! | [`model`] | who could open a token: the reference |
//! | [`checkers`] | the promises, one checker each |
//! | [`trace`] | what happened, hashed |
//! | [`world`] | all of it in virtual time |
//! | [`campaign`] | one seed: people work, faults strike, everything is opened at the end |
//! | [`cuts`] | power cuts at every point of every order |
//! | [`zeroize`] | the data key destroyed, and power that goes meanwhile |
//! | [`appliance`] | the daemon's loop on these tokens, to try by hand |
//! | [`explore`] | many seeds, counted, hashed and reported |

pub mod appliance;
mod approvals;
pub mod apps;
pub mod campaign;
mod card_checkers;
mod card_people;
pub mod cards;
pub mod checkers;
pub mod code;
pub mod courier;
mod custodians;
pub mod cuts;
mod devices;
pub mod explore;
pub mod faults;
mod gather;
pub mod hsm;
pub mod members;
pub mod model;
pub mod people;
pub mod pin_pad;
mod power;
pub mod reader;
mod readers;
pub mod room;
pub mod shares;
pub mod store;
mod strike;
pub mod sync;
pub mod table;
pub mod terminal;
pub mod together;
pub mod trace;
pub mod vault;
pub mod world;
pub mod zeroize;

/// Slots of the simulated service: what one campaign watches at a time.
pub const SLOTS: usize = 3;
/// Places of its Safe: a PIN and a change under way for each slot, and what two collections
/// of shares hold. People who all come at once find it full.
pub const PLACES: usize = 24;
/// Its outbox: `4 * SLOTS + 16` is the least, the rest is for orders that come together.
pub const OUTBOX: usize = 64;

/// The service under test.
pub type Core = slotwarden_core::Service<SLOTS, PLACES, OUTBOX>;
