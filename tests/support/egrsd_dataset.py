"""EgrsdDataset on a parquet file, with the settings of a small run, and what its teacher is shown."""

from pathlib import Path

from omegaconf import OmegaConf

from examples.tiny_cpu import model as tiny
from examples.tiny_cpu.task import INSTRUCTION
from recipe.egrsd.privilege.dataset import EgrsdDataset


def dataset(
    tokenizer,
    path: Path,
    *,
    train: bool = True,
    filter_rows: bool = False,
    entry: dict | None = None,
    privilege: str = "solution",
    data: dict | None = None,
    **teacher,
) -> EgrsdDataset:
    settings = {
        "kind": "frozen",
        "sync_every": None,
        "ema_decay": None,
        "enable_thinking": True,
        "solution_key": "solution",
        "problem_key": "problem_en",
        "instruction": INSTRUCTION,
        "template": str(tiny.TEACHER_TEMPLATE),
        "max_prompt_length": 256,
        "peer": "shortest",
    }
    egrsd = {"teacher": settings | teacher, "privilege": privilege, "use_v1": True, "trainer_mode": "egrsd_sync"} | (
        entry or {}
    )
    config = OmegaConf.create(
        {
            "train_files": str(path) if train else "another.parquet",
            "filter_overlong_prompts": filter_rows,
            "filter_overlong_prompts_workers": None,
            "max_prompt_length": 128,
            "max_response_length": 24,
            "apply_chat_template_kwargs": {"enable_thinking": False},
            "egrsd": egrsd,
            **(data or {}),
        }
    )
    return EgrsdDataset(str(path), tokenizer, config)


def shown(tokenizer, path: Path, privilege: str, **teacher) -> list[str]:
    rows = dataset(tokenizer, path, privilege=privilege, **teacher)
    return [tokenizer.decode(row["teacher_prompt_ids"]) for row in rows]
