//! What a device takes for a recipe's batches, learnt from those that it runs, and the batch size that follows: where
//! throughput stops growing, a larger batch only adds latency.
//!
//! A fit is plain data that is told times and says which size it wants to see next. A batch's time is `mood * curve(load)`:
//! the load is what its items and their cost come to, counted in items as warm-up has them; the curve goes through the
//! medians of a few sizes' last times, so that outliers do not count and what is old is forgotten; the mood is how much longer the
//! last few batches took than the curve says, as others use the machine. Times are divided by the mood before they are kept,
//! so that sizes which are measured at different hours can be compared.
//!
//! Before anything is served sizes double while that pays. While serving, where enough waits, a size near the chosen one is
//! tried now and then, as long as all trying costs no more than a small part of the device's time.

mod cost_share;
mod last;
mod search;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use self::{
    cost_share::CostShare,
    last::{AT_LEAST, Last, Times},
};
use crate::batching::{Curve, Limits, Speed};

/// A batch size counts as better only if it raises throughput by this much.
const WORTHWHILE_GAIN: f64 = 1.01;
/// What a batch costs beside its forward pass: forming it, handing it over, waking its callers.
const HAND_OVER: f64 = 50e-6;
/// A batch that is expected to take more seconds is not tried: whoever comes meanwhile waits for it.
const TOO_LONG: f64 = 0.25;
/// Passes of a size that do not count: memory is taken in the first, and what records its launches does so in the second.
const FIRST_PASSES: usize = 2;
/// Of how many batches the mood is the median.
const MOOD: usize = 5;
/// How far from 1 a mood can be. Beyond, it is no neighbour's doing, and times change: what is kept was divided by the mood and the mood
/// is over what is kept, so that without an end each would drive the other away from times that hardly have a measure.
const MOODIEST: f64 = 8.0;
/// At most one batch of so many is of another size than the chosen one.
const TRY_EVERY: u64 = 8;
/// The part of the device's time that trying other sizes may cost.
const TRYING: f64 = 0.01;
/// What a batch may cost, as a multiple of what as many usual items do.
const COST_HEADROOM: f64 = 2.0;
/// As how many items the usual cost counts when another comes.
const USUAL_ITEMS: f64 = 1000.0;

/// What a batch may be at most, whatever is learnt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The most items.
    pub(super) largest: usize,
    /// Whether batches are to have that many, as it was asked for.
    pub(super) is_fixed: bool,
    /// The most time.
    pub(super) longest: Duration,
}

/// One measured batch size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    /// The size.
    pub(super) batch_size: usize,
    /// Items a second in the median, handing over included.
    pub(super) throughput: f64,
    /// How many times that is the median of.
    pub(super) times: usize,
}

/// What is known of a device and a recipe.
#[derive(Clone, Debug)]
pub(super) struct Fit {
    bounds: Bounds,
    /// The cost of an item as warm-up has them, and as they are served.
    typical: f64,
    usual: f64,
    /// By the number of typical items.
    sizes: BTreeMap<usize, Times>,
    share: CostShare,
    /// The last batches' times over what the curve says, as logarithms.
    moods: Last<MOOD>,
    /// The most items that memory holds, as far as is known; at least 1.
    memory: usize,
    chosen: usize,
    trying: Option<usize>,
    /// Seconds that may go into trying other sizes.
    spare: f64,
    /// Batches seen, and which of them was the last try.
    batches: u64,
    last_try: u64,
    curve: Curve,
}

impl Fit {
    /// Nothing is known yet but what an item costs that warm-up measures with.
    pub(super) fn new(bounds: Bounds, typical: u64) -> Self {
        let typical = typical.max(1) as f64;
        Self {
            bounds,
            typical,
            usual: typical,
            sizes: BTreeMap::new(),
            share: CostShare::default(),
            moods: Last::default(),
            memory: usize::MAX,
            chosen: 1,
            trying: None,
            spare: 0.0,
            batches: 0,
            last_try: 0,
            curve: Curve::default(),
        }
    }

    /// The bounds of the next batch; none before anything is measured.
    pub(super) fn limits(&self) -> Option<Limits> {
        let size = self.trying.unwrap_or(self.chosen);
        (!self.is_empty()).then(|| Limits {
            max_batch_size: self.items(size),
            max_batch_cost: self.max_cost(size) as u64,
            curve: self.curve.clone(),
            in_flight: 1,
            longest: self.bounds.longest,
        })
    }

    /// The most items of a batch.
    pub(super) fn max_batch_size(&self) -> usize {
        self.items(self.chosen)
    }

    /// What an item takes in batches as large as they may be, in seconds.
    pub(super) fn seconds_per_item(&self) -> f64 {
        self.curve.seconds(self.chosen as f64) * self.usual_load() / self.chosen as f64
    }

    /// A batch of typical items has been measured. Says whether that counts, and was not one of the size's first passes.
    pub(super) fn measured(&mut self, size: usize, seconds: f64) -> bool {
        self.learn(Some(size), size as f64, 0.0, seconds);
        self.sizes.get(&size).is_some_and(|times| times.len() > 0)
    }

    /// A batch has been served: so many items of that cost took the device so many seconds. Says what was expected.
    pub(super) fn add(&mut self, items: usize, cost: u64, seconds: f64) -> f64 {
        let count = items.max(1) as f64;
        self.usual += (cost as f64 / count - self.usual) * count / (count + USUAL_ITEMS);
        let more = cost as f64 / self.typical - count;
        let load = count + self.share.value() * more;
        let is_about =
            |size: f64, load: f64| (size / load - 1.0).abs() < 0.2 || (size - load).abs() < 0.5;
        let as_usual = count * self.usual_load();
        let mut sizes = self.grid();
        let at = sizes.find(|&size| self.items(size) == items && is_about(size as f64, as_usual));
        self.learn(at, load, more / load, seconds)
    }

    /// A batch that may count as one of size `at` had that load, of which a part of `more` goes with the cost's share.
    fn learn(&mut self, at: Option<usize>, load: f64, more: f64, seconds: f64) -> f64 {
        let (seconds, expected, mood) = (seconds.max(1e-9), self.curve.seconds(load), self.mood());
        self.batches += 1;
        self.trying = None;
        let mut usual = expected;
        if let Some(at) = at {
            let beside = match expected > 0.0 {
                true => expected / self.curve.seconds(at as f64),
                false => 1.0,
            };
            let size = self.sizes.entry(at).or_default();
            size.passes += 1;
            if size.passes <= FIRST_PASSES {
                return expected;
            }
            usual = mood * size.median() * beside;
            size.keep(seconds / mood / beside);
        }
        if usual > 0.0 && expected > 0.0 {
            let off = (seconds / usual).ln();
            let slope = (self.curve.seconds(1.1 * load) / expected - 1.0) / 0.1;
            self.share.learn(slope * more, off);
            self.moods.keep(off + mood.ln());
        }
        self.follow();
        expected
    }

    /// After [`Fit::add`]: whether the next batch is to be of another size, where enough waits to fill it.
    pub(super) fn try_another(&mut self, items: usize, cost: u64, seconds: f64) {
        let is_full =
            items >= self.max_batch_size() || cost as f64 + self.usual > self.max_cost(self.chosen);
        if self.bounds.is_fixed || !is_full {
            return;
        }
        self.spare = (self.spare + TRYING * seconds).min(TOO_LONG);
        if self.batches >= self.last_try + TRY_EVERY {
            self.choose_another();
        }
    }

    /// What a request is expected to take that has the device for itself, by its cost: a line through a usual item and a full batch.
    pub(super) fn speed(&self) -> Option<Speed> {
        let (one, full) = (self.usual_load(), self.chosen as f64);
        let [at_one, at_full] = [one, full].map(|load| self.curve.seconds(load));
        let per_load = match full > one {
            true => ((at_full - at_one) / (full - one)).max(0.0),
            false => at_one / one,
        };
        (!self.is_empty()).then(|| Speed {
            fixed: (at_one - per_load * one).max(0.0),
            per_cost: per_load * one / self.usual,
        })
    }

    /// The cost of an item as they are served.
    pub(super) fn usual_cost(&self) -> f64 {
        self.usual
    }

    /// Memory ran out in a batch of that size while nothing was served. Says whether there are smaller ones.
    pub(super) fn out_of_memory(&mut self, size: usize) -> bool {
        let measured = self
            .sizes
            .range(..size)
            .next_back()
            .map_or(0, |(&size, _)| size);
        self.hold(measured.max(size / 2));
        size > 1
    }

    /// A batch that was served had to be halved to so many items for want of memory: none is to be larger from now on. If it
    /// was a try, what was chosen before stays. Says whether that is less than before.
    pub(super) fn cap(&mut self, half: usize) -> bool {
        let chosen = self.max_batch_size();
        let was_a_try = 2 * half > chosen + 1;
        let items = if was_a_try { half.max(chosen) } else { half };
        self.hold(items);
        items < chosen
    }

    fn hold(&mut self, items: usize) {
        self.memory = self.memory.min(items.max(1));
        self.sizes.split_off(&(self.largest() + 1));
        self.follow();
    }

    /// Everything measured so far, by size.
    pub(super) fn sizes(&self) -> Vec<Measured> {
        let measured = |(&batch_size, size): (&usize, &Times)| Measured {
            batch_size,
            throughput: rate(batch_size, size.median()),
            times: size.len(),
        };
        let sizes = self.sizes.iter().filter(|(_, size)| size.len() > 0);
        sizes.map(measured).collect()
    }

    fn is_empty(&self) -> bool {
        self.sizes.values().all(|size| size.len() == 0)
    }

    /// How much longer batches take now than the curve says.
    fn mood(&self) -> f64 {
        match self.moods.is_full() {
            false => 1.0,
            true => self
                .moods
                .quantile(0.5)
                .exp()
                .clamp(1.0 / MOODIEST, MOODIEST),
        }
    }

    /// The load of an item as they are served.
    fn usual_load(&self) -> f64 {
        1.0 + self.share.value() * (self.usual / self.typical - 1.0)
    }

    /// How many usual items have the load of so many typical ones.
    fn items(&self, size: usize) -> usize {
        let items = match self.bounds.is_fixed {
            true => size,
            false => (size as f64 / self.usual_load()).round() as usize,
        };
        items.min(self.bounds.largest).clamp(1, self.memory)
    }

    /// The largest size that may be.
    fn largest(&self) -> usize {
        let in_memory = (self.memory as f64 * self.usual_load()) as usize;
        self.bounds.largest.min(in_memory).max(1)
    }

    fn max_cost(&self, size: usize) -> f64 {
        COST_HEADROOM * self.typical * size as f64
    }

    /// The sizes that there are: between two powers of two lies one and a half of the smaller.
    fn grid(&self) -> impl Iterator<Item = usize> + use<> {
        let largest = self.largest();
        let sizes = (0..usize::BITS - 2).flat_map(|power| [1 << power, (3 << power) >> 1]);
        let smaller = sizes.skip(1).take_while(move |&size| size < largest);
        smaller.chain([largest])
    }

    /// Other sizes, from half to twice the chosen one.
    fn near(&self) -> impl Iterator<Item = usize> + use<> {
        let chosen = self.chosen;
        self.grid().filter(move |&size| {
            size != chosen && (chosen.div_ceil(2)..=2 * chosen).contains(&size)
        })
    }

    /// Chooses a size, and draws the curve, by what is known now.
    fn follow(&mut self) {
        let (mood, share) = (self.mood(), self.share.value());
        let mut sizes = self.sizes();
        // A time or two may be anything.
        let enough = sizes.iter().map(|size| size.times.min(AT_LEAST)).max();
        sizes.retain(|size| Some(size.times) >= enough);
        let known = sizes.iter().map(|size| size.batch_size);
        let known = known.map(|size| (size as f64, mood * self.sizes[&size].median()));
        self.curve = Curve::through(known, 1.0 - share, share / self.typical);
        let longest = self.bounds.longest.as_secs_f64();
        sizes.retain(|size| self.curve.seconds(size.batch_size as f64) <= longest);
        let best = sizes.iter().map(|size| size.throughput).fold(0.0, f64::max);
        // The smallest that no other beats by a worthwhile gain.
        let fit = sizes
            .iter()
            .find(|size| size.throughput * WORTHWHILE_GAIN >= best);
        self.chosen = match self.bounds.is_fixed {
            true => self.largest(),
            false => fit.map_or(1, |size| size.batch_size),
        };
    }

    /// Chooses what has not been tried for longest, unless that is too dear for now.
    fn choose_another(&mut self) {
        // What is larger than all that is known may take no longer than the largest.
        let known = self.curve.end();
        let seconds = |size: usize| self.curve.seconds((size as f64).min(known));
        let longest = TOO_LONG.min(self.bounds.longest.as_secs_f64());
        let others = self
            .near()
            .filter(|&size| self.items(size) != self.max_batch_size() && seconds(size) <= longest);
        let tried = |size: &usize| self.sizes.get(size).map_or(0, |size| size.tried);
        let Some(size) = others.min_by_key(tried) else {
            return;
        };
        let as_chosen = size as f64 / self.chosen as f64 * (seconds(self.chosen) + HAND_OVER);
        let loss = (seconds(size) + HAND_OVER - as_chosen).max(0.0);
        if loss <= self.spare {
            self.spare -= loss;
            self.last_try = self.batches;
            self.trying = Some(size);
            self.sizes.entry(size).or_default().tried = self.batches;
        }
    }
}

fn rate(size: usize, seconds: f64) -> f64 {
    size as f64 / (seconds + HAND_OVER)
}
