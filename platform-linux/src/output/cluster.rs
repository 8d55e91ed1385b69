//! The cluster and its synchronisation, for people.

use serde_json::json;

use super::{Format, line};
use crate::status_json::{ClusterMemberView, ClusterView, ExchangeView, SCHEMA, StatusView};

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
            line(&format!("roster {}, {} members", cluster.epoch, cluster.members.len()));
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
        return super::json(&json!({"schema": SCHEMA, "cluster": status.cluster}));
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

/// Whether every other member has what this node has.
#[must_use]
pub fn is_in_sync(status: &StatusView) -> bool {
    let others =
        |cluster: &ClusterView| cluster.members.iter().all(|member| member.own || member.standing == "in-sync");
    status.cluster.as_ref().is_none_or(others)
}

/// What stands in the status.
pub(super) fn lines(cluster: &ClusterView) -> Vec<String> {
    let mut lines = vec![format!("cluster: roster {}, {} members", cluster.epoch, cluster.members.len())];
    if cluster.divided {
        lines
            .push("  two rosters have this number: nothing is exchanged before `slotwarden cluster choose`".to_owned());
    }
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

/// What keeps keys of a slot from being used on every node.
fn of_slot(slot: &crate::status_json::SlotView) -> Vec<String> {
    let Some(sync) = &slot.synchronised else { return Vec::new() };
    let name = &slot.name;
    let mut lines = vec![format!("{name}: {} of {} keys are ready to use on every node", sync.ready, sync.keys)];
    if sync.removed_elsewhere > 0 {
        lines
            .push(format!("{name}: {} keys were destroyed on another node and are still here", sync.removed_elsewhere));
    }
    if sync.can_receive == Some(false) {
        lines.push(format!("{name}: no package can be applied before `slotwarden backup restore-key --slot {name}`"));
    }
    lines
}
