"""The metrics of a whole float32 run, as they were when somebody last looked: three steps on the committed rollouts.

Two machines sum float32 in different orders, and a batch comes in the order of random names. The same run with torch,
MKL and oneDNN on SSE4, one thread (ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41
OMP_NUM_THREADS=1) changed no value by more than 4e-7. TOLERANCE is ten times that; gamma + 0.001 changes the mean gate
by 9e-4.
"""

import math

import fixed_rollouts
import pytest
from packages import is_pinned
from runs import Run
from same_training import weights

pytestmark = pytest.mark.slow

STEPS = (1, 2, 3)
TOLERANCE = 4e-6
LEFT_OUT = ("timing_", "perf/", "actor/perf/", "rollout_corr/", "training/rollout_", "global_seqlen/")
"""Time, memory; how far vLLM is from FSDP, which is rounding alone; tokens of a rank before verl balances them."""


def same(one: float, other: float) -> bool:
    """Relative above 1, absolute below."""
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def logged(run: Run, step: int) -> dict[str, float]:
    return {name: value for name, value in run.metrics[step - 1].items() if not name.startswith(LEFT_OUT)}


@pytest.mark.parametrize("step", STEPS)
def test_metrics(golden, full, step):
    if not is_pinned("torch"):
        pytest.skip("the golden metrics are those of the torch in requirements/torch.txt")
    if golden.renew and not fixed_rollouts.FILE.exists():
        fixed_rollouts.FILE.write_text(fixed_rollouts.text(full.folder / "rollouts"))
    golden("metrics.yaml", f"step {step}", logged(full, step), same=same)


def test_nothing_is_left_over(golden):
    golden.only("metrics.yaml", [f"step {step}" for step in STEPS])


def test_a_small_change_of_gamma_is_seen(full):
    """What the run would log with gamma + 0.001, of the tokens that it has weighted."""
    for step in STEPS:
        mean = {gamma: gate_mean(full, step, gamma) for gamma in (0.3, 0.301)}
        assert same(mean[0.3], logged(full, step)["egrsd/gate_mean"])
        assert abs(mean[0.301] - mean[0.3]) > 20 * TOLERANCE


def gate_mean(run: Run, step: int, gamma: float) -> float:
    gates = [gate for _, weight in weights(run, step, window=3, gamma=gamma) for gate in weight.gate[0].tolist()]
    return sum(gates) / len(gates)
