//! A directory of documents: one file `<name>.xml` for each, readable by its owner alone.
//!
//! A document on disk is always whole: it is written beside its place, synced, renamed into it, and the directory
//! synced, so that after a crash there is the old one or the new one. What lies in the directory is not
//! trusted: links, pipes, oversized files and odd names are refused, each with its own error. What a
//! document means, and whether its name fits its content, the caller decides.

pub mod files;
pub mod journal;
mod staged;

pub use staged::Staged;

use crate::document::xml::decode;
use files::{Directory, Disk, RealDisk};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The largest document taken: what fits one string of libvirt's protocol.
pub const LIMIT: u64 = 4 << 20;
/// Bytes of the longest name.
const NAME_LIMIT: usize = 128;
/// The directory of the status files of bindings, below the runtime directory, as libvirt has it.
pub const BINDINGS: &str = "nwfilter-binding";
/// The lock of the process that changes them, below the runtime directory.
pub const LOCK: &str = "nwfilterd.lock";

/// The ending of what was in the place of a file.
const ASIDE: &str = "aside";

const SUFFIX: &str = ".xml";
/// How the name of a file that is being written begins. The dot hides it from every reader of `*.xml`.
const UNFINISHED: &str = ".nwfilter-";

/// A directory of documents.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    directory: Rc<dyn Directory>,
    deleted: BTreeSet<String>,
}

/// One document found in the directory.
#[derive(Debug)]
pub struct Document {
    /// The name of its file without the suffix; as it could be read, where it is not valid.
    pub name: String,
    /// Its text, or why it was not read.
    pub text: Result<String, Fault>,
}

/// Holds the right to be the only instance, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// What the file system refused, or what was refused of it.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file system says no.
    #[error("{}: {doing}", path.display())]
    Io {
        /// What was to be done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A name that cannot be a file's.
    #[error("{0:?} cannot name a document: {1}")]
    Name(String, &'static str),
    /// A link, pipe, device or directory.
    #[error("{}: not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Larger than any document.
    #[error("{}: larger than {LIMIT} bytes", .0.display())]
    TooLarge(PathBuf),
    /// A directory where any user can put files.
    #[error("{}: other users can write to this directory", .0.display())]
    Open(PathBuf),
    /// A file whose content is not what it should be, and why.
    #[error("{}: not understood: {}", .0.display(), .1)]
    Content(PathBuf, String),
    /// Another instance holds the lock.
    #[error("{}: another instance is running", .0.display())]
    Locked(PathBuf),
}

impl Store {
    /// Opens a directory, and makes it (mode 0700; its parents as others make directories) where it is missing. Sweeps
    /// what an interrupted write left behind, so there must be no other writer: take the [`Lock`] first.
    ///
    /// Fails when other users can write to the directory.
    pub fn open(path: &Path) -> Result<Store, Fault> {
        Store::open_on(&RealDisk, path)
    }

    /// The same on another disk.
    pub fn open_on(disk: &dyn Disk, path: &Path) -> Result<Store, Fault> {
        let io = fault("open the directory", path);
        let directory = disk.directory(path).map_err(&io)?;
        if directory.is_open_to_all().map_err(&io)? {
            return Err(Fault::Open(path.into()));
        }
        let mut store = Store { path: path.into(), directory, deleted: BTreeSet::new() };
        store.sweep()?;
        // What an instance that was killed had not synced counts from now on. A disk that refuses this is no reason not to start.
        let _ = store.directory.sync();
        Ok(store)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The documents whose deletion was not kept when the last instance ended.
    pub fn deleted(&self) -> &BTreeSet<String> {
        &self.deleted
    }

    /// Writes a document, whole or not at all. When this returns, it is on the disk.
    pub fn save(&self, name: &str, text: &str) -> Result<(), Fault> {
        stand(self.stage_save(name, text)?).map(drop)
    }

    /// Writes a file that is no document, likewise.
    pub fn put(&self, file: &str, text: &str) -> Result<(), Fault> {
        stand(self.stage_put(file, text)?).map(drop)
    }

    /// Reads a file that is no document, as documents are read.
    pub fn get(&self, file: &str) -> Result<String, Fault> {
        self.read(file)
    }

    /// Deletes a document; whether there was one. When this returns, it is gone from the disk.
    pub fn delete(&self, name: &str) -> Result<bool, Fault> {
        stand(self.stage_delete(name)?)
    }

    /// Reads every `*.xml` of the directory, by name. One that cannot be read does not hide the others.
    pub fn load(&self) -> Result<Vec<Document>, Fault> {
        let mut names = self.names()?;
        names.retain(|name| name.as_bytes().ends_with(SUFFIX.as_bytes()) && name.as_bytes()[0] != b'.');
        names.sort();
        Ok(names.iter().map(|name| self.document(name)).collect())
    }

    fn names(&self) -> Result<Vec<std::ffi::OsString>, Fault> {
        self.directory.names().map_err(fault("list the directory", &self.path))
    }

    /// What cannot be deleted, since the file system is read-only or it is a directory, is no document, and stays.
    fn sweep(&mut self) -> Result<(), Fault> {
        for name in self.names()?.iter().filter(|name| name.as_bytes().starts_with(UNFINISHED.as_bytes())) {
            self.deleted.extend(staged::deleted(name));
            let _ = self.directory.unlink(name);
        }
        Ok(())
    }

    fn document(&self, file: &OsStr) -> Document {
        let shown = file.to_string_lossy();
        let name = shown.strip_suffix(SUFFIX).unwrap_or(&shown).to_owned();
        let text = match file.to_str() {
            Some(_) => file_name(&name).and_then(|file| self.read(&file)),
            None => Err(Fault::Name(name.clone(), "it is not UTF-8")),
        };
        Document { name, text }
    }

    fn read(&self, file: &str) -> Result<String, Fault> {
        let path = self.path.join(file);
        let bytes = match self.directory.read(file) {
            Err(error) if error.kind() == ErrorKind::IsADirectory => return Err(Fault::NotAFile(path)),
            bytes => bytes.map_err(fault("read", &path))?,
        };
        if bytes.len() as u64 > LIMIT {
            return Err(Fault::TooLarge(path));
        }
        Ok(decode(&bytes))
    }
}

impl Lock {
    /// Takes the lock of this file, which is made where it is missing and stays when the lock is given back.
    pub fn take(path: &Path) -> Result<Lock, Fault> {
        let io = fault("lock", path);
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(&io)?;
        }
        let file = files::append(path, 0o600).map_err(not_opened(path))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Fault::Locked(path.into())),
            Err(TryLockError::Error(e)) => Err(io(e)),
        }
    }
}

/// A change that stands alone: on the disk, or undone. Whether there was a document before.
fn stand(staged: Staged) -> Result<bool, Fault> {
    if let Err(fault) = staged.sync() {
        let _ = staged.undo();
        return Err(fault);
    }
    let replaces = staged.replaces();
    staged.keep();
    Ok(replaces)
}

/// Why a file was not opened.
fn not_opened(path: &Path) -> impl Fn(io::Error) -> Fault + use<> {
    let io = fault("open", path);
    let path = path.to_owned();
    move |error| if files::is_odd(&error) { Fault::NotAFile(path.clone()) } else { io(error) }
}

/// Replaces what a file holds. It is written in place: others may watch it.
pub fn overwrite(path: &Path, text: &str) -> Result<(), Fault> {
    let mut file = files::append(path, 0o644).map_err(not_opened(path))?;
    let written = file.set_len(0).and_then(|()| file.write_all(text.as_bytes()));
    written.map_err(fault("write", path))
}

/// Gives what cannot be read another name beside its own, so that nothing of it is lost. Where it is now.
pub fn put_aside(path: &Path) -> Result<PathBuf, Fault> {
    let asides = (0..).map(|number| path.with_extension(format!("{ASIDE}.{number}")));
    let aside = asides.into_iter().find(|aside| aside.symlink_metadata().is_err()).unwrap_or_default();
    std::fs::rename(path, &aside).map_err(fault("put aside", path))?;
    Ok(aside)
}

fn fault(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Fault + use<> {
    let path = path.to_owned();
    move |source| Fault::Io { doing, path: path.clone(), source }
}

/// The file of a document. No name leads out of the directory, hides a file or cannot be printed.
fn file_name(name: &str) -> Result<String, Fault> {
    let wrong = match name {
        "" => Some("it is empty"),
        _ if name.len() > NAME_LIMIT => Some("it is longer than 128 bytes"),
        _ if name.starts_with('.') => Some("it begins with a dot"),
        _ if name.contains('/') => Some("it contains a slash"),
        _ if name.contains(char::is_control) => Some("it contains a control character"),
        _ => None,
    };
    wrong.map_or_else(|| Ok(format!("{name}{SUFFIX}")), |why| Err(Fault::Name(name.into(), why)))
}

impl Fault {
    /// Whether nothing is there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Fault::Io { source, .. } if source.kind() == ErrorKind::NotFound)
    }
}
