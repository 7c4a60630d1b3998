//! Rows that batches read or wrote lately, so that what every entry asks for again is not looked up in the store each
//! time: a lookup there costs several times what a machine does with the row.
//!
//! Batches alone write rows, one at a time, and each tells what it wrote; so what is kept here is what the store holds.

use smallvec::SmallVec;
use std::mem;

/// Rows of one generation. The generation before stays until this one is full.
const ROWS_MAX: usize = 8_192;
/// Larger rows are looked up.
const ROW_BYTES_MAX: usize = 1_024;

/// The key of a row. Most are short, and stand where they are compared.
pub(crate) type Key = SmallVec<[u8; 24]>;
/// A row, or that there is none.
type Row = Option<Vec<u8>>;
/// By table. Its hash costs a fraction of what std's does, and is seeded by the process.
type Generation = Vec<std::collections::HashMap<Key, Row, foldhash::fast::RandomState>>;

/// The rows of two generations: what is used stays, what is not goes with the older one.
pub(crate) struct Recent {
    young: Generation,
    old: Generation,
    /// Rows of the younger generation.
    rows: usize,
    /// How many that may be.
    rows_max: usize,
    /// Tables of which a row was asked for by its key: rows of others are written and scanned, and not kept.
    asked: Vec<bool>,
    /// Those of which a row was found here since the younger generation began. A table whose machine keeps what it looks
    /// up has none, and is not kept a second time.
    found: Vec<bool>,
}

impl Recent {
    pub(crate) fn new(tables: usize) -> Recent {
        Recent::with_rows_max(tables, ROWS_MAX)
    }

    pub(crate) fn with_rows_max(tables: usize, rows_max: usize) -> Recent {
        let generation = || vec![Default::default(); tables];
        Recent {
            young: generation(),
            old: generation(),
            rows: 0,
            rows_max,
            asked: vec![false; tables],
            found: vec![false; tables],
        }
    }

    /// What the store holds at `key`, if that is known.
    pub(crate) fn get(&mut self, table: usize, key: &[u8]) -> Option<Row> {
        self.asked[table] = true;
        if let Some(row) = self.young[table].get(key) {
            self.found[table] = true;
            return Some(row.clone());
        }
        let (key, row) = self.old[table].remove_entry(key)?;
        self.found[table] = true;
        self.keep(table, key, row.clone());
        Some(row)
    }

    /// The store holds this row now.
    pub(crate) fn put(&mut self, table: usize, key: Key, row: Row) {
        if !self.asked[table] {
            return;
        }
        self.old[table].remove(&key);
        if key.len() + row.as_ref().map_or(0, Vec::len) > ROW_BYTES_MAX {
            self.rows -= usize::from(self.young[table].remove(&key).is_some());
        } else {
            self.keep(table, key, row);
        }
    }

    /// The store is another one.
    pub(crate) fn clear(&mut self) {
        self.young.iter_mut().chain(&mut self.old).for_each(|rows| rows.clear());
        self.rows = 0;
    }

    fn keep(&mut self, table: usize, key: Key, row: Row) {
        if self.rows == self.rows_max {
            mem::swap(&mut self.young, &mut self.old);
            self.young.iter_mut().for_each(|rows| rows.clear());
            self.rows = 0;
            // What is not kept up to date must not be found either.
            for (found, (asked, old)) in self.found.iter_mut().zip(self.asked.iter_mut().zip(&mut self.old)) {
                *asked = mem::take(found);
                if !*asked {
                    old.clear();
                }
            }
            if !self.asked[table] {
                return;
            }
        }
        self.rows += usize::from(self.young[table].insert(key, row).is_none());
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, ROW_BYTES_MAX, ROWS_MAX, Recent};

    fn name(text: &[u8]) -> Key {
        Key::from_slice(text)
    }

    fn key(number: usize) -> Key {
        name(&number.to_be_bytes())
    }

    fn row(number: usize) -> Option<Vec<u8>> {
        Some(number.to_be_bytes().to_vec())
    }

    #[test]
    fn what_was_written_last_is_known() {
        let mut recent = Recent::new(2);
        assert_eq!((recent.get(0, b"a"), recent.get(1, b"a")), (None, None));
        recent.put(0, name(b"a"), Some(b"1".to_vec()));
        recent.put(1, name(b"a"), None);
        assert_eq!((recent.get(0, b"a"), recent.get(1, b"a")), (Some(Some(b"1".to_vec())), Some(None)));
        recent.put(0, name(b"a"), Some(vec![0; ROW_BYTES_MAX]));
        assert_eq!(recent.get(0, b"a"), None, "large rows are not kept, nor what stood there before");
        recent.put(0, name(b"a"), None);
        recent.clear();
        assert_eq!(recent.get(0, b"a"), None);
    }

    #[test]
    fn a_table_that_is_only_scanned_takes_no_room() {
        let mut recent = Recent::new(2);
        recent.put(0, name(b"a"), Some(b"1".to_vec()));
        assert_eq!(recent.rows, 0);
        assert_eq!(recent.get(0, b"a"), None, "nothing is known");
        recent.put(0, name(b"a"), Some(b"2".to_vec()));
        assert_eq!(recent.get(0, b"a"), Some(Some(b"2".to_vec())));
    }

    #[test]
    fn a_table_of_which_nothing_is_found_takes_no_room() {
        let mut recent = Recent::new(2);
        assert_eq!((recent.get(0, &key(0)), recent.get(1, &key(0))), (None, None));
        recent.put(1, key(0), row(1));
        for number in 0..=ROWS_MAX {
            recent.put(0, key(number), row(number));
            assert_eq!(recent.get(1, &key(0)), Some(row(1)), "found all along");
        }
        assert_eq!(recent.young[0].len() + recent.old[0].len(), 0);
        // It is asked for once more, and what was written meanwhile is not taken for what was kept.
        recent.put(0, key(3), None);
        assert_eq!(recent.get(0, &key(3)), None, "nothing is known");
        recent.put(0, key(3), row(4));
        assert_eq!(recent.get(0, &key(3)), Some(row(4)));
    }

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let mut recent = Recent::new(1);
        assert_eq!(recent.get(0, &key(0)), None);
        for number in 0..10 * ROWS_MAX {
            recent.put(0, key(number), row(number));
            assert_eq!(recent.get(0, &key(7)).is_some(), number >= 7);
            assert!(recent.young[0].len() + recent.old[0].len() <= 2 * ROWS_MAX);
        }
        assert_eq!(recent.get(0, &key(7)), Some(row(7)));
        assert_eq!(recent.get(0, &key(8)), None);
        // An old row that is written again is not remembered as it was.
        recent.put(0, key(7), None);
        (0..ROWS_MAX).for_each(|number| recent.put(0, key(number + 100), None));
        recent.put(0, key(7), row(1));
        assert_eq!(recent.get(0, &key(7)), Some(row(1)));
    }
}
