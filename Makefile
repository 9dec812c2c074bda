# make demo   trains a tiny model with EGRSD on this machine's CPU; ALGORITHM=egrsd or another preset, TASK=forks another task
# make compare   trains it with every preset, five seeds each, on the task forks; hours (JOBS=2: two at a time; see compare.sh)
# make test   runs every test but the long ones
# make test-long   runs those: one change at a time, 20 kills, 10,000 rewards
#
# Each first builds .venv from the pinned versions in requirements/. Nothing else is installed or changed.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
SEED ?= 0
TASK ?= addition
ALGORITHM ?= cl_egrsd
ARGS ?=

.PHONY: install demo compare test test-long lint clean

# A run waits as often as it computes, so two at a time save a quarter of the time. pytest's 5 means that no test was selected.
define in-two-processes
	@.venv/bin/python -m pytest -m "shares_runs and ($(1))" $(ARGS) >.shares_runs.log 2>&1 & \
	.venv/bin/python -m pytest -m "not shares_runs and ($(1))" $(ARGS); first=$$?; \
	wait $$!; second=$$?; cat .shares_runs.log; \
	case $$first$$second in 00|05|50) ;; *) exit 1 ;; esac
endef

install: .venv/ok

demo: .venv/ok
	.venv/bin/python -m examples.tiny_cpu.demo --task $(TASK) --algorithm $(ALGORITHM) --seed $(SEED) $(if $(RESUME),--resume)

compare: .venv/ok
	PYTHON=.venv/bin/python examples/tiny_cpu/compare.sh

test: .venv/ok  # make test ARGS='-k weights'
	.venv/bin/ruff check .
	$(call in-two-processes,not long)

test-long: .venv/ok
	$(call in-two-processes,long)

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
