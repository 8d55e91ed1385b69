//! What the core orders, performed by simulated devices, with the faults that are due.

use slotwarden_core::audit::AuditEvent;
use slotwarden_core::card::registry::CARD_ENTRY_BYTES_MAX;
use slotwarden_core::card::sets::CARD_SETS_BYTES_MAX;
use slotwarden_core::ceremony::transcript::LINE_BYTES_MAX;
use slotwarden_core::command::Answer;
use slotwarden_core::effect::{
    ApplicationOrder, Effect, HsmAnswer, HsmCall, Input, Outcome, Room, SlotId, StoreResult, Ticket,
};
use slotwarden_core::fault::{Fault, Function, HsmFailure, Refusal, rv};
use slotwarden_core::record::{Owner, Record, SecretKey};
use slotwarden_core::safe::SecretId;
use slotwarden_core::token::{LoginState, TokenState};

use crate::code::Code;
use crate::faults::{Kind, Step};
use crate::hsm::Extent;
use crate::people::Order;
use crate::world::{Event, PendingCall, World};

/// A device that answers after every deadline of the core (30 s).
const LATE_MS: std::ops::Range<u64> = 31_000..90_000;
/// A device that is slow but answers in time.
const SLOW_MS: std::ops::Range<u64> = 2_000..25_000;
/// Calls that fail in one burst.
const BURST_CALLS: u8 = 5;

impl World {
    /// Performs one effect.
    pub(crate) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Store(record) => self.put(&record),
            Effect::Journal(record) => {
                if self.trace.scans {
                    let mut bytes = [0; slotwarden_core::audit::AUDIT_RECORD_BYTES_MAX];
                    let secrets = self.secrets();
                    match record.encode(&mut bytes) {
                        Ok(encoded) => self.checkers.p03_bytes(encoded, &secrets),
                        Err(_) => self.checkers.violated("P36", 0, "an audit record cannot be encoded"),
                    }
                }
                self.disk.journal(record);
            }
            Effect::Commit { ticket } => self.commit(ticket),
            Effect::Hsm { ticket, slot, call } => self.call(ticket, slot.0, call),
            Effect::Random { ticket, id } => {
                let fault = self.due(Step::Random, ticket.slot.map_or(0, |slot| slot.0));
                let wait_ms = if fault == Some(Kind::RandomSlow) { self.random.u64(LATE_MS) } else { 1 };
                self.schedule(wait_ms, Event::Drawn(ticket, id, fault));
            }
            Effect::Unseal { ticket, key, id } => {
                let fault = self.due(Step::Unseal, ticket.slot.map_or(0, |slot| slot.0));
                if fault == Some(Kind::PowerCutInRecovery) {
                    let kept = self.random.bool();
                    return self.power_cut(false, kept);
                }
                let wait_ms = if fault == Some(Kind::UnsealSlow) { self.random.u64(LATE_MS) } else { 1 };
                self.schedule(wait_ms, Event::Unsealed(ticket, key, id, fault));
            }
            Effect::Application { ticket, application, slot, order } => {
                self.application(ticket, application, slot.0, order);
            }
            Effect::Card { ticket, reader, call } => self.card_call(ticket, reader, call),
            Effect::Reply { reply, answer } => {
                let order = self.people.orders.iter().find(|order| order.reply == reply.0).copied();
                if let (Answer::Share { id, x, quorum }, Some(Order { slot: Some(slot), who, .. })) = (answer, order) {
                    self.show(slot, who, id, x, quorum);
                }
                self.answered(reply, answer);
            }
            Effect::Checkpoint { sequence, head } => {
                let chain = self.disk.check_chain().unwrap_or_default();
                if chain.sequence != sequence || chain.head != head {
                    self.checkers.violated("P37", 0, "a checkpoint over something that is not the audit log");
                }
            }
            // Nobody here orders a transfer: simulated tokens hold no keys.
            Effect::SignTranscript { .. } | Effect::File { .. } => {}
            Effect::EndWorker => self.end_worker(),
            Effect::Stopped => self.stopped(),
            Effect::Zeroize { ticket, who } => self.destroy_key(ticket, who),
        }
    }

    fn put(&mut self, record: &Record) {
        match record {
            Record::Slot { owner, record } => {
                let mut bytes = [0; slotwarden_core::record::SLOT_RECORD_BYTES_MAX];
                match record.encode(&mut bytes) {
                    Ok(encoded) if self.trace.scans => {
                        let secrets = self.secrets();
                        self.checkers.p03_bytes(encoded, &secrets);
                    }
                    Ok(_) => {}
                    Err(_) => self.checkers.violated("P36", 0, "a slot record cannot be encoded"),
                }
                self.disk.put(*owner, *record);
            }
            Record::Sets { owner, sets } => {
                let mut bytes = [0; slotwarden_core::record::SETS_BYTES_MAX];
                match sets.encode(&mut bytes) {
                    Ok(encoded) if self.trace.scans => {
                        let secrets = self.secrets();
                        self.checkers.p03_bytes(encoded, &secrets);
                    }
                    Ok(_) => {}
                    Err(_) => self.checkers.violated("P36", 0, "the sets of a slot cannot be encoded"),
                }
                self.disk.put_sets(*owner, sets.clone());
            }
            Record::Seal { key, id } => {
                let slot = slot_of(key.owner);
                match self.lend(*id) {
                    Some(code) => {
                        let repeats =
                            self.disk.durable.sealed.iter().any(|(known, sealed)| known != key && *sealed == code);
                        self.checkers.p31_sealed(slot, &code, *id, repeats);
                        if self.people.slots.iter().any(|knowledge| knowledge.together.set_of(&code).is_some()) {
                            self.checkers.violated("P31", slot, "a token PIN made of shares is being stored");
                        }
                        self.disk.seal(*key, code);
                    }
                    None => self.checkers.violated("P35", slot, "a secret was wiped before it was sealed"),
                }
            }
            Record::Erase { key } => self.disk.erase(*key),
            Record::Policy(policy) => self.disk.put_policy(*policy),
            Record::Cluster(cluster) => self.disk.put_cluster(*cluster),
            Record::Restoration(_) | Record::Reception(_) => {
                self.checkers.violated("P24", 0, "a restoration that nobody ordered");
            }
            Record::Roster(_) | Record::SyncMarks(_) => {
                self.checkers.violated("P22", 0, "a cluster that nobody founded");
            }
            Record::CardSets { subject, sets } => {
                self.scan_stored(sets.encode(&mut [0; CARD_SETS_BYTES_MAX]));
                self.disk.put_card_sets(*subject, sets.clone());
            }
            Record::Card { place, entry } => {
                self.scan_stored(entry.encode(&mut [0; CARD_ENTRY_BYTES_MAX]));
                self.check_entry(*place, entry);
                self.disk.put_card(*place, *entry);
            }
            Record::Transcript { id, number, line } => {
                self.scan_stored(line.encode(&mut [0; LINE_BYTES_MAX]));
                self.disk.put_line(*id, *number, *line);
            }
        }
    }

    /// What is stored in the clear can be stored, and shows no secret (P3).
    fn scan_stored(&mut self, encoded: Result<&[u8], Refusal>) {
        match encoded {
            Ok(encoded) if self.trace.scans => {
                let secrets = self.secrets();
                self.checkers.p03_bytes(encoded, &secrets);
            }
            Ok(_) => {}
            Err(_) => self.checkers.violated("P36", 0, "a record about cards cannot be encoded"),
        }
    }

    fn lend(&self, id: SecretId) -> Option<Code> {
        self.core.as_ref()?.with(id, Code::new)
    }

    fn commit(&mut self, ticket: Ticket) {
        self.checkers.p36_commit();
        self.disk.commit();
        if let Some(cut) = self.cut_is_due() {
            return self.power_cut(cut.is_there(), cut.unsettled_is_kept());
        }
        let slot = self.disk.slot_in_flight();
        let fault = self.due(Step::Commit, slot);
        match fault {
            Some(Kind::PowerCutBeforeWrite | Kind::PowerCutAfterWrite | Kind::PowerCutInRecovery) => {
                let (is_there, kept) = (self.random.bool(), self.random.bool());
                return match fault {
                    Some(Kind::PowerCutBeforeWrite) => self.power_cut(false, kept),
                    Some(Kind::PowerCutAfterWrite) => self.power_cut(true, kept),
                    _ => self.power_cut(is_there, kept),
                };
            }
            Some(Kind::DaemonKilledAtWrite) => return self.daemon_killed(),
            Some(Kind::DiskReserve) => {
                self.disk.reserve = true;
                let wait_ms = self.random.u64(1_000..60_000);
                self.schedule(wait_ms, Event::Heals(Kind::DiskReserve, slot));
            }
            _ => {}
        }
        let wait_ms = if fault == Some(Kind::StoreSlow) { self.random.u64(LATE_MS) } else { self.latency_ms() };
        self.schedule(wait_ms, Event::Stored(ticket, fault));
    }

    fn call(&mut self, ticket: Ticket, slot: u8, call: HsmCall) {
        let none = Code::NONE;
        let (first, second) = match call {
            HsmCall::Observe
            | HsmCall::Logout
            | HsmCall::Settle
            | HsmCall::KeepBackupKeys { .. }
            | HsmCall::Inventory { .. }
            | HsmCall::ExportSection { .. }
            | HsmCall::Import { .. }
            | HsmCall::PlanPackage { .. }
            | HsmCall::ImportPackage { .. }
            | HsmCall::DropUnwrapKey { .. } => (Some(none), Some(none)),
            HsmCall::Login { pin } => (self.lend(pin), Some(none)),
            HsmCall::SetPin { old, new } | HsmCall::SetSoPin { old, new } => (self.lend(old), self.lend(new)),
            HsmCall::PutBackupKeys { kek, mak, .. } | HsmCall::PrepareImport { kek, mak, .. } => {
                (self.lend(kek), self.lend(mak))
            }
            HsmCall::Initialise { so_pin, new, free_slot: _ } | HsmCall::Unblock { so_pin, new } => {
                (self.lend(so_pin), self.lend(new))
            }
            HsmCall::Erase { so_pin } => (self.lend(so_pin), Some(none)),
        };
        let (Some(first), Some(second)) = (first, second) else {
            return self.checkers.violated("P16", slot, "a secret was wiped before the call that carries it");
        };
        let number = usize::from(slot);
        match call {
            HsmCall::Login { .. } => {
                let at_table = self.table.orders.iter().any(|order| order.command.slot() == Some(SlotId(slot)));
                let automatic = !at_table && !self.people.orders.iter().any(|order| order.slot == Some(slot));
                self.checkers.p36_login(slot, &first, automatic);
                self.check_quorum(slot, &first);
                self.logins[number] = Some((ticket, first));
            }
            HsmCall::SetPin { .. } | HsmCall::Initialise { .. } => {
                let change = self.disk.durable.slots[number].and_then(|record| record.change);
                self.checkers.p36_change(slot, change, matches!(call, HsmCall::Initialise { .. }));
                self.check_quorum(slot, &first);
                self.check_quorum(slot, &second);
            }
            HsmCall::Unblock { .. } | HsmCall::Erase { .. } => {
                let by_so = self.disk.durable.slots[number].and_then(|record| record.by_so);
                self.checkers.p36_by_so(slot, by_so, matches!(call, HsmCall::Erase { .. }));
            }
            HsmCall::Observe
            | HsmCall::Logout
            | HsmCall::Settle
            | HsmCall::PutBackupKeys { .. }
            | HsmCall::KeepBackupKeys { .. }
            | HsmCall::Inventory { .. }
            | HsmCall::ExportSection { .. }
            | HsmCall::PrepareImport { .. }
            | HsmCall::Import { .. }
            | HsmCall::PlanPackage { .. }
            | HsmCall::ImportPackage { .. }
            | HsmCall::DropUnwrapKey { .. }
            | HsmCall::SetSoPin { .. } => {}
        }
        if !self.worker {
            let outcome = Outcome::Hsm(Err(HsmFailure::NoWorker));
            return self.schedule(1, Event::Answer(Input::Done { ticket, outcome }));
        }
        let fault = self.due(Step::of(&call), slot);
        if self.calls[number].push_back(PendingCall { ticket, call, first, second, fault }).is_err() {
            return self.checkers.violated("P44", slot, "too many calls of one slot at once");
        }
        let wait_ms = match fault {
            Some(Kind::SlowDevice) => self.random.u64(SLOW_MS),
            _ => self.latency_ms(),
        };
        let starts_ms = self.busy_until_ms[number].max(self.now_ms);
        self.busy_until_ms[number] = starts_ms + wait_ms;
        self.schedule(starts_ms + wait_ms - self.now_ms, Event::Call(slot));
    }

    /// A token PIN made of shares is used: enough persons stand behind it (P9).
    fn check_quorum(&mut self, slot: u8, pin: &Code) {
        if let Some(held) = self.people.slots[usize::from(slot)].together.set_of(pin) {
            self.checkers.p09_used(slot, pin, held.mark, held.m);
        }
    }

    fn application(
        &mut self,
        ticket: Ticket,
        application: slotwarden_core::effect::ApplicationId,
        slot: u8,
        order: ApplicationOrder,
    ) {
        let step = match order {
            ApplicationOrder::HandOver { .. } => Step::HandOver,
            ApplicationOrder::Withdraw => Step::Withdraw,
        };
        let fault = self.due(step, slot);
        if fault == Some(Kind::ApplicationUnreachable) {
            self.apps.of(application).reachable = false;
            let wait_ms = self.random.u64(1_000..120_000);
            self.schedule(wait_ms, Event::Heals(Kind::ApplicationUnreachable, application.0));
        }
        let result = match order {
            ApplicationOrder::HandOver { pin } => match self.lend(pin) {
                Some(pin) => {
                    // A PIN that was accepted by a lie may be handed over again later.
                    if !self.apart[usize::from(slot)] {
                        self.checkers.p33_handed_over(slot, &pin);
                    }
                    self.apps.hand_over(application, pin)
                }
                None => return self.checkers.violated("P16", slot, "a PIN was wiped before it was handed over"),
            },
            ApplicationOrder::Withdraw => self.apps.withdraw(application),
        };
        let wait_ms = if fault == Some(Kind::ApplicationSilent) { self.random.u64(LATE_MS) } else { self.latency_ms() };
        let outcome = Outcome::Application(result);
        self.schedule(wait_ms, Event::Answer(Input::Done { ticket, outcome }));
    }

    /// Something that was scheduled happens.
    pub(crate) fn happen(&mut self, event: Event) {
        match event {
            Event::Call(slot) => self.carry_out(slot),
            Event::Answer(input) => self.answer(input),
            Event::Stored(ticket, fault) => self.stored(ticket, fault),
            Event::Drawn(ticket, id, fault) => self.drawn(ticket, id, fault),
            Event::Unsealed(ticket, key, id, fault) => self.unsealed(ticket, key, id, fault),
            Event::Look(slot) => self.look(slot),
            Event::WorkerGone => self.worker_gone(),
            Event::WorkerStarts => self.worker_starts(),
            Event::DaemonStarts => self.start(),
            Event::Heals(kind, place) => self.heals(kind, place),
            Event::CardCall(reader) => self.carry_out_at(reader),
            Event::PadGoesOn(reader, dialogue) => self.pad_goes_on(reader, dialogue),
            Event::PadTimesOut(reader, dialogue) => self.pad_times_out(reader, dialogue),
            Event::CardAnswer { reader, ticket, call, result, y } => {
                self.card_answered(reader, (ticket, call), result, &y);
            }
            Event::ReaderTells(reader, event) => self.reader_tells(reader, event),
            Event::Zeroized(ticket) => self.zeroized(ticket),
        }
    }

    fn stored(&mut self, ticket: Ticket, fault: Option<Kind>) {
        let known = self.disk.durable.journal.len();
        let result = match fault {
            Some(Kind::StoreFailed) => self.disk.fail(false),
            Some(Kind::StoreFailedButThere) => self.disk.fail(true),
            _ => self.disk.finish(),
        };
        self.counts.writes += 1;
        if self.disk.overflowed {
            self.checkers.violated("P42", 0, "the store holds more than any rule can need");
        }
        self.checkers.p40_answered(result != StoreResult::Failed, result == StoreResult::Durable(Room::Reserve));
        for index in known..self.disk.durable.journal.len() {
            let record = self.disk.durable.journal[index];
            if let AuditEvent::ApprovalSpent(id, _) = record.event {
                self.checkers.p27_spent(id, self.now_ms);
            }
            if let Some(SlotId(slot)) = record.slot {
                self.checkers.p36_journaled(slot, &record.event);
            }
        }
        self.check_codes();
        if self.table.is_there() {
            self.check_sets_in_force();
        }
        if fault == Some(Kind::StoredTwice) {
            self.deliver(Input::Stored { ticket, result });
        }
        self.deliver(Input::Stored { ticket, result });
    }

    fn drawn(&mut self, ticket: Ticket, id: SecretId, fault: Option<Kind>) {
        let mut bytes = [0; 64];
        for part in bytes.chunks_exact_mut(8) {
            part.copy_from_slice(&self.random.u64(..).to_le_bytes());
        }
        match fault {
            Some(Kind::RandomOneStuck) => self.stuck[self.random.usize(..2)] = true,
            Some(Kind::RandomBothStuck) => self.stuck = [true, true],
            _ => {}
        }
        if matches!(fault, Some(Kind::RandomOneStuck | Kind::RandomBothStuck)) {
            let wait_ms = self.random.u64(1_000..60_000);
            self.schedule(wait_ms, Event::Heals(Kind::RandomBothStuck, 0));
        }
        let all_stuck = self.stuck == [true, true];
        for (half, stuck) in self.stuck.into_iter().enumerate() {
            if stuck {
                let bytes = &mut bytes[half * 32..][..32];
                // Either kind of being stuck: the last draw again, or one byte for ever.
                if all_stuck { bytes.fill(0xA5) } else { bytes.copy_from_slice(&self.last_draw[half * 32..][..32]) }
            }
        }
        self.last_draw = bytes;
        if all_stuck {
            self.checkers.p32_stuck_draw(id);
        }
        let result = if fault == Some(Kind::RandomUnavailable) {
            Err(Fault::RandomUnavailable)
        } else {
            if let Some(core) = &mut self.core {
                core.refill(id, |place| {
                    place[..bytes.len()].copy_from_slice(&bytes);
                    bytes.len()
                });
            }
            Ok(())
        };
        self.deliver(Input::Done { ticket, outcome: Outcome::Random(result) });
    }

    fn unsealed(&mut self, ticket: Ticket, key: SecretKey, id: SecretId, fault: Option<Kind>) {
        let code = self.disk.unseal(key).copied().filter(|_| fault != Some(Kind::SealBroken));
        let result = match (code, &mut self.core) {
            (Some(code), Some(core)) => {
                core.refill(id, |place| code.write(place));
                Ok(())
            }
            (Some(_) | None, _) => Err(Fault::SealBroken),
        };
        self.deliver(Input::Done { ticket, outcome: Outcome::Unsealed(result) });
    }

    /// The token of a slot carries out the next call that waits for it.
    fn carry_out(&mut self, slot: u8) {
        let number = usize::from(slot);
        if self.hung[number] {
            return;
        }
        let Some(pending) = self.calls[number].front().copied() else { return };
        if let Some(cut) = self.cut_is_due() {
            if cut.is_there() {
                let _unanswered = self.run(slot, &pending);
            }
            let is_there = self.random.bool();
            return self.power_cut(is_there, cut.unsettled_is_kept());
        }
        let fault = match (pending.fault, self.burst) {
            (None, 1..) => {
                self.burst -= 1;
                Some(Kind::DeviceErrorBefore)
            }
            (fault, _) => fault,
        };
        let function = function_of(&pending.call);
        let mut wait_ms = 1;
        let result = match fault {
            Some(Kind::HangBefore) => {
                self.hung[number] = true;
                return;
            }
            Some(Kind::HangAfter | Kind::ReplyLost) => {
                // After a lost reply the token takes further calls; after a hang nothing but the end of the worker helps.
                let _unanswered = self.run(slot, &pending);
                self.hung[number] = fault == Some(Kind::HangAfter);
                self.calls[number].pop_front();
                return;
            }
            Some(Kind::WorkerKilledBefore) => return self.worker_dies(),
            Some(Kind::WorkerKilledAfter | Kind::WorkerKilledInside) => {
                let _unanswered = self.run(slot, &pending);
                return self.worker_dies();
            }
            Some(Kind::TokenFileTorn) => {
                let settles = self.tokens.of(slot).is_some_and(|token| token.character.settles_itself);
                let _unanswered = self.run(slot, &pending);
                if !settles && let Some(token) = self.tokens.of(slot) {
                    token.readable = false;
                    self.counts.counted_apart += 1;
                }
                return self.worker_dies();
            }
            Some(Kind::PowerCutBeforeCall) => {
                let (is_there, kept) = (self.random.bool(), self.random.bool());
                return self.power_cut(is_there, kept);
            }
            Some(Kind::PowerCutAfterKept | Kind::PowerCutAfterLost | Kind::PowerCutInRecovery) => {
                let _unanswered = self.run(slot, &pending);
                let kept = match fault {
                    Some(Kind::PowerCutAfterKept) => true,
                    Some(Kind::PowerCutAfterLost) => false,
                    _ => self.random.bool(),
                };
                let is_there = self.random.bool();
                return self.power_cut(is_there, kept);
            }
            Some(Kind::DaemonKilledAtCall) => return self.daemon_killed(),
            Some(Kind::TokenPulledInCall) => {
                self.pull(slot);
                self.run(slot, &pending)
            }
            Some(Kind::DeviceErrorBefore) => Err(failure(rv::DEVICE_ERROR, function)),
            Some(Kind::DeviceErrorBurst) => {
                self.burst = BURST_CALLS - 1;
                Err(failure(rv::DEVICE_ERROR, function))
            }
            Some(Kind::DeviceErrorAfter) => {
                let _hidden = self.run(slot, &pending);
                Err(failure(rv::DEVICE_ERROR, function))
            }
            Some(Kind::UnexpectedCode) => Err(failure(0x8000_0001, function)),
            Some(Kind::PinLenRange) => Err(failure(rv::PIN_LEN_RANGE, function)),
            Some(Kind::PinInvalid) => Err(failure(rv::PIN_INVALID, function)),
            Some(Kind::SessionReadOnly) => Err(failure(rv::SESSION_READ_ONLY, function)),
            Some(Kind::NotLoggedIn) => {
                if let Some(token) = self.tokens.of(slot) {
                    token.session = LoginState::Public;
                }
                Err(failure(rv::USER_NOT_LOGGED_IN, function))
            }
            Some(Kind::NotSupported) => Err(failure(rv::FUNCTION_NOT_SUPPORTED, function)),
            Some(Kind::LoginRefused) => {
                self.refused_right[number] = true;
                self.checkers.p34_refused(slot, &pending.first);
                Err(failure(rv::PIN_INCORRECT, function))
            }
            Some(Kind::LoginLies) => {
                self.apart[number] = true;
                self.checkers.flags_lied(slot);
                Ok(HsmAnswer::LoggedIn)
            }
            Some(Kind::AlreadyLoggedIn) => Err(HsmFailure::AlreadyLoggedIn),
            Some(Kind::SetPinLies) => Ok(HsmAnswer::PinSet),
            Some(Kind::SettleFails) => Err(HsmFailure::NotSettled),
            Some(Kind::WrongAnswer) => match (&pending.call, self.run(slot, &pending)) {
                (HsmCall::Login { .. }, Ok(_)) => Ok(HsmAnswer::LoggedOut),
                (_, Ok(_)) => Ok(HsmAnswer::LoggedIn),
                (_, Err(failure)) => Err(failure),
            },
            Some(Kind::ObserveLies) => {
                self.checkers.flags_lied(slot);
                let dice = self.random.u8(..);
                self.run(slot, &pending).map(|answer| match answer {
                    HsmAnswer::Observed(state) => HsmAnswer::Observed(invented(state, dice)),
                    other => other,
                })
            }
            Some(Kind::LateAnswer) => {
                wait_ms = self.random.u64(LATE_MS);
                self.run(slot, &pending)
            }
            Some(_) | None => self.run(slot, &pending),
        };
        self.calls[number].pop_front();
        self.busy_until_ms[number] = self.busy_until_ms[number].max(self.now_ms + wait_ms);
        let answer = Input::Done { ticket: pending.ticket, outcome: Outcome::Hsm(result) };
        self.schedule(wait_ms, Event::Answer(answer));
        if fault == Some(Kind::DuplicateAnswer) {
            let again_ms = self.random.u64(1..500);
            self.schedule(wait_ms + again_ms, Event::Answer(answer));
        }
    }

    /// The call reaches the token.
    pub(crate) fn run(&mut self, slot: u8, pending: &PendingCall) -> Result<HsmAnswer, HsmFailure> {
        self.counts.calls += 1;
        let result = match pending.call {
            HsmCall::Initialise { free_slot, .. } => {
                let number = self.tokens.for_init(slot, free_slot).map_err(HsmFailure::Refused)?;
                let extent = match pending.fault {
                    Some(Kind::WorkerKilledInside) => Extent::FirstStep,
                    _ => Extent::Whole,
                };
                let token = self.tokens.tokens.get_mut(usize::from(number)).ok_or(HsmFailure::TokenGone)?;
                let result = token.initialise(slot, &pending.first, &pending.second, extent);
                if token.live.label == Some(slot) && !matches!(result, Err(HsmFailure::Refused(_))) {
                    self.tokens.attached[usize::from(slot)] = Some(number);
                    // A token whose first PIN was lost with the power is free for any slot again.
                    for home in self.homes.iter_mut().filter(|home| **home == Some(number)) {
                        *home = None;
                    }
                    self.homes[usize::from(slot)] = Some(number);
                }
                result
            }
            HsmCall::Settle => {
                // The files of the module are one directory, whoever is plugged in.
                self.tokens.settle_all();
                Ok(HsmAnswer::Settled)
            }
            call => {
                let token = self.tokens.of(slot).ok_or(HsmFailure::TokenGone)?;
                match call {
                    HsmCall::Observe | HsmCall::Initialise { .. } | HsmCall::Settle => {
                        Ok(HsmAnswer::Observed(token.state()))
                    }
                    HsmCall::Login { .. } => token.login(&pending.first),
                    HsmCall::Logout => token.logout(),
                    HsmCall::SetPin { .. } => token.set_pin(&pending.first, &pending.second),
                    HsmCall::Unblock { .. } => token.unblock(&pending.first, &pending.second),
                    HsmCall::Erase { .. } => token.erase(&pending.first),
                    HsmCall::PutBackupKeys { key_id, uid, unwrap, .. } => {
                        let extent = match pending.fault {
                            Some(Kind::WorkerKilledInside) => Extent::FirstStep,
                            _ => Extent::Whole,
                        };
                        token.put_backup_keys((key_id, uid), &pending.first, &pending.second, unwrap, extent)
                    }
                    HsmCall::KeepBackupKeys { key_id, uid, unwrap } => token.keep_backup_keys(key_id, uid, unwrap),
                    HsmCall::SetSoPin { .. } => token.set_so_pin(&pending.first, &pending.second),
                    HsmCall::Inventory { .. }
                    | HsmCall::ExportSection { .. }
                    | HsmCall::PrepareImport { .. }
                    | HsmCall::Import { .. }
                    | HsmCall::PlanPackage { .. }
                    | HsmCall::ImportPackage { .. }
                    | HsmCall::DropUnwrapKey { .. } => token.transfer(&call),
                }
            }
        };
        if result == Ok(HsmAnswer::LoggedOut) {
            self.checkers.p33_login_gone(slot);
        }
        if let HsmCall::Login { .. } | HsmCall::SetPin { .. } = pending.call {
            match result {
                Ok(_) => self.checkers.p34_accepted(slot),
                Err(HsmFailure::Pkcs11 { code: rv::PIN_INCORRECT, .. }) => {
                    self.checkers.p34_refused(slot, &pending.first);
                }
                Err(_) => {}
            }
        }
        if let HsmCall::Unblock { .. } | HsmCall::Erase { .. } = pending.call {
            match result {
                // What the token refused so far was another PIN.
                Ok(_) => self.checkers.p34_accepted(slot),
                Err(HsmFailure::Pkcs11 { code: rv::PIN_INCORRECT, .. }) => {
                    self.checkers.p34_refused(slot, &pending.first);
                }
                Err(_) => {}
            }
        }
        self.check_codes();
        result
    }

    /// A device's answer reaches the core.
    fn answer(&mut self, input: Input) {
        if let Input::Done { ticket, outcome: Outcome::Hsm(result) } = input
            && let Some(SlotId(slot)) = ticket.slot
        {
            if let Err(HsmFailure::Pkcs11 { code: rv::PIN_INCORRECT, function: Function::SetPin }) = result {
                self.checkers.p34_refusal_heard(slot);
            }
            let login = &mut self.logins[usize::from(slot)];
            if let Some((_, pin)) = login.take_if(|(awaited, _)| *awaited == ticket) {
                let reached =
                    !matches!(result, Err(HsmFailure::NoWorker | HsmFailure::TokenGone | HsmFailure::AlreadyLoggedIn));
                let proven = (result == Ok(HsmAnswer::LoggedIn)).then_some(pin);
                let refused = matches!(result, Err(HsmFailure::Pkcs11 { code: rv::PIN_INCORRECT, .. }));
                self.checkers.p33_login_answered(slot, proven, reached, refused);
            }
        }
        self.deliver(input);
    }
}

fn invented(state: TokenState, dice: u8) -> TokenState {
    TokenState {
        count_low: dice & 1 != 0,
        final_try: dice & 2 != 0,
        locked: dice & 12 == 12,
        login: match dice >> 6 {
            0 => LoginState::User,
            1 => LoginState::SecurityOfficer,
            _ => LoginState::Public,
        },
        ..state
    }
}

fn slot_of(owner: Owner) -> u8 {
    u8::try_from(owner.0).unwrap_or(0)
}

fn failure(code: u64, function: Function) -> HsmFailure {
    HsmFailure::Pkcs11 { code, function }
}

fn function_of(call: &HsmCall) -> Function {
    match call {
        HsmCall::Observe => Function::GetTokenInfo,
        HsmCall::Login { .. } => Function::Login,
        HsmCall::Logout => Function::Logout,
        HsmCall::SetPin { .. } => Function::SetPin,
        HsmCall::Initialise { .. } => Function::InitPin,
        HsmCall::Settle => Function::Settle,
        HsmCall::Unblock { .. } => Function::InitPin,
        HsmCall::Erase { .. } => Function::InitToken,
        HsmCall::PutBackupKeys { .. } => Function::CreateObject,
        HsmCall::KeepBackupKeys { .. } => Function::FindObjects,
        HsmCall::SetSoPin { .. } => Function::SetPin,
        HsmCall::Inventory { .. } => Function::FindObjects,
        HsmCall::ExportSection { .. } => Function::WrapKey,
        HsmCall::PrepareImport { .. } | HsmCall::Import { .. } => Function::UnwrapKey,
        HsmCall::PlanPackage { .. } | HsmCall::ImportPackage { .. } => Function::UnwrapKey,
        HsmCall::DropUnwrapKey { .. } => Function::DestroyObject,
    }
}
