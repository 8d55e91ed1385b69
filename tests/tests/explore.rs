//! The simulator's campaigns, from outside: what a small one promises the big one keeps.

use slotwarden_sim::explore::{Order, explore};

/// More than one block of 256, so that two threads have something to share.
const FEW: Order = Order { first: 1, seeds: 260, jobs: 1, cuts_deep: 0 };

#[test]
fn p43_the_same_seeds_give_the_same_traces_whatever_the_number_of_threads() {
    let once = explore(&FEW);
    let again = explore(&Order { jobs: 2, ..FEW });
    let others = explore(&Order { first: 601, seeds: 20, ..FEW });
    assert_eq!(once.hash, again.hash);
    assert_ne!(once.hash, others.hash, "the hash does not depend on the traces");
}
