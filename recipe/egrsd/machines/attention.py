"""What a machine has for a model's attention: GPUs that PyTorch can use, a library, memory for sdpa's mask.

verl asks transformers for flash attention, whose library verl[vllm] does not bring; without it every worker dies while
it builds its model. A run that names no attention takes PyTorch's own instead and says so; one that names what is not
there is refused.
"""

import os
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any

import torch
from omegaconf import open_dict
from transformers import AutoModelForCausalLM, Qwen3Config

from recipe.egrsd import cpu
from recipe.egrsd.config import derived

KEY = "actor_rollout_ref.model.override_config.attn_implementation"
VERLS_CHOICE, ALWAYS_THERE = "flash_attention_2", "sdpa"
OLDEST_DRIVER = {12: 525, 13: 580}
"""NVIDIA's driver series by the major version of the CUDA that PyTorch was built for."""
MASK_BYTES = 5
"""Of sdpa's mask, for each pair of tokens in a pack: 1 as bool, 2 as the bfloat16 that CUDA's kernel reads, 2 for a
copy of that where the number of tokens is no multiple of 8."""
MASK_GIB = 10.0
"""A larger mask is refused: no GPU has that to spare beside a model, and smaller packs take less time, too."""
GIB = 2**30
LIBRARIES = (
    "pip install flash-attn==2.8.3 --no-build-isolation, which compiles and needs nvcc, or the extra "
    "egrsd-verl[kernels], which fetches a compiled one from the Hugging Face hub at the start"
)

Faults = tuple[str, str]
"""What is wrong with a machine's GPUs, and with the attention that was asked for; empty: nothing."""


def named_attention(config: Any) -> str | None:
    """What the user names; None leaves it to verl, which takes flash attention (workers/config/model.py:185)."""
    return config.actor_rollout_ref.model.override_config.get("attn_implementation")


def gpu_fault(version_file: Path = Path("/proc/driver/nvidia/version"), device: Path = Path("/dev/nvidiactl")) -> str:
    """Why PyTorch cannot use this machine's GPUs; empty if it can, if this process has none, or if the run needs none.

    Args:
        version_file: NVIDIA's driver writes it where it is loaded, also for containers that were given no GPU.
        device: is where a process may use one.
    """
    given = version_file.exists() and device.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    if cpu.enabled() or not given or torch.cuda.is_available():
        return ""
    words = version_file.read_text().split()
    driver = next((word for word in words if word[:3].isdigit() and word[3:4] == "."), "of unknown version")
    beside = f"PyTorch {torch.__version__} can use no GPU beside NVIDIA's driver {driver}"
    if torch.version.cuda is None:
        return f"{beside}: it was built without CUDA"
    series = OLDEST_DRIVER.get(int(torch.version.cuda.split(".")[0]))
    if series is None or not driver[:3].isdigit() or int(driver[:3]) >= series:
        return ""  # new enough, as far as we know: a scheduler may have granted this process no GPU
    return f"{beside}: CUDA {torch.version.cuda} needs the series {series} or newer"


@cache  # a second attempt in one process would find transformers' half-finished import and succeed
def attention_fault(attention: str) -> str:
    """Why transformers can build no model with this attention in this process; empty if it can.

    Imports what a worker would import: a library compiled for another PyTorch is installed, and of no use.

    Args:
        attention: a value of ``attn_implementation``; a kernel of the hub is downloaded.
    """
    sizes: dict[str, Any] = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "head_dim": 8}
    layers: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    settings = {"attn_implementation": attention, "dtype": torch.bfloat16}
    try:
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(Qwen3Config(**sizes, **layers), **settings)
    except Exception as error:  # noqa: BLE001  whatever it is, it would end a worker
        causes = [error, error.__context__]  # transformers hides in the second why a kernel did not load
        return "; ".join(" ".join(str(cause).split()).rstrip(".") for cause in causes if cause)
    return ""


def faults(attention: str) -> Faults:
    """To be called where a worker would see its GPUs."""
    return gpu_fault(), attention_fault(attention)


def refuse(config: Any) -> None:
    """What the launching process can know before Ray starts. One that sees no GPU is not asked: other machines train.

    Raises:
        ValueError: for GPUs that PyTorch cannot use, an attention that is named and not there, packs too long for sdpa.
    """
    named = named_attention(config)
    trains = cpu.enabled() or torch.cuda.is_available() or gpu_fault()
    attention, _ = chosen(named, {"this machine": faults(named or VERLS_CHOICE)} if trains else {})
    check_packs(config, attention)


def settle(config: Any, ask: Callable[[Callable[[], Faults]], Mapping[str, Faults]]) -> str:
    """Writes the attention that every machine of the run has into its config; returns a line that says which, and why.

    Args:
        ask: calls a function on every node with GPUs; node -> answer.

    Raises:
        ValueError: as above, for any node of the run.
    """
    named = named_attention(config)
    attention, why = chosen(named, {} if cpu.enabled() else ask(partial(faults, named or VERLS_CHOICE)))
    check_packs(config, attention)
    with open_dict(config):
        config.actor_rollout_ref.model.override_config.attn_implementation = attention
    return f"EGRSD: attn_implementation={attention}{why and f': {why}'}."


def chosen(named: str | None, answers: Mapping[str, Faults]) -> tuple[str, str]:
    """The attention of a run, and why it is not verl's choice.

    Args:
        named: by the user, or None.
        answers: by machine, for the named attention or verl's choice.

    Raises:
        ValueError: for GPUs that cannot be used, and an attention that is named and not there.
    """
    for machine, (gpus, _) in answers.items():
        if gpus:
            raise ValueError(f"{machine} cannot train: {gpus}. Update the driver, or install a PyTorch built for it.")
    found = [(machine, fault) for machine, (_, fault) in answers.items() if fault]
    if not found:
        return named or VERLS_CHOICE, ""
    machine, fault = found[0]
    if named:
        ways = f"Drop the key, for sdpa needs no library, or install one: {LIBRARIES}"
        raise ValueError(f"{KEY}={named} cannot be used on {machine}: {fault}. {ways}.")
    price = "sdpa takes the square of a pack's tokens in time and memory"
    return ALWAYS_THERE, f"{VERLS_CHOICE} cannot be used on {machine} ({fault}). {price}; faster: {LIBRARIES}"


def expected(config: Any) -> tuple[str, str]:
    """What a run would train with on machines with the packages of this one, and what is missing here.

    For a machine that may have no GPU, where transformers would not look at flash-attn.
    """
    named = named_attention(config)
    wanted = named or VERLS_CHOICE
    installed = wanted == VERLS_CHOICE and find_spec("flash_attn")
    fault = "" if installed else attention_fault(wanted)
    return named or (ALWAYS_THERE if fault else VERLS_CHOICE), fault


def check_packs(config: Any, attention: str) -> None:
    """
    Raises:
        ValueError: if sdpa's mask would be larger than MASK_GIB, or rows are split between ranks without flash
            attention.
    """
    if attention.startswith("flash_attention") or "/" in attention:
        return
    for part in ("actor", "ref"):
        ranks = derived.sequence_parallel_ranks(config.actor_rollout_ref[part])
        if ranks > 1:
            raise ValueError(
                f"actor_rollout_ref.{part}.ulysses_sequence_parallel_size={ranks} needs flash attention, in which "
                f"alone verl splits rows, and this run has {attention}; set it to 1, or install a library: {LIBRARIES}."
            )
    key, tokens = longest_pack(config)
    if attention == "sdpa" and mask_gib(tokens) > MASK_GIB:
        most = int((MASK_GIB * GIB / MASK_BYTES) ** 0.5)
        raise ValueError(
            f"{key} packs up to {tokens:,} tokens, whose mask takes sdpa {MASK_BYTES} bytes x {tokens:,} squared = "
            f"{mask_gib(tokens):.1f} GiB; lower it to {most}, or install flash attention: {LIBRARIES}."
        )


def longest_pack(config: Any) -> tuple[str, int]:
    """The setting that allows the longest pack of several rows, and its tokens; 0 if rows are padded or stand alone."""
    parts, data, trainer = config.actor_rollout_ref, config.data, config.trainer
    student = data.max_prompt_length + data.max_response_length
    teacher = config.algorithm.egrsd.teacher.max_prompt_length + data.max_response_length
    scoring = "ref" if derived.uses_reference(config) else "rollout"
    rows = ceil(data.train_batch_size * parts.rollout.n / (trainer.n_gpus_per_node * trainer.nnodes))
    packs = [("", 0)]
    for part, prefix, dynamic, row in (
        ("actor", "ppo", parts.actor.use_dynamic_bsz, student),
        ("rollout", "log_prob", parts.rollout.log_prob_use_dynamic_bsz, student),
        (scoring, "log_prob", parts[scoring].log_prob_use_dynamic_bsz, teacher),
    ):
        if dynamic and parts.model.use_remove_padding and rows > 1:
            key = f"{prefix}_max_token_len_per_gpu"
            packs.append((f"actor_rollout_ref.{part}.{key}={parts[part][key]}", min(parts[part][key], rows * row)))
    return max(packs, key=lambda pack: pack[1])


def mask_gib(tokens: int) -> float:
    """Of sdpa's mask for a pack of so many tokens; an estimate."""
    return MASK_BYTES * tokens**2 / GIB
