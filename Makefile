# Everything a developer types. `make demo` on a fresh Debian machine needs git, make and cargo only.

CARGO   ?= cargo
PREFIX  ?= /usr/local
DESTDIR ?=
SYSCONFDIR ?= /etc

# Traffic tests make network namespaces, which needs root: cargo builds as you, tests run through sudo.
ifneq ($(shell id -u),0)
AS_ROOT = --config 'target."cfg(all())".runner = ["sudo", "-E"]'
endif

# The release that fresh tries.
DEBIAN ?= 12

# Pairs of a filter and a frame that fuzz-verdicts tries.
N    ?= 1000000
SEED ?= 1

.PHONY: demo test simulate fuzz-verdicts lint fresh install-test bench vm-test guest-test doc book install uninstall deb package-test qemu-test clean

demo:
	scripts/setup
	$(CARGO) run $(AS_ROOT) --example demo

# What scripts/setup --tests installs is there, so its absence is a fault.
test:
	scripts/setup --tests
	NWFILTER_REQUIRE=all $(CARGO) test $(AS_ROOT) --no-fail-fast --tests --examples
	$(CARGO) test $(AS_ROOT) --doc

# Random filters and frames: evaluator, slots, constants and kernel must agree.
fuzz-verdicts:
	scripts/setup --tests
	NWFILTER_REQUIRE=all NWFILTER_PAIRS=$(N) NWFILTER_SEED=$(SEED) $(CARGO) test $(AS_ROOT) --test differential -- --nocapture

# The two commands of README on a fresh Debian machine that this makes: make fresh DEBIAN=13, DEBIAN="12 13"
fresh:
	scripts/setup --fresh
	scripts/fresh $(DEBIAN)

# What README says of installing, on a fresh Debian machine that boots with systemd: make install-test DEBIAN="--book 12 13"
install-test:
	scripts/setup --fresh
	scripts/install-test $(DEBIAN)

lint:
	scripts/setup
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --example embed --no-default-features --features kernel -- -D warnings

bench:
	scripts/setup --tests
	$(CARGO) bench $(AS_ROOT)

# The daemon's decisions on a simulated machine, under faults by seed: make simulate SEED=1 STEPS=10000000. A failure names its seed.
simulate:
	SEED=$(SEED) STEPS=$(STEPS) cargo test --release --lib simulation::for_as_long_as_asked -- --ignored --nocapture

# The tests under the kernel of a distribution, which has what a slim kernel lacks: make vm-test KERNEL=all
vm-test:
	scripts/setup --vm
	vm-tests/run $(KERNEL)

# A real guest under QEMU on a tap of this host: it learns its address and tries to leave it. vm-test has another, with connections.
guest-test:
	scripts/setup --vm
	NWFILTER_REQUIRE=all $(CARGO) test $(AS_ROOT) --test guest -- --ignored --show-output --test-threads 1

# A domain's whole life with libvirt's own qemu driver, which talks to our daemon. The scripts that drive it are not in this
# repository: NWFILTER_PEER names their folder.
qemu-test:
	vm-tests/qemu --check
	scripts/setup --qemu
	$(CARGO) build --bins
	vm-tests/qemu

doc:
	scripts/setup
	$(CARGO) doc --no-deps

# The book as HTML, in target/book. Its test is part of `make test` and needs no mdbook.
book:
	scripts/setup --book
	PATH="$(CURDIR)/target/tools/bin:$$PATH" mdbook build docs

# Everything that a package holds, below DESTDIR, as `cargo build --release` built it: sudo has no cargo to build it with.
install:
	@test -x target/release/nwfilterd || { echo "nothing is built; run: cargo build --release --locked" >&2; exit 1; }
	packaging/install target/release "$(DESTDIR)" "$(PREFIX)" "$(SYSCONFDIR)"

# The opposite. What people wrote stays.
uninstall:
	packaging/uninstall "$(DESTDIR)" "$(PREFIX)" "$(SYSCONFDIR)"

# A Debian package, in target/debian.
deb:
	scripts/setup --deb
	$(CARGO) build --release --locked
	packaging/deb

# The package beside libvirt's, installed and purged in every order on a fresh Debian: make package-test DEBIAN=13
package-test: deb
	scripts/setup --fresh
	scripts/package-test $(DEBIAN)

clean:
	$(CARGO) clean
