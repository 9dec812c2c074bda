#!/usr/bin/env bash
# Qwen3-8B on several machines with the paper's settings: run_qwen3_8b_fsdp.sh, and all its variables, on a Ray cluster.
#
#   1. On every machine: the same verl and egrsd-verl, and the folders of model, data and checkpoints under the same paths.
#   2. On the first:     ray start --head --port=6379
#      On each other:    ray start --address=FIRST_MACHINE:6379      # refused for want of a token? docs/modes.md, Several nodes
#   3. On the first:     NNODES=2 bash examples/run_qwen3_8b_multinode.sh
#   4. On every machine: ray stop
#
# SHIP_RECIPE=1 lets Ray bring this checkout's recipe to the other machines, which then need verl but not egrsd-verl.
# The batch stays the paper's 32, whatever the number of GPUs. Not run by us: we have no GPUs.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

export RAY_ADDRESS=${RAY_ADDRESS:-auto}   # join the cluster; without one this is an error, not a run on one machine
export NNODES=${NNODES:-2}
export N_GPUS=${N_GPUS:-8}                # on each machine
SHIP_RECIPE=${SHIP_RECIPE:-0}

SHIPPED=()
if [ "$SHIP_RECIPE" = 1 ]; then
  SHIPPED=("+ray_kwargs.ray_init.runtime_env.py_modules=[$HERE/../recipe]")
fi
exec "$HERE/run_qwen3_8b_fsdp.sh" "${SHIPPED[@]}" "$@"
