//! The vector of exports: our reader and one that knows nothing of our code agree about it, and about
//! what is none.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use slotwarden::export_file::verify;
use slotwarden_tests::excluded;
use tempfile::TempDir;

struct Vector {
    folder: TempDir,
    export: Vec<u8>,
    opens: Vec<String>,
}

fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("a text");
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(byte).collect()
}

fn vector() -> Vector {
    let path = excluded::repository().join("tests/vectors/export.json");
    let json: Value = serde_json::from_slice(&fs::read(path).expect("it is there")).expect("it is JSON");
    let folder = tempfile::tempdir().expect("a folder for a while");
    for (number, record) in (1..).zip(json["records"].as_array().expect("a list")) {
        fs::write(folder.path().join(number.to_string()), bytes(record)).expect("a folder of one's own");
    }
    let opens = json["opens"].as_array().expect("a list").iter().map(|line| line.as_str().expect("a line").to_owned());
    Vector { export: bytes(&json["export"]), opens: opens.collect(), folder }
}

impl Vector {
    fn write(&self, bytes: &[u8]) -> std::path::PathBuf {
        let path = self.folder.path().join("export");
        fs::write(&path, bytes).expect("a folder of one's own");
        path
    }

    /// What the other reader says of these bytes with these cards.
    fn python(&self, bytes: &[u8], cards: &[&str]) -> Output {
        let script = excluded::repository().join("tests/vectors/open_export.py");
        let mut python = Command::new("/usr/bin/python3");
        python
            .arg("-B")
            .arg(script)
            .arg(self.write(bytes))
            .args(cards.iter().map(|card| self.folder.path().join(card)));
        let output = python.output().expect("Python is there: install python3-cryptography");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("Traceback"), "install python3-cryptography, if that is what is missing:\n{said}");
        output
    }
}

#[test]
fn both_readers_open_the_vector_and_any_two_cards_do() {
    let vector = vector();
    let found = verify(&vector.write(&vector.export), None, None).expect("it is whole");
    assert_eq!((found.sections.len(), found.sections[0].objects.len(), found.trusted), (1, 5, false));
    let names: Vec<&str> = found.sections[0].objects.iter().map(|object| object.name.as_str()).collect();
    assert_eq!(names, ["rsa", "ec", "aes", "rsa", "ec"]);
    let key = slotwarden::audit::unhex::<32>(&found.signed_by).expect("a key");
    assert!(verify(&vector.write(&vector.export), Some(key), None).expect("the same").trusted);
    let another =
        verify(&vector.write(&vector.export), Some([7; 32]), None).expect_err("it was altered, or is another's");
    assert_eq!(another.number, 661, "{another}");
    for cards in [["1", "2"], ["1", "3"], ["3", "2"]] {
        let said = vector.python(&vector.export, &cards);
        let lines: Vec<String> = String::from_utf8_lossy(&said.stdout).lines().map(str::to_owned).collect();
        assert_eq!(lines, vector.opens, "{}", String::from_utf8_lossy(&said.stderr));
    }
    for cards in [&["1"][..], &["2", "2"], &[]] {
        assert!(!vector.python(&vector.export, cards).status.success(), "{cards:?}");
    }
}

#[test]
fn p21_both_readers_refuse_what_is_no_export() {
    let vector = vector();
    let refused = |bytes: &[u8]| verify(&vector.write(bytes), None, None).is_err();
    for at in 0..vector.export.len() {
        let mut flipped = vector.export.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(refused(&flipped), "byte {at}");
        assert!(refused(&vector.export[..at]), "{at} bytes");
        // Python takes a twentieth of a second for each.
        if at % 61 == 0 {
            assert!(!vector.python(&flipped, &["1", "2"]).status.success(), "byte {at}");
            assert!(!vector.python(&vector.export[..at], &["1", "2"]).status.success(), "{at} bytes");
        }
    }
    let longer = [&vector.export[..], b"x"].concat();
    assert!(refused(&longer) && !vector.python(&longer, &["1", "2"]).status.success());
    let refusal = verify(Path::new("/dev/zero"), None, None).expect_err("it is no file");
    assert!(refusal.to_string().contains("it is not a file"), "{refusal}");
}
