//! A document that was written or deleted, and can be as it was again until it is kept.
//!
//! What was there before lies aside under a name that no reader looks at. To go back is to rename, which needs no room on the
//! disk. What a process that dies leaves aside is swept when the directory is opened again: its change stands.

use super::files::Directory;
use super::{Fault, LIMIT, SUFFIX, Store, UNFINISHED, fault, file_name};
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::rc::Rc;

/// A change of one document that is in its place, but not necessarily on the disk before [`Staged::sync`].
#[derive(Debug)]
pub struct Staged {
    directory: Rc<dyn Directory>,
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
        let new = self.directory.write_new(text).map_err(&io)?;
        // From here on the name is that of what was there before, or free.
        let before =
            self.put_in_place(&new, &file).inspect_err(|_| drop(self.directory.unlink(new.as_ref())));
        Ok(Staged { directory: self.directory.clone(), path, file, before: before.map_err(io)? })
    }

    /// Deletes a document, if there is one.
    pub fn stage_delete(&self, name: &str) -> Result<Staged, Fault> {
        let file = self.regular(file_name(name)?)?;
        let path = self.path.join(&file);
        let aside = format!("{UNFINISHED}{file}");
        let before = match self.directory.rename(&file, &aside) {
            Ok(()) => Before::Aside(aside),
            Err(error) if error.kind() == ErrorKind::NotFound => Before::Same,
            Err(error) => return Err(fault("delete", &path)(error)),
        };
        Ok(Staged { directory: self.directory.clone(), path, file, before })
    }

    /// The file, whose place no directory has.
    fn regular(&self, file: String) -> Result<String, Fault> {
        let is_directory = self.directory.is_directory(&file);
        if is_directory { Err(Fault::NotAFile(self.path.join(file))) } else { Ok(file) }
    }

    /// Exchanges the new file with what is there; where that is impossible, what is there gets a second name first.
    fn put_in_place(&self, new: &str, file: &str) -> io::Result<Before> {
        let (directory, aside) = (&self.directory, format!("{UNFINISHED}{file}"));
        match directory.exchange(new, file) {
            Ok(()) => return Ok(Before::Aside(new.into())),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                directory.rename(new, file)?;
                return Ok(Before::Nothing);
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {}
            Err(error) => return Err(error),
        }
        directory.link(file, &aside)?;
        directory.rename(new, file)?;
        Ok(Before::Aside(aside))
    }
}

impl Staged {
    /// When this returns, the change is on the disk.
    pub fn sync(&self) -> Result<(), Fault> {
        if self.before == Before::Same {
            return Ok(());
        }
        self.directory.sync().map_err(fault("sync", &self.path))
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
            Before::Aside(aside) => self.directory.rename(aside, &self.file),
            Before::Nothing => self.directory.unlink(self.file.as_ref()),
            Before::Same => return Ok(()),
        };
        match back {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(fault("put back", &self.path)(error)),
            // Or it is back since an earlier try.
            Ok(()) | Err(_) => self.sync(),
        }
    }

    /// Forgets what was there before. What of it stays is swept when the directory is opened again.
    pub fn keep(self) {
        if let Before::Aside(aside) = &self.before {
            let _ = self.directory.unlink(aside.as_ref());
        }
    }
}
