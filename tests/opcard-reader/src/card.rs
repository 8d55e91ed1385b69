//! One OpenPGP card: `opcard` in a thread of its own, and what a reader does for it.
//!
//! `opcard` takes whole commands. A device before it collects chained commands (CLA bit 5)
//! and hands long responses out in pieces (61xx, GET RESPONSE), as ISO/IEC 7816-4, 5.3 says;
//! so does this.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use iso7816::Status;
use iso7816::command::CommandView;
use opcard::Options;
use slotwarden_sim::cards::SmartCard;
use trussed::virt::{StoreConfig, with_platform};
use trussed_core::types::Location;

use crate::dispatch::{BACKENDS, Dispatch};

/// Longest response of `opcard`, bytes: that of its own tests.
const RESPONSE_BYTES_MAX: usize = 7_609;
/// Most data that chained commands carry, bytes.
const CHAINED_BYTES_MAX: usize = 7_609;
/// Answer to reset but for its check byte: T=1; historical bytes as `opcard` says them in 5F52
/// (extended lengths).
const ATR: [u8; 14] = [0x3B, 0x8A, 0x80, 0x01, 0x00, 0x31, 0xF5, 0x73, 0xC0, 0x01, 0x60, 0x00, 0x90, 0x00];

enum Ask {
    Reset,
    Command(Vec<u8>),
}

/// A card that lives as long as this.
pub(crate) struct OpenPgp {
    asks: Sender<Ask>,
    answers: Receiver<Vec<u8>>,
    chained: Vec<u8>,
    pending: Vec<u8>,
}

impl OpenPgp {
    /// A card as it leaves the factory.
    pub(crate) fn start(serial: u32) -> Self {
        let (asks, asked) = channel();
        let (answering, answers) = channel();
        thread::spawn(move || live(serial, &asked, &answering));
        OpenPgp { asks, answers, chained: Vec::new(), pending: Vec::new() }
    }

    fn ask(&self, ask: Ask) -> Vec<u8> {
        self.asks.send(ask).expect("the card lives as long as this");
        self.answers.recv().expect("the card lives as long as this")
    }

    /// As much of a long response as the command wants, and how much is left.
    fn hand_out(&mut self, wanted: usize, response: &mut Vec<u8>) {
        let data = self.pending.len() - 2;
        if data <= wanted {
            response.append(&mut self.pending);
            return;
        }
        response.extend(self.pending.drain(..wanted));
        let left = u8::try_from(self.pending.len() - 2).unwrap_or(0);
        response.extend([0x61, left]);
    }
}

impl SmartCard for OpenPgp {
    fn power(&mut self) -> Vec<u8> {
        self.chained.clear();
        self.pending.clear();
        self.ask(Ask::Reset);
        let check = ATR[1..].iter().fold(0, |check, byte| check ^ byte);
        [&ATR[..], &[check]].concat()
    }

    fn transmit(&mut self, apdu: &[u8], response: &mut Vec<u8>) {
        response.clear();
        match *apdu {
            [0, 0xC0, 0, 0, wanted] if !self.pending.is_empty() => {
                return self.hand_out(short_length(wanted), response);
            }
            [class, _, _, _, len, ref data @ ..] if class & 0x10 != 0 && data.len() == usize::from(len) => {
                self.chained.extend(data);
                let fits = self.chained.len() <= CHAINED_BYTES_MAX;
                return response.extend(if fits { [0x90, 0x00] } else { [0x67, 0x00] });
            }
            _ => {}
        }
        self.pending.clear();
        let whole = self.unchained(apdu);
        self.pending = self.ask(Ask::Command(whole));
        let wanted = match *apdu {
            // Case 1 and 3 of a short command want no data, but `opcard` knows what it may answer.
            [_, _, _, _, wanted] => short_length(wanted),
            [_, _, _, _, 0, _, _, ..] => RESPONSE_BYTES_MAX,
            _ => 256,
        };
        self.hand_out(wanted, response);
    }
}

impl OpenPgp {
    /// The command with what was chained before it, of extended length then.
    fn unchained(&mut self, apdu: &[u8]) -> Vec<u8> {
        let chained = std::mem::take(&mut self.chained);
        let [class, instruction, p1, p2, len, ref rest @ ..] = *apdu else { return apdu.to_vec() };
        if chained.is_empty() || rest.len() < usize::from(len) {
            return apdu.to_vec();
        }
        let data = [&chained[..], &rest[..usize::from(len)]].concat();
        let bytes = u16::try_from(data.len()).expect("what is chained is bounded").to_be_bytes();
        [&[class, instruction, p1, p2, 0, bytes[0], bytes[1]][..], &data, &[0, 0]].concat()
    }
}

fn short_length(byte: u8) -> usize {
    if byte == 0 { 256 } else { usize::from(byte) }
}

/// Lives as one card until nobody asks any more.
fn live(serial: u32, asked: &Receiver<Ask>, answering: &Sender<Vec<u8>>) {
    with_platform(StoreConfig::ram(), |platform| {
        platform.run_client_with_backends("opcard", Dispatch::default(), BACKENDS, |client| {
            let mut options = Options::default();
            options.serial = serial.to_be_bytes();
            options.storage = Location::Internal;
            let mut card = opcard::Card::new(client, options);
            while let Ok(ask) = asked.recv() {
                let answer = match ask {
                    Ask::Reset => {
                        card.reset();
                        Vec::new()
                    }
                    Ask::Command(apdu) => answer(&mut card, &apdu),
                };
                if answering.send(answer).is_err() {
                    return;
                }
            }
        });
    });
}

fn answer<C: opcard::Client>(card: &mut opcard::Card<C>, apdu: &[u8]) -> Vec<u8> {
    let mut reply = heapless::Vec::<u8, RESPONSE_BYTES_MAX>::new();
    let status = match CommandView::try_from(apdu) {
        Ok(command) => card.handle(command, &mut reply).err().unwrap_or(Status::Success),
        Err(_) => Status::WrongLength,
    };
    let word: [u8; 2] = status.into();
    [&reply[..], &word].concat()
}
