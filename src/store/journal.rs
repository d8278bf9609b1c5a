//! A file that grows by lines, each on the disk before it counts, and is written anew once most of them are history.
//!
//! What a line means is the caller's affair. A file written anew is whole or the old one. What is torn by a crash is the
//! last line at most: the next one begins on a line of its own.

use super::{Fault, UNFINISHED, fault};
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file, open for appending.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
}

/// More than any journal should hold: one that is larger is read to here.
const LIMIT: u64 = 64 << 20;

/// A journal with this many lines is not worth writing anew.
const FEW: usize = 1000;

impl Journal {
    /// Opens the file, or makes it and its directory, and reads what it holds.
    pub fn open(path: &Path) -> Result<(Journal, String), Fault> {
        let io = fault("open", path);
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(&io)?;
        }
        let mut file = append(path).map_err(&io)?;
        let mut bytes = Vec::new();
        (&mut file).take(LIMIT).read_to_end(&mut bytes).map_err(&io)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n").map_err(&io)?;
        }
        let lines = text.lines().count();
        Ok((Journal { path: path.into(), file, lines }, text))
    }

    /// Appends lines; when this returns, they are on the disk. Where it fails, nothing of them counts.
    pub fn append(&mut self, lines: &str) -> Result<(), Fault> {
        let io = fault("write", &self.path);
        let end = self.file.seek(SeekFrom::End(0)).map_err(&io)?;
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // The disk may be full: what was written of it is taken back.
            let _ = self.file.set_len(end);
            return Err(io(error));
        }
        self.lines += lines.lines().count();
        Ok(())
    }

    /// Whether most lines are history, given how many would do.
    pub fn is_long(&self, needed: usize) -> bool {
        self.lines > FEW.max(needed * 20)
    }

    /// Replaces all lines by these.
    pub fn rewrite(&mut self, text: &str) -> Result<(), Fault> {
        let io = fault("write", &self.path);
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let mut new = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(directory).map_err(&io)?;
        new.write_all(text.as_bytes()).map_err(&io)?;
        new.as_file().sync_all().map_err(&io)?;
        new.persist(&self.path).map_err(|e| io(e.error))?;
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(&io)?;
        self.file = append(&self.path).map_err(&io)?;
        self.lines = text.lines().count();
        Ok(())
    }
}

/// Follows no link: what lies in the directory is not trusted.
fn append(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    File::options().read(true).append(true).create(true).mode(0o600).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_is_read_again_and_a_torn_line_spoils_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/addresses");
        let (mut journal, text) = Journal::open(&path).unwrap();
        assert_eq!(text, "");
        journal.append("one\ntwo\n").unwrap();
        std::fs::write(&path, "one\ntw").unwrap();
        let (mut journal, text) = Journal::open(&path).unwrap();
        assert_eq!(text, "one\ntw");
        journal.append("three\n").unwrap();
        assert_eq!(Journal::open(&path).unwrap().1, "one\ntw\nthree\n");
    }

    #[test]
    fn a_long_journal_is_written_anew_and_grows_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("addresses");
        let (mut journal, _) = Journal::open(&path).unwrap();
        assert!(!journal.is_long(0));
        journal.append(&"line\n".repeat(1001)).unwrap();
        assert!(journal.is_long(1) && !journal.is_long(100));
        journal.rewrite("kept\n").unwrap();
        assert!(!journal.is_long(1));
        journal.append("more\n").unwrap();
        assert_eq!(Journal::open(&path).unwrap().1, "kept\nmore\n");
    }

    #[test]
    fn a_link_in_its_place_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("addresses");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(Journal::open(&path).is_err());
    }
}
