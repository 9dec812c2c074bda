"""Which models a run's passes score rightly, by a model's own config, before Ray starts.

A layer with a state (linear attention, a convolution, Mamba) hands it from token to token, so that in a pack it must be
reset where a row ends. verl does that for Qwen3.5, and there flash-linear-attention's kernel does it: transformers' own
function, which stands in for the kernel, takes the borders of the rows and ignores them (verl's qwen3_5.py, function
_call_accepts_kwarg). Without a reset every response is scored after another one's tokens, and nothing says so. A row
that is padded or alone starts with no state in all of them.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from recipe.egrsd.config.derived import scoring_engine, student_scores_needed
from recipe.egrsd.config.derived import scoring_limits as limits_of
from recipe.egrsd.engine.layers import STATES, kinds_of_layers, layers_not_shared

PATH = "actor_rollout_ref.model.path"
FOUR_POSITIONS = ("qwen2_vl", "qwen2_5_vl", "glm4v")
RESET_BY_FLA = ("qwen3_5", "qwen3_5_moe")
"""Whose packs verl marks with the borders of their rows (monkey_patch.py); not those of their text-only variants."""
PLAIN = {"logits_scaling": 1, "logit_scale": 1, "lm_head_multiplier": 1, "final_logit_softcapping": None}
"""Settings of what becomes of a head's logits behind it, and the value at which nothing does. The worker asks every
model by a pass (engine/head.py)."""
SCALED = ("granite", "hyperclovax", "cohere", "falcon_h1", "gemma", "nanochat", "vaultgemma")
"""Beginnings of the model types that read these settings so."""


def read(config: Any, folder: Path) -> Any:
    """The model's config as verl reads it (workers/config/model.py:185).

    Raises:
        ValueError: if transformers cannot.
    """
    from transformers import AutoConfig

    model = config.actor_rollout_ref.model
    given = model.get("hf_config_path") or ""
    at = folder if not given or "://" in given else given  # verl fetches the latter itself
    try:
        return AutoConfig.from_pretrained(at, trust_remote_code=model.get("trust_remote_code", False))
    except Exception as error:  # of many kinds: no such file, a model type that this version does not know
        reason = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
        raise ValueError(
            f"{PATH}={folder}: transformers cannot read its config.json ({type(error).__name__}: {reason}), so neither "
            "can a worker; name the folder of a model that it knows."
        ) from error


def check(config: Any, folder: Path, *, trains_here: bool) -> None:
    """ValueError for a model that a worker could not run, or would score wrongly with these settings.

    Args:
        trains_here: whether a package that is missing here is missing where the model is trained; otherwise the worker
            finds out (engine/packing.py).
    """
    model = read(config, folder)
    text, kind = model.get_text_config(), model.model_type
    said = _why_it_cannot_run(text, kind)
    states = sorted(kinds_of_layers(model) & STATES)
    if not said and states and _packs(config):
        said = _why_packs_leak(config, kind, states, trains_here=trains_here)
    if said:
        raise ValueError(f"{PATH}={folder}: {said}.")


def _why_it_cannot_run(text: Any, kind: str) -> str:
    if kind in FOUR_POSITIONS:
        return (
            f"verl's forward pass of {kind} asks for four position ids a token, of text and image, and EGRSD's passes "
            "read texts; use a text model, or Qwen3-VL"
        )
    if not hasattr(text, "num_attention_heads"):
        return f"{kind} has no num_attention_heads, which verl's engine reads of every model; use one with attention"
    for name, plain in PLAIN.items():
        value = getattr(text, name, plain)
        if kind.startswith(SCALED) and value != plain and value is not None:
            return (
                f"{name}={value} changes the logits of its head, and EGRSD scores responses in the head; use a model "
                "that does not"
            )
    return ""


def _packs(config: Any) -> bool:
    """Whether some pass reads several rows in one pack."""
    parts = config.actor_rollout_ref
    if not parts.model.use_remove_padding:
        return False
    scorers = [scoring_engine(config)[1], *([parts.rollout] if student_scores_needed(config) else [])]
    passes = [(part.log_prob_use_dynamic_bsz, part.log_prob_micro_batch_size_per_gpu) for part in scorers]
    passes.append((parts.actor.use_dynamic_bsz, parts.actor.ppo_micro_batch_size_per_gpu))
    return any(dynamic or rows != 1 for dynamic, rows in passes)


def _why_packs_leak(config: Any, kind: str, states: list[str], *, trains_here: bool) -> str:
    """Empty where they do not."""
    layers, way_out = f"{kind} has layers of kind {states}", "actor_rollout_ref.model.use_remove_padding=false"
    wrong = "so that a response would be scored after another one's tokens"
    if kind not in RESET_BY_FLA:
        return f"{layers}, whose state verl does not reset between the rows of a pack, {wrong}; set {way_out}"
    kernel = f"{layers}, whose state flash-linear-attention alone resets between the rows of a pack"
    if config.trainer.device == "cpu":
        return f"{kernel}, and it needs a GPU, {wrong} here; set {way_out}"
    if trains_here and find_spec("fla") is None:
        return f"{kernel}, and it is not installed here, {wrong}; install it, or set {way_out}"
    return ""


def scoring_limits(config: Any) -> tuple[dict[str, Any], str]:
    """``derived.scoring_limits`` of the model, whose folder the config names; and a line for the log, empty if the
    model changes nothing."""
    limits, path = limits_of(config), OmegaConf.select(config, PATH)
    if "://" in path or not limits["max_shared_tokens"]:  # verl fetches the first itself, and the worker looks at it
        return limits, ""
    model = read(config, Path(path))
    layers = layers_not_shared(model)
    if not layers:
        return limits, ""
    said = (
        f"EGRSD reads a privileged prompt anew for each response: {model.model_type} has layers of kind {layers}, and "
        "responses share the keys and values of full and sliding attention alone."
    )
    return limits | {"max_shared_tokens": 0}, said if config.actor_rollout_ref.rollout.n > 1 else ""
