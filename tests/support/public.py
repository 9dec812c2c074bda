"""What others may rely on, read from the sources: names and signatures, keys, options, variables, metrics."""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from omegaconf import OmegaConf
from packages import RECIPE
from runs import ROOT

from recipe.egrsd.watch.metrics import METRICS

# What a user or the author of a method imports, derives from, or names in a config. Every other file is ours to change.
MODULES = (
    "method/weights", "method/advantage", "method/divergence", "method/evidence", "method/pull", "method/vocabulary",
    "token_weight/__init__", "reward/__init__", "privilege/prompts", "privilege/dataset", "config/schema",
    "config/teacher", "config/pull", "config/steering", "config/contrast", "config/verl_version",
    "loss", "trainer", "checkpoint",
    "watch/metrics", "watch/sums", "watch/alarms", "watch/tokens", "evaluate/__init__", "evaluate/statistics",
)  # fmt: skip
COMMANDS = ("prepare_data", "doctor", "evaluate", "report")
GROUPS = ("teacher", "pull", "steering", "contrast")
"""Of keys under algorithm.egrsd: one file of config/ each."""
LONGEST_VALUE = 80
"""Characters of a constant whose value is shown."""


def sections() -> dict[str, dict[str, Any]]:
    """All of it; the title of a section says what its keys are."""
    found = {f"names of {name}": _names((RECIPE / f"{name}.py").read_text()) for name in MODULES}
    found |= {f"options of python -m recipe.egrsd.{name}": _options(name) for name in COMMANDS}
    variables = {path: _variables(path.read_text()) for path in sorted((ROOT / "examples").glob("run_*.sh"))}
    found |= {f"variables of examples/{path.name}": names for path, names in variables.items()}
    return found | {"keys of algorithm.egrsd": _keys(), "metrics": {name: m.unit for name, m in METRICS.items()}}


def _names(source: str) -> dict[str, str]:
    """Public functions, constants, classes and their members -> signature, value, bases and types."""
    return dict(_members(ast.parse(source).body))


def _members(body: Sequence[ast.stmt], owner: str = "") -> Iterator[tuple[str, str]]:
    for node in body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            yield from ((f"{owner}{name}", value) for name, value in _assigned(node) if owner or name.isupper())
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and (
            not node.name.startswith("_") or node.name == "__init__"
        ):
            if isinstance(node, ast.ClassDef):
                yield f"{owner}{node.name}", f"class({', '.join(map(ast.unparse, node.bases))})"
                yield from _members(node.body, f"{owner}{node.name}.")
            else:
                returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
                yield f"{owner}{node.name}", f"({ast.unparse(node.args)}){returns}"


def _assigned(node: ast.Assign | ast.AnnAssign) -> Iterator[tuple[str, str]]:
    """Name -> ``type = value``, as far as they are there; a long value is not shown."""
    target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
    pairs = zip(target.elts, node.value.elts, strict=True) if isinstance(target, ast.Tuple) else [(target, node.value)]
    for name, value in pairs:
        if isinstance(name, ast.Name) and not name.id.startswith("_"):
            kind = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else ""
            text = ast.unparse(value) if value else ""
            yield name.id, " = ".join(filter(None, (kind, text if len(text) <= LONGEST_VALUE else "...")))


def _options(command: str) -> dict[str, str]:
    """Option or argument -> what argparse is told about it, but for the help."""
    found = {}
    for call in ast.walk(ast.parse((RECIPE / command / "__main__.py").read_text())):
        if isinstance(call, ast.Call) and re.fullmatch(r"add|.*\.add_argument", ast.unparse(call.func)):
            told = sorted(ast.unparse(keyword) for keyword in call.keywords if keyword.arg != "help")
            found[re.sub("^f?'|'$", "", ast.unparse(call.args[0]))] = ", ".join(told)
    return found


def _variables(script: str) -> dict[str, str]:
    """Variable -> its default; of two, by a condition, both."""
    found: dict[str, str] = {}
    for name, default in re.findall(r"^ *(?:export )?([A-Z_]+)=\$\{\1:-(.*?)\}", script, re.M):
        found[name] = f"{found[name]} | {default}" if name in found else default
    return found


def _keys() -> dict[str, str]:
    """Key -> ``type = default``."""
    files = [(RECIPE / "config" / f"{name}.py").read_text() for name in ("schema", *GROUPS)]
    types = {name: kind for file in files for name, kind in _names(file).items()}
    node = OmegaConf.to_container(OmegaConf.load(RECIPE / "config" / "algorithm" / "egrsd.yaml").algorithm.egrsd)
    groups = [(f"{name}.", f"{name.title()}Config", node.pop(name)) for name in GROUPS]
    return {
        f"{prefix}{key}": f"{types[f'{cls}.{key}']} = {value!r}"
        for prefix, cls, keys in (("", "EgrsdConfig", node), *groups)
        for key, value in keys.items()
    }


def shape(value: Any, *, names: frozenset[str] = frozenset()) -> dict[str, str]:
    """Types of every leaf of a JSON value by its dotted path; ``names``: nodes whose keys are names, shown as ``*``."""
    found: dict[str, set[str]] = {}
    for path, leaf in _json_leaves(value, names, ""):
        found.setdefault(path, set()).add(leaf)
    return {path: " | ".join(sorted(kinds)) for path, kinds in found.items()}


def _json_leaves(value: Any, names: frozenset[str], path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            inside = "*" if path.rpartition(".")[2] in names else key
            yield from _json_leaves(each, names, f"{path}.{inside}" if path else inside)
    elif isinstance(value, list) and value:
        yield path, f"list of {type(value[0]).__name__}"
    else:
        yield path, type(value).__name__


def columns(path: Path) -> dict[str, str]:
    """Name -> type of a parquet file's columns."""
    return {field.name: str(field.type) for field in pq.read_schema(path)}
