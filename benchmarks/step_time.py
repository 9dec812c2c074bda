"""A training step of EGRSD and CL-EGRSD against one of verl's own GRPO, through the real main_ppo on this machine's
CPU.

    PYTHONPATH=.:tests/support python benchmarks/step_time.py [--steps 4] [--methods egrsd opsd] [--out results.json]

For each shape and privilege a run that is not timed makes the rollouts, and all methods train on them, none having
generated anything itself. A model of 20 million parameters with random weights, student prompts of 64 tokens,
privileged ones of 256, or a response in its frame. What is compared is all between rollout and weight sync: verl's
timing_s of old_log_prob, adv (which holds the teacher) and update_actor. The first step warms up and is left out. GRPO
is verl's trainer, engine and loss
(tests/support/plain_grpo.py).
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from composing import settings
from runs import COIN_REWARD, good, replaying, run, run_plain_grpo
from transformers import Qwen3Config, Qwen3ForCausalLM

from examples.tiny_cpu import model as tiny
from examples.tiny_cpu.task import INSTRUCTION
from recipe.egrsd.privilege.prompts import prompt_ids, teacher_messages
from recipe.egrsd.teacher.rows import scoring_order

VOCABULARY = 32_000
PROMPT, PRIVILEGED, ROWS = 64, 256, 8
GUIDE_FRAME = 64
"""More than what stands around a response in a teacher's prompt."""
STAGES = ("old_log_prob", "adv", "update_actor")


def write_inputs(folder: Path, *, problems: int) -> int:
    """Model and rows whose prompts have exactly the lengths above; the number of parameters."""
    tokenizer = tiny.build_tokenizer()
    tokenizer.add_tokens([f"<{number}>" for number in range(VOCABULARY - len(tokenizer))])
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=1024, num_hidden_layers=12, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, dtype="float32",
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    tiny.save(model, tokenizer, folder / "model")

    def asked(problem: str) -> list[dict]:
        return [{"role": "user", "content": f"{problem}\n\n{INSTRUCTION}"}]

    def shown(problem: str, solution: str) -> list[int]:
        options = {"instruction": INSTRUCTION, "template": tiny.TEACHER_TEMPLATE}
        return prompt_ids(tokenizer, teacher_messages(asked(problem), solution, **options), enable_thinking=True)

    rows = []
    for number in range(problems):  # a digit is a token
        problem = f"{number:0{PROMPT + 1 - len(prompt_ids(tokenizer, asked('1'), enable_thinking=False))}d}"
        solution = "1" * (PRIVILEGED + 1 - len(shown(problem, "1")))
        lengths = len(prompt_ids(tokenizer, asked(problem), enable_thinking=False)), len(shown(problem, solution))
        assert lengths == (PROMPT, PRIVILEGED), lengths
        reward, extra = {"style": "rule", "ground_truth": "1"}, {"solution": solution}
        rows.append({"data_source": "digits", "prompt": asked(problem), "reward_model": reward, "extra_info": extra})
    for name in ("train", "val"):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return model.num_parameters()


def seconds(result, steps: int) -> list[dict[str, float]]:
    return [{stage: step[f"timing_s/{stage}"] for stage in STAGES} for step in result.metrics[1:steps]]


def measure(
    inputs: Path, folder: Path, *, response: int, group: int, steps: int, methods: list[str]
) -> dict[str, list[dict[str, float]]]:
    """Method -> seconds of the stages in each step."""
    longest = max(PRIVILEGED, PROMPT + GUIDE_FRAME + response)  # where a teacher is shown a response
    prompts, lengths = [[0] * PRIVILEGED] * group, [response] * group
    one_group = PRIVILEGED + group * response
    sharing = scoring_order(prompts, lengths, num_ranks=1, max_tokens=one_group)[1]
    shared = [
        *COIN_REWARD,
        f"data.train_batch_size={ROWS // group}", f"actor_rollout_ref.actor.ppo_mini_batch_size={ROWS // group}",
        f"actor_rollout_ref.rollout.n={group}", f"data.max_prompt_length={PROMPT}",
        f"data.max_response_length={response}", "actor_rollout_ref.rollout.ignore_eos=True",
        f"trainer.total_training_steps={steps}", "trainer.total_epochs=100",
        # A row at a time, or a group that shares its prompt: without flash attention, packed rows cost the square of
        # all tokens of a micro-batch.
        f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={PROMPT + response}",
        f"actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu={PROMPT + response}",
        f"actor_rollout_ref.ref.log_prob_max_token_len_per_gpu={max(one_group * bool(sharing), longest + response)}",
        "trainer.save_freq=-1",
        # All weights in one message: vLLM 0.29 refuses tied ones that come apart.
        "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=256",
    ]  # fmt: skip
    ours = [*shared, f"algorithm.egrsd.teacher.max_prompt_length={longest}", "algorithm.egrsd.score_student=auto"]
    times = {}
    for method in methods:
        # Rollouts are kept with what their teacher is shown: made once for each privilege.
        rollouts = folder / settings(method).privilege
        given = [*ours, *replaying(rollouts, list(range(1, steps + 1)))]
        if not rollouts.exists():
            good(run(inputs, folder / f"{method}_recorded", given, algorithm=method, EGRSD_PROBE=""))
        times[method] = seconds(good(run(inputs, folder / method, given, algorithm=method, EGRSD_PROBE="")), steps)
    given = [*shared, *replaying(folder / settings(methods[0]).privilege, list(range(1, steps + 1)))]
    return times | {"grpo": seconds(good(run_plain_grpo(inputs, folder / "grpo", given)), steps)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4, help="of each run, the first of which is left out")
    parser.add_argument("--responses", type=int, nargs="+", default=[128, 512], help="tokens")
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 4], help="rollouts of a prompt")
    parser.add_argument("--methods", nargs="+", default=["egrsd", "cl_egrsd"], help="presets")
    parser.add_argument("--out", type=Path, help="JSON file for every measured second")
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder)
        size = write_inputs(inputs, problems=ROWS * args.steps)
        print(
            f"{size:,} parameters, {ROWS} rows a step; medians of {args.steps - 1} steps, s, and extremes of the ratio"
        )
        print(
            "| response | n | method | old_log_prob | adv with teacher | update | step / GRPO "
            "|\n|---|---|---|---|---|---|---|"
        )
        for response in args.responses:
            for group in args.groups:
                where = inputs / f"{response}_{group}"
                times = measure(inputs, where, response=response, group=group, steps=args.steps, methods=args.methods)
                results[f"response={response} n={group}"] = times
                reference = median(sum(step.values()) for step in times["grpo"])
                for method, found in times.items():
                    ratios = sorted(sum(step.values()) / reference for step in found)
                    stages = " | ".join(f"{median(step[stage] for step in found):.2f}" for stage in STAGES)
                    spread = f"{median(ratios):.2f} ({ratios[0]:.2f} … {ratios[-1]:.2f})"
                    print(f"| {response} | {group} | {method} | {stages} | {spread} |", flush=True)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
