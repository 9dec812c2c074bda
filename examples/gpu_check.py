"""The first quarter of an hour on a GPU: does what our tests show on a CPU also hold there?

    make gpu-check                             # one GPU of 24 GB or more, Qwen3-0.6B; PYTHON=... names the python
    make gpu-check MODEL=/models/Qwen3-1.7B    # another model: a folder, or a name on the hub
    VERL_PLATFORM=cpu make gpu-check           # the same phases with a small model made for it, to try this program

Phases, each with a time limit; one that fails does not stop the others. All use run_qwen3_0_6b_one_gpu.sh, unchanged:

    data      problems made here, through python -m recipe.egrsd.prepare_data; a model on the hub is fetched first
    lora      two steps, a checkpoint
    resume    the same command with one step more
    full      two steps with all parameters
    opsd      three steps
    null      one step at learning rate 0 with a teacher that sees no solution: log p_T - log p_S is rounding alone
    grpo      three steps, for their time
    evaluate  the checkpoint of lora, on a small file

The table ends in exit code 0 if every line passed, else 1. It stands in report.txt, too, with what to send us.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from huggingface_hub import snapshot_download
from rich.console import Console
from transformers import AutoConfig

from examples.rehearsal import checks
from examples.rehearsal.checks import Finding, Metrics
from examples.rehearsal.problems import BENCHMARK, TEST, prepare_arguments, write_files
from examples.rehearsal.scripts import SMALL, Ended, Script, precision, run
from examples.rehearsal.table import machine, nvidia_smi, table
from examples.training import steps_of
from recipe.egrsd import checkpoint, cpu

SCRIPT = "run_qwen3_0_6b_one_gpu.sh"
MODEL = "Qwen/Qwen3-0.6B"
PHASE_SECONDS = 900  # each phase compiles vLLM's graphs anew (verl sets VLLM_DISABLE_COMPILE_CACHE)
LR = 5e-6
"""The script's for an adapter."""
ROLLOUT_BOUND = 0.02
"""Of the mean |p_vLLM - p_FSDP| in bfloat16: .003 to .004 are usual; an engine that did not take the weights is off by
the size of p."""
OF_ALL_LOGITS = {} if cpu.enabled() else {"MAX_TOKENS_PER_GPU": "4096"}
"""verl's own GRPO keeps the logits of a micro-batch: 20 bytes each without flash-attn, 23 GiB for the script's 8,192
tokens at Qwen3's vocabulary."""
WHOLE_DISTRIBUTION = {"TOP_P": "1", "TOP_K": "-1"}  # or vLLM's log-probs are those of a cut distribution


class Failed(RuntimeError):
    """A phase that did not get as far as its checks."""


@dataclass
class Session:
    """What the phases share. Each is a method of its name that returns its findings."""

    folder: Path
    model: str
    seconds: float = PHASE_SECONDS
    findings: list[tuple[str, Finding]] = field(default_factory=list)

    @property
    def data_folder(self) -> Path:
        return self.folder / "data"

    @property
    def pretrained(self) -> bool:
        """Not the rehearsal's model, which is made here."""
        return Path(self.model) != self.folder / "model"

    @cached_property
    def vocabulary(self) -> int:
        return AutoConfig.from_pretrained(self.model).vocab_size

    @cached_property
    def gib(self) -> float:
        """Memory of the first GPU; 0 on a CPU."""
        said = "0 MiB" if cpu.enabled() else nvidia_smi("memory.total")
        if not said[0].isdigit():
            raise Failed(f"the GPU's memory is {said}")
        return float(said.split()[0]) / 1024

    def script(self, phase: str, *overrides: str, **variables: str) -> Script:
        """The shipped script for a phase, short: fewer tokens, no validation, checkpoints only where a phase asks
        for them."""
        short = {"MAX_RESPONSE": "256", "TEST_FREQ": "-1", "SAVE_FREQ": "-1", **(SMALL if cpu.enabled() else {})}
        ours = {"MODEL": self.model, "DATA": str(self.data_folder), **short, **WHOLE_DISTRIBUTION, **variables}
        return Script(SCRIPT, self.folder / phase, ours, ["trainer.val_before_train=false", *precision(), *overrides])

    @cached_property
    def lora_script(self) -> Script:
        return self.script("lora", SAVE_FREQ="1")

    def finish(self, script: Script, **more: str) -> Metrics:
        """Runs it to its end. Raises Failed if that is not a good one."""
        self.must(script.run(timeout=self.seconds, **more), script.log)
        return steps_of(script.output / "metrics")

    def must(self, ended: Ended, log: Path) -> None:
        if not ended.well:
            how = "out of time" if ended.returncode is None else f"exit code {ended.returncode}"
            left = f", left behind: {'; '.join(ended.outlived_by)}" if ended.outlived_by else ""
            raise Failed(f"{how} after {ended.seconds:.0f} s{left}: {log}\n{_last_words(log)}")

    def command(self, phase: str, module: str, *arguments: str | Path) -> None:
        """A module of ours as a program that must end well."""
        log, words = self.folder / phase / "log", [sys.executable, "-m", module, *arguments]
        self.must(run(words, log=log, timeout=self.seconds), log)

    # ---- phases

    def data(self) -> list[Finding]:
        if not self.pretrained:
            self.command("data", "examples.rehearsal.model", "--out", self.model)
        elif not Path(
            self.model
        ).is_dir():  # here, or a download is taken for a slow start; the script is given the name
            snapshot_download(self.model)
        write_files(self.folder / "problems")
        self.command(
            "data", "recipe.egrsd.prepare_data", *prepare_arguments(self.folder / "problems", self.data_folder)
        )
        found = sorted(path.name for path in self.data_folder.glob("*.parquet"))
        expected = sorted([f"{BENCHMARK}.parquet", "train.parquet", "validation.parquet"])
        return [Finding("files", ", ".join(found), ", ".join(expected), found == expected)]

    def lora(self) -> list[Finding]:
        return self.trained(self.finish(self.lora_script, STEPS="2"), last=2)

    def resume(self) -> list[Finding]:
        script = self.lora_script
        state = checkpoint.load(script.checkpoint(2))["baseline"]
        metrics = self.finish(script, STEPS="3")
        return [
            checks.steps_logged(metrics, first=1, last=3),
            checks.resumed(metrics, step=3, baseline=state["mean"]),
            checks.moved(script.parameters(2), script.parameters(3), lr=LR, adapter=True),
        ]

    def full(self) -> list[Finding]:
        return self.trained(self.finish(self.script("full", LORA_RANK="0", STEPS="2")), last=2)

    def opsd(self) -> list[Finding]:
        metrics = self.finish(self.script("opsd", ALGORITHM="opsd", STEPS="3"))
        return self.trained(metrics, last=3, divergence=True)

    def null(self) -> list[Finding]:
        script = self.script("null", PRIVILEGE="none", TEACHER_THINKING="false", LR="0", STEPS="1")
        return [checks.inert(self.finish(script))]

    def grpo(self) -> list[Finding]:
        variables = {"ALGORITHM": "grpo", "STEPS": "3", **OF_ALL_LOGITS}
        script = self.script("grpo", "algorithm.egrsd.score_student=always", **variables)
        return [checks.cost(steps_of(self.lora_script.output / "metrics"), self.finish(script))]

    def evaluate(self) -> list[Finding]:
        out, script = self.folder / "evaluate" / "out", self.lora_script
        options = [
            "--data",
            self.data_folder / f"{BENCHMARK}.parquet",
            "--k",
            "1",
            "--no-thinking",
            "--max-tokens",
            "256",
        ]
        self.command(
            "evaluate", "recipe.egrsd.evaluate", "--model", script.checkpoint(script.saved()), *options, "--out", out
        )
        return [checks.evaluated(json.loads((out / "results.json").read_text()), benchmark=BENCHMARK, problems=TEST)]

    def trained(self, metrics: Metrics, *, last: int, divergence: bool = False) -> list[Finding]:
        """What every training run must show."""
        return [
            checks.steps_logged(metrics, first=1, last=last),
            checks.complete(metrics, divergence=divergence),
            checks.healthy(metrics, pretrained=self.pretrained),
            checks.possible_entropies(metrics, vocabulary=self.vocabulary),
            checks.unrounded(metrics),
            checks.timed(metrics),
            checks.privileged(metrics),
            checks.near_rollout(metrics, bound=ROLLOUT_BOUND),
            checks.within_memory(metrics, gib=self.gib),
        ]


PHASES: Mapping[str, Callable[[Session], list[Finding]]] = {
    name: getattr(Session, name) for name in ("data", "lora", "resume", "full", "opsd", "null", "grpo", "evaluate")
}


def examine(session: Session, phases: Mapping[str, Callable[[Session], list[Finding]]], console: Console) -> None:
    """Every phase in turn; whatever stops one is its finding, and the next one starts."""
    for name, phase in phases.items():
        started = time.monotonic()
        console.print(f"{name} …", end=" ", highlight=False)
        try:
            found = phase(session)
        except Exception as error:  # noqa: BLE001  a row of the table, red
            found = [Finding("runs", f"{type(error).__name__}: {error}", "runs", False)]
        session.findings += [(name, finding) for finding in found]
        bad = [finding.check for finding in found if not finding.ok]
        console.print(
            f"{time.monotonic() - started:.0f} s, {'failed: ' + ', '.join(bad) if bad else 'passed'}", highlight=False
        )


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    return "\n".join(line[:200] for line in lines[-8:])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, out = parser.add_argument, Path("outputs") / "gpu_check" / time.strftime("%Y%m%dT%H%M%S")
    add("--model", default=os.environ.get("MODEL") or MODEL, help="folder, or name on the hub (default: %(default)s)")
    add("--out", type=Path, default=out, help="folder of everything; the default's name is the time")
    add("--seconds", type=float, default=PHASE_SECONDS, help="of a phase at most (default: %(default)s)")
    add("--only", nargs="+", choices=PHASES, default=list(PHASES), metavar="PHASE", help="some phases")
    args = parser.parse_args(argv)
    folder = args.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    small = cpu.enabled() and args.model == MODEL
    session = Session(folder, str(folder / "model") if small else args.model, seconds=args.seconds)
    examine(session, {name: PHASES[name] for name in args.only}, console)
    passed = all(finding.ok for _, finding in session.findings)
    with (folder / "report.txt").open("w") as file:
        for place in (console, Console(file=file, width=160)):
            place.print(table(session.findings))
            place.print("\n".join(machine()), highlight=False, markup=False)
    print(
        f"\n{'passed' if passed else 'FAILED'}. Send us {folder}/report.txt, and {folder}/PHASE/log of a phase that "
        "failed."
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
