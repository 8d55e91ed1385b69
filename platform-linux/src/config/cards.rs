//! `security_level` and `[cards]`: whether card readers are used, which of them not, and what
//! is to be known about their PIN pads.
//!
//! ```toml
//! security_level = "cards"
//! [cards]
//! exclude = ["Rear Port*"]        # the HSM's own reader
//! [[cards.pad]]
//! reader = "Old Pad"
//! digits_max = 15                 # it takes no longer PIN
//! lc = false                      # it adds Lc itself
//! variable_length = false        # every PIN typed there has exactly digits_max digits
//! ```
//!
//! All of it is protected under dual control, as everything is that stands in the file and
//! says nothing about places of this machine.

use serde::Deserialize;

pub use slotwarden_core::service::SecurityLevel;

use super::READER_NAMES_MAX;
use super::file::Problems;

/// Longest card PIN of any card we know of, digits: ISO/IEC 7816-4 names no bound, an OpenPGP
/// card takes up to 127 bytes, and nobody types more than this.
const DIGITS_MAX: u8 = 32;
/// Shortest PIN that a pad may be bound to, digits: what an OpenPGP card wants at least.
const DIGITS_MIN: u8 = 6;

/// The level as it is written.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum LevelWord {
    /// Codes; there is no backup key.
    None,
    /// A passphrase protects the backup key.
    Passphrase,
    /// Smart cards do: the only level at which card operations are offered.
    Cards,
}

/// The card readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardsSettings {
    /// Whether readers are used at all; never below the level `cards`.
    pub enabled: bool,
    /// Readers that policy excludes.
    pub exclude: Vec<NamePattern>,
    /// What is known of PIN pads beyond what they say themselves; the first that fits counts.
    pub pads: Vec<PadSettings>,
}

/// Which readers are meant, by the name that PC/SC gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern(String);

/// A PIN pad that is not like others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PadSettings {
    /// Which readers have it.
    pub reader: NamePattern,
    /// It takes no PIN with more digits.
    pub digits_max: Option<u8>,
    /// Whether the block for a PIN without fixed length carries Lc (0); true if absent.
    pub lc: Option<bool>,
    /// Whether it takes PINs of any length. If not, it is told to take exactly `digits_max`.
    pub variable_length: Option<bool>,
}

impl CardsSettings {
    /// Every reader with a keypad, and nothing known of them but what they say.
    #[must_use]
    pub fn all() -> Self {
        CardsSettings { enabled: true, exclude: Vec::new(), pads: Vec::new() }
    }
}

impl From<LevelWord> for SecurityLevel {
    fn from(word: LevelWord) -> Self {
        match word {
            LevelWord::None => SecurityLevel::None,
            LevelWord::Passphrase => SecurityLevel::Passphrase,
            LevelWord::Cards => SecurityLevel::Cards,
        }
    }
}

impl NamePattern {
    /// With a `*`, which stands for any text, the whole name has to fit; without one the text
    /// has to occur in it. Case counts.
    #[must_use]
    pub fn new(text: &str) -> Self {
        NamePattern(text.to_owned())
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether a reader of this name is meant.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        let Some((begin, rest)) = self.0.split_once('*') else { return name.contains(&self.0) };
        let Some(mut left) = name.strip_prefix(begin) else { return false };
        let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
        for part in middle.split('*') {
            let Some((_, after)) = left.split_once(part) else { return false };
            left = after;
        }
        left.ends_with(end)
    }
}

/// The table as serde sees it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CardsTable {
    enabled: Option<bool>,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    pad: Vec<PadTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PadTable {
    reader: String,
    digits_max: Option<u8>,
    lc: Option<bool>,
    variable_length: Option<bool>,
}

pub(super) fn check_cards(table: CardsTable, level: SecurityLevel, problems: &mut Problems) -> CardsSettings {
    problems.at_most("[cards] exclude", table.exclude.len(), READER_NAMES_MAX);
    problems.at_most("[[cards.pad]]", table.pad.len(), READER_NAMES_MAX);
    let wanted = level == SecurityLevel::Cards;
    if table.enabled == Some(true) && !wanted {
        problems.add(
            "[cards]",
            "card readers are used only at the security level `cards`",
            "write security_level = \"cards\", or leave `enabled` out",
        );
    }
    for text in &table.exclude {
        named("[cards] exclude", text, problems);
    }
    for pad in &table.pad {
        named("[[cards.pad]]", &pad.reader, problems);
        if pad.digits_max.is_some_and(|digits| !(DIGITS_MIN..=DIGITS_MAX).contains(&digits)) {
            problems.add(
                "[[cards.pad]]",
                "`digits_max` is out of range",
                format!("write {DIGITS_MIN} to {DIGITS_MAX}, or leave it out"),
            );
        }
        if pad.variable_length == Some(false) && pad.digits_max.is_none() {
            problems.add(
                "[[cards.pad]]",
                "a pad that takes PINs of one length only needs that length",
                "add `digits_max`, as many digits as every PIN typed there has",
            );
        }
    }
    let pads = table.pad.into_iter().map(|pad| PadSettings {
        reader: NamePattern(pad.reader),
        digits_max: pad.digits_max,
        lc: pad.lc,
        variable_length: pad.variable_length,
    });
    CardsSettings {
        enabled: wanted && table.enabled.unwrap_or(true),
        exclude: table.exclude.into_iter().map(NamePattern).collect(),
        pads: pads.collect(),
    }
}

/// An empty pattern would fit every reader, and `*` says the same on purpose.
fn named(place: &str, text: &str, problems: &mut Problems) {
    if text.is_empty() || text.chars().any(char::is_control) {
        problems.add(
            place,
            "the name of a reader is empty or holds control characters",
            "write a part of the name that `card list` shows, or \"*\" for every reader",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    fn file(level: &str, cards: &str) -> String {
        let slot = "[[slot]]\nname = \"ca\"\ntoken = \"pkcs11:token=ca\"\n";
        format!("state_dir = \"/s\"\nsocket = \"/c\"\n{level}\n[hsm]\nmodule = \"/m.so\"\n{slot}{cards}")
    }

    fn cards(level: &str, cards: &str) -> CardsSettings {
        check(&file(level, cards)).expect("consistent").cards
    }

    const LEVEL: &str = "security_level = \"cards\"";

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (level, cards, sentence) in [
            ("security_level = \"card\"", "", "wrong form"),
            (LEVEL, "[cards]\nexlude = []", "unknown key"),
            ("", "[cards]\nenabled = true", "only at the security level"),
            (LEVEL, "[cards]\nexclude = [\"\"]", "is empty"),
            (LEVEL, "[[cards.pad]]\nreader = \"\"", "is empty"),
            (LEVEL, "[[cards.pad]]\nreader = \"x\"\ndigits_max = 5", "out of range"),
            (LEVEL, "[[cards.pad]]\nreader = \"x\"\nvariable_length = false", "needs that length"),
            (LEVEL, "[[cards.pad]]\nlc = false", "missing"),
        ] {
            let problems = check(&file(level, cards)).expect_err("the file is wrong");
            assert!(problems[0].sentence.contains(sentence), "{sentence}: {problems:?}");
        }
    }

    #[test]
    fn readers_are_used_at_the_level_cards_and_not_below() {
        assert!(!cards("", "").enabled);
        assert!(!cards("security_level = \"passphrase\"", "[cards]\nexclude = [\"x\"]").enabled);
        assert!(!cards(LEVEL, "[cards]\nenabled = false").enabled);
        assert!(cards(LEVEL, "").enabled);
        let found = cards(LEVEL, "[[cards.pad]]\nreader = \"SPR\"\ndigits_max = 15\nlc = false");
        let pad = PadSettings {
            reader: NamePattern::new("SPR"),
            digits_max: Some(15),
            lc: Some(false),
            variable_length: None,
        };
        assert_eq!(found.pads, [pad]);
    }

    #[test]
    fn a_pattern_means_the_names_it_should_and_no_other() {
        let name = "SCM SPR 532 [Vendor] (60200DB5) 00 00";
        for other in ["spr", "SPR*", "*532", "SCM*Rear*00", "SCM**x", "SCM SPR 532 [Vendor] (60200DB5) 00 00*00 00"] {
            assert!(!NamePattern::new(other).fits(name), "{other}");
        }
        for fitting in ["SPR", "[Vendor]", "*", "SCM*", "*00 00", "SCM*(60200DB5)*00", "*SPR*", name] {
            assert!(NamePattern::new(fitting).fits(name), "{fitting}");
        }
    }
}
