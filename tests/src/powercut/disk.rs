//! A filesystem in memory that knows what of it survives a power cut.
//!
//! Stricter than ext4 where they differ: the sync of a file says nothing about its name, only the sync of its folder does. Of what was
//! not synced any part may survive: each write whole, in some of its sectors or not at all, whatever became of those before it; each
//! change of a name or not, except that none survives without the earlier ones of the same names. A rename is one change: never half.
//! Left out: hard links, permissions, times, and a disk that loses or damages what was synced.

use std::collections::{BTreeMap, BTreeSet};

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
    /// A folder where a file is needed.
    IsFolder,
    /// A file where a folder is needed.
    NotFolder,
}

#[derive(Clone, Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Clone, Debug, Default)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
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
}

impl Default for Disk {
    fn default() -> Self {
        Disk { nodes: BTreeMap::from([(ROOT, Node::Folder(Folder::default()))]), next: ROOT + 1, names: Vec::new() }
    }
}

fn overwrite(data: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if data.len() < end {
        data.resize(end, 0);
    }
    data[at..end].copy_from_slice(bytes);
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

    /// The content of a file.
    ///
    /// # Errors
    /// `inode` is no file.
    pub fn content(&mut self, inode: Inode) -> Result<&[u8], Fault> {
        Ok(&self.file(inode)?.live)
    }

    /// Writes into a file at byte `at`; what lies between its end and there becomes zeros.
    ///
    /// # Errors
    /// `inode` is no file.
    pub fn write(&mut self, inode: Inode, at: usize, bytes: &[u8]) -> Result<(), Fault> {
        let file = self.file(inode)?;
        overwrite(&mut file.live, at, bytes);
        file.unsynced.push(Change::Write { at, bytes: bytes.to_vec() });
        Ok(())
    }

    /// Shortens a file, or lengthens it with zeros.
    ///
    /// # Errors
    /// `inode` is no file.
    pub fn set_len(&mut self, inode: Inode, len: usize) -> Result<(), Fault> {
        let file = self.file(inode)?;
        file.live.resize(len, 0);
        file.unsynced.push(Change::Length(len));
        Ok(())
    }

    /// Removes a name. What it referred to stays readable by its number until the cut.
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
                file.unsynced.clear();
                file.durable.clone_from(&file.live);
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
            }
        }
        Ok(())
    }

    fn persist(&mut self, renaming: &Renaming) {
        for (folder, name, target) in &renaming.0 {
            if let Some(Node::Folder(folder)) = self.nodes.get_mut(folder) {
                set(&mut folder.durable, name, *target);
            }
        }
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
        Disk { nodes: survivors, next: self.next, names: Vec::new() }
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
                            overwrite(&mut self.durable, at + done, &bytes[done..end]);
                        }
                        done = end;
                    }
                }
                (_, Change::Write { at, bytes }) => overwrite(&mut self.durable, at, &bytes),
                (_, Change::Length(len)) => self.durable.resize(len, 0),
            }
        }
        self.live.clone_from(&self.durable);
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
        for mut cut in cuts(&disk) {
            assert_eq!(cut.find(ROOT, "a"), Ok(file));
            assert_eq!(cut.content(file), Ok(&[7; 9000][..]));
        }
    }

    #[test]
    fn an_unsynced_write_survives_whole_torn_at_a_sector_or_not_at_all() {
        let (mut disk, file) = synced(&[0; 16384]);
        disk.write(file, 100, &[1; 16000]).expect("a file");
        let (mut whole, mut none, mut torn) = (0, 0, 0);
        for mut cut in cuts(&disk) {
            let content = cut.content(file).expect("there").to_vec();
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
        assert!(cuts(&disk).iter_mut().any(|cut| cut.content(file) == Ok(&[0, 1][..])));
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
}
