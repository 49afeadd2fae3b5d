# A fresh machine needs two commands, `make demo` and `make test`. They need Rust, a C++ compiler,
# Python's pip and make.

CARGO ?= cargo
DEMO ?= demo

.PHONY: demo test messages build install uninstall deb setup lint clean-cache

# Targets of `sudo make install`, below DESTDIR. It installs the binary that `make build` made.
PREFIX ?= /usr/local
BINARY ?= target/release/diptych
DIST = daemon/dist
TO = $(DESTDIR)$(PREFIX)
UNIT = $(TO)/lib/systemd/system/diptych.service
# Places where shells look for completions.
COMPLETES_BASH = $(TO)/share/bash-completion/completions/diptych
COMPLETES_ZSH = $(TO)/share/zsh/site-functions/_diptych
MANUAL = $(TO)/share/man/man1
COMPLETES_FISH = $(TO)/share/fish/vendor_completions.d/diptych.fish

# Fetches libtorch, cmake and nasm into the user's cache if they are missing.
setup:
	@python3 trainer/setup/setup.py

build: setup
	$(CARGO) build --release -p diptych

# Runs everything from drawn scenes to a trained, evaluated and exported model, in the folder
# $(DEMO).
demo: build
	@bash tests/demo.sh target/release/diptych $(DEMO)

# Builds once, with the features of the tests, so that tests that run the binary find a current one.
test:
	@python3 trainer/setup/setup.py --tests
	$(CARGO) build --workspace --all-targets
	$(CARGO) test --workspace

# Accepts the words of all messages as they are now: the snapshots first, then the pages that are
# made from them. With ONLY=NAME, those of tests whose path holds NAME.
messages: export INSTA_UPDATE = always
messages: setup
	$(CARGO) build --workspace --all-targets
	-$(CARGO) test --workspace --test end_to_end -- --skip messages:: $(ONLY)
	$(CARGO) test --workspace --test end_to_end -- messages::

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# Installs the binary with its libtorch, the unit, its user and an example configuration, which
# never replaces an existing one. It builds nothing, since root has no Rust. With a DESTDIR it does
# not touch the running system.
install:
	python3 $(DIST)/place.py $(BINARY) $(TO)/lib/diptych
	install -d $(TO)/bin $(TO)/lib/systemd/system
	ln -sfn ../lib/diptych/diptych $(TO)/bin/diptych
	sed 's#/usr/bin/diptych#$(PREFIX)/bin/diptych#' $(DIST)/diptych.service > $(UNIT).incomplete
	chmod 644 $(UNIT).incomplete && mv -f $(UNIT).incomplete $(UNIT)
	install -Dm644 $(DIST)/sysusers.d/diptych.conf $(TO)/lib/sysusers.d/diptych.conf
	install -Dm644 -t $(TO)/share/diptych $(DIST)/cuda.conf $(DIST)/grafana.json $(DIST)/diptych.toml
	install -Dm644 -t $(TO)/share/doc/diptych README.md LICENSE
	for file in $(COMPLETES_BASH) $(COMPLETES_ZSH) $(COMPLETES_FISH); do install -d "$$(dirname $$file)"; done
	$(TO)/lib/diptych/diptych completions bash > $(COMPLETES_BASH)
	$(TO)/lib/diptych/diptych completions zsh > $(COMPLETES_ZSH)
	$(TO)/lib/diptych/diptych completions fish > $(COMPLETES_FISH)
	install -d $(MANUAL)
	$(TO)/lib/diptych/diptych man $(MANUAL)
	gzip -9nf $(MANUAL)/diptych.1 $(MANUAL)/diptych-*.1
	test -e $(DESTDIR)/etc/diptych/diptych.toml || install -Dm644 $(DIST)/diptych.toml $(DESTDIR)/etc/diptych/diptych.toml
ifeq ($(DESTDIR),)
	systemd-sysusers $(TO)/lib/sysusers.d/diptych.conf
	if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
endif

# Removes everything that install made, except for the configuration, the state and the user
# diptych.
uninstall:
ifeq ($(DESTDIR),)
	if [ -d /run/systemd/system ]; then systemctl disable --now diptych.service; fi
endif
	rm -rf $(TO)/lib/diptych $(TO)/share/diptych $(TO)/share/doc/diptych
	rm -f $(COMPLETES_BASH) $(COMPLETES_ZSH) $(COMPLETES_FISH)
	rm -f $(MANUAL)/diptych.1.gz $(MANUAL)/diptych-*.1.gz
	rm -f $(TO)/bin/diptych $(UNIT) $(TO)/lib/sysusers.d/diptych.conf

# Builds a Debian package in target/debian with everything that install makes and the unit's
# scripts. Needs `cargo install cargo-deb`.
deb: build
	$(MAKE) install DESTDIR=target/debian-root PREFIX=/usr
	$(CARGO) deb --no-build --no-strip -p diptych

# Deletes the files that later checkouts would reuse: libtorch, build tools, compiled dependencies.
clean-cache:
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/diptych" "$${CARGO_HOME:-$$HOME/.cargo}/diptych-build"
