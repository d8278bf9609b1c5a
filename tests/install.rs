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

/// Every folder below a directory.
fn folders(root: &Path) -> BTreeSet<PathBuf> {
    let (mut found, mut open) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        let entries = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
        open.extend(entries.filter(|path| path.is_dir()));
        found.insert(directory.strip_prefix(root).unwrap().to_owned());
    }
    found
}

/// Takes all of it away again; what is said of the rest.
fn uninstall(root: &Path, prefix: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/uninstall");
    let output = Command::new(script).arg(root).args([prefix, "/etc"]).output_in_time().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
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
    expect("usr/lib/systemd/system-generators/nwfilterd-generator".into(), 0o755);
    let units = names("packaging/systemd").into_iter().filter(|unit| !unit.ends_with("generator"));
    units.for_each(|unit| expect(format!("usr/lib/systemd/system/{unit}"), 0o644));
    names("filters")
        .into_iter()
        .for_each(|filter| expect(format!("usr/share/nwfilter/filters/{filter}"), 0o644));
    names("schema").into_iter().for_each(|file| expect(format!("usr/share/nwfilter/schema/{file}"), 0o644));
    let (pages, rest): (BTreeSet<_>, BTreeSet<_>) =
        tree(root.path()).into_iter().partition(|(name, _)| name.starts_with("usr/share/man/"));
    assert_eq!(rest, expected);
    for page in [
        "man1/nwfilter.1",
        "man1/nwfilter-apply.1",
        "man5/nwfilterd.conf.5",
        "man7/nwfilter-filter.7",
        "man8/nwfilterd.8",
    ] {
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
fn edited_files_survive_install_and_uninstall() {
    let root = TempDir::new().unwrap();
    let own = BTreeSet::from([
        ("etc/libvirt/nwfilter/clean-traffic.xml".to_owned(), 0o600),
        ("etc/nwfilter/nwfilterd.conf".to_owned(), 0o640),
        ("usr/share/man/man1/other.1".to_owned(), 0o644),
    ]);
    for (file, mode) in &own {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "mine").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
    }
    for common in ["usr/bin", "usr/sbin", "usr/lib"] {
        fs::create_dir(root.path().join(common)).unwrap();
    }
    let before = folders(root.path());
    install(root.path(), "/usr");
    install(root.path(), "/usr");
    for (file, _) in &own {
        assert_eq!(fs::read_to_string(root.path().join(file)).unwrap(), "mine", "{file}");
    }
    let said = uninstall(root.path(), "/usr");
    assert_eq!(tree(root.path()), own);
    assert_eq!(folders(root.path()), before);
    for place in ["/etc/libvirt/nwfilter", "/etc/nwfilter", "/var/lib/nwfilter", "rules in force"] {
        assert!(said.contains(place), "{said}");
    }
}

/// What make says and how it ends, in a copy of the Makefile without anything built and without cargo.
#[test]
fn installing_does_not_build() {
    let place = TempDir::new().unwrap();
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("Makefile"), place.path().join("Makefile")).unwrap();
    let mut make = Command::new("make");
    let output =
        make.args(["install", "CARGO=no-cargo-here"]).current_dir(place.path()).output_in_time().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("nothing is built; run: cargo build --release"), "{said}");
    assert!(!said.contains("no-cargo-here"), "{said}");
}

/// A package with these dependencies and nothing in it, checked as `make deb` does; whether it is still there, and what was said.
fn checked(depends: &str) -> (bool, String) {
    let place = TempDir::new().unwrap();
    let control = place.path().join("tree/DEBIAN/control");
    fs::create_dir_all(control.parent().unwrap()).unwrap();
    let head = "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n";
    fs::write(control, format!("{head}{depends}")).unwrap();
    let package = place.path().join("x.deb");
    let mut build = Command::new("dpkg-deb");
    let built = build.arg("--build").arg(place.path().join("tree")).arg(&package).output_in_time().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/deb");
    let output = Command::new(script).arg("--check").arg(&package).output_in_time().unwrap();
    assert_eq!(output.status.success(), package.exists());
    (package.exists(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_package_that_names_no_library_is_not_kept() {
    if Command::new("dpkg-deb").arg("--version").output_in_time().is_err() {
        println!("skipped: this is no Debian");
        return;
    }
    let whole = "Depends: libc6 (>= 2.34), libmnl0 (>= 1.0.3-4~), libnftnl11 (>= 1.1.2)\n";
    assert_eq!(checked(whole), (true, String::new()));
    for (depends, missing) in [
        ("", "libc6"),
        ("Depends: libc6 (>= 2.34)\n", "libmnl0"),
        ("Depends: libc6, libmnl0-dev, libnftnl11\n", "libmnl0"),
        ("Depends: libc6, libmnl0, xlibnftnl11\n", "libnftnl11"),
    ] {
        let (there, said) = checked(depends);
        assert!(!there && said.contains(&format!("would not depend on {missing} ")), "{depends:?}: {said}");
    }
}
