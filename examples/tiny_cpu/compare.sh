#!/usr/bin/env bash
# Every method from the same start models and with the same seeds, on this machine's CPU: accuracy against response length.
# With two at a time a run took about four minutes (docs/forks.json); what is finished is kept, and a second start does only what
# is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

TASK=${TASK:-forks}                # or addition
ALGORITHMS=${ALGORITHMS:-}         # every preset; or for instance "egrsd_ungated egrsd egrsd,gamma=1.0"
SEEDS=${SEEDS:-0 1 2 3 4}
STEPS=${STEPS:-20}                 # on forks, 40 leave no room for a difference: the control is right on 96.5 % then
JOBS=${JOBS:-1}                    # 2: two runs at a time, which saves a quarter of the time on two cores

unset PYTHONDONTWRITEBYTECODE      # or each of a run's dozen processes compiles torch and vLLM anew

# Words are meant to be split.
exec "${PYTHON:-python}" -m examples.tiny_cpu.compare --task "$TASK" ${ALGORITHMS:+--algorithms $ALGORITHMS} \
  --seeds $SEEDS --steps "$STEPS" --jobs "$JOBS" "$@"
