//! Who gets mail, and how large it is.
//!
//! Sizes are log-normal with the mean of Porcupine's workload as `mailnode bench` uses it. One operation in ten is a
//! retrieval that reads and deletes the whole mailbox, so that mailboxes neither grow nor shrink.

use crate::dice::Dice;

/// Bytes, mean of a message.
pub const MEAN_SIZE: f64 = 4_700.0;
const SIGMA: f64 = 1.0;
/// Largest message, bytes.
const LARGEST: f64 = 1_000_000.0;
/// Operations that are retrievals, of 1.
pub const RETRIEVALS: f64 = 0.1;
/// Messages in a mailbox when somebody looks, on average: deliveries for each retrieval.
pub const WAITING: f64 = (1.0 - RETRIEVALS) / RETRIEVALS;

pub fn size(dice: &mut Dice) -> u32 {
    // The mean of a log-normal is exp(mu + sigma^2 / 2).
    let mu = MEAN_SIZE.ln() - SIGMA * SIGMA / 2.0;
    (mu + SIGMA * dice.normal()).exp().clamp(200.0, LARGEST) as u32
}

/// How unequal users are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Skew {
    /// Log-normal with this sigma: busy and quiet users, none of whom grows with the cluster.
    LogNormal(f64),
    /// The k-th user's share is proportional to k to the power of minus this.
    Zipf(f64),
}

/// Draws users by their share of the mail.
#[derive(Clone, Debug)]
pub struct Users {
    /// Sums of weights up to each user.
    sums: Vec<f64>,
}

impl Users {
    pub fn new(count: usize, skew: Skew, dice: &mut Dice) -> Self {
        let mut sum = 0.0;
        let sums = (0..count)
            .map(|at| {
                sum += match skew {
                    Skew::LogNormal(sigma) => (sigma * dice.normal()).exp(),
                    Skew::Zipf(exponent) => ((at + 1) as f64).powf(-exponent),
                };
                sum
            })
            .collect();
        Self { sums }
    }

    pub fn len(&self) -> usize {
        self.sums.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    pub fn draw(&self, dice: &mut Dice) -> usize {
        let target = dice.unit() * self.sums.last().copied().unwrap_or_default();
        self.sums.partition_point(|&sum| sum <= target).min(self.sums.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_their_mean_and_bounds() {
        let mut dice = Dice::new(3);
        let sizes: Vec<u32> = (0..50_000).map(|_| size(&mut dice)).collect();
        let mean = sizes.iter().map(|&size| f64::from(size)).sum::<f64>() / 50_000.0;
        assert!((MEAN_SIZE * 0.97..MEAN_SIZE * 1.03).contains(&mean), "{mean}");
        assert!(sizes.iter().all(|size| (200..=1_000_000).contains(size)));
    }

    #[test]
    fn without_skew_all_users_are_equal_and_with_it_the_first_gets_most() {
        let mut dice = Dice::new(3);
        let share = |skew: f64, dice: &mut Dice| {
            let users = Users::new(1_000, Skew::Zipf(skew), dice);
            (0..20_000).filter(|_| users.draw(dice) == 0).count() as f64 / 20_000.0
        };
        assert!(share(0.0, &mut dice) < 0.003);
        assert!((0.2..0.35).contains(&share(1.3, &mut dice)));
    }
}
