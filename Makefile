# Every target with two hash signs behind it is in `make help`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help init dev build run stop clean-demos clean-data clean-all test test-pingora soak hostile handovers measure-backends lint bench perf perf-compare needs \
	stack stack-up stack-down infra-up infra-down infra-logs images random-numbers zoo package-tools image deb release debian-root

# CI must not change Cargo.lock, and fails where a tool is missing.
LOCKED := $(if $(CI),--locked)
# Naming a test beside the program gives the dependencies the features that the tests need: nothing is built twice.
BUILD := cargo build $(LOCKED) --bin try-it-now --test structure
PROGRAM := $${CARGO_TARGET_DIR:-target}/debug/try-it-now
# The containerd of `make stack-up`. Its programs come first in PATH; those of the caller follow.
STACK_ENV := $(or $(STACK_DIR),target/stack)/env
WITH_STACK := if [ -r "$(STACK_ENV)" ]; then path=$$PATH; set -a; . "$(STACK_ENV)"; set +a; PATH=$$PATH:$$path; fi
# The images of the ready templates and of the tests, and those that only `make zoo` needs.
IMAGES := sample server php node wordpress node-red nginx runtimes nginx-www-data php-fpm valkey-flask prestashop wordpress-shop
ZOO_IMAGES := caddy django dokuwiki etherpad jupyter mono postgresql sinatra tomcat ttyd vite
# The program of `make run`, and the folder with its state and the id of its process.
SERVER ?= $${CARGO_TARGET_DIR:-target}/release/try-it-now
RUN ?= $(CURDIR)/target/run
# What the packages say of themselves, see src/telemetry/version.rs.
COMMIT = $(shell git describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null)
# The tools that only packages need. `make package-tools` installs these versions.
CARGO_DEB := 3.8.0
CARGO_CYCLONEDX := 0.5.9
# Arguments for the program or the tests: make test ARGS='config::'
ARGS ?=

help: ## Show this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

init: needs ## Install what the build needs

dev: needs ## Build and serve the built-in app on http://localhost:8080/
	@$(BUILD)
	@echo "Open http://localhost:$${SERVER_PORT:-8080}/ (Ctrl-C stops it)"
	@POOL_TARGET_SIZE=$${POOL_TARGET_SIZE:-5} POOL_MAX_SIZE=$${POOL_MAX_SIZE:-20} \
	RATE_LIMIT_HOURLY=$${RATE_LIMIT_HOURLY:-1000} RATE_LIMIT_DAILY=$${RATE_LIMIT_DAILY:-10000} \
	LOG_FORMAT=$${LOG_FORMAT:-text} exec "$(PROGRAM)" serve $(ARGS)

build: needs ## Build the server for use, into target/release
	@TRY_IT_NOW_COMMIT="$(COMMIT)" cargo build --release $(LOCKED) --package try-it-now

run: build ## Serve the built-in app, or ARGS='--config FILE', with its state in target/run
	@mkdir -p "$(RUN)"; echo $$$$ >"$(RUN)/pid"; STATE_DIR="$(RUN)/state" exec "$(SERVER)" serve $(ARGS)

stop: ## Stop the server of make run, by the id in target/run/pid
	@pid=$$(cat "$(RUN)/pid" 2>/dev/null) && [ "$$(readlink "/proc/$$pid/exe" | sed 's/ (deleted)$$//')" = "$$(readlink -f "$(SERVER)")" ] \
	  || { echo "no server of make run is running"; exit 0; }; kill "$$pid"; timeout 90 tail --pid="$$pid" --follow /dev/null

clean-demos: ## Remove all instances and checkpoints of make run, also those that outlived their server
	@STATE_DIR="$(RUN)/state" "$(SERVER)" clean

clean-data: clean-demos ## Remove these, and all else that make run has stored
	@rm -rf "$(RUN)"

clean-all: stop clean-data ## Stop the server of make run, and remove all that it has stored

test: needs ## Run all tests (a test whose backend is missing is skipped and prints why)
	@$(WITH_STACK); \
	if cargo nextest --version >/dev/null 2>&1; then \
	  cargo nextest run --workspace $(LOCKED) $(ARGS); \
	else \
	  cargo test --workspace --no-fail-fast $(LOCKED) $(ARGS); \
	fi

test-pingora: needs ## Run the tests of the proxy with HTTP1_ENGINE=pingora
	@$(WITH_STACK); HTTP1_ENGINE=pingora cargo nextest run $(LOCKED) --test server -E 'test(/^(proxy|limits)::/)' $(ARGS)

soak: needs ## Fifty instances of WordPress, and all kinds of requests, ten minutes each (SOAK_SECONDS, SOAK_COPIES, SOAK_RATE)
	@$(WITH_STACK); export SOAK_SECONDS=$${SOAK_SECONDS:-600} SOAK_RATE=$${SOAK_RATE:-300}; \
	if cargo nextest --version >/dev/null 2>&1; then \
	  cargo nextest run $(LOCKED) --test server --success-output final soak:: $(ARGS); \
	else \
	  cargo test $(LOCKED) --test server soak:: -- --nocapture $(ARGS); \
	fi

hostile: needs ## Five hundred hostile clients beside twenty good ones (HOSTILE_CLIENTS)
	@$(WITH_STACK); HOSTILE_CLIENTS=$${HOSTILE_CLIENTS:-500} cargo nextest run $(LOCKED) --test server \
	  --success-output final heavy::hostile_clients:: $(ARGS)

handovers: needs ## Twenty handovers under load (HANDOVERS, and a second: HANDOVER_PAGES, HANDOVER_ACQUIRES)
	@$(WITH_STACK); export HANDOVERS=$${HANDOVERS:-20} HANDOVER_PAGES=$${HANDOVER_PAGES:-1000}; \
	export HANDOVER_ACQUIRES=$${HANDOVER_ACQUIRES:-50}; \
	cargo nextest run $(LOCKED) --test server --success-output final heavy::handovers:: $(ARGS)

measure-backends: needs ## Measure what a job of the queue costs, the ways to make a database, and an acquire beside both
	@$(WITH_STACK); cargo nextest run $(LOCKED) --test backends --test server --features measurements \
	  --no-capture -E 'test(/(^|::)measure::/) and not test(zoo::)' $(ARGS)

lint: needs ## Check formatting, lints, links in docs, and the licences and sources of all dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets $(LOCKED) -- -D warnings
	cargo clippy --package try-it-now --lib --bins --test structure --features runtime-none $(LOCKED) -- -D warnings
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

perf: needs ## Measure the whole under load, and write a report with charts into target/perf
	cargo build --release $(LOCKED) --package perf --package try-it-now --features try-it-now/runtime-none
	"$${CARGO_TARGET_DIR:-target}/release/perf" --out target/perf $(ARGS)

perf-compare: needs ## Compare two commits in one run: A=the earlier one, B=the later one
	@perf/compare "$(A)" "$(B)" $(ARGS)

stack: ## Put containerd, runc, CRIU and Valkey from Debian's packages into target/stack
	@deployments/stack/install

stack-up: ## Start these, Docker and Podman, as root, and write target/stack/env
	@deployments/stack/up

stack-down: ## End them, and all that runs in them
	@deployments/stack/down

infra-up: ## With Docker: start Valkey, two servers and containers to try behind http://localhost:8080/
	COMMIT="$(COMMIT)" docker compose --file deployments/compose.yaml up --build --detach --wait $(ARGS)
	@echo "Open http://localhost:$${PORT:-8080}/ (make infra-down ends it)"

infra-down: ## End them and their instances; what Valkey keeps stays, ARGS=--volumes removes that too
	docker compose --file deployments/compose.yaml stop
	docker compose --file deployments/compose.yaml run --rm --no-deps server-1 clean
	docker compose --file deployments/compose.yaml run --rm --no-deps server-2 clean
	docker compose --file deployments/compose.yaml down $(ARGS)

infra-logs: ## Show what they log, and follow it
	docker compose --file deployments/compose.yaml logs --follow $(ARGS)

images: needs ## Build the images of the ready templates into target/images
	@$(BUILD)
	@deployments/images/build $(IMAGES)

random-numbers: needs ## Test the random numbers of larger runtimes too: Java, Go, Node with OpenSSL 1.1.1
	@deployments/images/build other-runtimes
	@$(WITH_STACK); cargo nextest run $(LOCKED) --test backends --features other-runtimes -E 'test(random_numbers::)' $(ARGS)

zoo: needs ## Start, restore and visit all apps of the zoo, and print the table of docs/images.md (ARGS=--release)
	@$(BUILD)
	@deployments/images/build $(IMAGES) $(ZOO_IMAGES)
	@rm -rf target/zoo
	@$(WITH_STACK); TRY_IT_NOW_NO_SKIPS=1 cargo nextest run $(LOCKED) --no-fail-fast --test server --features zoo \
	  -E 'test(/^zoo::/)' $(ARGS) && result=0 || result=$$?; \
	  sed -n '/^| app | shape | cold /,/^|---/p' docs/images.md; LC_ALL=C; cat target/zoo/*.md; exit $$result

package-tools: ## Install cargo-deb and cargo-cyclonedx, which make deb and make release need
	@cargo deb --version 2>/dev/null | grep -q '$(CARGO_DEB)$$' || cargo install --quiet --locked cargo-deb@$(CARGO_DEB)
	@cargo cyclonedx --version 2>/dev/null | grep -q '$(CARGO_CYCLONEDX)$$' || cargo install --quiet --locked cargo-cyclonedx@$(CARGO_CYCLONEDX)

image: build ## Build the container image of the server into target/package, for docker load
	@IMAGES_DIR=target/package/images TRY_IT_NOW_BINARY="$(SERVER)" deployments/images/build server
	@cp target/package/images/server.tar target/package/try-it-now-image.tar
	@echo "docker load --input target/package/try-it-now-image.tar"

deb: build ## Pack the server as a Debian package into target/package
	@mkdir -p target/package; deployments/debian/build release target/package $(ARGS)

release: build ## Build for x86_64 and 64-bit ARM, into target/package/release with checksums and bills of materials
	@TRY_IT_NOW_COMMIT="$(COMMIT)" deployments/release/cross
	@rm -rf target/package/release
	@deployments/release/pack target/package/release x86_64-unknown-linux-gnu="$(SERVER)" \
	  aarch64-unknown-linux-gnu=target/cross/aarch64-unknown-linux-gnu/release/try-it-now

debian-root: ## As root: make a small Debian in target/package, in which the tests install the package
	@deployments/debian/root target/package/debian-root

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
