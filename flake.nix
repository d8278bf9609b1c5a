{
  description = "A netlink-native firewall engine for virtual machine interfaces";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" ];
      forEach = make: nixpkgs.lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
    in {
      packages = forEach (pkgs: {
        default = pkgs.rustPlatform.buildRustPackage {
          pname = "nwfilter";
          version = (builtins.fromTOML (builtins.readFile ./Cargo.toml)).package.version;
          src = self;
          cargoLock.lockFile = ./Cargo.lock;
          nativeBuildInputs = [ pkgs.pkg-config ];
          buildInputs = [ pkgs.libnftnl pkgs.libmnl ];
          # The tests make network namespaces, which the build sandbox does not allow.
          doCheck = false;
          meta = {
            license = pkgs.lib.licenses.gpl2Plus;
            mainProgram = "nwfilter";
            platforms = systems;
          };
        };
      });

      devShells = forEach (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ self.packages.${pkgs.system}.default ];
          packages = [ pkgs.cargo pkgs.clippy pkgs.rustfmt pkgs.nftables pkgs.libvirt pkgs.libxml2 pkgs.strace ];
        };
      });
    };
}
