"""Memory and time of a step on paper: ours and verl's GRPO, Qwen3-4B and 8B, 1 to 8 GPUs. Everything here is computed.

    PYTHONPATH=.:tests/support python benchmarks/step_on_paper.py [--tflops 400] [--privileged 3072]

Memory is the doctor's (recipe/egrsd/doctor/memory.py) for the longest rows that the settings allow, GiB a GPU while the
student is trained and while it or the teacher is scored; verl's GRPO is the same engine with score_student=always, by
flash-attn's cross entropy and without it. Time is the cost model's (cost_model.py) for rows of usual length, without
generation and communication.
"""

import argparse
from copy import deepcopy
from functools import cache
from itertools import product
from types import SimpleNamespace

from composing import composed
from cost_model import MODELS, stages
from inputs import qwen3
from omegaconf import DictConfig, OmegaConf

from recipe.egrsd.doctor import memory
from recipe.egrsd.doctor.case import Case
from recipe.egrsd.doctor.shapes import shapes
from recipe.egrsd.machines import attention

ROWS, PROMPT, RESPONSE, SEQUENCE, TOKENS = 32, 2048, 1024, 20_000, 12_288  # examples/run_qwen3_fsdp.sh
RANK, GPUS = {"adapter": 64, "all": 0}, (1, 2, 4, 8)


@cache
def script() -> DictConfig:
    """Settings of the script, as far as memory depends on them."""
    return composed(
        f"data.train_batch_size={ROWS}", f"data.max_prompt_length={PROMPT}", f"data.max_response_length={RESPONSE}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={ROWS}", "trainer.nnodes=1",
        f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={TOKENS}",
        f"actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu={SEQUENCE}",
        f"actor_rollout_ref.ref.log_prob_max_token_len_per_gpu={SEQUENCE}",
        f"algorithm.egrsd.teacher.max_prompt_length={SEQUENCE - RESPONSE}",
    )  # fmt: skip


def case(size: str, trained: str, gpus: int, scored: str) -> Case:
    config = deepcopy(script())
    config.actor_rollout_ref.model.lora_rank, config.trainer.n_gpus_per_node = RANK[trained], gpus
    config.algorithm.egrsd.score_student = scored
    OmegaConf.resolve(config)
    plain = {"trust_remote_code": False, "enable_gradient_checkpointing": True, "lora_adapter_path": None}
    adapter = {"lora_rank": RANK[trained], "target_modules": "all-linear", "exclude_modules": None}
    return Case(config, gpu_gib=80, model=SimpleNamespace(hf_config=qwen3(size), **plain, **adapter))


def gib(built: Case, phase: str) -> float:
    """The largest of the phases whose names start so."""
    found = memory.phases(built, shapes(built.model))
    return max(sum(term.size for term in terms) / memory.GIB for name, terms in found.items() if name.startswith(phase))


def memories(size: str, trained: str, gpus: int) -> list[float]:
    """Update and teacher of ours; update and scoring of verl's, with flash-attn; its update without."""
    found = []
    for flash in (False, True):
        memory.find_spec = attention.find_spec = lambda package, there=flash: there or None
        ours, verls = (case(size, trained, gpus, scored) for scored in ("auto", "always"))
        if not flash:
            found = [gib(ours, "training"), gib(ours, "teacher"), gib(verls, "training")]
        else:
            found += [gib(verls, "training"), gib(verls, "verl's scoring")]
    return found


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=400.0, help="what a GPU reaches in bf16, not its peak")
    parser.add_argument("--privileged", type=int, default=3072, help="tokens of the usual privileged prompt")
    args = parser.parse_args()
    print(
        "| model | trained | GPUs | update | teacher | verl: update | without flash-attn | old_log_prob | s | verl: s |"
    )
    print("|---" * 10 + "|")
    lengths = {"rows": ROWS, "prompt": 200, "response": RESPONSE, "privileged": args.privileged, "group": 1}
    for model, trained, gpus in product(MODELS, RANK, GPUS):
        update, teacher, bare, flash, scoring = memories(model.name.removeprefix("Qwen3-"), trained, gpus)
        flops = stages(model, **lengths, trained=trained)
        sums = (flops["update"] + flops["teacher"], flops["update, verl"] + flops["old_log_prob"])
        seconds = " | ".join(f"{flops / gpus / args.tflops / 1e12:.1f}" for flops in sums)
        sizes = " | ".join(f"{size:.0f}" for size in (update, teacher, flash, bare, scoring))
        print(f"| {model.name} | {trained} | {gpus} | {sizes} | {seconds} |")


if __name__ == "__main__":
    main()
