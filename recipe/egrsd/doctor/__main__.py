"""Looks at a run before it is started: python -m recipe.egrsd.doctor <the same overrides as main_ppo>.

Exit code 1 if a finding is red, else 0. Needs no GPU, starts no Ray, loads no weights.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from typing import NamedTuple

from hydra.errors import HydraException
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from recipe.egrsd.config.strict import one_line
from recipe.egrsd.doctor import boundary, checks, host, memory, versions
from recipe.egrsd.doctor.case import Case, Finding, Level, composed

WORDS = {Level.GREEN: "ok", Level.YELLOW: "look", Level.RED: "STOP"}
SHOWN_CHARS = 420  # of each end of a prompt on the screen


class Check(NamedTuple):
    title: str
    run: Callable[[Case], Iterator[Finding]]
    needs: str | None = None
    """The check without which this one cannot be made."""


CHECKS = (
    Check("versions", versions.check),
    Check("config", checks.settings),
    Check("resume", checks.resume),
    Check("batches", checks.batches),
    Check("Ray's CPUs", host.cpus),
    Check("logger", host.logger),
    Check("files", checks.files),
    Check("model", checks.model),
    Check("rows", checks.rows, "model"),
    Check("think boundary", boundary.check, "rows"),
    Check("token budgets", checks.budgets, "rows"),
    Check("answer checker", checks.answers, "rows"),
    Check("memory", memory.check, "model"),
    Check("host memory", host.memory, "model"),
)


def examine(case: Case, chosen: Sequence[Check] = CHECKS) -> dict[str, list[Finding]]:
    """The findings of each check by its title; an exception of a check is a red one."""
    findings: dict[str, list[Finding]] = {}
    failed = set()
    for check in chosen:
        found = findings.setdefault(check.title, [])
        if check.needs in failed:
            found.append(Finding(Level.YELLOW, f"not looked at: it needs '{check.needs}'"))
            failed.add(check.title)
            continue
        try:
            found.extend(check.run(case))
        except Exception as error:  # noqa: BLE001  whatever stops this stops the run
            found.append(
                Finding(Level.RED, str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}")
            )
            failed.add(check.title)
    return findings


def show(console: Console, findings: dict[str, list[Finding]]) -> None:
    """Worst first within a check; what is in order shares a line."""
    table = Table.grid(padding=(0, 1))
    for title, found in findings.items():
        lines = [finding for level in (Level.RED, Level.YELLOW) for finding in found if finding.level is level]
        fine = [finding.text for finding in found if finding.level is Level.GREEN]
        lines += [Finding(Level.GREEN, " · ".join(fine))] if fine else []
        for number, (level, text) in enumerate(lines):
            heading = "" if number else title
            table.add_row(f"[{level.value}]{WORDS[level]:>4}[/]", f"[bold]{heading}[/]", escape(text))
    console.print(table)


def show_prompts(console: Console, case: Case, rows: int | None) -> None:
    """Side by side, as both will see them; cut to fit the screen unless rows are asked for."""
    for row in range(min(rows or 1, len(case.rows))):
        table = Table.grid(expand=True, padding=(0, 1))
        table.add_column(ratio=1)
        table.add_column(ratio=1)
        texts = []
        for ids in (case.student_ids[row], case.teacher_ids[row]):
            text = case.tokenizer.decode(ids)
            cut = len(text) - 2 * SHOWN_CHARS
            if rows is None and cut > 0:
                text = f"{text[:SHOWN_CHARS]}\n[... {cut:,} characters, shown by --rows 1 ...]\n{text[-SHOWN_CHARS:]}"
            texts.append(text)
        names = ("student", "teacher")
        table.add_row(
            *(Panel(escape(text), title=f"{name}, row {row}") for name, text in zip(names, texts, strict=True))
        )
        console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m recipe.egrsd.doctor", description=__doc__)
    parser.add_argument("overrides", nargs="+", help="as for verl.trainer.main_ppo, algorithm=... among them")
    parser.add_argument("--gpu-gib", type=float, default=80.0, help="memory of a GPU, for the estimate; default 80")
    parser.add_argument("--host-gib", type=float, help="memory of a node; default: this machine's")
    parser.add_argument("--rows", type=int, help="show this many rows whole")
    args = parser.parse_args(arguments)
    console = Console()
    warnings.simplefilter("ignore")
    try:
        with redirect_stdout(sys.stderr):  # what verl and datasets print on the way is not the report
            case = Case(composed(args.overrides), gpu_gib=args.gpu_gib, host_gib=args.host_gib)
            findings = examine(case)
    except Exception as error:  # noqa: BLE001  of the composition: examine has none
        said = str(error) if isinstance(error, HydraException) else one_line(error)
        findings, case = {"config": [Finding(Level.RED, f"main_ppo refuses these overrides: {said}")]}, None
    if case is not None and case.rows is not None:
        show_prompts(console, case, args.rows)
    show(console, findings)
    levels = [finding.level for found in findings.values() for finding in found]
    counts = {word: levels.count(level) for level, word in WORDS.items()}
    console.print(", ".join(f"{count} {word}" for word, count in counts.items()), highlight=False)
    return int(Level.RED in levels)


if __name__ == "__main__":
    sys.exit(main())
