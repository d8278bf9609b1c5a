//! A disk that fills, forgets what was not synced and comes back read-only.
//!
//! What is synced stays. Of what was done to names since a directory was synced, a crash leaves some beginning. A file's content
//! is on the disk when the daemon has synced it, which it does before the file has a name that counts.

use super::machine::{DiskFault, Mutation, Shared, boundary, errno};
use crate::service::store::files::{Directory, Disk, Lines};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Debug, Formatter};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Names and contents, as a reader sees them and as they are on the medium.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    directories: BTreeMap<PathBuf, Names>,
    contents: BTreeMap<u64, String>,
    next: u64,
}

#[derive(Clone, Debug, Default)]
struct Names {
    seen: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    /// The names after each change since the last sync.
    unsynced: Vec<BTreeMap<String, u64>>,
}

#[derive(Clone)]
pub(super) struct SimulatedDisk(pub Shared);

struct Open {
    machine: Shared,
    path: PathBuf,
}

struct OpenLines {
    machine: Shared,
    inode: u64,
}

impl Model {
    /// What is left when the machine loses its power, or only its process.
    pub fn after_crash(&mut self, rng: &mut fastrand::Rng, power: bool) {
        for names in self.directories.values_mut() {
            if power {
                let kept = rng.usize(..=names.unsynced.len());
                let survivor = kept.checked_sub(1).map(|last| names.unsynced[last].clone());
                names.durable = survivor.unwrap_or_else(|| names.durable.clone());
                names.seen = names.durable.clone();
            }
            names.unsynced.clear();
        }
    }

    /// What lies in memory does not outlive the kernel.
    pub fn forget(&mut self, path: &Path) {
        self.directories.insert(path.into(), Names::default());
    }

    /// The names of the documents of a directory, with their texts.
    pub fn documents(&self, path: &Path) -> BTreeMap<String, String> {
        let names = self.directories.get(path).map(|names| names.seen.clone()).unwrap_or_default();
        let documents = names.into_iter().filter(|(name, _)| !name.starts_with('.'));
        documents.map(|(name, inode)| (name, self.contents[&inode].clone())).collect()
    }

    fn new_file(&mut self, text: &str) -> u64 {
        self.next += 1;
        self.contents.insert(self.next, text.to_owned());
        self.next
    }
}

impl Names {
    fn change(
        &mut self,
        change: impl FnOnce(&mut BTreeMap<String, u64>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut after = self.seen.clone();
        change(&mut after)?;
        self.seen = after.clone();
        self.unsynced.push(after);
        Ok(())
    }
}

/// What the disk says to a change that needs room, or to one that does not.
fn allowed(machine: &Shared, needs_room: bool) -> io::Result<()> {
    boundary(machine);
    let mut machine = machine.borrow_mut();
    match machine.faults.disk {
        Some(DiskFault::ReadOnly) => {
            machine.count("a change of a read-only disk");
            Err(errno(libc::EROFS))
        }
        Some(DiskFault::Full) if needs_room => {
            machine.count("a write to a full disk");
            Err(errno(libc::ENOSPC))
        }
        _ => Ok(()),
    }
}

impl Open {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, u64>) -> io::Result<()>) -> io::Result<()> {
        allowed(&self.machine, false)?;
        let mut machine = self.machine.borrow_mut();
        machine.disk.directories.entry(self.path.clone()).or_default().change(change)
    }

    fn names(&self) -> BTreeMap<String, u64> {
        self.machine.borrow().disk.directories[&self.path].seen.clone()
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Directory for Open {
    fn is_open_to_all(&self) -> io::Result<bool> {
        Ok(false)
    }

    fn names(&self) -> io::Result<Vec<OsString>> {
        Ok(Open::names(self).into_keys().map(OsString::from).collect())
    }

    fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        let inode = *Open::names(self).get(file).ok_or_else(missing)?;
        Ok(self.machine.borrow().disk.contents[&inode].clone().into_bytes())
    }

    fn is_directory(&self, _: &str) -> bool {
        false
    }

    fn write_new(&self, text: &str) -> io::Result<String> {
        allowed(&self.machine, true)?;
        let mut machine = self.machine.borrow_mut();
        let inode = machine.disk.new_file(text);
        let name = format!(".nwfilter-{inode}");
        let names = machine.disk.directories.entry(self.path.clone()).or_default();
        names.change(|names| {
            names.insert(name.clone(), inode);
            Ok(())
        })?;
        Ok(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let is_undo = from.starts_with('.') && !to.starts_with('.') && Open::names(self).contains_key(to);
        if is_undo && self.machine.borrow().is(Mutation::UndoLost) {
            return Ok(());
        }
        self.change(|names| {
            let inode = names.remove(from).ok_or_else(missing)?;
            names.insert(to.into(), inode);
            Ok(())
        })
    }

    fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        self.change(|names| {
            let first = *names.get(one).ok_or_else(missing)?;
            let second = *names.get(other).ok_or_else(missing)?;
            names.insert(one.into(), second);
            names.insert(other.into(), first);
            Ok(())
        })
    }

    fn link(&self, file: &str, name: &str) -> io::Result<()> {
        self.change(|names| {
            let inode = *names.get(file).ok_or_else(missing)?;
            names.insert(name.into(), inode);
            Ok(())
        })
    }

    fn unlink(&self, file: &OsStr) -> io::Result<()> {
        let file = file.to_string_lossy();
        self.change(|names| names.remove(&*file).map(drop).ok_or_else(missing))
    }

    fn sync(&self) -> io::Result<()> {
        boundary(&self.machine);
        let mut machine = self.machine.borrow_mut();
        if machine.faults.disk == Some(DiskFault::Unsynced) {
            machine.count("a sync that failed");
            return Err(errno(libc::EIO));
        }
        if !machine.is(Mutation::SyncLost) {
            let names = machine.disk.directories.entry(self.path.clone()).or_default();
            names.durable = names.seen.clone();
            names.unsynced.clear();
        }
        Ok(())
    }
}

impl Disk for SimulatedDisk {
    fn directory(&self, path: &Path) -> io::Result<Rc<dyn Directory>> {
        self.0.borrow_mut().disk.directories.entry(path.into()).or_default();
        Ok(Rc::new(Open { machine: self.0.clone(), path: path.into() }))
    }

    fn lines(&self, path: &Path, _: u64) -> io::Result<(Box<dyn Lines>, String)> {
        let (directory, name) = parts(path);
        let mut machine = self.0.borrow_mut();
        let names = machine.disk.directories.entry(directory.clone()).or_default();
        let inode = match names.seen.get(&name) {
            Some(inode) => *inode,
            None => {
                let inode = machine.disk.new_file("");
                let names = machine.disk.directories.entry(directory).or_default();
                names.change(|names| {
                    names.insert(name, inode);
                    Ok(())
                })?;
                inode
            }
        };
        let text = machine.disk.contents[&inode].clone();
        Ok((Box::new(OpenLines { machine: self.0.clone(), inode }), text))
    }

    fn text(&self, path: &Path, _: u64) -> String {
        let (directory, name) = parts(path);
        let machine = self.0.borrow();
        let inode = machine.disk.directories.get(&directory).and_then(|names| names.seen.get(&name));
        inode.map(|inode| machine.disk.contents[inode].clone()).unwrap_or_default()
    }

    fn replace(&self, path: &Path, text: &str) -> io::Result<Box<dyn Lines>> {
        allowed(&self.0, true)?;
        let (directory, name) = parts(path);
        let mut machine = self.0.borrow_mut();
        let inode = machine.disk.new_file(text);
        let names = machine.disk.directories.entry(directory).or_default();
        names.change(|names| {
            names.insert(name, inode);
            Ok(())
        })?;
        Ok(Box::new(OpenLines { machine: self.0.clone(), inode }))
    }
}

impl Lines for OpenLines {
    fn end(&mut self) -> io::Result<u64> {
        Ok(self.machine.borrow().disk.contents[&self.inode].len() as u64)
    }

    fn append(&mut self, text: &str) -> io::Result<()> {
        let outcome = allowed(&self.machine, true);
        let mut machine = self.machine.borrow_mut();
        // A disk that fills takes the beginning.
        let half = if machine.faults.disk == Some(DiskFault::Full) { text.len() / 2 } else { 0 };
        let taken = if outcome.is_ok() { text } else { &text[..half] };
        machine.disk.contents.entry(self.inode).or_default().push_str(taken);
        outcome
    }

    fn cut(&mut self, end: u64) -> io::Result<()> {
        allowed(&self.machine, false)?;
        let mut machine = self.machine.borrow_mut();
        machine.disk.contents.entry(self.inode).or_default().truncate(end as usize);
        Ok(())
    }
}

fn parts(path: &Path) -> (PathBuf, String) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    (path.parent().unwrap_or(Path::new("/")).into(), name)
}

impl Debug for SimulatedDisk {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("a simulated disk")
    }
}

impl Debug for Open {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} of a simulated disk", self.path.display())
    }
}

impl Debug for OpenLines {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "file {} of a simulated disk", self.inode)
    }
}
