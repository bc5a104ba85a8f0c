//! The subscriptions of one session, in the order of their filters. Most sessions have one or two, and there are many sessions:
//! a list of exactly that size takes a tenth of a tree's first node.

use super::sessions::Subscription;
use crate::mqtt::topic::TopicFilter;

/// Subscriptions by filter. At most `max_subscriptions` of them, which the caller sees to: an insert in the middle moves those behind it.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    sorted: Vec<(TopicFilter, Subscription)>,
}

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        self.sorted.len()
    }

    pub(super) fn get(&self, filter: &TopicFilter) -> Option<&Subscription> {
        self.find(filter).ok().map(|at| &self.sorted[at].1)
    }

    /// Gives what was there before.
    pub(super) fn insert(&mut self, filter: TopicFilter, subscription: Subscription) -> Option<Subscription> {
        match self.find(&filter) {
            Ok(at) => Some(std::mem::replace(&mut self.sorted[at].1, subscription)),
            Err(at) => {
                if self.sorted.is_empty() {
                    self.sorted.reserve_exact(1);
                }
                self.sorted.insert(at, (filter, subscription));
                None
            }
        }
    }

    pub(super) fn remove(&mut self, filter: &TopicFilter) -> Option<Subscription> {
        let removed = self.sorted.remove(self.find(filter).ok()?).1;
        if self.sorted.len() * 4 < self.sorted.capacity() {
            self.sorted.shrink_to(self.sorted.len() * 2);
        }
        Some(removed)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&TopicFilter, &Subscription)> {
        self.sorted.iter().map(|(filter, subscription)| (filter, subscription))
    }

    pub(super) fn filters(&self) -> impl Iterator<Item = &TopicFilter> {
        self.sorted.iter().map(|(filter, _)| filter)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Subscription> {
        self.sorted.iter_mut().map(|(_, subscription)| subscription)
    }

    fn find(&self, filter: &TopicFilter) -> Result<usize, usize> {
        self.sorted.binary_search_by(|(other, _)| other.cmp(filter))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::mqtt::packet::SubscriptionOptions;

    fn filter(n: u8) -> TopicFilter {
        format!("level/{n}").parse().expect("a proper filter")
    }

    proptest! {
        #[test]
        fn it_holds_what_a_tree_would_hold(steps in proptest::collection::vec((any::<bool>(), 0u8..12), 0..80)) {
            let mut list = Subscriptions::default();
            let mut tree = BTreeMap::new();
            for (id, (insert, n)) in (1u32..).zip(steps) {
                let subscription =
                    Subscription { options: SubscriptionOptions::default(), id: Some(id), since: None };
                if insert {
                    let before = list.insert(filter(n), subscription).and_then(|s| s.id);
                    prop_assert_eq!(before, tree.insert(filter(n), id));
                } else {
                    prop_assert_eq!(list.remove(&filter(n)).and_then(|s| s.id), tree.remove(&filter(n)));
                }
                prop_assert_eq!(list.get(&filter(n)).and_then(|s| s.id), tree.get(&filter(n)).copied());
            }
            prop_assert_eq!(list.len(), tree.len());
            let held: Vec<_> = list.iter().map(|(f, s)| (f.clone(), s.id.unwrap_or(0))).collect();
            prop_assert_eq!(held, tree.into_iter().collect::<Vec<_>>());
        }
    }
}
