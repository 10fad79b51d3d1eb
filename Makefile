# The only entry, for people and for CI. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
export PATH := $(CURDIR)/target/kubectl:$(PATH):/usr/sbin:/sbin
export CARGO_TERM_COLOR ?= auto

# Tests make namespaces. An ordinary user may, as root of a user namespace of their own.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,unshare --user --map-root-user)

# The percentage of the rounds of `make soak`.
WEFT_SOAK ?= 100

.PHONY: help demo build test transcripts check soak bench fuzz clean

help: ## This list.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: build ## Bring up a two-node cluster network on this machine, use it, take it down.
	@target/release/weft lab demo

build: ## Build what is released: target/release/weft, static, with the CNI plugin within it.
	@scripts/prerequisites demo
	@echo "building weft (the first time takes some minutes)"
	@scripts/release

test: ## Everything CI tests: unit, golden, namespaces, end to end.
	@scripts/prerequisites test
	plugin=$$(scripts/release plugin) && \
		WEFT_CNI_PLUGIN=$$plugin $(AS_ROOT) cargo test --workspace --all-targets
	$(AS_ROOT) cargo test --workspace --doc

transcripts: ## Published kubectl sessions, replayed in labs: which pass, wait for a part, fail (ONLY=name: some).
	@scripts/prerequisites test
	@$(AS_ROOT) cargo test --quiet --package weft --test transcripts -- $(ONLY)

check: ## Formatting, lints, licences of dependencies.
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	if musl=$$(scripts/musl); then cargo clippy --package weft-cni --target $$musl -- -D warnings; fi
	scripts/licences

soak: ## The long runs: hundreds of rounds of kills and churn (WEFT_SOAK=5: 5 % of them).
	@scripts/prerequisites test
	plugin=$$(scripts/release plugin) && \
		WEFT_SOAK=$(WEFT_SOAK) WEFT_CNI_PLUGIN=$$plugin $(AS_ROOT) cargo test --package weft --test soak --test cni -- --ignored --test-threads=1 --nocapture

bench: build ## What weft claims, measured beside a peer or the kernel's own limit.
	@scripts/prerequisites bench
	benches/run

fuzz: ## Each fuzz target for a minute (needs cargo-fuzz and a nightly toolchain).
	scripts/fuzz

clean: ## Remove what was built.
	cargo clean
