"""What a model's own config says of it before Ray starts: refused in one line where its scores would be wrong or a
worker would die, and let through where they are right (tests/engine/test_states_on_cpu.py)."""

from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import transformers
from composing import LORA, composed

from recipe.egrsd.config import validation
from recipe.egrsd.machines import architectures, models

TINY = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8,
}  # fmt: skip
LINEAR, MIXED = ["linear_attention", "full_attention"], ["mamba", "attention"]
PADDED = "actor_rollout_ref.model.use_remove_padding=false"
DRAWN_IN = {"text_config": {**TINY, "layer_types": LINEAR}}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3Config", TINY),
    "gemma3": ("Gemma3TextConfig", {**TINY, "layer_types": ["sliding_attention", "full_attention"]}),
    "qwen3_vl": ("Qwen3VLConfig", {"text_config": TINY}),
    "qwen3_next": ("Qwen3NextConfig", {**TINY, "layer_types": LINEAR}),
    "qwen3_5_text": ("Qwen3_5TextConfig", {**TINY, "layer_types": LINEAR}),
    "qwen3_5": ("Qwen3_5Config", DRAWN_IN),
    "qwen3_5_moe": ("Qwen3_5MoeConfig", DRAWN_IN),
    "lfm2": ("Lfm2Config", {**TINY, "layer_types": ["conv", "full_attention"]}),
    "granite hybrid": ("GraniteMoeHybridConfig", {**TINY, "layer_types": MIXED, "mamba_n_heads": 4}),
    "bamba": ("BambaConfig", {**TINY, "attn_layer_indices": [1], "mamba_n_heads": 4}),
    "granite": ("GraniteConfig", {**TINY, "logits_scaling": 8.0}),
    "granite, plain": ("GraniteConfig", TINY),
    "cohere": ("CohereConfig", {**TINY, "logit_scale": 0.0625}),
    "gemma2": ("Gemma2Config", TINY),
    "mamba": ("MambaConfig", {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2}),
    "qwen2_vl": ("Qwen2VLConfig", {"text_config": TINY}),
    "qwen2_5_vl": ("Qwen2_5_VLConfig", {"text_config": TINY}),
}
NEVER_RESET = r"layers of kind \['{}'\], whose state verl does not reset between the rows of a pack.* set " + PADDED
REFUSED = {
    "qwen3_next": NEVER_RESET.format("linear_attention"),
    "qwen3_5_text": NEVER_RESET.format("linear_attention"),
    "lfm2": NEVER_RESET.format("conv"),
    "granite hybrid": NEVER_RESET.format("mamba"),
    "bamba": NEVER_RESET.format("mamba"),
    "granite": "logits_scaling=8.0 changes the logits of its head",
    "cohere": "logit_scale=0.0625 changes the logits of its head",
    "gemma2": "final_logit_softcapping=30.0 changes the logits of its head",
    "mamba": "has no num_attention_heads",
    "qwen2_vl": "four position ids a token",
    "qwen2_5_vl": "four position ids a token",
}


def located(folder: Path, name: str, *overrides: str) -> None:
    """As before Ray, of a folder whose weights nobody opens."""
    kind, sizes = CONFIGS[name]
    getattr(transformers, kind)(**sizes).save_pretrained(folder)
    (folder / "model.safetensors").touch()
    config = composed(f"actor_rollout_ref.model.path={folder}", *overrides)
    validation.validate(config)
    models.located(config)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_that_names_key_and_folder(name, tmp_path):
    with pytest.raises(ValueError, match=REFUSED[name]) as said:
        located(tmp_path, name)
    assert str(said.value).startswith(f"actor_rollout_ref.model.path={tmp_path}: ") and "\n" not in str(said.value)


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "qwen3_vl", "granite, plain"])
def test_a_model_of_attention_alone_is_taken(name, tmp_path):
    located(tmp_path, name)


ALONE = [
    "actor_rollout_ref.actor.use_dynamic_bsz=false", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=1",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1",
]  # fmt: skip


@pytest.mark.parametrize("name", ["qwen3_next", "qwen3_5_text", "qwen3_5", "qwen3_5_moe", "lfm2"])
@pytest.mark.parametrize("way_out", [[PADDED], [PADDED, LORA], ALONE, [*ALONE, LORA]])
def test_rows_that_are_padded_or_alone_are_taken(name, way_out, tmp_path):
    located(tmp_path, name, *way_out, "actor_rollout_ref.rollout.n=8")


@pytest.mark.parametrize("place", range(1, len(ALONE)))
def test_two_rows_in_one_pass_are_a_pack(place, tmp_path):
    """The update's, the teacher's, and verl's own pass over the student."""
    words = [*ALONE, "algorithm.egrsd.score_student=always"]
    words[place] = words[place].replace("=1", "=2")
    with pytest.raises(ValueError, match=NEVER_RESET.format("linear_attention")):
        located(tmp_path, "qwen3_next", *words)


@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_5_moe"])
def test_packs_of_qwen3_5_need_the_kernel_that_resets_its_state(name, tmp_path, monkeypatch):
    """verl hands the rows' borders on; transformers' own function, which stands in for the kernel, ignores them."""
    here = {"fla": None}
    monkeypatch.setattr(architectures, "find_spec", lambda package: here[package])
    located(tmp_path, name, "trainer.device=cuda")  # started where no GPU is: the worker looks
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(ValueError, match=rf"flash-linear-attention.*not installed here.* {PADDED}"):
        located(tmp_path, name, "trainer.device=cuda")
    here["fla"] = ModuleSpec("fla", None)
    located(tmp_path, name, "trainer.device=cuda")
    with pytest.raises(ValueError, match=rf"flash-linear-attention.*needs a GPU.* {PADDED}"):
        located(tmp_path, name, "trainer.device=cpu")


def test_a_config_that_transformers_cannot_read_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no_such_model"}')
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"transformers cannot read its config.json \(.*no_such_model") as said:
        models.located(composed(f"actor_rollout_ref.model.path={tmp_path}"))
    assert "\n" not in str(said.value)


def test_whose_responses_share_a_prompt(tmp_path):
    """A state cannot be shared as keys and values can; the run goes on, and says so where it costs something."""
    kind, sizes = CONFIGS["qwen3_5"]
    getattr(transformers, kind)(**sizes).save_pretrained(tmp_path)
    words = [f"actor_rollout_ref.model.path={tmp_path}", PADDED]
    limits, said = architectures.scoring_limits(composed(*words, "actor_rollout_ref.rollout.n=8"))
    assert limits == {"max_shared_tokens": 0, "rows_of_micro_batch": 1}
    assert said.startswith("EGRSD reads a privileged prompt anew for each response: qwen3_5 has layers of kind ['lin")
    transformers.Qwen3Config(**TINY).save_pretrained(tmp_path)
    limits, said = architectures.scoring_limits(composed(*words))
    assert limits["max_shared_tokens"] > 0 and not said
