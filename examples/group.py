"""Rollouts of a problem that a preset asks for: ``python examples/group.py rlsd 32`` prints 8, of 32 rollouts a step.

The train.sh of each demo divides the rollouts of a step by it, and leaves the key itself to the preset.
"""

import sys
from pathlib import Path

import yaml

PRESETS = Path(__file__).resolve().parents[1] / "recipe" / "egrsd" / "config" / "algorithm"
VERLS = 1
"""verl's own number, of a preset that names none."""


def group_of(preset: str) -> int | None:
    """As its file says, or the one that it builds on; None: neither does."""
    content = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text())
    own = content.get("actor_rollout_ref", {}).get("rollout", {}).get("n")
    bases = [base for base in content.get("defaults", []) if base != "_self_"]
    said = [own, *(group_of(base) for base in reversed(bases))]
    return next((number for number in said if number is not None), None)


if __name__ == "__main__":
    name, batch = sys.argv[1:]
    if not (PRESETS / f"{name}.yaml").is_file():
        sys.exit(f"ALGORITHM={name} is no preset; choose from {sorted(path.stem for path in PRESETS.glob('*.yaml'))}.")
    group = group_of(name) or VERLS
    if int(batch) % group:
        sys.exit(
            f"BATCH={batch} rollouts are no whole groups of {group}, which ALGORITHM={name} needs; use a multiple."
        )
    print(group)
