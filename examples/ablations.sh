#!/usr/bin/env bash
# The paper's sweeps and three that it leaves out (epsilon, length bonus, privilege), one run after another, each in
# outputs/ablation-<name>.
#
#   examples/ablations.sh                                   # all of them on Qwen3-8B
#   DRY_RUN=1 examples/ablations.sh                         # print the commands
#   SWEEPS="gamma teacher" RUN=examples/run_qwen3_4b_fsdp.sh examples/ablations.sh trainer.logger='[console]'
#
# A run that fails is named at the end and does not stop the others. Not run by us (no GPU).
set -euo pipefail

HERE=$(dirname "${BASH_SOURCE[0]}")
RUN=${RUN:-$HERE/run_qwen3_8b_fsdp.sh}
SWEEPS=${SWEEPS:-gamma window clip_range length_bonus teacher privilege}
GAMMAS=${GAMMAS:-0.0 0.1 0.2 0.3 0.4 0.6 0.7 0.8 0.9}    # the paper's grid, W = 0
WINDOWS=${WINDOWS:-0 1 3 5 7}                            # the paper's grid; all at RUN's gamma of cl_egrsd, the paper mixes
CLIP_RANGES=${CLIP_RANGES:-0 0.1 0.4}                    # ours; the run gamma-0.3 has 0.2
SNAPSHOTS=${SNAPSHOTS:-20 50}                            # the paper's; the run gamma-0.3 has a frozen teacher
EMA_DECAYS=${EMA_DECAYS:-0.99}
PRIVILEGES=${PRIVILEGES:-answer_only shuffled other_problem wrong none}  # ours: controls; the run gamma-0.3 is shown the solution
DRY_RUN=${DRY_RUN:-}

FAILED=()
launch() {  # NAME VARIABLE=VALUE... : one run; OVERRIDES go behind
  local name=$1 settings=("NAME=ablation-$1" "${@:2}")
  echo "${settings[*]} $RUN ${OVERRIDES[*]}"
  [[ $DRY_RUN ]] || env "${settings[@]}" "$RUN" "${OVERRIDES[@]}" || FAILED+=("$name")
}

OVERRIDES=("$@")
for sweep in $SWEEPS; do
  case $sweep in
    gamma) for gamma in $GAMMAS; do launch "gamma-$gamma" ALGORITHM=egrsd GAMMA="$gamma"; done ;;
    window) for window in $WINDOWS; do launch "window-$window" ALGORITHM=cl_egrsd WINDOW="$window"; done ;;
    clip_range) for width in $CLIP_RANGES; do launch "clip_range-$width" ALGORITHM=egrsd CLIP_RANGE="$width"; done ;;
    length_bonus) launch length_bonus-0 ALGORITHM=egrsd LENGTH_BONUS=0 ;;
    teacher)
      for every in $SNAPSHOTS; do launch "snapshot-$every" ALGORITHM=egrsd TEACHER_KIND=snapshot SYNC_EVERY="$every"; done
      for decay in $EMA_DECAYS; do launch "ema-$decay" ALGORITHM=egrsd TEACHER_KIND=ema EMA_DECAY="$decay"; done ;;
    privilege) for shown in $PRIVILEGES; do launch "privilege-$shown" ALGORITHM=egrsd PRIVILEGE="$shown"; done ;;
    *) echo "SWEEPS names '$sweep'; choose from gamma window clip_range length_bonus teacher privilege" >&2; exit 2 ;;
  esac
done
if [[ ${#FAILED[@]} -gt 0 ]]; then
  echo "failed: ${FAILED[*]}" >&2
  exit 1
fi
