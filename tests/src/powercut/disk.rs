//! A filesystem in memory that knows what of it survives a power cut.
//!
//! Stricter than ext4 where they differ: the sync of a file says nothing about its name, only the sync of its folder does. Of what was
//! not synced any part may survive: each write whole, in some of its sectors or not at all, whatever became of those before it; each
//! change of a name or not, except that none survives without the earlier ones of the same names. A rename is one change: never half.
//! After a sync that failed, what it should have made durable never is, also not by a later one.
//! Left out: permissions, times, and a disk that loses or damages what was synced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::pages::Pages;
use crate::chance::Chance;

/// Number of a file or folder.
pub type Inode = u64;

/// The folder at the top.
pub const ROOT: Inode = 1;

/// Why something could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing of that name or number.
    NotFound,
    /// The name is taken.
    Exists,
    /// A folder that holds something.
    NotEmpty,
    /// No room.
    Full,
    /// A folder where a file is needed.
    IsFolder,
    /// A file where a folder is needed.
    NotFolder,
}

#[derive(Clone, Debug)]
enum Change {
    Write { at: usize, bytes: Arc<[u8]> },
    Length(usize),
}

#[derive(Clone, Debug, Default)]
struct File {
    live: Pages,
    durable: Pages,
    unsynced: Vec<Change>,
    /// A sync failed: what is live is no longer what the next sync makes durable.
    failed: bool,
}

type Entries = BTreeMap<String, Inode>;

#[derive(Clone, Debug, Default)]
struct Folder {
    live: Entries,
    durable: Entries,
}

#[derive(Clone, Debug)]
enum Node {
    File(File),
    Folder(Folder),
}

/// Names that change together: what each refers to afterwards.
#[derive(Clone, Debug)]
struct Renaming(Vec<(Inode, String, Option<Inode>)>);

/// The filesystem.
#[derive(Clone, Debug)]
pub struct Disk {
    nodes: BTreeMap<Inode, Node>,
    next: Inode,
    names: Vec<Renaming>,
    open: BTreeMap<Inode, u32>,
    capacity: usize,
}

/// What is known of a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether it is a folder.
    pub folder: bool,
    /// Bytes of a file, holes included.
    pub len: usize,
    /// Bytes that take room.
    pub allocated: usize,
}

/// Room on a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// All of it.
    pub capacity: usize,
    /// What files take that have a name or are open. Folders take none.
    pub used: usize,
}

impl Default for Disk {
    fn default() -> Self {
        Disk {
            nodes: BTreeMap::from([(ROOT, Node::Folder(Folder::default()))]),
            next: ROOT + 1,
            names: Vec::new(),
            open: BTreeMap::new(),
            capacity: usize::MAX,
        }
    }
}

impl Disk {
    fn file(&mut self, inode: Inode) -> Result<&mut File, Fault> {
        match self.nodes.get_mut(&inode) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Folder(_)) => Err(Fault::IsFolder),
            None => Err(Fault::NotFound),
        }
    }

    fn folder(&self, inode: Inode) -> Result<&Folder, Fault> {
        match self.nodes.get(&inode) {
            Some(Node::Folder(folder)) => Ok(folder),
            Some(Node::File(_)) => Err(Fault::NotFolder),
            None => Err(Fault::NotFound),
        }
    }

    fn change_names(&mut self, renaming: Renaming) {
        for (folder, name, target) in &renaming.0 {
            if let Some(Node::Folder(folder)) = self.nodes.get_mut(folder) {
                set(&mut folder.live, name, *target);
            }
        }
        self.names.push(renaming);
    }

    fn add(&mut self, folder: Inode, name: &str, node: Node) -> Result<Inode, Fault> {
        if self.folder(folder)?.live.contains_key(name) {
            return Err(Fault::Exists);
        }
        let inode = self.next;
        self.next += 1;
        self.nodes.insert(inode, node);
        self.change_names(Renaming(vec![(folder, name.into(), Some(inode))]));
        Ok(inode)
    }

    /// Makes an empty file.
    ///
    /// # Errors
    /// [`Fault::Exists`], or `folder` is none.
    pub fn create(&mut self, folder: Inode, name: &str) -> Result<Inode, Fault> {
        self.add(folder, name, Node::File(File::default()))
    }

    /// Makes an empty folder.
    ///
    /// # Errors
    /// [`Fault::Exists`], or `folder` is none.
    pub fn create_folder(&mut self, folder: Inode, name: &str) -> Result<Inode, Fault> {
        self.add(folder, name, Node::Folder(Folder::default()))
    }

    /// What a name refers to.
    ///
    /// # Errors
    /// [`Fault::NotFound`], or `folder` is none.
    pub fn find(&self, folder: Inode, name: &str) -> Result<Inode, Fault> {
        self.folder(folder)?.live.get(name).copied().ok_or(Fault::NotFound)
    }

    /// What a folder holds, by name.
    ///
    /// # Errors
    /// `inode` is none.
    pub fn list(&self, inode: Inode) -> Result<Vec<(String, Inode)>, Fault> {
        Ok(self.folder(inode)?.live.iter().map(|(name, inode)| (name.clone(), *inode)).collect())
    }

    /// What is known of a file or folder.
    ///
    /// # Errors
    /// [`Fault::NotFound`].
    pub fn facts(&self, inode: Inode) -> Result<Facts, Fault> {
        Ok(match self.nodes.get(&inode).ok_or(Fault::NotFound)? {
            Node::File(file) => Facts { folder: false, len: file.live.len(), allocated: file.live.allocated() },
            Node::Folder(_) => Facts { folder: true, len: 0, allocated: 0 },
        })
    }

    /// The path of a file or folder that has a name, without a slash at its beginning.
    #[must_use]
    pub fn path(&self, inode: Inode) -> Option<String> {
        if inode == ROOT {
            return Some(String::new());
        }
        let holds = |node: &Node| match node {
            Node::Folder(folder) => {
                folder.live.iter().find(|(_, target)| **target == inode).map(|(name, _)| name.clone())
            }
            Node::File(_) => None,
        };
        let (folder, name) = self.nodes.iter().find_map(|(folder, node)| Some((*folder, holds(node)?)))?;
        let above = self.path(folder)?;
        Some(if above.is_empty() { name } else { format!("{above}/{name}") })
    }

    /// Limits the room; what is there stays.
    pub fn set_capacity(&mut self, bytes: usize) {
        self.capacity = bytes;
    }

    /// How much room there is.
    #[must_use]
    pub fn room(&self) -> Room {
        let mut files: BTreeSet<Inode> = self.open.keys().copied().collect();
        for node in self.nodes.values() {
            if let Node::Folder(folder) = node {
                files.extend(folder.live.values());
            }
        }
        let used = files.iter().filter_map(|inode| self.facts(*inode).ok()).map(|facts| facts.allocated).sum();
        Room { capacity: self.capacity, used }
    }

    /// Keeps a file for as long as somebody has it open, also without a name.
    pub fn open(&mut self, inode: Inode) {
        *self.open.entry(inode).or_default() += 1;
    }

    /// Takes back one [`Disk::open`].
    pub fn close(&mut self, inode: Inode) {
        if let Some(times) = self.open.get_mut(&inode) {
            *times -= 1;
            if *times == 0 {
                self.open.remove(&inode);
            }
        }
    }

    /// Part of the content of a file; less where it ends.
    ///
    /// # Errors
    /// `inode` is no file.
    pub fn read(&self, inode: Inode, at: usize, len: usize) -> Result<Vec<u8>, Fault> {
        match self.nodes.get(&inode) {
            Some(Node::File(file)) => Ok(file.live.read(at, len)),
            Some(Node::Folder(_)) => Err(Fault::IsFolder),
            None => Err(Fault::NotFound),
        }
    }

    /// Writes into a file at byte `at`; what lies between its end and there becomes a hole.
    ///
    /// # Errors
    /// `inode` is no file, or [`Fault::Full`], and nothing was written.
    pub fn write(&mut self, inode: Inode, at: usize, bytes: &[u8]) -> Result<(), Fault> {
        let needed = self.file(inode)?.live.needed(at, bytes.len());
        if needed > 0 && self.capacity < usize::MAX && self.room().used + needed > self.capacity {
            return Err(Fault::Full);
        }
        let file = self.file(inode)?;
        file.live.write(at, bytes);
        file.unsynced.push(Change::Write { at, bytes: bytes.into() });
        Ok(())
    }

    /// Shortens a file, or lengthens it with a hole.
    ///
    /// # Errors
    /// `inode` is no file.
    pub fn set_len(&mut self, inode: Inode, len: usize) -> Result<(), Fault> {
        let file = self.file(inode)?;
        file.live.set_len(len);
        file.unsynced.push(Change::Length(len));
        Ok(())
    }

    /// Gives a file one more name.
    ///
    /// # Errors
    /// [`Fault::Exists`], or `inode` is no file, or `folder` none.
    pub fn link(&mut self, inode: Inode, folder: Inode, name: &str) -> Result<(), Fault> {
        self.file(inode)?;
        if self.folder(folder)?.live.contains_key(name) {
            return Err(Fault::Exists);
        }
        self.change_names(Renaming(vec![(folder, name.into(), Some(inode))]));
        Ok(())
    }

    /// Removes a name. What it referred to stays readable by its number while it is open.
    ///
    /// # Errors
    /// [`Fault::NotFound`], or [`Fault::NotEmpty`] for a folder that holds something.
    pub fn remove(&mut self, folder: Inode, name: &str) -> Result<(), Fault> {
        let inode = self.find(folder, name)?;
        if self.folder(inode).is_ok_and(|f| !f.live.is_empty()) {
            return Err(Fault::NotEmpty);
        }
        self.change_names(Renaming(vec![(folder, name.into(), None)]));
        Ok(())
    }

    /// Moves a name, over another one if there is.
    ///
    /// # Errors
    /// [`Fault::NotFound`], or [`Fault::NotEmpty`] if a folder that holds something is in the way.
    pub fn rename(&mut self, from: (Inode, &str), to: (Inode, &str)) -> Result<(), Fault> {
        let inode = self.find(from.0, from.1)?;
        let there = self.folder(to.0)?.live.get(to.1).copied();
        if there == Some(inode) {
            return Ok(());
        }
        if there.is_some_and(|there| self.folder(there).is_ok_and(|f| !f.live.is_empty())) {
            return Err(Fault::NotEmpty);
        }
        self.change_names(Renaming(vec![(from.0, from.1.into(), None), (to.0, to.1.into(), Some(inode))]));
        Ok(())
    }

    /// Makes durable what was written to a file, or which names a folder holds.
    ///
    /// # Errors
    /// [`Fault::NotFound`].
    pub fn sync(&mut self, inode: Inode) -> Result<(), Fault> {
        match self.nodes.get_mut(&inode).ok_or(Fault::NotFound)? {
            Node::File(file) => {
                let unsynced = std::mem::take(&mut file.unsynced);
                if file.failed {
                    unsynced.iter().for_each(|change| change.apply(&mut file.durable));
                } else {
                    file.durable.clone_from(&file.live);
                }
            }
            Node::Folder(_) => {
                // A rename between two folders takes with it what happened in the other one before.
                let mut folders = BTreeSet::from([inode]);
                let mut durable = vec![false; self.names.len()];
                for (at, renaming) in self.names.iter().enumerate().rev() {
                    if renaming.0.iter().any(|(folder, ..)| folders.contains(folder)) {
                        folders.extend(renaming.0.iter().map(|(folder, ..)| *folder));
                        durable[at] = true;
                    }
                }
                for (renaming, durable) in std::mem::take(&mut self.names).into_iter().zip(durable) {
                    if durable {
                        self.persist(&renaming);
                    } else {
                        self.names.push(renaming);
                    }
                }
                self.forget_unreachable();
            }
        }
        Ok(())
    }

    /// A sync that fails: readers still see what was written, and no later sync makes it durable. Names stay as they are.
    ///
    /// # Errors
    /// [`Fault::NotFound`].
    pub fn fail_sync(&mut self, inode: Inode) -> Result<(), Fault> {
        if let Node::File(file) = self.nodes.get_mut(&inode).ok_or(Fault::NotFound)? {
            file.unsynced.clear();
            file.failed = true;
        }
        Ok(())
    }

    /// Files that no name leads to, now or after any cut, and that nobody has open.
    fn forget_unreachable(&mut self) {
        let mut reachable: BTreeSet<Inode> = self.open.keys().copied().chain([ROOT]).collect();
        for node in self.nodes.values() {
            if let Node::Folder(folder) = node {
                reachable.extend(folder.live.values().chain(folder.durable.values()));
            }
        }
        reachable.extend(self.names.iter().flat_map(|renaming| renaming.0.iter().filter_map(|(_, _, target)| *target)));
        self.nodes.retain(|inode, _| reachable.contains(inode));
    }

    fn persist(&mut self, renaming: &Renaming) {
        for (folder, name, target) in &renaming.0 {
            if let Some(Node::Folder(folder)) = self.nodes.get_mut(folder) {
                set(&mut folder.durable, name, *target);
            }
        }
    }

    /// What is there after every process was killed: all of it, durable or not, but nobody has anything open.
    #[must_use]
    pub fn killed(mut self) -> Disk {
        self.open.clear();
        self
    }

    /// What is there after the power was cut now: one of the many possible states, chosen by `chance`.
    #[must_use]
    pub fn cut(mut self, chance: &mut Chance) -> Disk {
        let mut lost: BTreeSet<(Inode, String)> = BTreeSet::new();
        for renaming in std::mem::take(&mut self.names) {
            let touched = || renaming.0.iter().map(|(folder, name, _)| (*folder, name.clone()));
            if touched().any(|name| lost.contains(&name)) || chance.below(2) == 0 {
                lost.extend(touched());
            } else {
                self.persist(&renaming);
            }
        }
        let sector = if chance.below(2) == 0 { 512 } else { 4096 };
        let mut survivors = BTreeMap::new();
        let mut reachable = vec![ROOT];
        while let Some(inode) = reachable.pop() {
            let Some(mut node) = self.nodes.remove(&inode) else { continue };
            match &mut node {
                Node::File(file) => file.cut(sector, chance),
                Node::Folder(folder) => {
                    folder.live.clone_from(&folder.durable);
                    reachable.extend(folder.live.values());
                }
            }
            survivors.insert(inode, node);
        }
        Disk { nodes: survivors, next: self.next, names: Vec::new(), open: BTreeMap::new(), capacity: self.capacity }
    }
}

fn set(entries: &mut Entries, name: &str, target: Option<Inode>) {
    match target {
        Some(inode) => entries.insert(name.into(), inode),
        None => entries.remove(name),
    };
}

impl File {
    fn cut(&mut self, sector: usize, chance: &mut Chance) {
        for change in std::mem::take(&mut self.unsynced) {
            match (chance.below(3), change) {
                (0, _) => {}
                (1, Change::Write { at, bytes }) => {
                    let mut done = 0;
                    while done < bytes.len() {
                        // Up to the next boundary of the disk, wherever the write began.
                        let end = bytes.len().min(done + sector - (at + done) % sector);
                        if chance.below(2) == 0 {
                            self.durable.write(at + done, &bytes[done..end]);
                        }
                        done = end;
                    }
                }
                (_, change) => change.apply(&mut self.durable),
            }
        }
        self.live.clone_from(&self.durable);
        self.failed = false;
    }
}

impl Change {
    fn apply(&self, to: &mut Pages) {
        match self {
            Change::Write { at, bytes } => to.write(*at, bytes),
            Change::Length(len) => to.set_len(*len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Many cuts of the same disk.
    fn cuts(disk: &Disk) -> Vec<Disk> {
        (0..200).map(|seed| disk.clone().cut(&mut Chance::from_seed(seed))).collect()
    }

    fn synced(content: &[u8]) -> (Disk, Inode) {
        let mut disk = Disk::default();
        let file = disk.create(ROOT, "a").expect("new");
        disk.write(file, 0, content).expect("a file");
        disk.sync(file).expect("there");
        disk.sync(ROOT).expect("there");
        (disk, file)
    }

    #[test]
    fn what_was_synced_survives_every_cut() {
        let (disk, file) = synced(&[7; 9000]);
        for cut in cuts(&disk) {
            assert_eq!(cut.find(ROOT, "a"), Ok(file));
            assert_eq!(cut.read(file, 0, usize::MAX), Ok(vec![7; 9000]));
        }
    }

    #[test]
    fn an_unsynced_write_survives_whole_torn_at_a_sector_or_not_at_all() {
        let (mut disk, file) = synced(&[0; 16384]);
        disk.write(file, 100, &[1; 16000]).expect("a file");
        let (mut whole, mut none, mut torn) = (0, 0, 0);
        for cut in cuts(&disk) {
            let content = cut.read(file, 0, usize::MAX).expect("there");
            assert_eq!(content.len(), 16384);
            match content[100..16100].iter().filter(|b| **b == 1).count() {
                16000 => whole += 1,
                0 => none += 1,
                _ => torn += 1,
            }
            for at in 101..16100 {
                assert!(content[at] == content[at - 1] || at % 512 == 0, "torn inside a sector, at {at}");
            }
        }
        assert!(whole > 20 && none > 20 && torn > 20, "{whole} whole, {none} none, {torn} torn");
    }

    #[test]
    fn a_later_write_may_survive_an_earlier_one() {
        let (mut disk, file) = synced(&[0; 2]);
        disk.write(file, 0, &[1]).expect("a file");
        disk.write(file, 1, &[1]).expect("a file");
        assert!(cuts(&disk).iter().any(|cut| cut.read(file, 0, usize::MAX) == Ok(vec![0, 1])));
    }

    #[test]
    fn a_synced_file_without_its_folder_may_lose_its_name() {
        let mut disk = Disk::default();
        let file = disk.create(ROOT, "a").expect("new");
        disk.sync(file).expect("there");
        let found = cuts(&disk).iter().filter(|cut| cut.find(ROOT, "a").is_ok()).count();
        assert!(found > 20 && found < 180, "{found} of 200");
    }

    #[test]
    fn a_rename_over_a_file_leaves_the_old_or_the_new_one() {
        let (mut disk, old) = synced(b"old");
        let new = disk.create(ROOT, "new").expect("new");
        disk.sync(ROOT).expect("there");
        disk.rename((ROOT, "new"), (ROOT, "a")).expect("there");
        let mut renamed = 0;
        for cut in cuts(&disk) {
            match (cut.find(ROOT, "a"), cut.find(ROOT, "new")) {
                (Ok(a), Ok(b)) => assert_eq!((a, b), (old, new)),
                (Ok(a), Err(Fault::NotFound)) => {
                    assert_eq!(a, new);
                    renamed += 1;
                }
                other => panic!("half a rename: {other:?}"),
            }
        }
        assert!(renamed > 20 && renamed < 180, "{renamed} of 200");
    }

    #[test]
    fn the_sync_of_one_folder_takes_a_move_between_two_with_it() {
        let (mut disk, file) = synced(b"x");
        let folder = disk.create_folder(ROOT, "f").expect("new");
        disk.rename((ROOT, "a"), (folder, "b")).expect("there");
        disk.sync(folder).expect("there");
        for cut in cuts(&disk) {
            assert_eq!(cut.find(folder, "b"), Ok(file));
            assert_eq!(cut.find(ROOT, "a"), Err(Fault::NotFound));
        }
        assert_eq!(disk.remove(ROOT, "f"), Err(Fault::NotEmpty));
    }

    #[test]
    fn what_a_failed_sync_left_behind_is_never_durable() {
        let (mut disk, file) = synced(&[0; 3]);
        disk.write(file, 0, &[1]).expect("a file");
        disk.fail_sync(file).expect("there");
        disk.write(file, 2, &[2]).expect("a file");
        disk.sync(file).expect("there");
        assert_eq!(disk.read(file, 0, 3), Ok(vec![1, 0, 2]), "readers do not see it");
        for cut in cuts(&disk) {
            assert_eq!(cut.read(file, 0, 3), Ok(vec![0, 0, 2]));
        }
    }

    #[test]
    fn room_is_taken_by_what_has_a_name_or_is_open() {
        let (mut disk, file) = synced(&[1; 5000]);
        disk.set_capacity(8192);
        assert_eq!(disk.room(), Room { capacity: 8192, used: 8192 });
        let other = disk.create(ROOT, "b").expect("new");
        assert_eq!(disk.write(other, 0, &[1]), Err(Fault::Full));
        assert_eq!(disk.write(file, 5000, &[1; 100]), Ok(()), "in place");
        disk.open(file);
        disk.link(file, ROOT, "c").expect("a free name");
        assert_eq!(disk.path(other).as_deref(), Some("b"));
        disk.remove(ROOT, "a").expect("there");
        disk.remove(ROOT, "c").expect("there");
        disk.sync(ROOT).expect("there");
        assert_eq!(disk.room().used, 8192);
        disk.close(file);
        assert_eq!(disk.room().used, 0);
        disk.sync(ROOT).expect("there");
        assert_eq!(disk.facts(file), Err(Fault::NotFound));
    }
}
