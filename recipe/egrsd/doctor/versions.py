"""What is installed here, against what verl asks for, and the attention that a run would take."""

import importlib.metadata  # as a module: cpu/vllm.py puts a function of its own into it
from collections.abc import Iterator
from typing import Any

import torch
from packaging.requirements import Requirement
from packaging.version import Version

from recipe.egrsd import cpu
from recipe.egrsd.config import verl_version
from recipe.egrsd.doctor.case import Case, Finding, Level, graded
from recipe.egrsd.machines import attention

PACKAGES = ("torch", "vllm", "transformers", "TransferQueue", "peft")
FOR_SEVERAL_GPUS = "0.9.1"
"""The first verl with two fixes of its weight sync, pull requests 7851 and 7846."""


def check(case: Case) -> Iterator[Finding]:
    yield from _verl(case.config)
    asked = [Requirement(line) for line in importlib.metadata.requires("verl") or []]
    for name in PACKAGES:
        here = installed(name)
        if here is None:
            yield Finding(Level.YELLOW, f"{name} is not installed here; the machines that train need it")
            continue
        ours = [r for r in asked if r.name.lower() == name.lower()]
        always = [r for r in ours if r.marker is None and not r.specifier.contains(here, prereleases=True)]
        chosen = [
            r
            for r in ours
            if r.marker and r.marker.evaluate({"extra": "vllm"}) and not r.marker.evaluate({"extra": ""})
        ]
        other = [r for r in chosen if not cpu.enabled() and not r.specifier.contains(here, prereleases=True)]
        why = "; ".join(
            [f"verl needs {r.name}{r.specifier}" for r in always] + [f"verl[vllm] has {r.specifier}" for r in other]
        )
        yield Finding(graded(red=bool(always), yellow=bool(other)), f"{name} {here}{f': {why}' if why else ''}")
    yield _attention(case.config)


def _verl(config: Any) -> Iterator[Finding]:
    found, untested = verl_version.installed(), verl_version.untested()
    if untested:
        allowed = verl_version.allows_untested()
        way_out = f"{verl_version.ALLOW_UNTESTED}=1 lets it run" if allowed else "install a version in that range"
        yield Finding(Level.YELLOW if allowed else Level.RED, f"{untested}; {way_out}")
        return
    yield Finding(Level.GREEN, f"verl {found} ({verl_version.required()})")
    gpus = config.trainer.n_gpus_per_node * config.trainer.nnodes
    if gpus > 1 and Version(found) < Version(FOR_SEVERAL_GPUS):
        yield Finding(
            Level.YELLOW,
            f"verl {found} on {gpus} GPUs lacks two fixes of {FOR_SEVERAL_GPUS}'s weight sync: a fast rank can take "
            "memory for the KV cache that a slow one still holds, and run out of it (verl#7851); with "
            "rollout.data_parallel_size above 1 a request can come before all engines have resumed (verl#7846). pip "
            f"install verl=={FOR_SEVERAL_GPUS}",
        )


def _attention(config: Any) -> Finding:
    """A PyTorch with CUDA is the environment that trains; one without may lack what needs a GPU."""
    chosen, missing = attention.expected(config)
    if not missing:
        return Finding(Level.GREEN, f"attention: {chosen}")
    if chosen == attention.named_attention(config):
        said = f"attention: {chosen} is named and not installed here ({missing}): {attention.LIBRARIES}"
        return Finding(graded(red=torch.version.cuda is not None, yellow=True), said)
    _, tokens = attention.longest_pack(config)
    price = (
        f"; the mask of a pack of {tokens:,} tokens takes about {attention.mask_gib(tokens):.1f} GiB" if tokens else ""
    )
    said = f"attention: {chosen} on machines with the packages of this one ({missing}){price}"
    return Finding(Level.YELLOW, f"{said}. Faster: {attention.LIBRARIES}")


def installed(name: str) -> str | None:
    """Its version here, where there may be no GPU and nothing that needs one."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
