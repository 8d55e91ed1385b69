//! Capacities and waits, each with its reason.

/// Slots of an appliance. 64 is the largest partition count of the network HSMs we know.
pub const SLOTS_APPLIANCE: usize = 64;
/// Slots of a firmware without an operating system: fits 8 KiB of static RAM.
pub const SLOTS_FIRMWARE: usize = 8;
/// Places of the Safe of an appliance: one token PIN per active slot, two more for each of
/// the commands under way ([`COMMANDS_MAX`]), and the codes of boot, which become PINs in
/// their own place; and of a ceremony sixteen shares, as many read back, and eight more.
pub const PLACES_APPLIANCE: usize = 192;
/// Places of the Safe of a firmware.
pub const PLACES_FIRMWARE: usize = 24;
/// Bytes of one place: a typed share in groups of five (65 characters) with a few separators
/// more; the longest code (64 characters) and two random halves of 32 bytes need less.
pub const PLACE_BYTES: usize = 80;
/// Queued effects of an appliance while a commit is under way: for each slot four
/// application orders given and taken back, a device call, a reply and three wipes, plus
/// the answers of the service itself. A queue that overflows all the same halts the service.
pub const OUTBOX_APPLIANCE: usize = 13 * SLOTS_APPLIANCE + 64;
/// Queued effects of a firmware.
pub const OUTBOX_FIRMWARE: usize = 13 * SLOTS_FIRMWARE + 24;
/// Commands whose answer is outstanding. One more is refused at the door: a person types
/// one at a time, and scripts are told to try again.
pub const COMMANDS_MAX: usize = 16;
/// Persons. The seed's largest quorum is 16; twice that leaves room for operators and auditors.
pub const PERSONS_MAX: usize = 32;
/// Shares of a set, and the largest quorum: the seed's n.
pub const SHARES_MAX: usize = 16;
/// Approvals under way, all persons together: two or three people at work rarely have more
/// than one each open, and somebody's surplus makes way for others.
pub const APPROVALS_MAX: usize = 8;
/// Approvals under way of one person; the oldest that nobody approved yet makes way.
pub const APPROVALS_PER_PERSON_MAX: usize = 3;
/// Wrong codes after which a person can no longer approve this one request. A code has 40
/// bit, so three guesses find nothing.
pub const APPROVAL_TRIES: usize = 3;
/// Applications bound to one slot. More than a CA, a signer and a validator with their
/// stand-bys has not been seen.
pub const APPLICATIONS_PER_SLOT_MAX: usize = 4;
/// Applications of an appliance, all slots together.
pub const APPLICATIONS_MAX: usize = 64;

/// Card readers: one for each hand of two persons, and as many spare ones.
pub const READERS_MAX: usize = 4;
/// Cards that are known: sixteen backup key shares with a copy each, and the users of several
/// slots with their copies (k of n users, up to five cards each).
pub const CARDS_MAX: usize = 128;
/// Cards of one share: the original and its copies (the product page: "up to 5 cards").
pub const COPIES_MAX: usize = 5;
/// Former sets of a subject whose shares are refused by what became of them.
pub const FORMER_CARD_SETS_MAX: usize = 6;

/// Nodes of a cluster: two sites with a pair each and as many spare ones. A roster of eight has
/// 712 bytes, a package a sealed key for each, and a bit set of them is a byte.
pub const MEMBERS_MAX: usize = 8;
/// Keys of a slot that a ledger knows, removed ones counted: ten times what an export was measured with.
pub const FACTS_MAX: u32 = 100_000;

/// Wait for the answer to what a ceremony asks, milliseconds (5 min).
pub const QUESTION_MS: u64 = 300_000;
/// Longest ceremony, milliseconds (4 h): sixteen people with a card each, called in one by one.
pub const CEREMONY_MS: u64 = 14_400_000;

/// Shortest authentication code, characters (the product page: "at least 8 characters").
pub const CODE_CHARS_MIN: usize = 8;
/// Longest authentication code, characters (the product page: "at most 64").
pub const CODE_CHARS_MAX: usize = 64;
/// Shortest passphrase of an export, characters. Unlike a code, which the token counts, a passphrase is tried on
/// a copy of the file as often as somebody likes, a second and 256 MiB each: what a person makes up has
/// perhaps 3 bit a character, so 14 of them are some 2⁴² tries, and four random words are longer.
pub const PASSPHRASE_CHARS_MIN: usize = 14;
/// Longest passphrase: a place of the Safe holds it.
pub const PASSPHRASE_CHARS_MAX: usize = PLACE_BYTES;
/// Persons of one quorum (the product page: "n ≤ 16").
pub const ROSTER_MAX: usize = 16;
/// Persons in conjunction: as many parts of 8 characters as fit the longest code.
pub const PARTS_MAX: usize = CODE_CHARS_MAX / CODE_CHARS_MIN;
/// Collections of shares or parts under way at once, over all slots: each may hold 16 places
/// of the Safe, and so many people rarely meet twice.
pub const COLLECTIONS_MAX: usize = 2;
/// Former sets of a slot whose shares are refused as outdated rather than as foreign.
pub const FORMER_SETS_MAX: usize = 4;
/// Length of a generated code, Base58 characters: 32 × log2(58) = 187 bit.
pub const GENERATED_CHARS: usize = 32;
/// Shortest token PIN we generate for a token with a small maximum: 22 × log2(58) = 128 bit.
pub const GENERATED_CHARS_MIN: usize = 22;

/// Wait for one slot's keys on their way into a file or out of one, milliseconds: 10,000 keys at 9 ms
/// each (SoftHSM's `C_UnwrapKey` to a token, measured) are 90 s; a network HSM may be ten times slower.
pub const TRANSFER_DEADLINE_MS: u64 = 30 * 60_000;
/// Wait before a token that did not destroy U is asked again, milliseconds: soon enough for whoever mends the
/// cause and looks, and seldom enough for a token that never will.
pub const DROP_AGAIN_MS: u64 = 30_000;
/// Wait of whoever ordered a transfer for a slot that may be active soon, milliseconds: a new worker's login
/// ([`CALL_DEADLINE_MS`]), then the applications ([`APPLICATION_DEADLINE_MS`]).
pub const SLOT_PATIENCE_MS: u64 = CALL_DEADLINE_MS + APPLICATION_DEADLINE_MS;
/// Wait for one PKCS#11 call before the operator is told that it is unanswered,
/// milliseconds. Network HSMs fail over within 20 s; the call itself is not ended by this.
pub const CALL_DEADLINE_MS: u64 = 30_000;
/// Wait for one application adapter, milliseconds.
pub const APPLICATION_DEADLINE_MS: u64 = 30_000;
/// Wait for the store or the random sources, milliseconds. Longer means a dying disk.
pub const PLATFORM_DEADLINE_MS: u64 = 30_000;
/// Wait at a stop for what is under way, milliseconds. A supervisor kills after 90 s.
pub const STOP_DEADLINE_MS: u64 = 20_000;
/// Wait of a zeroize for calls under way, milliseconds, before the HSM worker is ended: SoftHSM and
/// Kryoptic log out within 10 ms, network HSMs within 100 ms.
pub const ZEROIZE_WORKER_MS: u64 = 500;
/// Longest zeroize, milliseconds: the product promises one second to whoever ordered it, and the answer
/// takes some of it.
pub const ZEROIZE_DEADLINE_MS: u64 = 900;
/// Wait for the next share or part, milliseconds (10 min): after it what was entered is wiped,
/// so that nobody can block the others by staying away (P29).
pub const COLLECTION_IDLE_MS: u64 = 600_000;
/// Wait for the next custodian to fetch or confirm their share, milliseconds (1 h): people are
/// called in for it.
pub const HAND_OUT_IDLE_MS: u64 = 3_600_000;
/// First wait after a refused last try, milliseconds; doubles with each further one.
pub const BACK_OFF_FIRST_MS: u64 = 30_000;
/// Longest wait after a refused last try, milliseconds (15 min).
pub const BACK_OFF_LAST_MS: u64 = 900_000;
/// Manual tries in a row before every further one needs a confirmation, default.
pub const TRIES_DEFAULT: u8 = 3;
/// How long a request waits for its approval, milliseconds (15 min): the time to call somebody.
pub const APPROVAL_REQUESTED_MS: u64 = 900_000;
/// How long an approval can be used, milliseconds (5 min): the time to type the order again.
pub const APPROVAL_GIVEN_MS: u64 = 300_000;
/// Interval between signed audit checkpoints, milliseconds (hourly).
pub const CHECKPOINT_INTERVAL_MS: u64 = 3_600_000;
/// Wait for somebody to insert a card, milliseconds (5 min): people fetch theirs from a safe in
/// the next room, and a ceremony that waits longer blocks the others.
pub const CARD_WAIT_MS: u64 = 300_000;
/// Wait for somebody to take a card out, milliseconds (2 min): they stand in front of it.
pub const CARD_REMOVE_MS: u64 = 120_000;
/// Wait for a dialogue of a PIN pad, milliseconds. Pads end it by themselves, the slowest that
/// we know after 60 s for a change of three entries.
pub const PAD_DEADLINE_MS: u64 = 90_000;
/// Wait for any other call to a card reader, milliseconds. Cards write 200 bytes within 1 s and
/// ask for more time meanwhile; connecting to a slow one takes up to 5 s.
pub const CARD_CALL_DEADLINE_MS: u64 = 15_000;
