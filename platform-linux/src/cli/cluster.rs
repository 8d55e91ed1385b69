//! The cluster and its packages: what people compare, bring and take away.

use std::path::Path;

use slotwarden_core::Refusal;

use super::CONFIRM_IMPORT;
use super::arguments::Confirm;
use super::cluster_arguments::{ClusterVerb, SyncVerb};
use super::session::{Session, line_typed, typed};
use super::transfers::Target;
use crate::audit::unhex;
use crate::client::Refused;
use crate::output::{self, Format, cluster, transfers};
use crate::problem::{EXIT_DONE, EXIT_WAITS, Own, Problem};
use crate::secret;
use crate::status_json::SlotKeysView;
use crate::wire::{Answered, Ask, ClusterAsk, Order, Outgoing, Spooled, SyncAsk, remove_text};

impl Session {
    pub(super) fn cluster_verb(&self, verb: ClusterVerb) -> Result<u8, Refused> {
        match verb {
            ClusterVerb::Show => {
                cluster::members(self.format, &self.status()?);
                Ok(EXIT_DONE)
            }
            ClusterVerb::Request { file } => {
                self.fetch(Outgoing::JoinRequest, Target::create(&file)?)?;
                let own = self.status()?.node_fingerprint;
                self.done(&format!("{} is written; the fingerprint of this node is {own}", file.display()))
            }
            ClusterVerb::Invite { request, file, fingerprint } => {
                let target = Target::create(&file)?;
                let Spooled::JoinRequest(asked) = self.spool(&request)? else {
                    return Err(Own::OtherKindOfFile
                        .with(format!("{}: not what `cluster request` writes", request.display()))
                        .into());
                };
                output::aside(&format!("{} asks to be invited.", asked.name));
                compare(&asked.name, &asked.fingerprint, fingerprint)?;
                if self.status()?.cluster.is_none() {
                    self.order(|_| Order::Cluster(ClusterAsk::Found), true, &[])?;
                    output::aside("This node is the first of a new cluster.");
                }
                self.order(|_| Order::Cluster(ClusterAsk::Invite { request: asked.file }), true, &[])?;
                self.fetch(Outgoing::Roster, target)?;
                let file = file.display();
                self.done(&format!(
                    "{} is a member; take {file} there (`cluster join`) and to the others (`cluster follow`)",
                    asked.name
                ))
            }
            ClusterVerb::Join { file, fingerprint } => {
                let Spooled::Roster(roster) = self.spool(&file)? else { return Err(no_roster(&file)) };
                let names: Vec<&str> = roster.members.iter().map(|member| member.name.as_str()).collect();
                let slots = roster.slots.join(", ");
                output::aside(&format!("Members: {}. Slots: {slots}.", names.join(", ")));
                compare("the inviting node", &roster.signer, fingerprint)?;
                self.order(|_| Order::Cluster(ClusterAsk::Join { roster: roster.hash }), true, &[])?;
                self.done("this node is a member; `slotwarden backup restore-key` brings the backup key by its cards")
            }
            ClusterVerb::Follow { file } => {
                let Spooled::Roster(roster) = self.spool(&file)? else { return Err(no_roster(&file)) };
                for hash in roster.newer {
                    self.order(|_| Order::Cluster(ClusterAsk::Follow { roster: hash }), true, &[])?;
                }
                self.done(&format!("roster {} is in force", roster.epoch))
            }
            ClusterVerb::Remove { node, file, confirm } => {
                let target = Target::create(&file)?;
                let text = remove_text(&node);
                match confirm {
                    Some(typed) if typed == text => {}
                    Some(other) => {
                        return Err(Own::ConfirmationWrong
                            .with(format!("{other:?}; here it would be {text:?}"))
                            .into());
                    }
                    None if secret::on_terminal() => typed(&format!("Type `{text}` to go on: "), &text)?,
                    None => return Err(Own::RemoveUnconfirmed.with(format!("--confirm {text:?}")).into()),
                }
                self.order(|_| Order::Cluster(ClusterAsk::Remove { node: node.clone() }), true, &[])?;
                self.fetch(Outgoing::Roster, target)?;
                self.done(&format!(
                    "{node} is no member any more; take {} to the others; what it has opens exports until `backup rotate`",
                    file.display()
                ))
            }
            ClusterVerb::Renew { file } => {
                let target = Target::create(&file)?;
                self.order(|_| Order::Cluster(ClusterAsk::Renew), true, &[])?;
                self.fetch(Outgoing::Roster, target)?;
                self.done(&format!("the cluster has this node's backup key; take {} to the others", file.display()))
            }
            ClusterVerb::Choose { file } => {
                let Spooled::Roster(roster) = self.spool(&file)? else { return Err(no_roster(&file)) };
                let chosen = roster.of_our_epoch.ok_or_else(|| Problem::from(Refusal::RosterNotNext))?;
                output::aside(&format!(
                    "Roster {} ({}), with these members:",
                    roster.epoch,
                    cluster::shown(&roster.hash)
                ));
                for member in &roster.members {
                    output::aside(&format!("  {}  {}", member.name, member.fingerprint));
                }
                self.order(|_| Order::Cluster(ClusterAsk::Choose { roster: chosen }), true, &[])?;
                for hash in roster.newer.into_iter().filter(|hash| *hash != chosen) {
                    self.order(|_| Order::Cluster(ClusterAsk::Follow { roster: hash }), true, &[])?;
                }
                self.done(&format!("roster {} counts, as it is in {}", roster.epoch, file.display()))
            }
            ClusterVerb::ExportRoster { file } => {
                self.fetch(Outgoing::Roster, Target::create(&file)?)?;
                self.done(&format!("{} is whole", file.display()))
            }
        }
    }

    pub(super) fn sync_verb(&self, verb: SyncVerb) -> Result<u8, Refused> {
        match verb {
            SyncVerb::Status { keys: false, slot: _ } => {
                let status = self.status()?;
                cluster::synchronisation(self.format, &status);
                Ok(if cluster::is_in_sync(&status) { EXIT_DONE } else { EXIT_WAITS })
            }
            SyncVerb::Status { keys: true, slot } => {
                let status = self.status()?;
                let all = || status.slots.iter().map(|slot| slot.name.clone()).collect();
                let slots: Vec<String> = slot.map_or_else(all, |slot| vec![slot]);
                let keys = slots.iter().map(|slot| self.keys(slot)).collect::<Result<Vec<_>, _>>()?;
                cluster::keys(self.format, &status, keys);
                Ok(if cluster::is_in_sync(&status) { EXIT_DONE } else { EXIT_WAITS })
            }
            SyncVerb::Export { file, to, slot } => {
                let target = Target::create(&file)?;
                self.order(|_| Order::Sync(SyncAsk::Package { slots: slot.clone(), to: to.clone() }), true, &[])?;
                self.fetch(Outgoing::Package, target)?;
                self.done(&format!("{} is whole; `slotwarden sync import` takes it there", file.display()))
            }
            SyncVerb::Import { file: Some(file), confirm } => self.sync_import(&file, confirm),
            SyncVerb::Import { file: None, confirm } => self.sync_go_on(confirm),
            SyncVerb::End => {
                self.order(|_| Order::Sync(SyncAsk::End), true, &[])?;
                self.done("the package is given up; nothing was made")
            }
        }
    }

    /// The keys of a slot, page by page.
    fn keys(&self, slot: &str) -> Result<SlotKeysView, Refused> {
        let (mut keys, mut after) = (Vec::new(), None);
        loop {
            let Answered::Keys(page) = self.client.ask(Ask::Keys { slot: slot.to_owned(), after }, &[])? else {
                return Err(Own::OtherVersion.into());
            };
            keys.extend(page.keys);
            after = page.next;
            if after.is_none() {
                return Ok(SlotKeysView { slot: page.slot, keys });
            }
        }
    }

    fn sync_import(&self, file: &Path, confirm: Option<String>) -> Result<u8, Refused> {
        let confirmed = Confirm { confirm }.is(CONFIRM_IMPORT)?;
        let Spooled::Package(package) = self.spool(file)? else {
            return Err(Own::OtherKindOfFile.with(format!("{}: not what `sync export` writes", file.display())).into());
        };
        if package.known {
            return self.done(&format!("package {} of {} was applied before", package.sequence, package.source));
        }
        output::aside(&format!(
            "{}: package {} of {}, objects: {}, for {}.",
            file.display(),
            package.sequence,
            package.source,
            package.entries,
            package.slots.join(", ")
        ));
        self.order(|_| Order::Sync(SyncAsk::Receive { file: package.file }), true, &[])?;
        let plan = self.status()?.transfer.and_then(|transfer| transfer.plan);
        let Some(plan) = plan else {
            return self.done("what the source has is known now; it brought no key");
        };
        if let Format::Table = self.format {
            output::line(&transfers::plan(plan, true));
        }
        self.apply(package.file, confirmed)
    }

    /// Makes what the package brings that was looked at before, or goes on where its making stands still.
    fn sync_go_on(&self, confirm: Option<String>) -> Result<u8, Refused> {
        let confirmed = Confirm { confirm }.is(CONFIRM_IMPORT)?;
        let transfer = self.status()?.transfer.filter(|transfer| transfer.package);
        let transfer = transfer.ok_or_else(|| Problem::from(Refusal::NothingReceived))?;
        let file = transfer.file.as_deref().and_then(unhex::<32>);
        let file = file.ok_or_else(|| Problem::from(Refusal::NothingReceived))?;
        if let (Some(plan), Format::Table) = (transfer.plan, self.format) {
            output::line(&transfers::plan(plan, true));
        }
        self.apply(file, confirmed)
    }

    fn apply(&self, file: [u8; 32], confirmed: bool) -> Result<u8, Refused> {
        if !confirmed {
            if !secret::on_terminal() {
                return Err(Own::ImportUnconfirmed.into());
            }
            typed(&format!("Type `{CONFIRM_IMPORT}` to go on: "), CONFIRM_IMPORT)?;
        }
        self.order(|_| Order::Sync(SyncAsk::Apply { file }), true, &[])?;
        self.done("every new key is there, read back; the applications were served anew")
    }
}

fn no_roster(file: &Path) -> Refused {
    Own::OtherKindOfFile.with(format!("{}: not what `cluster invite` or `export-roster` writes", file.display())).into()
}

/// Has a person compare what another node shows with what its file says.
fn compare(whose: &str, computed: &str, given: Option<String>) -> Result<(), Problem> {
    let given = match given {
        Some(given) => given,
        None if secret::on_terminal() => line_typed(&format!("Fingerprint that {whose} shows: "))?,
        None => return Err(Own::FingerprintMissing.into()),
    };
    let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_uppercase();
    if !plain(computed).is_empty() && plain(&given) == plain(computed) {
        return Ok(());
    }
    // The file's own is not shown: who types it off has compared nothing.
    Err(Refusal::FingerprintDiffers.into())
}

#[cfg(test)]
mod tests {
    use super::super::CONFIRM_REMOVE;
    use super::*;

    #[test]
    fn a_fingerprint_is_compared_without_its_spaces_and_another_one_is_refused() {
        let compared = |given: &str| compare("a node", "ABCDE FGHIJ KLMNO PQRST", Some(given.to_owned()));
        assert_eq!(compared("ABCDE FGHIJ KLMNO PQRSU").expect_err("another").name, "fingerprint-differs");
        assert_eq!(compared("").expect_err("none").name, "fingerprint-differs");
        assert_eq!(compared("ABCDE").expect_err("a part of it").name, "fingerprint-differs");
        assert_eq!(compared("abcde-fghij klmnoPQRST"), Ok(()));
        assert_eq!(compare("nobody", "", Some(String::new())).expect_err("nothing").name, "fingerprint-differs");
    }

    #[test]
    fn the_texts_that_confirm_are_those_of_the_help() {
        assert_eq!(remove_text("NODE"), CONFIRM_REMOVE);
    }
}
