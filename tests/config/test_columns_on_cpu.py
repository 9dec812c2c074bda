"""What the files of a run lack is said before Ray: rows for one batch, columns that the reward asks for, a loop that
uses the tools."""

import pyarrow.parquet as pq
import pytest
from composing import composed
from rows import write
from verl.trainer.ppo.v1 import PPOTrainer

from recipe.egrsd.config import schema
from recipe.egrsd.privilege import columns
from recipe.egrsd.trainer import EgrsdSync

TOOLS = "actor_rollout_ref.rollout.multi_turn.function_tool_path=tools.py"
OWN_CLASS = "data.custom_cls.path=mine.py"
LOOP = "actor_rollout_ref.rollout.agent.default_agent_loop"


@pytest.fixture
def check(tmp_path):
    """Looks at two files of six rows, after these columns were dropped from them."""

    def checked(*overrides: str, train: tuple[str, ...] = (), val: tuple[str, ...] = (), agents: bool = False) -> None:
        paths = [write(tmp_path / f"{name}.parquet") for name in ("train", "val")]
        for path, dropped in zip(paths, (train, val), strict=True):
            table = pq.read_table(path).drop_columns(list(dropped))
            pq.write_table(table.append_column("agent_name", [["tool_agent"] * 6]) if agents else table, path)
        files = [f"data.{name}_files={path}" for name, path in zip(("train", "val"), paths, strict=True)]
        config = composed(*files, "data.train_batch_size=6", *overrides)
        columns.check(config, schema.read(config.algorithm.egrsd))

    return checked


def test_the_rows_that_filtering_leaves_make_a_batch(monkeypatch, capsys):
    """The trainer counts them before it starts models and vLLM, and the steps that they make."""
    monkeypatch.setattr(PPOTrainer, "_init_dataloader", lambda self: None)
    trainer = object.__new__(EgrsdSync)
    trainer.config = composed("data.train_batch_size=4", "trainer.total_epochs=3")
    trainer.train_dataset = [{"teacher_prompt_ids": [1]}] * 3
    with pytest.raises(ValueError, match=r"has 3 rows left after filtering, fewer than data.train_batch_size=4, so"):
        trainer._init_dataloader()
    trainer.config.data.train_batch_size = 3
    trainer._init_dataloader()
    assert not capsys.readouterr().out
    trainer.config.trainer.total_training_steps = 4
    trainer._init_dataloader()
    assert capsys.readouterr().out.startswith(
        "trainer.total_epochs=3 ends the run after 3 of trainer.total_training_st"
    )


REFUSED = [
    (["data.train_batch_size=8"], {}, "data.train_files has 6 rows, fewer than data.train_batch_size=8, so that verl"),
    (["data.train_max_samples=4"], {}, "data.train_files has 4 rows (data.train_max_sample"),
    ([], {"train": ("data_source",)}, "train.parquet has no data_source, which every reward is asked with; add it"),
    ([], {"train": ("reward_model",)}, "train.parquet has no reward_model.ground_truth, which every reward is asked w"),
    ([], {"val": ("reward_model",)}, "data.val_files="),
    (["reward.reward_model.enable=true"], {"train": ("data_source",)}, "train.parquet has no data_source"),
    ([TOOLS], {}, f"are told to the teacher alone: {LOOP}=single_turn_agent tells the student of none, and"),
]


@pytest.mark.parametrize(("overrides", "dropped", "said"), REFUSED)
def test_what_the_files_lack_is_named(check, overrides, dropped, said):
    with pytest.raises(ValueError, match=r".") as refused:
        check(*overrides, **dropped)
    assert said in str(refused.value) and str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("overrides", "files"),
    [
        ([], {}),
        ([OWN_CLASS, "data.train_batch_size=8"], {"train": ("data_source",)}),  # a class that may add both
        (["trainer.val_before_train=false", "trainer.test_freq=-1"], {"val": ("data_source",)}),  # not rolled out
        (["reward.reward_manager.source=importlib"], {"train": ("data_source",)}),  # of the user's own
        # verl's own question to a reward model holds the chat alone (reward_loop.py:compute_score_disrm)
        (["reward.reward_model.enable=true", "reward.custom_reward_function.path=null"], {"val": ("reward_model",)}),
        ([TOOLS, f"{LOOP}=tool_agent"], {}),
        ([TOOLS], {"agents": True}),
    ],
)
def test_what_a_run_can_do_without_is_let_through(check, overrides, files):
    check(*overrides, **files)
