//! What the two bytes mean that end every answer of a card, for each command apart.
//!
//! Facts: ISO/IEC 7816-4 §5.6 (words and their classes; `63Cx` carries a counter; a command
//! answered with a checking error, `67xx` to `6Exx`, was not carried out), OpenPGP card 3.4
//! §7 (`6982` for a wrong PIN, `6983` for a blocked one), PC/SC part 10 §2.5 (`6400` to `6403`
//! are the pad's own: it sent nothing to the card).
//!
//! Cards need not keep to the standard, so only words that name what did not happen count as
//! that: where a word leaves it open whether a try was spent, a PIN changed or a record
//! written, the answer here is that it may have been. All 65,536 words have a meaning for
//! each command (P6). Nothing here is kept, so nothing is left after a restart.

use super::StatusWord;

/// What a word means after [`super::CardCall::Select`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum SelectWord {
    /// The application is there.
    Found,
    /// There is no such application: the card is of another kind.
    NotThisKind,
    /// Something else is wrong with the card.
    Failed,
}

/// What a word means after [`super::CardCall::Tries`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum TriesWord {
    /// So many tries are left.
    Left(u8),
    /// The PIN is blocked.
    Blocked,
    /// The answer is in the data that came with the word.
    InData,
    /// The card does not say how many.
    NotSaid,
    /// Something is wrong with the card.
    Failed,
}

/// What a word means after [`super::CardCall::Verify`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum VerifyWord {
    /// The PIN was right.
    Accepted,
    /// It was wrong, and a try is spent.
    Wrong {
        /// Tries left, where the word says it; never 0, which is [`VerifyWord::Blocked`].
        left: Option<u8>,
    },
    /// The PIN is blocked.
    Blocked,
    /// Nobody typed in time: the pad sent nothing.
    TimedOut,
    /// Somebody pressed cancel: the pad sent nothing.
    Cancelled,
    /// Too short or too long.
    Length,
    /// The card did not look at the PIN: it has none, or does not know the command.
    NotTried,
    /// Nobody knows: a try may be spent.
    MaybeTried,
}

/// What a word means after [`super::CardCall::ChangePin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ChangeWord {
    /// The new PIN rules.
    Changed,
    /// The old PIN was wrong, and a try is spent.
    Wrong {
        /// Tries left, where the word says it; never 0, which is [`ChangeWord::Blocked`].
        left: Option<u8>,
    },
    /// The PIN is blocked.
    Blocked,
    /// Nobody typed in time: the pad sent nothing.
    TimedOut,
    /// Somebody pressed cancel: the pad sent nothing.
    Cancelled,
    /// The new PIN was not the same twice: the pad sent nothing.
    Mismatch,
    /// Too short or too long.
    Length,
    /// The card refused, and the old PIN rules.
    NotChanged,
    /// Nobody knows which PIN rules (P7).
    OldOrNew,
}

/// What a word means after [`super::CardCall::Read`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ReadWord {
    /// What came with the word is the record, if there is one.
    Read,
    /// There is no record.
    Missing,
    /// The record was not read.
    Failed,
}

/// What a word means after [`super::CardCall::Write`], [`super::CardCall::Point`] and [`super::CardCall::Erase`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum WriteWord {
    /// Everything was written.
    Written,
    /// The card refused, and nothing was written.
    NotWritten,
    /// Nobody knows what was written.
    MaybeWritten,
}

impl StatusWord {
    /// The command was carried out.
    pub const OK: StatusWord = StatusWord(0x9000);

    /// Its first byte.
    #[must_use]
    pub const fn sw1(self) -> u8 {
        let [first, _] = self.0.to_be_bytes();
        first
    }

    /// Its second byte.
    #[must_use]
    pub const fn sw2(self) -> u8 {
        let [_, second] = self.0.to_be_bytes();
        second
    }

    /// Whether data came with the word and the command was carried out: `9000`, or `61xx` where
    /// the card has more than fits one answer. What we ask for always lies in the first part.
    #[must_use]
    pub const fn carries_data(self) -> bool {
        self.0 == 0x9000 || self.sw1() == 0x61
    }

    /// After [`super::CardCall::Select`].
    #[must_use]
    pub const fn of_select(self) -> SelectWord {
        match self.0 {
            0x9000 | 0x6100..=0x61FF => SelectWord::Found,
            // Wrong length, class not supported, functions, file not found, parameters, instruction, class;
            // 6999 is what Java cards say when no applet can be selected.
            0x6700 | 0x6881 | 0x6882 | 0x6999 | 0x6A80 | 0x6A81 | 0x6A82 | 0x6A86 | 0x6A87 | 0x6B00 | 0x6D00
            | 0x6E00 => SelectWord::NotThisKind,
            _ => SelectWord::Failed,
        }
    }

    /// After [`super::CardCall::Tries`].
    #[must_use]
    pub const fn of_tries(self) -> TriesWord {
        match self.0 {
            0x9000 | 0x6100..=0x61FF => TriesWord::InData,
            0x63C0 | 0x6983 | 0x6984 => TriesWord::Blocked,
            0x63C1..=0x63CF => TriesWord::Left(self.sw2() & 0x0F),
            // Wrong without a counter; or the card has no such question.
            0x6300 | 0x6700 => TriesWord::NotSaid,
            _ => TriesWord::Failed,
        }
    }

    /// After [`super::CardCall::Verify`].
    #[must_use]
    pub const fn of_verify(self) -> VerifyWord {
        match self.0 {
            0x9000 => VerifyWord::Accepted,
            0x63C0 | 0x6983 | 0x6984 => VerifyWord::Blocked,
            0x63C1..=0x63CF => VerifyWord::Wrong { left: Some(self.sw2() & 0x0F) },
            0x6300 | 0x6982 => VerifyWord::Wrong { left: None },
            0x6400 => VerifyWord::TimedOut,
            0x6401 => VerifyWord::Cancelled,
            0x6403 | 0x6700 => VerifyWord::Length,
            0x6A81 | 0x6A86 | 0x6A88 | 0x6B00 | 0x6D00 | 0x6E00 => VerifyWord::NotTried,
            _ => VerifyWord::MaybeTried,
        }
    }

    /// After [`super::CardCall::ChangePin`].
    #[must_use]
    pub const fn of_change(self) -> ChangeWord {
        match self.0 {
            0x9000 => ChangeWord::Changed,
            0x63C0 | 0x6983 | 0x6984 => ChangeWord::Blocked,
            0x63C1..=0x63CF => ChangeWord::Wrong { left: Some(self.sw2() & 0x0F) },
            0x6300 | 0x6982 => ChangeWord::Wrong { left: None },
            0x6400 => ChangeWord::TimedOut,
            0x6401 => ChangeWord::Cancelled,
            0x6402 => ChangeWord::Mismatch,
            0x6403 | 0x6700 => ChangeWord::Length,
            0x6985 | 0x6A80 | 0x6A81 | 0x6A86 | 0x6A88 | 0x6B00 | 0x6D00 | 0x6E00 => ChangeWord::NotChanged,
            _ => ChangeWord::OldOrNew,
        }
    }

    /// After [`super::CardCall::Read`].
    #[must_use]
    pub const fn of_read(self) -> ReadWord {
        match self.0 {
            0x9000 | 0x6100..=0x61FF => ReadWord::Read,
            // End of file before its length, file not found, record not found, data not found.
            0x6282 | 0x6A82 | 0x6A83 | 0x6A88 => ReadWord::Missing,
            _ => ReadWord::Failed,
        }
    }

    /// After [`super::CardCall::Write`], [`super::CardCall::Point`] and [`super::CardCall::Erase`].
    ///
    /// `63Cx` means that the card wrote after x attempts: its memory is worn, and a share does not
    /// belong there, so it does not count as written.
    #[must_use]
    pub const fn of_write(self) -> WriteWord {
        match self.0 {
            0x9000 => WriteWord::Written,
            0x6700 | 0x6981 | 0x6982 | 0x6985 | 0x6986 | 0x6A80 | 0x6A81 | 0x6A82 | 0x6A84 | 0x6A85 | 0x6A86
            | 0x6A88 | 0x6B00 | 0x6D00 | 0x6E00 => WriteWord::NotWritten,
            _ => WriteWord::MaybeWritten,
        }
    }
}
