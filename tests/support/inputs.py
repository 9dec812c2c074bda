"""The models and problems that the tests' runs start from."""

import shutil
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from examples.tiny_cpu import model as tiny
from examples.tiny_cpu.task import make_problems, write_parquet

COMMIT = "0123456789abcdef0123456789abcdef01234567"  # of a model on a hub that is not there


def qwen3(size: str) -> Qwen3Config:
    """The published sizes of a Qwen3, without the hub."""
    hidden, mlp, layers, heads, tied = {
        "0.6B": (1024, 3072, 28, 16, True),
        "4B": (2560, 9728, 36, 32, True),
        "8B": (4096, 12288, 36, 32, False),
    }[size]
    sizes = {"vocab_size": 151936, "hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers}
    return Qwen3Config(
        **sizes, num_attention_heads=heads, num_key_value_heads=8, head_dim=128, tie_word_embeddings=tied
    )


def write_inputs(
    folder: Path, *, train: int = 32, validation: int = 4, body: float = 4.0, head: float = 8.0, tied: bool = False
) -> None:
    """A tiny Qwen3 with random but decided weights, and parquet files of addition problems.

    Its weights are the usual initial ones times body or head: those alone are so small that every distribution is
    uniform. Larger factors make larger logits, and with them larger float32 rounding errors between two ways to compute
    the same number. Tied embeddings are those of Qwen3-4B and smaller.
    """
    tokenizer = tiny.build_tokenizer()
    config = tiny.build_model(tokenizer).config
    config.tie_word_embeddings = tied
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(head if "lm_head" in name else body)
    tiny.save(model, tokenizer, folder / "model")
    write_parquet(make_problems("train", train, seed=0), folder / "train.parquet")
    write_parquet(make_problems("validation", validation, seed=0), folder / "val.parquet")


def on_the_hub(home: Path, name: str, folder: Path) -> Path:
    """Files of a folder as the hub's client caches them under HF_HOME; returns the snapshot."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for directory in ("blobs", "refs"):
        (repository / directory).mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for number, path in enumerate(sorted(folder.iterdir())):
        shutil.copy(path, repository / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    return snapshot
