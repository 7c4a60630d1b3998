//! The rows of a state machine: tables of ordered keys, written one batch per applied chunk.
//!
//! Two stores stand behind [`State`]: RocksDB for real nodes (WAL off, atomic flush over all tables) and an
//! ordered map for tests of machines and for simulation. Readers see whole chunks only.

use crate::recent::{Key, Recent};
use crate::replica::{APPLIED, decode_applied};
use crate::types::LogId;
use parking_lot::{Mutex, RwLock};
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBCompactionStyle, DBCompressionType, Direction, FlushOptions,
    IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions,
};
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Index of a table in [`crate::Machine::tables`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table(pub u8);

/// Name of the table that holds the store's own rows (applied index, membership). No machine table may use it.
pub(crate) const META: &str = "raft";

const IMMUTABLE_BUFFERS: &str = "rocksdb.num-immutable-mem-table";
const BACKGROUND_ERRORS: &str = "rocksdb.background-errors";

/// Why rows could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The store failed; nothing may be acknowledged after it.
    #[error("state store failed: {0}")]
    Io(String),
    /// A row does not decode: this replica's state cannot be trusted.
    #[error("row of table {table} is corrupt: {what}")]
    Corrupt {
        /// Table that holds the row.
        table: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// The group's commands have a version that this build does not know. Nothing was changed.
    #[error("{}", other_version(*.active, .known))]
    Version {
        /// The version that is active, or is to be.
        active: u32,
        /// The oldest and the newest that this build knows.
        known: RangeInclusive<u32>,
    },
    /// A command that this build cannot read, and another one may have carried out. Nothing was changed.
    #[error(
        "a command of the log cannot be read by this build: {0}; if other members run a newer build, install it on this \
         node and start it again, its data is as it was"
    )]
    Unreadable(String),
}

/// What is to be done about a version that is not known.
fn other_version(active: u32, known: &RangeInclusive<u32>) -> String {
    let (oldest, newest) = (known.start(), known.end());
    if active > *newest {
        return format!(
            "the group's commands are of version {active}, and this build knows versions up to {newest}: upgrade this \
             node to a build that knows version {active}, as the other members have, and start it again; its data is \
             as it was"
        );
    }
    format!(
        "the group's commands are of version {active}, and this build knows versions from {oldest} on: start this node \
         with the build that it had before, and upgrade the whole group to one that knows both first; its data is as it \
         was"
    )
}

impl From<rocksdb::Error> for StateError {
    fn from(error: rocksdb::Error) -> Self {
        StateError::Io(error.to_string())
    }
}

/// Visits a row; `Break` ends the scan.
pub type Visit<'v> = &'v mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Visits a row, with the name of its table.
pub type VisitAll<'v> = &'v mut dyn FnMut(&'static str, &[u8], &[u8]);

/// Rows as of some whole chunk, or as a batch under way sees them.
pub trait ReadState {
    /// The row at `key`.
    ///
    /// # Errors
    /// [`StateError::Io`] when the store fails.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StateError>;

    /// Visits the rows of `from..until` in key order. An empty `until` means the end of the table.
    ///
    /// # Errors
    /// [`StateError::Io`] when the store fails.
    fn scan(&self, table: Table, from: &[u8], until: &[u8], visit: Visit<'_>) -> Result<(), StateError>;

    /// Visits the rows of `from..=upto` from the last to the first.
    ///
    /// # Errors
    /// [`StateError::Io`] when the store fails.
    fn scan_back(&self, table: Table, from: &[u8], upto: &[u8], visit: Visit<'_>) -> Result<(), StateError>;
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

enum Store {
    Rocks { db: DB, path: PathBuf },
    Ordered(RwLock<Vec<Rows>>),
}

struct Kept {
    store: Store,
    /// Replaced by a snapshot: the folder goes when the last reader does.
    retired: AtomicBool,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if !self.retired.load(Ordering::Relaxed) {
            return;
        }
        let emptied = std::mem::replace(&mut self.store, Store::Ordered(RwLock::default()));
        if let Store::Rocks { db, path } = emptied {
            drop(db);
            if let Err(error) = std::fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "a replaced state folder stays until the next start");
            }
        }
    }
}

/// A handle to the rows; cheap to clone. Every read sees the state after some whole chunk.
///
/// An installed snapshot replaces the store behind every handle at once; a scan under way ends on the old one.
#[derive(Clone)]
pub struct State {
    /// Machine tables in their order, then [`META`].
    tables: Arc<[&'static str]>,
    current: Arc<RwLock<Arc<Kept>>>,
    /// For batches, which are alone in writing.
    recent: Arc<Mutex<Recent>>,
}

/// Sizes of the RocksDB store. Its write buffers stand above our own flush trigger, so that RocksDB never
/// flushes by itself: under `ASYNC_FLUSH` the log is synced before each flush (rule I1).
#[derive(Debug, Clone)]
pub struct StateOptions {
    /// Bytes a table may hold in memory before RocksDB flushes by itself.
    pub write_buffer_bytes: usize,
    /// Bytes of the block cache shared by all tables.
    pub block_cache_bytes: usize,
    /// The rows live in memory only, and each start fills them from the log; for simulation.
    pub in_memory: bool,
}

impl Default for StateOptions {
    fn default() -> Self {
        StateOptions { write_buffer_bytes: 256 << 20, block_cache_bytes: 32 << 20, in_memory: false }
    }
}

fn all_tables(tables: &[&'static str]) -> Vec<&'static str> {
    let mut all = tables.to_vec();
    all.push(META);
    all
}

impl State {
    /// An empty store in memory, for tests of machines and for simulation.
    #[must_use]
    pub fn ordered(tables: &[&'static str]) -> State {
        let tables = all_tables(tables);
        let rows = tables.iter().map(|_| Rows::new()).collect();
        State::from_store(tables, Store::Ordered(RwLock::new(rows)))
    }

    /// Opens or creates the RocksDB store at `path`.
    ///
    /// # Errors
    /// [`StateError::Io`] when RocksDB refuses; its text says why.
    pub fn open(path: &Path, tables: &[&'static str], options: &StateOptions) -> Result<State, StateError> {
        if options.in_memory {
            return Ok(State::ordered(tables));
        }
        let tables = all_tables(tables);
        let (base, families) = rocks_options(&tables, options);
        let db = DB::open_cf_descriptors(&base, path, families)?;
        Ok(State::from_store(tables, Store::Rocks { db, path: path.to_path_buf() }))
    }

    /// Opens a checkpoint to look into it, without changing a file of it.
    ///
    /// # Errors
    /// [`StateError::Io`] when there is no store of these tables at `path`.
    pub fn open_read_only(path: &Path, tables: &[&'static str]) -> Result<State, StateError> {
        let tables = all_tables(tables);
        let (mut base, families) = rocks_options(&tables, &StateOptions::default());
        base.create_if_missing(false);
        let db = DB::open_cf_descriptors_read_only(&base, path, families, false)?;
        Ok(State::from_store(tables, Store::Rocks { db, path: path.to_path_buf() }))
    }

    fn from_store(tables: Vec<&'static str>, store: Store) -> State {
        let kept = Kept { store, retired: AtomicBool::new(false) };
        let recent = Arc::new(Mutex::new(Recent::new(tables.len())));
        State { tables: tables.into(), current: Arc::new(RwLock::new(Arc::new(kept))), recent }
    }

    /// Puts the store of `other` behind every handle of this one. The folder of the old store is deleted when
    /// its last reader is done.
    pub(crate) fn replace(&self, other: &State) {
        let kept = other.kept();
        let old = std::mem::replace(&mut *self.current.write(), kept);
        self.recent.lock().clear();
        old.retired.store(true, Ordering::Relaxed);
    }

    fn kept(&self) -> Arc<Kept> {
        self.current.read().clone()
    }

    pub(crate) fn meta(&self) -> Table {
        Table(u8::try_from(self.tables.len() - 1).expect("a machine has fewer than 255 tables"))
    }

    /// Names of all tables in order, the store's own last.
    #[must_use]
    pub fn tables(&self) -> &[&'static str] {
        &self.tables
    }

    /// Starts a batch on top of the present rows. One batch is under way at a time: the apply path owns it.
    #[must_use]
    pub fn batch(&self) -> StateBatch<'_> {
        StateBatch { state: self, changed: self.tables.iter().map(|_| BTreeMap::new()).collect(), bytes: 0 }
    }

    /// Writes every table to disk as one, and returns when it is durable. Rule I1: the caller has synced the
    /// log up to the applied index before.
    ///
    /// # Errors
    /// [`StateError::Io`] when the store fails; nothing may be acknowledged after it.
    pub fn flush(&self) -> Result<(), StateError> {
        self.flush_rows(true)
    }

    /// Sets the rows aside that are to be written, all tables as one, and returns; [`State::flushing`] tells
    /// when they are durable. Later batches go to fresh buffers.
    pub(crate) fn start_flush(&self) -> Result<(), StateError> {
        self.flush_rows(false)
    }

    fn flush_rows(&self, wait: bool) -> Result<(), StateError> {
        if let Store::Rocks { db, .. } = &self.kept().store {
            let families = self.families(db)?;
            let mut options = FlushOptions::default();
            options.set_wait(wait);
            db.flush_cfs_opt(&families, &options)?;
        }
        Ok(())
    }

    /// Whether rows that were set aside are still to be written.
    pub(crate) fn flushing(&self) -> Result<bool, StateError> {
        if let Store::Rocks { db, .. } = &self.kept().store {
            if db.property_int_value(BACKGROUND_ERRORS)?.unwrap_or(0) > 0 {
                return Err(StateError::Io("a flush in the background failed; RocksDB's LOG file says why".to_owned()));
            }
            for family in self.families(db)? {
                if db.property_int_value_cf(family, IMMUTABLE_BUFFERS)?.unwrap_or(0) > 0 {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Writes a copy of the durable rows to `path`, by hard links. The caller flushes first.
    ///
    /// # Errors
    /// [`StateError::Io`] when the store fails, or is the one in memory.
    pub fn checkpoint(&self, path: &Path) -> Result<(), StateError> {
        match &self.kept().store {
            Store::Rocks { db, .. } => Ok(rocksdb::checkpoint::Checkpoint::new(db)?.create_checkpoint(path)?),
            Store::Ordered(_) => Err(StateError::Io("a store in memory has no checkpoint".to_owned())),
        }
    }

    /// Visits every row of every table, the store's own last, in order, all as of one moment: the last entry applied
    /// then, if any.
    ///
    /// # Errors
    /// [`StateError`] when the store fails or its own rows make no sense.
    pub fn visit_all(&self, visit: VisitAll<'_>) -> Result<Option<LogId>, StateError> {
        let kept = self.kept();
        let meta = self.tables.last().expect("the store's own table is always there");
        let applied = match &kept.store {
            Store::Rocks { db, .. } => {
                let moment = db.snapshot();
                for table in self.tables.iter() {
                    for row in moment.iterator_cf(family(db, table)?, IteratorMode::Start) {
                        let (key, value) = row?;
                        visit(table, &key, &value);
                    }
                }
                moment.get_cf(family(db, meta)?, APPLIED)?
            }
            Store::Ordered(rows) => {
                let rows = rows.read();
                for (table, rows) in self.tables.iter().zip(rows.iter()) {
                    rows.iter().for_each(|(key, value)| visit(table, key, value));
                }
                rows.last().and_then(|own| own.get(APPLIED)).cloned()
            }
        };
        applied.map(|row| decode_applied(&row)).transpose()
    }

    /// Folder of the RocksDB store; `None` for the one in memory.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        match &self.kept().store {
            Store::Rocks { path, .. } => Some(path.clone()),
            Store::Ordered(_) => None,
        }
    }

    fn families<'d>(&self, db: &'d DB) -> Result<Vec<&'d ColumnFamily>, StateError> {
        self.tables.iter().map(|name| family(db, name)).collect()
    }

    fn name(&self, table: Table) -> Result<&'static str, StateError> {
        self.tables
            .get(usize::from(table.0))
            .copied()
            .ok_or_else(|| StateError::Io(format!("table {} does not exist", table.0)))
    }
}

fn rocks_options(tables: &[&'static str], options: &StateOptions) -> (Options, Vec<ColumnFamilyDescriptor>) {
    let mut base = Options::default();
    base.create_if_missing(true);
    base.create_missing_column_families(true);
    base.set_atomic_flush(true);
    base.set_max_background_jobs(2);
    base.set_keep_log_file_num(2);
    base.set_max_open_files(256);
    base.set_db_write_buffer_size(0);
    let cache = rocksdb::Cache::new_lru_cache(options.block_cache_bytes);
    let families: Vec<_> = tables
        .iter()
        .map(|name| {
            let mut family = Options::default();
            let mut blocks = rocksdb::BlockBasedOptions::default();
            blocks.set_block_cache(&cache);
            blocks.set_bloom_filter(10.0, false);
            blocks.set_cache_index_and_filter_blocks(true);
            family.set_block_based_table_factory(&blocks);
            family.set_write_buffer_size(options.write_buffer_bytes);
            family.set_arena_block_size(256 << 10);
            family.set_max_write_buffer_number(4);
            family.set_compaction_style(DBCompactionStyle::Universal);
            family.set_compression_type(DBCompressionType::Lz4);
            ColumnFamilyDescriptor::new(*name, family)
        })
        .collect();
    (base, families)
}

fn family<'d>(db: &'d DB, name: &str) -> Result<&'d ColumnFamily, StateError> {
    db.cf_handle(name).ok_or_else(|| StateError::Io(format!("table {name} is missing")))
}

impl ReadState for State {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        match &self.kept().store {
            Store::Rocks { db, .. } => Ok(db.get_cf(family(db, self.name(table)?)?, key)?),
            Store::Ordered(rows) => {
                self.name(table)?;
                Ok(rows.read()[usize::from(table.0)].get(key).cloned())
            }
        }
    }

    fn scan(&self, table: Table, from: &[u8], until: &[u8], visit: Visit<'_>) -> Result<(), StateError> {
        if !until.is_empty() && from >= until {
            return Ok(());
        }
        match &self.kept().store {
            Store::Rocks { db, .. } => {
                let mut options = ReadOptions::default();
                if !until.is_empty() {
                    options.set_iterate_upper_bound(until.to_vec());
                }
                let family = family(db, self.name(table)?)?;
                for row in db.iterator_cf_opt(family, options, IteratorMode::From(from, Direction::Forward)) {
                    let (key, value) = row?;
                    if visit(&key, &value).is_break() {
                        break;
                    }
                }
            }
            Store::Ordered(rows) => {
                self.name(table)?;
                let rows = rows.read();
                for (key, value) in rows[usize::from(table.0)].range(from.to_vec()..) {
                    if (!until.is_empty() && key.as_slice() >= until) || visit(key, value).is_break() {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn scan_back(&self, table: Table, from: &[u8], upto: &[u8], visit: Visit<'_>) -> Result<(), StateError> {
        if from > upto {
            return Ok(());
        }
        match &self.kept().store {
            Store::Rocks { db, .. } => {
                let mut options = ReadOptions::default();
                options.set_iterate_lower_bound(from.to_vec());
                let family = family(db, self.name(table)?)?;
                for row in db.iterator_cf_opt(family, options, IteratorMode::From(upto, Direction::Reverse)) {
                    let (key, value) = row?;
                    if visit(&key, &value).is_break() {
                        break;
                    }
                }
            }
            Store::Ordered(rows) => {
                self.name(table)?;
                let rows = rows.read();
                for (key, value) in rows[usize::from(table.0)].range(from.to_vec()..=upto.to_vec()).rev() {
                    if visit(key, value).is_break() {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Changes of one chunk, read through as if they were written already.
pub struct StateBatch<'s> {
    state: &'s State,
    /// Per table: the new row, or `None` for a deleted one.
    changed: Vec<BTreeMap<Key, Option<Vec<u8>>>>,
    bytes: usize,
}

impl StateBatch<'_> {
    /// Sets the row at `key`.
    pub fn put(&mut self, table: Table, key: impl AsRef<[u8]>, value: impl Into<Vec<u8>>) {
        let (key, value) = (Key::from_slice(key.as_ref()), value.into());
        self.bytes += key.len() + value.len();
        self.changed[usize::from(table.0)].insert(key, Some(value));
    }

    /// Removes the row at `key`; nothing happens when there is none.
    pub fn delete(&mut self, table: Table, key: impl AsRef<[u8]>) {
        let key = Key::from_slice(key.as_ref());
        self.bytes += key.len();
        self.changed[usize::from(table.0)].insert(key, None);
    }

    /// Bytes put since the batch began, rewritten rows counted each time.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes the batch as one: readers and a later flush see all of it or nothing.
    ///
    /// # Errors
    /// [`StateError::Io`] when the store fails; nothing may be acknowledged after it.
    pub fn write(self) -> Result<(), StateError> {
        match &self.state.kept().store {
            Store::Rocks { db, .. } => {
                let mut batch = WriteBatch::default();
                for (name, rows) in self.state.tables.iter().zip(&self.changed) {
                    if rows.is_empty() {
                        continue;
                    }
                    let family = family(db, name)?;
                    for (key, value) in rows {
                        match value {
                            Some(value) => batch.put_cf(family, key, value),
                            None => batch.delete_cf(family, key),
                        }
                    }
                }
                let mut options = WriteOptions::default();
                options.disable_wal(true);
                db.write_opt(batch, &options)?;
            }
            Store::Ordered(tables) => {
                let mut tables = tables.write();
                for (rows, changed) in tables.iter_mut().zip(&self.changed) {
                    for (key, value) in changed {
                        match value {
                            Some(value) => rows.insert(key.to_vec(), value.clone()),
                            None => rows.remove(key.as_slice()),
                        };
                    }
                }
            }
        }
        let mut recent = self.state.recent.lock();
        for (table, changed) in self.changed.into_iter().enumerate() {
            changed.into_iter().for_each(|(key, row)| recent.put(table, key, row));
        }
        Ok(())
    }
}

impl ReadState for StateBatch<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        match self.changed[usize::from(table.0)].get(key) {
            Some(changed) => Ok(changed.clone()),
            None => {
                let number = usize::from(table.0);
                if let Some(row) = self.state.recent.lock().get(number, key) {
                    return Ok(row);
                }
                let row = self.state.get(table, key)?;
                self.state.recent.lock().put(number, Key::from_slice(key), row.clone());
                Ok(row)
            }
        }
    }

    fn scan(&self, table: Table, from: &[u8], until: &[u8], visit: Visit<'_>) -> Result<(), StateError> {
        if !until.is_empty() && from >= until {
            return Ok(());
        }
        let mut changed = self.changed[usize::from(table.0)]
            .range::<[u8], _>((Bound::Included(from), Bound::Unbounded))
            .take_while(|(key, _)| until.is_empty() || key.as_slice() < until)
            .peekable();
        let mut stopped = false;
        self.state.scan(table, from, until, &mut |key, value| {
            // Changed rows before this one, then this one unless it was changed itself.
            while let Some((changed_key, row)) = changed.next_if(|(changed_key, _)| changed_key.as_slice() < key) {
                if let Some(row) = row
                    && visit(changed_key, row).is_break()
                {
                    stopped = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = match changed.next_if(|(changed_key, _)| changed_key.as_slice() == key) {
                Some((_, Some(row))) => visit(key, row),
                Some((_, None)) => ControlFlow::Continue(()),
                None => visit(key, value),
            };
            stopped = flow.is_break();
            flow
        })?;
        for (key, row) in changed {
            if stopped {
                break;
            }
            if let Some(row) = row {
                stopped = visit(key, row).is_break();
            }
        }
        Ok(())
    }

    fn scan_back(&self, table: Table, from: &[u8], upto: &[u8], visit: Visit<'_>) -> Result<(), StateError> {
        if from > upto {
            return Ok(());
        }
        let mut changed = self.changed[usize::from(table.0)]
            .range::<[u8], _>((Bound::Included(from), Bound::Included(upto)))
            .rev()
            .peekable();
        let mut stopped = false;
        self.state.scan_back(table, from, upto, &mut |key, value| {
            while let Some((changed_key, row)) = changed.next_if(|(changed_key, _)| changed_key.as_slice() > key) {
                if let Some(row) = row
                    && visit(changed_key, row).is_break()
                {
                    stopped = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = match changed.next_if(|(changed_key, _)| changed_key.as_slice() == key) {
                Some((_, Some(row))) => visit(key, row),
                Some((_, None)) => ControlFlow::Continue(()),
                None => visit(key, value),
            };
            stopped = flow.is_break();
            flow
        })?;
        for (key, row) in changed {
            if stopped {
                break;
            }
            if let Some(row) = row {
                stopped = visit(key, row).is_break();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{ControlFlow, ReadState, Recent, State, StateOptions, Table};
    use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};
    use std::collections::BTreeMap;

    const TABLES: &[&str] = &["rows", "others"];

    /// What is done to a table, or to all.
    #[derive(Debug, Clone)]
    enum Step {
        Put(u8, u8, u8),
        Delete(u8, u8),
        Get(u8, u8),
        Write,
        /// A snapshot replaces the store: its rows have this value.
        Replace(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let row = || (0u8..2, 0u8..24);
        let step = prop_oneof![
            16 => (row(), any::<u8>()).prop_map(|((table, key), value)| Step::Put(table, key, value)),
            8 => row().prop_map(|(table, key)| Step::Delete(table, key)),
            24 => row().prop_map(|(table, key)| Step::Get(table, key)),
            8 => Just(Step::Write),
            1 => any::<u8>().prop_map(Step::Replace),
        ];
        proptest::collection::vec(step, 0..200)
    }

    fn rows(state: &impl ReadState, table: u8, from: u8, until: u8) -> Vec<(u8, u8)> {
        let mut rows = Vec::new();
        state
            .scan(Table(table), &[from], &[until], &mut |key, value| {
                rows.push((key[0], value[0]));
                ControlFlow::Continue(())
            })
            .expect("scan");
        rows
    }

    fn rows_back(state: &impl ReadState, table: u8, from: u8, upto: u8) -> Vec<(u8, u8)> {
        let mut rows = Vec::new();
        state
            .scan_back(Table(table), &[from], &[upto], &mut |key, value| {
                rows.push((key[0], value[0]));
                ControlFlow::Continue(())
            })
            .expect("scan back");
        rows
    }

    /// A store whose batches soon forget what they read and wrote: generations of recent rows come and go.
    fn forgetful(state: State) -> State {
        *state.recent.lock() = Recent::with_rows_max(state.tables.len(), 6);
        state
    }

    fn check(state: &State, steps: &[Step]) -> Result<(), proptest::test_runner::TestCaseError> {
        let mut model = [BTreeMap::new(), BTreeMap::new()];
        let mut batch = state.batch();
        for step in steps {
            match step {
                Step::Put(table, key, value) => {
                    model[usize::from(*table)].insert(*key, *value);
                    batch.put(Table(*table), [*key], [*value]);
                }
                Step::Delete(table, key) => {
                    model[usize::from(*table)].remove(key);
                    batch.delete(Table(*table), [*key]);
                }
                Step::Get(table, key) => {
                    let row = batch.get(Table(*table), &[*key]).expect("get");
                    prop_assert_eq!(row, model[usize::from(*table)].get(key).map(|value| vec![*value]));
                }
                Step::Write => {
                    batch.write().expect("write");
                    batch = state.batch();
                    for (table, model) in (0..).zip(&model) {
                        let all: Vec<_> = model.iter().map(|(k, v)| (*k, *v)).collect();
                        prop_assert_eq!(rows(state, table, 0, 255), all);
                    }
                }
                Step::Replace(value) => {
                    let snapshot = State::ordered(TABLES);
                    let mut filling = snapshot.batch();
                    for (table, model) in (0..).zip(&mut model) {
                        *model = (0..24).step_by(3).map(|key| (key, *value)).collect();
                        model.iter().for_each(|(key, value)| filling.put(Table(table), [*key], [*value]));
                    }
                    filling.write().expect("write");
                    state.replace(&snapshot);
                    batch = state.batch();
                }
            }
            for (table, model) in (0..).zip(&model) {
                let part: Vec<_> = model.range(3..20).map(|(k, v)| (*k, *v)).collect();
                prop_assert_eq!(rows(&batch, table, 3, 20), part);
                let back: Vec<_> = model.range(3..=19).rev().map(|(k, v)| (*k, *v)).collect();
                prop_assert_eq!(rows_back(&batch, table, 3, 19), back);
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn batch_reads_like_a_map(steps in steps()) {
            check(&State::ordered(TABLES), &steps)?;
        }

        #[test]
        fn batch_reads_like_a_map_whatever_it_forgets(steps in steps()) {
            check(&forgetful(State::ordered(TABLES)), &steps)?;
        }
    }

    #[test]
    fn rocks_reads_like_a_map_and_keeps_what_was_flushed() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("state");
        let state = State::open(&path, TABLES, &StateOptions::default()).expect("open");
        let steps = [
            Step::Put(0, 4, 1),
            Step::Put(0, 9, 2),
            Step::Get(0, 9),
            Step::Write,
            Step::Delete(0, 4),
            Step::Put(0, 7, 3),
            Step::Get(0, 4),
            Step::Write,
            Step::Get(0, 7),
        ];
        check(&state, &steps).expect("same as a map");
        state.flush().expect("flush");
        let copy = dir.path().join("copy");
        state.checkpoint(&copy).expect("checkpoint");
        drop(state);
        for path in [path, copy] {
            let state = State::open(&path, TABLES, &StateOptions::default()).expect("open again");
            assert_eq!(rows(&state, 0, 0, 255), vec![(7, 3), (9, 2)]);
        }
    }

    #[test]
    fn all_rows_in_order_as_of_one_moment() {
        let folder = tempfile::tempdir().expect("a folder");
        let rocks = State::open(folder.path(), &["a", "b"], &StateOptions::default()).expect("opens");
        for state in [rocks, State::ordered(&["a", "b"])] {
            let mut batch = state.batch();
            batch.put(Table(1), b"2", b"y".to_vec());
            batch.put(Table(0), b"1", b"x".to_vec());
            batch.put(Table(1), b"1", b"z".to_vec());
            batch.put(state.meta(), b"0", b"w".to_vec());
            batch.write().expect("written");
            let mut seen = Vec::new();
            let applied = state
                .visit_all(&mut |table, key, value| seen.push((table, key.to_vec(), value.to_vec())))
                .expect("visited");
            assert_eq!(applied, None);
            let row = |table, key: &[u8], value: &[u8]| (table, key.to_vec(), value.to_vec());
            assert_eq!(
                seen,
                [row("a", b"1", b"x"), row("b", b"1", b"z"), row("b", b"2", b"y"), row(super::META, b"0", b"w")]
            );
        }
    }
}
