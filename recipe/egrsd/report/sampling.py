r"""The paper's mechanism on any model and data set, without training: responses that the model samples, and what its
teacher says of each of their tokens.

    python -m recipe.egrsd.report mechanism --model MODEL --data train.parquet --out FOLDER [KEY=VALUE ...]

The keys are main_ppo's; algorithm=cl_egrsd and one GPU for an engine of vLLM stand in front of them. They say what the
teacher sees, the thinking switches, temperature and lengths, as in a run. FOLDER then holds tokens/step_0.parquet and
its report. The scores are those of one model: a teacher of other weights is named by --teacher. Memory: the model once,
and vLLM before it.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tensordict import NonTensorStack, TensorDict
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForCausalLM
from verl.utils.device import get_device_name

from recipe.egrsd.config import validation
from recipe.egrsd.config.methods import OUR_REWARD
from recipe.egrsd.config.schema import EgrsdConfig
from recipe.egrsd.cpu import precision
from recipe.egrsd.doctor.case import Case, composed
from recipe.egrsd.engine.fsdp import PROBED_TOKENS
from recipe.egrsd.engine.head import head_scores, require_plain_head, scoring_head
from recipe.egrsd.evaluate.engine import Loading, Request, Sampling, generate, visible_devices
from recipe.egrsd.machines import models
from recipe.egrsd.method.advantage import WARMUP_MEAN
from recipe.egrsd.method.vocabulary import Entropy
from recipe.egrsd.reward import compute_score
from recipe.egrsd.teacher.scoring import nested
from recipe.egrsd.token_weight import of_batch
from recipe.egrsd.watch import tokens

ENGINE_GPUS = "actor_rollout_ref.rollout.tensor_model_parallel_size"
"""verl's default is 2."""
BATCH = 32
"""Responses that share an entropy scale: the paper's batch."""


def sample(argv: Sequence[str]) -> Path:
    """The command line of the module's text; returns the folder. ValueError names what cannot be used."""
    args = _parser().parse_args(argv)
    if slow := precision.dtype_remark(args.dtype):
        print(slow, file=sys.stderr, flush=True)
    taught_by = args.teacher and models.locate(args.teacher, key="--teacher")[0]
    case, egrsd = _asked(args)
    count = min(args.responses, len(case.rows.dataframe))
    rows = [case.rows.dataframe[row] for row in range(count)]
    prompts, privileged = case.student_ids[:count], [row["teacher_prompt_ids"] for row in rows]
    responses = _responses(case, prompts, dtype=args.dtype, seed=args.seed)
    knobs = {"temperature": case.config.actor_rollout_ref.rollout.temperature, "dtype": args.dtype}
    model = case.config.actor_rollout_ref.model.path
    student, _ = score(model, prompts, responses, **knobs)
    teacher, entropy = score(str(taught_by or model), privileged, responses, **knobs)
    scored = {"student_log_probs": student, "teacher_log_probs": teacher, "teacher_entropy": entropy}
    parts = []
    for start in range(0, count, BATCH):
        part = slice(start, min(start + BATCH, count))
        scores = {name: column[part] for name, column in scored.items()}
        data = _batch(case, rows[part], prompts[part], privileged[part], responses[part], scores)
        data["uid"] = NonTensorStack(*map(str, range(part.start, part.stop)))  # an index is not in everyone's rows
        parts.append(_table(data, case, egrsd))
    folder = args.out / "tokens"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.concat_tables(parts), folder / "step_0.parquet")
    return args.out


@torch.inference_mode()
def score(
    model: str, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], *, temperature: float, dtype: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Log-prob and entropy of every response token under that model, nats, float32: B of (T,) each, row by row.

    Raises:
        TypeError: if the model's logits are more than its head's product.
    """
    device = get_device_name()
    network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
    network.to(device).eval()
    require_plain_head(network, torch.arange(PROBED_TOKENS, device=device)[None])
    head, log_probs, entropies = network.get_output_embeddings(), [], []
    for prompt, response in tqdm(zip(prompts, responses, strict=True), total=len(prompts), desc="scoring"):
        ids = torch.tensor([[*prompt, *response]], device=device)

        def in_the_head(hidden: Tensor, first: int = len(prompt), ids: Tensor = ids) -> Tensor:
            labels, knobs = ids[0, first:], {"temperature": temperature, "also": Entropy()}
            return head_scores(hidden[0, first - 1 : -1], head.weight, head.bias, labels, **knobs)[None]

        with scoring_head(head, in_the_head):
            scores = network(input_ids=ids).logits[0].cpu()
        log_probs.append(scores[:, 0])
        entropies.append(scores[:, 1])
    return log_probs, entropies


def _asked(args: argparse.Namespace) -> tuple[Case, EgrsdConfig]:
    """The model and its rows, and the settings. Raises as ``sample``."""
    # In quotes, as a folder's name may hold what means something to hydra, such as lr=1e-5.
    words = [f"actor_rollout_ref.model.path='{args.model}'"]
    words += [f"data.{split}_files='{args.data}'" for split in ("train", "val")]
    case = Case(composed(["algorithm=cl_egrsd", f"{ENGINE_GPUS}=1", *words, *args.overrides]), gpu_gib=0.0)
    egrsd = validation.validate(case.config)
    reward = case.config.reward.custom_reward_function.path
    if reward != OUR_REWARD:
        raise ValueError(f"reward.custom_reward_function.path={reward} is not asked here; drop it, for our checker.")
    case.load_model(weights=True)
    case.load_rows()
    if case.rows.kind.known_in_step:
        raise ValueError(
            f"algorithm.egrsd.privilege={egrsd.privilege} shows what a training step knows alone; name another."
        )
    return case, egrsd


def _responses(case: Case, prompts: Sequence[list[int]], *, dtype: str, seed: int) -> list[list[int]]:
    """One of each prompt, sampled as a run would, in the order of the prompts."""
    rollout = case.config.actor_rollout_ref.rollout
    path, tensor_parallel = case.config.actor_rollout_ref.model.path, rollout.tensor_model_parallel_size
    visible = len(visible_devices())
    if tensor_parallel > visible:
        raise ValueError(
            f"{ENGINE_GPUS}={tensor_parallel} needs {tensor_parallel} GPUs for one engine; {visible} visible."
        )
    loading = Loading(path, None, 0, dtype, seed, tensor_parallel)
    sampling = Sampling(rollout.temperature, rollout.top_p, max(0, rollout.top_k), case.config.data.max_response_length)
    requests = [Request(number, list(ids), seed + number) for number, ids in enumerate(prompts)]
    with closing(generate(requests, loading, sampling)) as found:
        answers = {answer.number: answer.tokens for answer in tqdm(found, total=len(requests), desc="generating")}
    return [answers[number] for number in range(len(requests))]


def _batch(case: Case, rows: Sequence[dict], prompts: Any, privileged: Any, responses: Any, scores: Any) -> TensorDict:
    """What a step of training would hand to watch/tokens.py, its advantages those of the paper's first steps."""
    ids = [torch.tensor(response) for response in responses]
    rewards = list(_rewards(case, rows, responses))
    columns = {
        "prompts": [torch.tensor(prompt) for prompt in prompts],
        "responses": ids,
        "response_mask": [torch.ones_like(row) for row in ids],
        "teacher_mask": [torch.ones_like(row) for row in ids],
        "rm_scores": [torch.eye(len(row))[-1] * reward for row, reward in zip(ids, rewards, strict=True)],
        "advantages": [torch.full((len(row),), r - WARMUP_MEAN) for row, r in zip(ids, rewards, strict=True)],
        **scores,
    }
    data = TensorDict({name: nested(column) for name, column in columns.items()}, batch_size=len(ids))
    data["extra_info"] = NonTensorStack(*(row.get("extra_info") or {} for row in rows))
    data["teacher_prompt_ids"] = NonTensorStack(*map(list, privileged))
    return data


def _rewards(case: Case, rows: Sequence[dict], responses: Sequence[list[int]]) -> Iterator[float]:
    for row, response in zip(rows, responses, strict=True):
        text = case.tokenizer.decode(response, skip_special_tokens=True)
        yield float(compute_score(row["data_source"], text, row["reward_model"]["ground_truth"])["score"])


def _table(data: TensorDict, case: Case, egrsd: EgrsdConfig) -> pa.Table:
    entropy, mask = (data[name].to_padded_tensor(0) for name in ("teacher_entropy", "teacher_mask"))
    settings = {"egrsd": egrsd, "mixing": egrsd.mixing_at(1), **of_batch(egrsd, entropy, mask.bool())}
    return tokens.table(data, step=0, tokenizer=case.tokenizer, **settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipe.egrsd.report mechanism",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="FOLDER", help="the student, and the teacher's weights")
    add("--teacher", metavar="FOLDER", help="other weights for the teacher: what the student was trained from")
    add("--data", required=True, type=Path, metavar="FILE", help="training rows, of prepare_data or in its format")
    add("--out", required=True, type=Path, metavar="FOLDER")
    add("--responses", type=int, default=128, metavar="N", help="to the first N rows, one each (default 128)")
    add("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="of the model (default bfloat16)")
    add("--seed", type=int, default=0)
    add("overrides", nargs="*", metavar="KEY=VALUE", help="keys of main_ppo")
    return parser
