//! One verb as a client of the daemon: what is asked for, sent and printed.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use slotwarden_core::Refusal;
use slotwarden_core::fault::Fault;
use slotwarden_core::record::Mode;
use slotwarden_core::share::Quorum;
use slotwarden_core::status::StateName;

use super::arguments::{Accept, Confirm, DualControlVerb, ModeWord, SlotVerb, SoCards, Verb};
use super::card_arguments::At;
use super::meaning::{self, Knowledge};
use super::shares;
use super::{CONFIRM_END_CALL, CONFIRM_LAST_TRY, CONFIRM_ZEROIZE};
use crate::boot;
use crate::client::{Client, Refused};
use crate::config::Offered;
use crate::interrupt::Interrupts;
use crate::output::{self, Format};
use crate::problem::{EXIT_DONE, EXIT_USAGE, EXIT_WAITS, Own, Problem};
use crate::secret::{self, Secret};
use crate::status_json::{ProgressView, SCHEMA, SlotDetail, StatusView, mode_word};
use crate::wire::{self, Answered, Ask, Order, SecretRole, SoCardsUse};

/// Wait for applications that are being served, to name those that cannot be.
const ANSWERS_WAIT: Duration = Duration::from_secs(5);
/// Between two looks.
const ANSWERS_PAUSE: Duration = Duration::from_millis(50);

/// A client with what it needs for one verb.
pub(super) struct Session {
    pub(super) client: Client,
    config: PathBuf,
    pub(super) format: Format,
    pub(super) interrupts: Interrupts,
    /// Nothing goes on when this process ends, and nothing is kept.
    pub(super) alone: bool,
}

impl Session {
    pub(super) fn open(config: &Path, format: Format) -> Result<Self, Refused> {
        let Offered { settings, places, .. } = Offered::read(config);
        let client = Client::new(&places.socket);
        if let Err(wrong) = settings
            && !client.answers()
        {
            return Err(wrong.into());
        }
        Ok(Session { client, config: config.to_owned(), format, interrupts: Interrupts::watch(), alone: false })
    }

    /// With what runs in this process in place of a daemon, and ends with it.
    pub(super) fn alone(socket: &Path, interrupts: Interrupts, format: Format) -> Self {
        Session { client: Client::new(socket), config: PathBuf::new(), format, interrupts, alone: true }
    }

    pub(super) fn run(&self, verb: Verb) -> Result<u8, Refused> {
        match verb {
            Verb::Boot { spawn, wait } => {
                let config = std::path::absolute(&self.config).unwrap_or_else(|_| self.config.clone());
                self.interrupts.order_sent(true);
                let status = boot::boot(&self.client, spawn.then_some(config.as_path()), Duration::from_secs(wait))?;
                match self.format {
                    Format::Json => output::json(&status),
                    Format::Table => output::line(&status.sentence()),
                }
                Ok(status.exit())
            }
            Verb::Status => {
                let status = self.status()?;
                output::status(self.format, &status);
                Ok(status.exit())
            }
            Verb::Slot(verb) => self.slot_verb(verb),
            Verb::Card(verb) => self.card_verb(verb),
            Verb::Backup(verb) => self.backup_verb(verb),
            Verb::Ceremony(verb) => self.ceremony_verb(verb),
            Verb::Cluster(verb) => self.cluster_verb(verb),
            Verb::Sync(verb) => self.sync_verb(verb),
            Verb::Approve { id: None, .. } => {
                output::approvals(self.format, &self.status()?);
                Ok(EXIT_DONE)
            }
            Verb::Approve { id: Some(id), withdraw: true, .. } => {
                self.order(|_| Order::Withdraw { id }, true, &[])?;
                self.done(&format!("request {id} is withdrawn"))
            }
            Verb::Approve { id: Some(id), code, withdraw: false } => self.approve(id, code),
            Verb::DualControl { verb } => {
                let (order, done) = match verb {
                    DualControlVerb::On => (Order::DualControl { on: true }, "dual control is on"),
                    DualControlVerb::Off => (Order::DualControl { on: false }, "dual control is off"),
                    DualControlVerb::Adopt => {
                        (Order::AdoptConfiguration, "the configuration is approved; it counts from the next start on")
                    }
                };
                self.order(|_| order.clone(), true, &[])?;
                self.done(done)
            }
            Verb::Zeroize { confirm } => self.zeroize(Confirm { confirm }),
            // Answered by `main`, since they do without a daemon.
            Verb::Audit(_)
            | Verb::Verify { .. }
            | Verb::Daemon { .. }
            | Verb::CheckConfig
            | Verb::Completions { .. }
            | Verb::Man
            | Verb::HsmWorker => Ok(EXIT_USAGE),
        }
    }

    fn zeroize(&self, confirm: Confirm) -> Result<u8, Refused> {
        let given = confirm.is(CONFIRM_ZEROIZE)?;
        let asks = !given && secret::on_terminal();
        if asks {
            output::aside(ZEROIZE_MEANING);
            typed(&format!("Type `{CONFIRM_ZEROIZE}` to go on: "), CONFIRM_ZEROIZE)?;
        }
        // Without it the daemon refuses.
        let confirm = (given || asks).then(|| CONFIRM_ZEROIZE.to_owned());
        let answered = self.order(|_| Order::Zeroize { confirm: confirm.clone() }, true, &[]);
        if let Err(refused) = &answered
            && refused.problem.class.is_none()
            && refused.problem.number != Fault::StoreFailed.number()
        {
            output::aside("Every sealed code and the node key are destroyed. What has not let go of a PIN:");
        }
        answered?;
        self.done("every sealed code and the node key are destroyed; the daemon starts anew")
    }

    fn slot_verb(&self, verb: SlotVerb) -> Result<u8, Refused> {
        match verb {
            SlotVerb::List => {
                output::slots(self.format, &self.status()?);
                Ok(EXIT_DONE)
            }
            SlotVerb::Show { name } => {
                // Whoever may have them counted sees how many there are now; the others what was counted last.
                let _ = self.client.ask(Ask::Order(Order::CountKeys { slot: name.clone() }), &[]);
                output::slot(self.format, &self.slot(&name)?);
                Ok(EXIT_DONE)
            }
            SlotVerb::Init { name, free_slot, so_cards: SoCards { so_cards: true, at }, confirm, .. } => {
                let confirmed = confirm.is(CONFIRM_LAST_TRY)?;
                self.by_so_cards(&name, &SoCardsUse::Init { free_slot }, at, confirmed, Vec::new())
            }
            SlotVerb::Init { name, free_slot, so_pin, confirm, .. } => {
                let confirmed = confirm.is(CONFIRM_LAST_TRY)?;
                let pin = so_pin.source().read(SecretRole::SoPin)?;
                self.slot(&name)?;
                let pin = match pin {
                    Some(pin) => pin,
                    // Twice: a free token takes whatever is typed as its SO PIN from now on.
                    None => secret::ask(SecretRole::SoPin, &format!("SO PIN for the token of {name}"), true)?,
                };
                let order = |confirmed| Order::Init { slot: name.clone(), free_slot, confirmed };
                self.carry_out(&name, order, confirmed, vec![(SecretRole::SoPin, pin)])
            }
            SlotVerb::Activate { name, code, confirm } => {
                let confirmed = confirm.is(CONFIRM_LAST_TRY)?;
                let code = code.source().read(SecretRole::Code)?;
                let found = self.slot(&name)?;
                // Nobody is asked for the code of a slot that needs none to be told so.
                let secrets = if found.slot.is_active() {
                    given(SecretRole::Code, code)
                } else {
                    self.present_code("Code", &name, &found, code)?
                };
                let order = |confirmed| Order::Activate { slot: name.clone(), confirmed };
                self.carry_out_at_pad(&found, &name, order, confirmed, secrets)
            }
            SlotVerb::Deactivate { name, confirm } => {
                let order = if Confirm::from(confirm).is(CONFIRM_END_CALL)? {
                    Order::EndCall { slot: name.clone() }
                } else {
                    Order::Deactivate { slot: name.clone() }
                };
                self.carry_out(&name, |_| order.clone(), true, Vec::new())
            }
            SlotVerb::ChangeCode { name, code, new_code, accept: Accept { accept }, confirm } => {
                let confirmed = confirm.is(CONFIRM_LAST_TRY)?;
                let code = code.source().read(SecretRole::Code)?;
                let new_code = new_code.source().read(SecretRole::NewCode)?;
                let found = self.slot(&name)?;
                let whole = found.slot.knowledge.kind == "whole";
                let mut secrets = self.present_code("Present code", &name, &found, code)?;
                self.new_code(&name, whole, new_code, &mut secrets)?;
                let order = |confirmed| Order::ChangeCode { slot: name.clone(), confirmed, accept: accept.clone() };
                self.carry_out(&name, order, confirmed, secrets)
            }
            SlotVerb::Mode { name, to, parts, code, new_code, accept: Accept { accept }, confirm } => {
                let confirmed = confirm.is(CONFIRM_LAST_TRY)?;
                let code = code.source().read(SecretRole::Code)?;
                let new_code = new_code.source().read(SecretRole::NewCode)?;
                let found = self.slot(&name)?;
                let knowledge = Knowledge::of_mode(to.mode(), &parts);
                let stays = match &knowledge {
                    Knowledge::Service => "service",
                    Knowledge::Whole => "whole",
                    // Other persons, or the same in another order, are a switch too.
                    Knowledge::Parts(_) | Knowledge::Shares(..) | Knowledge::Cards { .. } => "",
                };
                let switches = found.slot.knowledge.kind != stays;
                if switches {
                    explain(&knowledge)?;
                }
                let mut secrets = if switches {
                    self.present_code("Present code", &name, &found, code)?
                } else {
                    given(SecretRole::Code, code)
                };
                let asks = switches && matches!(knowledge, Knowledge::Whole);
                self.new_code(&name, asks, new_code, &mut secrets)?;
                let order = |confirmed| Order::Mode {
                    slot: name.clone(),
                    to: to.mode(),
                    parts: parts.clone(),
                    confirmed,
                    accept: accept.clone(),
                };
                self.carry_out_at_pad(&found, &name, order, confirmed, secrets)
            }
            SlotVerb::Split { name, m, n, custodians, code, accept: Accept { accept }, confirm } => {
                let confirmed = confirm.is(CONFIRM_LAST_TRY)?;
                let code = code.source().read(SecretRole::Code)?;
                let found = self.slot(&name)?;
                // What can be no quorum is the daemon's to refuse, and means nothing.
                if Quorum::new(m, n).is_ok() {
                    explain(&Knowledge::Shares(m, n))?;
                }
                let secrets = self.present_code("Present code", &name, &found, code)?;
                let order = |confirmed| Order::Split {
                    slot: name.clone(),
                    m,
                    n,
                    custodians: custodians.clone(),
                    confirmed,
                    accept: accept.clone(),
                };
                self.carry_out_at_pad(&found, &name, order, confirmed, secrets)
            }
            SlotVerb::Cards { name, k, users, with_code, code, new_code, at, accept: Accept { accept }, confirm } => {
                let confirmed = confirm.is(CONFIRM_LAST_TRY)?;
                let code = code.source().read(SecretRole::Code)?;
                let new_code = new_code.source().read(SecretRole::NewCode)?;
                let found = self.slot(&name)?;
                let n = u8::try_from(users.len()).unwrap_or(u8::MAX);
                explain(&Knowledge::Cards { k, n, with_code })?;
                let mut secrets = self.present_code("Present code", &name, &found, code)?;
                self.new_code(&name, with_code, new_code, &mut secrets)?;
                let at = wire::At::from(at);
                let order = |confirmed| Order::SlotCards {
                    slot: name.clone(),
                    k,
                    users: users.clone(),
                    with_code,
                    confirmed,
                    accept: accept.clone(),
                    at: at.clone(),
                };
                self.begin_for_slot(&name, order, confirmed, secrets)
            }
            SlotVerb::AdminCards { name, k, holders, so_pin, so_cards, at, confirm } => {
                let confirmed = confirm.is(CONFIRM_LAST_TRY)?;
                let so_pin = so_pin.source().read(SecretRole::SoPin)?;
                self.slot(&name)?;
                meaning::warn_of_administrators(k, u8::try_from(holders.len()).unwrap_or(u8::MAX));
                let secrets = so_pin_of(&name, so_pin, !so_cards)?;
                let at = wire::At::from(at);
                let order = |confirmed| Order::AdministratorCards {
                    slot: name.clone(),
                    k,
                    holders: holders.clone(),
                    confirmed,
                    at: at.clone(),
                };
                self.begin_for_slot(&name, order, confirmed, secrets)
            }
            SlotVerb::Share { name, reset: true, .. } => {
                self.carry_out(&name, |_| Order::Reset { slot: name.clone() }, true, Vec::new())
            }
            SlotVerb::Share { name, reset: false, code, confirm } => {
                let confirmed = confirm.is(CONFIRM_LAST_TRY)?;
                let code = code.source().read(SecretRole::Code)?;
                self.share(&name, code, confirmed)
            }
            SlotVerb::Unblock { name, to, so_pin, so_cards, new_code, accept: Accept { accept }, confirm } => {
                let confirmed = confirm.is(CONFIRM_LAST_TRY)?;
                let so_pin = so_pin.source().read(SecretRole::SoPin)?;
                let new_code = new_code.source().read(SecretRole::NewCode)?;
                let found = self.slot(&name)?;
                // Nobody is asked about a slot that is well, to be told so.
                let asks = !found.slot.is_active();
                if asks {
                    explain_unblock(to)?;
                }
                let mut secrets = so_pin_of(&name, so_pin, asks && !so_cards.so_cards)?;
                self.new_code(&name, asks && matches!(to, ModeWord::Manual), new_code, &mut secrets)?;
                if so_cards.so_cards {
                    let then = SoCardsUse::Unblock { to: to.mode(), accept };
                    return self.by_so_cards(&name, &then, so_cards.at, confirmed, secrets);
                }
                let order =
                    |confirmed| Order::Unblock { slot: name.clone(), to: to.mode(), confirmed, accept: accept.clone() };
                self.carry_out(&name, order, confirmed, secrets)
            }
            SlotVerb::Decommission {
                name,
                without_token,
                so_pin,
                so_cards,
                accept: Accept { accept },
                mut confirm,
            } => {
                let so_pin = so_pin.source().read(SecretRole::SoPin)?;
                let found = self.slot(&name)?;
                let text = wire::decommission_text(&found.slot.name);
                if let Some(other) = confirm.iter().find(|typed| **typed != text && *typed != CONFIRM_LAST_TRY) {
                    return Err(Own::ConfirmationWrong.with(format!("{other:?}; here it would be {text:?}")).into());
                }
                if !confirm.contains(&text) && !found.slot.is_active() && secret::on_terminal() {
                    output::aside(decommission_meaning(without_token));
                    typed(&format!("Type `{text}` to go on: "), &text)?;
                    confirm.push(text);
                }
                let confirmed = confirm.iter().any(|typed| typed == CONFIRM_LAST_TRY);
                if so_cards.so_cards {
                    let then = SoCardsUse::Decommission { confirm, accept };
                    return self.by_so_cards(&name, &then, so_cards.at, confirmed, Vec::new());
                }
                let secrets = so_pin_of(&name, so_pin, !without_token && !found.slot.is_active())?;
                let order = |confirmed: bool| {
                    let mut confirm = confirm.clone();
                    if confirmed {
                        confirm.push(CONFIRM_LAST_TRY.to_owned());
                    }
                    Order::Decommission { slot: name.clone(), confirm, accept: accept.clone() }
                };
                self.carry_out(&name, order, confirmed, secrets)
            }
        }
    }

    /// Initialises, unblocks or decommissions by the SO PIN of cards.
    fn by_so_cards(
        &self,
        name: &str,
        then: &SoCardsUse,
        at: At,
        confirmed: bool,
        secrets: Vec<(SecretRole, Secret)>,
    ) -> Result<u8, Refused> {
        let at = wire::At::from(at);
        let order =
            |confirmed| Order::BySoCards { slot: name.to_owned(), then: then.clone(), confirmed, at: at.clone() };
        self.begin_for_slot(name, order, confirmed, secrets)
    }

    /// Shows what is to be approved, asks for its code where there is a terminal, approves.
    fn approve(&self, id: u32, code: Option<String>) -> Result<u8, Refused> {
        let code = match code {
            Some(code) => code,
            None if secret::on_terminal() => {
                let status = self.status()?;
                let found = status.approvals.iter().find(|approval| approval.id == id);
                let found = found.ok_or_else(|| Problem::from(Refusal::ApprovalUnknown))?;
                output::approval(found);
                line_typed(&format!("Code that {} reads to you (nothing: leave it): ", found.requester))?
            }
            None => return Err(Own::ApprovalCodeMissing.into()),
        };
        if code.is_empty() {
            return Err(Own::NotConfirmed.into());
        }
        self.order(|_| Order::Approve { id, code: code.clone() }, true, &[])?;
        self.done(&format!("request {id} is approved; its requester gives the order once more, within 5 minutes"))
    }

    pub(super) fn done(&self, sentence: &str) -> Result<u8, Refused> {
        match self.format {
            Format::Json => output::json(&serde_json::json!({"schema": SCHEMA, "done": sentence})),
            Format::Table => output::line(sentence),
        }
        Ok(EXIT_DONE)
    }

    pub(super) fn status(&self) -> Result<StatusView, Refused> {
        match self.client.ask(Ask::Status, &[])? {
            Answered::Status(status) => Ok(*status),
            _ => Err(Own::OtherVersion.into()),
        }
    }

    pub(super) fn slot(&self, name: &str) -> Result<SlotDetail, Refused> {
        match self.client.ask(Ask::Slot { slot: name.to_owned() }, &[])? {
            Answered::Slot(detail) => Ok(*detail),
            _ => Err(Own::OtherVersion.into()),
        }
    }

    /// The present code: as given, or asked for where the slot needs one. Where no code
    /// helps nobody is asked, and the daemon says why.
    fn present_code(
        &self,
        what: &str,
        name: &str,
        found: &SlotDetail,
        given_code: Option<Secret>,
    ) -> Result<Vec<(SecretRole, Secret)>, Refused> {
        let helpless = [StateName::Uninitialised, StateName::Blocked, StateName::Activating, StateName::Changing];
        let helpless = helpless.iter().any(|state| found.slot.state == state.word());
        let cards_alone = found.slot.knowledge.cards.as_ref().is_some_and(|set| !set.with_code);
        let manual = found.slot.mode == mode_word(Mode::Manual) && !cards_alone;
        let wanted = manual && !helpless && found.slot.collection.is_none();
        let code = match (given_code, shares::of_several(&found.slot)) {
            (None, None) if wanted && secret::on_terminal() => {
                Some(secret::ask(SecretRole::Code, &format!("{what} of {name}"), false)?)
            }
            (None, Some(own)) if wanted && secret::on_terminal() => {
                secret::ask_if_any(&format!("{own} of {name}; only Enter if others begin"))?
            }
            (code, _) => code,
        };
        Ok(given(SecretRole::Code, code))
    }

    /// The new code: as given, or asked for twice where the order needs one.
    fn new_code(
        &self,
        name: &str,
        wanted: bool,
        given_code: Option<Secret>,
        secrets: &mut Vec<(SecretRole, Secret)>,
    ) -> Result<(), Refused> {
        let code = match given_code {
            None if wanted && secret::on_terminal() => {
                Some(secret::ask(SecretRole::NewCode, &format!("New code of {name}"), true)?)
            }
            code => code,
        };
        secrets.extend(given(SecretRole::NewCode, code));
        Ok(())
    }

    /// Sends an order and says how it ended; answers with the exit code.
    pub(super) fn carry_out(
        &self,
        name: &str,
        order: impl Fn(bool) -> Order,
        confirmed: bool,
        secrets: Vec<(SecretRole, Secret)>,
    ) -> Result<u8, Refused> {
        let answered = self.order(order, confirmed, &secrets);
        self.told(name, answered)
    }

    /// The same where cards may open the slot: whatever needs its code calls their users to the pad.
    fn carry_out_at_pad(
        &self,
        found: &SlotDetail,
        name: &str,
        order: impl Fn(bool) -> Order,
        confirmed: bool,
        secrets: Vec<(SecretRole, Secret)>,
    ) -> Result<u8, Refused> {
        if found.slot.knowledge.cards.is_some() {
            return self.begin_for_slot(name, order, confirmed, secrets);
        }
        self.carry_out(name, order, confirmed, secrets)
    }

    /// Says how an order about a slot ended; answers with the exit code.
    pub(super) fn told(
        &self,
        name: &str,
        answered: Result<(Answered, Option<Secret>), Refused>,
    ) -> Result<u8, Refused> {
        match answered.map_err(|refused| self.name_unreachable(name, refused))? {
            (Answered::Waits(progress), _) => self.waits(name, &progress),
            (Answered::Share { x, m, n }, Some(share)) => self.shown(name, (x, m, n), &share),
            (_, _) => {
                self.ended(name)?;
                Ok(EXIT_DONE)
            }
        }
    }

    /// Says for how many more people the slot waits.
    pub(super) fn waits(&self, name: &str, progress: &ProgressView) -> Result<u8, Refused> {
        match self.format {
            Format::Json => output::json(&self.slot(name)?),
            Format::Table => output::line(&format!("{name}: {}", progress.sentence())),
        }
        Ok(EXIT_WAITS)
    }

    /// Sends an order. A last try that was not confirmed is asked about at the terminal,
    /// and sent again: the first time nothing was tried.
    pub(super) fn order(
        &self,
        order: impl Fn(bool) -> Order,
        confirmed: bool,
        secrets: &[(SecretRole, Secret)],
    ) -> Result<(Answered, Option<Secret>), Refused> {
        self.interrupts.order_sent(true);
        let answered = self.client.ask_for_share(Ask::Order(order(confirmed)), secrets);
        self.interrupts.order_sent(false);
        match answered {
            Err(refused) if refused.problem.is(Refusal::LastTryUnconfirmed) && !confirmed && secret::on_terminal() => {
                self.ask_last_try(&refused.problem.sentence)?;
                self.interrupts.order_sent(true);
                self.client.ask_for_share(Ask::Order(order(true)), secrets)
            }
            answered => answered,
        }
    }

    /// Has somebody at the terminal confirm what could be the last try.
    pub(super) fn ask_last_try(&self, sentence: &str) -> Result<(), Problem> {
        output::aside(&format!("{sentence}."));
        typed(&format!("Type `{CONFIRM_LAST_TRY}` to go on: "), CONFIRM_LAST_TRY)
    }

    /// Which applications could not be told to let go stands in the refusal.
    fn name_unreachable(&self, name: &str, mut refused: Refused) -> Refused {
        if refused.problem.is(Refusal::ApplicationUnreachable)
            && let Ok(found) = self.slot_with_answers(name)
        {
            let failed = found.slot.applications.iter().filter(|application| application.fault.is_some());
            let options: Vec<String> =
                failed.map(|application| format!("--accept-application {}", application.name)).collect();
            *refused.problem = refused.problem.clone().with(options.join(" "));
        }
        refused
    }

    /// The slot once each of its applications has answered: those that were told to let go in vain
    /// are given the old PIN again, at the same time as the refusal is on its way.
    fn slot_with_answers(&self, name: &str) -> Result<SlotDetail, Refused> {
        let until = Instant::now() + ANSWERS_WAIT;
        loop {
            let found = self.slot(name)?;
            if Instant::now() >= until || !found.slot.applications.iter().any(|one| one.state == "pending") {
                return Ok(found);
            }
            thread::sleep(ANSWERS_PAUSE);
        }
    }

    /// Says in which state the slot is after an order.
    fn ended(&self, name: &str) -> Result<(), Refused> {
        let detail = self.slot(name)?;
        match self.format {
            Format::Json => output::json(&detail),
            Format::Table => {
                let slot = &detail.slot;
                let lack = if slot.waits_for.is_some() { format!("; it {}", slot.lack()) } else { String::new() };
                output::line(&format!("{} is {}, its code is {}{lack}", slot.name, slot.state, slot.mode_sentence()));
                for application in slot.applications.iter().filter(|application| application.fault.is_some()) {
                    output::line(&format!("the application {} could not be served", application.name));
                }
            }
        }
        Ok(())
    }
}

/// Says what a switch means; asks only at a terminal.
fn explain(to: &Knowledge<'_>) -> Result<(), Problem> {
    output::aside(&to.sentence());
    if !secret::on_terminal() {
        return Ok(());
    }
    typed("Type `yes` to switch: ", "yes").map_err(|_| Problem::from(Own::NotConfirmed))
}

/// Says what an unblock does; asks only at a terminal.
fn explain_unblock(to: ModeWord) -> Result<(), Problem> {
    output::aside(
        "The token gets another user PIN by its SO PIN. Every key stays; no code from before opens it any more.",
    );
    output::aside(&Knowledge::of_mode(to.mode(), &[]).sentence());
    if !secret::on_terminal() {
        return Ok(());
    }
    typed("Type `yes` to unblock: ", "yes").map_err(|_| Problem::from(Own::NotConfirmed))
}

/// What the end of a slot's life means.
const fn decommission_meaning(without_token: bool) -> &'static str {
    if without_token {
        "The sealed codes of this slot are forgotten. Should its token come back, nothing here opens it;\n\
         its SO PIN still does (`slotwarden slot unblock`)."
    } else {
        "Every key of the token is destroyed, and the sealed codes of the slot are forgotten.\n\
         Nothing brings them back. To keep the keys use `slotwarden slot unblock`."
    }
}

/// What a person reads before every sealed code is destroyed.
const ZEROIZE_MEANING: &str = "\
Every sealed code and the node key of this node are destroyed, and every slot is deactivated.
Nothing brings them back. Keys in tokens stay, and so do manual codes: a slot whose code was
generated comes back by its SO PIN (`slotwarden slot unblock`). Without SO PIN its keys are lost.";

/// The SO PIN: as given, or asked for where the order needs it.
fn so_pin_of(name: &str, given_pin: Option<Secret>, wanted: bool) -> Result<Vec<(SecretRole, Secret)>, Problem> {
    let pin = match given_pin {
        None if wanted && secret::on_terminal() => {
            Some(secret::ask(SecretRole::SoPin, &format!("SO PIN of the token of {name}"), false)?)
        }
        pin => pin,
    };
    Ok(given(SecretRole::SoPin, pin))
}

/// Asks for a text that is not secret.
pub(super) fn typed(prompt: &str, text: &str) -> Result<(), Problem> {
    if line_typed(prompt)? == text {
        return Ok(());
    }
    Err(Own::ConfirmationWrong.with(format!("here it would be {text:?}")))
}

/// One line from the terminal, without its end.
pub(super) fn line_typed(prompt: &str) -> Result<String, Problem> {
    use std::io::Write as _;
    let _ = write!(std::io::stderr(), "{prompt}");
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Ok(_) => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => Err(Own::TerminalClosed.with(error.to_string())),
    }
}

pub(super) fn given(role: SecretRole, secret: Option<Secret>) -> Vec<(SecretRole, Secret)> {
    secret.map(|secret| (role, secret)).into_iter().collect()
}
