"""What a contrast, groups and a divergence need of other keys, and keys that nothing reads: refused in one line."""

import re

import pytest
from composing import composed, refusal_of

from recipe.egrsd import parts
from recipe.egrsd.config import validation
from recipe.egrsd.config.contrast import ContrastConfig

RLCSD = "recipe.egrsd.method.evidence:tanh_evidence"
SIPO = "recipe.egrsd.method.evidence:clipped_evidence"
GROUP = "actor_rollout_ref.rollout.n=8"
ON = "algorithm.egrsd.contrast.strength=0.5"
CONTRASTS = {
    f"{ON}": "contrast.strength=0.5 means nothing but to privilege=peer_contrast or answer_contrast; set it to 0",
    f"algorithm.egrsd.privilege=peer_contrast {GROUP}": (
        "contrast.strength=0.0 adds nothing of what privilege=peer_contrast contrasts; set it, or use privilege=none"
    ),
    f"algorithm.egrsd.privilege=peer_contrast {ON} {GROUP}": (
        "algorithm.egrsd.privilege=peer_contrast has the teacher read right and wrong guides, and "
        "algorithm.egrsd.token_weight=recipe.egrsd.method.weights:token_weights does not read contrast_log_probs; "
    ),
    f"algorithm.egrsd.token_weight={SIPO}": (
        f"algorithm.egrsd.token_weight={SIPO} reads contrast_log_probs, which algorithm.egrsd.privilege=solution does "
        "not have; use one of ('peer_contrast', 'answer_contrast')"
    ),
    f"algorithm.egrsd.privilege=answer_contrast {ON} {GROUP} algorithm.egrsd.divergence=forward_kl "
    "algorithm.egrsd.gamma=0 algorithm.egrsd.clip_range=0 algorithm.egrsd.length_bonus=0": (
        "no divergence can pull to both; set algorithm.egrsd.divergence to null"
    ),
    f"algorithm.egrsd.contrast.strength=-1 {GROUP}": "contrast.strength=-1.0 would teach the wrong answers; use >= 0",
    "algorithm.egrsd.contrast.scale=0": "contrast.scale=0.0 must be positive (nats)",
    "algorithm.egrsd.contrast.threshold=-1": "contrast.threshold=-1.0 must be >= 0",
    "algorithm.egrsd.contrast.wrong_guides=0": "contrast.wrong_guides=0 must be >= 1",
    "+algorithm.egrsd.contrast.guides=1": "algorithm.egrsd.contrast has unknown key(s) ['guides']",
}  # fmt: skip
OF_PRESETS = {
    ("rlcsd", "actor_rollout_ref.rollout.n=1"): "privilege=peer_contrast shows the teacher another response",
    ("sipo", "actor_rollout_ref.rollout.n=1"): (
        "privilege=answer_contrast holds a right response against the wrong answers of its group, and "
        "actor_rollout_ref.rollout.n=1 samples one; set rollout.n to 2 or more"
    ),
    ("rlcsd", "data.max_response_length=7681"): "cannot hold a problem and a response of up to 8193 tokens",
    (
        "rlcsd",
        "actor_rollout_ref.rollout.n=2",
    ): "two others, a right and a wrong one, and actor_rollout_ref.rollout.n=",
    ("sipo", "algorithm.egrsd.contrast.wrong_guides=2"): (
        "contrast.wrong_guides=2 means nothing but to privilege=peer_contrast; leave it at 4"
    ),
}
# What nothing would read: refused, whatever the value, but for the default.
UNREAD = {
    (
        "sipo",
        "contrast.threshold=0.1",
    ): f"contrast.threshold=0.1 means nothing to algorithm.egrsd.token_weight={SIPO}",
    ("egrsd", "contrast.scale=0.9"): "contrast.scale=0.9 means nothing but to privilege=peer_contrast or answer_cont",
    ("egrsd", "contrast.threshold=0.1"): "contrast.threshold=0.1 means nothing but to privilege=peer_contrast or ans",
    ("egrsd", "contrast.wrong_guides=1"): "contrast.wrong_guides=1 means nothing but to privilege=peer_contrast; lea",
    ("opsd", "steering.warmup_steps=5"): "steering.warmup_steps=5 means nothing but to privilege=peers; leave it at ",
    ("opsd", "steering.own_response=false"): "steering.own_response=false means nothing but to privilege=peers; leav",
    ("ogls_sd", "teacher.peer=random"): "teacher.peer=random means nothing to privilege=peers, which does not show o",
    ("egrsd", "teacher.peer=longest"): "teacher.peer=longest means nothing to privilege=solution, which does not sho",
}


@pytest.mark.parametrize("overrides", CONTRASTS)
def test_a_contrast(overrides):
    message = refusal_of(*overrides.split(" "))
    assert CONTRASTS[overrides] in message and message.isprintable()


@pytest.mark.parametrize(("algorithm", "override"), OF_PRESETS)
def test_a_presets_needs_are_named(algorithm, override):
    with pytest.raises(ValueError, match=re.escape(OF_PRESETS[algorithm, override])):
        validation.validate(composed(override, algorithm=algorithm))


@pytest.mark.parametrize(("algorithm", "override"), UNREAD)
def test_a_key_that_nothing_reads_is_refused(algorithm, override):
    message = refusal_of(f"algorithm.egrsd.{override}", algorithm=algorithm)
    assert f"algorithm.egrsd.{UNREAD[algorithm, override]}" in message and message.isprintable()


def test_a_group_of_two_that_can_teach_is_not_refused():
    for algorithm in ("sipo", "ssopd", "oasis", "hsd", "ogls_sd"):
        validation.validate(composed("actor_rollout_ref.rollout.n=2", algorithm=algorithm))
    validation.validate(composed("actor_rollout_ref.rollout.n=3", algorithm="rlcsd"))


def test_a_frontier_of_the_same_side_needs_three():
    """A wrong response with a wrong peer, of two: none is right, and 4 p (1 - p) is 0."""
    words = ["algorithm.egrsd.privilege=peer_wrong", "actor_rollout_ref.rollout.n=2"]
    said = refusal_of(*words, algorithm="ssopd")
    assert "pull.rows=longest_wrong and algorithm.egrsd.privilege=peer_wrong take two of a kind" in said
    validation.validate(composed(words[0], "actor_rollout_ref.rollout.n=3", algorithm="ssopd"))


@pytest.mark.parametrize("steps", ["null", "8", "7"])
def test_a_divergence_that_fades_leaves_a_loss(steps):
    """Four steps up, three down: the eighth has a coefficient of 0."""
    words = ["pull.warmup_steps=4", "pull.decay_steps=3"]
    given = [*(f"algorithm.egrsd.{word}" for word in words), f"trainer.total_training_steps={steps}"]
    if steps == "7":
        assert validation.validate(composed(*given, algorithm="opsd")).pull.coefficient_at(7) > 0
    else:
        said = "pull.decay_steps=3 leaves no loss after step 7 with algorithm.egrsd.pull.policy_gradient=false"
        assert said in refusal_of(*given, algorithm="opsd")
    validation.validate(composed(*given, "algorithm.egrsd.pull.policy_gradient=true", algorithm="opsd"))


@pytest.mark.parametrize("algorithm", ["rlcsd", "sipo"])
def test_the_presets_are_the_published_settings(algorithm):
    config = composed(algorithm=algorithm)
    egrsd = validation.validate(config)
    parts.check(config, egrsd)
    assert (egrsd.advantage, egrsd.teacher.kind, egrsd.teacher.sync_every) == ("grpo", "snapshot", 10)
    assert (egrsd.gamma, egrsd.clip_range, egrsd.length_bonus, config.actor_rollout_ref.rollout.n) == (0, 0, 0, 8)
    assert egrsd.weighs and egrsd.contrasts and not egrsd.pulls
    knobs = {"rlcsd": (0.5, 0.02, 0.02, 4), "sipo": (0.5, 0.2, 0.0, 4)}[algorithm]
    assert egrsd.contrast == ContrastConfig(
        **dict(zip(("strength", "scale", "threshold", "wrong_guides"), knobs, strict=True))
    )
    assert config.algorithm.norm_adv_by_std_in_grpo == (algorithm == "rlcsd")
    assert (egrsd.privilege, egrsd.teacher.peer, egrsd.token_weight) == (
        ("peer_contrast", "random", RLCSD) if algorithm == "rlcsd" else ("answer_contrast", "shortest", SIPO)
    )
