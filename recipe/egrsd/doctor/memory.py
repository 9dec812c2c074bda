"""How much memory a GPU needs, estimated from shapes alone: nothing is loaded, nothing measured, fragmentation not counted.

P parameters, A trained ones, T tokens of a micro-batch, V vocabulary, H hidden size, L layers. Sizes are bytes.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM
from verl.utils.py_functional import convert_to_regular_types
from verl.utils.torch_dtypes import PrecisionType

from recipe.egrsd import schema
from recipe.egrsd.doctor.case import Case, Finding, Level, graded
from recipe.egrsd.head import CHUNK_TOKENS

GIB = 2**30
TIGHT = 0.85  # share of a GPU from which such an estimate is a warning
# Bytes of one logit. Trained: the model's bfloat16, engine.py's float32, and their gradients. Scored (head.py): the first, and
# three times float32.
TRAINED_LOGIT, SCORED_LOGIT = 12, 14


@dataclass(frozen=True)
class Shapes:
    """Numbers of elements of a model."""

    parameters: int
    trained: int
    block: int
    """The largest decoder layer."""
    ends: int
    """Embedding and head."""
    vocabulary: int
    hidden: int
    layers: int


class Term:
    """One summand: bytes an element, times the numbers behind its letters, over shards."""

    def __init__(self, name: str, width: float, letters: str, *counts: float, shards: int = 1):
        self.name, self.size = name, width * prod(counts) / shards
        self.formula = f"{width:g} B·{letters}" + (f"/{shards}" if shards > 1 else "")

    def __str__(self) -> str:
        return f"{self.name} {self.size / GIB:.1f} = {self.formula}"


def shapes(model: Any) -> Shapes:
    """model: verl's HFModelConfig. The module is built on the meta device, which allocates nothing."""
    hf_config = deepcopy(model.hf_config)
    hf_config._attn_implementation = "eager"  # flash attention would be looked for even here
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(hf_config, trust_remote_code=model.trust_remote_code)
        layers = max((part for part in module.modules() if isinstance(part, nn.ModuleList)), key=_elements)
        ends = nn.ModuleList([module.get_input_embeddings(), module.get_output_embeddings()])
        vocabulary, hidden = ends[0].weight.shape
        found = {"block": max(map(_elements, layers)), "ends": _elements(ends), "layers": len(layers)}
        if model.lora_adapter_path:
            module = get_peft_model(module, LoraConfig.from_pretrained(model.lora_adapter_path, inference_mode=False))
        elif model.lora_rank > 0:
            target = convert_to_regular_types(model.target_modules)
            excluded = convert_to_regular_types(model.exclude_modules)
            adapter = LoraConfig(task_type="CAUSAL_LM", r=model.lora_rank, target_modules=target, exclude_modules=excluded)
            module = get_peft_model(module, adapter)
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return Shapes(parameters=_elements(module), trained=trained, vocabulary=vocabulary, hidden=hidden, **found)


def micro_batch_tokens(config: Any, engine: Any, prefix: str, prompt: int) -> int:
    """T of one GPU: the limit of dynamic batches, or its share of the batch if that is less; rows times length of static ones.

    Args:
        engine: actor_rollout_ref.actor with prefix ppo; actor_rollout_ref.ref or rollout with prefix log_prob.
        prompt: length of the longest prompt.
    """
    actor, trainer = config.actor_rollout_ref.actor, config.trainer
    row = prompt + config.data.max_response_length
    split = engine.get("ulysses_sequence_parallel_size") or actor.ulysses_sequence_parallel_size
    if not engine["use_dynamic_bsz" if prefix == "ppo" else "log_prob_use_dynamic_bsz"]:
        return ceil((engine[f"{prefix}_micro_batch_size_per_gpu"] or 1) * row / split)
    batch = config.data.train_batch_size * config.actor_rollout_ref.rollout.n
    rows = ceil(batch * split / (trainer.n_gpus_per_node * trainer.nnodes))
    return min(engine[f"{prefix}_max_token_len_per_gpu"], ceil(rows * row / split))


def check(case: Case) -> Iterator[Finding]:
    config, fsdp, rollout = case.config, case.config.actor_rollout_ref.actor.fsdp_config, case.config.actor_rollout_ref.rollout
    size = shapes(case.model)
    gpus = config.trainer.n_gpus_per_node * config.trainer.nnodes
    shards = fsdp.fsdp_size if 0 < fsdp.fsdp_size < gpus else gpus
    letters = f"P = {size.parameters:,} parameters, A = {size.trained:,} of them trained, E = {size.ends + 2 * size.block:,} in"
    yield Finding(
        Level.GREEN,
        f"estimates, GiB a GPU. {letters} both ends and two layers, V = {size.vocabulary:,} vocabulary, H = {size.hidden:,}, "
        f"L = {size.layers} layers, T tokens of a micro-batch, C <= {CHUNK_TOKENS} of them whose logits exist at a time",
    )
    width = _width(fsdp.model_dtype)
    weights = Term("weights", width, "P", size.parameters, shards=shards)
    adam = Term("Adam", 2 * width, "A", size.trained, shards=shards)
    gradients = Term("gradients", width, "A", size.trained, shards=shards)
    gathered = Term("gathered layers", 2, "E", size.ends + 2 * size.block)
    tokens = micro_batch_tokens(config, config.actor_rollout_ref.actor, "ppo", case.longest_student_prompt)
    training = [weights, gradients, adam, gathered, *_activations(case, size, tokens)]
    training += _logits(case, size, TRAINED_LOGIT, tokens)
    if config.algorithm.egrsd.divergence:
        training.append(Term("teacher's head", 2, "V·H", size.vocabulary, size.hidden))
    yield _total(f"training, T = {tokens:,}", training, case.gpu_gib)
    engine = config.actor_rollout_ref["ref" if schema.uses_reference(config) else "rollout"]
    tokens = micro_batch_tokens(config, engine, "log_prob", case.longest_teacher_prompt)
    scoring = [weights, adam, gathered, *_logits(case, size, SCORED_LOGIT, min(tokens, CHUNK_TOKENS), letter="C")]
    yield _total(f"teacher's scoring, T = {tokens:,}", scoring, case.gpu_gib)
    vllm = Term("vLLM", rollout.gpu_memory_utilization * case.gpu_gib * GIB, "gpu_memory_utilization of a GPU")
    vllm.formula = f"{rollout.gpu_memory_utilization:g} of {case.gpu_gib:g}"
    resident = [weights] * (not fsdp.param_offload) + [adam] * (not fsdp.optimizer_offload)
    yield _total("sampling", [vllm, *resident], case.gpu_gib)
    yield Finding(Level.GREEN, _teacher_weights(config, size, shards))


def _activations(case: Case, size: Shapes, tokens: int) -> list[Term]:
    """With checkpointing each layer keeps its bfloat16 input; what one layer recomputes is not counted."""
    if not case.model.enable_gradient_checkpointing:
        return []
    return [Term("activations", 2, "T·H·L", tokens, size.hidden, size.layers)]


def _logits(case: Case, size: Shapes, width: int, tokens: int, letter: str = "T") -> list[Term]:
    """Fused kernels make none."""
    return [] if case.model.use_fused_kernels else [Term("logits", width, f"{letter}·V", tokens, size.vocabulary)]


def _total(phase: str, terms: list[Term], gpu_gib: float) -> Finding:
    gib = sum(term.size for term in terms) / GIB
    level = graded(red=gib > gpu_gib, yellow=gib > TIGHT * gpu_gib)
    hint = {
        Level.RED: ": lower the token limits, use LoRA, offload, or take more GPUs",
        Level.YELLOW: ": tight, measure one step first",
        Level.GREEN: "",
    }[level]
    return Finding(level, f"{phase}: about {gib:.1f} of {gpu_gib:g}{hint} ({', '.join(map(str, terms))})")


def _teacher_weights(config: Any, size: Shapes, shards: int) -> str:
    kind = config.algorithm.egrsd.teacher.kind
    if schema.uses_reference(config):
        width = _width(config.actor_rollout_ref.ref.fsdp_config.model_dtype)
        return f"{kind} teacher, host memory for each GPU: {Term('weights', width, 'P', size.parameters, shards=shards)}"
    if kind in schema.MOVING_KINDS:
        return f"{kind} teacher, host memory for each GPU: {Term('adapter', 4, 'A', size.trained, shards=shards)}"
    return f"{kind} teacher: the student{' with its adapter off' if kind == 'frozen' else ''}, no weights of its own"


def _width(dtype: str | None) -> int:
    return PrecisionType.to_dtype(dtype or "fp32").itemsize


def _elements(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
