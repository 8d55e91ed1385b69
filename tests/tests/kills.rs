//! `kill -9` of the daemon and of its worker while codes are being changed, on two modules:
//! afterwards every slot opens with what the store or the person has.

use slotwarden_tests::campaign::{self, Victim};
use slotwarden_tests::modules::Kind;

slotwarden_tests::on_both_modules! {
    p35_after_each_of_100_kills_of_the_daemon_every_slot_opens
    p44_after_each_of_50_kills_of_the_worker_every_slot_opens
}

fn p35_after_each_of_100_kills_of_the_daemon_every_slot_opens(kind: Kind) {
    let tally = campaign::run(kind, Victim::Daemon, 100);
    assert!(tally.hits >= 20, "the kills came too early or too late: {tally}");
}

fn p44_after_each_of_50_kills_of_the_worker_every_slot_opens(kind: Kind) {
    let tally = campaign::run(kind, Victim::Worker, 50);
    assert!(tally.hits >= 10, "the kills came too early or too late: {tally}");
}
