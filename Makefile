# The one entry point. `make` alone lists what there is.

SHELL := /bin/bash
.DEFAULT_GOAL := help

CARGO ?= cargo
TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
# Where the scripts and the host tests find plabd, plab and capsule-init.
export PLAB_BIN_DIR ?= $(TARGET_DIR)/release

# Further arguments: `make test-host TEST_ARGS='-- --nocapture hooks'`, `make bench BENCH_ARGS=--quick`.
TEST_ARGS ?=
BENCH_ARGS ?=
STRESS_ARGS ?=

as_root = @[ "$$(id -u)" = 0 ] || { \
    printf 'make %s: capsules are made as root; run: sudo env "PATH=$$PATH" make %s\n' $@ $@ >&2; exit 1; }

.PHONY: help deps deps-demo build demo run test test-unit test-lane test-host test-node test-product \
    test-vm test-machines image test-images vm lint bench bench-flows stress man deb clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: ## Build, then show each promise being kept on real services (root; about a minute)
	$(as_root)
	@$(MAKE) --no-print-directory deps-demo build
	@scripts/demo

run: ## Keep a node with the example slices in the foreground until Ctrl-C (root)
	$(as_root)
	@$(MAKE) --no-print-directory deps-demo build
	@scripts/run

test: ## Set up and run everything: deps, lint, build, unit tests, host tests, a node in a VM (root)
	$(as_root)
	@scripts/test

deps: ## Install the Debian packages that the tests and the benchmark need (root)
	@scripts/install-deps test

deps-demo: ## Install the few that building and the demo need (root)
	@scripts/install-deps demo

# In this order: the second command makes capsule-init static, and a later `cargo build` of the first two
# leaves it so. It is static because it runs inside capsules, whose libraries are not its concern.
# plab-shell because it runs on the host for a slice: no variable that sshd lets through means anything to a loader.
build: ## Build plabd, plab, plab-keys, libplab_pcap, and the static capsule-init and plab-shell
	$(CARGO) build --release -p plab-supervisor -p plab-cli -p plab-pcap
	$(CARGO) rustc --release -p plab-sandbox --bin capsule-init -- \
	    -C target-feature=+crt-static -C relocation-model=static
	$(CARGO) rustc --release -p plab-cli --bin plab-shell -- \
	    -C target-feature=+crt-static -C relocation-model=static

test-unit: ## Unit and integration tests that need neither root nor a lane
	$(CARGO) test --workspace --exclude plab-tests $(TEST_ARGS)

test-lane: ## Check that this machine has what tests/lanes/$PLAB_LANE.toml pins (host)
	$(as_root)
	$(CARGO) test -p plab-tests --test lane $(TEST_ARGS)

# With arguments as cargo runs them, one program after the other.
test-host: ## Tests of the whole node, with real capsules on this machine (root, after make build)
	$(as_root)
	@$(if $(TEST_ARGS),$(CARGO) test -p plab-tests $(TEST_ARGS),scripts/test-host)

test-node: ## The same suites, and the image itself, on a node in a virtual machine (root, after make build)
	@$(MAKE) --no-print-directory test-images test-product test-vm

test-product: ## Boot the node image as a machine would, and look whether it is a node (root, after make test-images)
	$(as_root)
	@tests/vm/product

test-vm: ## The suites of the whole node in a virtual machine (root, after make test-images)
	$(as_root)
	@tests/vm/run

test-images: ## Make the node's disk image, and the one that the tests run on (root, after make build)
	$(as_root)
	@image/build --deb "$$(scripts/deb)" node test

image: ## Build the package and the node's disk image, out/image/node/disk.img (root)
	$(as_root)
	@$(MAKE) --no-print-directory build
	@image/build --deb "$$(scripts/deb)" node

vm: ## Build the node image, boot it under QEMU, open a shell in it (root)
	$(as_root)
	@$(MAKE) --no-print-directory image
	@tests/vm/shell

# As slow as emulated CPUs are beside other work. Two tests at a time: most machines have one processor.
test-machines: ## What happens to a node as a whole: power, clocks, boots, the package's life (root, after make test-images)
	$(as_root)
	PLAB_TEST_SLOW=$${PLAB_TEST_SLOW:-10} $(CARGO) test -p plab-tests --features vm --test machines \
	    $(TEST_ARGS) -- --nocapture --test-threads=2

lint: ## Formatting, clippy and shellcheck; warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --features plab-tests/vm,plab-tests/node -- -D warnings
	@scripts/lint-shell

bench: ## Measure against bwrap and crun, side by side: a table and a JSON file (root)
	$(as_root)
	@$(MAKE) --no-print-directory deps build
	$(CARGO) run --release -p plab-tests --bin bench -- $(BENCH_ARGS)

bench-flows: ## Measure the store of flow records: 10 million records below /tmp, 0.6 GB, removed after (1 minute)
	$(CARGO) run --release -p plab-tests --bin flow-bench -- $(BENCH_ARGS)

stress: ## Run every class of stress-ng in one capsule and look at its neighbours (root; about 20 minutes)
	$(as_root)
	@$(MAKE) --no-print-directory deps build
	$(CARGO) run --release -p plab-tests --bin stress -- $(STRESS_ARGS)

man: ## Write man pages to out/man and shell completions to out/completions
	$(CARGO) build --release -p plab-cli
	@mkdir -p out/man out/completions
	$(PLAB_BIN_DIR)/plab man out/man
	@set -e; for shell in bash zsh fish; do \
	    $(PLAB_BIN_DIR)/plab completions $$shell > out/completions/plab.$$shell; \
	    echo "out/completions/plab.$$shell"; \
	done

deb: ## Make the Debian package planetlab-node in out/deb
	@$(MAKE) --no-print-directory build
	@scripts/deb

clean: ## Remove everything that was built
	$(CARGO) clean
	rm -rf out
