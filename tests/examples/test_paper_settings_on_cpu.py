"""The scripts in examples/ compared with the paper, key by key; nothing is trained."""

import pytest
from omegaconf import OmegaConf
from paper import DERIVED, KEYS, PAPER
from shell_scripts import MODELS, plain

ELSEWHERE = {"gamma_window", "data"}  # test_gamma_and_window, test_sources_on_cpu.py


def test_every_setting_of_the_paper_is_compared():
    assert set(PAPER["settings"]) == {*KEYS, *DERIVED, *ELSEWHERE}


@pytest.mark.parametrize("algorithm", ["egrsd", "cl_egrsd"])
@pytest.mark.parametrize("model", MODELS)
def test_settings_are_the_papers(composed, model, algorithm):
    config, settings = composed(MODELS[model], ALGORITHM=algorithm), PAPER["settings"]
    assert config.actor_rollout_ref.model.path == f"Qwen/{model}"
    assert {name: plain(OmegaConf.select(config, key)) for name, key in KEYS.items()} == {
        name: settings[name] for name in KEYS
    }
    assert {name: derive(config) for name, derive in DERIVED.items()} == {name: settings[name] for name in DERIVED}
    assert config.actor_rollout_ref.actor.ppo_mini_batch_size == settings["batch"]  # one update for each batch
    assert config.trainer.max_actor_ckpt_to_keep is None  # none of the four checkpoints is deleted


@pytest.mark.parametrize("model", MODELS)
def test_gamma_and_window(composed, model):
    for algorithm, expected in PAPER["settings"]["gamma_window"][model].items():
        egrsd = composed(MODELS[model], ALGORITHM=algorithm).algorithm.egrsd
        assert [egrsd.gamma, egrsd.window] == expected


def test_nothing_but_the_weighted_policy_gradient_is_trained(composed):
    config = composed("run_qwen3_4b_fsdp.sh")
    assert not config.algorithm.use_kl_in_reward
    assert not config.actor_rollout_ref.actor.use_kl_loss
    assert config.actor_rollout_ref.actor.entropy_coeff == 0
    assert config.actor_rollout_ref.actor.ppo_epochs == 1


def test_the_averages_of_the_papers_table_are_the_averages_of_its_columns():
    for rows in PAPER["results"].values():
        for row in rows.values():
            *accuracies, average, _ = (row[column] for column in PAPER["columns"])
            assert sum(accuracies) / len(accuracies) == pytest.approx(average, abs=0.006)
