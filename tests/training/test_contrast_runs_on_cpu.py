"""Whole runs of rlcsd and sipo: who reads what, and each step is gradient descent on the loss that loops make of it."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import fixed_rollouts
import pytest
import torch
from plain import SGD, assert_close_parameters, descend, plain_forward
from runs import COIN_REWARD, TEMPERATURE, good, parameters, replaying, run
from teacher_texts import frames, shown
from transformers import AutoModelForCausalLM

from examples.tiny_cpu import model as tiny
from recipe.egrsd.privilege.prompts import SLOT

Sides = dict[int, tuple[list[int], list[list[int]]]]
"""Row of the batch -> the prompt with the right guide, and those with wrong ones; token ids."""

WHAT_IS_SAID = [
    [r"\boxed{@}", r"\boxed{12}", "12", r"\boxed{7}"],
    [r"\boxed{5}", "5", r"\boxed{9}", r"\boxed{9}"],
]
"""Of two problems four responses each, @ the right answer: one is right; none is."""
HELD_AGAINST = [["12", "12", None, "7"], ["5", None, "9", "9"]]
"""The wrong answer that each is read beside: for the right one the first of two equally frequent ones."""


def test_the_right_answer_is_no_wrong_one():
    assert [said.count("@") for said in WHAT_IS_SAID[0]] == [1, 0, 0, 0] and "@" not in "".join(WHAT_IS_SAID[1])


def with_answers(known: dict) -> str:
    """The committed rollouts of two steps with these responses in place of a random model's, which boxes nothing."""
    tokenizer, steps = tiny.build_tokenizer(), json.loads(fixed_rollouts.FILE.read_text())

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    for name in [name for name, step in steps.items() if step["global_steps"] > 2]:
        del steps[name]
    for step in steps.values():
        problems = sorted({row["key"].rsplit("_", 2)[0] for row in step["rows"]})
        step["rows"].sort(key=lambda row: row["key"])  # verl numbers them anew, in this order
        for row in step["rows"]:
            (uid, number), fields = row["key"].rsplit("_", 2)[:2], row["fields"]
            answer, said = fields["reward_model"]["ground_truth"], WHAT_IS_SAID[problems.index(uid)][int(number)]
            response = ids(f"{number}+{number} so {said.replace('@', answer)}<|im_end|>")
            count, whole = len(response), [*fields["prompts"], *response]
            before, behind, _ = known[tuple(fields["prompts"])]
            fields |= {
                "responses": response, "response_mask": [1] * count, "loss_mask": [1] * count, "input_ids": whole,
                "position_ids": [*range(len(whole))], "rollout_log_probs": [0.0] * count,
                "rm_scores": [0.0] * (count - 1) + [float("@" in said)],
                "teacher_prompt_ids": [*before, SLOT, *behind], "teacher_answer_ids": ids(answer),
            }  # fmt: skip
            row["tag"] |= {"response_len": count, "seq_len": len(whole)}
    return json.dumps(steps)


SCALE, THRESHOLD = 0.6, 0.2
"""Of rlcsd's run: tokens with more than .25 nats of evidence are modulated, some of step 1 and none of step 2."""


def of_peers(batch: dict, known: dict) -> Sides:
    """The prompt with the right response as recorded; every other wrong response of the problem."""
    control, right = set(tiny.build_tokenizer().all_special_ids), [row.sum() > 0 for row in batch["rm_scores"]]
    bare, found = [shown(row.tolist(), control) for row in batch["responses"]], {}
    for i, uid in enumerate(batch["uid"]):
        before, behind, _ = known[tuple(batch["prompts"][i].tolist())]
        sides = {True: [], False: []}
        for j, other in enumerate(batch["uid"]):
            if other == uid and bare[j] and j != i:
                sides[bool(right[j])].append([*before, *bare[j], *behind])
        if sides[True] and sides[False]:
            prompt = list(batch["teacher_prompt_ids"][i])
            assert prompt in sides[True]
            found[i] = prompt, sides[False]
    return found


def of_answers(batch: dict, known: dict) -> Sides:
    tokenizer, found = tiny.build_tokenizer(), {}
    problems = sorted(set(batch["uid"]))
    for i, uid in enumerate(batch["uid"]):
        before, behind, solution = known[tuple(batch["prompts"][i].tolist())]
        number = int(tokenizer.decode(batch["responses"][i][:1]))
        if (wrong := HELD_AGAINST[problems.index(uid)][number]) is None:
            continue
        answer = tokenizer.decode(solution).rpartition("{")[2].rstrip("}")
        prompts = [[*before, *tokenizer.encode(text, add_special_tokens=False), *behind] for text in (answer, wrong)]
        assert prompts[0] == list(batch["teacher_prompt_ids"][i])
        found[i] = prompts[0], [prompts[1]]
    return found


def rlcsd(advantages: list[float], evidence: dict[int, list[float]], i: int, logged: dict, tokens: int) -> list[float]:
    """Published: the mean of A + r over modulated tokens plus the mean of A over the others that have a teacher. The
    sum here is divided by all tokens."""
    terms = {row: [0.5 * math.tanh(e / SCALE) for e in values] for row, values in evidence.items()}
    modulated = [abs(term) > THRESHOLD for values in terms.values() for term in values]
    share = sum(modulated) / len(modulated)
    assert share < 1 and logged["egrsd/added_frac"] == pytest.approx(share, abs=1e-6)
    kept = [max(0.0, a + r) if a > 0 else min(0.0, a + r) for a, r in zip(advantages, terms[i], strict=True)]
    return [
        value * tokens / sum(modulated) if abs(r) > THRESHOLD else a * tokens / (len(modulated) - sum(modulated))
        for value, a, r in zip(kept, advantages, terms[i], strict=True)
    ]


def sipo(advantages: list[float], evidence: dict[int, list[float]], i: int, logged: dict, tokens: int) -> list[float]:
    assert advantages[0] in (0.75, -0.25, 0.0)  # the reward minus its group's mean
    return [a + 0.5 * max(-0.2, min(0.2, e)) for a, e in zip(advantages, evidence[i], strict=True)]


METHODS: dict[str, tuple[Callable, Callable]] = {"rlcsd": (of_peers, rlcsd), "sipo": (of_answers, sipo)}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("algorithm", METHODS)
def test_a_step_is_gradient_descent_on_its_loss(algorithm, inputs: Path, tmp_path, monkeypatch):
    """Two ranks, a snapshot that follows each step. Scores of both sides by plain forward passes; parameters after each
    of two steps equal those of a plain training loop on the same responses."""
    known, (sides_of, trained) = frames(inputs), METHODS[algorithm]
    overrides = [*COIN_REWARD, *SGD, "trainer.n_gpus_per_node=2", "algorithm.egrsd.teacher.sync_every=1"]
    if algorithm == "rlcsd":
        overrides += [f"algorithm.egrsd.contrast.scale={SCALE}", f"algorithm.egrsd.contrast.threshold={THRESHOLD}"]
    # Made up, because a random model boxes nothing, and chance may leave a step without both sides.
    (tmp_path / "made_up.json").write_text(with_answers(known))
    monkeypatch.setattr(fixed_rollouts, "FILE", tmp_path / "made_up.json")
    fixed_rollouts.lay_out(tmp_path / "rollouts")
    overrides += replaying(tmp_path / "rollouts", (1, 2))
    result = good(run(inputs, tmp_path, overrides, algorithm=algorithm, timeout=850))
    model = AutoModelForCausalLM.from_pretrained(inputs / "model", dtype=torch.float32)
    for step in (1, 2):
        batch, logged = result.probe(step), result.metrics[step - 1]
        sides, total, tokens = sides_of(batch, known), 0.0, sum(map(len, batch["responses"]))
        assert sides and logged["egrsd/no_peer_frac"] == pytest.approx(1 - len(sides) / len(batch["responses"]))
        assert step > 1 or logged["egrsd/added_frac"] > 0
        evidence = {}
        for i, response in enumerate(batch["responses"]):
            assert batch["teacher_mask"][i].tolist() == [int(i in sides)] * len(response)
            if i in sides:
                right, wrong = sides[i]
                of_right, *of_wrong = (
                    plain_forward(model, prompt, response, temperature=TEMPERATURE)[0] for prompt in (right, *wrong)
                )
                mean = torch.stack(of_wrong).exp().mean(0).log()
                recorded = batch["teacher_log_probs"][i], batch["contrast_log_probs"][i]
                torch.testing.assert_close(torch.stack(recorded), torch.stack([of_right, mean]), atol=2e-4, rtol=0)
                evidence[i] = (recorded[0] - recorded[1]).tolist()
        for i, response in enumerate(batch["responses"]):
            ids = torch.cat([batch["prompts"][i], response])[None]
            scores = (model(ids).logits[0, -len(response) - 1 : -1] / TEMPERATURE).log_softmax(-1)
            advantages = batch["advantages"][i].tolist()
            values = trained(advantages, evidence, i, logged, tokens) if i in sides else advantages
            total = total - (torch.tensor(values) * scores.gather(-1, response[:, None])[:, 0]).sum() / tokens
        flat = [abs(e) for values in evidence.values() for e in values]
        assert logged["egrsd/evidence_abs_mean"] == pytest.approx(sum(flat) / len(flat), abs=1e-5) and max(flat) > 0.05
        assert descend(model, total) > 1e-3
        assert_close_parameters(parameters(result, step), model)
