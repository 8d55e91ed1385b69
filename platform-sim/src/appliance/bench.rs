//! The tokens of the appliance to try, the worker that holds their logins, and the hands
//! that pull them: [`Bench`]. [`SimHsm`] is how the daemon's loop sees them.
//!
//! One thread a slot, so that a token that hangs delays no other. A worker has a number;
//! what a thread of an ended worker finds out is dropped, since `WorkerLost` said already
//! that nobody knows. The tokens outlive the loop: after a power cut they hold what they
//! had settled, and a new loop starts on them.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use slotwarden::devices::{Event, Events, FreeToken, Hsm, Lend};
use slotwarden_core::effect::{HsmAnswer, HsmCall, Input, Outcome, SlotId, Ticket};
use slotwarden_core::fault::{HsmFailure, Refusal};
use slotwarden_core::token::{LoginState, Presence};

use crate::code::Code;
use crate::hsm::{Extent, LABELS_MAX, Token, Tokens};

/// How long a token takes for a call.
const CALL_WAIT: Duration = Duration::from_millis(5);
/// How long a worker takes to start.
const START_WAIT: Duration = Duration::from_millis(300);

/// The tokens. Clones are the same ones.
#[derive(Clone)]
pub(super) struct Bench(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// A token answers again, or the worker ended.
    woken: Condvar,
}

struct State {
    /// A token's place is the slot it was made for; its label is the slot it belongs to.
    tokens: Tokens,
    /// Slots whose token takes calls and answers none.
    hung: [bool; LABELS_MAX],
    /// What the core was told of each slot.
    told: [Option<Presence>; LABELS_MAX],
    worker: Option<Worker>,
    /// The number of the worker that runs or is starting.
    number: u32,
    /// The loop that is told; `None` while there is none.
    events: Option<Events>,
}

struct Worker {
    orders: Vec<Sender<Order>>,
}

/// One call on its way to a token.
struct Order {
    ticket: Ticket,
    call: HsmCall,
    first: Code,
    second: Code,
}

impl Bench {
    pub(super) fn new(tokens: [Token; LABELS_MAX]) -> Self {
        let tokens = Tokens { tokens: tokens.into_iter().collect(), ..Tokens::default() };
        let (hung, told) = ([false; LABELS_MAX], [None; LABELS_MAX]);
        let state = State { tokens, hung, told, worker: None, number: 0, events: None };
        Bench(Arc::new(Shared { state: Mutex::new(state), woken: Condvar::new() }))
    }

    /// Takes the token out; a call that it left unanswered fails now.
    pub(super) fn pull(&self, slot: u8) -> Result<(), &'static str> {
        let mut state = self.lock();
        let token = state.token_of(slot).ok_or("it has no token")?;
        if !token.inserted {
            return Err("its token is not inserted");
        }
        token.inserted = false;
        token.session = LoginState::Public;
        state.hung[usize::from(slot)] = false;
        state.tell_presences();
        self.0.woken.notify_all();
        Ok(())
    }

    pub(super) fn insert(&self, slot: u8) -> Result<(), &'static str> {
        let mut state = self.lock();
        let token = state.token_of(slot).ok_or("it has no token")?;
        if token.inserted {
            return Err("its token is inserted");
        }
        token.inserted = true;
        state.tell_presences();
        Ok(())
    }

    /// From now on calls to the token stay without an answer.
    pub(super) fn hang(&self, slot: u8) {
        self.lock().hung[usize::from(slot)] = true;
    }

    /// The token answers again, first what it was asked meanwhile.
    pub(super) fn answer(&self, slot: u8) -> Result<(), &'static str> {
        if !std::mem::take(&mut self.lock().hung[usize::from(slot)]) {
            return Err("its token does answer");
        }
        self.0.woken.notify_all();
        Ok(())
    }

    /// Every token answers again.
    pub(super) fn answer_all(&self) {
        self.lock().hung.fill(false);
        self.0.woken.notify_all();
    }

    /// Somebody else tries a wrong PIN.
    pub(super) fn wrong(&self, slot: u8) -> Result<(), &'static str> {
        let mut state = self.lock();
        let token = state.token_of(slot).filter(|token| token.inserted).ok_or("its token is not inserted")?;
        if token.live.user_pin.is_none() {
            return Err("its token has no user PIN yet");
        }
        token.spend_a_try();
        state.tell_presences();
        Ok(())
    }

    /// Ends the worker, whatever it is doing; another starts.
    pub(super) fn kill(&self) {
        let mut state = self.lock();
        state.lose_worker();
        self.start_worker(&mut state);
        self.0.woken.notify_all();
    }

    /// The power goes: what no token settled is lost, and nobody is told anything more.
    pub(super) fn cut_power(&self) {
        let mut state = self.lock();
        state.events = None;
        state.number = state.number.wrapping_add(1);
        state.lose_worker();
        for token in &mut state.tokens.tokens {
            token.power_cut(false);
        }
        self.0.woken.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In a moment; unless another is started before that.
    fn start_worker(&self, state: &mut State) {
        state.number = state.number.wrapping_add(1);
        let (number, bench) = (state.number, self.clone());
        thread::spawn(move || {
            thread::sleep(START_WAIT);
            bench.worker_is_up(number);
        });
    }

    fn worker_is_up(&self, number: u32) {
        let mut state = self.lock();
        if state.number != number || state.events.is_none() {
            return;
        }
        let orders = (0u8..).take(LABELS_MAX).map(|slot| {
            let (order, orders) = channel();
            let bench = self.clone();
            thread::spawn(move || bench.serve(number, slot, &orders));
            order
        });
        state.worker = Some(Worker { orders: orders.collect() });
        state.tell_presences();
        state.tell(Input::WorkerUp);
    }

    /// The thread of one slot in one worker.
    fn serve(&self, number: u32, slot: u8, orders: &Receiver<Order>) {
        for order in orders {
            thread::sleep(CALL_WAIT);
            let runs = |state: &State| state.number == number && state.worker.is_some();
            let hangs = |state: &mut State| runs(state) && state.hung[usize::from(slot)];
            let mut state = self.0.woken.wait_while(self.lock(), hangs).unwrap_or_else(PoisonError::into_inner);
            if !runs(&state) {
                return;
            }
            let result = state.carry_out(slot, &order);
            state.tell(Input::Done { ticket: order.ticket, outcome: Outcome::Hsm(result) });
            if let Ok(HsmAnswer::Initialised(token)) = result {
                // The answer said it of this slot; the others have one free token less.
                state.told[usize::from(slot)] = Some(Presence::Present(token));
                state.tell_presences();
            }
        }
    }
}

impl State {
    /// The slot's token: the one with its label, else the one made for it that nobody labelled.
    fn token_of(&mut self, slot: u8) -> Option<&mut Token> {
        let tokens = &mut self.tokens.tokens;
        let place = tokens.iter().position(|token| token.live.label == Some(slot));
        let token = tokens.get_mut(place.unwrap_or(usize::from(slot)))?;
        (token.live.label.is_none() || token.live.label == Some(slot)).then_some(token)
    }

    /// Tells of each slot where something changed but a login, which only we do.
    fn tell_presences(&mut self) {
        if self.worker.is_none() {
            return;
        }
        for slot in (0u8..).take(LABELS_MAX) {
            let presence = self.tokens.look(slot);
            let told = &mut self.told[usize::from(slot)];
            if told.map(but_for_login) != Some(but_for_login(presence)) {
                *told = Some(presence);
                self.tell(Input::Token { slot: SlotId(slot), presence });
            }
        }
    }

    fn tell(&self, input: Input) {
        if let Some(events) = &self.events {
            // A loop that has ended needs no answer.
            let _ = events.send(Event::Input(input));
        }
    }

    /// Logins are gone, and so is whatever hung.
    fn lose_worker(&mut self) {
        if self.worker.take().is_some() {
            self.tell(Input::WorkerLost);
        }
        self.told.fill(None);
        self.hung.fill(false);
        self.tokens.tokens.iter_mut().for_each(Token::worker_lost);
    }

    fn carry_out(&mut self, slot: u8, order: &Order) -> Result<HsmAnswer, HsmFailure> {
        if let HsmCall::Initialise { free_slot, .. } = order.call {
            let place = self.tokens.for_init(slot, free_slot).map_err(HsmFailure::Refused)?;
            let token = self.tokens.tokens.get_mut(usize::from(place)).ok_or(HsmFailure::TokenGone)?;
            return token.initialise(slot, &order.first, &order.second, Extent::Whole);
        }
        if order.call == HsmCall::Settle {
            self.tokens.settle_all();
            return Ok(HsmAnswer::Settled);
        }
        let token = self.tokens.of(slot).ok_or(HsmFailure::TokenGone)?;
        match order.call {
            HsmCall::Login { .. } => token.login(&order.first),
            HsmCall::Logout => token.logout(),
            HsmCall::SetPin { .. } => token.set_pin(&order.first, &order.second),
            HsmCall::Unblock { .. } => token.unblock(&order.first, &order.second),
            HsmCall::Erase { .. } => token.erase(&order.first),
            HsmCall::PutBackupKeys { key_id, uid, unwrap, .. } => {
                token.put_backup_keys((key_id, uid), &order.first, &order.second, unwrap, Extent::Whole)
            }
            HsmCall::KeepBackupKeys { key_id, uid, unwrap } => token.keep_backup_keys(key_id, uid, unwrap),
            HsmCall::SetSoPin { .. } => token.set_so_pin(&order.first, &order.second),
            HsmCall::Inventory { .. }
            | HsmCall::ExportSection { .. }
            | HsmCall::PrepareImport { .. }
            | HsmCall::Import { .. }
            | HsmCall::PlanPackage { .. }
            | HsmCall::ImportPackage { .. }
            | HsmCall::DropUnwrapKey { .. } => token.transfer(&order.call),
            HsmCall::Observe | HsmCall::Initialise { .. } | HsmCall::Settle => Ok(HsmAnswer::Observed(token.state())),
        }
    }
}

fn but_for_login(presence: Presence) -> Presence {
    match presence {
        Presence::Present(mut token) => {
            token.login = LoginState::Public;
            Presence::Present(token)
        }
        other => other,
    }
}

/// The HSM of one run of the daemon's loop.
pub(super) struct SimHsm {
    bench: Bench,
    events: Events,
}

impl SimHsm {
    /// Starts a worker; what it finds arrives at `events`.
    pub(super) fn start(bench: &Bench, events: Events) -> Self {
        let mut state = bench.lock();
        state.events = Some(events.clone());
        bench.start_worker(&mut state);
        drop(state);
        SimHsm { bench: bench.clone(), events }
    }
}

impl Hsm for SimHsm {
    fn perform(&mut self, ticket: Ticket, slot: SlotId, call: HsmCall, secrets: &dyn Lend) {
        let lend = |id| {
            let mut code = Code::NONE;
            secrets.lend(id, &mut |secret| code = Code::new(secret)).then_some(code)
        };
        let none = Some(Code::NONE);
        let lent = match call {
            HsmCall::Observe
            | HsmCall::Logout
            | HsmCall::Settle
            | HsmCall::KeepBackupKeys { .. }
            | HsmCall::Inventory { .. }
            | HsmCall::ExportSection { .. }
            | HsmCall::Import { .. }
            | HsmCall::PlanPackage { .. }
            | HsmCall::ImportPackage { .. }
            | HsmCall::DropUnwrapKey { .. } => none.zip(none),
            HsmCall::Login { pin } => lend(pin).zip(none),
            HsmCall::SetPin { old, new } | HsmCall::SetSoPin { old, new } => lend(old).zip(lend(new)),
            HsmCall::PutBackupKeys { kek, mak, .. } | HsmCall::PrepareImport { kek, mak, .. } => {
                lend(kek).zip(lend(mak))
            }
            HsmCall::Initialise { so_pin, new, .. } | HsmCall::Unblock { so_pin, new } => lend(so_pin).zip(lend(new)),
            HsmCall::Erase { so_pin } => lend(so_pin).zip(none),
        };
        let state = self.bench.lock();
        let failure = match (lent, &state.worker) {
            (None, _) => HsmFailure::Refused(Refusal::CodeMissing),
            (Some(_), None) => HsmFailure::NoWorker,
            (Some((first, second)), Some(worker)) => {
                let order = Order { ticket, call, first, second };
                let orders = worker.orders.get(usize::from(slot.0));
                if orders.is_some_and(|orders| orders.send(order).is_ok()) {
                    return;
                }
                HsmFailure::NoWorker
            }
        };
        let outcome = Outcome::Hsm(Err(failure));
        let _ = self.events.send(Event::Input(Input::Done { ticket, outcome }));
    }

    fn look(&mut self) {
        self.bench.lock().tell_presences();
        // A loop that has ended needs no answer.
        let _ = self.events.send(Event::Looked);
    }

    fn end_worker(&mut self) {
        self.bench.kill();
    }

    fn free_tokens(&self) -> Vec<FreeToken> {
        let state = self.bench.lock();
        let free =
            (0u64..).zip(&state.tokens.tokens).filter(|(_, token)| token.is_there() && token.live.label.is_none());
        let free = free
            .map(|(slot_number, _)| FreeToken { slot_number, description: format!("simulated token {slot_number}") });
        free.collect()
    }

    fn random(&mut self, half: &mut [u8; 32]) -> bool {
        fastrand::fill(half);
        self.bench.lock().worker.is_some()
    }

    fn description(&self) -> String {
        format!("simulated tokens of slotwarden-sim {}", env!("CARGO_PKG_VERSION"))
    }

    fn stop(&mut self) {
        let mut state = self.bench.lock();
        state.events = None;
        state.number = state.number.wrapping_add(1);
        state.lose_worker();
        self.bench.0.woken.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use slotwarden_core::SecretId;

    use super::*;
    use crate::hsm::Character;

    struct Nothing;
    impl Lend for Nothing {
        fn lend(&self, _: SecretId, _: &mut dyn FnMut(&[u8])) -> bool {
            false
        }
    }

    fn ticket(slot: u8, number: u32) -> Ticket {
        Ticket { slot: Some(SlotId(slot)), number }
    }

    fn hear(arriving: &Receiver<Event>) -> Input {
        match arriving.recv_timeout(Duration::from_secs(10)).expect("something is told") {
            Event::Input(input) => input,
            other => panic!("an input was expected: {other:?}"),
        }
    }

    /// A token for each slot, whose worker is up.
    fn up() -> (Bench, SimHsm, Receiver<Event>) {
        let token = |slot| Token::initialised(slot, Character::SOFT, slot, Code::new(b"M-one-code"), Code::NONE);
        let bench = Bench::new([0, 1, 2, 3].map(token));
        let (events, arriving) = channel();
        let hsm = SimHsm::start(&bench, events);
        hear_start(&arriving);
        (bench, hsm, arriving)
    }

    fn hear_start(arriving: &Receiver<Event>) {
        for slot in [0, 1, 2, 3] {
            let told = hear(arriving);
            assert!(matches!(told, Input::Token { slot: SlotId(found), .. } if found == slot), "{told:?}");
        }
        assert_eq!(hear(arriving), Input::WorkerUp);
    }

    #[test]
    fn p44_a_token_that_hangs_delays_no_other_and_its_ended_worker_says_nothing_late() {
        let (bench, mut hsm, arriving) = up();
        bench.hang(0);
        hsm.perform(ticket(0, 1), SlotId(0), HsmCall::Observe, &Nothing);
        hsm.perform(ticket(1, 2), SlotId(1), HsmCall::Observe, &Nothing);
        assert!(matches!(hear(&arriving), Input::Done { ticket: found, .. } if found == ticket(1, 2)));
        hsm.end_worker();
        assert_eq!(hear(&arriving), Input::WorkerLost);
        hear_start(&arriving);
        let begun = Instant::now();
        hsm.perform(ticket(0, 3), SlotId(0), HsmCall::Observe, &Nothing);
        let told = hear(&arriving);
        assert!(matches!(told, Input::Done { ticket: found, .. } if found == ticket(0, 3)), "{told:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "the new worker answers at once");
        assert!(arriving.try_recv().is_err(), "nothing of the ended worker");
    }

    #[test]
    fn without_a_worker_a_call_is_answered_at_once() {
        let (bench, mut hsm, arriving) = up();
        bench.cut_power();
        hsm.perform(ticket(0, 1), SlotId(0), HsmCall::Observe, &Nothing);
        let outcome = Outcome::Hsm(Err(HsmFailure::NoWorker));
        assert_eq!(hear(&arriving), Input::Done { ticket: ticket(0, 1), outcome });
    }

    #[test]
    fn a_pulled_token_is_told_once_and_comes_back() {
        let (bench, mut hsm, arriving) = up();
        assert!(bench.insert(0).is_err(), "it is there");
        assert_eq!(bench.pull(0), Ok(()));
        assert!(bench.pull(0).is_err(), "it is gone");
        hsm.look();
        let absent = Presence::Absent { free: false };
        assert_eq!(hear(&arriving), Input::Token { slot: SlotId(0), presence: absent });
        assert!(matches!(arriving.recv(), Ok(Event::Looked)), "a look has an end");
        hsm.perform(ticket(0, 1), SlotId(0), HsmCall::Observe, &Nothing);
        let outcome = Outcome::Hsm(Err(HsmFailure::TokenGone));
        assert_eq!(hear(&arriving), Input::Done { ticket: ticket(0, 1), outcome });
        assert_eq!(bench.insert(0), Ok(()));
        assert!(matches!(hear(&arriving), Input::Token { slot: SlotId(0), presence: Presence::Present(_) }));
    }
}
