//! Socket files and descriptors: whose they are, who may open them, and when they go.

use crate::served::Served;
use nwfilter::service::rpc::Listeners;
use nwfilter::service::rpc::listen::{ListenError, NAME, NAME_READ_ONLY, Permissions};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

fn bind(directory: &Path) -> Result<Listeners, ListenError> {
    Listeners::bind(directory, Permissions::default())
}

#[test]
fn socket_files_have_the_mode_and_group_they_are_to_have() {
    let directory = tempfile::tempdir().unwrap();
    let mode = |name: &str| fs::metadata(directory.path().join(name)).unwrap().permissions().mode() & 0o7777;
    let listeners = bind(directory.path()).unwrap();
    assert_eq!((mode(NAME), mode(NAME_READ_ONLY)), (0o600, 0o666));
    drop(listeners);
    let group = rustix::process::getegid().as_raw();
    let permissions = Permissions { group: Some(group), mode: 0o660, mode_read_only: 0o660 };
    let _listeners = Listeners::bind(directory.path(), permissions).unwrap();
    assert_eq!((mode(NAME), mode(NAME_READ_ONLY)), (0o660, 0o660));
    assert_eq!(fs::metadata(directory.path().join(NAME)).unwrap().gid(), group);
}

#[test]
fn a_socket_file_is_taken_over_only_from_the_dead() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(NAME);
    let alive = UnixListener::bind(&path).unwrap();
    assert!(matches!(bind(directory.path()), Err(ListenError::InUse(at)) if at == path));
    assert!(UnixStream::connect(&path).is_ok(), "the file of the living was touched");
    drop(alive);
    assert!(fs::metadata(&path).unwrap().file_type().is_socket(), "the dead left their file");
    drop(bind(directory.path()).unwrap());
    assert!(!path.exists(), "and ours was left behind");

    fs::write(&path, "precious").unwrap();
    assert!(matches!(bind(directory.path()), Err(ListenError::InTheWay(at)) if at == path));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert!(matches!(bind(&directory.path().join("missing")), Err(ListenError::System(..))));
}

#[test]
fn handed_over_sockets_are_distinguished_by_their_path() {
    let directory = tempfile::tempdir().unwrap();
    let listening = |name: &str| OwnedFd::from(UnixListener::bind(directory.path().join(name)).unwrap());
    let (full, read_only) = (listening(NAME), listening(NAME_READ_ONLY));
    let again = full.try_clone().unwrap();
    let twice = full.try_clone().unwrap();
    let listeners = Listeners::from_fds([read_only, full]).unwrap();
    let path = |listener: &Option<nwfilter::service::rpc::listen::Listener>| {
        let address = listener.as_ref().unwrap().socket.local_addr().unwrap();
        address.as_pathname().unwrap().file_name().unwrap().to_owned()
    };
    assert_eq!((path(&listeners.full), path(&listeners.read_only)), (NAME.into(), NAME_READ_ONLY.into()));
    drop(listeners);
    assert!(directory.path().join(NAME).exists(), "the file is systemd's, not ours");

    let refused = |fds: Vec<OwnedFd>, why: &str| {
        let error = Listeners::from_fds(fds).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    refused(vec![again, twice], "came twice");
    refused(vec![listening("virtnwfilterd-admin-sock")], "is none of ours");
    refused(vec![UnixStream::pair().unwrap().0.into()], "no socket with a path");
    refused(vec![fs::File::open("/dev/null").unwrap().into()], "no socket with a path");
    let bound = std::os::unix::net::UnixDatagram::bind(directory.path().join("other")).unwrap();
    fs::rename(directory.path().join("other"), directory.path().join("moved")).unwrap();
    refused(vec![bound.into()], "is not listening");
}

#[test]
fn a_server_that_stops_takes_its_socket_files_along() {
    let mut served = Served::new();
    served.stop();
    assert!(!served.path(NAME).exists() && !served.path(NAME_READ_ONLY).exists());
}
