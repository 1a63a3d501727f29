.DEFAULT_GOAL := help
.PHONY: help demo test record fuzz load soak bench lint docs build image dist

help: ## what can be made here
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## a Redis with a password, and a PONG for a client that knows none
	@scripts/demo

test: ## everything that has to hold: lint, unit, black-box and container tests
	@scripts/test

record: ## ask real servers anew what they say, into fixtures/
	@scripts/record

fuzz: ## what strangers may send, ten minutes a target (FUZZ_SECONDS); needs cargo-fuzz and a nightly toolchain
	@fuzz/run

load: ## thousands of connections at once, held, in a storm, mute
	@cargo test --locked --test long -- --ignored --nocapture --test-threads=1 load::

soak: ## an hour (SOAK_SECONDS) of load, rotations, failovers and restarts; a report in target/soak
	@cargo test --locked --test long -- --ignored --nocapture soak::

bench: ## measure against HAProxy, nginx, socat, stunnel and twemproxy, side by side
	@benches/run

lint: ## formatting, clippy, documentation, shell scripts, licences
	@scripts/lint

docs: ## the generated sections of the documentation
	@UPDATE_DOCS=1 cargo test --locked --quiet --test it documents::generated

build: ## the binary: target/release/redis-ambassador
	@cargo build --release --locked

image: ## the container image: redis-ambassador
	@docker build --tag redis-ambassador .

dist: ## a release in target/dist: archive, Debian package, bill of materials; the package is tried on a host in a container
	@scripts/dist
	@cargo test --locked --test containers the_debian_package
