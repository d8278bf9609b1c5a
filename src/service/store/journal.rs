//! A file that grows by lines, each on the disk before it counts, and is rewritten once most of them are history.
//!
//! What a line means, the caller decides. A rewritten file is whole or the old one. What is torn by a crash is the
//! last line at most: the next one begins on a line of its own. Lines can be taken back, which needs no room on the disk. A
//! file that cannot be written to is read, and written to as soon as it can be.

use super::files::{Disk, Lines, RealDisk};
use super::{Fault, fault, not_opened};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The file, open for appending where it can be.
#[derive(Debug)]
pub struct Journal {
    disk: Rc<dyn Disk>,
    path: PathBuf,
    file: Option<Box<dyn Lines>>,
    lines: usize,
    /// Where the file must be cut off before it grows: what comes after does not count.
    cut: Option<u64>,
}

/// Lines that were appended, as long as nothing else was.
#[derive(Debug)]
#[must_use]
pub struct Appended {
    end: u64,
    lines: usize,
}

/// More than any journal should hold: one that is larger is read to here.
pub const LIMIT: u64 = 64 << 20;

/// A journal with this many lines is not worth rewriting.
const FEW: usize = 1000;

impl Journal {
    /// Opens the file, or makes it and its directory, and reads what it holds.
    pub fn open(path: &Path) -> Result<(Journal, String), Fault> {
        Journal::open_on(Rc::new(RealDisk), path)
    }

    /// The same on another disk.
    pub fn open_on(disk: Rc<dyn Disk>, path: &Path) -> Result<(Journal, String), Fault> {
        let (mut file, text) = disk.lines(path, LIMIT).map_err(not_opened(path))?;
        if !text.is_empty() && !text.ends_with('\n') {
            file.append("\n").map_err(fault("open", path))?;
        }
        let lines = text.lines().count();
        Ok((Journal { disk, path: path.into(), file: Some(file), lines, cut: None }, text))
    }

    /// One that cannot be written to for now, and what can be read of it.
    pub fn unwritable(path: &Path) -> (Journal, String) {
        Journal::unwritable_on(Rc::new(RealDisk), path)
    }

    /// The same on another disk.
    pub fn unwritable_on(disk: Rc<dyn Disk>, path: &Path) -> (Journal, String) {
        let text = disk.text(path, LIMIT);
        let lines = text.lines().count();
        (Journal { disk, path: path.into(), file: None, lines, cut: None }, text)
    }

    /// Appends lines; when this returns, they are on the disk. Where it fails, nothing of them counts.
    pub fn append(&mut self, lines: &str) -> Result<Appended, Fault> {
        self.make_ready()?;
        let io = fault("write", &self.path);
        let Some(file) = &mut self.file else { return Err(io(io::ErrorKind::NotFound.into())) };
        let end = file.end().map_err(&io)?;
        if let Err(error) = file.append(lines) {
            // The disk may be full: what was written of it is taken back.
            self.cut = Some(end);
            let _ = self.settle();
            return Err(io(error));
        }
        let lines = lines.lines().count();
        self.lines += lines;
        Ok(Appended { end, lines })
    }

    /// Takes back the lines that were appended last. Where it fails, they are taken back before any other is written.
    pub fn take_back(&mut self, appended: &Appended) -> Result<(), Fault> {
        self.cut = Some(appended.end);
        self.lines -= appended.lines.min(self.lines);
        self.settle()
    }

    /// Cuts off what does not count, where that is still to be done.
    pub fn settle(&mut self) -> Result<(), Fault> {
        let Some(end) = self.cut else { return Ok(()) };
        if let Some(file) = &mut self.file {
            file.cut(end).map_err(fault("cut off", &self.path))?;
        }
        self.cut = None;
        Ok(())
    }

    /// Whether all that is in the file counts.
    pub fn is_settled(&self) -> bool {
        self.cut.is_none()
    }

    /// Opens the file where it is not, and cuts off what does not count.
    fn make_ready(&mut self) -> Result<(), Fault> {
        if self.file.is_none() {
            let (opened, _) = Journal::open_on(self.disk.clone(), &self.path)?;
            *self = opened;
        }
        self.settle()
    }

    /// Whether most lines are history, given how many would do.
    pub fn is_long(&self, needed: usize) -> bool {
        self.lines > FEW.max(needed * 20)
    }

    /// Replaces all lines by these. Where it fails, the old ones count.
    pub fn rewrite(&mut self, text: &str) -> Result<(), Fault> {
        let io = fault("write", &self.path);
        // From here on the new file has the name, so what is appended goes there whatever becomes of the directory.
        self.file = Some(self.disk.replace(&self.path, text).map_err(&io)?);
        (self.lines, self.cut) = (text.lines().count(), None);
        let directory = self.path.parent().unwrap_or(Path::new("."));
        self.disk.directory(directory).and_then(|directory| directory.sync()).map_err(&io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appended_lines_are_read_and_a_torn_one_spoils_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/addresses");
        let (mut journal, text) = Journal::open(&path).unwrap();
        assert_eq!(text, "");
        let _ = journal.append("one\ntwo\n").unwrap();
        std::fs::write(&path, "one\ntw").unwrap();
        let (mut journal, text) = Journal::open(&path).unwrap();
        assert_eq!(text, "one\ntw");
        let _ = journal.append("three\n").unwrap();
        assert_eq!(Journal::open(&path).unwrap().1, "one\ntw\nthree\n");
    }

    #[test]
    fn a_long_journal_is_rewritten_and_grows_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("addresses");
        let (mut journal, _) = Journal::open(&path).unwrap();
        assert!(!journal.is_long(0));
        let _ = journal.append(&"line\n".repeat(1001)).unwrap();
        assert!(journal.is_long(1) && !journal.is_long(100));
        journal.rewrite("kept\n").unwrap();
        assert!(!journal.is_long(1));
        let _ = journal.append("more\n").unwrap();
        assert_eq!(Journal::open(&path).unwrap().1, "kept\nmore\n");
    }

    #[test]
    fn a_link_in_its_place_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("addresses");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(Journal::open(&path).is_err());
    }

    #[test]
    fn a_rollback_removes_its_lines_and_keeps_earlier_ones() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("addresses");
        let (mut journal, _) = Journal::open(&path).unwrap();
        let _ = journal.append("one\n").unwrap();
        let two = journal.append("two\nthree\n").unwrap();
        journal.take_back(&two).unwrap();
        let _ = journal.append("four\n").unwrap();
        assert_eq!(Journal::open(&path).unwrap().1, "one\nfour\n");
    }

    #[test]
    fn one_that_could_not_be_opened_is_when_a_line_is_appended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("addresses");
        std::fs::write(&path, "one\n").unwrap();
        let (mut journal, text) = Journal::unwritable(&path);
        assert_eq!(text, "one\n");
        let _ = journal.append("two\n").unwrap();
        assert_eq!(Journal::open(&path).unwrap().1, "one\ntwo\n");
    }
}
