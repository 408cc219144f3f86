# The developer's manual: `make test` runs everything that CI runs, cheap checks first. Debian, as root (it installs packages).
#
#   make fmt lint deny    formatting, clippy, licences and sources of dependencies
#   make unit             unit tests and protocol transcripts of all crates
#   make sim              the simulator: its checkers' tests, regression seeds, and 2,000 histories (SEEDS=0..100000 for others)
#   make e2e              real clients, real mail and the kill scenario; TEST=name for one scenario: on Kubernetes if there is one whose
#                         name has that in it, else here; ONLY='-k idle' for some of those here
#   make chaos            five nodes in network namespaces, killed, frozen, cut off and robbed of disks under load, for 90
#                         seconds; in CI (where CI is set) for 600, or for PRICKLE_CHAOS_SECONDS
#   make tikv-nodes       clusters whose accounts are in TiKV, which is away, slow, silent or killed (needs Go)
#   make versions         builds the older node that test_versions.py runs beside this one, once for each commit in
#                         e2e/compatible-since, and keeps it outside of the checkout
#   make operator-e2e     the operator and Kubernetes Leases against a real kube-apiserver (needs Go; make test leaves it out without)
#   make kubernetes-e2e   mail clusters on a real three-node Kubernetes on this machine (not part of `make test`; needs Go, and
#                         root for namespaces); TEST=scale for one scenario, TIMES=3 for three times each
#   make kubernetes-short the part of it that `make test` has: install, scale, a pod deleted, a machine dead or cut off, the operator
#                         killed, API server or TiKV away, a new image, a bad one, what is refused, helm upgrade, installed again, KEDA;
#                         in two clusters side by side (LANES=1 for one), on the unoptimised build. Skipped, with the reason, on
#                         a machine that cannot
#   make tikv-e2e         the user database in TiKV through its real client, against the test server of e2e/tikv (needs Go;
#                         make test leaves it out without)
#   make figures          the papers' figures from our cores, into docs/figures (some ten minutes; not part of `make test`)
#   make scale            scale tests of the cores that are too long for `make unit`: a simulated day of 100 nodes
#   make crds             writes the copies of the CustomResourceDefinition, and the alerts
#   make bench            the speed of a cluster here, beside Debian's Dovecot (not part of `make test`)

SHELL = /bin/bash
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
TOOLS = $(CARGO_TARGET_DIR)/tools
export PYTHONDONTWRITEBYTECODE = 1
ONLY =
SEEDS = 0..2000
LANES = 2

.NOTPARALLEL:
.PHONY: test install fmt lint deny unit sim program e2e e2e-here chaos tikv-nodes versions operator-e2e kubernetes-e2e kubernetes-short tikv-e2e without-go figures scale crds bench

# What incremental builds keep would double the gigabytes, for nothing in a build from a clean checkout.
test: export CARGO_INCREMENTAL = 0
test: fmt install deny lint unit sim versions $(if $(shell command -v go),operator-e2e tikv-e2e,without-go) e2e chaos kubernetes-short

install:
	e2e/install.sh $(TOOLS)

fmt:
	cargo fmt --all --check

lint:
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy -p mailnode --features kubernetes,tikv --all-targets --locked -- -D warnings

# Not advisories: their database is outside of the package registries (deny.toml).
deny: install
	$(TOOLS)/bin/cargo-deny --locked check licenses bans sources

unit:
	cargo test --workspace --exclude sim --locked

# A profile of its own: unoptimised, a history takes ten times as long, and a release takes twice as long to build.
sim:
	cargo test --profile sim --locked -p sim
	cargo run --profile sim --locked -p sim -- --seeds $(SEEDS)

# pytest says by its exit status whether any test has such a name.
e2e: install
	@if [ -n '$(TEST)' ] && (cd e2e/kubernetes && $(TOOLS)/bin/python -m pytest --collect-only --quiet -k '$(TEST)' >/dev/null); \
	then cd e2e/kubernetes && $(TOOLS)/bin/python -m pytest --unoptimised -k '$(TEST)'; else $(MAKE) --no-print-directory e2e-here; fi

# What all end-to-end tests run: the unoptimised build that the unit tests need anyway; CI would wait six minutes for a release.
program:
	cargo build --locked -p mailnode -p operator --features mailnode/kubernetes,mailnode/tikv

e2e-here chaos tikv-nodes: export PRICKLE_MAILNODE ?= $(CARGO_TARGET_DIR)/debug/mailnode
# Two at a time: they wait more than they work. The tests of one file share clusters.
e2e-here: install program
	cd e2e && $(TOOLS)/bin/python -m pytest -n 2 --dist loadfile --ignore=test_chaos.py --ignore=test_tikv.py $(if $(TEST),-k '$(TEST)') $(ONLY)

chaos: export PRICKLE_CHAOS_SECONDS ?= $(if $(CI),600,90)
chaos: install program
	cd e2e && $(TOOLS)/bin/python -m pytest test_chaos.py

tikv-nodes: install program
	program=$$(e2e/tikv/build.sh) && export PRICKLE_TIKV=$$program && \
	cd e2e && $(TOOLS)/bin/python -m pytest test_tikv.py

versions: install
	$(TOOLS)/bin/python e2e/versions.py build

# The workspace's features, as `make unit` built it, and of that the tests that ask for a server.
operator-e2e: install
	operator/tests/chart.sh
	operator/tests/kubeconform.sh $(TOOLS)/bin/python
	binaries=$$(operator/tests/apiserver/build.sh) && PRICKLE_APISERVER=$$binaries \
	cargo test --workspace --exclude sim --locked --test api_server --test many -- --include-ignored --nocapture

kubernetes-e2e: install
	cd e2e/kubernetes && $(TOOLS)/bin/python -m pytest $(if $(TEST),-k '$(TEST)') $(if $(TIMES),--repeat $(TIMES))

# A Kubernetes in each lane: tests there wait more than they work, too.
kubernetes-short: install
	cd e2e/kubernetes && $(TOOLS)/bin/python -m pytest -n $(LANES) --dist loadgroup -m short --if-able --unoptimised

tikv-e2e:
	program=$$(e2e/tikv/build.sh) && PRICKLE_TIKV=$$program \
	cargo test --workspace --exclude sim --locked --test configuration --test contract --test faults --test figures --test transfer -- --include-ignored

without-go:
	@echo 'make operator-e2e tikv-e2e: skipped: there is no go'

# Numbers by the crate, pictures by matplotlib: SVG and PNG from one program, with its own fonts, and nothing of it in our
# binaries.
figures: install
	cmp -s mailnode/figures/requirements.txt $(TOOLS)/figures.txt || { \
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check --requirement mailnode/figures/requirements.txt && \
	cp mailnode/figures/requirements.txt $(TOOLS)/figures.txt; }
	cargo run --release --locked -p figures -- --out docs/figures
	$(TOOLS)/bin/python mailnode/figures/plot.py docs/figures

scale:
	cargo test --release --locked -p cluster -p figures --tests -- --include-ignored

crds:
	cargo run --locked -p operator -- crd | tee crds/mailclusters.prickle.email.yaml manifests/crd.yaml \
	>charts/prickle/crds/mailclusters.prickle.email.yaml
	cargo run --locked -p operator -- rules >manifests/monitoring/rules.yaml

bench: install
	cargo build --release --locked -p mailnode
	@if [ -x e2e/compare/run.py ]; then $(TOOLS)/bin/python e2e/compare/run.py; \
	else $(CARGO_TARGET_DIR)/release/mailnode bench --help; fi
