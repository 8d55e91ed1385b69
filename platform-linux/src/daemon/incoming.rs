//! Files that come: people bring them part by part, the exchange as a whole. What may be long is read in a thread of
//! the files, one at a time, and judged when that ended. Whoever brings a file by hand does not wait for one of the exchange.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;

use slotwarden_core::ceremony::order::SlotSet;
use slotwarden_core::command::CommandKind;
use slotwarden_core::effect::SlotId;
use slotwarden_core::fault::Refusal;
use slotwarden_core::package::{Admission, Header};
use slotwarden_core::{reception, transfer};

use super::Loop;
use super::cluster::unwritable;
use crate::cluster::Received;
use crate::control;
use crate::devices::{Applications, FileRead, Hsm, Kind, Store, ToRead};
use crate::exchange::Arrival;
use crate::package_file::{self, Opened};
use crate::problem::Problem;
use crate::sync_dir::{Heard, Uid};
use crate::transfer_dir;
use crate::wire::{Answered, Spooled, SpooledFile, SpooledPackage};

/// The file that is being read.
pub(super) struct Reading {
    number: u32,
    for_whom: ForWhom,
}

/// Who brought it.
enum ForWhom {
    Client(SyncSender<control::Reply>),
    Exchange(Arrival),
}

/// What the loop knows of files that come.
#[derive(Default)]
pub(super) struct IncomingFiles {
    reading: Option<Reading>,
    next: u32,
}

impl<H: Hsm, S: Store, A: Applications> Loop<'_, H, S, A> {
    /// Whether a file is being read.
    pub(super) const fn is_reading(&self) -> bool {
        self.incoming.reading.is_some()
    }

    /// Takes a part of a file that a client brings, unless keys are on their way already. The last part of one that has
    /// to be read is answered when it was.
    ///
    /// # Errors
    /// [`Refusal::NotAllowed`]; [`Refusal::TransferUnderWay`]; what is wrong with the file.
    pub(super) fn client_spools(
        &mut self,
        request: &control::Request,
        (offset, total, bytes): (u64, u64, &[u8]),
    ) -> Result<Option<Answered>, Problem> {
        if !self.may(request.peer, CommandKind::Restore) {
            return Err(Refusal::NotAllowed.into());
        }
        if !self.may_take_files() {
            return Err(Refusal::TransferUnderWay.into());
        }
        match self.incoming.reading.take() {
            Some(reading @ Reading { for_whom: ForWhom::Client(_), .. }) => {
                self.incoming.reading = Some(reading);
                return Err(Refusal::TransferUnderWay.into());
            }
            Some(Reading { for_whom: ForWhom::Exchange(arrival), .. }) => {
                self.devices.files.give_up_reading();
                self.arrival_taken(&arrival, Err(Refusal::TransferUnderWay.into()));
            }
            None => {}
        }
        let Some((kind, path)) = self.devices.files.spool(offset, total, bytes)? else {
            return Ok(Some(Answered::Spooled(None)));
        };
        let taken = match kind {
            Kind::Export => {
                self.read(ForWhom::Client(request.answer.clone()), ToRead::Export);
                return Ok(None);
            }
            Kind::Package => {
                let begun = self.read_package(ForWhom::Client(request.answer.clone()), &path);
                if begun.is_err() {
                    let _ = fs::remove_file(&path);
                }
                return begun.map(|()| None);
            }
            Kind::Rosters => self.cluster.files.take_rosters(&path, self.service.roster()).map(Spooled::Roster),
            Kind::JoinRequest => self.cluster.files.take_request(&path).map(Spooled::JoinRequest),
        };
        // What is needed of it lies elsewhere now.
        let _ = fs::remove_file(&path);
        taken.map(|taken| Some(Answered::Spooled(Some(Box::new(taken)))))
    }

    /// Has the package read that the exchange brought; [`Loop::arrival_taken`] hears what it is.
    pub(super) fn read_arrival(&mut self, arrival: &Arrival) -> Result<(), Problem> {
        self.read_package(ForWhom::Exchange(arrival.clone()), &arrival.path)
    }

    fn read_package(&mut self, for_whom: ForWhom, path: &Path) -> Result<(), Problem> {
        let header = package_file::read_header(path)?;
        self.service.judge_package(&header)?;
        transfer_dir::make(&self.cluster.setup.transfer_dir).map_err(|error| unwritable(&error))?;
        let own = self.cluster.files.keys().node;
        let (path, secrets) = (PathBuf::from(path), self.devices.store.node_secrets()?);
        self.read(for_whom, ToRead::Package { path, own, secrets });
        Ok(())
    }

    fn read(&mut self, for_whom: ForWhom, file: ToRead) {
        self.cluster.forget_incoming();
        self.incoming.next = self.incoming.next.wrapping_add(1);
        let number = self.incoming.next;
        self.incoming.reading = Some(Reading { number, for_whom });
        self.devices.files.read(number, file);
    }

    /// A file was read to its end.
    pub(super) fn file_read(&mut self, number: u32, result: Result<FileRead, Problem>) {
        let Some(Reading { for_whom, .. }) = self.incoming.reading.take_if(|reading| reading.number == number) else {
            // It was given up in the moment in which it ended.
            return self.devices.files.forget_read(number);
        };
        // A transfer may have begun meanwhile, which clears the place when it ends.
        let may = if self.may_take_files() { Ok(()) } else { Err(Refusal::TransferUnderWay.into()) };
        let taken = may.and(result).and_then(|found| self.take_read(number, found));
        if taken.is_err() {
            self.devices.files.forget_read(number);
        }
        match for_whom {
            ForWhom::Client(client) => {
                let answer = taken.map(|taken| Answered::Spooled(Some(Box::new(taken))));
                // A client that left is not told.
                let _ = client.try_send(answer.map_or_else(control::Reply::from, control::Reply::from));
            }
            ForWhom::Exchange(arrival) => match taken {
                Ok(Spooled::Package(package)) => self.arrival_taken(&arrival, Ok(package)),
                Ok(_) => self.arrival_taken(&arrival, Err(Refusal::PackageInvalid.into())),
                Err(problem) => self.arrival_taken(&arrival, Err(problem)),
            },
        }
    }

    /// Whoever waits for a file is told that the service stops.
    pub(super) fn end_reading(&mut self) {
        self.devices.files.give_up_reading();
        if let Some(Reading { for_whom: ForWhom::Client(client), .. }) = self.incoming.reading.take() {
            let _ = client.try_send(Problem::from(Refusal::Stopping).into());
        }
    }

    fn may_take_files(&self) -> bool {
        self.service.transfer_state() == transfer::State::Idle
            && self.service.reception_state() == reception::State::Idle
            && !self.is_looking()
    }

    fn take_read(&mut self, number: u32, found: FileRead) -> Result<Spooled, Problem> {
        match found {
            FileRead::Export(file) => {
                self.devices.files.place_export(&file).map_err(|error| unwritable(&error))?;
                let own = self.devices.store.node_keys().current;
                Ok(Spooled::Export(SpooledFile { own: file.node == own, ..file }))
            }
            FileRead::Package { opened, sections } => self.admit(number, *opened, &sections).map(Spooled::Package),
        }
    }

    /// Admits a package; its keys lie where the worker reads them, and what it says is kept.
    fn admit(&mut self, number: u32, opened: Opened, sections: &BTreeMap<Uid, u32>) -> Result<SpooledPackage, Problem> {
        let Opened { header, hash, facts, export } = opened;
        let known = match self.service.admit_package(&header, &hash)? {
            Admission::Take => false,
            Admission::Nothing => true,
        };
        let own = self.uids();
        let brings = |uid: &Uid| sections.get(uid).copied().unwrap_or(0);
        let here: Vec<SlotId> = own.iter().filter(|(_, uid)| brings(uid) > 0).map(|(slot, _)| *slot).collect();
        let package = SpooledPackage {
            file: hash,
            source: self.member_name(&header.source),
            sequence: header.sequence,
            known,
            slots: here.iter().map(|slot| self.names.slot_name(*slot)).collect(),
            entries: own.iter().map(|(_, uid)| brings(uid)).sum(),
        };
        if known {
            self.devices.files.forget_read(number);
            return Ok(package);
        }
        let Header { source, sequence, made_s, .. } = header;
        for (_, uid) in &own {
            // What was planned of an earlier package and never ordered is not this one's.
            transfer_dir::forget_plan(&self.cluster.setup.transfer_dir, transfer_dir::PlanOf::Package(*uid))
                .map_err(|error| unwritable(&error))?;
        }
        if export {
            self.devices.files.place_package(number).map_err(|error| unwritable(&error))?;
        }
        let slots = here.into_iter().fold(SlotSet::NONE, SlotSet::with);
        let received = Received { heard: Heard { node: source, sequence, hash, made_s }, facts };
        self.cluster.keep_incoming(received, slots).map_err(|error| unwritable(&error))?;
        Ok(package)
    }
}
