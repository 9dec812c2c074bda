"""docs/modes.md says which preset sets what: its table is made of the presets, and compared with them."""

import re
from collections import defaultdict

import yaml
from composing import PRESETS
from config_changes import differing, leaves, preset
from runs import ROOT

BASE = preset("config/algorithm/egrsd.yaml")
ROW = re.compile(r"^\| [^|]* \| `([a-z_.]+)` \| ([^|]*) \|$", re.MULTILINE)


def changed(name: str) -> dict:
    """What a preset, with those that it builds on, sets anew or to another value than egrsd.yaml."""
    tree = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())
    parents = [parent for parent in tree.pop("defaults", []) if parent not in ("egrsd", "_self_")]
    inherited = {key: value for parent in parents for key, value in changed(parent).items()}
    return inherited | differing(leaves(tree), BASE)


def said(value: object) -> str:
    """As the table writes a value: of a function its name alone, of a number no .0, of a switch its word."""
    text = str(value).lower() if isinstance(value, bool) else str(value).rpartition(":")[2]
    return text.removesuffix(".0")


def cells() -> dict[str, str]:
    """Key, as below algorithm.egrsd or whole, -> its cell: value: presets; …"""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(PRESETS.glob("*.yaml")):
        if path.stem != "egrsd":
            for key, value in changed(path.stem).items():
                found[key.removeprefix("algorithm.egrsd.")][said(value)].append(f"`{path.stem}`")
    return {
        key: "; ".join(f"{value}: {', '.join(names)}" for value, names in sorted(values.items()))
        for key, values in found.items()
    }


def test_the_table_says_what_the_presets_set():
    page = (ROOT / "docs/modes.md").read_text()
    table = page.split("| part | key | set by |\n")[1].split("\n\n")[0]
    assert dict(ROW.findall(table)) == cells()


def test_a_key_that_builds_on_another_preset_counts():
    assert cells()["divergence_clip"].startswith("0.05: `copsd`, `dash`, `oasis`, `ogls_sd`, `op2sd`, `opsd`, `ssopd`")
