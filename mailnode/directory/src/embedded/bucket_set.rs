//! Sets of buckets, and the marks that say when a set of them was level.

use cluster::{Bucket, Epoch, NodeId};
use serde::{Deserialize, Serialize};

/// A set of buckets, as bits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketSet(Vec<u64>);

impl BucketSet {
    pub fn insert(&mut self, bucket: Bucket) {
        if usize::from(bucket.0) >= Bucket::COUNT {
            return;
        }
        self.0.resize(Bucket::COUNT / 64, 0);
        if let Some(word) = self.0.get_mut(usize::from(bucket.0) / 64) {
            *word |= 1 << (bucket.0 % 64);
        }
    }

    pub fn remove(&mut self, bucket: Bucket) {
        if let Some(word) = self.0.get_mut(usize::from(bucket.0) / 64) {
            *word &= !(1 << (bucket.0 % 64));
        }
    }

    pub fn contains(&self, bucket: Bucket) -> bool {
        self.0.get(usize::from(bucket.0) / 64).is_some_and(|word| word & (1 << (bucket.0 % 64)) != 0)
    }

    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl FromIterator<Bucket> for BucketSet {
    fn from_iter<I: IntoIterator<Item = Bucket>>(buckets: I) -> Self {
        let mut set = Self::default();
        buckets.into_iter().for_each(|bucket| set.insert(bucket));
        set
    }
}

/// In this epoch these buckets were level: the replicas that `active` gives for each had all its records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub epoch: Epoch,
    pub active: Vec<NodeId>,
    pub buckets: BucketSet,
}

/// Notes that buckets are level; earlier marks lose them. At most one mark an epoch is kept, and only while it
/// has buckets, so there are few.
pub fn put_mark(marks: &mut Vec<Mark>, epoch: Epoch, active: &[NodeId], buckets: &[Bucket]) {
    for mark in marks.iter_mut().filter(|mark| mark.epoch < epoch) {
        buckets.iter().for_each(|&bucket| mark.buckets.remove(bucket));
    }
    match marks.iter_mut().find(|mark| mark.epoch == epoch) {
        Some(mark) => buckets.iter().for_each(|&bucket| mark.buckets.insert(bucket)),
        None => {
            marks.push(Mark { epoch, active: active.to_vec(), buckets: buckets.iter().copied().collect() })
        }
    }
    marks.retain(|mark| !mark.buckets.is_empty());
}

/// The latest mark of a bucket.
pub fn latest(marks: &[Mark], bucket: Bucket) -> Option<&Mark> {
    marks.iter().filter(|mark| mark.buckets.contains(bucket)).max_by_key(|mark| mark.epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_one_mark_and_it_is_the_latest() {
        let mut marks = Vec::new();
        let all: Vec<Bucket> = Bucket::all().collect();
        put_mark(&mut marks, Epoch(1), &[NodeId(1)], &all);
        put_mark(&mut marks, Epoch(3), &[NodeId(2)], &all[..10]);
        assert_eq!(latest(&marks, all[9]).unwrap().epoch, Epoch(3));
        assert_eq!(latest(&marks, all[10]).unwrap().epoch, Epoch(1));
        put_mark(&mut marks, Epoch(3), &[NodeId(2)], &all[10..]);
        assert_eq!(marks.len(), 1);
        assert_eq!(marks[0].buckets.len(), Bucket::COUNT);
    }
}
