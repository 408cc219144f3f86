//! What happens next: events in order of time, and of their making where times are equal.

use crate::Time;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

struct Item<E> {
    at: (Time, u64),
    event: E,
}

impl<E> PartialEq for Item<E> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl<E> Eq for Item<E> {}

impl<E> PartialOrd for Item<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Item<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

pub struct Queue<E> {
    items: BinaryHeap<Reverse<Item<E>>>,
    made: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { items: BinaryHeap::new(), made: 0 }
    }
}

impl<E> Queue<E> {
    pub fn push(&mut self, at: Time, event: E) {
        self.made += 1;
        self.items.push(Reverse(Item { at: (at, self.made), event }));
    }

    pub fn next_at(&self) -> Option<Time> {
        self.items.peek().map(|Reverse(item)| item.at.0)
    }

    pub fn pop(&mut self) -> Option<(Time, E)> {
        self.items.pop().map(|Reverse(item)| (item.at.0, item.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_and_then_of_their_making() {
        let mut queue = Queue::default();
        for (at, event) in [(5, 'c'), (3, 'a'), (5, 'd'), (4, 'b')] {
            queue.push(at, event);
        }
        assert_eq!(queue.next_at(), Some(3));
        let order: String = std::iter::from_fn(|| queue.pop()).map(|(_, event)| event).collect();
        assert_eq!(order, "abcd");
    }
}
