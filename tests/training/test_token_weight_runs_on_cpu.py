"""A whole run whose token weight is a module in the folder that the command is typed in: workers find it there."""

import pyarrow.parquet as pq
import pytest
import torch
from runs import COIN_REWARD, good, run

SOURCE = """
import torch

def late(student_log_probs, teacher_log_probs, teacher_entropy, advantages, teacher_mask, *, clip_range):
    position = torch.arange(teacher_mask.size(-1), device=teacher_mask.device)
    return torch.where(position >= 2, 1.0 + clip_range, 0.5).expand(teacher_mask.shape)
"""


@pytest.mark.slow
@pytest.mark.long
def test_a_weight_of_the_users_own_trains(inputs, tmp_path):
    """Metrics and token view are those of the function on what the trainer recorded; no gate, no ratio weight."""
    folder = tmp_path / "typed_here"
    folder.mkdir()
    (folder / "my_weights.py").write_text(SOURCE)
    overrides = [
        *COIN_REWARD, "algorithm.egrsd.token_weight=my_weights:late", "algorithm.egrsd.save_tokens_every=2",
        "trainer.total_training_steps=2", "trainer.n_gpus_per_node=2",
    ]  # fmt: skip
    result = good(run(inputs, tmp_path / "run", overrides, cwd=folder))
    assert (
        "EGRSD weighs tokens by my_weights:late, which reads clip_range; entropy_scale, gate_mean, mixing, window, "
        "gamma, floor, gate mean nothing to it." in result.log
    )
    batch, logged = result.probe(2), result.metrics[1]
    weights = [0.5 if t < 2 else 1.2 for response in batch["responses"] for t in range(len(response))]
    assert logged["egrsd/token_weight_mean"] == pytest.approx(sum(weights) / len(weights), abs=1e-5)
    absent = {"gate_mean", "gate_floor_frac", "lookahead_restored_mean", "ratio_weight_mean", "mixing"}
    assert not {f"egrsd/{name}" for name in absent} & logged.keys()
    assert logged["actor/grad_norm"] > 0
    rows = pq.read_table(result.folder / "checkpoints/tokens/step_2.parquet").to_pylist()
    assert rows
    for row in rows:
        expected = torch.tensor([0.5, 0.5] + [1.2] * (len(row["token_ids"]) - 2))[: len(row["token_ids"])]
        torch.testing.assert_close(torch.tensor(row["token_weight"]), expected, atol=1e-6, rtol=0)
        assert row["gate"] is None and row["ratio_weight"] is None
