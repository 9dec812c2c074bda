"""Several Ray nodes: each must have the verl and the recipe of the trainer, or ranks would train by different rules.

Asked before any worker starts. A worker without the recipe dies in an import that names neither its node nor a way out, and one
with other files says nothing at all.
"""

from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

TIMEOUT_SECONDS = 300.0
WAY_OUT = (
    "Install the same egrsd-verl and verl on every node, or ship the trainer's recipe with "
    "+ray_kwargs.ray_init.runtime_env.py_modules=[/path/to/recipe] (docs/modes.md, Several nodes)."
)


def installed() -> str:
    """What this process runs: verl's version and a digest of the recipe's files."""
    folder = Path(__file__).parent
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    digest = sha256(b"".join(path.relative_to(folder).as_posix().encode() + path.read_bytes() for path in files))
    return f"verl {version('verl')}, recipe {digest.hexdigest()[:12]}"


def check() -> None:
    """Asks every node on which verl may place something.

    Raises:
        RuntimeError: if a node cannot import the recipe, or has other files or another verl; names the node.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    ask = ray.remote(num_cpus=0)(installed)
    here = ray.get_runtime_context().get_node_id()
    answers = {
        f"{node['NodeManagerAddress']} ({node['NodeID']})": ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in nodes
        if node["NodeID"] != here
    }
    for node, answer in answers.items():
        try:
            found = ray.get(answer, timeout=TIMEOUT_SECONDS)
        except Exception as error:
            raise RuntimeError(f"Ray node {node} cannot run the recipe: {_last_line(error)}. {WAY_OUT}") from error
        if found != installed():
            raise RuntimeError(f"Ray node {node} has {found}, the trainer {installed()}. {WAY_OUT}")


def _last_line(error: Exception) -> str:
    return str(error).strip().rsplit("\n", 1)[-1].rstrip(".")
