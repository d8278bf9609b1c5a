//! What an embedder gets of us: the crates of `--no-default-features --features kernel`.

mod tool;

use std::collections::BTreeSet;
use std::process::Command;
use tool::InTime;

/// The most crates, ours among them, that an embedder of documents, rule sets and netlink has to build.
const MOST: usize = 60;

#[test]
fn an_embedder_builds_few_crates() {
    let tree = ["tree", "--offline", "--locked", "--edges", "normal,build", "--prefix", "none"];
    let embedder = ["--no-default-features", "--features", "kernel"];
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(tree).args(embedder);
    let output = cargo.output_in_time().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let name = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let crates: BTreeSet<String> = text.lines().filter(|line| !line.is_empty()).map(name).collect();
    assert!(crates.len() <= MOST, "{} crates: {crates:#?}", crates.len());
    for service in ["clap", "toml", "tracing", "landlock", "prometheus-client", "afpacket", "pnet_packet"] {
        assert!(
            !crates.iter().any(|one| one.starts_with(&format!("{service} "))),
            "an embedder builds {service}"
        );
    }
}
