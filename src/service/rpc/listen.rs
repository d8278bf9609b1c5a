//! The two sockets clients come to: made here, or handed over by systemd.
//!
//! A socket file is never open to more than its mode says, not even for a moment, and another daemon's
//! file is never removed: a file is removed only when no process listens on it.

use rustix::fs::Mode;
use socket2::{SockAddr, Socket, Type};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// The file name of the socket for reading and writing.
pub const NAME: &str = "virtnwfilterd-sock";
/// The file name of the socket for reading.
pub const NAME_READ_ONLY: &str = "virtnwfilterd-sock-ro";

/// The sockets clients come to, listening.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Clients of this one may do everything.
    pub full: Option<Listener>,
    /// Clients of this one may look.
    pub read_only: Option<Listener>,
}

/// One listening socket.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: UnixListener,
    /// Its file, where it was made here and is to be removed in the end.
    file: Option<PathBuf>,
}

/// Who may connect.
#[derive(Debug, Clone, Copy)]
pub struct Permissions {
    /// The group of both socket files; `None` leaves it to the system.
    pub group: Option<u32>,
    /// The mode of the socket for reading and writing.
    pub mode: u32,
    /// The mode of the socket for reading.
    pub mode_read_only: u32,
}

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process listens there already.
    #[error("{}: another daemon is listening", .0.display())]
    InUse(PathBuf),
    /// There is a file and it is no socket.
    #[error("{}: in the way, and not a socket", .0.display())]
    InTheWay(PathBuf),
    /// A descriptor was handed over that is not one of the two sockets.
    #[error("handed over: {0}")]
    Foreign(String),
    /// The system would not have it.
    #[error("{}: {error}", .0.display(), error = .1)]
    System(PathBuf, #[source] io::Error),
}

/// Connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 128;

impl Default for Permissions {
    fn default() -> Self {
        Permissions { group: None, mode: 0o600, mode_read_only: 0o666 }
    }
}

impl Listeners {
    /// Makes both sockets in `directory`, which must exist.
    pub fn bind(directory: &Path, permissions: Permissions) -> Result<Listeners, ListenError> {
        let Permissions { group, mode, mode_read_only } = permissions;
        Ok(Listeners {
            full: Some(Listener::bind(directory.join(NAME), group, mode)?),
            read_only: Some(Listener::bind(directory.join(NAME_READ_ONLY), group, mode_read_only)?),
        })
    }

    /// Takes sockets that systemd made; the file name tells which is which. Anything else is refused.
    pub fn from_fds(fds: impl IntoIterator<Item = OwnedFd>) -> Result<Listeners, ListenError> {
        let mut listeners = Listeners::default();
        for fd in fds {
            let (path, socket) = adopted(fd)?;
            let place = match path.file_name().and_then(|name| name.to_str()) {
                Some(NAME) => &mut listeners.full,
                Some(NAME_READ_ONLY) => &mut listeners.read_only,
                _ => return Err(ListenError::Foreign(format!("{} is none of ours", path.display()))),
            };
            if place.replace(Listener { socket, file: None }).is_some() {
                return Err(ListenError::Foreign(format!("{} came twice", path.display())));
            }
        }
        Ok(listeners)
    }
}

impl Listener {
    /// Makes one at this path, of this group where one is given.
    pub fn bind(path: PathBuf, group: Option<u32>, mode: u32) -> Result<Listener, ListenError> {
        remove_stale(&path)?;
        match open(&path, group, mode) {
            Ok(socket) => Ok(Listener { socket, file: Some(path) }),
            Err(error) => Err(ListenError::System(path, error)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.file {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Binds first and listens last: until then a connect is refused, so owner and mode are right in time.
fn open(path: &Path, group: Option<u32>, mode: u32) -> io::Result<UnixListener> {
    let socket = Socket::new(socket2::Domain::UNIX, Type::STREAM, None)?;
    // Linux makes the file with the mode of the socket itself, less the umask.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    socket.bind(&SockAddr::unix(path)?)?;
    if group.is_some() {
        chown(path, None, group)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(OwnedFd::from(socket).into())
}

fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let system = |error| ListenError::System(path.into(), error);
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system(error)),
        Ok(there) if !there.file_type().is_socket() => return Err(ListenError::InTheWay(path.into())),
        Ok(_) => (),
    }
    match connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(system)
        }
        // One that accepts no connection has a full queue.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(ListenError::InUse(path.into())),
        Err(error) => Err(system(error)),
        Ok(()) => Err(ListenError::InUse(path.into())),
    }
}

/// Whether a process listens there, without waiting to be accepted.
fn connect(path: &Path) -> io::Result<()> {
    let socket = Socket::new(socket2::Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// The path and the socket behind a descriptor, if it is a listening unix stream socket with a path.
fn adopted(fd: OwnedFd) -> Result<(PathBuf, UnixListener), ListenError> {
    let foreign = |what: &str| ListenError::Foreign(what.into());
    let socket = Socket::from(fd);
    let path = socket.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
    let path = path.ok_or_else(|| foreign("a descriptor that is no socket with a path"))?;
    if socket.r#type().ok() != Some(Type::STREAM) || !socket.is_listener().unwrap_or(false) {
        return Err(foreign(&format!("{} is not listening", path.display())));
    }
    socket.set_nonblocking(true).map_err(|error| ListenError::System(path.clone(), error))?;
    Ok((path, OwnedFd::from(socket).into()))
}
