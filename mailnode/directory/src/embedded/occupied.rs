//! Which buckets have records on a disk, for little: there are thousands of buckets, and few have any.

use super::{Disk, DiskError};
use crate::record::Key;
use cluster::Bucket;

/// Asked for buckets in ascending order, it looks at the disk once for each bucket that has records.
pub(super) struct Occupied<'a, D> {
    disk: &'a D,
    /// From this bucket on, the first key is one of this other bucket; None: there is none.
    known: Option<(Bucket, Option<Bucket>)>,
}

impl<'a, D: Disk> Occupied<'a, D> {
    pub(super) const fn new(disk: &'a D) -> Self {
        Self { disk, known: None }
    }

    /// # Errors
    /// If the disk fails.
    pub(super) fn has(&mut self, bucket: Bucket) -> Result<bool, DiskError> {
        let next = match self.known {
            Some((from, next)) if from <= bucket && next.is_none_or(|next| bucket <= next) => next,
            _ => {
                // No key is as short as what the keys of a bucket begin with.
                let page = self.disk.records(&[], Some(&Key::prefix(bucket, None)), 1)?;
                let first = page.first().and_then(|(key, _)| key.first_chunk());
                let next = first.map(|bytes| Bucket(u16::from_be_bytes(*bytes)));
                self.known = Some((bucket, next));
                next
            }
        };
        Ok(next == Some(bucket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::cell::Cell;

    struct Counting(Vec<Bucket>, Cell<usize>);

    impl Disk for Counting {
        fn record(&self, _: &[u8]) -> Result<Option<Bytes>, DiskError> {
            Err(DiskError)
        }

        fn records(
            &self,
            _: &[u8],
            after: Option<&[u8]>,
            _: usize,
        ) -> Result<Vec<(Bytes, Bytes)>, DiskError> {
            self.1.set(self.1.get() + 1);
            let keys = self.0.iter().map(|bucket| [&Key::prefix(*bucket, None)[..], b"p1"].concat());
            let first = keys.into_iter().find(|key| after.is_none_or(|after| &key[..] > after));
            Ok(first.into_iter().map(|key| (key.into(), Bytes::new())).collect())
        }
    }

    #[test]
    fn empty_buckets_cost_nothing() {
        let disk = Counting(vec![Bucket(3), Bucket(700), Bucket(0xffff)], Cell::new(0));
        let mut occupied = Occupied::new(&disk);
        let found: Vec<Bucket> = Bucket::all().filter(|&bucket| occupied.has(bucket).unwrap()).collect();
        assert_eq!(found, [Bucket(3), Bucket(700)]);
        assert_eq!(disk.1.get(), 3);
        assert!(occupied.has(Bucket(3)).unwrap() && !occupied.has(Bucket(2)).unwrap(), "in any order");
    }
}
