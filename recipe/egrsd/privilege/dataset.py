"""verl's RLHFDataset plus one column, ``teacher_prompt_ids``: the privileged prompt, templated and tokenised.

Training rows that cannot teach are refused when the data set is built. Validation rows need no solution and get no
column.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import datasets
from omegaconf import ListConfig
from verl.utils.dataset.rl_dataset import RLHFDataset

from recipe.egrsd.config import schema, validation
from recipe.egrsd.privilege import prompts, texts
from recipe.egrsd.privilege.columns import TOOLLESS_LOOP

SHOWN_ROWS = 5


class EgrsdDataset(RLHFDataset):
    """Adds ``teacher_prompt_ids`` (list of int) to every training row; where a peer's response or feedback is to be
    shown, SLOT of prompts.py stands in its place. Where the row's own solution or answer is a guide beside those of the
    step, ``teacher_solution_ids`` or ``teacher_answer_ids`` (list of int) holds it, empty without a solution.

    Raises:
        ValueError: at construction, naming row numbers and reasons, if a row has no usable solution or its teacher
            prompt exceeds algorithm.egrsd.teacher.max_prompt_length; or if prompts of the student, validation's too,
            exceed data.max_prompt_length. With data.filter_overlong_prompts=true such rows are dropped and counted
            instead.
    """

    def __init_subclass__(cls, **kwargs):
        """verl loads a file of the user's own without naming it in sys.modules, where map's processes look for its
        classes."""
        super().__init_subclass__(**kwargs)
        setattr(sys.modules.setdefault(cls.__module__, ModuleType(cls.__module__)), cls.__name__, cls)

    def __init__(self, data_files, tokenizer, config, processor=None, max_samples=-1):
        validation.check_entry(config.egrsd)
        self.teacher = schema.read_teacher(config.egrsd.teacher)
        self.privilege = config.egrsd.privilege
        self.kind = texts.KINDS[self.privilege]
        guides = [f"teacher_{self.kind.own_guide}_ids"] if self.kind.own_guide else []
        self.id_columns = ("teacher_prompt_ids", *guides)
        self.is_train = _paths(data_files) == _paths(config.train_files)
        super().__init__(data_files, tokenizer, config, processor=processor, max_samples=max_samples)

    def maybe_filter_out_long_prompts(self, dataframe=None):
        """verl's hook at the end of reading the files; the teacher's prompt is added before verl looks at the
        student's."""
        if self.is_train:
            dataframe = self._add_teacher_prompts(dataframe)
        if self.filter_overlong_prompts:
            return super().maybe_filter_out_long_prompts(dataframe)
        self.filter_overlong_prompts = True  # what verl would drop it would cut from the left (agent_loop.py:437)
        kept = super().maybe_filter_out_long_prompts(dataframe)
        self.filter_overlong_prompts = False
        if too_long := len(dataframe) - len(kept):
            raise ValueError(
                f"{too_long} of {len(dataframe)} {'training' if self.is_train else 'validation'} prompts have more "
                f"than data.max_prompt_length={self.max_prompt_length} tokens, and verl would cut their beginnings "
                "off; raise it, or set data.filter_overlong_prompts=true to drop such rows."
            )
        return kept

    def _add_teacher_prompts(self, dataframe):
        if self.kind.of_another_row:
            self.all_texts = [self._own_texts(row) for row in dataframe]
            self.told_apart_by = [shown.get(self.kind.variables[0], "") for shown in self.all_texts]
        added = dict.fromkeys(self.id_columns, datasets.Sequence(datasets.Value("int64"))) | {
            "egrsd_refusal": datasets.Value("string")
        }
        # No cache: its fingerprint would not notice an edited template. Types are given: the first thousand rows may
        # all be empty.
        dataframe = dataframe.map(
            self._teacher_prompt,
            with_indices=True,
            num_proc=self.num_workers,
            features=datasets.Features({**dataframe.features, **added}),
            load_from_cache_file=False,
            desc="Tokenising teacher prompts",
        )
        refusals = [(row, reason) for row, reason in enumerate(dataframe["egrsd_refusal"]) if reason]
        if refusals and not self.filter_overlong_prompts:
            raise ValueError(_describe(refusals, len(dataframe)))
        if refusals:
            print(
                f"EGRSD dropped {len(refusals)} of {len(dataframe)} training rows: "
                f"{dict(Counter(r for _, r in refusals))}"
            )
            refused = {row for row, _ in refusals}
            dataframe = dataframe.select([row for row in range(len(dataframe)) if row not in refused])
        return dataframe.remove_columns("egrsd_refusal")

    def _teacher_prompt(self, row: dict, index: int) -> dict:
        """One row -> its teacher prompt, or the reason why it has none."""
        try:
            ids = self._teacher_prompt_ids(row, index)
            columns = [ids, self._guide_ids(row, frame=ids)] if self.kind.own_guide else [ids]
            return dict(zip(self.id_columns, columns, strict=True)) | {"egrsd_refusal": ""}
        except texts.RowError as error:
            return {name: [] for name in self.id_columns} | {"egrsd_refusal": str(error)}

    def _own_texts(self, row: dict) -> dict[str, str]:
        """What the row has to show, or nothing if it cannot be used: then it is refused in its own turn."""
        try:
            return self._texts(row)
        except texts.RowError:
            return {}

    def _texts(self, row: dict) -> dict[str, str]:
        found = texts.shown_texts(row, privilege=self.privilege, teacher=self.teacher, prompt_key=self.prompt_key)
        for name, text in found.items():
            texts.refuse_control_tokens(self.tokenizer, text, where=f"the {name.replace('_', ' ')} to be shown")
        return found

    def _teacher_prompt_ids(self, row: dict, index: int) -> list[int]:
        for key in (self.image_key, self.video_key, self.audio_key):
            if row.get(key):
                raise texts.RowError(f"the row has {key}, of which the teacher would see nothing; EGRSD is for text")
        shown = self._texts(row)
        if self.kind.of_another_row:
            shown = self.all_texts[texts.another_row(self.told_apart_by, index)]
        messages = texts.user_chat(row.get(self.prompt_key))
        if self.privilege != "none":
            template = self.teacher.template or self.kind.path
            messages = prompts.teacher_messages(
                messages, instruction=self.teacher.instruction, template=template, **shown
            )
        chat_template = {**self.apply_chat_template_kwargs, "enable_thinking": self.teacher.enable_thinking}
        # The student's agent loop is told of them, too (tool_agent_loop.py:157), but for this one.
        if self.tool_schemas and row.get("agent_name") != TOOLLESS_LOOP:
            chosen = (row.get("extra_info") or {}).get("tool_selection")
            chat_template["tools"] = [
                tool for tool in self.tool_schemas if not chosen or tool["function"]["name"] in chosen
            ]
        if self.kind.known_in_step:
            return self._frame_ids(messages, **chat_template)
        ids = prompts.prompt_ids(self.tokenizer, messages, **chat_template)
        if len(ids) > self.teacher.max_prompt_length:
            raise texts.RowError(f"the teacher prompt has more than {self._limit} tokens")
        return ids

    def _frame_ids(self, messages: Sequence[Mapping], **chat_template) -> list[int]:
        """With room for what the step will know: a whole response, or at least some feedback."""
        ids = prompts.frame_ids(self.tokenizer, messages, variable=self.kind.variables[0], **chat_template)
        room, what = 1, f"the {self.kind.own_guide or 'feedback'}"
        if self.privilege in schema.PEER_PRIVILEGES:
            room = self.config.max_response_length
            what = f"a peer's response of up to data.max_response_length={room}"
        if len(ids) - 1 + room > self.teacher.max_prompt_length:
            raise texts.RowError(f"the {len(ids) - 1} tokens around {what} are more than {self._limit} leaves")
        return ids

    @property
    def _limit(self) -> str:
        return f"algorithm.egrsd.teacher.max_prompt_length={self.teacher.max_prompt_length}"

    def _guide_ids(self, row: dict, *, frame: list[int]) -> list[int]:
        what, where = self.kind.own_guide, "reward_model.ground_truth"
        if what == "solution":
            key = self.teacher.solution_key
            where = f"extra_info.{key}"
            if texts.lacks_solution(row.get("extra_info"), solution_key=key):
                return []
            text = texts.reference_solution(row["extra_info"], solution_key=key)
        else:
            text = texts.final_answer(row.get("reward_model"))
        texts.refuse_control_tokens(self.tokenizer, text, where=where)
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if len(frame) - 1 + len(ids) > self.teacher.max_prompt_length:
            raise texts.RowError(
                f"the {len(frame) - 1} tokens around {'a' if what == 'solution' else 'an'} {what} of {len(ids)} are "
                f"more than {self._limit}"
            )
        return ids


def check_rows(rows: Any) -> None:
    """ValueError if training rows have come without the teacher's prompts: a class of the user's own may drop the
    column."""
    if len(rows) and "teacher_prompt_ids" not in rows[0]:
        raise ValueError(
            f"the rows of data.custom_cls.name={type(rows).__name__} have no teacher_prompt_ids, so that the teacher "
            "has nothing to read; call super() in what it overrides of EgrsdDataset."
        )


def _paths(files) -> list[str]:
    return list(files) if isinstance(files, list | ListConfig) else [files]


def _describe(refusals: list[tuple[int, str]], total: int) -> str:
    rows = "\n".join(f"  row {row}: {reason}" for row, reason in refusals[:SHOWN_ROWS])
    more = f"\n  ... and {len(refusals) - SHOWN_ROWS} more" if len(refusals) > SHOWN_ROWS else ""
    return (
        f"EGRSD cannot use {len(refusals)} of {total} training rows:\n{rows}{more}\n"
        "Mend the rows, or set data.filter_overlong_prompts=true to drop and count them."
    )
