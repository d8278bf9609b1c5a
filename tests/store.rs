//! What the directory of documents promises, on a real file system, with the process killed while it writes.

mod tool;

use nwfilter::service::store::{Fault, LIMIT, Lock, Store};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;
use tool::InTime;

fn store(directory: &Path) -> Store {
    Store::open(&directory.join("filters")).unwrap()
}

fn loaded(store: &Store) -> Vec<(String, Option<String>)> {
    store.load().unwrap().into_iter().map(|document| (document.name, document.text.ok())).collect()
}

#[test]
fn what_is_saved_is_loaded_and_what_is_deleted_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    assert_eq!(loaded(&store), []);
    for (name, text) in [("b ü", "one"), ("a", "two"), ("b ü", "three")] {
        store.save(name, text).unwrap();
    }
    assert_eq!(loaded(&store), [("a".into(), Some("two".into())), ("b ü".into(), Some("three".into()))]);
    assert!(store.delete("a").unwrap());
    assert!(!store.delete("a").unwrap(), "there was none any more");
    assert_eq!(loaded(&store).len(), 1);
}

#[test]
fn only_the_owner_reads_directory_and_files() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("others/filters")).unwrap();
    store.save("a", "text").unwrap();
    assert_eq!(fs::metadata(store.path()).unwrap().mode() & 0o777, 0o700);
    let others = fs::metadata(directory.path().join("others")).unwrap().mode();
    assert_eq!(others & 0o055, 0o055, "the directory above is no secret: libvirt's clients read files there");
    assert_eq!(fs::metadata(store.path().join("a.xml")).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_directory_open_to_others_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = store(directory.path()).path().to_owned();
    fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(Store::open(&path), Err(Fault::Open(_))));
}

#[test]
fn no_name_leads_out_of_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    File::create(directory.path().join("victim.xml")).unwrap();
    let long = "x".repeat(129);
    for name in ["", ".", "..", "../victim", "a/b", "/etc/passwd", ".hidden", "a\0b", "a\nb", &long] {
        assert!(matches!(store.save(name, "text"), Err(Fault::Name(..))), "{name:?} was saved");
        assert!(matches!(store.delete(name), Err(Fault::Name(..))), "{name:?} was deleted");
    }
    assert_eq!(fs::read(directory.path().join("victim.xml")).unwrap(), b"");
}

#[test]
fn what_is_no_document_is_refused_and_hides_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let file = |name: &str| store.path().join(name);
    store.save("good", "text").unwrap();
    symlink("/etc/passwd", file("link.xml")).unwrap();
    fs::create_dir(file("directory.xml")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, file("pipe.xml"), rustix::fs::Mode::RWXU).unwrap();
    std::os::unix::net::UnixListener::bind(file("socket.xml")).unwrap();
    fs::write(file("bytes.xml"), [0xff]).unwrap();
    fs::write(file("line\nfeed.xml"), "text").unwrap();
    File::create(file("large.xml")).unwrap().set_len(LIMIT + 1).unwrap();
    fs::write(file("ignored.txt"), "text").unwrap();
    fs::write(file(".ignored.xml"), "text").unwrap();

    let kind = |fault: Fault| match fault {
        Fault::NotAFile(_) => "not a file",
        Fault::TooLarge(_) => "too large",
        Fault::Name(..) => "name",
        other => panic!("{other}"),
    };
    let found: Vec<_> =
        store.load().unwrap().into_iter().map(|d| (d.name, d.text.map_or_else(kind, |_| "good"))).collect();
    let expected = [
        // No text is no XML, which is reported with its place when it is read.
        ("bytes", "good"),
        ("directory", "not a file"),
        ("good", "good"),
        ("large", "too large"),
        ("line\nfeed", "name"),
        ("link", "not a file"),
        ("pipe", "not a file"),
        ("socket", "not a file"),
    ];
    assert_eq!(found, expected.map(|(name, kind)| (name.into(), kind)));
}

#[test]
fn a_symlink_in_a_documents_place_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let victim = directory.path().join("victim");
    fs::write(&victim, "old").unwrap();
    symlink(&victim, store.path().join("a.xml")).unwrap();
    store.save("a", "new").unwrap();
    assert_eq!(fs::read_to_string(victim).unwrap(), "old");
    assert_eq!(loaded(&store), [("a".into(), Some("new".into()))]);
}

#[test]
fn a_failed_write_leaves_the_old_document() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    store.save("a", "old").unwrap();
    assert!(matches!(store.save("a", &"x".repeat(LIMIT as usize + 1)), Err(Fault::TooLarge(_))));
    fs::remove_dir_all(store.path()).unwrap();
    assert!(store.save("a", "new").unwrap_err().is_missing());
}

#[test]
fn a_second_instance_is_refused_until_the_first_ends() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/lock");
    let first = Lock::take(&path).unwrap();
    assert!(matches!(Lock::take(&path), Err(Fault::Locked(_))));
    drop(first);
    let again = Lock::take(&path).unwrap();
    let mut child = child("holds_the_lock", directory.path());
    assert_eq!(child.status_in_time().unwrap().code(), Some(7), "another process is refused too");
    drop(again);
}

/// Runs one of the tests below in a process of its own; a variable says what to do.
fn child(test: &str, directory: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env("NWFILTER_TEST_CHILD", directory);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn reported() -> Option<std::path::PathBuf> {
    std::env::var_os("NWFILTER_TEST_CHILD").map(Into::into)
}

/// The other process of the lock's test; alone it has nothing to do.
#[test]
fn holds_the_lock() {
    let Some(directory) = reported() else { return };
    let refused = matches!(Lock::take(&directory.join("run/lock")), Err(Fault::Locked(_)));
    std::process::exit(if refused { 7 } else { 0 });
}

/// A document that tells whether it is whole: a number, repeated.
fn numbered(number: u64) -> String {
    format!("{number:08}\n").repeat(1 + (number as usize * 37) % 5000)
}

fn number(text: &str) -> Option<u64> {
    let number = text.get(..8)?.parse().ok()?;
    (numbered(number) == text).then_some(number)
}

const KEPT: [&str; 3] = ["a", "b", "c"];

/// The writer that is killed; alone it has nothing to do.
#[test]
fn writes_until_it_is_killed() {
    let Some(directory) = reported() else { return };
    let store = store(&directory);
    for round in 1.. {
        for name in KEPT {
            store.save(name, &numbered(round)).unwrap();
        }
        store.save("comes and goes", &numbered(round)).unwrap();
        store.delete("comes and goes").unwrap();
    }
}

#[test]
fn a_kill_at_any_point_leaves_every_document_whole() {
    let directory = tempfile::tempdir().unwrap();
    let first = store(directory.path());
    KEPT.iter().for_each(|name| first.save(name, &numbered(0)).unwrap());
    let (mut leftovers, mut halfway) = (0, 0);
    for round in 0..100u64 {
        let mut writer = child("writes_until_it_is_killed", directory.path());
        sleep(Duration::from_micros(3000 + (round * 7919) % 17_000));
        writer.kill().unwrap();
        assert!(writer.status_in_time().unwrap().code().is_none(), "the writer ended by itself");

        leftovers += fs::read_dir(first.path()).unwrap().count() - first.load().unwrap().len();
        let mut seen = Vec::new();
        for document in store(directory.path()).load().unwrap() {
            let text = document.text.unwrap();
            seen.push(number(&text).unwrap_or_else(|| panic!("{} is torn", document.name)));
        }
        assert!(seen.len() == KEPT.len() || seen.len() == KEPT.len() + 1, "{seen:?}");
        halfway += usize::from(seen[0] != seen[2]);
        assert_eq!(fs::read_dir(first.path()).unwrap().count(), seen.len(), "leftovers are swept");
    }
    println!("100 kills: {leftovers} unfinished files swept, {halfway} between two documents");
    assert!(leftovers > 0, "no kill came during a write");
}
