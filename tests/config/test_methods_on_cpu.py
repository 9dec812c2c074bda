"""What a method needs of a whole command: refused before Ray, by name, where it is missing; what the presets set.

The methods themselves: tests/method and tests/privilege, which compose no command.
"""

import pyarrow.parquet as pq
import pytest
from composing import composed, refusal_of
from inputs import write_inputs
from rows import write
from verl.utils.config import omega_conf_to_dataclass

from recipe.egrsd.config import schema
from recipe.egrsd.privilege import columns, prefix
from recipe.egrsd.privilege.prefix import MARK


@pytest.mark.parametrize(
    ("algorithm", "overrides", "said"),
    [
        ("egrsd", ["algorithm.egrsd.gate=median"], "gate=median is not available; choose from ('token', 'mean')"),
        ("egrsd_ungated", ["algorithm.egrsd.gate=mean"], "gate=mean means nothing to gamma=0 or floor=1"),
        ("egrsd_mean_gate", ["algorithm.egrsd.floor=1"], "gate=mean means nothing to gamma=0 or floor=1"),
        ("opsd", ["algorithm.egrsd.gate=mean"], "gate=mean means nothing to gamma=0 or floor=1"),
        ("egrsd_mean_gate", ["algorithm.egrsd.divergence=forward_kl"], "gamma=0.3 means nothing to algorithm.egrsd"),
        (
            "egrsd_mean_gate",
            ["algorithm.egrsd.token_weight=OWN:mine"],
            "my_weights.py:mine, which does not read it; leave it at token",
        ),
    ],
)
def test_where_there_is_no_gate_it_is_refused(algorithm, overrides, said, tmp_path):
    own = tmp_path / "my_weights.py"
    own.write_text("def mine(s, t, e, advantages, m, *, gamma):\n    return advantages * 0 + gamma\n")
    overrides = [word.replace("OWN", str(own)) for word in overrides]
    assert said in refusal_of(*overrides, algorithm=algorithm)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("", "reward.custom_reward_function.path=pkg://recipe.egrsd.reward says nothing; name a function of your own"),
        ("reward.custom_reward_function.path=null", "path=None says nothing; name a function of your own that returns"),
        (
            "reward.custom_reward_function.path=mine.py reward.reward_model.enable=true",
            "without enable_resource_pool scores a batch when all of it is there",
        ),
    ],
)
@pytest.mark.parametrize("privilege", ["feedback", "feedback_shuffled"])
def test_feedback(privilege, overrides, said):
    words = [f"algorithm.egrsd.privilege={privilege}", *overrides.split()]
    message = refusal_of(*words)
    assert f"algorithm.egrsd.privilege={privilege} shows" in message and said in message and message.isprintable()


WITHOUT_DIVERGENCE = " ".join(
    f"algorithm.egrsd.{key}=null" for key in ("divergence", "divergence_clip", "divergence_clip_low")
)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("actor_rollout_ref.rollout.n=1", "rollout.n=1 samples one; set rollout.n to 2 or more"),
        ("data.max_response_length=7681", "max_prompt_length=8192 cannot hold a problem and a response of up to 8193"),
        ("algorithm.egrsd.privilege=solution", "strength=3.0 means nothing but to privilege=peers; set it to 0"),
        ("algorithm.egrsd.steering.strength=0", "strength=0.0 steers nothing; set it, or use privilege=none"),
        ("algorithm.egrsd.steering.strength=-1", "strength=-1.0 would steer towards wrong answers; use >= 0"),
        ("algorithm.egrsd.steering.warmup_steps=0", "steering.warmup_steps=0 must be >= 1, or null"),
        (f"{WITHOUT_DIVERGENCE} algorithm.egrsd.pull.rows=all algorithm.egrsd.pull.tokens=null",
         "several prompts, which only a divergence can use; set algorithm.egrsd.divergence"),
        ("algorithm.egrsd.pull.policy_gradient=true algorithm.egrsd.clip_range=0.2",
         "several prompts, and no token weight can read that; set gamma and clip_range to 0 and drop token_weight"),
        ("+algorithm.egrsd.steering.power=2", "algorithm.egrsd.steering has unknown key(s) ['power']"),
    ],
)  # fmt: skip
def test_guides(overrides, said):
    message = refusal_of(*overrides.split(" "), algorithm="ogls_sd")
    assert said in message and message.isprintable()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("algorithm.egrsd.privilege=peer_correct", "rollout.n=1 samples one; set rollout.n to 2 or more"),
        ("algorithm.egrsd.privilege=peer_wrong", "privilege=peer_wrong shows the teacher another response"),
        ("algorithm.egrsd.privilege=answer_and_peer", "privilege=answer_and_peer shows the teacher another response"),
        (
            "algorithm.egrsd.privilege=peer_correct actor_rollout_ref.rollout.n=8 data.max_response_length=7681",
            "max_prompt_length=8192 cannot hold a problem and a response of up to 8193 tokens",
        ),
        (
            ("algorithm.egrsd.privilege=peer_correct actor_rollout_ref.rollout.n=8 data.max_response_length=7681 "
            "algorithm.egrsd.teacher.max_prompt_length=9000"),
            "max_token_len_per_gpu=16384 (x 1 sequence-parallel ranks) cannot hold one teacher row of up to",
        ),
        ("algorithm.egrsd.teacher.peer=best", "teacher.peer=best is not available; choose from"),
    ],
)  # fmt: skip
def test_peers(overrides, said):
    message = refusal_of(*overrides.split(" "))
    assert said in message and message.isprintable()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["+data.apply_chat_template_kwargs.enable_thinking=false"],
            "data.apply_chat_template_kwargs.enable_thinking=false closes the thoughts that algorithm.egrsd.assistant",
        ),
        (["algorithm.egrsd.teacher.enable_thinking=false"], "algorithm.egrsd.teacher.enable_thinking=false closes the"),
        (["algorithm.egrsd.assistant_prefix=' '"], "algorithm.egrsd.assistant_prefix=  must be some words, or null"),
    ],
)
def test_words_of_the_assistants_turn(overrides, said):
    message = refusal_of("algorithm.egrsd.assistant_prefix='Sawa.'", *overrides)
    assert said in message and message.isprintable()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, train=4)
    return folder


def test_verls_model_config_takes_them(inputs):
    """The one from which trainer, workers, agent loops and the doctor have their tokenizer."""
    config = composed(f"actor_rollout_ref.model.path={inputs}/model", "algorithm.egrsd.assistant_prefix='Sawa.'")
    prefix.use(config)
    template = config.actor_rollout_ref.model.custom_chat_template
    assert MARK in template
    tokenizer = omega_conf_to_dataclass(config.actor_rollout_ref.model).tokenizer
    chat = [{"role": "user", "content": "1 + 1?"}]
    said = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert said.endswith("assistant\n<think>\nSawa.")
    prefix.use(config)  # as the doctor after a trainer: once is enough
    assert config.actor_rollout_ref.model.custom_chat_template == template
    config = composed(f"actor_rollout_ref.model.path={inputs}/model")
    prefix.use(config)
    assert config.actor_rollout_ref.model.custom_chat_template is None


def test_missing_columns_are_refused_before_ray(inputs, tmp_path):
    path, validation = write(tmp_path / "rows.parquet"), write(tmp_path / "val.parquet")
    files = [f"data.train_files={path}", f"data.val_files={validation}", "ray_kwargs.ray_init.num_cpus=64"]
    files += [f"actor_rollout_ref.model.path={inputs}/model"]
    message = refusal_of(*files, algorithm="copsd")
    assert (
        f"data.train_files={path} has no extra_info.problem_en, which algorithm.egrsd.privilege=crosslingual shows; "
        "extra_info holds ['index', 'solution']: name the right one in algorithm.egrsd.teacher.problem_key, or"
        in message
    )
    message = refusal_of(*files, "algorithm.egrsd.teacher.solution_key=proof")
    assert "has no extra_info.proof, which algorithm.egrsd.privilege=solution shows" in message
    path.write_bytes(path.read_bytes()[:-9])
    assert f"data.train_files={path} is no parquet file (" in refusal_of(*files)


@pytest.mark.parametrize("privilege", ["answer_only", "peer_correct", "feedback", "none", "concise"])
def test_other_privileges_need_no_column(privilege, tmp_path):
    path = write(tmp_path / "rows.parquet", {0: {}})
    table = pq.read_table(path).drop_columns("extra_info")
    pq.write_table(table, path)
    config = composed(f"algorithm.egrsd.privilege={privilege}", f"data.train_files={path}", "data.train_batch_size=6")
    columns.check(config, schema.read(config.algorithm.egrsd))
