{
  description = "A netlink-native firewall engine for virtual machine interfaces";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" ];
      forEach = make: nixpkgs.lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      package = pkgs: pkgs.callPackage ./nix/package.nix { src = self; };
      # The module with this flake's package, whatever overlays the host has.
      module = { lib, pkgs, ... }: {
        imports = [ ./nix/module.nix ];
        services.nwfilter.package = lib.mkDefault (package pkgs);
      };
    in {
      packages = forEach (pkgs: rec { nwfilter = package pkgs; default = nwfilter; });

      overlays.default = final: _: { nwfilter = package final; };

      nixosModules.default = module;

      checks = forEach (pkgs: { package = package pkgs; } // import ./nix/tests.nix { inherit pkgs module; });

      devShells = forEach (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ (package pkgs) ];
          packages = with pkgs; [ cargo clippy rustfmt nftables libvirt libxml2 strace ];
        };
      });
    };
}
