//! Distinct values and their indices.

/// Distinct values, in the order in which they were added. A configuration may have thousands.
#[derive(Debug)]
pub(crate) struct Distinct<T> {
    values: Vec<T>,
    /// The indices of all values, in the order of the values.
    sorted: Vec<usize>,
}

impl<T: Ord> Distinct<T> {
    pub(crate) fn new() -> Self {
        Self { values: Vec::new(), sorted: Vec::new() }
    }

    /// Returns the index of a value, which is added if it is new.
    pub(crate) fn index_of(&mut self, value: T) -> usize {
        let values = &self.values;
        match self.sorted.binary_search_by(|index| values.get(*index).cmp(&Some(&value))) {
            Ok(at) => self.sorted.get(at).copied().unwrap_or_default(),
            Err(at) => {
                let index = self.values.len();
                self.sorted.insert(at, index);
                self.values.push(value);
                index
            }
        }
    }

    pub(crate) fn into_values(self) -> Vec<T> {
        self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_of_equal_values_is_that_of_the_first() {
        let mut distinct = Distinct::new();
        let indices = ["b", "c", "a", "c", "b", "d", "a"].map(|value| distinct.index_of(value));
        assert_eq!(indices, [0, 1, 2, 1, 0, 3, 2]);
        assert_eq!(distinct.into_values(), ["b", "c", "a", "d"]);
    }
}
