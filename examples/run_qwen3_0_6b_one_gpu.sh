#!/usr/bin/env bash
# Qwen3-0.6B on one GPU of 24 GB or more, 20 steps: shows within minutes that machine, install and data work. No experiment
# of the paper, and 20 steps at its learning rate teach little.
#
#   examples/run_qwen3_0_6b_one_gpu.sh
#   ALGORITHM=egrsd STEPS=100 examples/run_qwen3_0_6b_one_gpu.sh           # all variables: run_qwen3_fsdp.sh
#
# Not run by us (no GPU). What the doctor estimates for a GPU and (host) for the machine, terms of 1 GiB and more:
#   training, T = 8,192: 5 GiB (weights 2.4)
#   teacher's scoring, T = 8,192: 4 GiB (weights 2.4)
#   token view, T = 8,192: 4 GiB (weights 2.4)
#   sampling: 12 GiB (vLLM 9.6, weights 2.4)
#   host, starting: 9 GiB (tied weights, whole on every rank 2.4, processes 4.8, vLLM's processes 1.6)
#   host, training: 8 GiB (sleeping vLLM's weights 1.2, processes 4.8, vLLM's processes 1.6)
# It holds 5 of Ray's CPUs (recipe/egrsd/machines/slots.py).
set -euo pipefail

export MODEL=${MODEL:-Qwen/Qwen3-0.6B}
export ALGORITHM=${ALGORITHM:-cl_egrsd}
export N_GPUS=${N_GPUS:-1}
export MAX_SEQUENCE=${MAX_SEQUENCE:-8192}              # longer teacher rows are dropped and counted
export MAX_TOKENS_PER_GPU=${MAX_TOKENS_PER_GPU:-8192}
export GPU_MEMORY=${GPU_MEMORY:-0.4}
export STEPS=${STEPS:-20}
export SAVE_FREQ=${SAVE_FREQ:-20}
export TEST_FREQ=${TEST_FREQ:-10}
export VAL_SAMPLES=${VAL_SAMPLES:-1}
export SAVE_TOKENS_EVERY=${SAVE_TOKENS_EVERY:-10}

# Fewer processes than verl's eight of each: a rented machine with one GPU often has 8 CPUs and 30 GB of memory.
exec "$(dirname "${BASH_SOURCE[0]}")/run_qwen3_fsdp.sh" reward.num_workers=2 actor_rollout_ref.rollout.agent.num_workers=2 "$@"
