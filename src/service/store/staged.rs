//! A document that was written or deleted, and can be as it was again until it is kept.
//!
//! What was there before lies aside under a name that no reader looks at. To go back is to rename, which needs no room on the
//! disk. What a process that dies leaves aside is swept when the directory is opened again: its change stands.

use super::{Fault, LIMIT, SUFFIX, Store, UNFINISHED, fault, file_name};
use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

/// A change of one document that is in its place, but not necessarily on the disk before [`Staged::sync`].
#[derive(Debug)]
pub struct Staged {
    directory: Arc<File>,
    path: PathBuf,
    file: String,
    before: Before,
}

/// What was there before.
#[derive(Debug, PartialEq, Eq)]
enum Before {
    /// This file has it.
    Aside(String),
    /// No document, but now there is one.
    Nothing,
    /// No document, as now.
    Same,
}

/// The document that lies aside under this name since it was deleted.
pub(super) fn deleted(aside: &OsStr) -> Option<String> {
    Some(aside.to_str()?.strip_prefix(UNFINISHED)?.strip_suffix(SUFFIX)?.into())
}

impl Store {
    /// Writes a document, whole or not at all.
    pub fn stage_save(&self, name: &str, text: &str) -> Result<Staged, Fault> {
        self.stage_put(&file_name(name)?, text)
    }

    /// Writes a file that is no document, likewise.
    pub fn stage_put(&self, file: &str, text: &str) -> Result<Staged, Fault> {
        let file = self.regular(file.to_owned())?;
        let path = self.path.join(&file);
        if text.len() as u64 > LIMIT {
            return Err(Fault::TooLarge(path));
        }
        let io = fault("write", &path);
        let mut new = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.path).map_err(&io)?;
        new.write_all(text.as_bytes()).map_err(&io)?;
        new.as_file().sync_all().map_err(&io)?;
        let new = new.into_temp_path();
        let before = self.put_in_place(new.file_name().and_then(|name| name.to_str()), &file).map_err(io)?;
        // From here on the name is that of what was there before, or free.
        let _ = new.keep();
        Ok(Staged { directory: self.directory.clone(), path, file, before })
    }

    /// Deletes a document, if there is one.
    pub fn stage_delete(&self, name: &str) -> Result<Staged, Fault> {
        let file = self.regular(file_name(name)?)?;
        let path = self.path.join(&file);
        let aside = format!("{UNFINISHED}{file}");
        let before = match rustix::fs::renameat(&self.directory, &file, &self.directory, &aside) {
            Ok(()) => Before::Aside(aside),
            Err(Errno::NOENT) => Before::Same,
            Err(error) => return Err(fault("delete", &path)(error.into())),
        };
        Ok(Staged { directory: self.directory.clone(), path, file, before })
    }

    /// The file, whose place no directory has.
    fn regular(&self, file: String) -> Result<String, Fault> {
        let found = rustix::fs::statat(&self.directory, &file, AtFlags::SYMLINK_NOFOLLOW);
        let is_directory =
            found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory);
        if is_directory { Err(Fault::NotAFile(self.path.join(file))) } else { Ok(file) }
    }

    /// Exchanges the new file with what is there; where that is impossible, what is there gets a second name first.
    fn put_in_place(&self, new: Option<&str>, file: &str) -> io::Result<Before> {
        let new = new.ok_or(io::ErrorKind::InvalidFilename)?;
        let (directory, aside) = (&*self.directory, format!("{UNFINISHED}{file}"));
        match rustix::fs::renameat_with(directory, new, directory, file, RenameFlags::EXCHANGE) {
            Ok(()) => return Ok(Before::Aside(new.into())),
            Err(Errno::NOENT) => {
                rustix::fs::renameat(directory, new, directory, file)?;
                return Ok(Before::Nothing);
            }
            Err(Errno::INVAL | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        rustix::fs::linkat(directory, file, directory, &aside, AtFlags::empty())?;
        rustix::fs::renameat(directory, new, directory, file)?;
        Ok(Before::Aside(aside))
    }
}

impl Staged {
    /// When this returns, the change is on the disk.
    pub fn sync(&self) -> Result<(), Fault> {
        if self.before == Before::Same {
            return Ok(());
        }
        self.directory.sync_all().map_err(fault("sync", &self.path))
    }

    /// Whether there was a document before.
    pub fn replaces(&self) -> bool {
        matches!(self.before, Before::Aside(_))
    }

    /// The name of the document.
    pub fn name(&self) -> &str {
        self.file.strip_suffix(SUFFIX).unwrap_or(&self.file)
    }

    /// Puts back what was there before. Where it fails, it can be tried again.
    pub fn undo(&self) -> Result<(), Fault> {
        let back = match &self.before {
            Before::Aside(aside) => rustix::fs::renameat(&self.directory, aside, &self.directory, &self.file),
            Before::Nothing => rustix::fs::unlinkat(&self.directory, &self.file, AtFlags::empty()),
            Before::Same => return Ok(()),
        };
        match back {
            // It is back since an earlier try.
            Ok(()) | Err(Errno::NOENT) => self.sync(),
            Err(error) => Err(fault("put back", &self.path)(error.into())),
        }
    }

    /// Forgets what was there before. What of it stays is swept when the directory is opened again.
    pub fn keep(self) {
        if let Before::Aside(aside) = &self.before {
            let _ = rustix::fs::unlinkat(&self.directory, aside, AtFlags::empty());
        }
    }
}
