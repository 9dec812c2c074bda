"""The commands of the pages: they fit together, name targets that exist, and are configs that we accept."""

import re
import shlex
from pathlib import Path

import pytest
from composing import composed
from packages import PAGES
from runs import ROOT

from recipe.egrsd.config.validation import validate
from recipe.egrsd.evaluate import __main__ as evaluate
from recipe.egrsd.prepare_data import __main__ as prepare_data
from recipe.egrsd.prepare_data.sources import BENCHMARKS


def commands_of(path: str) -> list[list[str]]:
    """The words of each command in a page's indented blocks."""
    text = (ROOT / path).read_text().replace("\\\n", "")
    lines = re.findall(r"^    ((?:\w+=\S+ )*(?:python|examples/|make) ?\S.*)$", text, re.M)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("page", ["README.md", "docs/reproduce.md"])
def test_the_commands_from_data_to_report_fit_together(page):
    """Run, evaluation, comparison and report name the same folders, and each option that they are given exists."""
    commands = [words for words in commands_of(page) if words[-1].startswith("examples/") or words[0] == "python"]
    given = {
        words[2].split(".")[-1]: words[3:]
        for words in commands
        if words[:2] == ["python", "-m"] and "compare" not in words
    }
    data, evaluation = (
        prepare_data._parser().parse_args(given["prepare_data"]),
        evaluate._parser().parse_args(given["evaluate"]),
    )
    scripts = [words for words in commands if words[-1].startswith("examples/")]
    (algorithm,) = {word.split("=")[1] for words in scripts for word in words if word.startswith("ALGORITHM=")}
    (script,) = {words[-1] for words in scripts}
    assert (ROOT / script).is_file()
    run = Path("outputs") / f"{script.split('run_')[1].removesuffix('_fsdp.sh').replace('_', '-')}-{algorithm}"
    assert run in evaluation.out.parents and run in Path(evaluation.model).parents
    assert str(run) in given["report"]
    (comparison,) = (words for words in commands if "compare" in words)
    assert comparison[-1] == str(evaluation.out)
    benchmarks = ",".join(source.name for source in BENCHMARKS)
    assert [str(path) for path in evaluation.data] == [f"{data.out}/{{{benchmarks}}}.parquet"]
    assert f"DATA=${{DATA:-{data.out}}}" in (ROOT / "examples/run_qwen3_fsdp.sh").read_text()


def test_make_has_the_targets_that_pages_name():
    targets = set(re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        named = re.findall(r"(?:^    |`)(?:\w+=\S+ )*make ([a-z][\w.-]*)", page.read_text(), re.M)
        assert {name for name in named if not name.startswith("test-verl-")} <= targets, page


@pytest.mark.parametrize("page", ["README.md", "recipe/egrsd/README.md"])
def test_the_readme_command_is_a_config_that_we_accept(page):
    (words,) = (words for words in commands_of(page) if words[:3] == ["python", "-m", "verl.trainer.main_ppo"])
    algorithm, *overrides = words[3:]
    config = composed(*overrides, algorithm=algorithm.removeprefix("algorithm="))
    validate(config)
    assert (config.algorithm.egrsd.gamma, config.data.train_batch_size) == (0.3, 32)


def test_grpo_by_the_pages_command_is_verls():
    (words,) = (words for words in commands_of("docs/configuration.md") if "verl.trainer.main_ppo" in words)
    algorithm, *overrides, more = words[3:]
    config = composed(*overrides, algorithm=algorithm.removeprefix("algorithm="))
    egrsd = validate(config)
    assert (egrsd.gamma, egrsd.clip_range, egrsd.length_bonus, egrsd.advantage) == (0, 0, 0, "grpo")
    assert (config.actor_rollout_ref.rollout.n, more) == (8, "...")
