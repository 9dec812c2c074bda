"""The search for the demo's settings: starts, judged in minutes, then training tries, judged on validation problems.

    python -m examples.smollm2.search --model model --starts solutions=384 solutions=384,mix=0.8
    python -m examples.smollm2.search --model model --starts solutions=384,mix=0.8 --train lr=2e-5,steps=40

A start is a Start of warm_start.py, a training try what train.sh reads (algorithm, lr, steps, batch) or a key of verl's
in full.
Everything is kept in --folder: results.json grows by one entry for every start and every try, and a second call does
only what is missing. Nothing here sees a test problem.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean

from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.answers import paired_difference
from examples.smollm2.problems import SIZES, make_problems, write_data
from examples.smollm2.quality import answers, quality
from examples.smollm2.warm_start import Start, mixed, save, warm_start
from examples.tiny_cpu.compare import Results, folder_name
from examples.training import Training
from recipe.egrsd.cpu import precision

TRAIN_SCRIPT = Path(__file__).with_name("train.sh")
VARIABLES = ("lr", "batch")  # of train.sh, beside steps
Words = Mapping[str, str]


def words_of(text: str) -> dict[str, str]:
    """``a=1,b=2`` -> its words.

    Raises:
        ValueError: for a word without a value.
    """
    pairs = [word.partition("=") for word in text.split(",")]
    if wrong := [name for name, sign, _ in pairs if not sign]:
        raise ValueError(f"{wrong[0]} in {text} has no value; write name=value,name=value")
    return {name: value for name, _, value in pairs}


def start_of(text: str, *, seed: int) -> Start:
    """``solutions=384,mix=0.8`` -> the start.

    Raises:
        ValueError: for a name that a start does not have.
    """
    kinds = {field.name: field.type for field in fields(Start) if field.name != "seed"}
    words = words_of(text)
    if unknown := [name for name in words if name not in kinds]:
        raise ValueError(f"{unknown[0]} is nothing that a start has: {', '.join(kinds)}")
    return Start(**{name: (int if kinds[name] is int else float)(value) for name, value in words.items()}, seed=seed)


@dataclass(frozen=True)
class Search:
    """Where the search keeps what it made, and what it judges by."""

    folder: Path
    model: Path
    size: int
    """Validation problems of a start's quality."""
    evaluated: int
    """Validation problems before and after a training try."""

    def start(self, text: str, seed: int) -> Path:
        """Makes the start unless it is there; starts that differ in their mix alone share the training."""
        start, folder = start_of(text, seed=seed), self.folder / f"seed_{seed}" / folder_name(text)
        if not folder.exists() and start.mix == 1:
            warm_start(self.model, folder, start)
        elif not folder.exists():
            whole = self.start(spelt({name: value for name, value in words_of(text).items() if name != "mix"}), seed)
            model = AutoModelForCausalLM.from_pretrained(whole)
            before = AutoModelForCausalLM.from_pretrained(self.model).state_dict()
            model.load_state_dict(mixed(model.state_dict(), before, share=start.mix))
            save(model, AutoTokenizer.from_pretrained(whole), folder)
        return folder

    def judge(self, text: str, seed: int) -> dict[str, float]:
        return quality(self.start(text, seed), make_problems("validation", self.size, seed=seed), seed=seed)

    def training(self, model: Path, words: Words, seed: int) -> Training:
        """What ``words`` say, of cl_egrsd unless they name a preset."""
        variables = {name.upper(): words[name] for name in VARIABLES if name in words} | {"DTYPE": precision.fastest()}
        keys = [f"{name}={value}" for name, value in words.items() if name not in (*VARIABLES, "steps", "algorithm")]
        return Training(
            script=TRAIN_SCRIPT, folder=model.with_name(f"{model.name}__{folder_name(spelt(words))}"), model=model,
            data=self.folder / f"seed_{seed}" / "data", algorithm=words.get("algorithm", "cl_egrsd"), seed=seed,
            steps=int(words.get("steps", 40)), variables=variables, overrides=keys,
        )  # fmt: skip

    def train(self, start: str, words: Words, seed: int) -> dict[str, float]:
        """A training try from that start, and its paired difference on validation problems."""
        model = self.start(start, seed)
        training = self.training(model, words, seed)
        write_data(training.data, seed=seed, sizes=SIZES)
        problems = make_problems("validation", self.evaluated, seed=seed)
        before = answers(model, problems, role="student", seed=seed)
        after = answers(training.run(), problems, role="student", seed=seed + 1)
        gain, longer = (
            paired_difference(*pair) for pair in ((before.correct, after.correct), (before.lengths, after.lengths))
        )
        rollouts = mean(step["egrsd/correct_frac"] for step in training.metrics.values())
        found = {"before": mean(before.correct), "gain": gain.mean, "gain_se": gain.error, "rollouts_right": rollouts}
        return found | {"longer": longer.mean, "longer_se": longer.error}


def spelt(words: Words) -> str:
    return ",".join(f"{name}={value}" for name, value in words.items())


def main(argv: Sequence[str] | None = None) -> None:
    """Does what is missing, and prints everything that was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of SmolLM2-135M-Instruct (convert.py)")
    parser.add_argument("--starts", nargs="+", default=[])
    parser.add_argument("--train", nargs="*", default=[], help="training tries, each from each start")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100], help="others than those of the demo's figures")
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--evaluated", type=int, default=400)
    parser.add_argument("--folder", type=Path, default=Path("outputs/smollm2_search"))
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    search = Search(args.folder.resolve(), args.model.resolve(), args.size, args.evaluated)
    sizes = {name: value for name, value in asdict(search).items() if name in ("size", "evaluated")}
    results = Results(args.folder / "results.json", sizes | {"dtype": precision.fastest()})
    tries = dict.fromkeys(args.starts)
    tries |= {f"{start} then {words}": (start, words_of(words)) for start in args.starts for words in args.train}
    for name, seed in results.missing(tries, args.seeds):
        print(f"{name}, seed {seed}", flush=True)
        chosen = tries[name]
        results.add(name, seed, search.train(*chosen, seed) if chosen else search.judge(name, seed))
    for name, seeds in results.runs.items():
        for seed, found in seeds.items():
            print(f"{name}, seed {seed}: {json.dumps({key: round(value, 3) for key, value in found.items()})}")


if __name__ == "__main__":
    main()
