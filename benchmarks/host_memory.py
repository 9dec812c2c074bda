"""Memory of each process of a whole run on a CPU: the constants of recipe/egrsd/doctor/host.py.

    PYTHONPATH=.:tests/support python benchmarks/host_memory.py

Looks once a second at every process that the run has started; a page that several share is divided by their number
(PSS). Prints the largest sum of each kind of process and of all, GiB.
"""

import tempfile
from collections import defaultdict
from pathlib import Path

import psutil
from inputs import write_inputs
from runs import good, run

GIB = 2**30
WORKERS = ["reward.num_workers=2", "actor_rollout_ref.rollout.agent.num_workers=2"]


class Watch:
    """Called once a second with the run's process."""

    def __init__(self):
        self.largest: dict[str, tuple[float, int]] = {}

    def __call__(self, process, _) -> None:
        found = defaultdict(lambda: [0.0, 0])
        driver = psutil.Process(process.pid)
        for each in (driver, *driver.children(recursive=True)):
            try:
                name, gib = " ".join(each.cmdline())[:60].strip(), each.memory_full_info().pss / GIB
            except psutil.Error:  # it has ended
                continue
            for key in (name, "all"):
                found[key][0] += gib
                found[key][1] += 1
        for name, (gib, count) in found.items():
            self.largest[name] = max(self.largest.get(name, (0.0, 0)), (gib, count))


def main() -> None:
    folder, watch = Path(tempfile.mkdtemp()), Watch()
    write_inputs(folder, train=32)
    good(run(folder, folder / "run", WORKERS, watch=watch))
    for name, (gib, count) in sorted(watch.largest.items(), key=lambda item: -item[1][0]):
        print(f"{gib:5.2f} GiB in {count:2d} process(es): {name}")


if __name__ == "__main__":
    main()
