"""What a teacher reads in a whole run: a response as it is shown, and what stands around it in the prompt."""

import json
from pathlib import Path

import fixed_rollouts
import jinja2
import pyarrow.parquet as pq

from examples.tiny_cpu import model as tiny
from examples.tiny_cpu.task import INSTRUCTION
from recipe.egrsd.privilege.prompts import SLOT


def shown(response: list[int], end: set[int]) -> list[int]:
    """Without its end; nothing if a control token stands elsewhere."""
    while response and response[-1] in end:
        response = response[:-1]
    return [] if end & set(response) else response


def recorded_for_peers(inputs: Path) -> str:
    """The committed rollouts for a teacher that is shown other responses: with a slot in its prompts, and solutions."""
    known, steps = frames(inputs), json.loads(fixed_rollouts.FILE.read_text())
    for row in (row for step in steps.values() for row in step["rows"]):
        before, behind, solution = known[tuple(row["fields"]["prompts"])]
        row["fields"] |= {"teacher_prompt_ids": [*before, SLOT, *behind], "teacher_solution_ids": solution}
    return json.dumps(steps)


def frames(inputs: Path) -> dict[tuple[int, ...], tuple[list[int], list[int], list[int]]]:
    """Student's prompt -> what stands before and behind a guide in the teacher's, and the solution; token ids."""
    tokenizer, template = tiny.build_tokenizer(), jinja2.Template(Path(tiny.TEACHER_TEMPLATE).read_text())

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    found = {}
    for row in pq.read_table(inputs / "train.parquet").to_pylist():
        chat = {"add_generation_prompt": True, "tokenize": False}
        student = tokenizer.apply_chat_template(row["prompt"], enable_thinking=False, **chat)
        problem = row["prompt"][-1]["content"].removesuffix(INSTRUCTION).rstrip()
        text = template.render(problem=problem, solution="@@@", instruction=INSTRUCTION)
        teacher = tokenizer.apply_chat_template([{"role": "user", "content": text}], enable_thinking=True, **chat)
        before, behind = teacher.split("@@@")
        found[tuple(ids(student))] = ids(before), ids(behind), ids(row["extra_info"]["solution"])
    return found
