"""What the recipe adds to the start of a Ray worker: seconds to import verl's trainer with it and without it, in fresh
processes.

    python benchmarks/startup.py [--repeats 3]
"""

import argparse
import os
import subprocess
import sys
import time
from statistics import median

# What every process of a run imports, and what the trainer's and the actor's import besides.
IMPORTS = {
    "any process": "import verl",
    "actor": "import verl; import verl.workers.engine_workers",
    "trainer": "import verl; import verl.trainer.ppo.v1",
}
OURS = {"VERL_USE_EXTERNAL_MODULES": "recipe.egrsd.register", "VERL_ENGINE_VENDOR": "egrsd"}


def seconds(code: str, **variables: str) -> float:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VERL_")}
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=True, env=kept | variables, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    print("| process | verl | with the recipe | added |\n|---|---|---|---|")
    for name, code in IMPORTS.items():
        seconds(code)  # fills the file cache
        pairs = [(seconds(code, VERL_USE_EXTERNAL_PLUGINS="none"), seconds(code, **OURS)) for _ in range(repeats)]
        without, with_it = (median(times) for times in zip(*pairs, strict=True))
        print(f"| {name} | {without:.2f} s | {with_it:.2f} s | {median(b - a for a, b in pairs):+.2f} s |", flush=True)


if __name__ == "__main__":
    main()
