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

/// The lints are the main proof (core/Cargo.toml). This one looks at the machine code: for
/// each call of a panic that the linker kept, the source lines it was inlined from. Crates
/// that the core uses may hold such calls (their authors' checks); our modules may not.
#[test]
fn p42_no_line_of_the_core_reaches_a_panic() {
    let program = excluded::build(FOLDER, TARGET, "", FOLDER);
    let calls = calls_of_panics(&disassembly(&program));
    let core = excluded::repository().join("core/src").display().to_string();
    let (ours, others): (BTreeSet<String>, BTreeSet<String>) =
        source_lines(&program, &calls).into_iter().partition(|line| line.starts_with(&core));
    println!(
        "{} calls of a panic: {} lines of our modules, {} of crates they use",
        calls.len(),
        ours.len(),
        others.len()
    );
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

/// Addresses of the calls of, and jumps to, anything in `core::panicking`, from outside it.
fn calls_of_panics(disassembly: &str) -> Vec<String> {
    let mut inside = false;
    let mut calls = Vec::new();
    for line in disassembly.lines() {
        if let Some(name) = line.strip_suffix(">:") {
            inside = name.contains("core9panicking");
        } else if !inside
            && line.contains("core9panicking")
            && let Some((address, _)) = line.trim_start().split_once(':')
        {
            calls.push(address.to_owned());
        }
    }
    assert!(disassembly.contains("slotwarden_core"), "no symbol of the core is in the disassembly");
    calls
}

/// For each address the innermost source line that is not the standard library's: the
/// line whose author wrote what can panic.
fn source_lines(program: &Path, addresses: &[String]) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for address in addresses {
        let found = Command::new("addr2line").args(["-i", "-e"]).arg(program).arg(address).output();
        let found = found.expect("addr2line is there: install binutils");
        let chain = String::from_utf8_lossy(&found.stdout).into_owned();
        let author = chain.lines().find(|line| !line.contains("/library/")).or(chain.lines().last());
        lines.insert(author.unwrap_or("unknown").trim_end_matches(" (discriminator 1)").to_owned());
    }
    lines
}
