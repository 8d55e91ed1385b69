//! When `status` says that exports do not cover what they could: `[coverage]`.

use serde::Deserialize;

use super::file::Problems;

/// Longest age, days: ten years.
const DAYS_MAX: u32 = 3_650;

/// What somebody wants to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoverageSettings {
    /// Keys of a slot that could be exported and are in no export, from which on a warning says so; 0: never.
    pub uncovered_keys_warn: u32,
    /// Days after which the last export is old; 0: never.
    pub export_age_warn_days: u32,
}

/// One key that no export holds is one that a fire takes for good, so the first is told. An age says nothing
/// of keys, only that nobody has looked for long whether the medium can still be read: as for cards, 90 days.
impl Default for CoverageSettings {
    fn default() -> Self {
        CoverageSettings { uncovered_keys_warn: 1, export_age_warn_days: 90 }
    }
}

/// The table as serde sees it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CoverageTable {
    uncovered_keys_warn: Option<u32>,
    export_age_warn_days: Option<u32>,
}

pub(super) fn check_coverage(table: &CoverageTable, problems: &mut Problems) -> CoverageSettings {
    let default = CoverageSettings::default();
    if table.export_age_warn_days.is_some_and(|days| days > DAYS_MAX) {
        problems.add(
            "[coverage]",
            "`export_age_warn_days` is out of range",
            format!("write 0 (never) to {DAYS_MAX}, or leave it out"),
        );
    }
    CoverageSettings {
        uncovered_keys_warn: table.uncovered_keys_warn.unwrap_or(default.uncovered_keys_warn),
        export_age_warn_days: table.export_age_warn_days.unwrap_or(default.export_age_warn_days),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    fn file(coverage: &str) -> String {
        let slot = "[[slot]]\nname = \"ca\"\ntoken = \"pkcs11:token=ca\"\n";
        format!("state_dir = \"/s\"\nsocket = \"/c\"\n[hsm]\nmodule = \"/m.so\"\n{slot}{coverage}")
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (coverage, sentence) in [
            ("[coverage]\nexport_age_warn_days = 3651", "out of range"),
            ("[coverage]\nuncovered_keys_warn = -1", "wrong form"),
            ("[coverage]\nexport_age_days = 1", "unknown key"),
        ] {
            let problems = check(&file(coverage)).expect_err("the file is wrong");
            assert!(problems[0].sentence.contains(sentence), "{sentence}: {problems:?}");
        }
    }

    #[test]
    fn what_is_left_out_is_the_default_and_zero_stays_zero() {
        let found = |coverage: &str| check(&file(coverage)).expect("consistent").coverage;
        assert_eq!(found(""), CoverageSettings { uncovered_keys_warn: 1, export_age_warn_days: 90 });
        assert_eq!(
            found("[coverage]\nuncovered_keys_warn = 0\nexport_age_warn_days = 3650"),
            CoverageSettings { uncovered_keys_warn: 0, export_age_warn_days: 3650 }
        );
        assert_eq!(found("[coverage]\nexport_age_warn_days = 0").uncovered_keys_warn, 1);
    }
}
