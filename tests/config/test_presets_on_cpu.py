"""What each preset of recipe/egrsd/config/algorithm says, once it is composed and validated."""

from dataclasses import replace

import pytest
from composing import PRESETS, composed

from recipe.egrsd.config import validation


@pytest.mark.parametrize("algorithm", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_preset_trains_under_fsdp2(algorithm):
    """The strategy of every test here; verl's own default is fsdp."""
    parts = composed(algorithm=algorithm).actor_rollout_ref
    assert (parts.actor.strategy, parts.ref.strategy) == ("fsdp2", "fsdp2")


def test_the_presets_are_valid():
    egrsd = validation.validate(composed())
    assert (egrsd.gamma, egrsd.window, egrsd.clip_range, egrsd.teacher.kind) == (0.3, 0, 0.2, "frozen")
    assert validation.validate(composed(algorithm="cl_egrsd")).window == 3
    assert validation.validate(composed(algorithm="egrsd_ungated")).gamma == 0
    rlsd = validation.validate(composed(algorithm="rlsd"))
    assert [rlsd.mixing_at(step) for step in (1, 26, 50, 51, 100)] == pytest.approx([0.5, 0.25, 0.01, 0.0, 0.0])
    assert (rlsd.gamma, rlsd.advantage, rlsd.teacher.kind, rlsd.teacher.sync_every) == (0, "grpo", "snapshot", 20)
    opsd, crisp = (validation.validate(composed(algorithm=name)) for name in ("opsd", "crisp"))
    assert (opsd.divergence, opsd.divergence_clip, opsd.privilege) == ("forward_kl", 0.05, "solution")
    assert opsd.teacher.kind == "frozen"
    op2sd = validation.validate(composed(algorithm="op2sd"))
    assert op2sd == replace(opsd, privilege="other_problem")
    copsd = validation.validate(composed(algorithm="copsd"))
    assert copsd == replace(opsd, privilege="crosslingual") and copsd.teacher.problem_key == "problem_en"
    assert (crisp.divergence, crisp.divergence_clip, crisp.privilege) == ("reverse_kl", None, "concise")
    assert (crisp.teacher.kind, crisp.teacher.sync_every) == ("snapshot", 50)
    dash = validation.validate(composed(algorithm="dash"))
    assert (dash.divergence_knobs, dash.privilege) == (opsd.divergence_knobs, "solution")
    assert (dash.pull.propagation, dash.pull.weighting, dash.rewards_count) == (5.0, "response_mean", False)
    hsd = validation.validate(composed(algorithm="hsd"))
    assert (hsd.divergence_knobs["clip"], hsd.privilege, hsd.teacher.kind) == (None, "answer_and_peer", "live")
    assert (hsd.pull.rows, hsd.pull.weighting, hsd.rewards_count) == ("all", "response_mean", False)
    ssopd, oasis = (validation.validate(composed(algorithm=name)) for name in ("ssopd", "oasis"))
    assert (ssopd.pull.coefficient, ssopd.pull.tokens, ssopd.pull.rows) == (0.5, 1024, "longest_wrong")
    assert ssopd.rewards_count and ssopd.pulls and not ssopd.weighs and ssopd.privilege == "peer_correct"
    assert (oasis.pull.rows, oasis.privilege, oasis.rewards_count) == ("shortest_correct", "peer_wrong_first", False)
    assert oasis.teacher.peer == "shortest" and not oasis.compares_within_groups  # all-right groups are pulled, too
    ogls = validation.validate(composed(algorithm="ogls_sd"))
    assert (ogls.divergence, ogls.divergence_clip, ogls.divergence_clip_low) == ("reverse_kl", 0.05, -0.05)
    assert (ogls.pull.rows, ogls.pull.tokens, ogls.pull.weighting) == ("wrong", 1024, "token_mean")
    assert (ogls.privilege, ogls.teacher.kind, ogls.rewards_count) == ("peers", "frozen", False)
    strengths = [ogls.steering.strength_at(step) for step in (1, 26, 51, 100)]
    assert strengths == [0, 1.5, 3, 3] and ogls.steering.own_response
