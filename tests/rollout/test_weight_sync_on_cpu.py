"""A model with tied embeddings reaches vLLM whole, with full parameters and under an adapter; a sync that fails says
why."""

import pytest
from inputs import COMMIT, on_the_hub, write_inputs
from runs import COIN_REWARD, good, run
from transformers import Qwen2VLConfig, Qwen3Config

from recipe.egrsd.machines.models import is_tied
from recipe.egrsd.rollout.receiver import saying_why

BUCKET = "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes"


def test_a_failed_sync_says_every_cause_in_one_line():
    """As in verl's receiver, whose clean-up fails because the weights are still in use: vLLM hands on the last text
    alone."""

    def receive() -> None:
        try:
            raise ValueError("'lm_head.weight' was skipped\nbecause it is tied")
        finally:
            raise BufferError("cannot close exported pointers exist")

    first = "ValueError: 'lm_head.weight' was skipped because it is tied"
    with pytest.raises(RuntimeError, match=rf"^{first}; then BufferError: cannot close exported pointers exist$"):
        saying_why(receive)()


def test_which_models_have_one_weight_for_both_ends():
    """A head left out by mistake would stay as it was in vLLM, without a word: both are sent where a config is
    unclear."""
    assert is_tied(Qwen3Config(tie_word_embeddings=True)) and not is_tied(Qwen3Config(tie_word_embeddings=False))
    composed = Qwen2VLConfig(tie_word_embeddings=False)
    composed.get_text_config().tie_word_embeddings = True
    assert not is_tied(composed)


@pytest.mark.slow
@pytest.mark.long
def test_a_tied_model_is_sent_in_parts(tmp_path):
    """verl sends the head a second time, and vLLM 0.29 refuses it in a message that does not hold the embedding.

    The runs of test_gpu_precision_on_cpu.py are sent so, too, in bfloat16.
    """
    write_inputs(tmp_path / "inputs", tied=True)
    weights = (tmp_path / "inputs" / "model" / "model.safetensors").stat().st_size
    assert weights > 1 << 20  # more than one message
    result = good(run(tmp_path / "inputs", tmp_path / "run", [*COIN_REWARD, f"{BUCKET}=1"]))
    assert len(result.metrics) == 3
    assert 0 < max(step["training/rollout_probs_diff_max"] for step in result.metrics) <= 1e-6


@pytest.mark.slow
@pytest.mark.long
def test_an_adapter_on_a_tied_model_needs_one_key_and_a_name_on_the_hub(tmp_path):
    """README's way to an adapter, on the layout of Qwen3-4B and smaller: after every update vLLM and FSDP agree in
    float32."""
    write_inputs(tmp_path / "inputs", tied=True)
    snapshot = on_the_hub(tmp_path / "home", "some/tiny", tmp_path / "inputs" / "model")
    overrides = [
        "actor_rollout_ref.model.path=some/tiny", "actor_rollout_ref.model.lora_rank=8",
        "actor_rollout_ref.actor.optim.lr=1e-2", "trainer.total_training_steps=6",
    ]  # fmt: skip
    hub = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    result = good(run(tmp_path / "inputs", tmp_path / "run", [*COIN_REWARD, *overrides], **hub))
    assert len(result.metrics) == 6
    assert 0 < max(step["training/rollout_probs_diff_max"] for step in result.metrics) <= 1e-6
    moved = result.probe(6)["old_log_probs"][0] - result.probe(6)["teacher_log_probs"][0]
    assert moved.abs().max() > 1e-2
    assert f"EGRSD reads actor_rollout_ref.model.path=some/tiny from {snapshot} (commit {COMMIT})." in result.log
