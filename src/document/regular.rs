//! A path → what the regular file there holds.
//!
//! A pipe, device or directory that lies in a file's place is an error at once: opening it never waits for its other end. A link
//! is followed: an administrator may keep files elsewhere. This module does not know what the bytes mean.

use rustix::fs::OFlags;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes of the largest file that is read whole.
const LIMIT: u64 = 64 << 20;

/// The bytes of a file.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("larger than {LIMIT} bytes")));
    }
    Ok(bytes)
}

/// The text of a file, which must be UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

/// A file, open for reading.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused_and_a_link_to_one_followed() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name| directory.path().join(name);
        std::fs::write(place("file"), "text").unwrap();
        std::os::unix::fs::symlink(place("file"), place("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, place("pipe"), rustix::fs::Mode::RWXU).unwrap();
        assert_eq!(read_text(&place("link")).unwrap(), "text");
        for odd in [place("pipe"), directory.path().to_owned(), "/dev/zero".into()] {
            assert_eq!(read(&odd).unwrap_err().to_string(), "not a regular file", "{}", odd.display());
        }
    }

    #[test]
    fn a_file_without_end_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(LIMIT + 1).unwrap();
        assert_eq!(read(file.path()).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }
}
