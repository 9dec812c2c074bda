"""Several Ray nodes: each must have the trainer's verl, recipe and models, or ranks would train by different rules.

Asked before any worker starts. A worker without the recipe dies in an import that names neither its node nor a way out,
and one with other files says nothing at all.
"""

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from recipe.egrsd import token_weight
from recipe.egrsd.config import verl_version
from recipe.egrsd.machines.models import Model

TIMEOUT_SECONDS, DOWNLOAD_SECONDS = 300.0, 3600.0
A_GPU = 0.01  # the share of one that lets a process see it
Answer = TypeVar("Answer")
WAY_OUT = (
    "Install the same egrsd-verl and verl on every node, or ship the trainer's recipe with "
    "+ray_kwargs.ray_init.runtime_env.py_modules=[/path/to/recipe] (docs/modes.md, Several nodes)."
)
SAME_WEIGHT = "Every node must import the same module: install it there, or use a shared folder (docs/authoring.md)."
SAME_MODEL = (
    "Every node must find the same model under the same path: use a shared folder, or the same HF_HOME on every node."
)


def installed() -> str:
    """What this process runs: verl's version and a digest of the recipe's files."""
    folder = Path(__file__).parents[1]
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    digest = sha256(b"".join(path.relative_to(folder).as_posix().encode() + path.read_bytes() for path in files))
    return f"verl {verl_version.installed()}, recipe {digest.hexdigest()[:12]}"


def check(models: Sequence[Model], weight: str) -> None:
    """Asks every node on which verl may place something; a model of the hub is downloaded there.

    Args:
        weight: the name of the token weight.

    Raises:
        RuntimeError: if a node cannot import the recipe, or has other files, another verl, another token weight, or
            other files of a model; names the node.
    """
    _compare(installed, "cannot run the recipe", way_out=WAY_OUT)
    _compare(partial(token_weight.source, weight), f"cannot load {token_weight.KEY}={weight}", way_out=SAME_WEIGHT)
    for model in models:
        _compare(model.found_here, f"cannot read {model.key}", seconds=DOWNLOAD_SECONDS, way_out=SAME_MODEL)


def _compare(question: Callable[[], str], failure: str, *, seconds: float = TIMEOUT_SECONDS, way_out: str) -> None:
    """Every other node must answer as this one does."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    ask = ray.remote(num_cpus=0)(_call)
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in nodes if node["NodeID"] != here]
    answers = {_name(node): ask.options(scheduling_strategy=_on(node)).remote(question) for node in others}
    for node, answer in answers.items():
        found = _answer(node, answer, failure=failure, seconds=seconds, way_out=way_out)
        if found != question():
            raise RuntimeError(f"{node} has {found}, the trainer {question()}. {way_out}")


def ask_gpu_nodes(question: Callable[[], Answer]) -> dict[str, Answer]:
    """Calls a function on every node with GPUs, in a process that sees one of them; node -> answer.

    Raises:
        RuntimeError: if a node does not answer; names the node.
    """
    ask = ray.remote(num_cpus=0, num_gpus=A_GPU)(_call)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) > 0]
    answers = {_name(node): ask.options(scheduling_strategy=_on(node)).remote(question) for node in nodes}
    return {node: _answer(node, answer) for node, answer in answers.items()}


def _call(question: Callable[[], Answer]) -> Answer:
    return question()  # Ray takes functions, and a partial is none


def _name(node: dict) -> str:
    return f"Ray node {node['NodeManagerAddress']} ({node['NodeID']})"


def _on(node: dict) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)


def _answer(
    node: str,
    answer: ray.ObjectRef,
    *,
    failure: str = "cannot run the recipe",
    seconds: float = TIMEOUT_SECONDS,
    way_out: str = WAY_OUT,
) -> Any:
    try:
        return ray.get(answer, timeout=seconds)
    except Exception as error:
        raise RuntimeError(f"{node} {failure}: {_last_line(error)}. {way_out}") from error


def _last_line(error: Exception) -> str:
    return str(error).strip().rsplit("\n", 1)[-1].rstrip(".")
