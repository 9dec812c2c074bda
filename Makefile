# make demo   trains a tiny model with EGRSD on this machine's CPU
# make test   runs every test but the long ones
# make test-long   runs those: one change at a time, 20 kills, 10,000 rewards
#
# Each first builds .venv from the pinned versions in requirements/. Nothing else is installed or changed.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
SEED ?= 0
ARGS ?=

.PHONY: install demo test test-long lint clean

install: .venv/ok

demo: .venv/ok
	.venv/bin/python -m examples.tiny_cpu.demo --seed $(SEED) $(if $(RESUME),--resume)

test: .venv/ok  # make test ARGS='-m "not slow and not long"'
	.venv/bin/ruff check .
	.venv/bin/python -m pytest --numprocesses 2 $(ARGS)

test-long: .venv/ok
	.venv/bin/python -m pytest -m long $(ARGS)

lint: .venv/ok
	.venv/bin/ruff check .

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis

# Two steps, so that a change in setup.cfg does not cost the download again. --no-compile saves 20 seconds: Python compiles
# what a run imports, which is a small part of it.
.venv/ok: .venv/pinned setup.cfg pyproject.toml
	.venv/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.venv/pinned: requirements/torch.txt requirements/cpu.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "The pinned packages are for Python 3.11, and '$(PYTHON)' is not one. Name yours: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	rm -rf .venv
	"$(PYTHON)" -m venv .venv
	.venv/bin/pip install --quiet --no-compile --requirement requirements/torch.txt
	.venv/bin/pip install --quiet --no-compile --no-deps --requirement requirements/cpu.txt
	touch $@
