//! The epochs on disk. The only file that names fjall, lsm-tree and its container format sfa; it uses bulk ingestion, range reads and whole-table drops, and never
//! their journal, memtables, snapshots or compaction.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use fjall::config::{
    BlockSizePolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry, PartitioningPolicy, PinningPolicy,
};
use fjall::{AbstractTree, Database, Keyspace, KeyspaceCreateOptions, SeqNo};
use lsm_tree::{Checksum, Table, UserKey};

use super::layout::{key, key_seq};

const KEYSPACE: &str = "epochs";

/// Why the store could not do something.
#[derive(Debug)]
pub(super) enum StoreError {
    /// What was read is not what was written. Other blocks can still be read.
    Damaged(String),
    /// The filesystem is full.
    Full,
    /// The disk or the library failed.
    Io(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Damaged(what) => write!(f, "damaged: {what}"),
            StoreError::Full => f.write_str("no space left on the filesystem"),
            StoreError::Io(what) => f.write_str(what),
        }
    }
}

impl From<lsm_tree::Error> for StoreError {
    fn from(error: lsm_tree::Error) -> Self {
        match error {
            lsm_tree::Error::Io(e) => e.into(),
            other => StoreError::Damaged(format!("{other:?}")),
        }
    }
}

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Storage(e) => e.into(),
            fjall::Error::Io(e) => e.into(),
            fjall::Error::Poisoned | fjall::Error::Locked => StoreError::Io(format!("{error:?}")),
            other => StoreError::Damaged(format!("{other:?}")),
        }
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
            // A table cut short or missing: what is gone is gone, the rest can be read. lsm-tree looks for the trailer of a
            // file that is too short for it before the file's beginning, which the kernel calls an invalid argument. Without its list of
            // keyspaces fjall makes the folder anew of the one that is there.
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::NotFound
            | io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput => StoreError::Damaged(error.to_string()),
            _ => StoreError::Io(error.to_string()),
        }
    }
}

/// The open store.
pub(super) struct Store {
    // Before the database, so that it goes first.
    epochs: Keyspace,
    _database: Database,
    dir: PathBuf,
    /// The tables by epoch; an ingestion of an epoch makes one. Readers find them here: the tree locks its own list for as long as the
    /// manifest of a new or a dropped epoch takes to be synced.
    tables: RwLock<BTreeMap<u32, Table>>,
    /// Readers share it while they have a table open; a drop waits for those before it, so that a dropped file is gone when the drop returns.
    lease: RwLock<()>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store, or makes it.
    pub(super) fn open(dir: &Path) -> Result<Store, StoreError> {
        match Store::open_whole(dir) {
            // Without a table it holds nothing: a creation that a kill or a power cut ended, whatever of it reached the disk.
            Err(StoreError::Damaged(_)) if !holds_tables(dir)? => {
                fs::remove_dir_all(dir)?;
                Store::open_whole(dir)
            }
            opened => opened,
        }
    }

    fn open_whole(dir: &Path) -> Result<Store, StoreError> {
        // fjall writes its version marker last, and takes a folder without it for a new one.
        if dir.exists() && !dir.join("version").exists() {
            return Err(StoreError::Damaged("the version marker is missing".into()));
        }
        // IMPORTANT: before fjall looks. A keyspace whose pointer to its manifest is gone it takes for a new one, and then deletes all that
        // such a list of keyspaces does not name.
        for entry in fs::read_dir(dir.join("keyspaces")).into_iter().flatten() {
            let path = entry?.path();
            if path.is_dir() && !path.join("current").exists() {
                return Err(StoreError::Damaged("the pointer to a manifest is missing".into()));
            }
        }
        if dir.exists() {
            // IMPORTANT: before fjall looks. After a kill, its pointer to the newest manifest may be renamed in the kernel's memory only;
            // fjall removes the manifest before that, and a power cut that undoes the one and not the other leaves no manifest at all.
            sync_folders(dir)?;
        }
        let database = Database::builder(dir)
            // Nothing uses the memtables, so the one worker never has a flush that could block it (fjall#323).
            .worker_threads(1)
            .cache_size(256 << 10)
            .max_cached_files(Some(16))
            .manual_journal_persist(true)
            .open()?;
        let epochs = database.keyspace(KEYSPACE, options)?;
        // fjall does not restore its sequence numbers if its journal is missing; ours never holds anything, but without this a lost
        // journal file would make new tables sort below old ones.
        if let Some(highest) = epochs.tree.get_highest_seqno() {
            database.supervisor.seqno.fetch_max(highest + 1);
            database.supervisor.snapshot_tracker.set(database.supervisor.seqno.get());
        }
        shrink_journals(dir)?;
        // fjall syncs what is in the folders it makes, and not in every case the folder that names them.
        sync_folders(dir)?;
        let (tables, lease) = (RwLock::default(), RwLock::default());
        let store = Store { epochs, _database: database, dir: dir.to_owned(), tables, lease };
        store.list_tables();
        Ok(store)
    }

    /// Writes an epoch: `fill` gives keys in ascending order to the function it gets. All or nothing, durable on return.
    pub(super) fn ingest(
        &self,
        fill: impl FnOnce(&mut dyn FnMut([u8; 16], Vec<u8>) -> Result<(), StoreError>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut ingestion = self.epochs.start_ingestion()?;
        fill(&mut |key, value| Ok(ingestion.write(&key[..], value)?))?;
        ingestion.finish()?;
        self.list_tables();
        self.forget_old_versions()
    }

    fn list_tables(&self) {
        let version = self.epochs.tree.current_version();
        let tables = version.iter_tables().filter_map(|table| Some((epoch_of(table)?, table.clone()))).collect();
        *self.tables.write().unwrap_or_else(PoisonError::into_inner) = tables;
    }

    /// Removes an epoch; its file is gone on return.
    pub(super) fn drop_epoch(&self, epoch: u32) -> Result<(), StoreError> {
        drop(self.tables.write().unwrap_or_else(PoisonError::into_inner).remove(&epoch));
        // Whoever reads from now on does not find it; whoever found it before is done when this returns.
        drop(self.lease.write().unwrap_or_else(PoisonError::into_inner));
        self.epochs.tree.drop_range(key(epoch, 0, 0)..=key(epoch, u32::MAX, u64::MAX))?;
        self.forget_old_versions()
    }

    /// lsm-tree keeps every version since open, and with it dropped tables, until told. No snapshot is ever open that could need one.
    fn forget_old_versions(&self) -> Result<(), StoreError> {
        let path = &self.epochs.tree.tree_config().path;
        Ok(self.epochs.tree.get_version_history_lock().maintenance(path, SeqNo::MAX)?)
    }

    /// The epochs that exist and the allocated bytes of their files, in order.
    pub(super) fn epochs(&self) -> Result<Vec<(u32, u64)>, StoreError> {
        let mut found = Vec::new();
        for table in self.epochs.tree.current_version().iter_tables() {
            let number = epoch_of(table).ok_or_else(|| StoreError::Damaged("key of an unknown shape".into()))?;
            found.push((number, fs::metadata(&*table.path)?.blocks() * 512));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Allocated bytes of the file of one epoch.
    pub(super) fn epoch_bytes(&self, epoch: u32) -> Result<u64, StoreError> {
        let prefix = epoch.to_be_bytes();
        let mut bytes = 0;
        for table in self.epochs.tree.current_version().iter_tables() {
            if table.metadata.key_range.min().starts_with(&prefix) {
                bytes += fs::metadata(&*table.path)?.blocks() * 512;
            }
        }
        Ok(bytes)
    }

    /// Where the files of the epochs lie.
    pub(super) fn tables_dir(&self) -> PathBuf {
        self.epochs.tree.tree_config().path.join("tables")
    }

    /// Removes what a failed ingestion left: table files that no version names.
    pub(super) fn remove_leftovers(&self) -> Result<(), StoreError> {
        let _alone = self.lease.write().unwrap_or_else(PoisonError::into_inner);
        let known: Vec<Arc<PathBuf>> =
            self.epochs.tree.current_version().iter_tables().map(|t| Arc::clone(&t.path)).collect();
        for entry in fs::read_dir(self.tables_dir())? {
            let path = entry?.path();
            if !known.iter().any(|k| k.file_name() == path.file_name()) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// The value of a key.
    pub(super) fn value(&self, key: &[u8; 16]) -> Result<Option<Vec<u8>>, StoreError> {
        // IMPORTANT: from the front. A search from behind reads the block behind, too, which may be damaged where this one is whole.
        Ok(self.search(key, key, Side::Front)?.map(|(_, value)| value))
    }

    /// The block that holds `seq`, or would hold it: the last one that begins at or before it. Its first sequence and value.
    pub(super) fn block_at(&self, epoch: u32, stream: u32, seq: u64) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        let found = self.search(&key(epoch, stream, 0), &key(epoch, stream, seq), Side::Back)?;
        Ok(found.and_then(|(key, value)| Some((key_seq(&key)?, value))))
    }

    /// The key of `first..=last` at that side, in an epoch, and its value.
    fn search(&self, first: &[u8; 16], last: &[u8; 16], side: Side) -> Result<Option<(UserKey, Vec<u8>)>, StoreError> {
        let [a, b, c, d, ..] = *first;
        let _lease = self.lease.read().unwrap_or_else(PoisonError::into_inner);
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let Some(table) = tables.get(&u32::from_be_bytes([a, b, c, d])).cloned() else { return Ok(None) };
        drop(tables);
        let mut range = table.range(UserKey::from(&first[..])..=UserKey::from(&last[..]));
        let found = match side {
            Side::Front => range.next(),
            Side::Back => range.next_back(),
        };
        Ok(found.transpose()?.map(|found| (found.key.user_key, found.value.to_vec())))
    }
}

/// From where a table is searched.
#[derive(Clone, Copy, Debug)]
enum Side {
    Front,
    Back,
}

fn epoch_of(table: &Table) -> Option<u32> {
    table.metadata.key_range.min().get(..4)?.try_into().ok().map(u32::from_be_bytes)
}

/// What [`salvage`] found.
#[derive(Debug, Default)]
pub(super) struct Salvaged {
    /// Epochs that are whole enough to be opened.
    pub(super) kept: usize,
    /// Epochs behind which one is lost, 0 for before the first.
    pub(super) lost_behind: Vec<u32>,
}

/// Makes a store in `to` from the tables of the one in `from` that can be opened: links, so that a kill leaves `from` as it was.
pub(super) fn salvage(from: &Path, to: &Path) -> Result<Salvaged, StoreError> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    let store = Store::open_whole(to)?;
    let tree = &store.epochs.tree;
    let config = tree.tree_config();
    let (mut tables, mut found, mut expected) = (Vec::new(), Vec::new(), BTreeSet::new());
    for keyspace in keyspaces(from)? {
        expected.extend(listed_tables(&keyspace)?);
        let entries = match fs::read_dir(keyspace.join("tables")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let id = path.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok());
            let Some(id) = id else { continue };
            expected.insert(id);
            let link = store.tables_dir().join(id.to_string());
            fs::hard_link(&path, &link)?;
            let none = Checksum::from_raw(0);
            let (cache, files) = (Arc::clone(&config.cache), config.descriptor_table.clone());
            match Table::recover(link.clone(), none, 0, tree.id(), cache, files, false, false) {
                Ok(table) if table.metadata.id == id && table.metadata.key_range.min().len() == 16 => {
                    let epoch = table.metadata.key_range.min().get(..4).and_then(|b| b.try_into().ok());
                    found.push((id, epoch.map_or(0, u32::from_be_bytes)));
                    tables.push(table);
                }
                _ => fs::remove_file(link)?,
            }
        }
    }
    found.sort_unstable();
    // In the order of keys: the tables of one run must not overlap.
    tables.sort_by(|a: &Table, b: &Table| a.metadata.key_range.min().cmp(b.metadata.key_range.min()));
    if !tables.is_empty() {
        fs::File::open(store.tables_dir())?.sync_all()?;
        tree.register_tables(&tables, None, None, &[], SeqNo::MAX)?;
    }
    let mut salvaged = Salvaged { kept: found.len(), lost_behind: Vec::new() };
    // Tables are numbered in the order in which epochs were written.
    for lost in expected.into_iter().filter(|id| found.binary_search_by_key(id, |f| f.0).is_err()) {
        let before = found.iter().rev().find(|f| f.0 < lost).map_or(0, |f| f.1);
        if !salvaged.lost_behind.contains(&before) {
            salvaged.lost_behind.push(before);
        }
    }
    drop(tables);
    drop(store);
    sync_folders(to)?;
    Ok(salvaged)
}

/// After `aside` was set aside: what the store in `kept` has of it is no longer there as well.
pub(super) fn give_up_links(aside: &Path, kept: &Path) -> io::Result<()> {
    for keyspace in keyspaces(aside)? {
        for entry in fs::read_dir(keyspace.join("tables")).into_iter().flatten() {
            let entry = entry?;
            let known =
                keyspaces(kept)?.iter().any(|k| k.join("tables").join(entry.file_name()).symlink_metadata().is_ok());
            if known {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// The tables that the newest readable manifest of a keyspace names; none if no manifest can be read.
fn listed_tables(keyspace: &Path) -> io::Result<Vec<u64>> {
    let mut manifests = Vec::new();
    for entry in fs::read_dir(keyspace)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix('v')?.parse::<u64>().ok());
        manifests.extend(number.map(|number| (number, path)));
    }
    manifests.sort_unstable();
    Ok(manifests.iter().rev().find_map(|(_, path)| manifest_tables(path)).unwrap_or_default())
}

/// See `lsm_tree`'s `version/recovery.rs` for what a manifest holds.
fn manifest_tables(path: &Path) -> Option<Vec<u64>> {
    let manifest = sfa::Reader::new(path).ok()?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut manifest.toc().section(b"tables")?.buf_reader(path).ok()?, &mut bytes).ok()?;
    let mut rest = &bytes[..];
    let mut take = |n: usize| {
        let (taken, left) = rest.split_at_checked(n)?;
        rest = left;
        Some(taken.iter().rev().fold(0u64, |number, byte| (number << 8) | u64::from(*byte)))
    };
    let mut found = Vec::new();
    for _ in 0..take(1)? {
        for _ in 0..take(1)? {
            for _ in 0..take(4)? {
                found.push(take(8)?);
                // Kind of checksum, checksum, sequence number.
                take(1 + 16 + 8)?;
            }
        }
    }
    Some(found)
}

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        // Never acts: the tables are disjoint, and the log drops them itself.
        .compaction_strategy(Arc::new(fjall::compaction::Fifo::new(u64::MAX, None)))
        .data_block_size_policy(BlockSizePolicy::all(4096))
        // Blocks come compressed.
        .data_block_compression_policy(CompressionPolicy::disabled())
        .index_block_compression_policy(CompressionPolicy::disabled())
        .filter_policy(FilterPolicy::new([FilterPolicyEntry::None]))
        .filter_block_pinning_policy(PinningPolicy::all(false))
        .index_block_pinning_policy(PinningPolicy::all(false))
        .index_block_partitioning_policy(PartitioningPolicy::all(false))
        .filter_block_partitioning_policy(PartitioningPolicy::all(false))
}

/// Whether a keyspace of the database in `dir` holds a table.
fn holds_tables(dir: &Path) -> io::Result<bool> {
    for keyspace in keyspaces(dir)? {
        let tables = keyspace.join("tables");
        if tables.is_dir() && fs::read_dir(tables)?.next().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The keyspaces of the database in `dir`, other than the first, which is fjall's own list of keyspaces.
fn keyspaces(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(dir.join("keyspaces")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name() != "0" && entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Makes the names of everything below `dir` durable.
fn sync_folders(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    fs::File::open(dir)?.sync_all()
}

/// fjall makes its journal 64 MiB long, sparse. It stays without blocks, so its length is only confusing; shorten it.
fn shrink_journals(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "jnl") {
            let metadata = fs::metadata(&path)?;
            if metadata.blocks() == 0 && metadata.len() > 0 {
                OpenOptions::new().write(true).open(&path)?.set_len(0)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(store: &Store, epoch: u32, values: &[(u32, u64, u8)]) {
        store
            .ingest(|put| {
                for &(stream, seq, fill) in values {
                    put(key(epoch, stream, seq), vec![fill; 9000])?;
                }
                Ok(())
            })
            .expect("ingest");
    }

    #[test]
    fn a_reader_does_not_wait_while_an_epoch_is_written_or_dropped() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = Store::open(&dir.path().join("store")).expect("open");
        for epoch in 1..=3 {
            write(&store, epoch, &[(0, 10, 1), (0, 20, 2)]);
        }
        // As it is for as long as a manifest takes to be synced.
        let _manifest = store.epochs.tree.get_version_history_lock();
        assert_eq!(store.block_at(2, 0, 19).expect("read").expect("there").0, 10);
        assert!(store.value(&key(3, 0, 20)).expect("read").is_some());
        assert!(store.value(&key(4, 0, 20)).expect("read").is_none());
    }

    #[test]
    fn epochs_are_written_read_dropped_and_found_again() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("store");
        let store = Store::open(&path).expect("open");
        for epoch in 1..=20 {
            write(&store, epoch, &[(0, 10, 1), (0, 20, 2), (3, 5, 3)]);
        }
        let found = store.block_at(7, 0, 19).expect("read").expect("there");
        assert_eq!((found.0, found.1[0]), (10, 1));
        assert!(store.block_at(7, 0, 9).expect("read").is_none());
        assert!(store.block_at(7, 1, 9).expect("read").is_none());
        for epoch in (1..=10).chain([15]) {
            store.drop_epoch(epoch).expect("drop");
        }
        let left: Vec<u32> = store.epochs().expect("list").iter().map(|e| e.0).collect();
        let expected: Vec<u32> = (11..=14).chain(16..=20).collect();
        assert_eq!(left, expected);
        let files = fs::read_dir(path.join("keyspaces/1/tables")).expect("tables").count();
        assert_eq!(files, 9, "dropped files are gone at once");
        drop(store);
        let store = Store::open(&path).expect("open again");
        assert_eq!(store.epochs().expect("list").len(), 9);
        assert!(store.value(&key(16, 3, 5)).expect("read").is_some());
        write(&store, 21, &[(0, 1, 1)]);
        let journal: u64 = fs::read_dir(&path)
            .expect("dir")
            .map(|e| e.expect("entry").path())
            .filter(|p| p.extension().is_some())
            .map(|p| fs::metadata(p).expect("file").blocks())
            .sum();
        assert_eq!(journal, 0, "the journal is never written");
    }
}
