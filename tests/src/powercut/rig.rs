//! Mounts disks of [`super::disk`], so that programs can be run on them whose power is then cut.
//!
//! One mount holds many volumes, each a folder at its top with a disk of its own: a volume costs nothing to add, and none is ever
//! added twice, so that the kernel remembers nothing false. Nothing is cached or delayed on the way: a write has reached the disk's
//! cache when the call returns. Locks are the kernel's own.
//!
//! Left out: permissions, times, links that are symbolic, allocating without writing, mapping into memory for writing.
//! A process that is killed leaves its mount behind, without anything in it: `umount` of its temporary folder removes it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    AccessFlags, BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};
use tempfile::TempDir;

use super::disk::{Disk, Fault, Inode, ROOT};

/// What an operation that changes something does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes into a file.
    Write,
    /// Sets the length of a file.
    Length,
    /// Makes, removes or moves names in a folder.
    Names,
    /// Syncs a file or folder.
    Sync,
}

/// An operation that is about to happen.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// Counted per volume, from 1.
    pub number: u64,
    /// What it does.
    pub change: Change,
    /// The file or folder.
    pub inode: Inode,
    /// The disk before it happens.
    pub disk: &'a Disk,
}

/// What becomes of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It happens.
    Happens,
    /// It fails with an input/output error: a sync as [`Disk::fail_sync`], anything else without an effect.
    Fails,
}

/// Looks at every operation of a volume, and decides. Must not touch the mount.
pub type Watcher = Box<dyn FnMut(Operation<'_>) -> Verdict + Send>;

struct Mounted {
    disk: Disk,
    operations: u64,
    watcher: Option<Watcher>,
}

impl fmt::Debug for Mounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mounted").field("operations", &self.operations).finish_non_exhaustive()
    }
}

impl Mounted {
    fn verdict(&mut self, change: Change, inode: Inode) -> Verdict {
        self.operations += 1;
        let operation = Operation { number: self.operations, change, inode, disk: &self.disk };
        self.watcher.as_mut().map_or(Verdict::Happens, |watcher| watcher(operation))
    }

    /// Counts and announces an operation, then does it.
    fn change<T>(
        &mut self,
        change: Change,
        inode: Inode,
        act: impl FnOnce(&mut Disk) -> Result<T, Fault>,
    ) -> Result<T, Errno> {
        match self.verdict(change, inode) {
            Verdict::Happens => act(&mut self.disk).map_err(errno),
            Verdict::Fails => {
                if change == Change::Sync {
                    self.disk.fail_sync(inode).map_err(errno)?;
                }
                Err(Errno::EIO)
            }
        }
    }
}

#[derive(Debug, Default)]
struct Volumes {
    mounted: BTreeMap<u64, Mounted>,
    last: u64,
}

type Shared = Arc<Mutex<Volumes>>;

fn lock(shared: &Shared) -> MutexGuard<'_, Volumes> {
    // A watcher that panicked fails the operation underway; the others go on.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The mount.
#[derive(Debug)]
pub struct Rig {
    shared: Shared,
    session: Option<BackgroundSession>,
    dir: TempDir,
}

impl Rig {
    /// Mounts, without a volume yet.
    ///
    /// # Panics
    /// If this machine cannot mount. A test that needs it fails then: it must not seem to have passed.
    #[must_use]
    pub fn mount() -> Rig {
        let dir =
            tempfile::Builder::new().prefix("headwater-power-").tempdir().expect("a temporary directory can be made");
        let shared = Shared::default();
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::FSName("headwater-power".into()), MountOption::NoSuid, MountOption::NoDev];
        let session = fuser::spawn_mount(Served(Arc::clone(&shared)), dir.path(), &config).unwrap_or_else(|e| {
            panic!(
                "THE POWER CUT TESTS DID NOT RUN: no filesystem can be mounted ({e}). They need /dev/fuse (Linux: modprobe fuse; \
                 a container: --device /dev/fuse --cap-add SYS_ADMIN), and to be run by root or with the Debian package fuse3"
            )
        });
        Rig { shared, session: Some(session), dir }
    }

    /// Adds a disk.
    #[must_use]
    pub fn add(&self, disk: Disk) -> Volume {
        let mut volumes = lock(&self.shared);
        volumes.last += 1;
        let number = volumes.last;
        volumes.mounted.insert(number, Mounted { disk, operations: 0, watcher: None });
        Volume { shared: Arc::clone(&self.shared), number, path: self.dir.path().join(number.to_string()) }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let unmounted = self.session.take().map(BackgroundSession::umount_and_join);
        if let Some(Err(_in_use)) = unmounted {
            // A program that failed still has something open. What is left of the mount goes with its last file.
            let lazily = std::process::Command::new("umount").arg("--lazy").arg(self.dir.path()).status();
            if !lazily.is_ok_and(|status| status.success()) {
                eprintln!("{} stays mounted", self.dir.path().display());
            }
        }
    }
}

/// A disk that is mounted. Dropping it takes it away, whoever uses it.
#[derive(Debug)]
pub struct Volume {
    shared: Shared,
    number: u64,
    path: PathBuf,
}

impl Volume {
    /// Where its top folder is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn with<T>(&self, act: impl FnOnce(&mut Mounted) -> T) -> T {
        act(lock(&self.shared).mounted.get_mut(&self.number).expect("a volume stays until it is dropped"))
    }

    /// The disk as it is now.
    #[must_use]
    pub fn disk(&self) -> Disk {
        self.with(|mounted| mounted.disk.clone())
    }

    /// How many operations there were.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.with(|mounted| mounted.operations)
    }

    /// Limits the room to so many bytes.
    pub fn set_capacity(&self, bytes: usize) {
        self.with(|mounted| mounted.disk.set_capacity(bytes));
    }

    /// Shows every operation from now on to `watcher`, before it happens.
    pub fn watch(&self, watcher: impl FnMut(Operation<'_>) -> Verdict + Send + 'static) {
        self.with(|mounted| mounted.watcher = Some(Box::new(watcher)));
    }

    /// Takes the watcher back.
    pub fn unwatch(&self) {
        self.with(|mounted| mounted.watcher = None);
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        lock(&self.shared).mounted.remove(&self.number);
    }
}

/// What is not cached is asked for again.
const TTL: Duration = Duration::ZERO;
const NUMBER_BITS: u32 = 32;

fn errno(fault: Fault) -> Errno {
    match fault {
        Fault::NotFound => Errno::ENOENT,
        Fault::Exists => Errno::EEXIST,
        Fault::NotEmpty => Errno::ENOTEMPTY,
        Fault::Full => Errno::ENOSPC,
        Fault::IsFolder => Errno::EISDIR,
        Fault::NotFolder => Errno::ENOTDIR,
    }
}

fn name(name: &OsStr) -> Result<&str, Errno> {
    name.to_str().ok_or(Errno::EINVAL)
}

fn size(bytes: u64) -> Result<usize, Errno> {
    usize::try_from(bytes).map_err(|_| Errno::EFBIG)
}

/// The volume and the inode on it.
fn split(inode: INodeNo) -> (u64, Inode) {
    (inode.0 >> NUMBER_BITS, inode.0 & ((1 << NUMBER_BITS) - 1))
}

fn attributes(volume: u64, inode: Inode, disk: Option<&Disk>) -> Result<FileAttr, Errno> {
    let facts = disk.map(|disk| disk.facts(inode).map_err(errno)).transpose()?;
    let folder = facts.is_none_or(|facts| facts.folder);
    let me = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    Ok(FileAttr {
        ino: INodeNo((volume << NUMBER_BITS) | inode),
        size: facts.map_or(0, |facts| facts.len as u64),
        blocks: facts.map_or(0, |facts| facts.allocated as u64 / 512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if folder { FileType::Directory } else { FileType::RegularFile },
        perm: if folder { 0o755 } else { 0o644 },
        nlink: 1,
        uid: me.0,
        gid: me.1,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}

/// What the kernel asks.
struct Served(Shared);

impl Served {
    fn on<T>(
        &self,
        inode: INodeNo,
        act: impl FnOnce(&mut Mounted, u64, Inode) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (number, inode) = split(inode);
        let mut volumes = lock(&self.0);
        act(volumes.mounted.get_mut(&number).ok_or(Errno::ENODEV)?, number, inode)
    }

    /// Makes a name in a folder, and says what it leads to.
    fn make(
        &self,
        parent: INodeNo,
        act: impl FnOnce(&mut Disk, Inode) -> Result<Inode, Fault>,
    ) -> Result<(FileAttr, Inode), Errno> {
        self.on(parent, |mounted, number, folder| {
            let inode = mounted.change(Change::Names, folder, |disk| act(disk, folder))?;
            Ok((attributes(number, inode, Some(&mounted.disk))?, inode))
        })
    }
}

fn entry(reply: ReplyEntry, made: Result<FileAttr, Errno>) {
    match made {
        Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn empty(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Served {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // What a program writes in one call is one write of the disk, up to a frame of the log. An older kernel may take less.
        if let Err(most) = config.set_max_write(1 << 20) {
            let _accepted = config.set_max_write(most);
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEntry) {
        let found = if parent == INodeNo::ROOT {
            let number = child.to_str().and_then(|name| name.parse().ok());
            let volumes = lock(&self.0);
            let number = number.filter(|number| volumes.mounted.contains_key(number));
            number.ok_or(Errno::ENOENT).and_then(|number| attributes(number, ROOT, None))
        } else {
            self.on(parent, |mounted, number, folder| {
                let inode = mounted.disk.find(folder, name(child)?).map_err(errno)?;
                attributes(number, inode, Some(&mounted.disk))
            })
        };
        entry(reply, found);
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let found = if inode == INodeNo::ROOT {
            attributes(0, ROOT, None)
        } else {
            self.on(inode, |mounted, number, inode| attributes(number, inode, Some(&mounted.disk)))
        };
        match found {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        len: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let done = self.on(inode, |mounted, number, inode| {
            if let Some(len) = len {
                let len = size(len)?;
                mounted.change(Change::Length, inode, |disk| disk.set_len(inode, len))?;
            }
            attributes(number, inode, Some(&mounted.disk))
        });
        match done {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _request: &Request, parent: INodeNo, child: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        let made = name(child).and_then(|child| self.make(parent, |disk, folder| disk.create_folder(folder, child)));
        entry(reply, made.map(|made| made.0));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        let done = self.on(parent, |mounted, _, folder| {
            let child = name(child)?;
            mounted.change(Change::Names, folder, |disk| disk.remove(folder, child))
        });
        empty(reply, done);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        self.unlink(request, parent, child, reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        child: &OsStr,
        new_parent: INodeNo,
        new_child: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let done = self.on(parent, |mounted, number, folder| {
            let (volume, new_folder) = split(new_parent);
            if volume != number {
                return Err(Errno::EXDEV);
            }
            if !flags.is_empty() {
                return Err(Errno::EINVAL);
            }
            let (from, to) = ((folder, name(child)?), (new_folder, name(new_child)?));
            mounted.change(Change::Names, folder, |disk| disk.rename(from, to))
        });
        empty(reply, done);
    }

    fn link(&self, _request: &Request, inode: INodeNo, parent: INodeNo, child: &OsStr, reply: ReplyEntry) {
        let made = name(child).and_then(|child| {
            let (volume, inode) = split(inode);
            if volume != split(parent).0 {
                return Err(Errno::EXDEV);
            }
            self.make(parent, |disk, folder| disk.link(inode, folder, child).map(|()| inode))
        });
        entry(reply, made.map(|made| made.0));
    }

    fn open(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let done = self.on(inode, |mounted, _, inode| {
            mounted.disk.open(inode);
            Ok(())
        });
        match done {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _request: &Request,
        parent: INodeNo,
        child: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let made = name(child).and_then(|child| {
            self.make(parent, |disk, folder| {
                let inode = disk.create(folder, child)?;
                disk.open(inode);
                Ok(inode)
            })
        });
        match made {
            Ok((attributes, _)) => {
                reply.created(&TTL, &attributes, Generation(0), FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        len: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self
            .on(inode, |mounted, _, inode| mounted.disk.read(inode, size(offset)?, size(len.into())?).map_err(errno));
        match read {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let done = self.on(inode, |mounted, _, inode| {
            let at = size(offset)?;
            mounted.change(Change::Write, inode, |disk| disk.write(inode, at, data))
        });
        match (done, u32::try_from(data.len())) {
            (Ok(()), Ok(len)) => reply.written(len),
            (Ok(()), Err(_)) => reply.error(Errno::EFBIG),
            (Err(error), _) => reply.error(error),
        }
    }

    fn flush(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // The volume may be gone: then so is whatever was open on it.
        let _gone = self.on(inode, |mounted, _, inode| {
            mounted.disk.close(inode);
            Ok(())
        });
        reply.ok();
    }

    fn fsync(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        if inode == INodeNo::ROOT {
            return reply.ok();
        }
        empty(reply, self.on(inode, |mounted, _, inode| mounted.change(Change::Sync, inode, |disk| disk.sync(inode))));
    }

    fn fsyncdir(&self, request: &Request, inode: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.fsync(request, inode, handle, data_only, reply);
    }

    fn readdir(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = if inode == INodeNo::ROOT {
            let numbers = lock(&self.0).mounted.keys().copied().collect::<Vec<_>>();
            Ok(numbers.into_iter().map(|number| (number.to_string(), number << NUMBER_BITS | ROOT, true)).collect())
        } else {
            self.on(inode, |mounted, number, inode| {
                let names = mounted.disk.list(inode).map_err(errno)?;
                let kind = |inode| mounted.disk.facts(inode).is_ok_and(|facts| facts.folder);
                let names = names.into_iter().map(|(name, inode)| (name, number << NUMBER_BITS | inode, kind(inode)));
                Ok(names.collect::<Vec<_>>())
            })
        };
        let listed: Vec<(String, u64, bool)> = match listed {
            Ok(listed) => listed,
            Err(error) => return reply.error(error),
        };
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, (name, inode, folder)) in (1..).zip(listed).skip(skip) {
            let kind = if folder { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(inode), at, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _request: &Request, inode: INodeNo, reply: ReplyStatfs) {
        let room = self.on(inode, |mounted, _, _| Ok(mounted.disk.room()));
        let (blocks, free) = room.map_or((0, 0), |room| {
            // As much as a large disk has, where nobody set a limit.
            let capacity = room.capacity.min(1 << 40);
            (capacity as u64 / 4096, capacity.saturating_sub(room.used) as u64 / 4096)
        });
        reply.statfs(blocks, free, free, 1 << 20, 1 << 20, 4096, 255, 4096);
    }

    fn access(&self, _request: &Request, _inode: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, OpenOptions};
    use std::io::Write;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;
    use crate::chance::Chance;

    #[test]
    fn a_mounted_disk_does_what_files_do() {
        let rig = Rig::mount();
        let volume = rig.add(Disk::default());
        let top = volume.path();
        fs::create_dir(top.join("d")).expect("made");
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(top.join("d/a")).expect("open");
        file.write_all(&[1; 300_000]).expect("written");
        file.set_len(64 << 20).expect("longer");
        let meta = file.metadata().expect("known");
        assert_eq!((meta.len(), meta.blocks() * 512), (64 << 20, 303_104));
        file.write_all_at(&[2; 10], 299_995).expect("written");
        let mut read = [9; 12];
        file.read_exact_at(&mut read, 299_994).expect("read");
        assert_eq!(read, [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0]);
        fs::hard_link(top.join("d/a"), top.join("b")).expect("linked");
        fs::rename(top.join("b"), top.join("d/c")).expect("renamed");
        let mut names: Vec<_> =
            fs::read_dir(top.join("d")).expect("listed").map(|e| e.expect("an entry").file_name()).collect();
        names.sort();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(fs::remove_dir(top.join("d")).map_err(|e| e.kind()), Err(std::io::ErrorKind::DirectoryNotEmpty));
        for name in ["d/a", "d/c"] {
            fs::remove_file(top.join(name)).expect("removed");
        }
        fs::remove_dir(top.join("d")).expect("removed");
        file.read_exact_at(&mut read, 0).expect("an open file stays readable");
    }

    #[test]
    fn a_lock_is_held_against_others() {
        let rig = Rig::mount();
        let volume = rig.add(Disk::default());
        let [one, two] = [(); 2].map(|()| File::create(volume.path().join("l")).expect("open"));
        one.lock().expect("free");
        assert!(two.try_lock().is_err());
        drop(one);
        two.try_lock().expect("free again");
    }

    #[test]
    fn what_was_synced_is_there_after_the_cut_and_a_refused_sync_is_seen() {
        let rig = Rig::mount();
        let volume = rig.add(Disk::default());
        let file = File::create(volume.path().join("a")).expect("open");
        file.write_all_at(b"synced", 0).expect("written");
        file.sync_data().expect("synced");
        File::open(volume.path()).expect("open").sync_all().expect("synced");
        volume.watch(|operation| match operation.change {
            Change::Sync if operation.disk.path(operation.inode).as_deref() == Some("a") => Verdict::Fails,
            _ => Verdict::Happens,
        });
        file.write_all_at(b"not at", 0).expect("written");
        assert_eq!(file.sync_data().map_err(|e| e.raw_os_error()), Err(Some(rustix::io::Errno::IO.raw_os_error())));
        volume.unwatch();
        file.sync_data().expect("as a kernel does after a failure");
        assert_eq!(volume.operations(), 7);
        let after = rig.add(volume.disk().cut(&mut Chance::new()));
        assert_eq!(fs::read(after.path().join("a")).expect("there"), b"synced");
    }

    #[test]
    fn a_full_disk_says_so() {
        let rig = Rig::mount();
        let volume = rig.add(Disk::default());
        volume.set_capacity(8192);
        let file = File::create(volume.path().join("a")).expect("open");
        file.write_all_at(&[1; 8192], 0).expect("written");
        assert_eq!(file.write_all_at(&[1], 8192).map_err(|e| e.kind()), Err(std::io::ErrorKind::StorageFull));
        let stat = rustix::fs::statvfs(volume.path()).expect("known");
        assert_eq!((stat.f_blocks, stat.f_bavail), (2, 0));
    }
}
