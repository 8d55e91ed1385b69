//! The manual page, section 1, made from the command line's own definitions.
//!
//! One page with every command that the help shows ([`super::shown`]): a new one is on it as soon as it can be
//! typed. What the definitions do not know (secrets, confirmations, exit codes) comes from the
//! tables that the program itself uses; files and environment are the table here.

use clap::{Arg, Command};
use roff::{Roff, bold, italic, roman};

use super::arguments::{CONFIRMATIONS, FIRST_STEPS, SECRETS};
use crate::config::PATH_DEFAULT;
use crate::problem::EXITS;

/// What lies where. `STATE_DIR` and `SOCKET` are `state_dir` and `socket` of the configuration.
const FILES: [(&str, &str); 10] = [
    (PATH_DEFAULT, "The configuration, unless --config names another. Nothing secret is in it."),
    ("STATE_DIR/store.redb", "Records of the slots, sealed codes, and the audit log."),
    ("STATE_DIR/seal.blob", "The key that seals the codes, itself wrapped."),
    (
        "STATE_DIR/seal.key",
        "What it is wrapped with, unless a systemd credential is, or the configuration names another file.",
    ),
    ("STATE_DIR/slotwarden.state", "The marker that tells a lost store from a first start."),
    ("STATE_DIR/ballast", "Room that is given up when the disk is full."),
    ("STATE_DIR/daemon.lock", "Locked while a daemon runs."),
    ("STATE_DIR/worker.lock", "The process that holds the HSM's module."),
    ("SOCKET", "Where the daemon takes orders."),
    ("daemon.log, beside SOCKET", "The log of a daemon that was started by boot --spawn."),
];

/// What the program takes from its environment.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("RUST_LOG", "How much the daemon logs: error, warn, info (if absent), debug or trace."),
    ("CREDENTIALS_DIRECTORY", "Where systemd puts the credential slotwarden-seal, which wraps the key of the codes."),
    ("NOTIFY_SOCKET", "Where systemd wants to be told that the automatic slots were tried."),
    (
        "others",
        "What the HSM's module needs to know, such as SOFTHSM2_CONF: the process that holds the module gets the \
         daemon's environment.",
    ),
];

/// The page as roff.
pub(super) fn page(mut command: Command) -> String {
    // Writes the global options and the usage of each command into it.
    command.build();
    let name = command.get_name().to_owned();
    let version = format!("{name} {}", command.get_version().unwrap_or_default());
    let mut page = Roff::new();
    page.control("TH", [name.to_uppercase().as_str(), "1", "\"\"", &version, "Commands"]);

    page.control("SH", ["NAME"]);
    page.text([roman(format!("{name} - {}", in_one_line(&command)))]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([bold(name.as_str()), roman(" "), italic("COMMAND"), roman(" [OPTIONS]")]);
    page.control("SH", ["DESCRIPTION"]);
    paragraphs(&mut page, &description(&command));
    page.control("SH", ["OPTIONS"]);
    page.text([roman("Before or after every command:")]);
    command.get_arguments().for_each(|argument| option(&mut page, argument));

    page.control("SH", ["COMMANDS"]);
    without_help(&command).for_each(|sub| one_command(&mut page, sub));

    page.control("SH", ["SECRETS"]);
    paragraphs(&mut page, SECRETS);
    page.control("SH", ["CONFIRMATIONS"]);
    paragraphs(&mut page, CONFIRMATIONS.0);
    CONFIRMATIONS.1.iter().for_each(|(text, meaning)| item(&mut page, text, meaning));
    page.control("SH", ["EXIT STATUS"]);
    EXITS.iter().for_each(|(exit, meaning)| item(&mut page, &exit.to_string(), meaning));
    page.control("SH", ["FILES"]);
    FILES.iter().for_each(|(path, what)| item(&mut page, path, what));
    page.control("SH", ["ENVIRONMENT"]);
    ENVIRONMENT.iter().for_each(|(variable, what)| item(&mut page, variable, what));
    page.control("SH", ["EXAMPLES"]);
    paragraphs(&mut page, FIRST_STEPS);
    page.render()
}

/// A command with its options, or a group and the commands in it.
fn one_command(page: &mut Roff, command: &Command) {
    let path = command.get_bin_name().unwrap_or_else(|| command.get_name());
    page.control("SS", [path]);
    if command.has_subcommands() {
        paragraphs(page, &description(command));
        without_help(command).for_each(|sub| one_command(page, sub));
        return;
    }
    let usage = command.clone().render_usage().to_string();
    page.text([bold(usage.trim_start_matches("Usage: ").trim())]);
    page.control("PP", []);
    paragraphs(page, &description(command));
    command.get_arguments().filter(|argument| !is_everywhere(argument)).for_each(|argument| option(page, argument));
}

/// The commands of a group, without the one that clap adds to each.
fn without_help(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|sub| sub.get_name() != "help")
}

/// Whether an option stands under OPTIONS already.
fn is_everywhere(argument: &Arg) -> bool {
    argument.is_global_set() || argument.get_id() == "help"
}

fn option(page: &mut Roff, argument: &Arg) {
    let names =
        [argument.get_short().map(|short| format!("-{short}")), argument.get_long().map(|long| format!("--{long}"))];
    let names = names.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let takes_value = argument.is_positional() || argument.get_action().takes_values();
    let value = argument.get_value_names().unwrap_or_default().join(" ");
    page.control("TP", []);
    match (names.is_empty(), takes_value) {
        (true, _) => page.text([italic(value)]),
        (false, true) => page.text([bold(names), roman(" "), italic(value)]),
        (false, false) => page.text([bold(names)]),
    };
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    page.text([roman(sentence(&help))]);
    if !takes_value {
        return;
    }
    for value in argument.get_possible_values() {
        let Some(help) = value.get_help().filter(|_| !argument.is_hide_possible_values_set()) else { continue };
        page.control("IP", []);
        page.text([bold(value.get_name()), roman(format!(": {}", sentence(&help.to_string())))]);
    }
    let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if !defaults.is_empty() {
        page.text([roman(format!("If absent: {}.", defaults.join(" ")))]);
    }
}

fn item(page: &mut Roff, term: &str, meaning: &str) {
    page.control("TP", []);
    page.text([bold(term)]);
    page.text([roman(sentence(meaning))]);
}

/// What the program does, without its name before it: readers of NAME look for that form.
fn in_one_line(command: &Command) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let about = joined(&about);
    let (first, rest) = about.split_once(' ').unwrap_or_default();
    if first.eq_ignore_ascii_case(command.get_name()) { rest.to_owned() } else { about.clone() }
}

fn description(command: &Command) -> String {
    command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default()
}

/// Text whose paragraphs are parted by empty lines.
fn paragraphs(page: &mut Roff, text: &str) {
    for (place, paragraph) in text.split("\n\n").enumerate() {
        if place > 0 {
            page.control("PP", []);
        }
        page.text([roman(sentence(paragraph))]);
    }
}

/// One line: roff fills lines itself, and takes blanks at their begin for a wish.
fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// With its full stop, which clap takes from what is shown in lists.
fn sentence(text: &str) -> String {
    let mut text = joined(text);
    if !text.ends_with(['.', ':']) {
        text.push('.');
    }
    text
}
