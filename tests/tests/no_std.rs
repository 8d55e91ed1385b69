//! The core needs no operating system: proven by a program that has none (tests/no-std-proof).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use slotwarden_tests::excluded;

const FOLDER: &str = "no-std-proof";
const TARGET: &str = "x86_64-unknown-linux-gnu";

#[test]
fn a_crate_that_needs_std_does_not_link_into_the_proof() {
    let built = excluded::cargo(FOLDER, &["build", "--release", "--locked", "--features", "drag-in-std"]);
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(!built.status.success(), "the proof proves nothing: it links with std");
    assert!(said.contains("error[E0152]"), "it failed, but not because of std:\n{said}");
}

#[test]
fn the_core_links_without_std_and_without_an_allocator_and_runs_the_life_of_two_slots() {
    let program = excluded::build(FOLDER, TARGET, "", FOLDER);
    let image = fs::read(&program).expect("the program was just built");
    let holds = |name: &str| image.windows(name.len()).any(|window| window == name.as_bytes());
    assert!(holds("slotwarden_core"), "the program has no symbol table, so it proves nothing");
    for allocation in ["__rust_alloc", "__rust_dealloc", "__rust_realloc", "__rg_alloc", "__rdl_alloc", "malloc"] {
        assert!(!holds(allocation), "the program holds {allocation}: something allocates");
    }
    let ended = Command::new(&program).stdin(Stdio::null()).status().expect("the program was just built");
    assert_eq!(ended.code(), Some(0), "exit status is the step that went otherwise (see its main.rs)");
}

#[test]
fn a_panic_in_reach_is_found_with_its_line() {
    let program = excluded::build(FOLDER, TARGET, "reach-a-panic", FOLDER);
    let authors = authors_of_panics(&program);
    assert!(authors.iter().any(|line| line.contains("no-std-proof/src/main.rs")), "found only {authors:#?}");
}

/// The lints are the main proof (core/Cargo.toml). This one looks at the machine code: for
/// each call of a panic that the linker kept, the source line it came from. Crates that the
/// core uses may hold such calls (their authors' checks); our modules may not.
#[test]
fn p42_no_line_of_the_core_reaches_a_panic() {
    let authors = authors_of_panics(&excluded::build(FOLDER, TARGET, "", FOLDER));
    let core = excluded::repository().join("core/src").display().to_string();
    let (ours, others): (Vec<String>, Vec<String>) = authors.into_iter().partition(|line| line.starts_with(&core));
    println!("lines that call a panic: {} of our modules, {} of crates they use", ours.len(), others.len());
    for line in &others {
        println!("  {line}");
    }
    assert!(ours.is_empty(), "these lines can panic: {ours:#?}");
}

/// The program's machine code as text.
fn disassembly(program: &Path) -> String {
    let listed = Command::new("objdump").args(["-d", "--no-show-raw-insn"]).arg(program).output();
    let listed = listed.expect("objdump is there: install binutils");
    assert!(listed.status.success(), "objdump: {}", String::from_utf8_lossy(&listed.stderr));
    String::from_utf8_lossy(&listed.stdout).into_owned()
}

/// One call of, or jump to, a function.
struct Call {
    address: String,
    from: String,
    to: String,
}

/// Every call and jump between functions.
fn calls(disassembly: &str) -> Vec<Call> {
    let mut from = String::new();
    let mut calls = Vec::new();
    for line in disassembly.lines() {
        if let Some((_, name)) = line.strip_suffix(">:").and_then(|line| line.split_once('<')) {
            from = name.to_owned();
        } else if let Some((address, rest)) = line.trim_start().split_once(':')
            && let Some((_, to)) = rest.trim_end().strip_suffix('>').and_then(|rest| rest.rsplit_once('<'))
        {
            let to = to.split('+').next().unwrap_or(to).to_owned();
            if to != from {
                calls.push(Call { address: address.to_owned(), from: from.clone(), to });
            }
        }
    }
    assert!(calls.iter().any(|call| call.from.contains("slotwarden_core")), "no function of the core was found");
    calls
}

/// The source lines whose authors wrote what can panic: for each call of a panic the
/// innermost line that is not the standard library's. A function that is the standard
/// library's throughout (`unwrap_failed`) counts as a panic itself, so its callers are asked.
fn authors_of_panics(program: &Path) -> BTreeSet<String> {
    let calls = calls(&disassembly(program));
    let mut panics: BTreeSet<&str> =
        calls.iter().map(|call| call.to.as_str()).filter(|name| name.contains("core9panicking")).collect();
    let mut asked = BTreeSet::new();
    let mut authors = BTreeSet::new();
    loop {
        let open: Vec<&Call> = calls
            .iter()
            .filter(|call| panics.contains(call.to.as_str()) && !panics.contains(call.from.as_str()))
            .filter(|call| asked.insert(call.address.as_str()))
            .collect();
        if open.is_empty() {
            return authors;
        }
        for call in open {
            match author(program, &call.address) {
                Some(line) => _ = authors.insert(line),
                None => _ = panics.insert(call.from.as_str()),
            }
        }
    }
}

/// The innermost source line at an address that is not the standard library's.
fn author(program: &Path, address: &str) -> Option<String> {
    let found = Command::new("addr2line").args(["-i", "-e"]).arg(program).arg(address).output();
    let found = found.expect("addr2line is there: install binutils");
    let chain = String::from_utf8_lossy(&found.stdout).into_owned();
    let line = chain.lines().find(|line| !line.contains("/library/") && !line.starts_with("??"))?;
    Some(line.split(" (").next().unwrap_or(line).to_owned())
}
