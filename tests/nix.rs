//! The Nix files: each parses, and all evaluate against a nixpkgs of stubs. Whether NixOS likes what comes out is for its
//! own tests to say (`nix flake check`), which need the real nixpkgs.
//!
//! Without nix-instantiate they are skipped (see `tool`).

mod tool;

use std::path::{Path, PathBuf};
use std::process::Command;
use tool::{InTime, available};

fn instantiate(arguments: &[&str]) -> Option<String> {
    let home = tempfile::tempdir().unwrap();
    let store = home.path().join("store");
    let mut command = Command::new("nix-instantiate");
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    // A store of its own: there may be none, or none that may be written.
    command.env("NIX_REMOTE", format!("local?root={}", store.display())).env("HOME", home.path());
    if !available("nix-instantiate", "--tests") {
        return None;
    }
    let output = command.output_in_time().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

fn files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(root.join("nix")).unwrap().map(|entry| entry.unwrap().path());
    entries.chain([root.join("flake.nix")]).collect()
}

/// As much of nixpkgs as the files ask for.
const STUBS: &str = r#"
  lib = rec {
    genAttrs = names: make: builtins.listToAttrs (map (name: { inherit name; value = make name; }) names);
    licenses.gpl2Plus = "GPL-2.0-or-later";
    types = { package = "package"; bool = "bool"; str = "str"; nullOr = type: "null or ${type}"; };
    mkOption = option: assert option ? type && option ? description; option;
    mkEnableOption = what: { type = "bool"; description = what; default = false; };
    mkDefault = value: value;
    mkIf = condition: content: assert condition; content;
    literalExpression = text: text;
    optionalAttrs = condition: set: if condition then set else { };
    optional = condition: item: if condition then [ item ] else [ ];
    optionalString = condition: text: if condition then text else "";
    recursiveUpdate = left: right: left // builtins.mapAttrs
      (name: value: if builtins.isAttrs value && left ? ${name} then recursiveUpdate left.${name} value else value) right;
  };
  pkgs = rec {
    inherit lib;
    rustPlatform.buildRustPackage = package: package;
    pkg-config = "pkg-config"; libnftnl = "libnftnl"; libmnl = "libmnl"; nwfilter = "/pkg";
    cargo = "cargo"; clippy = "clippy"; rustfmt = "rustfmt"; nftables = "nftables"; libvirt = "libvirt";
    libxml2 = "libxml2"; strace = "strace"; iproute2 = "iproute2";
    formats.toml = _: { type = "toml"; generate = name: value: "/${name}:${builtins.toJSON value}"; };
    testers.runNixOSTest = test: test;
    mkShell = shell: shell;
    callPackage = file: arguments:
      let make = import file; in
      make (builtins.intersectAttrs (builtins.functionArgs make) pkgs // arguments);
  };
  flake = (import ./flake.nix).outputs {
    self = toString ./.;
    nixpkgs = { inherit lib; legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (_: pkgs); };
  };
  service = settings: (import ./nix/module.nix {
    inherit lib pkgs;
    config = { systemd.sockets = { }; services.nwfilter = {
      enable = true; package = "/pkg"; standardFilters = true; settings = { counters = true; };
      hardening = true; sockets = { group = null; readers = true; };
    } // settings; };
  });
"#;

fn check(expression: &str, expected: &str) {
    let text = format!("let {STUBS} in {expression}");
    if let Some(found) = instantiate(&["--eval", "--strict", "--json", "-E", &text]) {
        assert_eq!(found.trim(), expected, "{expression}");
    }
}

#[test]
fn every_file_parses() {
    let files = files();
    assert!(files.len() >= 4);
    for file in files {
        instantiate(&["--parse", file.to_str().unwrap()]);
    }
}

#[test]
fn the_flake_has_packages_checks_overlay_and_module() {
    check("builtins.attrNames flake", r#"["checks","devShells","nixosModules","overlays","packages"]"#);
    check("builtins.attrNames flake.checks.x86_64-linux", r#"["nftables","package","stateful","virsh"]"#);
    let version = format!("\"{}\"", env!("CARGO_PKG_VERSION"));
    check("flake.packages.aarch64-linux.default.version", &version);
    check("(flake.overlays.default pkgs { }).nwfilter.pname", "\"nwfilter\"");
    check(
        "(flake.nixosModules.default { inherit lib pkgs; }).services.nwfilter.package.pname",
        "\"nwfilter\"",
    );
    check("builtins.length flake.devShells.x86_64-linux.default.packages", "7");
}

#[test]
fn checks_boot_hosts_with_the_module_and_run_their_script() {
    let host = "(flake.checks.x86_64-linux.nftables.nodes.host { inherit pkgs; })";
    check(&format!("{host}.services.nwfilter.enable"), "true");
    check(&format!("builtins.length {host}.imports"), "2");
    check("builtins.match \".*restart nftables.*\" flake.checks.x86_64-linux.nftables.testScript", "[]");
}

#[test]
fn the_module_makes_a_service_of_its_options() {
    check(
        "builtins.attrNames (service { }).options.services.nwfilter",
        r#"["enable","hardening","package","settings","sockets","standardFilters"]"#,
    );
    let unit = "(service { }).config.systemd.services.nwfilterd";
    check(&format!("{unit}.restartIfChanged"), "false");
    check(
        &format!("{unit}.serviceConfig.ExecStart"),
        "\"/pkg/sbin/nwfilterd --config /etc/nwfilter/nwfilterd.conf\"",
    );
    check(&format!("{unit}.serviceConfig.ProtectSystem"), "\"strict\"");
    check(
        "(service { hardening = false; }).config.systemd.services.nwfilterd.serviceConfig ? ProtectSystem",
        "false",
    );
    check(
        "(service { }).config.environment.etc.\"nwfilter/nwfilterd.conf\".source",
        r#""/nwfilterd.toml:{\"counters\":true,\"standard_filters\":true}""#,
    );
    let families = |settings: &str| {
        format!(
            "builtins.length (service {{ settings = {settings}; }}).config.systemd.services.nwfilterd.serviceConfig.RestrictAddressFamilies"
        )
    };
    check(&families("{ }"), "3");
    check(&families("{ metrics = \"unix:/run/x\"; }"), "3");
    check(&families("{ metrics = \"127.0.0.1:9477\"; }"), "5");
    check(
        "(service { standardFilters = false; settings = { }; }).config.environment.etc.\"nwfilter/nwfilterd.conf\".source",
        r#""/nwfilterd.toml:{\"standard_filters\":false}""#,
    );
}

#[test]
fn the_module_stops_virtnwfilterd_and_warns_of_libvirtd() {
    let units = "let c = (service { }).config.systemd; in map (unit: unit.conflicts) \
                 [ c.services.nwfilterd c.sockets.nwfilterd c.sockets.nwfilterd-ro ]";
    check(units, r#"[["virtnwfilterd.service"],["virtnwfilterd.socket"],["virtnwfilterd-ro.socket"]]"#);
    check("(service { }).config.warnings", "[]");
    let beside = "(import ./nix/module.nix { inherit lib pkgs; config = { systemd.sockets = { }; \
                  virtualisation.libvirtd.enable = true; services.nwfilter = { enable = true; package = \"/pkg\"; \
                  standardFilters = true; settings = { }; hardening = true; sockets = { group = null; readers = true; }; }; }; })";
    check(&format!("builtins.length {beside}.config.warnings"), "1");
}

#[test]
fn sockets_are_roots_unless_a_group_is_named() {
    let socket = |options: &str| {
        let config = format!("(service {{ {options} }}).config.systemd.sockets.nwfilterd.socketConfig");
        format!("let s = {config}; in s.SocketMode + (s.SocketGroup or \"\")")
    };
    check(&socket(""), "\"0600\"");
    check(&socket("sockets = { group = \"libvirtd\"; readers = true; };"), "\"0660libvirtd\"");
    check(
        "(service { sockets = { group = null; readers = false; }; }).config.systemd.sockets ? nwfilterd-ro",
        "false",
    );
    check("(service { }).config.systemd.sockets.nwfilterd-ro.socketConfig.SocketMode", "\"0666\"");
}
