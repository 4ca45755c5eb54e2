# Every target with two hash signs behind it is in `make help`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help dev test soak lint bench perf perf-compare needs stack stack-up stack-down infra-up infra-down images random-numbers

# CI must not change Cargo.lock, and fails where a tool is missing.
LOCKED := $(if $(CI),--locked)
# Naming a test beside the program gives the dependencies the features that the tests need: nothing is built twice.
BUILD := cargo build $(LOCKED) --bin try-it-now --test structure
PROGRAM := $${CARGO_TARGET_DIR:-target}/debug/try-it-now
# The containerd of `make stack-up`. Its programs come first in PATH; those of the caller follow.
STACK_ENV := $(or $(STACK_DIR),target/stack)/env
WITH_STACK := if [ -r "$(STACK_ENV)" ]; then path=$$PATH; set -a; . "$(STACK_ENV)"; set +a; PATH=$$PATH:$$path; fi
# Arguments for the program or the tests: make test ARGS='config::'
ARGS ?=

help: ## Show this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

dev: needs ## Build and serve the built-in app on http://localhost:8080/
	@$(BUILD)
	@echo "Open http://localhost:$${SERVER_PORT:-8080}/ (Ctrl-C stops it)"
	@POOL_TARGET_SIZE=$${POOL_TARGET_SIZE:-5} POOL_MAX_SIZE=$${POOL_MAX_SIZE:-20} \
	RATE_LIMIT_HOURLY=$${RATE_LIMIT_HOURLY:-1000} RATE_LIMIT_DAILY=$${RATE_LIMIT_DAILY:-10000} \
	LOG_FORMAT=$${LOG_FORMAT:-text} exec "$(PROGRAM)" serve $(ARGS)

test: needs ## Run all tests (a test whose backend is missing is skipped and prints why)
	@$(WITH_STACK); \
	if cargo nextest --version >/dev/null 2>&1; then \
	  cargo nextest run --workspace $(LOCKED) $(ARGS); \
	else \
	  cargo test --workspace --no-fail-fast $(LOCKED) $(ARGS); \
	fi

soak: needs ## Write to fifty instances of WordPress for ten minutes (SOAK_SECONDS, SOAK_COPIES)
	@$(WITH_STACK); export SOAK_SECONDS=$${SOAK_SECONDS:-600}; \
	if cargo nextest --version >/dev/null 2>&1; then \
	  cargo nextest run $(LOCKED) --test server --success-output final soak:: $(ARGS); \
	else \
	  cargo test $(LOCKED) --test server soak:: -- --nocapture $(ARGS); \
	fi

lint: needs ## Check formatting, lints, links in docs, and the licences and sources of all dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets $(LOCKED) -- -D warnings
	cargo clippy --package try-it-now --all-targets --features runtime-none $(LOCKED) -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --quiet --no-deps --document-private-items $(LOCKED) --package try-it-now
	@if cargo deny --version >/dev/null 2>&1; then \
	  cargo deny --log-level error check licenses bans sources; \
	  if cargo deny --log-level off fetch db >/dev/null 2>&1; then \
	    cargo deny --log-level error check --disable-fetch advisories; \
	  else \
	    echo "advisories: not checked, the database of advisories cannot be fetched from here"; \
	  fi; \
	elif [ -n "$${CI:-}" ]; then \
	  echo "cargo-deny is missing: cargo install cargo-deny --locked" >&2; exit 1; \
	else \
	  echo "licences and sources: not checked, cargo-deny is missing (cargo install cargo-deny --locked)"; \
	fi

bench: needs ## Measure the parts that need no network
	cargo bench $(LOCKED) $(ARGS)

perf: needs ## Measure the whole under load, as ratios to this machine's own figures
	cargo build --release $(LOCKED) --package perf --package try-it-now --features try-it-now/runtime-none
	"$${CARGO_TARGET_DIR:-target}/release/perf" $(ARGS)

perf-compare: needs ## Compare two commits in one run: A=the earlier one, B=the later one
	@perf/compare "$(A)" "$(B)" $(ARGS)

stack: ## Put containerd, runc, CRIU and Valkey from Debian's packages into target/stack
	@deployments/stack/install

stack-up: ## Start that containerd and that Valkey, as root, and write target/stack/env
	@deployments/stack/up

stack-down: ## End both, and all that runs in them
	@deployments/stack/down

infra-up: ## With Docker: build and start Valkey and two servers behind http://localhost:8080/
	docker compose --file deployments/compose.yaml up --build --detach --wait $(ARGS)
	@echo "Open http://localhost:$${PORT:-8080}/ (make infra-down ends it)"

infra-down: ## End them; what they keep stays, ARGS=--volumes removes that too
	docker compose --file deployments/compose.yaml down $(ARGS)

images: needs ## Build the images of the ready templates into target/images
	@$(BUILD)
	@deployments/images/build sample php node wordpress runtimes

random-numbers: needs ## Test the random numbers of larger runtimes too: Java, Go, Node with OpenSSL 1.1.1
	@deployments/images/build other-runtimes
	@$(WITH_STACK); cargo nextest run $(LOCKED) --test backends --features other-runtimes -E 'test(random_numbers::)' $(ARGS)

# What the build needs beside cargo: installed where that needs no password, else named in one line.
needs:
	@command -v cargo >/dev/null || { echo "Rust is missing: install it with rustup, see https://rustup.rs" >&2; exit 1; }
	@packages=""; \
	command -v cmake >/dev/null || packages="$$packages cmake"; \
	command -v cc >/dev/null || packages="$$packages gcc libc6-dev"; \
	command -v protoc >/dev/null || packages="$$packages protobuf-compiler"; \
	[ -n "$$packages" ] || exit 0; \
	if [ "$$(id -u)" = 0 ]; then as_root=""; \
	elif sudo -n true 2>/dev/null; then as_root="sudo -n"; \
	else as_root=none; fi; \
	if [ "$$as_root" = none ] || ! command -v apt-get >/dev/null; then \
	  echo "The build needs cmake, a C compiler and protoc. As an administrator: apt-get install$$packages" >&2; exit 1; \
	fi; \
	echo "Installing what the build needs:$$packages"; \
	$$as_root apt-get -qq update; \
	$$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends $$packages
