//! Whether the directories that the configuration names can be used by the user who asks:
//! the daemon at its start, or `check-config`, which is best run as the daemon's user.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::file::Problems;
use super::{ConfigProblem, Settings};
use crate::apps::memory::Memory;

/// Longest path of a Unix socket, bytes: `sun_path` has 108 with its NUL (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Looks at the state directory, the socket's and the hand-over files'. Makes nothing.
#[must_use]
pub fn check_places(settings: &Settings) -> Vec<ConfigProblem> {
    let mut problems = Problems::default();
    let owner = "let it belong to the user that the daemon runs as, and run this check as that user";
    if let Err(why) = usable(&settings.state_dir) {
        problems.add("state_dir", why, owner);
    }
    if settings.socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        let why = format!("the path has more than {SOCKET_PATH_BYTES_MAX} bytes");
        problems.add("socket", why, "give the control socket a shorter path, such as /run/slotwarden/control.sock");
    } else if let Err(why) = usable(parent(&settings.socket)) {
        problems.add("socket", why, owner);
    }
    for application in &settings.applications {
        let place = format!("application {}", application.name);
        let Some(file) = application.adapter.pin_file() else { continue };
        let directory = parent(&file.path);
        // Unlike the others this directory is not made by the daemon: what it is on has to be decided.
        if !directory.is_dir() && directory != parent(&settings.socket) {
            problems.add(
                place,
                format!("the directory {} of its hand-over file does not exist", directory.display()),
                "make it on a file system in memory, or use the socket's directory",
            );
        } else if let Err(why) = usable(directory) {
            problems.add(place, why, owner);
        } else if let Err(why) = in_memory(directory) {
            problems.add(
                place,
                format!("its hand-over file {} would not be in memory: {why}", file.path.display()),
                "name a path on tmpfs or ramfs, such as one under /run, and encrypt swap or mount with noswap: \
                 a PIN must not reach a disk",
            );
        }
    }
    problems.0
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// The directory itself, or the one in which it would be made.
fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|directory| directory.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn usable(path: &Path) -> Result<(), String> {
    let nearest = nearest(path);
    if !nearest.is_dir() {
        return Err(format!("{} is not a directory", nearest.display()));
    }
    access(&nearest, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
        let user = rustix::process::geteuid().as_raw();
        format!("user id {user} may not write in {}: {error}", nearest.display())
    })
}

fn in_memory(path: &Path) -> Result<(), String> {
    let directory = File::open(nearest(path)).map_err(|error| error.to_string())?;
    Memory::new().check(directory)
}

#[cfg(test)]
mod tests {
    use super::super::{Adapter, PinFileSettings};
    use super::*;

    fn settings(dir: &Path) -> Settings {
        let place = dir.display();
        let text = format!(
            "state_dir = \"{place}/made/state\"\nsocket = \"{place}/run/control.sock\"\n[hsm]\nmodule = \"/m\"\n\
             [[slot]]\nname = \"a\"\ntoken = \"pkcs11:token=a\"\napplications = [\"signer\"]\n\
             [[application]]\nname = \"signer\"\nadapter = \"pin-file\"\npath = \"{place}/run/signer.pin\"\n"
        );
        super::super::check(&text).expect("consistent")
    }

    fn hand_over_at(settings: &mut Settings, path: PathBuf) {
        settings.applications[0].adapter = Adapter::PinFile(PinFileSettings { path, group: None });
    }

    fn problems(settings: &Settings) -> Vec<String> {
        check_places(settings).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn places_that_cannot_be_used_are_named_with_the_reason() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is writable");
        let mut settings = settings(dir.path());
        std::fs::write(dir.path().join("made"), "a file").expect("there is room");
        settings.socket = dir.path().join("x".repeat(108));
        hand_over_at(&mut settings, dir.path().join("elsewhere/signer.pin"));
        let found = problems(&settings);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("state_dir: ") && found[0].contains("made is not a directory"), "{found:?}");
        assert!(found[1].contains("more than 107 bytes"), "{found:?}");
        assert!(found[2].contains("elsewhere of its hand-over file does not exist"), "{found:?}");
    }

    #[test]
    fn p03_a_hand_over_file_on_a_disk_is_a_problem_before_any_pin_is_written() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is writable");
        let mut settings = settings(dir.path());
        // The root of a mounted proc is on no disk, and in no memory that a file could have.
        hand_over_at(&mut settings, "/proc/self/signer.pin".into());
        let found = problems(&settings);
        assert!(found.iter().any(|problem| problem.starts_with("application signer: ")), "{found:?}");
        assert!(in_memory(Path::new("/proc/self")).is_err_and(|why| why.contains("not on tmpfs or ramfs")));
    }

    #[test]
    fn directories_that_the_daemon_makes_need_not_exist_yet() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is writable");
        let found = problems(&settings(dir.path()));
        // Where swap is not encrypted this machine cannot hand anything over, which is said.
        let only_swap = found.iter().all(|problem| problem.contains("would not be in memory"));
        assert!(only_swap && found.len() <= 1, "{found:?}");
        assert!(!dir.path().join("run").exists() && !dir.path().join("made").exists(), "nothing was made");
    }
}
