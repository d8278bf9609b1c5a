# Everything a developer types. `make demo` on a fresh Debian machine needs git, make and cargo only.

CARGO   ?= cargo
PREFIX  ?= /usr/local
DESTDIR ?=

# Traffic tests make network namespaces, which needs root: cargo builds as you, tests run through sudo.
ifneq ($(shell id -u),0)
AS_ROOT = --config 'target."cfg(all())".runner = ["sudo", "-E"]'
endif

# Pairs of a filter and a frame that fuzz-verdicts tries.
N    ?= 1000000
SEED ?= 1

.PHONY: demo test fuzz-verdicts lint bench vm-test qemu-test doc install clean

demo:
	scripts/setup
	$(CARGO) run $(AS_ROOT) --example demo

test:
	scripts/setup
	$(CARGO) test $(AS_ROOT) --tests --examples
	$(CARGO) test $(AS_ROOT) --doc

# Random filters and frames: evaluator, slots, constants and kernel must agree.
fuzz-verdicts:
	scripts/setup
	NWFILTER_PAIRS=$(N) NWFILTER_SEED=$(SEED) $(CARGO) test $(AS_ROOT) --test differential -- --nocapture

lint:
	scripts/setup
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

bench:
	scripts/setup
	$(CARGO) bench $(AS_ROOT)

# The traffic tests under the kernel of a distribution, which has what a slim kernel lacks.
vm-test:
	scripts/setup --vm
	vm-tests/run

# A whole machine: systemd, libvirt and a guest.
qemu-test:
	scripts/setup --vm
	vm-tests/qemu

doc:
	scripts/setup
	$(CARGO) doc --no-deps

install:
	$(CARGO) build --release
	install -D -m 0755 target/release/nwfilterd $(DESTDIR)$(PREFIX)/sbin/nwfilterd
	install -D -m 0755 target/release/nwfilter $(DESTDIR)$(PREFIX)/bin/nwfilter
	install -d $(DESTDIR)$(PREFIX)/share/nwfilter/filters
	test ! -d filters || install -m 0644 filters/*.xml $(DESTDIR)$(PREFIX)/share/nwfilter/filters/

clean:
	$(CARGO) clean
