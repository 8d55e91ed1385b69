//! What a switch means, said before it is made, in the product's words.

use slotwarden_core::record::Mode;

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
