# The package: both binaries, man pages, completions, units, filters and schemas.
{ lib, rustPlatform, pkg-config, libnftnl, libmnl, src }:

rustPlatform.buildRustPackage {
  pname = "nwfilter";
  version = (builtins.fromTOML (builtins.readFile "${src}/Cargo.toml")).package.version;
  inherit src;
  cargoLock.lockFile = "${src}/Cargo.lock";
  nativeBuildInputs = [ pkg-config ];
  buildInputs = [ libnftnl libmnl ];
  # The tests make network namespaces, which the build sandbox does not allow.
  doCheck = false;
  # Configuration is the module's affair; a package has no /etc.
  installPhase = ''
    runHook preInstall
    patchShebangs packaging/install
    packaging/install target/*/release $PWD/installed $out /etc
    cp -r "$PWD/installed$out" $out
    runHook postInstall
  '';
  meta = {
    description = "A netlink-native firewall engine for virtual machine interfaces";
    license = lib.licenses.gpl2Plus;
    mainProgram = "nwfilter";
    platforms = [ "x86_64-linux" "aarch64-linux" ];
  };
}
