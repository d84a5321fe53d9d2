//! Which sequences a verify tick reads: those touched lately first, the rest in rotation. Pure.

use std::collections::BTreeMap;

/// How many sequences one tick reads at most, and how many of them may be of those touched lately: a flood of these must
/// not starve the rotation.
const BATCH: usize = 1000;
const LATELY_MAX: usize = 750;

/// For how many ticks a sequence counts as touched.
const TICKS: u8 = 3;

/// Where the rotations stand.
#[derive(Debug, Default)]
pub struct VerifyOrder {
    /// Slots touched lately, and for how many more ticks.
    touched: BTreeMap<u32, u8>,
    lately_from: usize,
    rest_from: usize,
}

impl VerifyOrder {
    /// It was advanced or restarted.
    pub fn touch(&mut self, slot: u32) {
        self.touched.insert(slot, TICKS);
    }

    /// The slots of this tick, out of `readable`; `urgent` says of which something is expected.
    pub fn tick(&mut self, readable: &[u32], urgent: impl Fn(u32) -> bool) -> Vec<u32> {
        let (lately, rest): (Vec<u32>, Vec<u32>) =
            readable.iter().partition(|slot| self.touched.contains_key(slot) || urgent(**slot));
        let mut slots = rotate(&lately, &mut self.lately_from, LATELY_MAX);
        for slot in &slots {
            if let Some(ticks) = self.touched.get_mut(slot) {
                *ticks -= 1;
            }
        }
        self.touched.retain(|_, ticks| *ticks > 0);
        let room = BATCH - slots.len();
        slots.extend(rotate(&rest, &mut self.rest_from, room));
        slots
    }
}

fn rotate(slots: &[u32], from: &mut usize, most: usize) -> Vec<u32> {
    if slots.is_empty() {
        return Vec::new();
    }
    let start = *from % slots.len();
    let count = slots.len().min(most);
    *from = start + count;
    slots.iter().cycle().skip(start).take(count).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_was_touched_is_read_at_once_and_the_rest_in_rotation() {
        let all: Vec<u32> = (0..10_000).collect();
        let mut order = VerifyOrder::default();
        order.tick(&all, |_| false);
        order.touch(9_000);
        let mut seen = BTreeSet::new();
        for tick in 0..12 {
            let slots = order.tick(&all, |slot| slot == 9_500);
            assert_eq!(slots.len(), BATCH);
            assert!(slots.contains(&9_500), "expected until it is seen");
            assert!(slots.contains(&9_000) || tick >= usize::from(TICKS));
            seen.extend(slots);
        }
        assert_eq!(seen.len(), all.len(), "nobody is forgotten");
    }

    #[test]
    fn a_flood_of_touched_ones_takes_turns_and_leaves_room() {
        let all: Vec<u32> = (0..10_000).collect();
        let mut order = VerifyOrder::default();
        let mut seen = BTreeSet::new();
        for _ in 0..40 {
            (0..5_000).for_each(|slot| order.touch(slot));
            let slots = order.tick(&all, |_| false);
            assert!(slots.len() <= BATCH);
            seen.extend(slots);
        }
        assert_eq!(seen.len(), all.len());
    }
}
