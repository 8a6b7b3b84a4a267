//! Which part of an item's load its cost explains.

/// How much of what was seen a batch leaves.
const FADING: f64 = 0.99;
/// A batch that is off by more, as a logarithm, counts as one that is off by so much.
const OUTLIER: f64 = 0.5;

/// The part of a typical item's load that goes with its cost, the rest being the same for every item: found by least squares
/// from how batches of unlike items deviate, and all of it as long as nothing is known.
#[derive(Clone, Debug)]
pub(super) struct CostShare {
    value: f64,
    slopes: f64,
    products: f64,
}

impl Default for CostShare {
    fn default() -> Self {
        Self {
            value: 1.0,
            slopes: 0.0,
            products: 0.0,
        }
    }
}

impl CostShare {
    pub(super) fn value(&self) -> f64 {
        self.value
    }

    /// A batch took `off` more than expected, as a logarithm, which a share larger by 1 would have raised by `slope`.
    pub(super) fn learn(&mut self, slope: f64, off: f64) {
        let target = off.clamp(-OUTLIER, OUTLIER) + slope * self.value;
        self.slopes = FADING * self.slopes + slope * slope;
        self.products = FADING * self.products + slope * target;
        // One more, which says that it is all.
        self.value = ((self.products + 1.0) / (self.slopes + 1.0)).clamp(0.0, 1.0);
    }
}
