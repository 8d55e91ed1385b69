//! Two persons for one order: requests, codes read aloud, orders given again.
//!
//! Whoever is told that a second person is wanted reads id and code to somebody, who mostly
//! gives them back right; then the order is given again. Sometimes people approve their own,
//! mishear the code, name another request, withdraw, or change the order after it was approved.

use slotwarden_core::approval::ApprovalCode;
use slotwarden_core::command::CommandKind;
use slotwarden_core::person::PersonId;

use crate::campaign::settle_down;
use crate::code::Code;
use crate::custodians::{APPROVER, PERSONS};
use crate::people::{People, Wish};
use crate::strike::{ADMINISTRATOR, SECOND_ADMINISTRATOR};
use crate::world::World;

/// Requests that people remember.
const REQUESTS_MAX: usize = 8;

/// An order that waits for a second person.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// As the requester was told.
    pub(crate) id: u32,
    /// What the requester reads aloud.
    pub(crate) code: ApprovalCode,
    /// About which slot.
    pub(crate) about: Option<u8>,
    /// The order.
    pub(crate) wish: Wish,
    /// Whether somebody said that they approved it.
    pub(crate) approved: bool,
}

impl People {
    /// What follows for the request made last; `None`: nothing now.
    pub(crate) fn wish_of_two(&self, is_single: bool, random: &mut fastrand::Rng) -> Option<(Option<u8>, Wish)> {
        if !self.are_two {
            return None;
        }
        let dice = random.u8(..100);
        if dice < 3 || (is_single && dice < 12) {
            let who = if random.bool() { ADMINISTRATOR } else { SECOND_ADMINISTRATOR };
            let plain = Wish { who: Some(who), ..Wish::plain(CommandKind::DualControl) };
            return Some((
                None,
                match random.u8(..100) {
                    0..60 => Wish { on: is_single, ..plain },
                    60..75 => Wish { on: !is_single, ..plain },
                    _ => Wish { kind: CommandKind::AdoptConfiguration, on: random.bool(), ..plain },
                },
            ));
        }
        let request = self.requests.get(random.usize(..self.requests.len().max(1)))?;
        let approve =
            |who, id, code| Wish { who: Some(who), approval: Some((id, code)), ..Wish::plain(CommandKind::Approve) };
        let other = if request.wish.who == Some(SECOND_ADMINISTRATOR) { ADMINISTRATOR } else { SECOND_ADMINISTRATOR };
        let second = if random.bool() { APPROVER } else { other };
        // Given again an order brings another new code: the first one was never heard of.
        let new = if request.wish.new.is_none() { Code::NONE } else { Code::manual(random) };
        let again = Wish { new, ..request.wish };
        let is_too_much = |slot: u8| !new.is_none() && self.slots[usize::from(slot)].has_much_in_mind();
        if request.about.is_some_and(is_too_much) {
            return None;
        }
        match (random.u8(..100), request.approved) {
            (0..5, _) => Some((None, approve(request.wish.who.unwrap_or(ADMINISTRATOR), request.id, request.code))),
            (5..12, _) => {
                let misheard = ApprovalCode::parse("0000-0000").unwrap_or(request.code);
                Some((None, approve(APPROVER, request.id, misheard)))
            }
            (12..14, _) => Some((None, approve(second, request.id + 7, request.code))),
            (14..17, _) => {
                let who = PersonId(random.u8(..PERSONS));
                Some((None, Wish { kind: CommandKind::Withdraw, ..approve(who, request.id, request.code) }))
            }
            (17..20, true) => Some((None, approve(second, request.id, request.code))),
            (20..75, true) => Some((request.about, again)),
            // The order is not the one that was approved any more.
            (75..80, true) => {
                let who = Some(other);
                Some((request.about, Wish { who, confirmed: !request.wish.confirmed, ..again }))
            }
            (20..80, false) => Some((None, approve(second, request.id, request.code))),
            _ => None,
        }
    }

    /// An order waits for a second person.
    pub(crate) fn needs_second(&mut self, request: Request) {
        if self.requests.iter().any(|known| known.id == request.id) {
            return;
        }
        if self.requests.len() == REQUESTS_MAX {
            self.requests.remove(0);
        }
        self.requests.push(request);
    }
}

impl World {
    /// Whether one person alone decides.
    pub(crate) fn is_single(&self) -> bool {
        self.core.as_ref().is_none_or(|core| core.status(self.now()).single_person)
    }

    /// At the end two persons switch dual control off, so that each slot is opened by those
    /// who have its code.
    pub(crate) fn let_one_decide(&mut self) {
        for _ in 0..8 {
            settle_down(self);
            if self.checkers.violation.is_some() || self.is_single() {
                return;
            }
            self.people.requests.clear();
            let off = Wish { who: Some(ADMINISTRATOR), on: false, ..Wish::plain(CommandKind::DualControl) };
            self.order(None, &off, ADMINISTRATOR);
            settle_down(self);
            if let Some(request) = self.people.requests.first().copied() {
                let approval = Some((request.id, request.code));
                let approve = Wish { approval, ..Wish::plain(CommandKind::Approve) };
                self.order(None, &approve, SECOND_ADMINISTRATOR);
                settle_down(self);
                self.order(None, &off, ADMINISTRATOR);
            }
        }
        settle_down(self);
        if !self.is_single() {
            self.checkers.violated("P29", 0, "two persons could not switch dual control off");
        }
    }
}
