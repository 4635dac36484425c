//! One sort for all that is sorted here: a generic one for each type would be four kilobytes of the module, each time.

use std::cmp::Ordering;

/// The places below `count` in the order that `compare` gives them; equal ones stay as they are.
pub fn order(count: usize, compare: &mut dyn FnMut(usize, usize) -> Ordering) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).collect();
    places.sort_unstable_by(|a, b| compare(*a, *b).then(a.cmp(b)));
    places
}

#[cfg(test)]
mod tests {
    #[test]
    fn equal_ones_stay() {
        let of = [3, 1, 2, 1, 3];
        let sorted = super::order(of.len(), &mut |a, b| of.get(a).cmp(&of.get(b)));
        assert_eq!(sorted, [1, 3, 2, 0, 4]);
    }
}
