//! The file operations that documents and journals are made of, so that a model of a disk can stand for one.

use super::{LIMIT, UNFINISHED};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A disk, or a model of one.
pub trait Disk: Debug {
    /// Opens a directory, and makes it where it is missing: mode 0700, its parents as others make directories.
    fn directory(&self, path: &Path) -> io::Result<Rc<dyn Directory>>;
    /// Opens a file for appending, or makes it and its directory; with what it holds, up to `limit` bytes.
    fn lines(&self, path: &Path, limit: u64) -> io::Result<(Box<dyn Lines>, String)>;
    /// What a file holds, up to `limit` bytes; nothing of one that cannot be read.
    fn text(&self, path: &Path, limit: u64) -> String;
    /// Replaces a file, whole or not at all. What was opened before is another file from then on.
    fn replace(&self, path: &Path, text: &str) -> io::Result<Box<dyn Lines>>;
}

/// An open directory. Names are those of files in it.
pub trait Directory: Debug {
    /// Whether any user can put files there.
    fn is_open_to_all(&self) -> io::Result<bool>;
    /// All names.
    fn names(&self) -> io::Result<Vec<OsString>>;
    /// The bytes of a regular file, up to one more than [`LIMIT`]. Neither follows a link nor waits for the writer of a pipe; what is
    /// no regular file is [`ErrorKind::IsADirectory`].
    fn read(&self, file: &str) -> io::Result<Vec<u8>>;
    /// Whether a directory has this name.
    fn is_directory(&self, file: &str) -> bool;
    /// Writes a file under a name that no reader looks at, and syncs it. Returns the name.
    fn write_new(&self, text: &str) -> io::Result<String>;
    /// Gives a file another name, whose file is gone then.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Exchanges the names of two files.
    fn exchange(&self, one: &str, other: &str) -> io::Result<()>;
    /// Gives a file a second name.
    fn link(&self, file: &str, name: &str) -> io::Result<()>;
    /// Takes a name away.
    fn unlink(&self, file: &OsStr) -> io::Result<()>;
    /// When this returns, all that was done to names is on the disk.
    fn sync(&self) -> io::Result<()>;
}

/// A file that grows.
pub trait Lines: Debug {
    /// Its length in bytes.
    fn end(&mut self) -> io::Result<u64>;
    /// Appends text; when this returns, it is on the disk.
    fn append(&mut self, text: &str) -> io::Result<()>;
    /// Cuts it off there; when this returns, that is on the disk.
    fn cut(&mut self, end: u64) -> io::Result<()>;
}

/// The disk of this machine.
#[derive(Debug)]
pub struct RealDisk;

#[derive(Debug)]
struct RealDirectory {
    path: PathBuf,
    open: File,
}

impl Disk for RealDisk {
    fn directory(&self, path: &Path) -> io::Result<Rc<dyn Directory>> {
        path.parent().map(std::fs::create_dir_all).transpose()?;
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let flags = OFlags::DIRECTORY.bits().cast_signed();
        let open = File::options().read(true).custom_flags(flags).open(path)?;
        Ok(Rc::new(RealDirectory { path: path.into(), open }))
    }

    fn lines(&self, path: &Path, limit: u64) -> io::Result<(Box<dyn Lines>, String)> {
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let mut file = append(path, 0o600)?;
        let text = text_of(&mut file, limit)?;
        Ok((Box::new(file), text))
    }

    fn text(&self, path: &Path, limit: u64) -> String {
        let file = open_regular(File::options().read(true), path);
        file.and_then(|mut file| text_of(&mut file, limit)).unwrap_or_default()
    }

    fn replace(&self, path: &Path, text: &str) -> io::Result<Box<dyn Lines>> {
        let directory = path.parent().unwrap_or(Path::new("."));
        let mut new = tempfile::Builder::new().prefix(UNFINISHED).append(true).tempfile_in(directory)?;
        new.write_all(text.as_bytes())?;
        new.as_file().sync_all()?;
        let file = new.persist(path).map_err(|failed| failed.error)?;
        Ok(Box::new(file))
    }
}

impl Directory for RealDirectory {
    fn is_open_to_all(&self) -> io::Result<bool> {
        Ok(self.open.metadata()?.mode() & 0o002 != 0)
    }

    fn names(&self) -> io::Result<Vec<OsString>> {
        self.path.read_dir()?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = match rustix::fs::openat(&self.open, file, flags, Mode::empty()).map(File::from) {
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => {
                return Err(ErrorKind::IsADirectory.into());
            }
            open => only_regular(open?)?,
        };
        let mut bytes = Vec::new();
        open.take(LIMIT + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn is_directory(&self, file: &str) -> bool {
        let found = rustix::fs::statat(&self.open, file, AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
    }

    fn write_new(&self, text: &str) -> io::Result<String> {
        let mut new = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.path)?;
        new.write_all(text.as_bytes())?;
        new.as_file().sync_all()?;
        let name =
            new.path().file_name().and_then(OsStr::to_str).ok_or(ErrorKind::InvalidFilename)?.to_owned();
        new.into_temp_path().keep().map_err(|failed| failed.error)?;
        Ok(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.open, from, &self.open, to)?)
    }

    fn exchange(&self, one: &str, other: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat_with(&self.open, one, &self.open, other, RenameFlags::EXCHANGE)?)
    }

    fn link(&self, file: &str, name: &str) -> io::Result<()> {
        Ok(rustix::fs::linkat(&self.open, file, &self.open, name, AtFlags::empty())?)
    }

    fn unlink(&self, file: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.open, file, AtFlags::empty())?)
    }

    fn sync(&self) -> io::Result<()> {
        self.open.sync_all()
    }
}

impl Lines for File {
    fn end(&mut self) -> io::Result<u64> {
        self.seek(SeekFrom::End(0))
    }

    fn append(&mut self, text: &str) -> io::Result<()> {
        self.write_all(text.as_bytes())?;
        self.sync_data()
    }

    fn cut(&mut self, end: u64) -> io::Result<()> {
        self.set_len(end)?;
        self.sync_data()
    }
}

/// Opens a file at its end for reading and writing, and makes it where it is missing.
pub(super) fn append(path: &Path, mode: u32) -> io::Result<File> {
    open_regular(File::options().read(true).append(true).create(true).mode(mode), path)
}

/// Follows no link and never blocks: what lies in a file's place is not trusted.
fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    options.custom_flags(flags).open(path).and_then(only_regular)
}

fn only_regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(ErrorKind::IsADirectory.into()) }
}

/// Whether something else than a file is there.
pub(super) fn is_odd(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    error.kind() == ErrorKind::IsADirectory
        || matches!(number, Some(libc::ELOOP | libc::ENXIO | libc::ENODEV))
}

fn text_of(file: &mut File, limit: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
