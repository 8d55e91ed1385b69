//! A second look at tokens, by a process of its own with PKCS#11 only: what their flags say,
//! and whether a PIN opens them. Nothing of Slotwarden is linked in.
//!
//! `second_look MODULE` reads lines `label<TAB>PIN` from stdin (an empty PIN: look only) and
//! answers each with `label<TAB>present|missing<TAB>flags<TAB>opens|refused|not-tried`, flags
//! before the login: any of `low`, `final`, `locked`, `no-pin`, joined by commas.

use std::io::{self, BufRead as _};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::UserType;
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let module = std::env::args_os().nth(1).ok_or("usage: second_look MODULE")?;
    let context = Pkcs11::new(module)?;
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let tokens: Vec<(Slot, TokenInfo)> = context
        .get_slots_with_token()?
        .into_iter()
        .filter_map(|slot| Some((slot, context.get_token_info(slot).ok()?)))
        .filter(|(_, info)| info.token_initialized())
        .collect();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (label, pin) = line.split_once('\t').ok_or("each line is a label, a tab, a PIN")?;
        let Some((slot, info)) = tokens.iter().find(|(_, info)| info.label().trim_end() == label) else {
            println!("{label}\tmissing\t\tnot-tried");
            continue;
        };
        let opens = if pin.is_empty() { "not-tried" } else { verdict(&context, *slot, pin)? };
        println!("{label}\tpresent\t{}\t{opens}", flags(info));
    }
    Ok(())
}

fn verdict(context: &Pkcs11, slot: Slot, pin: &str) -> Result<&'static str, Error> {
    let session = context.open_rw_session(slot)?;
    match session.login(UserType::User, Some(&AuthPin::new(pin.into()))) {
        Ok(()) => Ok("opens"),
        Err(Error::Pkcs11(RvError::PinIncorrect, _)) => Ok("refused"),
        Err(other) => Err(other),
    }
}

fn flags(info: &TokenInfo) -> String {
    let said = [
        ("low", info.user_pin_count_low()),
        ("final", info.user_pin_final_try()),
        ("locked", info.user_pin_locked()),
        ("no-pin", !info.user_pin_initialized()),
    ];
    let said: Vec<&str> = said.iter().filter(|(_, is_so)| *is_so).map(|(name, _)| *name).collect();
    said.join(",")
}
