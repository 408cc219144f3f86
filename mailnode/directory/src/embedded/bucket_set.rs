//! Sets of buckets, and the marks that say when a set of them was level.

use cluster::{Bucket, Epoch, RecordPlace};
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

/// In this epoch these buckets were level: the replicas that `places` gives for each had all its records.
///
/// A mark is put down twice: first tentatively, then, when every member has it, firmly. Only then it replaces
/// the marks before it (`level` says why).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub epoch: Epoch,
    pub places: Vec<RecordPlace>,
    pub firm: bool,
    pub buckets: BucketSet,
}

/// Notes that buckets are level. A firm mark replaces all earlier ones of the buckets; a tentative one only those
/// tentative ones that ask for the same replicas, so there are few.
pub fn put_mark(marks: &mut Vec<Mark>, epoch: Epoch, places: &[RecordPlace], firm: bool, buckets: &[Bucket]) {
    for mark in marks.iter_mut().filter(|mark| mark.epoch <= epoch) {
        if firm || (!mark.firm && mark.places == places) {
            buckets.iter().for_each(|&bucket| mark.buckets.remove(bucket));
        }
    }
    match marks.iter_mut().find(|mark| mark.epoch == epoch && mark.firm == firm) {
        Some(mark) => buckets.iter().for_each(|&bucket| mark.buckets.insert(bucket)),
        None => {
            let buckets = buckets.iter().copied().collect();
            marks.push(Mark { epoch, places: places.to_vec(), firm, buckets });
        }
    }
    marks.retain(|mark| !mark.buckets.is_empty());
}

/// The marks that count for a bucket: the latest firm one, which is also returned by itself, and the tentative ones after it.
pub fn counting<'a>(
    marks: impl Iterator<Item = &'a Mark> + Clone,
    bucket: Bucket,
) -> (Option<&'a Mark>, Vec<&'a Mark>) {
    let marks = marks.filter(move |mark| mark.buckets.contains(bucket));
    let firm = marks.clone().filter(|mark| mark.firm).max_by_key(|mark| mark.epoch);
    let after = firm.map(|mark| mark.epoch);
    let tentative = marks.filter(|mark| !mark.firm && Some(mark.epoch) > after);
    (firm, firm.into_iter().chain(tentative).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_firm_mark_replaces_what_was_before_and_a_tentative_one_is_added() {
        let mut marks = Vec::new();
        let all: Vec<Bucket> = Bucket::all().collect();
        let place = |node| [RecordPlace { node: cluster::NodeId(node), zone: None, active: true }];
        let (a, b) = (place(1), place(2));
        put_mark(&mut marks, Epoch(1), &a, true, &all);
        put_mark(&mut marks, Epoch(3), &b, false, &all[..10]);
        put_mark(&mut marks, Epoch(4), &b, false, &all[..10]);
        let epochs = |marks: &[Mark], bucket| {
            let (firm, marks) = counting(marks.iter(), bucket);
            (firm.is_some(), marks.iter().map(|mark| mark.epoch.0).collect::<Vec<_>>())
        };
        assert_eq!(epochs(&marks, all[9]), (true, vec![1, 4]));
        assert_eq!(epochs(&marks, all[10]), (true, vec![1]));
        put_mark(&mut marks, Epoch(4), &b, true, &all);
        assert_eq!(epochs(&marks, all[9]), (true, vec![4]));
        assert_eq!(marks.len(), 1);
        assert_eq!(marks[0].buckets.len(), Bucket::COUNT);
        assert_eq!(epochs(&[], all[0]), (false, vec![]));
    }
}
