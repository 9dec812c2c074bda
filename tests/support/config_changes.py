"""What one composed config changes of another, by the dotted keys of their values."""

from typing import Any

import yaml
from packages import RECIPE


def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value. Lists and empty mappings are values."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    return {
        key: value
        for name, subtree in tree.items()
        for key, value in leaves(subtree, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def preset(path: str) -> dict[str, Any]:
    """The leaves of one of our files that end up in verl's config: not those that steer hydra itself."""
    tree = yaml.safe_load((RECIPE / path).read_text())
    for steering in ("defaults", "hydra"):
        tree.pop(steering, None)
    return leaves(tree)


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What was set anew or to another value. Nothing may have gone; an empty value may have got keys of its own."""
    for key in before.keys() - after.keys():
        assert not before[key] and any(name.startswith(f"{key}.") for name in after), f"{key} has gone"
    return {key: value for key, value in after.items() if key not in before or before[key] != value}


def differing(wanted: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The entries of ``wanted`` that the base does not have already."""
    return {key: value for key, value in wanted.items() if key not in base or base[key] != value}
