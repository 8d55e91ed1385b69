//! What the platform of a simulated member keeps: its ledger, what it heard of others, packages.
//!
//! A package is a value instead of a file, so nothing here seals or signs; who carries it may lose,
//! repeat and reorder it, and cannot alter it. What is whole survives power; what is being made does not.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};
use slotwarden_core::effect::{HsmAnswer, ImportPlan};
use slotwarden_core::fault::{HsmFailure, Refusal};
use slotwarden_core::ledger::Known;
use slotwarden_core::package::{Header, Suite};
use slotwarden_core::roster::Roster;
use slotwarden_core::transfer::{Export, Purpose};

use crate::vault::{Keys, Reach};

/// A key by its slot's uid and its id.
pub type Name = ([u8; 16], u8);
/// What somebody knows of keys.
pub type Facts = BTreeMap<Name, Known>;

/// A package as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// What it says of itself.
    pub header: Header,
    /// Names it.
    pub hash: [u8; 32],
    /// What its source knows.
    pub facts: Facts,
    /// Keys by slot uid.
    pub sections: BTreeMap<[u8; 16], Keys>,
}

/// What one member keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sync {
    /// What it knows itself.
    pub ledger: Facts,
    /// What it heard of others last, by node key.
    pub members: BTreeMap<[u8; 32], Facts>,
    /// The package that was made last, whole.
    pub made: Option<Package>,
    /// The package that is being received.
    spooled: Option<Package>,
    /// Rosters that were filed.
    pub filed: Vec<[u8; 32]>,
    /// What plans call new, by slot uid.
    plans: BTreeMap<[u8; 16], Keys>,
    part: Option<Package>,
    packages: u8,
}

impl Sync {
    /// Begins a package.
    pub fn begin(&mut self, export: Export, source: [u8; 32], roster: &Roster) {
        let Purpose::Package { targets, sequence, roster_epoch } = export.purpose else { return };
        self.packages = self.packages.wrapping_add(1);
        let bit = |place: usize| u32::try_from(place).map_or(0, |place| targets & (1 << place));
        let named = roster.members.iter().enumerate().filter(|(place, _)| bit(*place) != 0);
        let header = Header {
            package_id: [self.packages; 16],
            cluster: roster.cluster,
            source,
            roster_epoch,
            roster_hash: roster.hash(),
            sequence,
            key_id: export.key_id,
            made_s: None,
            targets: named.map(|(_, member)| member.node).collect(),
            suite: Suite::XWing,
        };
        self.part = Some(Package { header, hash: [0; 32], facts: Facts::new(), sections: BTreeMap::new() });
    }

    /// Whether a package is being made.
    #[must_use]
    pub const fn is_making(&self) -> bool {
        self.part.is_some()
    }

    /// Adds the keys of a token that a target lacks.
    #[must_use]
    pub fn export(&mut self, uid: [u8; 16], token: &Keys) -> HsmAnswer {
        self.observe(uid, token);
        let Some(part) = &mut self.part else { return HsmAnswer::SectionExported { keys: 0, left_out: 0 } };
        let lacks = |target: &[u8; 32], name: &Name, mine: Known| {
            let theirs = self.members.get(target).and_then(|facts| facts.get(name)).copied();
            theirs.unwrap_or(Known::NEVER).is_wanted(mine)
        };
        let wanted = |id: &u8| {
            let name = (uid, *id);
            let mine = self.ledger.get(&name).copied().unwrap_or(Known::NEVER);
            part.header.targets.iter().any(|target| lacks(target, &name, mine))
        };
        let keys: Keys = token.iter().filter(|(id, _)| wanted(id)).map(|(id, value)| (*id, *value)).collect();
        let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
        part.sections.insert(uid, keys);
        HsmAnswer::SectionExported { keys: count, left_out: 0 }
    }

    /// The package is whole.
    pub fn finish(&mut self) {
        if let Some(mut part) = self.part.take() {
            part.facts = self.ledger.clone();
            part.hash = Sha256::digest(format!("{part:?}")).into();
            self.made = Some(part);
        }
    }

    /// A package is there, opened. What a former one left, and a plan of it, is gone: power may have gone before
    /// anybody ordered that one to be made.
    pub fn spool(&mut self, package: Package) {
        self.plans.clear();
        self.spooled = Some(package);
    }

    /// Compares what came for a slot with its token.
    ///
    /// # Errors
    /// [`Refusal::NoSuchSection`]
    pub fn plan(&mut self, uid: [u8; 16], token: &Keys) -> Result<ImportPlan, HsmFailure> {
        self.observe(uid, token);
        let missing = HsmFailure::Refused(Refusal::NoSuchSection);
        let spooled = self.spooled.as_ref().ok_or(missing)?;
        let section = spooled.sections.get(&uid).ok_or(missing)?;
        let (mut plan, mut new) = (ImportPlan::default(), Keys::new());
        for (id, value) in section {
            let name = (uid, *id);
            let [mine, theirs] =
                [&self.ledger, &spooled.facts].map(|facts| facts.get(&name).copied().unwrap_or(Known::NEVER));
            match token.get(id) {
                Some(there) if there == value => plan.same += 1,
                Some(_) => plan.conflict += 1,
                None if mine.is_wanted(theirs) => {
                    plan.new += 1;
                    new.insert(*id, *value);
                }
                None => plan.removed += 1,
            }
        }
        self.plans.insert(uid, new);
        Ok(plan)
    }

    /// Makes what the plan of a slot calls new.
    ///
    /// # Errors
    /// [`Refusal::ImportPlanOutdated`], [`Refusal::ImportConflicts`], before anything is made.
    pub fn import(&mut self, uid: [u8; 16], token: &mut Keys, reach: Reach) -> Result<HsmAnswer, HsmFailure> {
        let plan = self.plans.get(&uid).ok_or(HsmFailure::Refused(Refusal::ImportPlanOutdated))?;
        if plan.iter().any(|(id, value)| token.get(id).is_some_and(|there| there != value)) {
            return Err(HsmFailure::Refused(Refusal::ImportConflicts));
        }
        let mut made = 0;
        for (id, value) in plan {
            if made > 0 && reach == Reach::First {
                break;
            }
            made += u32::from(token.insert(*id, *value).is_none());
        }
        Ok(HsmAnswer::Imported { made })
    }

    /// Files what the source of the spooled package knows, and takes in what was made of it. False: another one is spooled.
    pub fn receive(&mut self, hash: [u8; 32]) -> bool {
        let Some(spooled) = self.spooled.clone().filter(|spooled| spooled.hash == hash) else { return false };
        self.members.insert(spooled.header.source, spooled.facts);
        let made: Vec<Name> = self.plans.iter().flat_map(|(uid, keys)| keys.keys().map(|id| (*uid, *id))).collect();
        made.into_iter().for_each(|name| self.look(name, true));
        true
    }

    /// What was being made or received goes.
    pub fn discard(&mut self) {
        (self.part, self.spooled) = (None, None);
        self.plans.clear();
    }

    /// What was not whole is gone.
    pub fn power_off(&mut self) {
        self.part = None;
    }

    /// Takes in what a token has now, and after that what members said.
    pub fn observe(&mut self, uid: [u8; 16], token: &Keys) {
        let heard = self.members.values().flat_map(BTreeMap::keys).chain(self.ledger.keys()).copied();
        let names: BTreeSet<Name> =
            heard.chain(token.keys().map(|id| (uid, *id))).filter(|(of, _)| *of == uid).collect();
        names.into_iter().for_each(|name| self.look(name, token.contains_key(&name.1)));
    }

    fn look(&mut self, name: Name, there: bool) {
        let told = self.members.values().filter_map(|facts| facts.get(&name)).map(|known| known.count);
        self.ledger.entry(name).or_default().look(there, told);
    }
}
