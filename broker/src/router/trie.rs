//! The subscription trie: who gets a message to a topic.
//!
//! One node per level of a filter. Level texts are stored once and numbered, all edges of the trie lie in one hash table
//! from (node, level number) to node, and `+` and `#` are fields of a node. So a match hashes each level of the topic
//! once, costs one lookup per node it reaches, and allocates nothing. It reaches two nodes per level at most while
//! filters have `+` in different places; the most that hostile filters can make of it is every node of the trie once.
//!
//! Memory: about 48 bytes per node, 20 per edge and 60 per distinct level text, which is about 200 bytes for a
//! subscription to `device/NUMBER/command`. Bounded by what the caller inserts; it counts subscriptions.

use std::collections::HashMap;

use crate::mqtt::topic::{MAX_LEVELS, TopicFilter, TopicName};

/// Subscriptions by filter: for each filter, values by subscriber. `K` and `V` are small; up to 16 bytes together are
/// kept within the node when it has one subscriber.
#[derive(Clone, Debug)]
pub struct SubscriptionTrie<K, V> {
    /// The root is the first; slots in `free` are not in use.
    nodes: Vec<Node<K, V>>,
    free: Vec<NodeId>,
    edges: HashMap<(NodeId, LevelId), NodeId>,
    levels: Levels,
    len: usize,
}

/// Index into `nodes`. No edge leads to the root, so 0 stands for "none" where a node is pointed to.
type NodeId = u32;

const ROOT: NodeId = 0;
const NONE: NodeId = 0;

#[derive(Clone, Debug)]
struct Node<K, V> {
    parent: NodeId,
    plus: NodeId,
    hash: NodeId,
    /// Edges to literal levels.
    children: u32,
    subscribers: Subscribers<K, V>,
}

impl<K, V> Node<K, V> {
    fn below(parent: NodeId) -> Node<K, V> {
        Node { parent, plus: NONE, hash: NONE, children: 0, subscribers: Subscribers::None }
    }

    fn is_unused(&self) -> bool {
        self.plus == NONE && self.hash == NONE && self.children == 0 && matches!(self.subscribers, Subscribers::None)
    }
}

impl<K: Copy + Ord, V> Default for SubscriptionTrie<K, V> {
    fn default() -> Self {
        SubscriptionTrie {
            nodes: vec![Node::below(NONE)],
            free: Vec::new(),
            edges: HashMap::new(),
            levels: Levels::default(),
            len: 0,
        }
    }
}

impl<K: Copy + Ord, V> SubscriptionTrie<K, V> {
    /// An empty trie.
    #[must_use]
    pub fn new() -> Self {
        SubscriptionTrie::default()
    }

    /// Subscriptions held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Holds no subscription.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Subscribes `key` to `filter`; gives the value it had there before. A share name is not looked at.
    pub fn insert(&mut self, filter: &TopicFilter, key: K, value: V) -> Option<V> {
        let mut at = ROOT;
        for level in filter.levels() {
            at = match self.child(at, level) {
                NONE => self.grow(at, level),
                child => child,
            };
        }
        let old = self.node_mut(at).subscribers.insert(key, value);
        self.len += usize::from(old.is_none());
        old
    }

    /// Ends the subscription of `key` to `filter`; gives its value if there was one.
    pub fn remove(&mut self, filter: &TopicFilter, key: K) -> Option<V> {
        let mut at = self.find(filter)?;
        let value = self.node_mut(at).subscribers.remove(key)?;
        self.len -= 1;
        for level in filter.levels().rev() {
            if !self.node(at).is_unused() {
                break;
            }
            at = self.prune(at, level);
        }
        Some(value)
    }

    /// The value of `key` at `filter`.
    #[must_use]
    pub fn get(&self, filter: &TopicFilter, key: K) -> Option<&V> {
        self.node(self.find(filter)?).subscribers.get(key)
    }

    /// Visits every subscription whose filter matches `topic`; a subscriber with several such filters is visited for
    /// each [MQTT-3.3.5-1]. The order is unspecified.
    pub fn matches(&self, topic: &TopicName, visit: &mut impl FnMut(K, &V)) {
        let mut path = [LevelId::UNKNOWN; MAX_LEVELS];
        let mut depth = 0;
        for (slot, level) in path.iter_mut().zip(topic.levels()) {
            *slot = self.levels.find(level);
            depth += 1;
        }
        self.walk(ROOT, &path[..depth], topic.is_dollar(), visit);
    }

    /// Visits what matches `path` below `at`. As deep as the topic has levels, [`MAX_LEVELS`] at most. A wildcard does
    /// not see a first level that begins with `$` [MQTT-4.7.2-1]: then it is `hidden`.
    fn walk(&self, at: NodeId, path: &[LevelId], hidden: bool, visit: &mut impl FnMut(K, &V)) {
        let node = self.node(at);
        if node.hash != NONE && !hidden {
            self.node(node.hash).subscribers.visit(visit);
        }
        let Some((level, rest)) = path.split_first() else {
            node.subscribers.visit(visit);
            return;
        };
        if node.children > 0
            && *level != LevelId::UNKNOWN
            && let Some(child) = self.edges.get(&(at, *level))
        {
            self.walk(*child, rest, false, visit);
        }
        if node.plus != NONE && !hidden {
            self.walk(node.plus, rest, false, visit);
        }
    }

    fn node(&self, id: NodeId) -> &Node<K, V> {
        &self.nodes[id as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node<K, V> {
        &mut self.nodes[id as usize]
    }

    fn find(&self, filter: &TopicFilter) -> Option<NodeId> {
        let mut at = ROOT;
        for level in filter.levels() {
            at = self.child(at, level);
            if at == NONE {
                return None;
            }
        }
        Some(at)
    }

    fn child(&self, at: NodeId, level: &[u8]) -> NodeId {
        match level {
            b"+" => self.node(at).plus,
            b"#" => self.node(at).hash,
            text => self.edges.get(&(at, self.levels.find(text))).copied().unwrap_or(NONE),
        }
    }

    /// Makes the node that `level` leads to from `at`.
    fn grow(&mut self, at: NodeId, level: &[u8]) -> NodeId {
        let child = match self.free.pop() {
            Some(id) => {
                *self.node_mut(id) = Node::below(at);
                id
            }
            None => {
                self.nodes.push(Node::below(at));
                NodeId::try_from(self.nodes.len() - 1).expect("2^32 nodes would take 200 GB")
            }
        };
        match level {
            b"+" => self.node_mut(at).plus = child,
            b"#" => self.node_mut(at).hash = child,
            text => {
                let level = self.levels.take(text);
                self.edges.insert((at, level), child);
                self.node_mut(at).children += 1;
            }
        }
        child
    }

    /// Removes the node `child`, which `level` leads to; gives its parent.
    fn prune(&mut self, child: NodeId, level: &[u8]) -> NodeId {
        let parent = self.node(child).parent;
        match level {
            b"+" => self.node_mut(parent).plus = NONE,
            b"#" => self.node_mut(parent).hash = NONE,
            text => {
                self.edges.remove(&(parent, self.levels.find(text)));
                self.levels.release(text);
                self.node_mut(parent).children -= 1;
            }
        }
        self.free.push(child);
        parent
    }
}

/// The subscribers of one node, by key. Nearly all nodes have none or one.
#[derive(Clone, Debug)]
enum Subscribers<K, V> {
    None,
    One(K, V),
    /// Two or more, in order of key. Keys usually come in rising order, so that an insert is a push.
    ///
    /// Boxed: there is a node for nearly every subscription, and the list of few would make all of them larger.
    #[allow(clippy::box_collection)]
    Many(Box<Vec<(K, V)>>),
}

impl<K: Copy + Ord, V> Subscribers<K, V> {
    fn visit(&self, visit: &mut impl FnMut(K, &V)) {
        match self {
            Subscribers::None => {}
            Subscribers::One(key, value) => visit(*key, value),
            Subscribers::Many(list) => list.iter().for_each(|(key, value)| visit(*key, value)),
        }
    }

    fn get(&self, key: K) -> Option<&V> {
        match self {
            Subscribers::One(only, value) if *only == key => Some(value),
            Subscribers::Many(list) => {
                list.binary_search_by_key(&key, |(key, _)| *key).ok().map(|index| &list[index].1)
            }
            Subscribers::None | Subscribers::One(..) => None,
        }
    }

    fn insert(&mut self, key: K, value: V) -> Option<V> {
        match std::mem::replace(self, Subscribers::None) {
            Subscribers::None => {
                *self = Subscribers::One(key, value);
                None
            }
            Subscribers::One(only, old) if only == key => {
                *self = Subscribers::One(key, value);
                Some(old)
            }
            Subscribers::One(only, old) => {
                let pair = if only < key { [(only, old), (key, value)] } else { [(key, value), (only, old)] };
                *self = Subscribers::Many(Box::new(Vec::from(pair)));
                None
            }
            Subscribers::Many(mut list) => {
                let old = match list.binary_search_by_key(&key, |(key, _)| *key) {
                    Ok(index) => Some(std::mem::replace(&mut list[index].1, value)),
                    Err(index) => {
                        list.insert(index, (key, value));
                        None
                    }
                };
                *self = Subscribers::Many(list);
                old
            }
        }
    }

    fn remove(&mut self, key: K) -> Option<V> {
        match std::mem::replace(self, Subscribers::None) {
            Subscribers::One(only, value) if only == key => Some(value),
            Subscribers::Many(mut list) => {
                let found = list.binary_search_by_key(&key, |(key, _)| *key).ok();
                let removed = found.map(|index| list.remove(index).1);
                *self = match list.pop() {
                    Some((key, value)) if list.is_empty() => Subscribers::One(key, value),
                    Some(last) => {
                        list.push(last);
                        if list.len() * 4 < list.capacity() {
                            list.shrink_to(list.len() * 2);
                        }
                        Subscribers::Many(list)
                    }
                    None => Subscribers::None,
                };
                removed
            }
            other => {
                *self = other;
                None
            }
        }
    }
}

/// Number of a level text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct LevelId(u32);

impl LevelId {
    /// Of a text that no filter has.
    const UNKNOWN: LevelId = LevelId(u32::MAX);
}

/// Level texts, numbered while a filter uses them. Keyed by a random hash: the texts come from clients.
#[derive(Clone, Debug, Default)]
struct Levels {
    by_text: HashMap<Box<[u8]>, Level>,
    free: Vec<LevelId>,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    id: LevelId,
    edges: u32,
}

impl Levels {
    fn find(&self, text: &[u8]) -> LevelId {
        self.by_text.get(text).map_or(LevelId::UNKNOWN, |level| level.id)
    }

    /// Counts one more edge with `text`.
    fn take(&mut self, text: &[u8]) -> LevelId {
        if let Some(level) = self.by_text.get_mut(text) {
            level.edges += 1;
            return level.id;
        }
        // Numbers given are the texts held, and those free.
        let id = self
            .free
            .pop()
            .unwrap_or_else(|| LevelId(u32::try_from(self.by_text.len()).expect("2^32 level texts would take 200 GB")));
        self.by_text.insert(text.into(), Level { id, edges: 1 });
        id
    }

    /// Counts one edge less with `text`.
    fn release(&mut self, text: &[u8]) {
        let Some(level) = self.by_text.get_mut(text) else { return };
        level.edges -= 1;
        if level.edges == 0 {
            self.free.push(level.id);
            self.by_text.remove(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    fn filter(text: &str) -> TopicFilter {
        text.parse().expect(text)
    }

    fn matching(trie: &SubscriptionTrie<u32, u8>, topic: &str) -> Vec<(u32, u8)> {
        let mut found = Vec::new();
        trie.matches(&topic.parse().expect(topic), &mut |key, value| found.push((key, *value)));
        found.sort_unstable();
        found
    }

    #[test]
    fn exact_plus_and_hash_are_found() {
        let mut trie = SubscriptionTrie::new();
        for (key, text) in ["a/b", "a/+", "a/#", "#", "+/b", "+", "a/b/#", "a/b/c"].into_iter().enumerate() {
            assert_eq!(trie.insert(&filter(text), u32::try_from(key).expect("few"), 0), None);
        }
        let keys = |topic| matching(&trie, topic).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys("a/b"), [0, 1, 2, 3, 4, 6]);
        assert_eq!(keys("a"), [2, 3, 5]);
        assert_eq!(keys("a/b/c"), [2, 3, 6, 7]);
        assert_eq!(keys("a/"), [1, 2, 3]);
        assert_eq!(keys("x/b"), [3, 4]);
        assert_eq!(keys("/"), [3]);
    }

    /// [MQTT-4.7.2-1]
    #[test]
    fn leading_wildcards_do_not_see_dollar_topics() {
        let mut trie = SubscriptionTrie::new();
        for (key, text) in ["#", "+/a", "$SYS/#", "$SYS/+", "$SYS/a"].into_iter().enumerate() {
            trie.insert(&filter(text), u32::try_from(key).expect("few"), 0);
        }
        assert_eq!(matching(&trie, "$SYS/a"), [(2, 0), (3, 0), (4, 0)]);
        assert_eq!(matching(&trie, "$SYS"), [(2, 0)]);
    }

    /// [MQTT-3.3.5-1] Overlapping subscriptions of one subscriber: the caller hears of each.
    #[test]
    fn overlapping_subscriptions_are_each_visited() {
        let mut trie = SubscriptionTrie::new();
        trie.insert(&filter("a/#"), 1, 1);
        trie.insert(&filter("a/+"), 1, 2);
        trie.insert(&filter("a/b"), 1, 3);
        assert_eq!(matching(&trie, "a/b"), [(1, 1), (1, 2), (1, 3)]);
    }

    #[test]
    fn a_trie_that_was_emptied_holds_nothing() {
        let mut trie = SubscriptionTrie::new();
        let texts = ["a/b/c", "a/+/c", "a/#", "#", "+", "a", "a//", "$SYS/x"];
        for round in 0..3 {
            for text in texts {
                for key in 0..3_u32 {
                    assert_eq!(trie.insert(&filter(text), key, round), None);
                }
            }
            for text in texts {
                for key in [1, 0, 2] {
                    assert_eq!(trie.remove(&filter(text), key), Some(round));
                    assert_eq!(trie.remove(&filter(text), key), None);
                }
            }
            assert!(trie.is_empty() && trie.edges.is_empty() && trie.levels.by_text.is_empty());
            assert_eq!(trie.nodes.len(), trie.free.len() + 1);
            assert!(trie.node(ROOT).is_unused());
        }
        // Slots are used again: three rounds needed no more than one.
        assert_eq!(trie.nodes.len(), 1 + 12);
    }

    #[test]
    fn the_deepest_filters_and_topics_are_found() {
        let deep = vec!["+"; MAX_LEVELS].join("/");
        let topic = vec!["a"; MAX_LEVELS].join("/");
        let mut trie = SubscriptionTrie::new();
        trie.insert(&filter(&deep), 1, 0);
        trie.insert(&filter(&topic), 2, 0);
        assert_eq!(matching(&trie, &topic), [(1, 0), (2, 0)]);
    }

    #[test]
    fn a_node_is_small() {
        assert!(std::mem::size_of::<Node<u32, [u32; 2]>>() <= 48);
    }

    fn filters() -> impl Strategy<Value = TopicFilter> {
        prop::collection::vec(prop::sample::select(vec!["", "a", "b", "$a", "+", "#"]), 1..5)
            .prop_filter_map("not a filter", |levels| levels.join("/").parse().ok())
    }

    fn topics() -> impl Strategy<Value = TopicName> {
        prop::collection::vec(prop::sample::select(vec!["", "a", "b", "c", "$a"]), 1..5)
            .prop_filter_map("not a topic", |levels| levels.join("/").parse().ok())
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(TopicFilter, u32, u8),
        Remove(TopicFilter, u32),
        RemoveNth(prop::sample::Index),
        Match(TopicName),
    }

    fn steps() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (filters(), 0..4_u32, any::<u8>()).prop_map(|(filter, key, value)| Step::Insert(filter, key, value)),
            1 => (filters(), 0..4_u32).prop_map(|(filter, key)| Step::Remove(filter, key)),
            2 => any::<prop::sample::Index>().prop_map(Step::RemoveNth),
            3 => topics().prop_map(Step::Match),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Against a plain map whose every filter is asked.
        #[test]
        fn the_trie_agrees_with_asking_every_filter(steps in prop::collection::vec(steps(), 1..60)) {
            let mut trie = SubscriptionTrie::new();
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Insert(filter, key, value) => {
                        prop_assert_eq!(trie.insert(&filter, key, value), model.insert((filter, key), value));
                    }
                    Step::Remove(filter, key) => {
                        prop_assert_eq!(trie.get(&filter, key), model.get(&(filter.clone(), key)));
                        prop_assert_eq!(trie.remove(&filter, key), model.remove(&(filter, key)));
                    }
                    Step::RemoveNth(index) if !model.is_empty() => {
                        let nth = index.index(model.len());
                        let (filter, key) = model.keys().nth(nth).cloned().expect("within");
                        prop_assert_eq!(trie.remove(&filter, key), model.remove(&(filter, key)));
                    }
                    Step::RemoveNth(_) => {}
                    Step::Match(topic) => {
                        let mut expected: Vec<(u32, u8)> = model
                            .iter()
                            .filter(|((filter, _), _)| filter.matches(&topic))
                            .map(|((_, key), value)| (*key, *value))
                            .collect();
                        expected.sort_unstable();
                        prop_assert_eq!(matching(&trie, topic.as_str()), expected);
                    }
                }
                prop_assert_eq!(trie.len(), model.len());
            }
        }
    }
}
