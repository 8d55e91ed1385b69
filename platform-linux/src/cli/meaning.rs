//! What a switch means, said before it is made, in the product's words.

use slotwarden_core::record::Mode;

use crate::output;

/// Says what a new set of cards of the backup key risks, before it is made.
pub(super) fn warn_of_set(m: u8, n: u8) {
    // What can be no quorum is the daemon's to refuse, and means nothing.
    if m == n {
        output::aside("WARNING: as many cards are needed as there are: one lost card ends recovery.");
    }
}

/// The same of cards that give an SO PIN.
pub(super) fn warn_of_administrators(k: u8, n: u8) {
    if k == 1 {
        output::aside(
            "WARNING: one card suffices: whoever has it and knows its PIN gives the token another PIN, or erases it.",
        );
    }
    if k == n {
        output::aside("WARNING: as many cards are needed as there are: after one is lost nobody unblocks the slot.");
    }
}

/// What will be known, and by whom.
pub(super) enum Knowledge<'a> {
    /// The service makes and keeps it.
    Service,
    /// One person knows it.
    Whole,
    /// These persons together.
    Parts(&'a [String]),
    /// Any m of n persons.
    Shares(u8, u8),
    /// Any k of n users with cards.
    Cards {
        /// How many.
        k: u8,
        /// Of how many.
        n: u8,
        /// On top of a code.
        with_code: bool,
    },
}

impl<'a> Knowledge<'a> {
    /// What `slot mode` leads to.
    pub(super) fn of_mode(to: Mode, parts: &'a [String]) -> Self {
        match (to, parts) {
            (Mode::Generated, _) => Knowledge::Service,
            (Mode::Manual, []) => Knowledge::Whole,
            (Mode::Manual, parts) => Knowledge::Parts(parts),
        }
    }

    pub(super) fn sentence(&self) -> String {
        match self {
            Knowledge::Service => {
                "A generated code is available without people, hard to guess, and nobody can disclose \
                                   it;\nbut whoever steals the powered-off machine may extract the keys."
                    .to_owned()
            }
            Knowledge::Whole => {
                "With a manual code a stolen box gives nothing;\nbut after each reboot somebody has to \
                                 activate the slot."
                    .to_owned()
            }
            Knowledge::Parts(persons) => format!(
                "With a code in parts a stolen box gives nothing, and nobody opens the slot alone;\nbut after each reboot \
                 all of {} have to enter their parts, and one part that is forgotten loses the code.",
                persons.join(", ")
            ),
            Knowledge::Cards { k, n, with_code } => {
                let code = if *with_code { " and somebody the code" } else { "" };
                let lost = match (k, n.saturating_sub(*k)) {
                    (1, _) => "\nWARNING: one card suffices: whoever has one and knows its PIN opens the slot.".to_owned(),
                    (_, 0) => "\nWARNING: as many users are needed as there are: one share of which every card is lost closes the slot.".to_owned(),
                    (_, spare) => format!(" {spare} of the shares may get lost; one more closes the slot."),
                };
                format!(
                    "With cards a stolen box gives nothing, and nobody writes down what opens the slot;\nbut after each \
                     reboot {k} of {n} users have to bring their cards{code}.{lost}\nWithout the cards nobody opens the slot, \
                     whatever the software says; its SO PIN gives the token another PIN (`slotwarden slot unblock`)."
                )
            }
            Knowledge::Shares(m, n) => {
                let fewer = match m {
                    0..=2 => "nobody alone knows anything of the code".to_owned(),
                    m => format!("{} persons together know nothing of the code", m.saturating_sub(1)),
                };
                let lost = match n.saturating_sub(*m) {
                    0 => {
                        "\nWARNING: as many are needed as there are: one share that is lost loses the code.".to_owned()
                    }
                    1 => " One share may get lost; one more loses the code.".to_owned(),
                    spare => format!(" {spare} shares may get lost; one more loses the code."),
                };
                format!(
                    "With a code in shares a stolen box gives nothing, and {fewer};\nbut after each reboot {m} of {n} \
                     persons have to enter their shares.{lost}"
                )
            }
        }
    }
}
