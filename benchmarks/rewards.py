"""Seconds for 10,000 responses, a third of them LaTeX, by this answer checker and by that of another revision.

    git worktree add ../before <revision>
    python benchmarks/rewards.py --against ../before

Both score the same responses on 8 threads, in turns, each turn in a process of its own, so that the machine's load
meets both. Seconds are of the clock, and of the CPUs that process and workers used, which another program beside them
does not lengthen.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
LATEX = [  # ground truth, equal answer, with two numbers in each
    ("\\frac{%d}{%d}", "%d/%d"),
    ("%d.%d", "%d.%d0"),
    ("\\sqrt{%d}+%d", "%d^{1/2}+%d"),
    ("%d\\sqrt{%d}", "%d\\cdot %d^{1/2}"),
    ("\\frac{%d\\pi}{%d}", "%d\\pi/%d"),
    ("%d+%di", "%d+i%d"),
    ("%dx+%d", "x\\cdot %d+%d"),
    ("x^2+%dx+%d", "%dx+x^2+%d"),
    ("(%d,%d)", "\\left(%d, %d\\right)"),
    ("[%d,%d)", "[%d, %d)"),
    ("\\{%d,%d\\}", "%d, %d"),
    ("\\left(-\\infty,%d\\right)\\cup(%d,\\infty)", "(-\\infty,%d)\\cup(%d,\\infty)"),
]


def cases(responses: int) -> list[tuple[str, str]]:
    """(ground truth, answer): plain integers, every third one LaTeX; half of the answers are right."""
    draw = random.Random(0)
    made = []
    for number in range(responses):
        first, second, right = draw.randint(2, 99), draw.randint(100, 199), draw.random() < 0.5
        expected, answer = LATEX[number // 3 % len(LATEX)] if number % 3 == 0 else ("%d%d", "%d%d")
        made.append((expected % (first, second), answer % (first, second + (not right))))
    return made


def measure(root: Path, responses: int) -> dict[str, float]:
    """Seconds of the checker under ``root``, in this process."""
    sys.path.insert(0, str(root))
    from recipe.egrsd.reward import compute_score

    def score(case: tuple[str, str]) -> float:
        return compute_score("", f"\\boxed{{{case[1]}}}", case[0], timeout_seconds=60.0)["score"]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(score, [("1/2", f"2^{{-{number}}}") for number in range(16)]))  # the workers start
        start, cpu = time.perf_counter(), _cpu_seconds()
        right = sum(threads.map(score, cases(responses)))
        return {"seconds": time.perf_counter() - start, "cpu": _cpu_seconds() - cpu, "right": right}


def _cpu_seconds() -> float:
    """Of this process and all below it, the living ones as well."""
    ticks, below = 0, [os.getpid()]
    while below:
        pid = below.pop()
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            for task in Path(f"/proc/{pid}/task").iterdir():
                below += map(int, (task / "children").read_text().split())
        except OSError:  # it has just ended
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="root of another revision")
    parser.add_argument("--responses", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.responses)))
        return
    roots = {"this": ROOT, **({"other": options.against} if options.against else {})}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in roots}
    for _ in range(options.turns):
        for name, root in roots.items():
            command = [sys.executable, __file__, "--measure", str(root), "--responses", str(options.responses)]
            done = subprocess.run(command, cwd="/", stdout=subprocess.PIPE, text=True, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    best = {name: {key: min(one[key] for one in turns) for key in ("seconds", "cpu")} for name, turns in found.items()}
    for name, turns in found.items():
        print(
            name,
            *(f"{one['seconds']:.1f} s ({one['cpu']:.1f} s of CPU, {one['right']:.0f} right)" for one in turns),
            sep="  ",
        )
    if options.against:
        print("this / other:", *(f"{key} {best['this'][key] / best['other'][key]:.2f}" for key in ("seconds", "cpu")))


if __name__ == "__main__":
    main()
