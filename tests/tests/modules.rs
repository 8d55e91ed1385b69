//! The PKCS#11 worker on two modules nobody here wrote: the same list for both.
//!
//! SoftHSM2 and Kryoptic differ where it matters (locking, slot numbers, what is cached);
//! a difference is named beside its line.

use std::time::Duration;

use slotwarden::devices::Hsm;
use slotwarden::hsm::WantedToken;
use slotwarden_core::effect::{HsmAnswer, HsmCall};
use slotwarden_core::fault::{Function, HsmFailure, Refusal, rv};
use slotwarden_core::token::{LoginState, Presence};
use slotwarden_tests::driver::{Driver, is_present};
use slotwarden_tests::modules::{Bench, Kind, PIN, SO_PIN, label};

slotwarden_tests::on_both_modules! {
    a_token_is_found_by_its_label_and_by_its_serial
    labels_with_spaces_and_other_letters_are_found
    two_tokens_with_one_label_are_ambiguous_until_a_serial_is_named
    two_slots_of_ours_never_share_a_token
    a_wrong_pin_is_refused_with_the_codes_of_the_module_and_the_right_one_accepted
    p33_a_login_that_is_there_already_is_never_success
    p33_a_module_that_claims_a_login_is_not_believed
    a_pin_is_set_only_by_a_user_who_is_logged_in
    after_set_pin_the_old_pin_is_refused_and_the_new_one_accepted
    the_only_free_token_is_initialised
    a_free_token_is_named_when_there_are_several
    a_token_with_a_user_pin_is_not_initialised_again
    a_token_with_objects_is_not_initialised
    an_interrupted_initialisation_is_taken_up_without_erasing
    p35_after_init_pin_a_failed_logout_does_not_say_that_nothing_was_called
    p35_after_init_pin_or_set_pin_a_token_that_went_does_not_say_that_nothing_was_called
    random_bytes_come_from_the_token
    settling_needs_its_directory
}

fn pkcs11(code: u64, function: Function) -> Result<HsmAnswer, HsmFailure> {
    Err(HsmFailure::Pkcs11 { code, function })
}

fn a_token_is_found_by_its_label_and_by_its_serial(kind: Kind) {
    let mut bench = Bench::new(kind, 3);
    bench.make_token("ca-root");
    bench.make_token("ca-issuing");
    let serial = bench.serials("ca-issuing").pop().expect("the token was made");
    let both = WantedToken { label: Some("ca-issuing".into()), serial: Some(serial.clone()) };
    let wrong = WantedToken { label: Some("ca-root".into()), serial: Some(serial.clone()) };
    for (wanted, found) in [(both, true), (wrong, false)] {
        let (_driver, presences) = Driver::up(bench.settings(&[label("ca-root"), wanted]));
        assert!(is_present(&presences[0]));
        assert_eq!(is_present(&presences[1]), found);
    }
    let by_serial = WantedToken { label: None, serial: Some(serial.clone()) };
    let (driver, presences) = Driver::up(bench.settings(&[by_serial, label("nowhere")]));
    let Presence::Present(state) = presences[0] else { panic!("{presences:?}") };
    assert_eq!(std::str::from_utf8(&state.serial).map(str::trim_end), Ok(serial.as_str()));
    assert!(state.initialised && state.user_pin && !state.count_low && !state.final_try && !state.locked);
    assert_eq!(state.login, LoginState::Public);
    assert_eq!(presences[1], Presence::Absent { free: true });
    assert_eq!(driver.hsm.free_tokens().len(), 1);
    let name = match kind {
        Kind::SoftHsm => "SoftHSM",
        Kind::Kryoptic => "Kryoptic",
    };
    assert!(driver.hsm.description().contains(name), "{}", driver.hsm.description());
}

fn labels_with_spaces_and_other_letters_are_found(kind: Kind) {
    let mut bench = Bench::new(kind, 3);
    let labels = ["CA root 2025", "Schlüssel für Größe", "根 証明書"];
    for name in labels {
        bench.make_token(name);
    }
    let (mut driver, presences) = Driver::up(bench.settings(&labels.map(label)));
    assert!(presences.iter().all(is_present), "{presences:?}");
    for slot in 0..3 {
        assert_eq!(driver.login(slot, PIN), Ok(HsmAnswer::LoggedIn));
    }
}

fn two_tokens_with_one_label_are_ambiguous_until_a_serial_is_named(kind: Kind) {
    let mut bench = Bench::new(kind, 2);
    bench.make_token("twin");
    bench.make_token("twin");
    let (mut driver, presences) = Driver::up(bench.settings(&[label("twin")]));
    assert_eq!(presences, [Presence::Ambiguous]);
    assert_eq!(driver.login(0, PIN), Err(HsmFailure::TokenGone));
    assert_eq!(driver.initialise(0, SO_PIN, PIN, None), Err(HsmFailure::Refused(Refusal::SlotAmbiguous)));
    drop(driver);
    let serial = bench.serials("twin").pop();
    let (mut driver, presences) = Driver::up(bench.settings(&[WantedToken { label: Some("twin".into()), serial }]));
    assert!(is_present(&presences[0]));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
}

fn two_slots_of_ours_never_share_a_token(kind: Kind) {
    let mut bench = Bench::new(kind, 1);
    bench.make_token("only");
    let by_serial = WantedToken { label: None, serial: bench.serials("only").pop() };
    let (_driver, presences) = Driver::up(bench.settings(&[label("only"), by_serial]));
    assert_eq!(presences, [Presence::Ambiguous, Presence::Ambiguous]);
}

fn a_wrong_pin_is_refused_with_the_codes_of_the_module_and_the_right_one_accepted(kind: Kind) {
    let mut bench = Bench::new(kind, 1);
    bench.make_token("ca");
    let (mut driver, _) = Driver::up(bench.settings(&[label("ca")]));
    assert_eq!(driver.login(0, "wrong-pin-1"), pkcs11(rv::PIN_INCORRECT, Function::Login));
    let after_one = driver.observe(0);
    assert_eq!(after_one.count_low, kind == Kind::SoftHsm, "Kryoptic says so when three tries are left");
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    assert_eq!(driver.observe(0).login, LoginState::User);
    assert!(!driver.observe(0).count_low, "an accepted login clears the count");
    assert_eq!(driver.call(0, HsmCall::Logout), Ok(HsmAnswer::LoggedOut));
    assert_eq!(driver.call(0, HsmCall::Logout), Ok(HsmAnswer::LoggedOut), "not logged in counts as done");
    assert_eq!(driver.observe(0).login, LoginState::Public);
    for _ in 0..9 {
        assert_eq!(driver.login(0, "wrong-pin-1"), pkcs11(rv::PIN_INCORRECT, Function::Login));
    }
    let after_nine = driver.observe(0);
    assert_eq!((after_nine.final_try, after_nine.locked), (kind == Kind::Kryoptic, false));
    match kind {
        Kind::SoftHsm => {
            assert!(after_nine.count_low);
            assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn), "SoftHSM never locks");
        }
        Kind::Kryoptic => {
            assert_eq!(driver.login(0, "wrong-pin-1"), pkcs11(rv::PIN_LOCKED, Function::Login));
            assert!(driver.observe(0).locked);
            assert_eq!(driver.login(0, PIN), pkcs11(rv::PIN_LOCKED, Function::Login));
        }
    }
}

fn p33_a_login_that_is_there_already_is_never_success(kind: Kind) {
    let mut bench = Bench::new(kind, 1);
    bench.make_token("ca");
    let (mut driver, _) = Driver::up(bench.settings(&[label("ca")]));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    assert_eq!(driver.login(0, "wrong-pin-1"), Err(HsmFailure::AlreadyLoggedIn));
    assert_eq!(driver.login(0, PIN), Err(HsmFailure::AlreadyLoggedIn));
    assert_eq!(driver.set_pin(0, PIN, "new-pin-5678"), Ok(HsmAnswer::PinSet));
    assert_eq!(driver.login(0, "wrong-pin-1"), Err(HsmFailure::AlreadyLoggedIn));
    assert_eq!(driver.call(0, HsmCall::Logout), Ok(HsmAnswer::LoggedOut));
    assert_eq!(driver.login(0, "wrong-pin-1"), pkcs11(rv::PIN_INCORRECT, Function::Login));
}

fn p33_a_module_that_claims_a_login_is_not_believed(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 1);
    bench.make_token("ca");
    let (mut driver, _) = Driver::up(bench.settings(&[label("ca")]));
    bench.ask_to("lie", "ca");
    assert_eq!(driver.login(0, PIN), pkcs11(rv::USER_ALREADY_LOGGED_IN, Function::Login));
    assert_eq!(driver.observe(0).login, LoginState::Public);
}

fn a_pin_is_set_only_by_a_user_who_is_logged_in(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 1);
    bench.make_token("ca");
    let (mut driver, _) = Driver::up(bench.settings(&[label("ca")]));
    assert_eq!(driver.set_pin(0, PIN, "new-pin-5678"), pkcs11(rv::USER_NOT_LOGGED_IN, Function::SetPin));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    assert_eq!(driver.call(0, HsmCall::Logout), Ok(HsmAnswer::LoggedOut));
    // In a security officer's or a public session it would change another PIN, or this one unproven.
    assert_eq!(driver.set_pin(0, PIN, "new-pin-5678"), pkcs11(rv::USER_NOT_LOGGED_IN, Function::SetPin));
    assert_eq!(bench.calls("C_SetPIN", "ca"), 0, "the module was not asked");
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
}

fn after_set_pin_the_old_pin_is_refused_and_the_new_one_accepted(kind: Kind) {
    let mut bench = Bench::new(kind, 1);
    bench.make_token("ca");
    let (mut driver, _) = Driver::up(bench.settings(&[label("ca")]));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    assert_eq!(driver.set_pin(0, "wrong-pin-1", "new-pin-5678"), pkcs11(rv::PIN_INCORRECT, Function::SetPin));
    assert_eq!(driver.set_pin(0, PIN, "new-pin-5678"), Ok(HsmAnswer::PinSet));
    assert_eq!(driver.call(0, HsmCall::Settle), Ok(HsmAnswer::Settled));
    assert_eq!(driver.call(0, HsmCall::Logout), Ok(HsmAnswer::LoggedOut));
    assert_eq!(driver.login(0, PIN), pkcs11(rv::PIN_INCORRECT, Function::Login));
    assert_eq!(driver.login(0, "new-pin-5678"), Ok(HsmAnswer::LoggedIn));
    drop(driver);
    let (mut driver, _) = Driver::up(bench.settings(&[label("ca")]));
    assert_eq!(driver.login(0, "new-pin-5678"), Ok(HsmAnswer::LoggedIn), "another process sees the new PIN");
}

fn the_only_free_token_is_initialised(kind: Kind) {
    let bench = Bench::new(kind, 1);
    let (mut driver, presences) = Driver::up(bench.settings(&[label("new ca"), label(&"x".repeat(33))]));
    assert_eq!(presences, [Presence::Absent { free: true }; 2]);
    // A label that PKCS#11 would cut would never be found again.
    assert_eq!(driver.initialise(1, SO_PIN, PIN, None), pkcs11(0x07, Function::InitToken));
    let Ok(HsmAnswer::Initialised(state)) = driver.initialise(0, SO_PIN, PIN, None) else {
        panic!("{:?}", driver.heard)
    };
    assert!(state.initialised && state.user_pin);
    assert_eq!(state.login, LoginState::Public);
    assert_eq!(driver.login(0, "wrong-pin-1"), pkcs11(rv::PIN_INCORRECT, Function::Login));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    drop(driver);
    let (mut driver, presences) = Driver::up(bench.settings(&[label("new ca")]));
    assert!(is_present(&presences[0]), "another process finds it by its label");
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
}

fn a_free_token_is_named_when_there_are_several(kind: Kind) {
    let mut bench = Bench::new(kind, 3);
    bench.make_token("used");
    let (mut driver, _) = Driver::up(bench.settings(&[label("ca")]));
    let free = driver.hsm.free_tokens();
    if kind == Kind::Kryoptic {
        assert_eq!(free.len(), 2);
        assert_eq!(driver.initialise(0, SO_PIN, PIN, None), Err(HsmFailure::Refused(Refusal::SeveralFreeTokens)));
    }
    let named = free.last().expect("a free token").slot_number;
    let nowhere = Some(0x7654_3210);
    assert_eq!(driver.initialise(0, SO_PIN, PIN, nowhere), Err(HsmFailure::Refused(Refusal::NoFreeToken)));
    assert!(matches!(driver.initialise(0, SO_PIN, PIN, Some(named)), Ok(HsmAnswer::Initialised(_))));
    assert!(driver.hsm.free_tokens().iter().all(|token| token.slot_number != named || kind == Kind::SoftHsm));
    // Now it is in use; naming it for another slot erases nothing.
    drop(driver);
    let (mut driver, _) = Driver::up(bench.settings(&[label("other")]));
    if kind == Kind::Kryoptic {
        let refused = driver.initialise(0, SO_PIN, PIN, Some(named));
        assert_eq!(refused, Err(HsmFailure::Refused(Refusal::SlotHasToken)));
    }
    assert!(matches!(driver.initialise(0, SO_PIN, PIN, None), Ok(HsmAnswer::Initialised(_))));
    drop(driver);
    let (mut driver, presences) = Driver::up(bench.settings(&[label("none left")]));
    if kind == Kind::Kryoptic {
        assert_eq!(presences, [Presence::Absent { free: false }], "SoftHSM always has one more");
        assert_eq!(driver.initialise(0, SO_PIN, PIN, None), Err(HsmFailure::Refused(Refusal::NoFreeToken)));
    }
}

fn a_token_with_a_user_pin_is_not_initialised_again(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 2);
    bench.make_token("ca");
    let (mut driver, _) = Driver::up(bench.settings(&[label("ca")]));
    assert_eq!(driver.initialise(0, SO_PIN, "new-pin-5678", None), Err(HsmFailure::Refused(Refusal::SlotHasToken)));
    assert_eq!(
        (bench.calls("C_InitToken", ""), bench.calls("C_InitPIN", "ca"), bench.calls("C_Login", "ca")),
        (0, 0, 0)
    );
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
}

fn a_token_with_objects_is_not_initialised(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 2);
    bench.make_token_without_pin("ca");
    let note = bench.dir().join("note");
    std::fs::write(&note, b"somebody's").expect("the bench's own directory");
    let slot = bench.slot_number("ca");
    let mut tool = bench.pkcs11_tool();
    tool.args(["--slot", &slot, "--login", "--login-type", "so", "--so-pin", SO_PIN]);
    tool.args(["--write-object"]).arg(&note).args(["--type", "data", "--label", "note"]);
    slotwarden_tests::build::run("opensc", &mut tool);
    let (mut driver, _) = Driver::up(bench.settings(&[label("ca")]));
    assert_eq!(driver.initialise(0, SO_PIN, PIN, None), Err(HsmFailure::Refused(Refusal::SlotHasToken)));
    assert_eq!((bench.calls("C_InitToken", ""), bench.calls("C_Login", "ca")), (0, 0));
}

fn an_interrupted_initialisation_is_taken_up_without_erasing(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 2);
    bench.make_token_without_pin("ca");
    let (mut driver, presences) = Driver::up(bench.settings(&[label("ca")]));
    let Presence::Present(state) = presences[0] else { panic!("{presences:?}") };
    assert!(state.initialised && !state.user_pin);
    let wrong = driver.initialise(0, "wrong-so-pin", PIN, None);
    assert_eq!(wrong, pkcs11(rv::PIN_INCORRECT, Function::Login));
    let Ok(HsmAnswer::Initialised(after)) = driver.initialise(0, SO_PIN, PIN, None) else {
        panic!("{:?}", driver.heard)
    };
    assert_eq!(after.serial, state.serial, "the same token");
    assert_eq!(bench.calls("C_InitToken", ""), 0);
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
}

/// The core would erase the new code, which rules by then.
fn p35_after_init_pin_a_failed_logout_does_not_say_that_nothing_was_called(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 1);
    bench.make_token_without_pin("ca");
    let (mut driver, _) = Driver::up(bench.settings(&[label("ca")]));
    bench.ask_to("cling", "ca");
    let Ok(HsmAnswer::Initialised(state)) = driver.initialise(0, SO_PIN, PIN, None) else {
        panic!("{:?}", driver.heard)
    };
    assert!(state.user_pin, "closing the session logged out as well");
    assert_eq!(driver.observe(0).login, LoginState::Public);
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
}

fn p35_after_init_pin_or_set_pin_a_token_that_went_does_not_say_that_nothing_was_called(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 2);
    bench.make_token_without_pin("ca");
    bench.make_token("other");
    let (mut driver, _) = Driver::up(bench.settings(&[label("ca"), label("other")]));
    assert_eq!(driver.login(1, PIN), Ok(HsmAnswer::LoggedIn));
    bench.ask_to("hang", "ca");
    bench.ask_to("hang", "other");
    let (so_pin, new) = (driver.secret(SO_PIN), driver.secret(PIN));
    let initialised = driver.order(0, HsmCall::Initialise { so_pin, new, free_slot: None });
    let (old, new) = (driver.secret(PIN), driver.secret("new-pin-5678"));
    let set = driver.order(1, HsmCall::SetPin { old, new });
    driver.listen(Duration::from_millis(500));
    for name in ["ca", "other"] {
        bench.ask_to("hide", name);
        bench.ask_no_more("hang", name);
    }
    assert_eq!(driver.answer(set), Ok(HsmAnswer::PinSet));
    assert_eq!(driver.answer(initialised), pkcs11(rv::TOKEN_NOT_PRESENT, Function::GetTokenInfo));
}

fn random_bytes_come_from_the_token(kind: Kind) {
    let mut bench = Bench::new(kind, 1);
    let mut halves = [[0; 32]; 2];
    {
        let (mut driver, _) = Driver::up(bench.settings(&[label("ca")]));
        assert!(!driver.hsm.random(&mut halves[0]), "no token, no randomness");
    }
    bench.make_token("ca");
    let (mut driver, _) = Driver::up(bench.settings(&[label("ca")]));
    assert!(driver.hsm.random(&mut halves[0]) && driver.hsm.random(&mut halves[1]));
    assert!(halves[0] != halves[1] && halves[0] != [0; 32]);
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn), "the session for it is a public one");
}

fn settling_needs_its_directory(kind: Kind) {
    let mut bench = Bench::new(kind, 1);
    bench.make_token("ca");
    let mut settings = bench.settings(&[label("ca")]);
    settings.settle_dir = Some(bench.dir().join("missing"));
    {
        let (mut driver, _) = Driver::up(settings.clone());
        assert_eq!(driver.call(0, HsmCall::Settle), Err(HsmFailure::NotSettled));
        driver.wait_note("missing");
    }
    settings.settle_dir = None;
    let (mut driver, _) = Driver::up(settings);
    assert_eq!(driver.call(0, HsmCall::Settle), Ok(HsmAnswer::Settled), "none configured, nothing to do");
}
