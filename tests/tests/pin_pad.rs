//! Readers with a keypad on the real pcscd: our card behind them, and one that nobody here wrote.
//!
//! Clients are `opensc-tool` and the `pcsc` crate on libpcsclite. Every test has its own pcscd
//! in a mount namespace of its own ([`Pcscd`]).

use std::ffi::CString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use pcsc::{Card, Context, Disposition, Error, Protocols, ReaderState, Scope, ShareMode, State};
use slotwarden_core::card::{Credential, RecordPlace};
use slotwarden_sim::cards::{self, TRANSPORT_PIN, aid};
use slotwarden_sim::pin_pad::{Entry, GET_FEATURES, Pull, Quirks, modify_structure, verify_structure};
use slotwarden_tests::pcscd::Pcscd;
use slotwarden_tests::{build, excluded};

/// Longest wait for anything in these tests.
const PATIENCE: Duration = Duration::from_secs(60);
/// VERIFY and CHANGE REFERENCE DATA of our card's PIN, without digits.
const VERIFY: [u8; 5] = [0, 0x20, 0, 0x81, 0];
const CHANGE: [u8; 5] = [0, 0x24, 0, 0x81, 0];
/// READ BINARY of place A.
const READ: [u8; 5] = [0, 0xB0, 0x81, 0, 200];
/// The feature of verifying and that of changing a PIN (PC/SC part 10, 2.3).
const VERIFY_TAG: u8 = 6;
const MODIFY_TAG: u8 = 7;

/// A client with a card in its hands.
struct Client {
    context: Context,
    card: Option<Card>,
    reader: CString,
}

impl Client {
    /// Waits for a card in the reader of this name, and takes it for itself.
    #[track_caller]
    fn take(reader: &str) -> Self {
        let context = Context::establish(Scope::System).expect("pcscd listens");
        let names = context.list_readers_owned().expect("pcscd answers");
        let reader = names.into_iter().find(|name| name.to_string_lossy().starts_with(reader)).expect("is configured");
        let mut client = Client { context, card: None, reader };
        client.wait_for(State::PRESENT);
        client.connect().expect("a card is there, and nobody has it");
        client
    }

    fn connect(&mut self) -> Result<(), Error> {
        self.card = Some(self.context.connect(&self.reader, ShareMode::Exclusive, Protocols::ANY)?);
        Ok(())
    }

    #[track_caller]
    fn wait_for(&self, wanted: State) {
        let mut states = [ReaderState::new(self.reader.clone(), State::UNAWARE)];
        let began = Instant::now();
        loop {
            self.context.get_status_change(Some(PATIENCE), &mut states).expect("the reader changes in time");
            if states[0].event_state().contains(wanted) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{wanted:?} never came");
            states[0].sync_current_state();
        }
    }

    fn card(&self) -> &Card {
        self.card.as_ref().expect("connected")
    }

    /// Sends a command: the response and the status word.
    fn ask(&self, apdu: &[u8]) -> Result<(Vec<u8>, u16), Error> {
        let mut room = [0; 300];
        let answer = self.card().transmit(apdu, &mut room)?;
        Ok(split(answer))
    }

    #[track_caller]
    fn word(&self, apdu: &[u8]) -> u16 {
        self.ask(apdu).expect("the card is there").1
    }

    #[track_caller]
    fn select(&self) {
        let apdu = [&[0, 0xA4, 4, 0, 12][..], &aid(Credential::BackupShare), &[0]].concat();
        assert_eq!(self.word(&apdu), 0x9000);
    }

    /// The control code of a feature, as the reader lists it.
    #[track_caller]
    fn feature(&self, tag: u8) -> Option<u32> {
        let mut room = [0; 64];
        let list = self.card().control(GET_FEATURES.into(), &[], &mut room).expect("every reader lists its features");
        let found = list.chunks_exact(6).find(|entry| entry[0] == tag)?;
        assert_eq!(found[1], 4, "a control code is four bytes");
        Some(u32::from_be_bytes(found[2..].try_into().expect("four bytes")))
    }

    fn on_pad(&self, tag: u8, structure: &[u8]) -> Result<u16, Error> {
        let code = self.feature(tag).expect("the reader has a keypad");
        let mut room = [0; 300];
        let answer = self.card().control(code.into(), structure, &mut room)?;
        Ok(split(answer).1)
    }

    #[track_caller]
    fn verify(&self) -> u16 {
        self.on_pad(VERIFY_TAG, &verify_structure(&VERIFY, [6, 12], 30)).expect("the card stays")
    }

    #[track_caller]
    fn change(&self) -> u16 {
        self.on_pad(MODIFY_TAG, &modify_structure(&CHANGE, [6, 12], 30)).expect("the card stays")
    }
}

fn split(answer: &[u8]) -> (Vec<u8>, u16) {
    let (data, word) = answer.split_last_chunk().expect("a status word at least");
    (data.to_vec(), u16::from_be_bytes(*word))
}

fn our_card() -> Arc<Mutex<cards::Card>> {
    Arc::new(Mutex::new(cards::Card::new([7; 8])))
}

fn update(place: u8, data: &[u8]) -> Vec<u8> {
    [&[0, 0xD6, place, 0, u8::try_from(data.len()).expect("short")][..], data].concat()
}

#[test]
fn opensc_lists_readers_with_and_without_a_keypad() {
    let pcscd = Pcscd::start(&["Left", "Right", "Plain"]);
    pcscd.pad(2).set_quirks(Quirks { keypad: false, ..Quirks::default() });
    let shown = build::run("opensc", Command::new("opensc-tool").arg("-l"));
    println!("{shown}");
    let line = |name: &str| shown.lines().find(|line| line.contains(name)).expect("listed").to_owned();
    assert!(!line("Plain").contains("PIN pad"), "{shown}");
    for name in ["Left", "Right"] {
        assert!(line(name).contains("PIN pad"), "{shown}");
    }
}

#[test]
fn a_reader_without_a_keypad_lists_no_feature_to_verify_a_pin() {
    let pcscd = Pcscd::start(&["Plain"]);
    pcscd.pad(0).set_quirks(Quirks { keypad: false, ..Quirks::default() });
    pcscd.pad(0).insert(our_card());
    let client = Client::take("Plain");
    assert_eq!((client.feature(VERIFY_TAG), client.feature(MODIFY_TAG)), (None, None));
}

#[test]
fn a_pin_is_verified_changed_and_refused_at_the_keypad() {
    let pcscd = Pcscd::start(&["Left"]);
    let (pad, card) = (pcscd.pad(0), our_card());
    pad.insert(Arc::clone(&card));
    let client = Client::take("Left");
    client.select();
    pad.lets_time_pass();
    assert_eq!(client.verify(), 0x6400);
    pad.cancels();
    assert_eq!(client.verify(), 0x6401);
    pad.types(&["123456", "7654321", "1234567"]);
    assert_eq!(client.change(), 0x6402);
    pad.types(&["12345"]);
    assert_eq!(client.verify(), 0x6403);
    assert_eq!(card.lock().unwrap().tries_spent(), 0, "nothing of that reached the card");
    pad.types(&["111111"]);
    assert_eq!(client.verify(), 0x63C2);
    assert_eq!(client.word(&READ), 0x6982);
    pad.types(&["123456", "7654321", "7654321"]);
    assert_eq!(client.change(), 0x9000);
    pad.types(&["123456"]);
    assert_eq!(client.verify(), 0x63C2, "the transport PIN is no more");
    pad.expect(Entry::Hesitates(300));
    pad.types(&["7654321"]);
    assert_eq!(client.verify(), 0x9000);
    assert_eq!(client.ask(&READ).unwrap(), (vec![0; 200], 0x9000));
    let sent: Vec<u8> = pad.take_apdus().iter().map(|apdu| apdu.header[1]).collect();
    assert_eq!(sent, [0xA4, 0x20, 0xB0, 0x24, 0x20, 0x20, 0xB0]);
    assert_eq!(pad.expected(), 0);
}

#[test]
fn a_record_is_written_pointed_to_and_read_in_the_fewest_commands() {
    let pcscd = Pcscd::start(&["Left", "Right"]);
    let card = our_card();
    pcscd.pad(1).insert(Arc::clone(&card));
    let client = Client::take("Right");
    let record: Vec<u8> = (0..200).collect();
    client.select();
    assert_eq!(client.word(&update(0x81, &record)), 0x6982);
    pcscd.pad(1).types(&["123456"]);
    assert_eq!(client.verify(), 0x9000);
    assert_eq!(client.word(&update(0x81, &record)), 0x9000);
    assert_eq!(client.word(&update(0x83, &[0x0A])), 0x9000);
    assert_eq!(card.lock().unwrap().record(Credential::BackupShare).unwrap()[..], record);
    drop(client);
    let client = Client::take("Right");
    let _ = pcscd.pad(1).take_apdus();
    client.select();
    pcscd.pad(1).types(&["123456"]);
    assert_eq!(client.verify(), 0x9000);
    assert_eq!(client.ask(&READ).unwrap(), (record, 0x9000));
    assert_eq!(pcscd.pad(1).take_apdus().len(), 3);
    assert!(pcscd.pad(0).take_apdus().is_empty());
}

#[test]
fn a_card_let_go_with_a_reset_forgets_its_pin() {
    let pcscd = Pcscd::start(&["Left"]);
    pcscd.pad(0).insert(our_card());
    let mut client = Client::take("Left");
    client.select();
    pcscd.pad(0).types(&["123456"]);
    assert_eq!(client.verify(), 0x9000);
    let card = client.card.take().expect("connected");
    card.disconnect(Disposition::ResetCard).map_err(|(_, error)| error).expect("the card is there");
    client.connect().expect("the card is there");
    client.select();
    assert_eq!(client.word(&READ), 0x6982);
}

#[test]
fn another_client_cannot_take_a_card_that_is_held() {
    let pcscd = Pcscd::start(&["Left"]);
    pcscd.pad(0).insert(our_card());
    let holder = Client::take("Left");
    let context = Context::establish(Scope::System).unwrap();
    let refused = context.connect(&holder.reader, ShareMode::Exclusive, Protocols::ANY);
    assert_eq!(refused.err(), Some(Error::SharingViolation));
}

#[test]
fn a_card_pulled_amid_a_write_is_gone_and_the_record_in_force_stays() {
    let pcscd = Pcscd::start(&["Left"]);
    let (pad, card) = (pcscd.pad(0), our_card());
    card.lock().unwrap().put(Credential::BackupShare, RecordPlace::A, &[1; 200]);
    card.lock().unwrap().point(Credential::BackupShare, Some(RecordPlace::A));
    pad.insert(Arc::clone(&card));
    let mut client = Client::take("Left");
    let transaction = client.card.as_mut().expect("connected").transaction().expect("exclusive");
    let mut room = [0; 300];
    let select = [&[0, 0xA4, 4, 0, 12][..], &aid(Credential::BackupShare), &[0]].concat();
    assert!(transaction.transmit(&select, &mut room).unwrap().ends_with(&[0x90, 0]));
    pad.types(&["123456"]);
    let verify = verify_structure(&VERIFY, [6, 12], 30);
    assert_eq!(transaction.control(0x4233_0006, &verify, &mut room).unwrap(), [0x90, 0]);
    pad.pull(Pull::AmidWrite);
    let error = transaction.transmit(&update(0x82, &[2; 200]), &mut room).expect_err("the card was pulled");
    assert_eq!(error, Error::NotTransacted, "as with pcscd's own driver");
    drop(transaction);
    client.wait_for(State::EMPTY);
    let held = card.lock().unwrap();
    assert_eq!(held.record(Credential::BackupShare), Some(&[1; 200]));
    assert_eq!(held.place(Credential::BackupShare, RecordPlace::B)[..101], [&[2; 100][..], &[0]].concat());
}

#[test]
fn a_card_pulled_while_the_keypad_asks_ends_the_dialogue() {
    let pcscd = Pcscd::start(&["Left"]);
    let (pad, card) = (pcscd.pad(0), our_card());
    pad.insert(Arc::clone(&card));
    let client = Client::take("Left");
    client.select();
    let puller = thread::spawn({
        let pad = pad.clone();
        move || {
            assert!(pad.wait_until_asking(PATIENCE));
            pad.remove()
        }
    });
    let error = client.on_pad(VERIFY_TAG, &verify_structure(&VERIFY, [6, 12], 60)).expect_err("the card was pulled");
    assert_eq!(error, Error::NotTransacted);
    assert!(puller.join().expect("nothing to fail").is_some());
    client.wait_for(State::EMPTY);
    assert_eq!(card.lock().unwrap().tries_spent(), 0);
}

#[test]
fn somebody_who_thinks_at_one_keypad_delays_no_other() {
    let pcscd = Pcscd::start(&["Left", "Right"]);
    for number in 0..2 {
        pcscd.pad(number).insert(our_card());
    }
    let thinking = pcscd.pad(0).clone();
    let slow = thread::spawn(|| {
        let client = Client::take("Left");
        client.select();
        client.verify()
    });
    assert!(thinking.wait_until_asking(PATIENCE));
    let client = Client::take("Right");
    client.select();
    pcscd.pad(1).types(&["123456"]);
    assert_eq!(client.verify(), 0x9000);
    assert!(thinking.is_asking());
    thinking.types(&["123456"]);
    assert_eq!(slow.join().expect("nothing to fail"), 0x9000);
}

#[test]
fn a_card_swapped_for_another_is_not_taken_for_the_first() {
    let pcscd = Pcscd::start(&["Left"]);
    pcscd.pad(0).insert(our_card());
    let mut client = Client::take("Left");
    client.select();
    pcscd.pad(0).insert(Arc::new(Mutex::new(cards::Card::new([8; 8]))));
    let error = client.ask(&READ).expect_err("another card");
    assert!(matches!(error, Error::NotTransacted | Error::RemovedCard | Error::ResetCard), "{error:?}");
    client.card = None;
    let began = Instant::now();
    while client.connect().is_err() {
        assert!(began.elapsed() < PATIENCE, "the second card is never seen");
        thread::sleep(Duration::from_millis(20));
    }
    let apdu = [&[0, 0xA4, 4, 0, 12][..], &aid(Credential::BackupShare), &[0]].concat();
    assert_eq!(client.ask(&apdu).unwrap().0[20..], [8; 8]);
}

#[test]
fn pcscd_killed_and_started_again_serves_the_same_readers() {
    let mut pcscd = Pcscd::start(&["Left"]);
    pcscd.pad(0).insert(our_card());
    let client = Client::take("Left");
    client.select();
    pcscd.kill();
    let error = client.ask(&READ).expect_err("pcscd is gone");
    let fresh = client.context.list_readers_owned().expect_err("pcscd is gone");
    assert_eq!((error, fresh), (Error::NoService, Error::NoService));
    drop(client);
    pcscd.start_again();
    let client = Client::take("Left");
    client.select();
    pcscd.pad(0).types(&["123456"]);
    assert_eq!(client.verify(), 0x9000);
}

#[test]
fn a_simulator_that_went_and_came_back_is_an_empty_reader_meanwhile() {
    let mut pcscd = Pcscd::start(&["Left"]);
    pcscd.pad(0).insert(our_card());
    let client = Client::take("Left");
    pcscd.lose_readers();
    client.wait_for(State::EMPTY);
    drop(client);
    pcscd.bring_readers_back();
    pcscd.pad(0).insert(our_card());
    let client = Client::take("Left");
    client.select();
}

#[test]
fn the_program_serves_readers_and_takes_orders_at_its_control_socket() {
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    let socket = folder.path().join("left.sock");
    let control = folder.path().join("control");
    let mut program = Command::new(build::simulator())
        .args(["reader", "--card", "anna", "--socket"])
        .arg(&socket)
        .arg("--control")
        .arg(&control)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("just built");
    let mut said = BufReader::new(program.stdout.take().expect("piped")).lines();
    assert_eq!(said.next().expect("it speaks").expect("text"), "ready");
    let pcscd = Pcscd::for_sockets(&[("Left", &socket)]);
    let mut orders = UnixStream::connect(&control).expect("it is ready");
    let mut answers = BufReader::new(orders.try_clone().expect("a socket can be shared")).lines();
    let mut order = |line: &str| {
        writeln!(orders, "{line}").expect("it listens");
        answers.next().expect("it answers").expect("text")
    };
    assert_eq!(order("insert bert"), "error: there is no such card");
    assert_eq!(order("insert anna"), "ok");
    let client = Client::take("Left");
    client.select();
    assert_eq!(order("type 123456 654321 654321"), "ok");
    assert_eq!(client.change(), 0x9000);
    assert_eq!(order("count"), "ok 2 commands, 24: 1, A4: 1");
    assert!(order("show anna").contains("backup share: no record, 3 tries left, PIN of its own"));
    drop((client, pcscd));
    drop(program.stdin.take());
    assert!(program.wait().expect("our own child").success());
}

/// The program with an OpenPGP card behind a keypad, ended with this value.
struct OpenPgp {
    program: Child,
    orders: UnixStream,
    answers: BufReader<UnixStream>,
}

impl OpenPgp {
    fn start(folder: &tempfile::TempDir) -> Self {
        let program = excluded::build("opcard-reader", "", "", "opcard-reader");
        let control = folder.path().join("control");
        let mut program = Command::new(program)
            .arg(folder.path().join("pgp.sock"))
            .arg(&control)
            .arg("anna")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("just built");
        let mut ready = String::new();
        BufReader::new(program.stdout.as_mut().expect("piped")).read_line(&mut ready).expect("it speaks");
        assert_eq!(ready, "ready\n");
        let orders = UnixStream::connect(&control).expect("it is ready");
        let answers = BufReader::new(orders.try_clone().expect("a socket can be shared"));
        OpenPgp { program, orders, answers }
    }

    #[track_caller]
    fn order(&mut self, line: &str) {
        writeln!(self.orders, "{line}").expect("it listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("it answers");
        assert_eq!(answer, "ok\n");
    }
}

impl Drop for OpenPgp {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// SELECT, GET DATA and PUT DATA of an OpenPGP card (its specification 3.4, 7.2).
const SELECT_PGP: [u8; 11] = [0, 0xA4, 4, 0, 6, 0xD2, 0x76, 0, 1, 0x24, 1];
const GET_0103: [u8; 5] = [0, 0xCA, 1, 3, 0];
const EMPTY_VERIFY_82: [u8; 4] = [0, 0x20, 0, 0x82];

impl Client {
    /// The tries left of its three PINs: the last bytes of data object C4.
    #[track_caller]
    fn pgp_tries(&self) -> [u8; 3] {
        let (data, word) = self.ask(&[0, 0xCA, 0, 0xC4, 0]).expect("the card is there");
        assert_eq!((data.len(), word), (7, 0x9000));
        [data[4], data[5], data[6]]
    }

    #[track_caller]
    fn verify_82(&self) -> u16 {
        self.on_pad(VERIFY_TAG, &verify_structure(&[0, 0x20, 0, 0x82, 0], [6, 12], 30)).expect("the card stays")
    }
}

#[test]
fn an_openpgp_card_that_nobody_here_wrote_says_serial_and_tries_in_one_short_answer() {
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    let _pgp = OpenPgp::start(&folder);
    let _pcscd = Pcscd::for_sockets(&[("Pgp", &folder.path().join("pgp.sock"))]);
    let client = Client::take("Pgp");
    assert_eq!(client.ask(&SELECT_PGP).unwrap(), (vec![], 0x9000), "a selection says nothing");
    let (related, word) = client.ask(&[0, 0xCA, 0, 0x6E, 0]).unwrap();
    assert_eq!((related.len(), word), (254, 0x9000));
    assert_eq!(related[..2], [0x4F, 16], "no 6E around it");
    let aid = client.ask(&[0, 0xCA, 0, 0x4F, 0]).unwrap();
    assert_eq!(aid, (related[2..18].to_vec(), 0x9000));
    assert_eq!(aid.0[..8], [0xD2, 0x76, 0, 1, 0x24, 1, 3, 4]);
    assert_eq!(aid.0[10..14], [0, 0, 0, 1], "the serial");
    let within_73 = related.windows(2).position(|pair| pair == [0xC4, 7]).expect("the state of its PINs");
    assert_eq!(related[within_73 + 2..within_73 + 9], [0, 0x7F, 0x7F, 0x7F, 3, 0, 3]);
    assert_eq!(client.pgp_tries(), [3, 0, 3]);
}

#[test]
fn an_openpgp_card_that_nobody_here_wrote_holds_a_record_under_its_pin() {
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    let mut pgp = OpenPgp::start(&folder);
    let _pcscd = Pcscd::for_sockets(&[("Pgp", &folder.path().join("pgp.sock"))]);
    let client = Client::take("Pgp");
    assert_eq!(client.word(&SELECT_PGP), 0x9000);
    let record: Vec<u8> = (0..200).collect();
    let put = [&[0, 0xDA, 1, 3, 200][..], &record].concat();
    assert_eq!((client.word(&GET_0103), client.word(&put)), (0x6982, 0x6982));
    assert_eq!(client.word(&EMPTY_VERIFY_82), 0x63C3);
    pgp.order("type 111111");
    assert_eq!(client.verify_82(), 0x63C2);
    pgp.order("type 123456");
    assert_eq!(client.verify_82(), 0x9000);
    assert_eq!(client.word(&EMPTY_VERIFY_82), 0x9000);
    assert_eq!(client.word(&put), 0x9000);
    assert_eq!(client.ask(&GET_0103).unwrap(), (record.clone(), 0x9000));
    pgp.order("type 111111 7654321 7654321");
    assert_eq!(client.change(), 0x6300, "a wrong old PIN, without a number");
    assert_eq!(client.pgp_tries(), [2, 0, 3]);
    pgp.order("type 123456 7654321 7654321");
    assert_eq!(client.change(), 0x9000);
    assert_eq!(client.word(&GET_0103), 0x9000, "a change forgets no PIN that was verified");
    drop(client);
    let client = Client::take("Pgp");
    assert_eq!(client.word(&SELECT_PGP), 0x9000);
    assert_eq!(client.word(&GET_0103), 0x6982, "the card was reset");
    pgp.order("type 7654321");
    assert_eq!(client.verify_82(), 0x9000);
    assert_eq!(client.ask(&GET_0103).unwrap(), (record, 0x9000));
}

#[test]
fn an_openpgp_card_that_nobody_here_wrote_says_63c0_and_6300_when_its_pin_is_blocked() {
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    let mut pgp = OpenPgp::start(&folder);
    let _pcscd = Pcscd::for_sockets(&[("Pgp", &folder.path().join("pgp.sock"))]);
    let client = Client::take("Pgp");
    assert_eq!(client.word(&SELECT_PGP), 0x9000);
    for word in [0x63C2, 0x63C1, 0x63C0, 0x63C0] {
        pgp.order("type 000000");
        assert_eq!(client.verify_82(), word);
    }
    pgp.order("type 123456");
    assert_eq!(client.verify_82(), 0x63C0, "the right one is too late");
    pgp.order("type 123456 654321 654321");
    assert_eq!(client.change(), 0x6300);
    assert_eq!(client.word(&EMPTY_VERIFY_82), 0x63C0);
    assert_eq!(client.pgp_tries(), [0, 0, 3]);
}

#[test]
fn an_openpgp_card_takes_chained_commands_and_gives_long_answers_in_pieces() {
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    let mut pgp = OpenPgp::start(&folder);
    let _pcscd = Pcscd::for_sockets(&[("Pgp", &folder.path().join("pgp.sock"))]);
    let client = Client::take("Pgp");
    assert_eq!(client.word(&SELECT_PGP), 0x9000);
    pgp.order("type 123456");
    assert_eq!(client.verify_82(), 0x9000);
    let data: Vec<u8> = (0..=255).chain(0..44).collect();
    let first = [&[0x10, 0xDA, 1, 3, 200][..], &data[..200]].concat();
    let second = [&[0, 0xDA, 1, 3, 100][..], &data[200..]].concat();
    assert_eq!((client.word(&first), client.word(&second)), (0x9000, 0x9000));
    let (begun, word) = client.ask(&GET_0103).unwrap();
    assert_eq!((begun.len(), word), (256, 0x6100 + 44));
    let (rest, word) = client.ask(&[0, 0xC0, 0, 0, 44]).unwrap();
    assert_eq!(([begun, rest].concat(), word), (data, 0x9000));
}

#[test]
fn a_command_costs_little_more_than_pcscd_itself() {
    let pcscd = Pcscd::start(&["Left"]);
    pcscd.pad(0).insert(our_card());
    let client = Client::take("Left");
    client.select();
    pcscd.pad(0).types(&[std::str::from_utf8(TRANSPORT_PIN).expect("digits")]);
    assert_eq!(client.verify(), 0x9000);
    let mut times: Vec<Duration> = (0..500)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(client.word(&READ), 0x9000);
            began.elapsed()
        })
        .collect();
    times.sort();
    println!("READ BINARY of 200 bytes: median {:?}", times[250]);
    assert!(times[250] < Duration::from_millis(20), "something waits: {:?}", times[250]);
}
