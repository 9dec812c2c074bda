"""A tiny Qwen3 with random weights and a tokenizer of its own, saved as an ordinary Hugging Face folder.

The classes are the ones that real Qwen3 folders name (Qwen3ForCausalLM, Qwen2Tokenizer), so transformers, verl and vLLM
load the folder like any other Qwen3.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AddedToken,
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from examples.tiny_cpu.task import INSTRUCTION, TASKS, Problem, make_problems, reference_solution
from recipe.egrsd.privilege.prompts import prompt_ids, teacher_messages

TEACHER_TEMPLATE = Path(__file__).with_name("teacher_prompt.jinja")
CONCISE_TEMPLATE = Path(__file__).with_name("concise_prompt.jinja")
STUDENT_THINKING = False
# With thinking allowed, Qwen3's template writes no think block and leaves the start of the answer to the model. The
# warm start teaches it to answer at once, so the teacher scores a response where it would write its own. It is also
# the recipe's default, and four tokens shorter.
TEACHER_THINKING = True

THREADS = 2  # of torch; fixed, because the order of a sum, and with it the result, depends on it

END_OF_TURN, PADDING = "<|im_end|>", "<|endoftext|>"
VOCABULARY = 512  # an upper bound; the task has words for fewer

# Qwen3's template without tools: a chat that is to be answered without thinking gets an empty think block.
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' }}{{ message.role }}{{ '\\n' }}{{ message.content }}{{ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""


def student_prompt(tokenizer: Any, problem: Problem) -> list[int]:
    """Token ids of the problem alone, as verl builds them from a data row."""
    return prompt_ids(tokenizer, problem.messages, enable_thinking=STUDENT_THINKING)


def teacher_prompt(tokenizer: Any, problem: Problem) -> list[int]:
    """Token ids of the privileged prompt, as the recipe builds them for a data row."""
    return prompt_ids(tokenizer, _privileged(problem, reference_solution(problem)), enable_thinking=TEACHER_THINKING)


def concise_prompt(tokenizer: Any, problem: Problem) -> list[int]:
    """Token ids of the prompt of a teacher who sees no solution and is told to be concise."""
    messages = _privileged(problem, reference_solution(problem), template=CONCISE_TEMPLATE)
    return prompt_ids(tokenizer, messages, enable_thinking=TEACHER_THINKING)


PROMPTS = {"student": student_prompt, "teacher": teacher_prompt, "concise": concise_prompt}


def _privileged(problem: Problem, solution: str, template: Path = TEACHER_TEMPLATE) -> list[dict]:
    return teacher_messages(problem.messages, solution, instruction=INSTRUCTION, template=template)


def build_tokenizer(seed: int = 0, task: str = "addition") -> PreTrainedTokenizerBase:
    """Qwen's tokenizer (bytes, digits one by one) with merges learned from texts of the task."""
    rng = random.Random(seed)
    texts = []
    for problem in make_problems("warm_start", 500, seed=seed, task=task):
        messages = _privileged(problem, problem.solve(rng, check=problem.CHECK))
        texts += ["user\n", "assistant\n\n\n", messages[-1]["content"]]
    return learned_tokenizer(texts, chat_template=CHAT_TEMPLATE)


def learned_tokenizer(texts: Sequence[str], *, chat_template: str) -> PreTrainedTokenizerBase:
    """Qwen's rules and special tokens; at most VOCABULARY tokens and the special ones, learned from the texts."""
    # Qwen2Tokenizer brings the rules that split a text into words; the pieces inside words are learned here.
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()  # every byte is a token, so no text is unreadable
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    learned = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(merge) for merge in learned["merges"]],
        unk_token=PADDING,
        eos_token=END_OF_TURN,
        pad_token=PADDING,
        extra_special_tokens=["<|im_start|>"],
    )
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ("<think>", "</think>")])
    tokenizer.chat_template = chat_template
    return tokenizer


def build_model(tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> Qwen3ForCausalLM:
    """A float32 Qwen3 of about half a million parameters with random weights."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,  # vLLM's CPU attention refuses 16
        max_position_embeddings=640,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes the Hugging Face folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Writes a model with random weights and prints one problem's prompts with their lengths."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--task", choices=TASKS, default="addition")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tokenizer = build_tokenizer(args.seed, args.task)
    model = build_model(tokenizer, args.seed)
    save(model, tokenizer, args.out)
    problem = make_problems("validation", 1, seed=args.seed, task=args.task)[0]
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens in the vocabulary")
    for name, prompt in PROMPTS.items():
        ids = prompt(tokenizer, problem)
        print(f"--- {name}: {len(ids)} tokens\n{tokenizer.decode(ids)}")


if __name__ == "__main__":
    main()
