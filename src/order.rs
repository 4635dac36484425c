//! One sort for all that is sorted here. The standard library's, for a type and an order of its own each time, would be eight
//! kilobytes of the module; this is one tenth.

use std::cmp::Ordering;

/// The places below `count` in the order that `compare` gives them; equal ones stay as they are. Heapsort: no order they may
/// come in makes it slow (Williams, Algorithm 232, 1964).
pub fn order(count: usize, compare: &mut dyn FnMut(usize, usize) -> Ordering) -> Vec<usize> {
    let mut heap: Vec<usize> = (0..count).collect();
    for top in (0..count >> 1).rev() {
        sink(&mut heap, top, compare);
    }
    for end in (1..count).rev() {
        heap.swap(0, end);
        sink(heap.get_mut(..end).unwrap_or_default(), 0, compare);
    }
    heap
}

/// Moves the place at `top` down, until it is behind neither of the two below it.
fn sink(heap: &mut [usize], mut top: usize, compare: &mut dyn FnMut(usize, usize) -> Ordering) {
    let mut is_before = |a: usize, b: usize| compare(a, b).then(a.cmp(&b)) == Ordering::Less;
    loop {
        let left = top.saturating_mul(2).saturating_add(1);
        let right = left.saturating_add(1);
        let (Some(&above), Some(&first)) = (heap.get(top), heap.get(left)) else { return };
        let (last, below) = match heap.get(right) {
            Some(&second) if is_before(first, second) => (right, second),
            _ => (left, first),
        };
        if !is_before(above, below) {
            return;
        }
        heap.swap(top, last);
        top = last;
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn equal_ones_stay() {
        let of = [3, 1, 2, 1, 3];
        let sorted = super::order(of.len(), &mut |a, b| of.get(a).cmp(&of.get(b)));
        assert_eq!(sorted, [1, 3, 2, 0, 4]);
    }

    proptest::proptest! {
        #[test]
        fn it_sorts_as_the_standard_library_does(of in proptest::collection::vec(0..40_u8, 0..200)) {
            let mut want: Vec<usize> = (0..of.len()).collect();
            want.sort_by_key(|at| of.get(*at));
            proptest::prop_assert_eq!(super::order(of.len(), &mut |a, b| of.get(a).cmp(&of.get(b))), want);
        }
    }
}
