//! The people: what they know, what they order next, what they make of an answer.
//!
//! They look at the status, like everybody, and mostly do what it asks for; sometimes they
//! mistype, repeat themselves or order something pointless. They are as forgetful as an
//! answer lets them be: *done* makes them forget every code but the one in force, *refused*
//! (nothing was done) makes them forget the new one; only *failed*, or no answer at all,
//! makes them remember both. A service that answers too early thus loses a code, and the
//! model sees it.

use heapless::Vec;
use slotwarden_core::approval::ApprovalCode;
use slotwarden_core::command::{Answer, Command, CommandKind};
use slotwarden_core::effect::ApplicationSet;
use slotwarden_core::fault::Refusal;
use slotwarden_core::person::{PersonId, Roster};
use slotwarden_core::record::{Doubt, Mode};
use slotwarden_core::share::Quorum;
use slotwarden_core::status::{SlotStatus, StateName};

use crate::SLOTS;
use crate::approvals::Request;
use crate::code::Code;
use crate::gather::Verdict;
use crate::strike::ADMINISTRATOR;
use crate::together::{Aim, Completing, Together};

/// Codes of one slot that people keep in mind; with more to remember they change nothing.
pub const REMEMBERED_MAX: usize = 6;
/// Orders without an answer.
pub const ORDERS_MAX: usize = 32;

/// What people know about one slot.
#[derive(Clone, Debug)]
pub struct Knowledge {
    /// Codes that could be in force, the newest first.
    pub codes: Vec<Code, REMEMBERED_MAX>,
    /// The SO PIN.
    pub so_pin: Code,
    /// What several persons know together.
    pub together: Together,
    /// Which of `codes` they type next.
    next: usize,
    /// Whether they were told that another wrong code could block the token.
    told_last_try: bool,
    /// Whether they were told to name a free token.
    pub told_several: bool,
}

/// An order that was given and not answered yet.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// The number its answer carries.
    pub reply: u32,
    /// About which slot; boot and stop are about none.
    pub slot: Option<u8>,
    /// What.
    pub kind: CommandKind,
    /// By whom.
    pub who: PersonId,
    /// The present code, a share, a part or the SO PIN as typed; [`Code::NONE`]: none.
    pub typed: Code,
    /// The new manual code; [`Code::NONE`]: none.
    pub new: Code,
    /// The order as it was wished.
    pub(crate) wish: Wish,
    /// What two persons decide under dual control.
    pub(crate) operation: Option<Command>,
    /// Whether dual control was on when it was given: it may be answered under another rule.
    pub(crate) by_two: bool,
    /// What the share that is entered is.
    pub(crate) verdict: Option<Verdict>,
    /// When it was given, milliseconds of the world.
    pub given_ms: u64,
}

/// What people want next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Which order.
    pub kind: CommandKind,
    /// Its mode, for [`CommandKind::Mode`].
    pub to: Mode,
    /// The present code or the SO PIN.
    pub typed: Code,
    /// The new manual code.
    pub new: Code,
    /// The confirmation that a last try needs.
    pub confirmed: bool,
    /// Who orders it; `None`: one of those who may, or may not.
    pub who: Option<PersonId>,
    /// Who is to know the new code in parts, for [`CommandKind::Mode`].
    pub parts: Option<Roster>,
    /// Into how many shares, and for whom, for [`CommandKind::Split`].
    pub split: Option<(Quorum, Roster)>,
    /// Which request, with which code, for [`CommandKind::Approve`] and its like.
    pub approval: Option<(u32, ApprovalCode)>,
    /// On or off, for [`CommandKind::DualControl`].
    pub on: bool,
    /// Applications accepted as dead; `None`: decided when it is ordered.
    pub accept: Option<ApplicationSet>,
}

impl Wish {
    /// An order without codes.
    #[must_use]
    pub const fn plain(kind: CommandKind) -> Self {
        Wish {
            kind,
            to: Mode::Manual,
            typed: Code::NONE,
            new: Code::NONE,
            confirmed: false,
            who: None,
            parts: None,
            split: None,
            approval: None,
            on: false,
            accept: None,
        }
    }
}

/// Everybody.
#[derive(Clone, Debug)]
pub struct People {
    /// Per slot what they know.
    pub slots: [Knowledge; SLOTS],
    /// What they wait for.
    pub orders: Vec<Order, ORDERS_MAX>,
    /// Whether several persons share what opens a slot, in this world.
    pub are_many: bool,
    /// Whether they switch dual control on, in this world.
    pub are_two: bool,
    /// Orders that wait for a second person.
    pub(crate) requests: std::vec::Vec<Request>,
    next_reply: u32,
}

impl Default for People {
    fn default() -> Self {
        let nothing = || Knowledge {
            codes: Vec::new(),
            so_pin: Code::NONE,
            together: Together::default(),
            next: 0,
            told_last_try: false,
            told_several: false,
        };
        People {
            slots: std::array::from_fn(|_| nothing()),
            orders: Vec::new(),
            are_many: false,
            are_two: false,
            requests: std::vec::Vec::new(),
            next_reply: 1,
        }
    }
}

impl Knowledge {
    /// Whether they could open a token that has this PIN.
    #[must_use]
    pub fn knows(&self, pin: &Code) -> bool {
        self.codes.contains(pin)
    }

    /// From now on this code could be in force too.
    pub fn learn(&mut self, code: Code) {
        if self.codes.len() == REMEMBERED_MAX {
            self.codes.pop();
        }
        // There is room: one was popped if there was none.
        let _inserted = self.codes.insert(0, code);
        self.next = 0;
    }

    /// Whether they remember so many codes that they make up no further one.
    #[must_use]
    pub(crate) fn has_much_in_mind(&self) -> bool {
        self.codes.len() >= REMEMBERED_MAX - 1
    }

    /// Whether they type the confirmation that a last try needs.
    pub(crate) fn is_sure(&self, status: &SlotStatus, random: &mut fastrand::Rng) -> bool {
        (status.tries_left == 0 || self.told_last_try) && random.u8(..100) < 70
    }

    /// An answer about a collection. False: it is about something else.
    fn answered_together(&mut self, order: &Order, answer: Answer, still_ordered: &[Code]) -> bool {
        let together = &mut self.together;
        if let Some(place) = together.completing.iter().position(|completing| completing.reply == order.reply) {
            let Completing { gathering, present, new, .. } = together.completing.swap_remove(place);
            let opens = gathering.aim == Aim::Open;
            match answer {
                Answer::Done if opens && present.is_none() => {}
                Answer::Done => {
                    let in_force = if opens { present } else { new };
                    self.codes.retain(|code| *code == in_force || still_ordered.contains(code));
                    together.keep(in_force);
                    self.told_last_try = false;
                    self.next = 0;
                }
                Answer::Refused(refusal) if remembers_both(refusal) => {}
                Answer::Refused(refusal) => {
                    self.told_last_try |= refusal == Refusal::LastTryUnconfirmed;
                    together.turn += usize::from(refusal == Refusal::CodeWrong);
                    if !opens {
                        self.codes.retain(|code| *code != new);
                        together.forget(&new);
                    }
                }
                Answer::Failed(_) | Answer::Waits(_) | Answer::Share { .. } | Answer::NeedsApproval { .. } => {}
            }
            return true;
        }
        match (order.kind, answer) {
            (
                CommandKind::Share | CommandKind::Activate,
                Answer::Refused(Refusal::ShareOutdated | Refusal::NotInRoster),
            ) => {
                // Perhaps it is the other set that is asked for, or the other parts.
                together.turn += 1;
                true
            }
            (CommandKind::Share, Answer::Refused(refusal)) => {
                self.told_last_try |= refusal == Refusal::LastTryUnconfirmed;
                true
            }
            (CommandKind::Share | CommandKind::Reset | CommandKind::Split, _) => true,
            (_, _) => false,
        }
    }

    /// The code to try: the newest first, another one after each refusal.
    #[must_use]
    pub fn candidate(&self) -> Code {
        if self.codes.is_empty() { Code::NONE } else { self.codes[self.next % self.codes.len()] }
    }
}

impl People {
    /// What people want for a slot in this state; `None`: they leave it alone.
    pub fn wish(&self, slot: u8, status: &SlotStatus, random: &mut fastrand::Rng) -> Option<Wish> {
        if self.are_many
            && let Some(wish) = self.wish_together(slot, status, random)
        {
            return wish;
        }
        let knowledge = &self.slots[usize::from(slot)];
        let dice = random.u8(..100);
        let generated = status.mode == Mode::Generated;
        let kind = match status.state {
            StateName::Absent => match dice {
                0..1 => CommandKind::Decommission,
                1..3 => CommandKind::Unblock,
                3..20 => CommandKind::Init,
                20..30 => CommandKind::Activate,
                30..35 => CommandKind::Boot,
                _ => return None,
            },
            StateName::Uninitialised => match dice {
                0..80 => CommandKind::Init,
                80..83 => CommandKind::Decommission,
                83..85 => CommandKind::Unblock,
                85..90 => CommandKind::Activate,
                _ => return None,
            },
            StateName::Locked | StateName::Collecting => match dice {
                0..55 => CommandKind::Activate,
                55..59 => CommandKind::Unblock,
                59..62 => CommandKind::Decommission,
                62..72 => CommandKind::ChangeCode,
                72..84 => CommandKind::Mode,
                84..92 => CommandKind::Boot,
                92..94 => CommandKind::Init,
                94..97 => CommandKind::Deactivate,
                97..98 => CommandKind::EndCall,
                _ => CommandKind::Stop,
            },
            StateName::Active => match dice {
                0..25 => CommandKind::ChangeCode,
                25..55 => CommandKind::Mode,
                55..80 => CommandKind::Deactivate,
                80..84 => CommandKind::Activate,
                84..86 => CommandKind::Boot,
                86..92 => CommandKind::Stop,
                92..93 => CommandKind::Init,
                94..95 => CommandKind::Unblock,
                95..96 => CommandKind::Decommission,
                93..94 => CommandKind::EndCall,
                _ => return None,
            },
            StateName::Doubtful => match (status.doubt, dice) {
                (Some(Doubt::CallUnanswered), 0..20) => CommandKind::EndCall,
                (_, 0..48) => CommandKind::Activate,
                (_, 48..58) => CommandKind::Unblock,
                (_, 58..60) => CommandKind::Decommission,
                (_, 60..66) => CommandKind::ChangeCode,
                (_, 66..72) => CommandKind::Mode,
                (_, 72..75) => CommandKind::Boot,
                (_, 75..80) => CommandKind::Deactivate,
                (_, 80..82) => CommandKind::Stop,
                _ => return None,
            },
            StateName::CoolingDown | StateName::Blocked => match dice {
                0..12 => CommandKind::Activate,
                12..26 => CommandKind::Unblock,
                26..30 => CommandKind::Decommission,
                30..35 => CommandKind::ChangeCode,
                35..38 => CommandKind::Stop,
                _ => return None,
            },
            StateName::Activating | StateName::Changing => match dice {
                0..6 => CommandKind::Activate,
                6..12 => CommandKind::Deactivate,
                12..15 => CommandKind::Mode,
                15..18 => CommandKind::Boot,
                18..20 => CommandKind::Stop,
                20..30 => CommandKind::EndCall,
                30..32 => CommandKind::Unblock,
                32..33 => CommandKind::Decommission,
                _ => return None,
            },
        };
        let mut wish = Wish::plain(kind);
        wish.confirmed = (status.tries_left == 0 || knowledge.told_last_try) && random.u8(..100) < 70;
        let typed = match random.u8(..100) {
            0..8 => Code::manual(random),
            8..10 => Code::new(b"M-short"),
            10..11 => Code::new(b"M-new\nline"),
            _ => knowledge.candidate(),
        };
        let odd = random.u8(..100) < 3;
        match kind {
            CommandKind::Activate => {
                // Of an undecided change the service decides itself, when a person asks for it.
                let undecided =
                    status.state == StateName::Doubtful && status.doubt != Some(Doubt::OldOrNew) && random.bool();
                if (!generated && !undecided) || odd {
                    wish.typed = typed;
                }
            }
            CommandKind::ChangeCode | CommandKind::Mode => {
                let stays = kind == CommandKind::ChangeCode || random.u8(..100) < 4;
                wish.to = if stays { status.mode } else { other(status.mode) };
                if !generated || odd {
                    wish.typed = typed;
                }
                if wish.to == Mode::Manual {
                    if knowledge.codes.len() >= REMEMBERED_MAX - 1 {
                        return None;
                    }
                    wish.new = if odd { wish.typed } else { Code::manual(random) };
                }
            }
            CommandKind::Init => {
                wish.typed = if random.u8(..100) < 5 { Code::so_pin(random) } else { knowledge.so_pin };
            }
            CommandKind::Unblock => {
                wish.confirmed |= knowledge.told_last_try && random.u8(..100) < 50;
                wish.typed = if random.u8(..100) < 10 { Code::so_pin(random) } else { knowledge.so_pin };
                wish.to = if random.u8(..100) < 60 { Mode::Generated } else { Mode::Manual };
                if wish.to == Mode::Manual {
                    if knowledge.codes.len() >= REMEMBERED_MAX - 1 {
                        return None;
                    }
                    wish.new = Code::manual(random);
                }
            }
            CommandKind::Decommission => {
                wish.confirmed |= knowledge.told_last_try && random.u8(..100) < 50;
                let there = status.state != StateName::Absent;
                if there != odd {
                    wish.typed = if random.u8(..100) < 10 { Code::so_pin(random) } else { knowledge.so_pin };
                }
            }
            CommandKind::Boot
            | CommandKind::Split
            | CommandKind::Share
            | CommandKind::Reset
            | CommandKind::Deactivate
            | CommandKind::EndCall
            | CommandKind::Stop
            | CommandKind::Approve
            | CommandKind::Withdraw
            | CommandKind::DualControl
            | CommandKind::AdoptConfiguration
            | CommandKind::ReadStatus
            | CommandKind::ReadAudit
            | CommandKind::CreateSet
            | CommandKind::ChangeCardPin
            | CommandKind::ReassignCard
            | CommandKind::CopyCard
            | CommandKind::VerifySet
            | CommandKind::VerifyFile
            | CommandKind::RestoreKey
            | CommandKind::ReplaceSet
            | CommandKind::RotateKey
            | CommandKind::EraseCard
            | CommandKind::CardLost
            | CommandKind::SlotCards
            | CommandKind::AdministratorCards
            | CommandKind::AnswerCeremony
            | CommandKind::CancelCeremony
            | CommandKind::Export
            | CommandKind::Restore
            | CommandKind::Import
            | CommandKind::EndRestore
            | CommandKind::CountKeys
            | CommandKind::MakePackage
            | CommandKind::ReceivePackage
            | CommandKind::ApplyPackage
            | CommandKind::EndReceive
            | CommandKind::Abandon
            | CommandKind::FoundCluster
            | CommandKind::InviteMember
            | CommandKind::RemoveMember
            | CommandKind::RenewRoster
            | CommandKind::JoinCluster
            | CommandKind::FollowRoster
            | CommandKind::ChooseRoster
            | CommandKind::Zeroize => {}
        }
        Some(wish)
    }

    /// They give an order and remember the new code, if there is one. Returns the number
    /// of the answer; `None` when they wait for too many already.
    pub fn give(&mut self, slot: Option<u8>, wish: &Wish, now_ms: u64) -> Option<u32> {
        let reply = self.next_reply;
        let who = wish.who.unwrap_or(ADMINISTRATOR);
        let (typed, new) = (wish.typed, wish.new);
        let order = Order {
            reply,
            slot,
            kind: wish.kind,
            who,
            typed,
            new,
            wish: *wish,
            operation: None,
            by_two: false,
            verdict: None,
            given_ms: now_ms,
        };
        self.orders.push(order).ok()?;
        self.next_reply += 1;
        if let Some(slot) = slot
            && !wish.new.is_none()
            && wish.new != wish.typed
            && !self.slots[usize::from(slot)].knows(&wish.new)
        {
            self.slots[usize::from(slot)].learn(wish.new);
        }
        Some(reply)
    }

    /// What the order with this answer completed: as which command, and with which token PIN.
    #[must_use]
    pub fn completed(&self, reply: u32) -> Option<(CommandKind, Code)> {
        let all = self.slots.iter().flat_map(|knowledge| &knowledge.together.completing);
        let completing = all.into_iter().find(|completing| completing.reply == reply)?;
        Some((completing.gathering.kind, completing.new))
    }

    /// An answer arrived. Returns the order it belongs to; `None`: nobody waits for it.
    pub fn answered(&mut self, reply: u32, answer: Answer) -> Option<Order> {
        let index = self.orders.iter().position(|order| order.reply == reply)?;
        let order = self.orders.swap_remove(index);
        let Some(slot) = order.slot else { return Some(order) };
        let mut still_ordered: Vec<Code, ORDERS_MAX> = Vec::new();
        for other in self.orders.iter().filter(|other| other.slot == Some(slot) && !other.new.is_none()) {
            let _fits = still_ordered.push(other.new);
        }
        let knowledge = &mut self.slots[usize::from(slot)];
        if knowledge.answered_together(&order, answer, &still_ordered) {
            return Some(order);
        }
        match answer {
            Answer::Done => {
                knowledge.told_last_try = false;
                knowledge.next = 0;
                let in_force = match order.kind {
                    CommandKind::Activate => order.typed,
                    CommandKind::ChangeCode | CommandKind::Mode | CommandKind::Unblock => order.new,
                    CommandKind::Decommission => Code::NONE,
                    CommandKind::Init => {
                        knowledge.so_pin = order.typed;
                        knowledge.told_several = false;
                        Code::NONE
                    }
                    CommandKind::Boot
                    | CommandKind::Split
                    | CommandKind::Share
                    | CommandKind::Reset
                    | CommandKind::Deactivate
                    | CommandKind::EndCall
                    | CommandKind::Stop
                    | CommandKind::Approve
                    | CommandKind::Withdraw
                    | CommandKind::DualControl
                    | CommandKind::AdoptConfiguration
                    | CommandKind::ReadStatus
                    | CommandKind::ReadAudit
                    | CommandKind::CreateSet
                    | CommandKind::ChangeCardPin
                    | CommandKind::ReassignCard
                    | CommandKind::CopyCard
                    | CommandKind::VerifySet
                    | CommandKind::VerifyFile
                    | CommandKind::RestoreKey
                    | CommandKind::ReplaceSet
                    | CommandKind::RotateKey
                    | CommandKind::EraseCard
                    | CommandKind::CardLost
                    | CommandKind::SlotCards
                    | CommandKind::AdministratorCards
                    | CommandKind::AnswerCeremony
                    | CommandKind::CancelCeremony
                    | CommandKind::Export
                    | CommandKind::Restore
                    | CommandKind::Import
                    | CommandKind::EndRestore
                    | CommandKind::CountKeys
                    | CommandKind::MakePackage
                    | CommandKind::ReceivePackage
                    | CommandKind::ApplyPackage
                    | CommandKind::EndReceive
                    | CommandKind::Abandon
                    | CommandKind::FoundCluster
                    | CommandKind::InviteMember
                    | CommandKind::RemoveMember
                    | CommandKind::RenewRoster
                    | CommandKind::JoinCluster
                    | CommandKind::FollowRoster
                    | CommandKind::ChooseRoster
                    | CommandKind::Zeroize => return Some(order),
                };
                if order.kind == CommandKind::Activate && (in_force.is_none() || !still_ordered.is_empty()) {
                    return Some(order);
                }
                knowledge.codes.retain(|code| *code == in_force || still_ordered.contains(code));
                knowledge.together.keep(in_force);
                if !in_force.is_none() && knowledge.codes.is_empty() {
                    knowledge.learn(in_force);
                }
            }
            Answer::Refused(refusal) if remembers_both(refusal) => {}
            Answer::Refused(refusal) => {
                knowledge.told_last_try |= refusal == Refusal::LastTryUnconfirmed;
                knowledge.told_several |= refusal == Refusal::SeveralFreeTokens;
                if refusal == Refusal::CodeWrong {
                    knowledge.next += 1;
                }
                if !order.new.is_none() && order.new != order.typed {
                    knowledge.codes.retain(|code| *code != order.new);
                }
            }
            // Its codes were wiped; they are typed again with the same order.
            Answer::NeedsApproval { .. } => {
                if !order.new.is_none() && order.new != order.typed {
                    knowledge.codes.retain(|code| *code != order.new);
                }
            }
            Answer::Failed(_) | Answer::Waits(_) | Answer::Share { .. } => {}
        }
        Some(order)
    }

    /// The daemon is gone: nobody will be answered any more.
    pub fn hung_up(&mut self) {
        self.orders.clear();
        self.requests.clear();
        for knowledge in &mut self.slots {
            knowledge.together.gathering = None;
            knowledge.together.completing.clear();
        }
    }
}

/// The disk failed under the order: "mend the disk, restart"; then the status tells which code
/// it is. "The token has the old code or the new one" makes them remember both as well.
fn remembers_both(refusal: Refusal) -> bool {
    matches!(refusal, Refusal::StoreFailed | Refusal::Halted | Refusal::Stopping | Refusal::CodeOldOrNew)
}

fn other(mode: Mode) -> Mode {
    match mode {
        Mode::Generated => Mode::Manual,
        Mode::Manual => Mode::Generated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotwarden_core::fault::Fault;

    const OLD: &[u8] = b"M-old-code";
    const NEW: &[u8] = b"M-new-code";

    fn people_changing_a_code() -> (People, u32) {
        let mut people = People::default();
        people.slots[0].learn(Code::new(OLD));
        let wish = Wish { typed: Code::new(OLD), new: Code::new(NEW), ..Wish::plain(CommandKind::ChangeCode) };
        let reply = people.give(Some(0), &wish, 0).expect("nobody waits yet");
        (people, reply)
    }

    #[test]
    fn refused_makes_them_forget_the_new_code_and_done_the_old_one() {
        let (mut people, reply) = people_changing_a_code();
        assert!(people.slots[0].knows(&Code::new(OLD)) && people.slots[0].knows(&Code::new(NEW)));
        assert!(people.answered(reply, Answer::Refused(Refusal::CodeWrong)).is_some());
        assert!(people.slots[0].knows(&Code::new(OLD)) && !people.slots[0].knows(&Code::new(NEW)));

        let (mut people, reply) = people_changing_a_code();
        assert!(people.answered(reply, Answer::Done).is_some());
        assert!(!people.slots[0].knows(&Code::new(OLD)) && people.slots[0].knows(&Code::new(NEW)));
    }

    #[test]
    fn failed_and_no_answer_make_them_remember_both_and_try_the_new_one_first() {
        let (mut people, reply) = people_changing_a_code();
        assert!(people.answered(reply, Answer::Failed(Fault::TokenGone)).is_some());
        assert_eq!(people.slots[0].codes, [Code::new(NEW), Code::new(OLD)]);
        let (mut people, _) = people_changing_a_code();
        people.hung_up();
        assert_eq!(people.slots[0].candidate(), Code::new(NEW));
    }

    #[test]
    fn an_answer_to_nobody_is_noticed() {
        let (mut people, reply) = people_changing_a_code();
        assert!(people.answered(reply + 1, Answer::Done).is_none());
    }

    #[test]
    fn after_a_wrong_code_they_try_the_other_one() {
        let mut people = People::default();
        people.slots[0].learn(Code::new(OLD));
        people.slots[0].learn(Code::new(NEW));
        let wish = Wish { typed: Code::new(NEW), ..Wish::plain(CommandKind::Activate) };
        let reply = people.give(Some(0), &wish, 0).expect("nobody waits yet");
        assert!(people.answered(reply, Answer::Refused(Refusal::CodeWrong)).is_some());
        assert_eq!(people.slots[0].candidate(), Code::new(OLD));
    }
}
