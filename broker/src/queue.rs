//! A queue that takes 8 bytes while it is empty and at rest: there are several in every connection, and most connections are idle.

use std::collections::VecDeque;

/// First in, first out. Whoever fills it sees to its bound.
#[derive(Clone, Debug)]
#[allow(clippy::box_collection)] // It is what this is for.
pub(crate) struct Queue<T>(Option<Box<VecDeque<T>>>);

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue(None)
    }
}

impl<T> Queue<T> {
    pub(crate) fn push_back(&mut self, item: T) {
        self.0.get_or_insert_default().push_back(item);
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        self.0.as_mut()?.pop_front()
    }

    pub(crate) fn front(&self) -> Option<&T> {
        self.0.as_ref()?.front()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.0.as_ref()?.get(index)
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.0.as_mut()?.get_mut(index)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |items| items.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(|items| items.iter())
    }

    /// Items that it has room for without growing.
    pub(crate) fn capacity(&self) -> usize {
        self.0.as_ref().map_or(0, |items| items.capacity())
    }

    /// Holds memory for items that are not there.
    pub(crate) fn holds_room(&self) -> bool {
        self.0.as_ref().is_some_and(|items| items.capacity() > items.len())
    }

    /// Gives back the memory of items that are not there.
    pub(crate) fn rest(&mut self) {
        if self.is_empty() {
            self.0 = None;
        } else if let Some(items) = &mut self.0 {
            items.shrink_to_fit();
        }
    }

    /// Everything, and nothing stays.
    pub(crate) fn take(&mut self) -> VecDeque<T> {
        self.0.take().map_or_else(VecDeque::new, |items| *items)
    }
}

impl<T> FromIterator<T> for Queue<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let items = VecDeque::from_iter(items);
        Queue((!items.is_empty()).then(|| Box::new(items)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_order_and_holds_nothing_at_rest() {
        let mut queue = Queue::from_iter(0..3);
        queue.push_back(3);
        assert_eq!((queue.pop_front(), queue.front(), queue.len()), (Some(0), Some(&1), 3));
        queue.rest();
        assert_eq!(queue.iter().copied().collect::<Vec<_>>(), [1, 2, 3]);
        assert!(!queue.holds_room());
        assert_eq!(queue.take(), [1, 2, 3]);
        queue.push_back(4);
        assert_eq!((queue.pop_front(), queue.pop_front()), (Some(4), None));
        assert!(queue.holds_room());
        queue.rest();
        assert_eq!((queue.capacity(), queue.is_empty()), (0, true));
        assert_eq!(size_of::<Queue<u64>>(), size_of::<usize>());
    }
}
