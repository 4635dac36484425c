//! Members of one object that a later one of the same name overwrites.

use std::collections::BinaryHeap;

/// As many members as are told apart without a table, at most.
const FEW: usize = 16;
/// Places of a table that are looked at for a name, on average, at most. Names chosen to meet there take more, and are sorted.
const LOOKS: usize = 8;

/// Room for a table, used again and again.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<Option<Entry>>);

#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u32,
    member: u32,
}

/// Tells `found` of each member that is overwritten. `name`: the name of each of `count` members.
pub(super) fn overwritten<'n>(
    count: usize,
    name: impl Fn(usize) -> &'n [u8],
    table: &mut Table,
    mut found: impl FnMut(usize),
) {
    if (count <= FEW && differ_at_sight((0..count).map(&name))) || table.tells_apart(count, &name) {
        return;
    }
    // By a heap: the standard library's sort is eight kilobytes of the module for each kind of what it sorts.
    let named: BinaryHeap<(&[u8], usize)> = (0..count).map(|at| (name(at), at)).collect();
    for pair in named.into_sorted_vec().windows(2) {
        if let [(name, earlier), (next, _)] = pair
            && name == next
        {
            found(*earlier);
        }
    }
}

/// Whether a length and three letters of each name are enough to tell them apart, as they mostly are.
fn differ_at_sight<'n>(names: impl Iterator<Item = &'n [u8]>) -> bool {
    let mut seen = [0_u64; 4];
    for name in names {
        let letter = |at: usize| name.get(at).copied().map_or(0, usize::from);
        let (middle, last) = (letter(name.len() >> 1), letter(name.len().saturating_sub(2)));
        let mixed = name.len()
            ^ letter(1).wrapping_mul(7)
            ^ middle.wrapping_mul(29)
            ^ last.wrapping_mul(113);
        let bit = 1_u64 << (mixed & 63);
        let Some(word) = seen.get_mut((mixed >> 6) & 3) else { return false };
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
    }
    true
}

impl Table {
    /// Whether all names differ. False also where that takes too many looks.
    fn tells_apart<'n>(&mut self, count: usize, name: &impl Fn(usize) -> &'n [u8]) -> bool {
        let size = count.saturating_mul(2).next_power_of_two();
        self.0.clear();
        self.0.resize(size, None);
        let mut looks = count.saturating_mul(LOOKS);
        for member in 0..count {
            let new = name(member);
            let hash = hash(new);
            let Ok(number) = u32::try_from(member) else { return false };
            let mut place = usize::try_from(hash).unwrap_or(0);
            loop {
                place &= size.wrapping_sub(1);
                let Some(slot) = self.0.get_mut(place) else { return false };
                let Some(entry) = slot else {
                    *slot = Some(Entry { hash, member: number });
                    break;
                };
                let other = usize::try_from(entry.member).unwrap_or(0);
                if looks == 0 || (entry.hash == hash && name(other) == new) {
                    return false;
                }
                looks = looks.wrapping_sub(1);
                place = place.wrapping_add(1);
            }
        }
        true
    }
}

/// Eight bytes at a time: the number of names is what counts, not their lengths.
fn hash(name: &[u8]) -> u32 {
    // 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming, 6.4).
    let mix =
        |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let (words, rest) = name.as_chunks::<8>();
    let hash = words.iter().fold(0, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let rest = rest.iter().fold(1, |rest, byte| (rest << 8) | u64::from(*byte));
    #[allow(clippy::cast_possible_truncation, reason = "a part of it is enough")]
    let hash = (mix(hash, rest) >> 16) as u32;
    hash
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    fn found(names: &[String]) -> Vec<usize> {
        let mut found = Vec::new();
        overwritten(
            names.len(),
            |at| names[at].as_bytes(),
            &mut Table::default(),
            |member| found.push(member),
        );
        found.sort_unstable();
        found
    }

    proptest::proptest! {
        #[test]
        fn of_equal_names_all_but_the_last(names in proptest::collection::vec("[ab]{0,3}|[a-z]{0,20}", 0..120)) {
            let want: Vec<usize> = (0..names.len()).filter(|at| names[at + 1..].contains(&names[*at])).collect();
            proptest::prop_assert_eq!(found(&names), want);
        }
    }

    #[test]
    fn names_that_differ_are_told_apart_by_the_table() {
        let names: Vec<String> = (0..50_000).map(|at| format!("property{at}")).collect();
        assert!(Table::default().tells_apart(names.len(), &|at: usize| names[at].as_bytes()));
    }

    #[test]
    fn names_that_meet_are_not_looked_at_for_ever() {
        // All of one hash: what stands before the last eight bytes is undone by them.
        let step = |hash: u64, word: u64| {
            (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        };
        let name = |first: u64| [first.to_le_bytes(), step(0, first).to_le_bytes()].concat();
        let names: Vec<Vec<u8>> = (0..2_000).map(name).collect();
        assert!(names.iter().all(|name| hash(name) == hash(&names[0])));
        let mut count = 0;
        overwritten(names.len(), |at| &names[at], &mut Table::default(), |_| count += 1);
        assert_eq!(count, 0);
        assert!(!Table::default().tells_apart(names.len(), &|at: usize| names[at].as_slice()));
    }
}
