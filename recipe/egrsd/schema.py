"""The keys under ``algorithm.egrsd`` with their ranges, and every check across keys. Defaults live in config/algorithm/.

``validate`` runs when the command line has been read, before Ray starts, and once more in the trainer's constructor. Imports
neither torch nor verl.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

TRAINER_MODES = {"egrsd_sync": "sync"}
TEACHER_KINDS = ("frozen",)


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """algorithm.egrsd.teacher"""

    kind: str
    """Which weights teach. frozen: the initial ones."""
    enable_thinking: bool
    """Chat-template switch of the teacher's prompt."""
    solution_key: str
    """Key of extra_info that holds the reference solution, a string."""
    instruction: str
    """What every student prompt ends with; empty if they share no ending."""
    template: str | None
    """Jinja file that replaces teacher_prompt.jinja."""
    max_prompt_length: int
    """Longest privileged prompt, tokens."""

    def __post_init__(self) -> None:
        _require(self.kind in TEACHER_KINDS, "teacher.kind", self.kind, f"is not available; choose from {TEACHER_KINDS}")
        _require(isinstance(self.enable_thinking, bool), "teacher.enable_thinking", self.enable_thinking, "is not a bool")
        _require(self.max_prompt_length > 0, "teacher.max_prompt_length", self.max_prompt_length, "must be positive")
        found = self.template is None or Path(self.template).is_file()
        _require(found, "teacher.template", self.template, "is not a file; name a jinja file, or null for the built-in one")


@dataclass(frozen=True, kw_only=True)
class EgrsdConfig:
    """algorithm.egrsd"""

    gamma: float
    """Slope of the entropy gate, >= 0."""
    window: int
    """Lookahead, tokens, >= 0."""
    floor: float
    """Smallest gate value, in [0, 1]."""
    min_entropy_scale: float
    """Lower bound of the gate's denominator, nats, > 0."""
    clip_range: float
    """Half-width of the ratio weight's clip, in [0, 1)."""
    advantage: str
    """running, or the name of a verl advantage estimator."""
    length_bonus: float
    """Extra reward of a correct answer of length 0, >= 0."""
    warmup_steps: int
    """Steps before the running statistics whiten, >= 0."""
    teacher: TeacherConfig

    def __post_init__(self) -> None:
        _require(self.gamma >= 0, "gamma", self.gamma, "would trust the teacher most where it is least certain; use gamma >= 0")
        _require(self.window >= 0, "window", self.window, "would look at past tokens; use window >= 0")
        _require(0 <= self.floor <= 1, "floor", self.floor, "must lie in [0, 1]")
        _require(self.min_entropy_scale > 0, "min_entropy_scale", self.min_entropy_scale, "must be positive (nats)")
        _require(0 <= self.clip_range < 1, "clip_range", self.clip_range, "must lie in [0, 1), or a weight could be negative")
        _require(self.length_bonus >= 0, "length_bonus", self.length_bonus, "would punish short answers; use >= 0")
        _require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "must be >= 0")


def read(node: Mapping[str, Any]) -> EgrsdConfig:
    """The resolved ``algorithm.egrsd`` node as dataclasses; ValueError names an unknown, missing or refused key."""
    values = dict(node)
    teacher = _build(TeacherConfig, dict(values.pop("teacher", {})), "algorithm.egrsd.teacher")
    return _build(EgrsdConfig, {**values, "teacher": teacher}, "algorithm.egrsd")


def validate(config: Any) -> EgrsdConfig:
    """Checks a whole verl config (an OmegaConf node, resolved) and returns its ``algorithm.egrsd``.

    Raises:
        ValueError: for the first setting under which a run would not be EGRSD, would be EGRSD on wrong numbers, or would
            fail late. The sentence names the key, the reason and the way out.
        RuntimeError: for a verl outside the range that the tests ran on (REQUIRED_VERL.txt).
    """
    _check_verl_version()
    check_entry({"use_v1": config.trainer.use_v1, "trainer_mode": config.trainer.v1.trainer_mode})
    egrsd = read(config.algorithm.egrsd)
    model = config.actor_rollout_ref.model
    lora = uses_lora(config)
    _check_trainer(config)
    _check_numerics(config, model)
    _check_teacher_rows(config, egrsd, lora)
    if lora and model.get("lora_adapter_path"):
        raise ValueError(
            "actor_rollout_ref.model.lora_adapter_path starts the student from base + adapter, while the frozen teacher would "
            "be the base alone; merge the adapter into the model first and train a fresh one."
        )
    return egrsd


def uses_lora(config: Any) -> bool:
    """True if the actor trains an adapter: the frozen teacher is then the actor with the adapter off (trainer_base.py:234)."""
    model = config.actor_rollout_ref.model
    return (model.get("lora") or {}).get("rank", 0) > 0 or model.get("lora_rank", 0) > 0 or bool(model.lora_adapter_path)


def check_entry(entry: Mapping[str, Any]) -> None:
    """What any trainer, verl's own included, meets first: the data set calls it with ``data.egrsd``.

    Raises:
        ValueError: if the run is about to be led by a trainer that knows nothing of EGRSD.
    """
    if not entry["use_v1"]:
        raise ValueError("trainer.use_v1=false runs verl's legacy trainer, which would train without EGRSD; drop that override.")
    if entry["trainer_mode"] not in TRAINER_MODES:
        raise ValueError(
            f"trainer.v1.trainer_mode={entry['trainer_mode']} selects verl's own trainer, which would train plain GRPO; use one "
            f"of {list(TRAINER_MODES)} (algorithm=egrsd sets it)."
        )


def _check_verl_version() -> None:
    required = Requirement(Path(__file__).with_name("REQUIRED_VERL.txt").read_text().strip())
    if not required.specifier.contains(version("verl"), prereleases=True):
        raise RuntimeError(f"EGRSD was tested with {required}; this is verl {version('verl')}. Install a version in that range.")


def _check_trainer(config: Any) -> None:
    actor_rollout_ref, algorithm = config.actor_rollout_ref, config.algorithm
    if algorithm.adv_estimator != "egrsd":
        raise ValueError(
            f"algorithm.adv_estimator={algorithm.adv_estimator} would bypass EGRSD's advantage; name the estimator in "
            f"algorithm.egrsd.advantage={algorithm.adv_estimator} instead."
        )
    if (algorithm.get("rollout_correction") or {}).get("bypass_mode"):
        raise ValueError(
            "algorithm.rollout_correction.bypass_mode=true takes the student's log-probs from vLLM and the teacher's from the "
            "training engine, so their ratio would measure the engines; set it to false."
        )
    if (config.get("distillation") or {}).get("enabled"):
        raise ValueError("distillation.enabled=true replaces the loss that EGRSD weights; set it to false.")
    if actor_rollout_ref.actor.strategy not in ("fsdp", "fsdp2"):
        raise ValueError(
            f"actor_rollout_ref.actor.strategy={actor_rollout_ref.actor.strategy} is not supported by EGRSD; use fsdp or fsdp2."
        )


def _check_numerics(config: Any, model: Any) -> None:
    """float32 log-probs and entropies, for student and teacher."""
    vendor = config.ray_kwargs.ray_init.runtime_env.env_vars.get("VERL_ENGINE_VENDOR")
    if vendor != "egrsd":
        raise ValueError(
            f"ray_kwargs.ray_init.runtime_env.env_vars.VERL_ENGINE_VENDOR={vendor} selects an engine that rounds logits to "
            "bfloat16; leave it at egrsd."
        )
    if model.use_fused_kernels and model.fused_kernel_options.impl_backend == "torch":
        raise ValueError(
            "actor_rollout_ref.model.use_fused_kernels=true with impl_backend=torch rounds the entropy to bfloat16; use "
            "fused_kernel_options.impl_backend=triton or switch fused kernels off."
        )


def _check_teacher_rows(config: Any, egrsd: EgrsdConfig, lora: bool) -> None:
    """The micro-batch limit of the scoring engine must hold one teacher row, which is longer than any student row."""
    engine = config.actor_rollout_ref["rollout" if lora else "ref"]
    prefix = f"actor_rollout_ref.{'rollout' if lora else 'ref'}.log_prob"
    if not engine.log_prob_use_dynamic_bsz:
        if engine.log_prob_micro_batch_size_per_gpu is None and engine.log_prob_micro_batch_size is None:
            raise ValueError(f"{prefix}_micro_batch_size_per_gpu is not set, but the teacher is scored in such batches; set it.")
        return
    longest = egrsd.teacher.max_prompt_length + config.data.max_response_length
    ranks = config.actor_rollout_ref["actor" if lora else "ref"].get("ulysses_sequence_parallel_size", 1)
    limit = engine.log_prob_max_token_len_per_gpu
    if limit * ranks < longest:
        raise ValueError(
            f"{prefix}_max_token_len_per_gpu={limit} (x {ranks} sequence-parallel ranks) cannot hold one teacher row of up to "
            f"{longest} tokens (algorithm.egrsd.teacher.max_prompt_length={egrsd.teacher.max_prompt_length} + "
            f"data.max_response_length={config.data.max_response_length}); raise the first or lower the second."
        )


def _build(cls: type, values: dict, path: str) -> Any:
    names = [field.name for field in fields(cls)]
    for problem, keys in (("unknown", set(values) - set(names)), ("missing", set(names) - set(values))):
        if keys:
            raise ValueError(f"{path} has {problem} key(s) {sorted(keys)}; the keys are {names}.")
    return cls(**values)


def _require(ok: bool, key: str, value: Any, reason: str) -> None:
    if not ok:
        raise ValueError(f"algorithm.egrsd.{key}={value} {reason}.")

