"""How much memory a GPU needs (on a CPU: a rank), estimated from shapes alone: nothing is loaded, nothing measured.

P parameters, A trained ones, T tokens of a micro-batch, V vocabulary, H hidden size, L layers. Sizes are bytes.
"""

from collections.abc import Iterator
from copy import copy
from functools import partial
from importlib.util import find_spec
from math import ceil, prod
from typing import Any

from verl.utils.torch_dtypes import PrecisionType

from recipe.egrsd import cpu
from recipe.egrsd.config import derived
from recipe.egrsd.doctor.case import Case, Finding, Level, graded
from recipe.egrsd.doctor.shapes import Shapes, shapes
from recipe.egrsd.engine.head import CHUNK_LOGITS
from recipe.egrsd.machines import attention
from recipe.egrsd.watch.tokens import SAVED_RESPONSES

GIB = 2**30
TIGHT = 0.85  # share of a memory from which such an estimate is a warning
# Bytes of one logit at the peak of a pass, by benchmarks/logit_memory.py. In the head (engine/head.py), of those that
# exist at a time: bfloat16, float32 and a copy on the way to the normaliser; for a divergence both models' float32,
# shares and slopes, too.
CHUNK_LOGIT, DIVERGENCE_LOGIT = 10, 24
# By verl's own functions, of all logits (score_student=always). Trained, by whether verl finds flash-attn's cross
# entropy (utils/torch_functional.py:38): the model's bfloat16, engine/fsdp.py's float32 and its gradient; or five of
# float32, one of them in blocks that CUDA's allocator lends to nothing else. Scored (transformer_impl.py:1397):
# bfloat16 and float32, and beside them the entropy of so many tokens at a time.
TRAINED_LOGIT = {True: 10, False: 20}
VERL_SCORED_LOGIT, VERL_ENTROPY_LOGIT, VERL_ENTROPY_TOKENS = 6, 6, 2048


class Term:
    """One summand: bytes an element, times the numbers behind its letters, over shards."""

    def __init__(self, name: str, width: float, letters: str, *counts: float, shards: int = 1):
        self.name, self.size = name, width * prod(counts) / shards
        each = f"{width / GIB:g} GiB" if width > 1e8 else f"{width:g} B"
        self.formula = f"{each}·{letters}" + (f"/{shards}" if shards > 1 else "")

    def times(self, ranks: int) -> "Term":
        """Of so many ranks."""
        other = copy(self)
        other.size, other.formula = self.size * ranks, f"{self.formula}·{ranks}" if ranks > 1 else self.formula
        return other

    def __str__(self) -> str:
        return f"{self.name} {self.size / GIB:.1f} = {self.formula}"


def micro_batch_tokens(config: Any, engine: Any, prefix: str, prompt: int, responses: int | None = None) -> int:
    """T of one GPU: the limit of dynamic batches, or its share of the batch if that is less; rows times length of
    static ones.

    Args:
        engine: actor_rollout_ref.actor with prefix ppo; actor_rollout_ref.ref or rollout with prefix log_prob.
        prompt: length of the longest prompt.
        responses: of the whole pass; None: all of a batch.
    """
    actor, trainer = config.actor_rollout_ref.actor, config.trainer
    row = prompt + config.data.max_response_length
    split = derived.sequence_parallel_ranks(engine if "fsdp_config" in engine else actor)  # vLLM's node has none
    if not engine["use_dynamic_bsz" if prefix == "ppo" else "log_prob_use_dynamic_bsz"]:
        return ceil((engine[f"{prefix}_micro_batch_size_per_gpu"] or 1) * row / split)
    batch = config.data.train_batch_size * config.actor_rollout_ref.rollout.n
    rows = ceil(min(batch, responses or batch) * split / (trainer.n_gpus_per_node * trainer.nnodes))
    return min(engine[f"{prefix}_max_token_len_per_gpu"], ceil(rows * row / split))


def check(case: Case) -> Iterator[Finding]:
    size = shapes(case.model)
    trained = f"P = {size.parameters:,} parameters, A = {size.trained:,} of them trained"
    gathered = f"E = {size.ends + 2 * size.block:,} in both ends and two layers"
    yield Finding(
        Level.GREEN,
        f"estimates, GiB{'' if cpu.enabled() else ' a GPU'}. {trained}, {gathered}, V = {size.vocabulary:,} "
        f"vocabulary, H = {size.hidden:,}, L = {size.layers} layers, T tokens of a micro-batch, C <= {CHUNK_LOGITS:,} "
        "logits that exist at a time",
    )
    if not cpu.enabled():
        for phase, terms in phases(case, size).items():
            yield total(phase, terms, case.gpu_gib)


def phases(case: Case, size: Shapes) -> dict[str, list[Term]]:
    """What a rank holds in each phase of a step, by the phase's name; on a CPU vLLM is not among them (host.py)."""
    config, parts, egrsd = case.config, case.config.actor_rollout_ref, case.config.algorithm.egrsd
    weights, adam, gradients = held(config, size)
    gathered = Term("gathered layers", compute_width(config), "E", size.ends + 2 * size.block)
    resting = [weights, adam, gathered]
    tokens = micro_batch_tokens(config, parts.actor, "ppo", case.longest_student_prompt)
    training = [gradients, *_activations(case, size, tokens), *_trained_logits(case, size, tokens)]
    mask = partial(_mask, config)
    found = {f"training, T = {tokens:,}": [*resting, *training, *mask(case.longest_student_prompt, tokens)]}
    scorer = parts["ref" if derived.uses_reference(config) else "rollout"]
    tokens = micro_batch_tokens(config, scorer, "log_prob", case.longest_teacher_prompt)
    scoring = [_chunk(size, tokens, CHUNK_LOGIT), *mask(case.longest_teacher_prompt, tokens)]
    found[f"teacher's scoring, T = {tokens:,}"] = resting + scoring
    students = case.longest_student_prompt
    if egrsd.score_student == "always":
        tokens = micro_batch_tokens(config, parts.rollout, "log_prob", students)
        logits = Term("logits", VERL_SCORED_LOGIT, "T·V", tokens, size.vocabulary)
        entropy = Term("their entropy", VERL_ENTROPY_LOGIT, "T·V", min(tokens, VERL_ENTROPY_TOKENS), size.vocabulary)
        found[f"verl's scoring of the student, T = {tokens:,}"] = [*resting, logits, entropy, *mask(students, tokens)]
    elif derived.student_scores_needed(config) or egrsd.save_tokens_every:
        name, rows = (
            ("old_log_prob", None) if derived.student_scores_needed(config) else ("token view", SAVED_RESPONSES)
        )
        tokens = micro_batch_tokens(config, parts.rollout, "log_prob", students, rows)
        found[f"{name}, T = {tokens:,}"] = [*resting, _chunk(size, tokens, CHUNK_LOGIT), *mask(students, tokens)]
    if not cpu.enabled():
        found["sampling"] = [_vllm(case), *_kept(config, weights, adam)]
    return found


def shards(config: Any) -> int:
    """Ranks over which each parameter is dealt out."""
    ranks, size = (
        config.trainer.n_gpus_per_node * config.trainer.nnodes,
        config.actor_rollout_ref.actor.fsdp_config.fsdp_size,
    )
    return size if 0 < size < ranks else ranks


def held(config: Any, size: Shapes) -> tuple[Term, Term, Term]:
    """A rank's weights, state of Adam, gradients. Those that verl gathers once an update are whole on each rank until
    then, in the dtype that they are summed in (torch, _fsdp_param.py:802); verl 0.9.0, which has no such key, always
    does so."""
    fsdp, over = config.actor_rollout_ref.actor.fsdp_config, shards(config)
    width, summed = width_of(fsdp.model_dtype), _mixed_width(config, "reduce_dtype", "fp32")
    if fsdp.get("use_no_sync_for_gradient_accumulation", True):
        gradients = Term("gradients, whole between micro-batches", summed, "A", size.trained)
    else:
        gradients = Term("gradients", width, "A", size.trained, shards=over)
    return (
        Term("weights", width, "P", size.parameters, shards=over),
        Term("Adam", 2 * width, "A", size.trained, shards=over),
        gradients,
    )


def compute_width(config: Any) -> int:
    """Bytes of an element that a forward pass computes in."""
    return _mixed_width(config, "param_dtype", "bf16")


def _mixed_width(config: Any, part: str, default: str) -> int:
    """Of verl's mixed precision, with verl's default (transformer_impl.py:397)."""
    mixed = config.actor_rollout_ref.actor.fsdp_config.get("mixed_precision") or {}
    return width_of(mixed.get(part) or default)


def _activations(case: Case, size: Shapes, tokens: int) -> list[Term]:
    """With checkpointing each layer keeps its input, and one layer at a time what it recomputes; without, all do."""
    width = compute_width(case.config)
    layer = size.widths.activations(width)
    if not case.model.enable_gradient_checkpointing:
        return [Term("activations of all layers", layer, "T·L", tokens, size.layers)]
    inputs = Term("layers' inputs", width, "T·H·L", tokens, size.hidden, size.layers)
    return [inputs, Term("activations of a layer", layer, "T", tokens)]


def _mask(config: Any, prompt: int, tokens: int) -> list[Term]:
    """sdpa's, where several rows share a pack."""
    packs = config.actor_rollout_ref.model.use_remove_padding and tokens > prompt + config.data.max_response_length
    if not packs or attention.expected(config)[0] != attention.ALWAYS_THERE:
        return []
    return [Term("sdpa's mask", attention.MASK_BYTES, "T²", tokens, tokens)]


def _trained_logits(case: Case, size: Shapes, tokens: int) -> list[Term]:
    config, egrsd = case.config, case.config.algorithm.egrsd
    at_head = Term(
        "hidden states and their gradient at the head", 4 + 2 * compute_width(config), "T·H", tokens, size.hidden
    )
    if egrsd.divergence and egrsd.pull.coefficient > 0:
        head = Term("teacher's head", compute_width(config), "V·H", size.vocabulary, size.hidden)
        return [_chunk(size, tokens, DIVERGENCE_LOGIT), at_head, head]
    if egrsd.score_student == "auto":
        return [_chunk(size, tokens, CHUNK_LOGIT), at_head]
    flash = find_spec("flash_attn") is not None
    name = f"logits {'with' if flash else 'without'} flash-attn's cross entropy"
    return [Term(name, TRAINED_LOGIT[flash], "T·V", tokens, size.vocabulary)]


def _chunk(size: Shapes, tokens: int, width: int) -> Term:
    """What engine/head.py has at a time."""
    return Term("logits", width, "C", min(tokens * size.vocabulary, CHUNK_LOGITS))


def _vllm(case: Case) -> Term:
    share = case.config.actor_rollout_ref.rollout.gpu_memory_utilization
    vllm = Term("vLLM", share * case.gpu_gib * GIB, "gpu_memory_utilization of a GPU")
    vllm.formula = f"{share:g} of {case.gpu_gib:g}"
    return vllm


def _kept(config: Any, weights: Term, adam: Term) -> list[Term]:
    """What the trainer leaves on the GPU while vLLM is awake."""
    fsdp = config.actor_rollout_ref.actor.fsdp_config
    return [weights] * (not fsdp.param_offload) + [adam] * (not fsdp.optimizer_offload)


def total(phase: str, terms: list[Term], gpu_gib: float) -> Finding:
    """Red beyond that memory, yellow close below it."""
    gib = sum(term.size for term in terms) / GIB
    level = graded(red=gib > gpu_gib, yellow=gib > TIGHT * gpu_gib)
    hint = {
        Level.RED: ": lower the token limits, use LoRA, offload, or take more GPUs",
        Level.YELLOW: ": tight, measure one step first",
        Level.GREEN: "",
    }[level]
    return Finding(level, f"{phase}: about {gib:.1f} of {gpu_gib:g}{hint} ({', '.join(map(str, terms))})")


def width_of(dtype: str | None) -> int:
    return PrecisionType.to_dtype(dtype or "fp32").itemsize
