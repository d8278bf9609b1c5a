//! What `packaging/install` puts where, and what it leaves alone.

mod tool;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use tool::InTime;

/// Installs the binaries of this build below a directory.
fn install(root: &Path, prefix: &str) {
    let built = Path::new(env!("CARGO_BIN_EXE_nwfilter")).parent().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/install");
    let output = Command::new(script).args([built, root]).args([prefix, "/etc"]).output_in_time().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Every file below a directory, with its mode.
fn tree(root: &Path) -> BTreeSet<(String, u32)> {
    let (mut found, mut open) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                open.push(entry);
                continue;
            }
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            let name = entry.strip_prefix(root).unwrap().to_str().unwrap();
            found.insert((name.to_owned(), mode));
        }
    }
    found
}

fn names(folder: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(name)
        .collect()
}

#[test]
fn everything_has_its_place() {
    let root = TempDir::new().unwrap();
    install(root.path(), "/usr");
    let mut expected: BTreeSet<(String, u32)> = BTreeSet::new();
    let mut expect = |name: String, mode: u32| {
        expected.insert((name, mode));
    };
    expect("usr/bin/nwfilter".into(), 0o755);
    expect("usr/sbin/nwfilterd".into(), 0o755);
    expect("usr/share/bash-completion/completions/nwfilter".into(), 0o644);
    expect("usr/share/zsh/site-functions/_nwfilter".into(), 0o644);
    expect("usr/share/fish/vendor_completions.d/nwfilter.fish".into(), 0o644);
    expect("etc/nwfilter/nwfilterd.conf".into(), 0o644);
    expect("usr/lib/systemd/system/nwfilterd.service.d/before-253.conf".into(), 0o644);
    names("packaging/systemd")
        .into_iter()
        .for_each(|unit| expect(format!("usr/lib/systemd/system/{unit}"), 0o644));
    for filter in names("filters") {
        expect(format!("usr/share/nwfilter/filters/{filter}"), 0o644);
        expect(format!("etc/libvirt/nwfilter/{filter}"), 0o600);
    }
    names("schema").into_iter().for_each(|file| expect(format!("usr/share/nwfilter/schema/{file}"), 0o644));
    let (pages, rest): (BTreeSet<_>, BTreeSet<_>) =
        tree(root.path()).into_iter().partition(|(name, _)| name.starts_with("usr/share/man/"));
    assert_eq!(rest, expected);
    for page in ["man1/nwfilter.1", "man1/nwfilter-apply.1", "man8/nwfilterd.8"] {
        assert!(pages.contains(&(format!("usr/share/man/{page}"), 0o644)), "{page} is not among {pages:?}");
    }
    let page = fs::read_to_string(root.path().join("usr/share/man/man8/nwfilterd.8")).unwrap();
    assert!(page.contains(".TH nwfilterd 8") && page.contains("runtime"), "{page}");
}

#[test]
fn units_start_what_was_installed() {
    let root = TempDir::new().unwrap();
    install(root.path(), "/opt/nwfilter");
    let unit = root.path().join("opt/nwfilter/lib/systemd/system/nwfilterd.service");
    let unit = fs::read_to_string(unit).unwrap();
    assert!(unit.contains("\nExecStart=/opt/nwfilter/sbin/nwfilterd "), "{unit}");
}

#[test]
fn what_people_edited_stays() {
    let root = TempDir::new().unwrap();
    install(root.path(), "/usr");
    let edited = ["etc/nwfilter/nwfilterd.conf", "etc/libvirt/nwfilter/clean-traffic.xml"];
    edited.iter().for_each(|file| fs::write(root.path().join(file), "mine").unwrap());
    install(root.path(), "/usr");
    for file in edited {
        assert_eq!(fs::read_to_string(root.path().join(file)).unwrap(), "mine", "{file}");
    }
}
