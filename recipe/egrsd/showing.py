"""What a step's teachers are shown: decided once for the whole batch, on the driver.

B  rows of the batch, padding samples included
"""

from collections.abc import Sequence
from typing import Any

from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from recipe.egrsd import batches
from recipe.egrsd.config.schema import FEEDBACK_PRIVILEGES, PEER_PRIVILEGES, EgrsdConfig
from recipe.egrsd.privilege import feedback
from recipe.egrsd.privilege.contrasts import boxed_ids, wrong_answers, wrong_peers
from recipe.egrsd.privilege.guides import BARE, SOLUTION, guides
from recipe.egrsd.privilege.peers import CHOICE_OF_PEERS, chosen_peers, shown_ids, spliced
from recipe.egrsd.privilege.rows import last_rows, teacher_prompts
from recipe.egrsd.teacher.readings import Reading

Ids = Sequence[list[int] | None]
"""Token ids for each of B rows, None where there are none."""


def readings_of(
    batch: KVBatchMeta, data: TensorDict, egrsd: EgrsdConfig, *, seed: int, step: int, tokenizer: Any
) -> tuple[list[list[Reading]], dict[str, float]]:
    """For each row under which prompts its teacher reads it, none for no teacher; and metrics. Padding samples have
    none."""
    real, problems = batches.is_real(batch), [ids.tolist() for ids in data["prompts"].unbind()]
    prompts = teacher_prompts(batch.keys, data["prompts"].unbind(), list(data["teacher_prompt_ids"]))
    frames = [ids if counts else None for ids, counts in zip(prompts, real, strict=True)]
    chance, metrics, fillings = f"{seed} {step}", {}, None
    if egrsd.privilege in FEEDBACK_PRIVILEGES:
        fillings, metrics = _told(batch, problems, frames, egrsd, seed=chance, tokenizer=tokenizer)
        found = _once(frames, fillings)
    elif egrsd.privilege in PEER_PRIVILEGES:
        control = {*tokenizer.all_special_ids}
        found, fillings = _beside_peers(
            batch.keys, data, problems, frames, egrsd, step=step, seed=chance, control=control
        )
    elif egrsd.privilege == "answer_contrast":
        right = [*map(list, data["teacher_answer_ids"])]
        found = _both_sides(frames, right, _wrong_answers(batch.keys, data, frames, right, egrsd, tokenizer))
    else:
        return [[] if ids is None else [Reading(ids)] for ids in frames], {}
    # What was shown, for whoever looks on: of several the first that is no bare problem.
    first = int(egrsd.privilege == "peers")
    batches.write_lists(batch, teacher_prompt_ids=[[*of_row[first].prompt] if of_row else [] for of_row in found])
    alone = sum(not ids for ids, counts in zip(fillings or found, real, strict=True) if counts)
    name = "no_feedback_frac" if egrsd.privilege in FEEDBACK_PRIVILEGES else "no_peer_frac"
    metrics[f"egrsd/{name}"] = alone / sum(real)
    if egrsd.privilege == "peers":
        found, of_guides = _steered(found, strength=egrsd.steering.strength_at(step))
        metrics |= of_guides
    return found, metrics


def correct_rows(keys: Sequence[str], data: TensorDict) -> list[bool]:
    """Whether each response's rollout earned something, which its last row says."""
    return (data["rm_scores"].to_padded_tensor(0.0).sum(-1) > 0)[last_rows(keys)].tolist()


def _once(frames: Ids, fillings: Ids) -> list[list[Reading]]:
    return [
        [] if frame is None or ids is None else [Reading(spliced(frame, ids))]
        for frame, ids in zip(frames, fillings, strict=True)
    ]


def _beside_peers(
    keys: Sequence[str],
    data: TensorDict,
    problems: list[list[int]],
    frames: Ids,
    egrsd: EgrsdConfig,
    *,
    step: int,
    seed: str,
    control: set[int],
) -> tuple[list[list[Reading]], Ids | None]:
    """The readings; and, where each is beside one peer, that one."""
    shown = [shown_ids(ids.tolist(), control_ids=control) for ids in data["responses"].unbind()]
    shown = [None if frame is None else ids for ids, frame in zip(shown, frames, strict=True)]
    if egrsd.privilege == "peers":
        return _guided(keys, data, problems, frames, shown, egrsd, step=step), None
    peers = _peers(keys, data, problems, shown, egrsd, seed=seed)
    if egrsd.privilege != "peer_contrast":
        return _once(frames, peers), peers
    knobs = {"most": egrsd.contrast.wrong_guides, "seed": seed}
    wrong = wrong_peers(keys, problems, correct_rows(keys, data), shown, **knobs)
    return _both_sides(frames, peers, [[shown[peer] for peer in of_row] for of_row in wrong]), None


def _peers(
    keys: Sequence[str], data: TensorDict, problems: list[list[int]], shown: Ids, egrsd: EgrsdConfig, *, seed: str
) -> Ids:
    """For each row the response that its teacher is shown; without one None, or no token beside the answer."""
    knobs = {"wanted": CHOICE_OF_PEERS[egrsd.privilege], "rule": egrsd.teacher.peer, "seed": seed}
    peers = chosen_peers(keys, problems, correct_rows(keys, data), shown, **knobs)
    nobody: list[int] | None = [] if egrsd.privilege == "answer_and_peer" else None
    return [nobody if peer is None else shown[peer] for peer in peers]


def _both_sides(frames: Ids, right: Ids, wrong: Sequence[Sequence[Any]]) -> list[list[Reading]]:
    """Each response is read beside its right guide, then beside each wrong one; not at all without either."""
    return [
        []
        if frame is None or guide is None or not others
        else [Reading(spliced(frame, guide)), *(Reading(spliced(frame, ids), against=True) for ids in others)]
        for frame, guide, others in zip(frames, right, wrong, strict=True)
    ]


def _wrong_answers(
    keys: Sequence[str], data: TensorDict, frames: Ids, right: Ids, egrsd: EgrsdConfig, tokenizer: Any
) -> list[list[list[int]]]:
    """For each row the wrong answer that its teacher is shown, alone in a list; padding samples have none."""
    limit = egrsd.teacher.max_prompt_length
    answers = [
        None if frame is None else boxed_ids(tokenizer, ids.tolist(), room=limit - len(frame) + 1)
        for frame, ids in zip(frames, data["responses"].unbind(), strict=True)
    ]
    found = wrong_answers(keys, correct_rows(keys, data), answers, [ids or [] for ids in right])
    return [[] if ids is None else [ids] for ids in found]


def _guided(
    keys: Sequence[str], data: TensorDict, problems: Ids, frames: Ids, shown: Ids, egrsd: EgrsdConfig, *, step: int
) -> list[list[Reading]]:
    """Each response is read on the student's own prompt, and once beside each of its guides."""
    solutions = [*map(list, data["teacher_solution_ids"])]
    knobs = {"strength": egrsd.steering.strength_at(step), "own_response": egrsd.steering.own_response}
    found = guides(keys, correct_rows(keys, data), shown, [*map(bool, solutions)], **knobs)
    texts = {row: ids for row, ids in enumerate(shown) if ids is not None}
    readings = []
    for frame, bare, solution, of_row in zip(frames, problems, solutions, found, strict=True):
        beside = texts | {SOLUTION: solution}
        readings.append(
            [Reading(bare if guide == BARE else spliced(frame, beside[guide]), share) for guide, share in of_row]
            if frame is not None and bare is not None
            else []
        )
    return readings


def _steered(found: list[list[Reading]], *, strength: float) -> tuple[list[list[Reading]], dict[str, float]]:
    """At strength 0 nothing steers, and nothing is read; and metrics."""
    metrics = {"egrsd/steering_strength": strength}
    if not strength:
        return [[] for _ in found], metrics
    if counts := [sum(reading.coefficient != 0 for reading in of_row) - 1 for of_row in found if of_row]:
        metrics["egrsd/guides_mean"] = sum(counts) / len(counts)
    return found, metrics


def _told(
    batch: KVBatchMeta,
    problems: list[list[int]],
    frames: list[list[int] | None],
    egrsd: EgrsdConfig,
    *,
    seed: str,
    tokenizer: Any,
) -> tuple[list[list[int] | None], dict[str, float]]:
    """For each row the feedback that its teacher is told; and metrics. What cannot be shown is named in the log."""
    real = batches.is_real(batch)
    column = batches.read(batch, "extra_fields")["extra_fields"]
    said = feedback.said_of(batch.keys, [getattr(row, "data", row) for row in column])  # as verl (replay_buffer.py:297)
    said = [text if counts else "" for text, counts in zip(said, real, strict=True)]
    said, forged = feedback.without_forged(batch.keys, said, tokenizer)
    shuffled = egrsd.privilege == "feedback_shuffled"
    of = feedback.sources(batch.keys, problems, said, shuffled=shuffled, seed=seed)
    told, lengths = ["" if row is None else said[row] for row in of], [len(frame or []) - 1 for frame in frames]
    limit = egrsd.teacher.max_prompt_length
    found, too_long = feedback.told_ids(batch.keys, told, tokenizer, lengths=lengths, max_length=limit)
    if refused := forged + too_long:
        print(f"EGRSD shows no teacher the feedback of {len(refused)} of {sum(real)} responses; {refused[0]}.")
    return found, {"egrsd/unusable_feedback_frac": len(refused) / sum(real)}
