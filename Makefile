# The two commands that a fresh machine needs: `make demo` and `make test`. Beside them Rust, a C++ compiler, Python's pip and make.

CARGO ?= cargo
DEMO ?= demo

# Real pairs and reference values beside the project: named, so that a test that needs them fails where one is missing.
ifneq ($(wildcard ../shared/data/parity),)
export DIPTYCH_TEST_DATA ?= $(abspath ../shared/data)
endif

.PHONY: demo test build setup lint clean-cache

# libtorch, cmake and nasm, where they are missing; kept in the user's cache.
setup:
	@python3 trainer/setup/setup.py

build: setup
	$(CARGO) build --release -p diptych

# Everything from drawn scenes to a trained, evaluated, exported model, in the folder $(DEMO).
demo: build
	@bash tests/demo.sh target/release/diptych $(DEMO)

# Builds once, with the same features as the tests, so that the tests that run the binary find a current one.
test:
	@python3 trainer/setup/setup.py --tests
	$(CARGO) build --workspace --all-targets
	$(CARGO) test --workspace

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# What later checkouts would find ready: libtorch, build tools, compiled dependencies.
clean-cache:
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/diptych" "$${CARGO_HOME:-$$HOME/.cargo}/diptych-build"
