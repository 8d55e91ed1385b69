//! Power cuts at every point: no chance, no people, one order at a time.
//!
//! For each scripted order the power is cut at its 1st, 2nd, … nth point, where a point is
//! a commit (the transaction is there afterwards or not) or a device call (carried out or
//! not), and what was unsettled is kept or lost. Then again at every point of the recovery,
//! and at every point of the recovery from that. After each the slots are opened by those
//! who have their codes. Two ways that give the same state are counted once.

use slotwarden_core::command::CommandKind;
use slotwarden_core::record::Mode;
use slotwarden_core::status::StateName;

use crate::campaign::{Furniture, finish, furnish, settle_down};
use crate::code::Code;
use crate::hsm::{Character, WRONG_PINS_MAX};
use crate::people::Wish;
use crate::strike::ADMINISTRATOR;
use crate::world::{CUTS_MAX, Cut, Event, World};

/// One scripted order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is what its name says
pub enum Script {
    Init,
    InitLabelled,
    Adopt,
    ActivateGenerated,
    ActivateManual,
    WrongCode,
    Deactivate,
    GeneratedToGenerated,
    GeneratedToManual,
    ManualToGenerated,
    ManualToManual,
    ManualToManualLocked,
    GeneratedToGeneratedLocked,
    GeneratedToManualLocked,
    ManualToGeneratedLocked,
    DeactivateManual,
    Boot,
    Stop,
    UnblockGenerated,
    UnblockManual,
    UnblockToManual,
    UnblockOpen,
    Decommission,
}

impl Script {
    /// All scripts.
    pub const ALL: [Script; 23] = [
        Script::Init,
        Script::InitLabelled,
        Script::Adopt,
        Script::ActivateGenerated,
        Script::ActivateManual,
        Script::WrongCode,
        Script::Deactivate,
        Script::GeneratedToGenerated,
        Script::GeneratedToManual,
        Script::ManualToGenerated,
        Script::ManualToManual,
        Script::ManualToManualLocked,
        Script::GeneratedToGeneratedLocked,
        Script::GeneratedToManualLocked,
        Script::ManualToGeneratedLocked,
        Script::DeactivateManual,
        Script::Boot,
        Script::Stop,
        Script::UnblockGenerated,
        Script::UnblockManual,
        Script::UnblockToManual,
        Script::UnblockOpen,
        Script::Decommission,
    ];

    /// The word, for reports and replays.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Script::Init => "init",
            Script::InitLabelled => "init-labelled",
            Script::Adopt => "adopt",
            Script::ActivateGenerated => "activate-generated",
            Script::ActivateManual => "activate-manual",
            Script::WrongCode => "wrong-code",
            Script::Deactivate => "deactivate",
            Script::GeneratedToGenerated => "generated-to-generated",
            Script::GeneratedToManual => "generated-to-manual",
            Script::ManualToGenerated => "manual-to-generated",
            Script::ManualToManual => "manual-to-manual",
            Script::ManualToManualLocked => "manual-to-manual-locked",
            Script::GeneratedToGeneratedLocked => "generated-to-generated-locked",
            Script::GeneratedToManualLocked => "generated-to-manual-locked",
            Script::ManualToGeneratedLocked => "manual-to-generated-locked",
            Script::DeactivateManual => "deactivate-manual",
            Script::Boot => "boot",
            Script::Stop => "stop",
            Script::UnblockGenerated => "unblock-generated",
            Script::UnblockManual => "unblock-manual",
            Script::UnblockToManual => "unblock-to-manual",
            Script::UnblockOpen => "unblock-open",
            Script::Decommission => "decommission",
        }
    }

    /// Slots of its world.
    const fn slots(self) -> u8 {
        match self {
            Script::Boot | Script::Stop => 3,
            _ => 1,
        }
    }

    const fn furniture(self) -> Furniture {
        match self {
            Script::Init => Furniture::Free,
            Script::InitLabelled => Furniture::Labelled,
            _ => Furniture::Adopted,
        }
    }

    /// Whether its token is blocked before the points begin.
    const fn is_blocked(self) -> bool {
        matches!(
            self,
            Script::UnblockGenerated | Script::UnblockManual | Script::UnblockToManual | Script::Decommission
        )
    }

    /// What is ordered before the points begin, for each slot.
    fn prelude(self, slot: u8) -> &'static [CommandKind] {
        use CommandKind::{Activate, Deactivate, Mode};
        match self {
            Script::Init | Script::InitLabelled | Script::Adopt => &[],
            Script::ActivateGenerated
            | Script::GeneratedToGeneratedLocked
            | Script::GeneratedToManualLocked
            | Script::UnblockGenerated
            | Script::UnblockToManual
            | Script::UnblockOpen
            | Script::Decommission => &[Activate, Mode, Deactivate],
            Script::ActivateManual
            | Script::WrongCode
            | Script::UnblockManual
            | Script::ManualToManualLocked
            | Script::ManualToGeneratedLocked => &[Activate, Deactivate],
            Script::Deactivate | Script::GeneratedToGenerated | Script::GeneratedToManual => &[Activate, Mode],
            Script::ManualToGenerated | Script::ManualToManual | Script::DeactivateManual => &[Activate],
            // Two generated slots, and a manual one between them.
            Script::Boot | Script::Stop => {
                if slot == 1 {
                    &[Activate]
                } else {
                    &[Activate, Mode]
                }
            }
        }
    }

    fn order(self, world: &mut World) -> (Option<u8>, Wish) {
        let present = world.people.slots[0].candidate();
        let fresh = Code::manual(&mut world.random);
        let plain = Wish::plain;
        let wish = match self {
            Script::Init | Script::InitLabelled => {
                Wish { typed: world.people.slots[0].so_pin, ..plain(CommandKind::Init) }
            }
            Script::Adopt | Script::ActivateManual => Wish { typed: present, ..plain(CommandKind::Activate) },
            Script::WrongCode => Wish { typed: fresh, ..plain(CommandKind::Activate) },
            Script::ActivateGenerated => plain(CommandKind::Activate),
            Script::Deactivate | Script::DeactivateManual => plain(CommandKind::Deactivate),
            Script::GeneratedToGenerated | Script::GeneratedToGeneratedLocked => plain(CommandKind::ChangeCode),
            Script::GeneratedToManual | Script::GeneratedToManualLocked => {
                Wish { new: fresh, ..plain(CommandKind::Mode) }
            }
            Script::ManualToGenerated | Script::ManualToGeneratedLocked => {
                Wish { to: Mode::Generated, typed: present, ..plain(CommandKind::Mode) }
            }
            Script::ManualToManual | Script::ManualToManualLocked => {
                Wish { typed: present, new: fresh, ..plain(CommandKind::ChangeCode) }
            }
            Script::UnblockGenerated | Script::UnblockManual | Script::UnblockOpen => {
                Wish { to: Mode::Generated, typed: world.people.slots[0].so_pin, ..plain(CommandKind::Unblock) }
            }
            Script::UnblockToManual => {
                Wish { typed: world.people.slots[0].so_pin, new: fresh, ..plain(CommandKind::Unblock) }
            }
            Script::Decommission => Wish { typed: world.people.slots[0].so_pin, ..plain(CommandKind::Decommission) },
            Script::Boot => plain(CommandKind::Boot),
            Script::Stop => plain(CommandKind::Stop),
        };
        let about = if matches!(self, Script::Boot | Script::Stop) { None } else { Some(0) };
        (about, wish)
    }
}

/// What the power-cut states came to.
#[derive(Clone, Debug, Default)]
pub struct CutReport {
    /// States: one for each sequence of cuts.
    pub states: u64,
    /// Of them those with a second or third cut during the recovery.
    pub again: u64,
    /// Failing sequences, with the violation.
    pub failures: Vec<String>,
}

/// Cuts one script at every point, `depth` cuts deep.
pub fn cut_everywhere(world: &mut World, script: Script, character: usize, depth: usize, report: &mut CutReport) {
    let mut cuts = heapless::Vec::new();
    descend(world, script, character, depth.min(CUTS_MAX), &mut cuts, report);
}

/// Returns whether the last of these cuts found something unsettled, so that keeping and
/// losing it differ.
fn descend(
    world: &mut World,
    script: Script,
    character: usize,
    depth: usize,
    cuts: &mut heapless::Vec<Cut, CUTS_MAX>,
    report: &mut CutReport,
) -> bool {
    let points = run(world, script, character, cuts);
    let was_unsettled = world.cut_was_unsettled;
    if !cuts.is_empty() {
        report.states += 1;
        report.again += u64::from(cuts.len() > 1);
    }
    if let Some(violation) = world.checkers.violation {
        let sequence = name(script, character, cuts);
        report.failures.push(format!("{sequence}: {violation}"));
        return was_unsettled;
    }
    if cuts.len() == depth {
        return was_unsettled;
    }
    for after in 0..points {
        for is_there in [0, 1] {
            let mut differs = true;
            for kept in [0, 2] {
                if differs && cuts.push(Cut { after, way: is_there | kept }).is_ok() {
                    differs = descend(world, script, character, depth, cuts, report);
                    cuts.pop();
                }
            }
        }
    }
    was_unsettled
}

/// Runs a script through these cuts and opens every slot at the end; returns the number of
/// points since the last cut.
pub fn run(world: &mut World, script: Script, character: usize, cuts: &[Cut]) -> u32 {
    reach(world, script, character, cuts);
    let points = world.points;
    finish(world);
    points
}

fn reach(world: &mut World, script: Script, character: usize, cuts: &[Cut]) {
    world.begin(0x0C07 + character as u64, script.slots());
    for slot in 0..script.slots() {
        furnish(world, slot, script.furniture(), Character::ALL[character % Character::ALL.len()]);
    }
    world.start();
    settle_down(world);
    for slot in 0..script.slots() {
        for kind in script.prelude(slot) {
            let mut wish = Wish { to: Mode::Generated, ..Wish::plain(*kind) };
            if matches!(kind, CommandKind::Activate | CommandKind::Mode) {
                wish.typed = world.people.slots[usize::from(slot)].candidate();
            }
            world.order(Some(slot), &wish, ADMINISTRATOR);
            settle_down(world);
        }
    }
    if script == Script::Boot {
        // The points of a boot are those of the whole start.
        world.daemon_killed();
    }
    if script.is_blocked() {
        // Somebody types wrong PINs past us; a token that never locks shows its low count.
        for token in &mut world.tokens.tokens {
            (0..WRONG_PINS_MAX).for_each(|_| token.spend_a_try());
            token.settle();
        }
        world.schedule(1, Event::Look(0));
        settle_down(world);
    }
    world.points = 0;
    for cut in cuts.iter().rev() {
        let _fits = world.cuts.push(*cut);
    }
    if script != Script::Boot {
        let (about, wish) = script.order(world);
        world.order(about, &wish, ADMINISTRATOR);
    }
    settle_down(world);
}

/// How a sequence of cuts is named, and replayed: `script/character/point.way/…`.
fn name(script: Script, character: usize, cuts: &[Cut]) -> String {
    let mut name = format!("{}/{character}", script.word());
    for cut in cuts {
        name.push_str(&format!("/{}.{}", cut.after, cut.way));
    }
    name
}

/// Reads a name.
#[must_use]
pub fn named(name: &str) -> Option<(Script, usize, Vec<Cut>)> {
    let mut parts = name.split('/');
    let word = parts.next()?;
    let script = Script::ALL.into_iter().find(|script| script.word() == word)?;
    let character = parts.next()?.parse().ok()?;
    let cuts = parts.map(|part| {
        let (after, way) = part.split_once('.')?;
        Some(Cut { after: after.parse().ok()?, way: way.parse().ok()? })
    });
    Some((script, character, cuts.collect::<Option<_>>()?))
}

/// Whether a script does what it is for when nothing goes wrong: every slot of its world
/// is where the order should bring it.
#[must_use]
pub fn ends_well(world: &mut World, script: Script, character: usize) -> bool {
    reach(world, script, character, &[]);
    for _ in 0..2 {
        if script == Script::Init && world.status(0).is_some_and(|status| status.state == StateName::Uninitialised) {
            // Nobody knows the maximum of a free token; once it has a label it can be asked.
            let (about, wish) = script.order(world);
            world.order(about, &wish, ADMINISTRATOR);
            settle_down(world);
        }
    }
    let expected = match script {
        Script::Deactivate | Script::DeactivateManual | Script::WrongCode => StateName::Locked,
        Script::Decommission => StateName::Uninitialised,
        _ => StateName::Active,
    };
    world.checkers.violation.is_none()
        && world.status(0).is_some_and(|status| status.state == expected)
        && world.people.orders.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_does_what_it_is_for_on_every_kind_of_token() {
        for script in Script::ALL {
            for character in 0..Character::ALL.len() {
                let mut world = World::default();
                let well = ends_well(&mut world, script, character);
                let why = world.checkers.violation;
                assert!(well, "{}/{character}: {why:?} {:?}", script.word(), world.status(0));
            }
        }
    }

    #[test]
    fn a_sequence_of_cuts_is_read_back_from_its_name() {
        let cuts = [Cut { after: 3, way: 1 }, Cut { after: 0, way: 2 }];
        let written = name(Script::GeneratedToManual, 2, &cuts);
        assert_eq!(written, "generated-to-manual/2/3.1/0.2");
        assert_eq!(named(&written), Some((Script::GeneratedToManual, 2, cuts.to_vec())));
        assert_eq!(named("nothing/1"), None);
    }
}
