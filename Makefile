# Two commands on a fresh machine: `make demo` shows the main job, `make test` passes every test.
SHELL := /bin/bash
CARGO ?= cargo
export CARGO_TERM_COLOR ?= auto

.PHONY: demo test lint fmt bench soak advisories tools

# One build for all three: apart, they would need different features of the same packages, and build those twice.
demo:
	$(CARGO) build --release -p plimsoll -p greengrocer -p plimsoll-testkit --bin plimsoll --bin greengrocer --bin demo
	"$${CARGO_TARGET_DIR:-target}/release/demo"

test: tools
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	scripts/cargo-deny check bans licenses sources
	$(CARGO) build --workspace --all-targets
	scripts/test

fmt:
	$(CARGO) fmt --all

lint:
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	scripts/cargo-deny check bans licenses sources

bench:
	$(CARGO) build --release -p plimsoll -p greengrocer -p plimsoll-testkit --bin plimsoll --bin greengrocer --bin demo --bin bench --bin bench-shop --bin bench-rehearse --bin scripted-app
	"$${CARGO_TARGET_DIR:-target}/release/bench"
	"$${CARGO_TARGET_DIR:-target}/release/bench-rehearse"
	$(CARGO) bench -p plimsoll-proxy --bench door
	"$${CARGO_TARGET_DIR:-target}/release/bench-shop"
	$(CARGO) bench -p plimsoll-host --bench carry

# The same tests with their full number of rounds: kills, backups, flipped bits, deployments. Takes its time.
soak:
	$(CARGO) build --workspace --all-targets
	PLIMSOLL_SOAK=1 scripts/test $(SOAK)

advisories:
	scripts/cargo-deny check advisories

# Installs what the tests need and this machine lacks: as root through apt, else it says what to install.
tools:
	scripts/tools
