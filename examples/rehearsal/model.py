"""A small Qwen3 that keeps what makes a real one hard: tied embeddings, grouped queries, a head of 151,936 tokens, bf16
on disk.

It is taught the form of an answer and no arithmetic, so that its responses end, differ in length, are right about half
of the time, and are certain at some tokens and not at others. Its logits reach 16 and more, as those of a pretrained
model do.
"""

import argparse
import math
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from examples.rehearsal.problems import Problem, make_problems
from examples.tiny_cpu.model import END_OF_TURN, THREADS, learned_tokenizer, save
from examples.tiny_cpu.warm_start import optimizers, share_of_lr
from recipe.egrsd.privilege.prompts import prompt_ids, teacher_messages

VOCABULARY = 151_936  # of every Qwen3; the tokenizer knows fewer, as Qwen's own does
INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."
CHAT_TEMPLATE = Path(__file__).with_name("qwen3_chat_template.jinja")
STEPS, ROWS = 120, 16


def messages(problem: Problem) -> list[dict]:
    """As prepare_data writes them."""
    return [{"role": "user", "content": f"{problem.text}\n\n{INSTRUCTION}"}]


def build_tokenizer() -> PreTrainedTokenizerBase:
    """Qwen's rules and special tokens, with merges learned from privileged prompts."""
    problems = make_problems("train", 200, seed=1) + make_problems("test", 50, seed=1)
    texts = [teacher_messages(messages(p), p.solution, instruction=INSTRUCTION)[-1]["content"] for p in problems]
    return learned_tokenizer([*texts, "user\n", "assistant\n\n\n"], chat_template=CHAT_TEMPLATE.read_text())


def build_model(tokenizer: PreTrainedTokenizerBase, *, vocabulary: int) -> Qwen3ForCausalLM:
    """Random float32 weights."""
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # 4 x 32 is not the hidden size, as in Qwen3-0.6B
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


def example(tokenizer: PreTrainedTokenizerBase, problem: Problem, rng: random.Random) -> tuple[list[int], int]:
    """Prompt and response as token ids, and the prompt's length: the student's prompt or, as often, the teacher's."""
    if rng.random() < 0.5:
        prompt = prompt_ids(tokenizer, messages(problem), enable_thinking=False)
    else:
        privileged = teacher_messages(messages(problem), problem.solution, instruction=INSTRUCTION)
        prompt = prompt_ids(tokenizer, privileged, enable_thinking=True)
    return prompt + tokenizer.encode(problem.conclusion + END_OF_TURN, add_special_tokens=False), len(prompt)


def train(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> None:
    """Cross-entropy over the tokenizer's tokens and one more that stands for all others of the large vocabulary.

    Their rows will be nearly 0, and so will their logits; together they weigh as one logit of log(their number). Ten
    times that is held against them here, so that none is sampled.
    """
    rng, problems = random.Random(seed), iter(make_problems("train", STEPS * ROWS, seed=seed + 2))
    steppers = optimizers(model)
    others = math.log(10 * (VOCABULARY - model.config.vocab_size))
    for step in range(STEPS):
        rows = [example(tokenizer, next(problems), rng) for _ in range(ROWS)]
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
        labels = torch.tensor([[-100] * start + ids[start:] + [-100] * (width - len(ids)) for ids, start in rows])[
            :, 1:
        ]
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]  # causal: no real token sees the padding
        logits = F.pad(logits, (0, 1), value=others)
        F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100).backward()
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * share_of_lr(step, steps=STEPS)
            stepper.step()
            stepper.zero_grad()


def enlarged(small: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    """The same model in bfloat16 with a row for every token of the large vocabulary."""
    large = build_model(tokenizer, vocabulary=VOCABULARY)
    weights = small.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        others = torch.randn(VOCABULARY - len(weights[name]), weights[name].size(1)) * 0.01
        weights[name] = torch.cat([weights[name], others])
    large.load_state_dict(weights)
    return large.to(torch.bfloat16)


def write_model(folder: Path, *, seed: int = 0) -> None:
    """Builds, trains and saves it as a Hugging Face folder: about 20 seconds, 20 MB."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, vocabulary=len(tokenizer))
    train(model, tokenizer, seed=seed)
    save(enlarged(model, tokenizer), tokenizer, folder)


def main() -> None:
    """Writes the model."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    write_model(parser.parse_args().out)


if __name__ == "__main__":
    main()
