"""The committed rollouts are still those of the prompts, the tokenizer and the reward of runs that train on them."""

import json

import fixed_rollouts
from coin_reward import compute_score

from examples.tiny_cpu import model as tiny
from examples.tiny_cpu.task import make_problems


def test_prompts_and_rewards_are_those_of_today():
    tokenizer, problems = tiny.build_tokenizer(), make_problems("train", 128, seed=0)  # as inputs.write_inputs does
    steps = json.loads(fixed_rollouts.FILE.read_text()).values()
    rows = [row["fields"] for step in steps for row in step["rows"]]
    assert len(rows) == 3 * 8
    for row in rows:
        problem = problems[row["index"]]
        assert row["prompts"] == tiny.student_prompt(tokenizer, problem)
        assert row["teacher_prompt_ids"] == tiny.teacher_prompt(tokenizer, problem)
        text = tokenizer.decode(row["responses"], skip_special_tokens=True)
        assert sum(row["rm_scores"]) == compute_score("", text, "")["score"]


def test_there_is_something_to_learn_in_every_step():
    """A group whose rewards are all alike has no advantage under group advantages; not all of them are."""
    for step in json.loads(fixed_rollouts.FILE.read_text()).values():
        groups: dict[str, set[float]] = {}
        for row in step["rows"]:
            groups.setdefault(row["fields"]["uid"], set()).add(sum(row["fields"]["rm_scores"]))
        assert any(len(rewards) > 1 for rewards in groups.values())


def test_what_is_committed_is_what_verl_had_written(tmp_path):
    """Laid out and committed again, to the byte."""
    before = fixed_rollouts.FILE.read_text()
    fixed_rollouts.lay_out(tmp_path)
    assert fixed_rollouts.text(tmp_path) == before
