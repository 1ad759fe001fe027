# What there is to do here, in one line each. `make run` is the place to start; CI calls `make check` and `make test`.
# T and S: `make it T=upgrades` runs one topic of the end-to-end tests, `make fuzz T=admission S=60` fuzzes one target for S seconds.

T ?= admission
S ?= 60
FUZZ = fuzz/corpus/$(T) fuzz/seeds/$(T)

.PHONY: help setup ready ready-to-test run check test it bench counts bench-baseline ready-to-count compare fuzz deny release clean

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 22

setup: ## installs what build and tests need and is missing (apt-get)
	@scripts/setup.sh --tests

ready:
	@scripts/setup.sh --quiet

ready-to-test:
	@scripts/setup.sh --quiet --tests

run: ready ## demo dynos and a router in front of them, on 127.0.0.1:8080
	@config/demo/run.sh

check: ready deny ## formatting, lints, documentation, dependencies
	cargo fmt --all --check && cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

test: ready-to-test ## every test there is, documentation and examples included
	cargo test --workspace --locked --no-fail-fast

it: ready-to-test ## the end-to-end tests of one topic
	cargo test -p router-core --locked --test it -- $(T)

bench: ready-to-count ## the hot path in instructions, against a baseline, and by the clock, against the last run; ARGS=lookup for a part of it
	target/release/counts $(ARGS)
	cargo bench -p router -p router-benches --locked --bench parts --bench whole_path -- $(ARGS)

counts: ready-to-count ## its instructions and system calls only; ARGS="h1 --check" ends with an error if anything is worse
	target/release/counts $(ARGS)

bench-baseline: ready-to-count ## makes what is counted now the baseline
	target/release/counts --store

# Both packages in one command, here and by the clock: so what they share is built once, with the features that the router has.
ready-to-count:
	@scripts/setup.sh --quiet --bench
	cargo build -p router -p router-benches --bin router --bin counts --release --locked

compare: ## the load comparison with other proxies, an hour long; ARGS="h1 h2 --peers nginx --rounds 3" for a part of it
	@scripts/setup.sh --quiet --compare
	cargo build -p router -p router-compare --release --locked
	target/release/router-compare --build $(ARGS)

fuzz: ready ## fuzzes the target T for S seconds
	command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked
	mkdir -p $(FUZZ) && CARGO_TARGET_DIR=fuzz/target cargo fuzz run -s none $(T) $(FUZZ) -- -max_total_time=$(S)

deny: ## licences, bans and sources of the dependencies, if cargo-deny is installed; advisories too, if they can be fetched
	@if ! command -v cargo-deny >/dev/null; then echo "cargo-deny is not installed: skipped"; else \
		cargo deny --locked check bans licenses sources && (cargo deny --locked check advisories || echo "advisories: see above; not fatal here, for they need the network"); fi

release: ready ## the optimised binary, target/release/router
	cargo build -p router --release --locked

clean: ## everything that was built
	cargo clean && rm -rf fuzz/target
