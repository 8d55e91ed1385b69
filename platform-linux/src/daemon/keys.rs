//! The keys of a slot as `sync status --keys` lists them: what the ledgers know, with names instead of numbers.
//!
//! It is as far as the last look at the token, and the last package of each member, say it. The answer comes in pages; each
//! is read from the ledgers anew, so a list of any length costs the loop one page at a time.

use std::collections::BTreeMap;

use slotwarden_core::fault::Refusal;
use slotwarden_core::ledger::KeyName;
use tracing::warn;

use super::Loop;
use crate::audit::hex;
use crate::devices::{Applications, Hsm, Store};
use crate::export_file::{class_word, key_type_word};
use crate::problem::Problem;
use crate::status_json::{KeyTitleView, SynchronisedKeyView};
use crate::sync_dir::{LedgerKey, LedgerKeys, Node, Readiness};
use crate::transfer_dir::{self, Title, printable};
use crate::wire::{KEYS_PAGE, KeysPage};

impl<H: Hsm, S: Store, A: Applications> Loop<'_, H, S, A> {
    /// A page of the keys of a slot, from the first one behind `after` on.
    ///
    /// # Errors
    /// [`Refusal::NoCluster`]; as [`crate::names::Names::slot`]; [`Refusal::StoreUnreadable`] with the ledger that is damaged.
    pub(super) fn keys_page(&self, slot: &str, after: Option<[u8; 16]>) -> Result<KeysPage, Problem> {
        let roster = self.service.roster().ok_or(Refusal::NoCluster)?;
        let slot = self.names.slot(slot)?;
        let uid = self.uid(slot).ok_or(Refusal::UnknownSlot)?;
        let (own, others) = (self.devices.store.node_keys().current, self.others(roster));
        let LedgerKeys { keys, more } = self
            .cluster
            .files
            .ledgers()
            .keys(uid, (own, &others), after.map(KeyName), KEYS_PAGE)
            .map_err(|error| Problem::from(Refusal::StoreUnreadable).with(error.to_string()))?;
        let listed = |name| keys.binary_search_by_key(&name, |key| key.name).is_ok();
        let titles = transfer_dir::read_titles(&self.cluster.setup.transfer_dir, uid, listed);
        let titles = titles.unwrap_or_else(|error| {
            // What the keys are is known all the same; the next look at the token makes it good.
            warn!(slot = self.names.slot_name(slot), "what its keys are called is not known: {error}");
            BTreeMap::new()
        });
        let members: BTreeMap<Node, String> =
            others.iter().chain([&own]).map(|node| (*node, self.member_name(node))).collect();
        Ok(KeysPage {
            slot: self.names.slot_name(slot),
            next: keys.last().filter(|_| more).map(|key| key.name.0),
            keys: keys.into_iter().map(|key| key_view(&key, titles.get(&key.name), &members)).collect(),
        })
    }
}

fn key_view(key: &LedgerKey, title: Option<&Title>, members: &BTreeMap<Node, String>) -> SynchronisedKeyView {
    // By name, as people look for them; by key they would stand in an order of their own in each cluster.
    let named = |nodes: &[Node]| -> Vec<String> {
        let mut names: Vec<String> = nodes.iter().filter_map(|node| members.get(node).cloned()).collect();
        names.sort();
        names
    };
    let (state, not_known_at, still_at) = match &key.readiness {
        Readiness::Ready => ("ready-to-use", Vec::new(), Vec::new()),
        Readiness::NotYetKnown { at } => ("not-yet-known", named(at), Vec::new()),
        Readiness::Removed { still_at } => ("removed", Vec::new(), named(still_at)),
    };
    SynchronisedKeyView {
        name: hex(&key.name.0),
        title: title.map(title_view),
        state: state.to_owned(),
        not_known_at,
        still_at,
    }
}

fn title_view(title: &Title) -> KeyTitleView {
    let Title { class, key_type, id, label } = title;
    KeyTitleView {
        class: class_word(*class).to_owned(),
        key_type: key_type_word(*key_type),
        id: hex(id),
        // A token, and whoever made a package, may call a key anything; it goes to terminals.
        label: printable(&String::from_utf8_lossy(label)),
    }
}

#[cfg(test)]
mod tests {
    use slotwarden_core::export::Class;
    use slotwarden_core::join::NAME_CHARS_MAX;
    use slotwarden_core::limits::MEMBERS_MAX;

    use super::*;
    use crate::frame::{self, Kind};
    use crate::transfer_dir::TITLE_PART_BYTES_MAX;
    use crate::wire::Answered;

    const NODES: [Node; 3] = [[0; 32], [1; 32], [2; 32]];

    fn members() -> BTreeMap<Node, String> {
        NODES.iter().enumerate().map(|(number, node)| (*node, format!("node-{number}"))).collect()
    }

    fn of(readiness: Readiness) -> LedgerKey {
        LedgerKey { name: KeyName([0xAB; 16]), readiness }
    }

    #[test]
    fn a_label_that_a_terminal_would_obey_is_made_printable_and_what_is_no_text_is_shown_as_such() {
        let title =
            |label: &[u8]| Title { class: Class::Private, key_type: 0, id: vec![0, 0x1B], label: label.to_vec() };
        assert_eq!(title_view(&title(b"\x1b[2Jroot\n")).label, " [2Jroot ");
        assert_eq!(title_view(&title(b"\xFF")).label, "\u{FFFD}");
        assert_eq!(
            title_view(&title(b"")),
            KeyTitleView {
                class: "private".to_owned(),
                key_type: "RSA".to_owned(),
                id: "001b".to_owned(),
                label: String::new(),
            }
        );
    }

    #[test]
    fn the_longest_page_fits_one_answer() {
        let node = |number: usize| [u8::try_from(number).expect("few"); 32];
        // A member without a name in the roster is called by its key.
        let name_chars = NAME_CHARS_MAX.max(size_of::<Node>() * 2);
        let members: BTreeMap<Node, String> =
            (0..MEMBERS_MAX).map(|number| (node(number), "n".repeat(name_chars))).collect();
        let long = vec![0xFF; TITLE_PART_BYTES_MAX];
        let title = Title { class: Class::Certificate, key_type: u64::MAX - 1, id: long.clone(), label: long };
        let key = of(Readiness::NotYetKnown { at: members.keys().copied().collect() });
        let keys = vec![key_view(&key, Some(&title), &members); KEYS_PAGE];
        // A slot's name is at most 64 characters.
        let page = KeysPage { slot: "s".repeat(256), keys, next: Some([0xFF; 16]) };
        frame::send(&mut Vec::new(), Kind::Answer, &Answered::Keys(page)).expect("it fits");
    }

    #[test]
    fn the_json_of_a_key_has_the_shape_that_others_script_against() {
        let title = Title { class: Class::Public, key_type: 3, id: vec![1], label: b"first".to_vec() };
        let json = |readiness, title| {
            serde_json::to_value(key_view(&of(readiness), title, &members())).expect("strings and lists")
        };
        let name = "ab".repeat(16);
        assert_eq!(
            json(Readiness::Ready, Some(&title)),
            serde_json::json!({
                "name": name,
                "title": {"class": "public", "key_type": "EC", "id": "01", "label": "first"},
                "state": "ready-to-use",
                "not_known_at": [],
                "still_at": [],
            })
        );
        let at = vec![NODES[2], NODES[1]];
        assert_eq!(
            json(Readiness::NotYetKnown { at }, None),
            serde_json::json!({
                "name": name,
                "title": null,
                "state": "not-yet-known",
                "not_known_at": ["node-1", "node-2"],
                "still_at": [],
            })
        );
        assert_eq!(
            json(Readiness::Removed { still_at: vec![NODES[2]] }, None),
            serde_json::json!({"name": name, "title": null, "state": "removed", "not_known_at": [], "still_at": ["node-2"]})
        );
    }
}
