"""The rollouts that whole runs train on, committed: what vLLM samples differs between machines, what is trained on the
same tokens does not.

tests/golden/rollouts.json has one line for each response: every field that verl's skip.rollout_tq had written of it.
"""

import json
from pathlib import Path
from typing import Any

import torch
from golden import FOLDER
from tensordict import NonTensorStack, TensorDict

FILE = FOLDER / "rollouts.json"
DUMP, META = "tq_batch.pt", "meta.json"  # verl's names (utils/skip/rollout_skip.py:193)
CLOCKS = "metrics"
"""The field that holds seconds."""


def lay_out(folder: Path) -> None:
    """Writes the committed rollouts as verl's skip.rollout_tq reads them (tests/support/runs.py: replaying).

    Without the file nothing is written: the run then records its own, and ``make golden`` commits them.
    """
    if not FILE.exists():
        return
    for name, step in json.loads(FILE.read_text()).items():
        rows = step.pop("rows")
        fields = {field: _column(rows, field, step["dtypes"].get(field)) for field in rows[0]["fields"]}
        batch = {
            "tensordict": TensorDict(fields, batch_size=len(rows)), "tags": [row["tag"] for row in rows],
            "keys": [row["key"] for row in rows], "global_steps": step["global_steps"],
        }  # fmt: skip
        (folder / name).mkdir(parents=True)
        torch.save(batch, folder / name / DUMP)
        meta = {"global_steps": step["global_steps"], "num_trajectories": len(rows)}
        (folder / name / META).write_text(json.dumps(meta))


def text(folder: Path) -> str:
    """What the file is to hold of what a run has recorded in that folder."""
    lines = []
    for path in sorted(folder.rglob(DUMP)):
        step = _step(path)
        rows = ",\n".join(f"  {json.dumps(row)}" for row in step.pop("rows"))
        lines.append(
            f'{json.dumps(str(path.parent.relative_to(folder)))}: {json.dumps(step)[:-1]}, "rows": [\n{rows}\n]}}'
        )
    return "{" + ",\n".join(lines) + "}\n"


def _step(path: Path) -> dict[str, Any]:
    batch = torch.load(path, weights_only=False)
    columns = {field: batch["tensordict"][field] for field in sorted(batch["tensordict"].keys())}
    tensors = {field: column for field, column in columns.items() if isinstance(column, torch.Tensor)}
    values = {field: [row.tolist() for row in column.unbind()] for field, column in tensors.items()}
    values |= {field: list(column) for field, column in columns.items() if field not in tensors}
    values[CLOCKS] = [dict.fromkeys(row, 0.0) for row in values[CLOCKS]]
    rows = [
        {"key": key, "tag": tag, "fields": {field: values[field][i] for field in columns}}
        for i, (key, tag) in enumerate(zip(batch["keys"], batch["tags"], strict=True))
    ]
    dtypes = {field: str(column.dtype).removeprefix("torch.") for field, column in tensors.items()}
    return {"global_steps": batch["global_steps"], "dtypes": dtypes, "rows": rows}


def _column(rows: list[dict[str, Any]], field: str, dtype: str | None) -> Any:
    values = [row["fields"][field] for row in rows]
    if dtype is None:
        return NonTensorStack(*values)
    tensors = [torch.tensor(value, dtype=getattr(torch, dtype)) for value in values]
    return torch.nested.as_nested_tensor(tensors, layout=torch.jagged)
