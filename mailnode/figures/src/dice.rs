//! Random numbers: everything follows from one seed.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Other dice, which follow from these and a number.
    pub fn fork(&self, number: u64) -> Self {
        let mut first = Self(self.0 ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
        Self(first.roll())
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.roll()) * u128::from(bound)) >> 64) as u64
    }

    /// From 0 to 1, without 1.
    pub fn unit(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Standard normal (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_from_the_seed_and_are_spread_evenly() {
        let (mut one, mut same) = (Dice::new(1), Dice::new(1));
        assert!((0..100).all(|_| one.roll() == same.roll()));
        assert_ne!(one.fork(1).roll(), one.fork(2).roll());
        let mean = (0..10_000).map(|_| one.below(100)).sum::<u64>() as f64 / 10_000.0;
        assert!((48.0..51.0).contains(&mean), "{mean}");
        let square = (0..10_000).map(|_| one.normal().powi(2)).sum::<f64>() / 10_000.0;
        assert!((0.95..1.05).contains(&square), "{square}");
    }
}
