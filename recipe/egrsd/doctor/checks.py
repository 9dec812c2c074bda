"""The checks of config, data and prompts, in the order in which they are shown. Each yields its findings."""

import asyncio
import inspect
import warnings
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config
from verl.utils.reward_score import default_compute_score

from recipe.egrsd import checkpoint, parts
from recipe.egrsd.config import contents, derived, schema, validation
from recipe.egrsd.cpu import precision
from recipe.egrsd.doctor.case import Case, Finding, Level, graded
from recipe.egrsd.doctor.versions import installed
from recipe.egrsd.machines import architectures, attention, models
from recipe.egrsd.method.advantage import WARMUP_MEAN
from recipe.egrsd.privilege import columns, feedback

ANSWERS = 200
"""Rows whose solutions are given to the answer checker."""
MOST, HALF = 0.9, 0.5  # of them accepted: below the first look, below the second something is wrong
SHOWN = 3


def settings(case: Case) -> Iterator[Finding]:
    config = case.config
    egrsd = validation.validate(config)
    parts.check(config, egrsd)
    attention.check_packs(config, attention.named_attention(config) or attention.VERLS_CHOICE)
    yield Finding(Level.GREEN, f"{_short(egrsd)}: no contradiction among the keys")
    yield from _warmup(egrsd)
    if slow := precision.remark(config):
        yield Finding(Level.YELLOW, slow)
    unasked = config.actor_rollout_ref.model.lora_rank > 0 and installed("vllm") is None
    if unasked:  # validate_config imports it for an adapter's rank alone
        config = deepcopy(config)
        config.actor_rollout_ref.model.lora_rank = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # verl warns that there is no critic
        validate_config(config, need_reference_policy(case.config), need_critic(config))
    left_out = ", but whether vLLM takes this lora_rank was not asked: it is not installed here" if unasked else ""
    yield Finding(graded(yellow=unasked), f"verl's own validate_config passes{left_out}")


def _warmup(egrsd: schema.EgrsdConfig) -> Iterator[Finding]:
    """A response that is right earns 1 at the longest and 1 + length_bonus at the shortest."""
    if egrsd.warms_up:
        short, long = WARMUP_MEAN / (1 + egrsd.length_bonus), WARMUP_MEAN
        yield Finding(
            Level.GREEN,
            f"the first {egrsd.warmup_steps} steps take the advantage reward - {WARMUP_MEAN}: where fewer than "
            f"{short:.0%} (short responses) to {long:.0%} (long ones) are right they push down on balance; for such a "
            "model take algorithm.egrsd.warmup_steps=1",
        )


def resume(case: Case) -> Iterator[Finding]:
    folder = checkpoint.folder_to_resume(case.config)
    left_out = contents.remark(case.config, resumes=folder is not None)
    yield Finding(Level.GREEN, checkpoint.beginning(case.config.trainer, folder) + left_out)


def _short(egrsd: schema.EgrsdConfig) -> str:
    if egrsd.divergence:
        return f"{egrsd.divergence}, {egrsd.teacher.kind} teacher, privilege {egrsd.privilege}"
    knobs = f"gamma {egrsd.gamma}, window {egrsd.window}, clip_range {egrsd.clip_range}"
    knobs += ", the batch's mean gate" * (egrsd.gate == "mean")
    return f"{knobs}, {egrsd.teacher.kind} teacher, privilege {egrsd.privilege}"


def batches(case: Case) -> Iterator[Finding]:
    actor, batch = case.config.actor_rollout_ref.actor, case.config.data.train_batch_size
    named = f"data.train_batch_size={batch}, actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size}"
    updates = derived.mini_batches(case.config) * actor.ppo_epochs
    said = f"{named}, ppo_epochs={actor.ppo_epochs}: {updates} update(s) a batch"
    yield Finding(
        graded(yellow=updates > 1), said + "; the paper makes one, on the policy that sampled" * (updates > 1)
    )


def files(case: Case) -> Iterator[Finding]:
    """Before rows are read, as the run does."""
    config = case.config
    validation.check_data_files(config.data)
    columns.check(config, schema.read(config.algorithm.egrsd))
    yield Finding(Level.GREEN, "what the run reads of them is there")


def model(case: Case) -> Iterator[Finding]:
    case.load_model()
    folder = Path(case.config.actor_rollout_ref.model.path)
    architectures.check(case.config, folder, trains_here=True)  # what is missing here may be missing there
    models.check_message(case.config, folder)
    vocabulary, tokens = case.model.hf_config.get_text_config().vocab_size, len(case.tokenizer)
    text = (
        f"{case.model.architectures[0]}: {vocabulary:,} logits for {tokens:,} tokens of {type(case.tokenizer).__name__}"
    )
    if tokens > vocabulary:
        yield Finding(Level.RED, f"{text}: the tokenizer can write tokens that the model has no embedding for")
    else:
        yield Finding(Level.GREEN, f"{text}, one tokenizer for student and teacher")
    if case.tokenizer.chat_template is None:
        yield Finding(Level.RED, "the tokenizer has no chat template; set actor_rollout_ref.model.custom_chat_template")
    if case.tokenizer.eos_token_id is None:
        yield Finding(Level.RED, "the tokenizer has no end-of-sequence token, so no response would end")


def rows(case: Case) -> Iterator[Finding]:
    validation_rows = case.load_rows()
    batch = case.config.data.train_batch_size
    counts = f"{len(case.rows):,} rows to train on, {batch} of them a step; {len(validation_rows):,} to validate"
    yield Finding(graded(red=len(case.rows) < batch), counts)
    if missing := columns.missing_steps(len(case.rows), case.config):
        yield Finding(Level.YELLOW, missing)
    student = case.student_template
    chat = case.rows[0]["raw_prompt"]
    theirs = case.tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=False, **student
    )
    if list(theirs) != case.student_ids[0]:
        said = (
            "row 0: verl's tokens of the student's prompt are not those of its text, from which the teacher's are made"
        )
        yield Finding(Level.RED, said)
    yield from _privilege(case)


def _privilege(case: Case) -> Iterator[Finding]:
    """A template of the user's own may add nothing to the problem."""
    egrsd = case.config.algorithm.egrsd
    if egrsd.privilege == "none":
        return
    same = sum(list(teacher) == student for teacher, student in zip(case.teacher_ids, case.student_ids, strict=True))
    if same:
        yield Finding(Level.RED, f"{same:,} teacher prompts are the student's: the teacher is shown nothing")


def budgets(case: Case) -> Iterator[Finding]:
    """The longest rows against every limit they meet: verl cuts a prompt that is too long, and fails on a row within
    a step."""
    config, parts, response = case.config, case.config.actor_rollout_ref, case.config.data.max_response_length
    student, teacher = case.longest_student_prompt, case.longest_teacher_prompt
    positions = case.model.hf_config.get_text_config().max_position_embeddings
    context = parts.rollout.max_model_len or positions
    name = "ref" if derived.uses_reference(config) else "rollout"
    for_student, for_teacher = config.data.max_prompt_length, config.algorithm.egrsd.teacher.max_prompt_length
    limits = [
        ("student prompt", student, for_student, "data.max_prompt_length"),
        ("validation prompt", max(map(len, case.validation_ids)), for_student, "data.max_prompt_length"),
        ("teacher prompt", teacher, for_teacher, "algorithm.egrsd.teacher.max_prompt_length"),
        ("student row", student + response, context, "vLLM's max_model_len"),
        ("teacher row", teacher + response, positions, "the model's max_position_embeddings"),
        ("row of vLLM", context, positions, "the model's max_position_embeddings"),
    ]
    for row, tokens, part, prefix, dynamic in (
        ("student row", student + response, "actor", "ppo", parts.actor.use_dynamic_bsz),
        ("student row", student + response, "rollout", "log_prob", parts.rollout.log_prob_use_dynamic_bsz),
        ("teacher row", teacher + response, name, "log_prob", parts[name].log_prob_use_dynamic_bsz),
    ):
        if dynamic:
            key = f"{prefix}_max_token_len_per_gpu"
            ranks = derived.sequence_parallel_ranks(parts["ref" if part == "ref" else "actor"])
            limits.append((row, tokens, parts[part][key] * ranks, f"actor_rollout_ref.{part}.{key}"))
    for what, tokens, limit, key in limits:
        sign = "≤" if tokens <= limit else ">"
        yield Finding(graded(red=tokens > limit), f"{what} {tokens:,} {sign} {limit:,} ({key})")


def answers(case: Case) -> Iterator[Finding]:
    """The run's own answer checker on the data's own solutions."""
    compute_score = get_custom_reward_fn(case.config) or default_compute_score
    bonus, odd = case.config.algorithm.egrsd.length_bonus, {}
    key = case.config.algorithm.egrsd.teacher.solution_key
    tried, solved, refused, unreadable = min(ANSWERS, len(case.rows)), 0, [], []
    for index in range(tried):
        row = case.rows[index]
        truth, solution = row["reward_model"]["ground_truth"], row["extra_info"].get(key) or ""  # not all data has any
        scores = [_score(compute_score, row, response) for response in (_right(row), solution)]
        odd = {score: index for score in scores if score not in (0, 1)} | odd
        if not scores[0] > 0 or _unreadable(compute_score, row):
            unreadable.append(f"row {index}: {truth!r}")
            continue
        solved += bool(solution)
        if solution and not scores[1] > 0:
            refused.append(f"row {index}: …{solution.strip()[-60:]!r} against {truth!r}")
    if odd and bonus > 0:
        score, index = next(iter(odd.items()))
        need = f"need algorithm.egrsd.length_bonus=0, here {bonus:g}"
        yield Finding(Level.RED, f"row {index} scores {score:g}: rewards other than 0 and 1 {need}")
    if unreadable:
        many = len(unreadable) > (1 - HALF) * tried
        said = f"{len(unreadable)} of {tried} ground truths are refused even against themselves or unreadable"
        yield Finding(graded(red=many, yellow=True), f"{said}: nothing earns{_listed(unreadable)}")
    if solved:
        share = 1 - len(refused) / solved
        said = f"{solved - len(refused)} of the first {solved} solutions are accepted against their ground truth"
        yield Finding(graded(red=share < HALF, yellow=share < MOST), said + _listed(refused))
    if case.config.algorithm.egrsd.privilege in schema.FEEDBACK_PRIVILEGES:
        yield _feedback(compute_score, case.rows[0])


def _feedback(compute_score: Any, row: dict) -> Finding:
    """What the reward function says of responses, which their teachers are told."""
    responses = {"an empty response": "", "a wrong answer": r"\boxed{0}", "a right one": _right(row)}
    results = {what: _scored(compute_score, row, response) for what, response in responses.items()}
    fields = [{"reward_extra_info": result if isinstance(result, dict) else {}} for result in results.values()]
    said = dict(zip(results, feedback.said_of([f"0, {what}" for what in results], fields), strict=True))
    told = "; ".join(f"of {what} {text!r}" if text else f"of {what} nothing" for what, text in said.items())
    return Finding(
        graded(yellow=not any(said.values())),
        f"row 0: the reward function says {told}; a response of which nothing is said has no teacher",
    )


def _right(row: dict) -> str:
    return rf"\boxed{{{row['reward_model']['ground_truth']}}}"


def _score(compute_score: Any, row: dict, response: str) -> float:
    score = _scored(compute_score, row, response)
    return score["score"] if isinstance(score, dict) else score


def _unreadable(compute_score: Any, row: dict) -> bool:
    """What only an identical answer meets, as our answer checker says of another answer; a function of the user's
    need not."""
    score = _scored(compute_score, row, r"\boxed{0}")
    return isinstance(score, dict) and bool(score.get("bad_ground_truth"))


def _scored(compute_score: Any, row: dict, response: str) -> Any:
    known = {"data_source": row["data_source"], "ground_truth": row["reward_model"]["ground_truth"]}
    score = compute_score(solution_str=response, extra_info=row["extra_info"], **known)
    return asyncio.run(score) if inspect.iscoroutine(score) else score  # verl's reward managers take both


def _listed(lines: list[str]) -> str:
    more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "".join(f"\n  {line}" for line in [*lines[:SHOWN], *more])
