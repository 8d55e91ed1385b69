//! What a switch means, said before it is made, in the product's words.

use slotwarden_core::record::Mode;

use crate::output;

/// What a new set of cards risks, before it is made. What can be no quorum is the daemon's to
/// refuse, and means nothing.
pub(super) fn warn_of_set(m: u8, n: u8) {
    if let Some(warning) = set_warning(m, n) {
        output::aside(&format!("WARNING: {warning}"));
    }
}

fn set_warning(m: u8, n: u8) -> Option<&'static str> {
    match (m, n) {
        (1, 1) => Some(
            "one card suffices, and there is one: whoever has it opens everything, and one lost card ends recovery.",
        ),
        (1, _) => Some("one card suffices: whoever has one opens everything."),
        (m, n) if m == n => Some("as many cards are needed as there are: one lost card ends recovery."),
        (_, _) => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_risks_something_is_warned_of_and_another_is_not() {
        assert!(set_warning(3, 3).is_some_and(|warning| warning.contains("one lost card ends recovery")));
        assert!(set_warning(1, 3).is_some_and(|warning| warning.contains("one card suffices")));
        assert!(
            set_warning(1, 1).is_some_and(|warning| warning.contains("suffices") && warning.contains("ends recovery"))
        );
        assert_eq!(set_warning(2, 3), None);
    }
}
