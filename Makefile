# What one does with a checkout.  `make run` and `make test` set up what they need.

# The newest Python found, 3.11 or later.
PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Processes that run tests; the tests of a file share one, and the servers it starts.
# One more than there are processors, since tests also wait.
JOBS ?= $(shell expr $$(nproc) + 1)
IN_PARALLEL := --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder
# Programs that tests start, and the Debian packages that bring them.
TEST_PROGRAMS := memcached chromium chromedriver curl systemd-analyze
TEST_PACKAGES := memcached chromium chromium-driver curl systemd

# What Python compiles is kept, also where the environment says otherwise: the tests
# start hundreds of processes, and compiling is half of what one needs to start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run cluster test sim soak check docs bench bench-image clean programs

help:
	@echo "make run      start clinfra in the foreground, on its defaults"
	@echo "make cluster  start a cluster of blob stores: 3 processes, or ARGS=12"
	@echo "make test     run the whole test suite"
	@echo "make check    ruff and mypy"
	@echo "make docs     build the manual: build/docs/index.html"
	@echo "make sim      put SEEDS=1000 simulated clusters through bad days"
	@echo "make soak     put real clusters, and workers, through them, for SECONDS=600 each"
	@echo "make bench    measure clinfra beside nginx, Varnish and twisted.web"
	@echo "make bench-image  measure images beside Pillow, libvips, sharp, thumbor, ipx"
	@echo "make clean    remove what was installed and made here"

run: $(VENV)/run.stamp
	@exec $(BIN)/twistd --nodaemon --pidfile= --reactor=clinfra clinfra $(ARGS)

cluster: $(VENV)/run.stamp
	@exec $(BIN)/clinfra blob cluster $(ARGS)

test: $(VENV)/test.stamp programs
	$(BIN)/python -m pytest $(IN_PARALLEL) $(ARGS)
	$(BIN)/python -m twisted.trial --jobs $(JOBS) tests

sim: $(VENV)/test.stamp
	$(BIN)/python -m tests.sim $(or $(SEEDS),1000)

soak: $(VENV)/test.stamp
	$(BIN)/python -m tests.wire $(or $(SECONDS),600) $(SEED)
	$(BIN)/python -m tests.wire workers $(or $(SECONDS),600)

check: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/docs.stamp
	$(BIN)/python -m sphinx -W --keep-going --quiet docs build/docs
	@echo "build/docs/index.html"

bench: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks $(ARGS)

bench-image: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks image --seconds 2 $(ARGS)

clean:
	rm -rf $(VENV) *.egg-info build dist docs/generated _trial_temp* .coverage .hypothesis \
		.mypy_cache .pytest_cache .ruff_cache twisted/plugins/dropin.cache
	find clinfra tests benchmarks docs -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make virtual environments: install its venv package" \
		"(Debian: apt-get install python3-venv)." >&2; exit 1; }

# The plugin cache is written here, once, since where clinfra runs it may not be writable.
$(VENV)/run.stamp: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) install --editable .
	@$(BIN)/python -c "from twisted.plugin import IPlugin, getPlugins; \
		list(getPlugins(IPlugin))"
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp
	$(PIP) install --editable '.[test]'
	@touch $@

$(VENV)/docs.stamp: $(VENV)/run.stamp
	$(PIP) install --editable '.[docs]'
	@touch $@

$(VENV)/bench.stamp: $(VENV)/run.stamp
	$(PIP) install --editable '.[bench]'
	@touch $@

programs:
	@missing=; for program in $(TEST_PROGRAMS); do \
		command -v $$program >/dev/null || missing="$$missing $$program"; \
	done; \
	test -z "$$missing" && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing$$missing"; \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get -qq update && \
		apt-get -qq install --yes --no-install-recommends $(TEST_PACKAGES) \
			>/dev/null && exit 0; \
	fi; \
	echo "The tests need these programs:$$missing." >&2; \
	echo "Install them, or run make test once as root on Debian or Ubuntu." >&2; \
	exit 1
