//! The cluster and its synchronisation, for people.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Format, line};
use crate::status_json::{
    ClusterMemberView, ClusterView, ExchangeView, KeyTitleView, SCHEMA, SlotKeysView, SlotView, StatusView,
    SynchronisedKeyView, SynchronisedView,
};

/// Digits of a roster's hash that people compare: 64 bits, and whoever could make another roster like it would still
/// have to be a member.
const ROSTER_DIGITS: usize = 16;

/// Who belongs to the cluster.
pub fn members(format: Format, status: &StatusView) {
    let StatusView { cluster, node_fingerprint, .. } = status;
    if format == Format::Json {
        return super::json(&json!({"schema": SCHEMA, "node_fingerprint": node_fingerprint, "cluster": cluster}));
    }
    line(&format!("this node: {node_fingerprint}"));
    match cluster {
        None => line(
            "it is in no cluster: `slotwarden cluster request FILE` asks to be invited, `cluster invite` begins one",
        ),
        Some(cluster) => {
            for text in about_roster(cluster) {
                line(&text);
            }
            for ClusterMemberView { name, fingerprint, own, .. } in &cluster.members {
                let here = if *own { "  (this node)" } else { "" };
                line(&format!("  {name}  {fingerprint}{here}"));
            }
        }
    }
}

/// What each member has.
pub fn synchronisation(format: Format, status: &StatusView) {
    if format == Format::Json {
        let synchronised = synchronised(status);
        return super::json(&json!({"schema": SCHEMA, "cluster": status.cluster, "synchronised": synchronised}));
    }
    match &status.cluster {
        None => line("this node is in no cluster"),
        Some(cluster) => lines(cluster).iter().for_each(|text| line(text)),
    }
    for slot in &status.slots {
        for text in of_slot(slot) {
            line(&text);
        }
    }
}

/// What each member has, key by key, of these slots. Those that are called alike stand together, those whose
/// label is not known come last.
pub fn keys(format: Format, status: &StatusView, mut listed: Vec<SlotKeysView>) {
    for slot in &mut listed {
        slot.keys.sort_by_cached_key(|key| {
            let title =
                key.title.clone().map(|KeyTitleView { class, key_type, id, label }| (label, id, class, key_type));
            (title.is_none(), title, key.name.clone())
        });
    }
    if format == Format::Json {
        let synchronised = synchronised(status);
        let (schema, cluster) = (SCHEMA, &status.cluster);
        return super::json(
            &json!({"schema": schema, "cluster": cluster, "synchronised": synchronised, "slots": listed}),
        );
    }
    status.cluster.iter().flat_map(lines).for_each(|text| line(&text));
    for SlotKeysView { slot, keys } in &listed {
        status.slots.iter().filter(|found| found.name == *slot).flat_map(of_slot).for_each(|text| line(&text));
        keys.iter().for_each(|key| line(&format!("  {}", of_key(key))));
    }
}

/// Whether this node exchanges keys, and every other member has what it has.
#[must_use]
pub fn is_in_sync(status: &StatusView) -> bool {
    let others =
        |cluster: &ClusterView| cluster.members.iter().all(|member| member.own || member.standing == "in-sync");
    status.cluster.as_ref().is_none_or(|cluster| cluster.member && !cluster.divided && others(cluster))
}

/// A roster's hash as people compare it.
#[must_use]
pub fn shown(hash: &[u8; 32]) -> String {
    let mut shown = crate::audit::hex(hash);
    shown.truncate(ROSTER_DIGITS);
    shown
}

/// Which roster is in force, and what keeps this node from exchanging keys under it.
fn about_roster(cluster: &ClusterView) -> Vec<String> {
    let ClusterView { epoch, roster, member, members, divided, .. } = cluster;
    let shown = roster.get(..ROSTER_DIGITS).unwrap_or(roster);
    let mut lines = vec![format!("roster {epoch} ({shown}), {} members", members.len())];
    if *divided {
        lines
            .push("  two rosters have this number: nothing is exchanged before `slotwarden cluster choose`".to_owned());
    }
    if !*member {
        lines.push("  this node was removed from it: it exchanges nothing until a member invites it anew".to_owned());
    }
    lines
}

/// What stands in the status.
pub(super) fn lines(cluster: &ClusterView) -> Vec<String> {
    let mut lines = about_roster(cluster);
    lines.iter_mut().take(1).for_each(|first| first.insert_str(0, "cluster: "));
    for ClusterMemberView { name, own, standing, package, .. } in &cluster.members {
        if *own {
            continue;
        }
        let words = match standing.as_str() {
            "in-sync" => "in sync",
            "ahead" => "ahead: it has keys that are not here",
            "behind" => "behind: it lacks keys that are here",
            "diverged" => "diverged: each has keys that the other lacks, or destroyed",
            _ => "nothing was heard of it yet",
        };
        let heard = if *package > 0 { format!("; its package {package} was the last") } else { String::new() };
        lines.push(format!("  {name}: {words}{heard}"));
    }
    if let Some(ExchangeView { engine, reachable, problems }) = &cluster.exchange {
        let reached = match reachable {
            Some(true) => "reached",
            Some(false) => "cannot be reached; it is tried again",
            None => "not tried yet",
        };
        lines.push(format!("  exchange: {engine}, {reached}"));
        lines.extend(problems.iter().map(|problem| format!("  exchange: {problem}")));
    }
    lines
}

/// How far each slot is, by its name.
fn synchronised(status: &StatusView) -> BTreeMap<&str, &SynchronisedView> {
    status.slots.iter().filter_map(|slot| Some((slot.name.as_str(), slot.synchronised.as_ref()?))).collect()
}

/// What keeps keys of a slot from being used on every node. A member without the slot is named and changes nothing else:
/// a slot that one node only has on purpose is in sync ([`is_in_sync`]).
fn of_slot(slot: &SlotView) -> Vec<String> {
    slot.synchronised.as_ref().map_or_else(Vec::new, |sync| of_synchronised(&slot.name, sync))
}

fn of_synchronised(name: &str, sync: &SynchronisedView) -> Vec<String> {
    let nodes = if sync.not_at.is_empty() { "every node" } else { "every node that has this slot" };
    let mut lines = vec![format!("{name}: {} of {} keys are ready to use on {nodes}", sync.ready, sync.keys)];
    if !sync.not_at.is_empty() {
        let have = if sync.not_at.len() == 1 { "has" } else { "have" };
        lines.push(format!("{name}: not at {}, which {have} no slot of this uid", sync.not_at.join(", ")));
    }
    if sync.removed_elsewhere > 0 {
        lines
            .push(format!("{name}: {} keys were destroyed on another node and are still here", sync.removed_elsewhere));
    }
    if sync.can_receive == Some(false) {
        lines.push(format!("{name}: no package can be applied before `slotwarden backup restore-key --slot {name}`"));
    }
    lines
}

/// One key. Its label stands in quotation marks, so that what it says is not taken for what we say.
fn of_key(key: &SynchronisedKeyView) -> String {
    let SynchronisedKeyView { name, title, state, not_known_at, still_at } = key;
    let what = match title {
        Some(KeyTitleView { class, key_type, id, label }) if label.is_empty() => format!("{class} {key_type}, id {id}"),
        Some(KeyTitleView { class, key_type, id, label }) => format!("{class} {key_type} {label:?}, id {id}"),
        None => format!("{name}, whose label is not known here"),
    };
    let is = match state.as_str() {
        "ready-to-use" => "ready to use".to_owned(),
        "not-yet-known" => format!("not yet known at {}", not_known_at.join(", ")),
        _ if still_at.is_empty() => "removed".to_owned(),
        _ => format!("removed; still at {}", still_at.join(", ")),
    };
    format!("{what}: {is}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_without_a_slot_are_named_and_its_keys_are_not_said_to_be_on_every_node() {
        let lines = |not_at: &[&str]| {
            let not_at = not_at.iter().map(|name| (*name).to_owned()).collect();
            let sync = SynchronisedView { keys: 2, ready: 2, removed_elsewhere: 0, can_receive: Some(true), not_at };
            of_synchronised("issuing", &sync)
        };
        assert_eq!(lines(&[]), ["issuing: 2 of 2 keys are ready to use on every node"]);
        let first = "issuing: 2 of 2 keys are ready to use on every node that has this slot";
        assert_eq!(lines(&["node-2"]), [first, "issuing: not at node-2, which has no slot of this uid"]);
        let several = "issuing: not at node-2, node-3, which have no slot of this uid";
        assert_eq!(lines(&["node-2", "node-3"]), [first, several]);
    }

    #[test]
    fn a_label_cannot_say_what_only_we_say() {
        let title = |label: &str| KeyTitleView {
            class: "private".to_owned(),
            key_type: "EC".to_owned(),
            id: "01".to_owned(),
            label: label.to_owned(),
        };
        let key = |title: Option<KeyTitleView>, state: &str, not_known_at: &[&str], still_at: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            of_key(&SynchronisedKeyView {
                name: "abcd".to_owned(),
                title,
                state: state.to_owned(),
                not_known_at: owned(not_known_at),
                still_at: owned(still_at),
            })
        };
        assert_eq!(
            key(Some(title("x\", id 01: ready to use")), "not-yet-known", &["node-1", "node-2"], &[]),
            "private EC \"x\\\", id 01: ready to use\", id 01: not yet known at node-1, node-2"
        );
        assert_eq!(key(Some(title("first")), "ready-to-use", &[], &[]), "private EC \"first\", id 01: ready to use");
        assert_eq!(key(Some(title("")), "removed", &[], &["node-1"]), "private EC, id 01: removed; still at node-1");
        assert_eq!(key(None, "removed", &[], &[]), "abcd, whose label is not known here: removed");
    }
}
