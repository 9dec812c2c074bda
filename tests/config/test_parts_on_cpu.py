"""The parts that a config names are looked up before Ray: what is not there, or cannot work with EGRSD, is refused
by its key."""

import re
from pathlib import Path

import composing
import pytest
from inputs import write_inputs
from omegaconf import DictConfig
from runs import ROOT, command

from recipe.egrsd import parts
from recipe.egrsd.config import validation
from recipe.egrsd.doctor.__main__ import main

FUNCTION = "reward.custom_reward_function"
ADVANTAGE = "algorithm.egrsd.advantage"
OVERLONG = "+reward.reward_kwargs.overlong_buffer_cfg.enable=true +reward.reward_kwargs.max_resp_len=512"
AGENT, TURNS = "actor_rollout_ref.rollout.agent", "actor_rollout_ref.rollout.multi_turn"
NONE_DOWN = (
    "fails on two groups of made-up rewards: it pushes no response down with actor_rollout_ref.rollout.n=1: it "
    "compares the responses to a problem; set rollout.n to 2 or more"
)
CONTRASTING = (
    "algorithm.egrsd.privilege=peer_contrast algorithm.egrsd.contrast.strength=0.5 actor_rollout_ref.rollout.n=8 "
    "algorithm.egrsd.token_weight=recipe.egrsd.method.evidence:"
)
AGGREGATED = "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean"
FILES = {
    "mine.py": """
        import torch
        from recipe.egrsd.privilege.dataset import EgrsdDataset
        from verl.utils.dataset.rl_dataset import RLHFDataset

        five = 5

        class Verls(RLHFDataset):
            pass

        class Silent(EgrsdDataset):
            def __getitem__(self, index):
                row = super().__getitem__(index)
                row.pop("teacher_prompt_ids", None)
                return row

        def score(**_):
            return 0.5
    """,
    "broken.py": "import nowhere_to_be_found\n",
    "forgets.jinja": "{{ problem }} {{ nothing_of_that_name }}",
    "open.jinja": "{{ problem",
    "tools.yaml": "tools: [{class_name: nowhere.Tool, config: {type: native}}]\n",
    "loops.yaml": "- {name: mine, _target_: nowhere.Loop}\n",
    "good_loops.yaml": (
        "- {name: mine, _target_: verl.experimental.agent_loop.single_turn_agent_loop.SingleTurnAgentLoop}\n"
    ),
}
REFUSED = {
    f"{ADVANTAGE}=typo": (
        "algorithm.egrsd.advantage=typo fails on two groups of made-up rewards: Unknown advantage estimator"
    ),
    f"{ADVANTAGE}=egrsd": "algorithm.egrsd.advantage=egrsd fails",
    f"{ADVANTAGE}=gae": "algorithm.egrsd.advantage=gae fails on two groups of made-up rewards: KeyError",
    f"{ADVANTAGE}=remax": "algorithm.egrsd.advantage=remax fails",
    f"{ADVANTAGE}=gdpo": "algorithm.egrsd.advantage=gdpo fails",
    f"{ADVANTAGE}=optimal_token_baseline": "algorithm.egrsd.advantage=optimal_token_baseline fails",
    f"{ADVANTAGE}=grpo_passk": "algorithm.egrsd.advantage=grpo_passk fails",  # n=1
    # n=1: A = r (core_algos.py:315), so that no response is pushed down
    **{f"{ADVANTAGE}={name}": f"advantage={name} {NONE_DOWN}" for name in ("grpo", "rloo", "opo", "gpg")},
    "reward.reward_manager.name=typo": "reward.reward_manager.name=typo cannot be loaded: Unknown reward manager: typo",
    "reward.reward_manager.source=importlib": "reward.reward_manager.name=naive cannot be loaded: AssertionError",
    f"{FUNCTION}.path={{}}/nowhere.py": "nowhere.py cannot be loaded: FileNotFoundError",
    f"{FUNCTION}.path={{}}/broken.py": "broken.py cannot be loaded: ",
    f"{FUNCTION}.path={{}}/mine.py {FUNCTION}.name=typo": "mine.py cannot be loaded: AttributeError: ",
    f"{FUNCTION}.path={{}}/mine.py {FUNCTION}.name=five": "mine.py cannot be loaded: TypeError: five is no function",
    "data.custom_cls.path={}/mine.py data.custom_cls.name=Verls": "data.custom_cls.name=Verls is no EgrsdDataset",
    "data.custom_cls.path=null": "is no EgrsdDataset",
    "data.custom_cls.path={}/mine.py data.custom_cls.name=typo": "mine.py cannot be loaded: AttributeError: ",
    "custom_reward_function.path=mine.py": (
        "custom_reward_function.path=mine.py is an old key, which verl's main_ppo does not read; say "
        "reward.custom_reward_function.path=mine.py instead"
    ),
    "reward_model.reward_manager=dapo": "main_ppo does not read; say reward.reward_manager.name=dapo instead",
    "+reward_model.reward_kwargs.overlong_buffer_cfg.enable=true": (
        "say reward.reward_kwargs.overlong_buffer_cfg.enable=true"
    ),
    "reward_model.enable=False reward_model.reward_manager=dapo": (
        "reward_model.reward_manager=dapo is an old key, which verl's main_ppo does not read; say "
        "reward.reward_manager.name=dapo instead"
    ),
    "reward_model.enable=True": "reward_model.enable=true is an old key, which verl's main_ppo does not read",
    "reward_model.model.trust_remote_code=False": "trust_remote_code=false is an old key",  # that verl moves nowhere
    "sandbox_fusion.url=http://x": "say reward.sandbox_fusion.url=http://x instead",
    f"reward.reward_manager.name=dapo {OVERLONG}": (
        "overlong_buffer_cfg.enable=true gives rewards other than 0 and 1, which algorithm.egrsd.length_bonus=0.5"
    ),
    f"reward.reward_model.enable=true {FUNCTION}.path=null": (
        "reward.reward_model.enable=true gives rewards other than 0 and 1"
    ),
    "actor_rollout_ref.rollout.name=sglang": "actor_rollout_ref.rollout.name=sglang is not supported by EGRSD",
    "actor_rollout_ref.rollout.name=hf": "actor_rollout_ref.rollout.name=hf is not supported by EGRSD",
    "algorithm.filter_groups.enable=true": (
        "algorithm.filter_groups.enable=true keeps only groups with different rewards"
    ),
    f"{TURNS}.tool_config_path={{}}/nowhere.yaml": "nowhere.yaml cannot be loaded: FileNotFoundError",
    f"{TURNS}.tool_config_path={{}}/tools.yaml": "tools.yaml cannot be loaded: ",
    f"{TURNS}.function_tool_path={{}}/nowhere.py": "multi_turn.function_tool_path=",
    f"{AGENT}.agent_loop_config_path={{}}/nowhere.yaml": "agent_loop_config_path=",
    f"{AGENT}.agent_loop_config_path={{}}/loops.yaml": "loops.yaml cannot be loaded: ImportError",
    f"{AGENT}.default_agent_loop=typo": (
        "default_agent_loop=typo cannot be loaded: typo is none of ['single_turn_agent',"
    ),
    f"+{AGENT}.agent_loop_manager_class=nowhere.Manager": "agent_loop_manager_class=nowhere.Manager cannot be loaded",
    "+trainer.v1.sampler.custom_sampler={{path:{}/mine.py,name:typo}}": "custom_sampler.path=",
    "algorithm.egrsd.teacher.template={}/forgets.jinja": "UndefinedError: 'nothing_of_that_name' is undefined",
    f"{CONTRASTING}tanh_evidence {AGGREGATED}": (
        "tanh_evidence reads modulated_frac, a share of the batch's tokens, and "
        "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean takes another mean; set that to token-mean"
    ),
    "algorithm.egrsd.teacher.template={}/open.jinja": "open.jinja cannot be used: TemplateSyntaxError",
}
ALLOWED = [
    # old keys, as the scripts of verl's own examples type them, that say what holds anyway
    "reward_model.enable=False",
    "reward_model.reward_manager=naive reward_model.num_workers=8 reward_model.enable_resource_pool=False",
    *(f"{ADVANTAGE}={name} actor_rollout_ref.rollout.n=4" for name in ("grpo", "rloo", "opo", "gpg", "grpo_passk")),
    f"{ADVANTAGE}=reinforce_plus_plus",  # the whole batch is compared
    f"{ADVANTAGE}=reinforce_plus_plus_baseline",
    f"{CONTRASTING}clipped_evidence {AGGREGATED}",
    f"{FUNCTION}.path={{}}/mine.py {FUNCTION}.name=score",
    f"reward.reward_manager.name=dapo {OVERLONG} algorithm.egrsd.length_bonus=0",
    "reward.reward_manager.name=dapo",
    "data.custom_cls.path={}/mine.py data.custom_cls.name=Silent",  # its rows are looked at when there are some
    f"{AGENT}.agent_loop_config_path={{}}/good_loops.yaml {AGENT}.default_agent_loop=mine",
    f"{AGENT}.default_agent_loop=tool_agent",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    for name, text in FILES.items():
        (folder / name).write_text(re.sub(r"^        ", "", text, flags=re.M).lstrip("\n"))
    write_inputs(folder, train=4)
    return folder


def composed(folder: Path, overrides: str) -> DictConfig:
    return composing.composed(*overrides.format(*[folder] * 9).split(" "))


@pytest.mark.parametrize("overrides", REFUSED)
def test_a_part_is_looked_up_when_it_is_named(overrides, folder):
    config = composed(folder, overrides)
    egrsd = validation.validate(config)
    with pytest.raises(ValueError, match=r".") as refused:
        parts.check(config, egrsd)
    assert REFUSED[overrides] in str(refused.value) and str(refused.value).isprintable()


@pytest.mark.parametrize("overrides", ALLOWED)
def test_what_works_is_let_through(overrides, folder):
    config = composed(folder, overrides)
    parts.check(config, validation.validate(config))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("data.custom_cls.path={}/mine.py data.custom_cls.name=Verls", "is no EgrsdDataset"),
        ("data.custom_cls.path={}/mine.py data.custom_cls.name=Silent", "have no teacher_prompt_ids"),
        ("custom_reward_function.path=mine.py", "is an old key"),
        (f"{FUNCTION}.path={{}}/mine.py {FUNCTION}.name=score", "row 0 scores 0.5: rewards other than 0 and 1 need"),
        (
            "data.seed=${{nowhere}}",
            "main_ppo refuses these overrides: data.seed: Interpolation key 'nowhere' not found.",
        ),
    ],
)
def test_the_doctor_says_the_same(overrides, said, folder, capsys):
    own = ["data.filter_overlong_prompts_workers=null", *overrides.format(*[folder] * 9).split(" ")]
    assert main(command(folder, folder, own)[3:]) == 1
    assert said in " ".join(capsys.readouterr().out.split())


def test_the_documented_feedback(folder, tmp_path, capsys):
    """The function of docs/modes.md that says something, as it stands there."""
    blocks = re.findall(r"\n((?:    .*\n)+)", (ROOT / "docs/modes.md").read_text())
    source = next(block for block in blocks if '"feedback"' in block)
    (tmp_path / "my_reward.py").write_text(re.sub(r"^    ", "", source, flags=re.M))
    own = ["algorithm.egrsd.privilege=feedback", f"{FUNCTION}.path={tmp_path}/my_reward.py"]
    own += ["algorithm.egrsd.teacher.template=null", "algorithm.egrsd.teacher.max_prompt_length=450"]
    own += ["data.filter_overlong_prompts_workers=null"]
    status = main(command(folder, tmp_path, own)[3:])
    screen = " ".join(capsys.readouterr().out.split())
    assert status == 0, screen
    assert 'is nowhere in the answer."; of a right one nothing;' in screen


def test_the_documented_data_set_and_reward_function(folder, tmp_path, capsys):
    """The two files of docs/modes.md, as they stand there."""
    blocks = re.findall(r"\n((?:    .*\n|\n)+)", (ROOT / "docs/modes.md").read_text())
    sources = [re.sub(r"^    ", "", block, flags=re.M) for block in blocks if "import" in block and "def " in block]
    for name, source in zip(("my_rows.py", "my_reward.py"), sources, strict=True):
        (tmp_path / name).write_text(source)
    own = [f"data.custom_cls.path={tmp_path}/my_rows.py", "data.custom_cls.name=MyRows"]
    own += [f"{FUNCTION}.path={tmp_path}/my_reward.py"]
    status = main(command(folder, tmp_path, own)[3:])  # verl's default: a process for each map
    screen = " ".join(capsys.readouterr().out.split())
    assert status == 0, screen
    assert "2 rows to train on" in screen  # its filter
    assert "2 of the first 2 solutions are accepted" in screen
