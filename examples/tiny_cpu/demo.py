"""The demo behind `make demo`: warm-start a tiny Qwen3, train it with a preset through verl, show what that did.

Everything lands in outputs/tiny_cpu: report.html, training.png, summary.json, the models, the data, and the logs of
verl and Ray.
"""

from functools import partial
from pathlib import Path

from examples import demo
from examples.demo import SAVE_TOKENS_EVERY, Answers, Preparation
from examples.tiny_cpu.evaluate import evaluate
from examples.tiny_cpu.task import TASKS, make_problems
from examples.tiny_cpu.training import ALGORITHMS, tiny_training, write_data
from examples.tiny_cpu.warm_start import warm_start_once


class Demo(demo.Demo):
    """A tiny Qwen3 on one of the tiny tasks."""

    student = "a tiny Qwen3"

    def __init__(self, folder: Path, *, task: str, algorithm: str, seed: int, steps: int, num_problems: int):
        super().__init__()
        self.settings = {
            "task": task, "algorithm": algorithm, "seed": seed, "steps": steps, "num_problems": num_problems,
        }  # fmt: skip
        self.task, self.seed, self.num_problems = task, seed, num_problems
        self.title = f"{algorithm} on {self.student}, {TASKS[task].TITLE}, seed {seed}"
        overrides = (f"algorithm.egrsd.save_tokens_every={SAVE_TOKENS_EVERY}",)
        chosen = {"task": task, "algorithm": algorithm, "seed": seed, "steps": steps, "overrides": overrides}
        self.training = tiny_training(folder, folder / "start_model", folder / "data", **chosen)

    def preparations(self) -> list[Preparation]:
        settings, training = {"seed": self.seed, "task": self.task}, self.training
        title = TASKS[self.task].TITLE
        return [
            (
                "data",
                f"Writing problems with worked solutions: {title}",
                partial(write_data, training.data, **settings),
            ),
            (
                "warm_start",
                "Warm start: a tiny Qwen3 learns the task, carelessly and wordily",
                partial(warm_start_once, training.model, **settings),
            ),
        ]

    def evaluate(self, name: str, model: Path) -> dict[str, Answers]:
        return {
            choice: evaluate(model, self._problems(), greedy=choice == "greedy", seed=self.seed)
            for choice in ("sampled", "greedy")
        }

    def evaluate_teacher(self) -> Answers:
        return evaluate(self.training.model, self._problems(), role="teacher", seed=self.seed)

    def _problems(self) -> list:
        return make_problems("test", self.num_problems, seed=self.seed, task=self.task)


def main() -> None:
    parser = demo.parser(__doc__, folder="outputs/tiny_cpu", algorithms=ALGORITHMS)
    parser.add_argument("--task", choices=TASKS, default="addition")
    parser.add_argument("--num-problems", type=int, default=500)
    demo.main(Demo, parser.parse_args())


if __name__ == "__main__":
    main()
