//! Copies in different zones, where there are zones: one rule for messages, MIME parts and records of the user database.

/// Takes `count` of the candidates, which come best first: at each step the first one of a zone with the fewest copies so far, and
/// those of the least rank first, whatever their zone. Who has no zone shares it with nobody. Returns those taken, and the others in their order.
pub(crate) fn spread<T, Z: PartialEq, R: Ord>(
    candidates: Vec<T>,
    count: usize,
    zone: impl Fn(&T) -> Option<Z>,
    rank: impl Fn(&T) -> R,
) -> (Vec<T>, Vec<T>) {
    let (mut taken, mut left) = (Vec::with_capacity(count), candidates);
    while taken.len() < count {
        let copies = |candidate: &T| {
            let here = zone(candidate);
            here.map_or(0, |here| taken.iter().filter(|other| zone(other).as_ref() == Some(&here)).count())
        };
        let best = left.iter().enumerate().min_by_key(|(_, other)| (rank(other), copies(other)));
        let Some((at, _)) = best else { break };
        taken.push(left.remove(at));
    }
    (taken, left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(candidates: &[(u32, Option<&str>, bool)], count: usize) -> Vec<u32> {
        let (taken, left) = spread(candidates.to_vec(), count, |other| other.1, |other| !other.2);
        assert_eq!(taken.len() + left.len(), candidates.len());
        taken.iter().map(|other| other.0).collect()
    }

    #[test]
    fn zones_fill_evenly_and_the_order_decides_within_one() {
        let (x, y) = (Some("x"), Some("y"));
        let five = [(1, x, true), (2, x, true), (3, x, true), (4, y, true), (5, y, true)];
        assert_eq!(taken(&five, 2), [1, 4]);
        assert_eq!(taken(&five, 4), [1, 4, 2, 5]);
        assert_eq!(taken(&[(1, None, true), (2, None, true), (3, x, true)], 2), [1, 2]);
    }

    #[test]
    fn who_is_not_usable_comes_last_whatever_its_zone() {
        let three = [(1, Some("x"), true), (2, Some("y"), false), (3, Some("x"), true)];
        assert_eq!(taken(&three, 2), [1, 3]);
        assert_eq!(taken(&three, 9), [1, 3, 2]);
    }
}
