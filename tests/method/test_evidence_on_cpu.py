"""What rlcsd and sipo add to an advantage: published numbers, numbers by hand, properties, and wrong versions."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recipe.egrsd.method import evidence
from recipe.egrsd.method.evidence import clipped_evidence, log_mean_prob, modulated_frac, tanh_evidence
from recipe.egrsd.method.weights import TokenWeights

RLCSD = {"contrast_strength": 0.5, "contrast_scale": 0.02, "contrast_threshold": 0.02}  # as published
OF_FRAC = {name.removeprefix("contrast_"): value for name, value in RLCSD.items()}
SIPO = {"contrast_strength": 0.2, "contrast_scale": 0.2}
RIGHT = -1.0


def trained(weight: Callable[..., TokenWeights], advantages: Tensor, gap: Tensor, **knobs) -> Tensor:
    """(B, T): the advantage that is trained on, where the teacher's right and wrong sides differ by ``gap`` nats."""
    nothing, right = torch.zeros_like(gap), torch.full_like(gap, RIGHT)
    mask = torch.ones_like(gap, dtype=torch.bool)
    found = weight(nothing, right, nothing, advantages, mask, contrast_log_probs=right - gap, **knobs)
    return advantages * found.token + found.added


def check_sipo(weight: Callable[..., TokenWeights]) -> None:
    """A + .2 clip(e, -.2, .2)."""
    advantages = torch.tensor([0.5, -0.5, 0.0])[:, None].expand(3, 3)
    gap = torch.tensor([[0.02, 0.6, -0.05], [-0.4, 0.6, 0.0], [0.4, -0.6, 0.05]])
    expected = [
        [0.504, 0.54, 0.49],  # .5 + .2 * .02; .5 + .2 * .2, clipped; .5 - .2 * .05
        [-0.54, -0.46, -0.5],  # -.5 - .2 * .2 and -.5 + .2 * .2, clipped; -.5
        [0.04, -0.04, 0.01],  # a group that is all wrong: .2 * .2, -.2 * .2, .2 * .05
    ]
    torch.testing.assert_close(trained(weight, advantages, gap, **SIPO), torch.tensor(expected), atol=1e-6, rtol=0)


def check_sipos_sign(weight: Callable[..., TokenWeights]) -> None:
    """.03 - .2 * .2 would be negative, -.03 + .2 * .2 positive."""
    advantages = torch.tensor([[0.03], [-0.03]]).expand(2, 2)
    found = trained(weight, advantages, torch.tensor([[-0.6, 0.05], [0.6, -0.05]]), **SIPO)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.04], [0.0, -0.04]]), atol=1e-6, rtol=0)


GAP = [0.01, 0.0005, -0.03, 0.05]
"""Over tau = .02: .5, .025, -1.5, 2.5. tanh: .462117, .024995, -.905148, .986614. Times .5: .231059, .012497,
-.452574, .493307. The second is within delta = .02: three of four are modulated, and weigh 4/3, the other 4."""


def check_rlcsd(weight: Callable[..., TokenWeights], frac: Callable[..., float] = modulated_frac) -> None:
    gap = torch.tensor([GAP] * 4)
    advantages = torch.tensor([1.2, 0.3, -0.3, 0.0])[:, None].expand(4, 4)
    share = frac(torch.full_like(gap, RIGHT), RIGHT - gap, torch.ones_like(gap, dtype=torch.bool), **OF_FRAC)
    assert share == pytest.approx(0.75)
    expected = [
        # 4/3 (1.2 + .231059), 4 * 1.2, 4/3 (1.2 - .452574), 4/3 (1.2 + .493307)
        [1.908078, 4.8, 0.996569, 2.257743],
        # 4/3 (.3 + .231059), 4 * .3, 0: its sign is kept, 4/3 (.3 + .493307)
        [0.708078, 1.2, 0.0, 1.057743],
        # 4/3 (-.3 + .231059), -4 * .3, 4/3 (-.3 - .452574), 0: its sign is kept
        [-0.091922, -1.2, -1.003431, 0.0],
        [0.0, 0.0, 0.0, 0.0],
    ]
    found = trained(weight, advantages, gap, modulated_frac=share, taught_frac=1.0, **RLCSD)
    torch.testing.assert_close(found, torch.tensor(expected), atol=5e-6, rtol=0)
    # The published loss: mean over modulated tokens + mean over the others, (1.431059 + .747426 + 1.693307) / 3 + 1.2.
    assert found[0].mean().item() == pytest.approx(2.490597, abs=5e-6)
    # Beside a row without a teacher, and without an advantage, it is the same.
    beside = torch.stack([gap[0], 0 * gap[0]]), torch.stack([advantages[0], advantages[3]])
    found = trained(weight, *beside[::-1], modulated_frac=share, taught_frac=0.5, **RLCSD)
    assert found.mean().item() == pytest.approx(2.490597, abs=5e-6)


def test_the_published_numbers_of_sipo():
    check_sipo(clipped_evidence)
    check_sipos_sign(clipped_evidence)


def test_rlcsd_by_hand():
    check_rlcsd(tanh_evidence)


def log_tensors(*rows: list[float]) -> list[Tensor]:
    return [torch.tensor(row).log() for row in rows]


def check_mean(function: Callable[[list[Tensor]], Tensor]) -> None:
    """Of .25 and .45: log .35, where the mean of the logs is log .335410. Right .5: evidence .356675."""
    found = function(log_tensors([0.25, 0.1], [0.45, 0.1]))
    torch.testing.assert_close(found, torch.tensor([0.35, 0.1]).log(), atol=1e-6, rtol=0)
    assert (math.log(0.5) - found[0]).item() == pytest.approx(0.356675, abs=1e-6)


def test_probabilities_are_averaged_and_not_their_logs():
    check_mean(log_mean_prob)
    assert log_mean_prob(log_tensors([0.3])).item() == pytest.approx(math.log(0.3), abs=1e-7)
    deep = log_mean_prob([torch.tensor([-200.0]), torch.tensor([-300.0])])  # neither is a probability in float32
    assert deep.item() == pytest.approx(-200 - math.log(2), abs=1e-4)


def mean_of_logs(log_probs):
    return torch.stack(log_probs).mean(0)


def sum_of_probabilities(log_probs):
    return torch.stack(log_probs).logsumexp(0)


def sign_not_kept(advantages, added):
    return added


def sign_kept_on_one_side(advantages, added):
    return torch.where(advantages > 0, torch.maximum(added, -advantages), added)


def nothing_without_advantage(advantages, added):
    return torch.where(advantages == 0, 0.0, REAL["within_sign"](advantages, added))


def delta_ignored(evidence, *, strength, scale, threshold):
    return strength * (evidence / scale).tanh()


def lambda_within_tanh(evidence, *, strength, scale, threshold):
    return REAL["_modulation"](strength * evidence, strength=1.0, scale=scale, threshold=threshold)


def clipped_not_squashed(evidence, *, strength, scale, threshold):
    return REAL["_modulation"](scale * (evidence / scale).clamp(-1, 1).atanh(), strength=strength, scale=scale,
                               threshold=threshold)  # fmt: skip


def wrong_minus_right(teacher_log_probs, contrast_log_probs, advantages=None):
    return (contrast_log_probs - teacher_log_probs).detach()


REAL = {name: getattr(evidence, name) for name in ("within_sign", "_modulation", "evidence_of")}
MUTANTS = [
    ("within_sign", sign_not_kept, [check_rlcsd, check_sipos_sign]),
    ("within_sign", sign_kept_on_one_side, [check_rlcsd, check_sipos_sign]),
    ("within_sign", nothing_without_advantage, [check_sipo]),
    ("_modulation", delta_ignored, [check_rlcsd]),
    ("_modulation", lambda_within_tanh, [check_rlcsd]),
    ("_modulation", clipped_not_squashed, [check_rlcsd]),
    ("evidence_of", wrong_minus_right, [check_rlcsd, check_sipo]),
]


@pytest.mark.parametrize(("name", "mutant", "checks"), MUTANTS, ids=lambda value: getattr(value, "__name__", None))
def test_wrong_versions_are_rejected(name, mutant, checks, monkeypatch):
    monkeypatch.setattr(evidence, name, mutant)
    for check in checks:
        with pytest.raises(AssertionError):
            check(tanh_evidence if check is check_rlcsd else clipped_evidence)


@pytest.mark.parametrize("mutant", [mean_of_logs, sum_of_probabilities])
def test_wrong_means_are_rejected(mutant):
    with pytest.raises(AssertionError):
        check_mean(mutant)


def one_token_mean(*args, **knobs):
    """The groups of RLCSD are averaged together."""
    found = tanh_evidence(*args, **knobs)
    return TokenWeights(token=torch.ones_like(found.token), added=found.added / found.token)


def test_one_mean_over_both_groups_is_rejected():
    with pytest.raises(AssertionError):
        check_rlcsd(one_token_mean)


nats = st.floats(-3, 3, width=32)
rows = st.lists(st.tuples(nats, nats), min_size=1, max_size=12)  # advantage, evidence of each token


@settings(max_examples=300, deadline=None)
@given(rows, st.floats(0, 2, width=32), st.floats(0.015625, 2, width=32), st.floats(0, 0.5, width=32))
def test_a_sign_is_never_turned_and_a_term_is_bounded(tokens, strength, scale, threshold):
    advantages, gap = (torch.tensor([[token[at] for token in tokens]]) for at in (0, 1))
    knobs = {"contrast_strength": strength, "contrast_scale": scale}
    sipo = trained(clipped_evidence, advantages, gap, **knobs)
    share = modulated_frac(
        torch.full_like(gap, RIGHT), RIGHT - gap, torch.ones_like(gap, dtype=torch.bool),
        strength=strength, scale=scale, threshold=threshold,
    )  # fmt: skip
    knobs |= {"contrast_threshold": threshold, "modulated_frac": share, "taught_frac": 1.0}
    rlcsd = trained(tanh_evidence, advantages, gap, **knobs)
    for found in (sipo, rlcsd):
        assert found.isfinite().all() and (found * advantages >= 0).all()
    assert ((sipo - advantages).abs() <= strength * scale + 1e-5).all()
    assert (rlcsd[advantages == 0] == 0).all()
    if threshold >= strength:  # no term exceeds it
        assert share == 0 and torch.equal(rlcsd, advantages)


@settings(max_examples=200, deadline=None)
@given(rows, st.floats(0.0625, 2, width=32))
def test_the_token_mean_is_the_sum_of_two_means(tokens, scale):
    """Against loops: mean of A + r over modulated tokens + mean of A over the others."""
    advantages, gap = (torch.tensor([[token[at] for token in tokens]]) for at in (0, 1))
    knobs = {"strength": 0.5, "scale": scale, "threshold": 0.1}
    right, mask = torch.full_like(gap, RIGHT), torch.ones_like(gap, dtype=torch.bool)
    contrast = right - gap
    share = modulated_frac(right, contrast, mask, **knobs)
    weights = tanh_evidence(
        gap, right, gap, advantages, mask, contrast_log_probs=contrast, modulated_frac=share, taught_frac=1.0,
        **{f"contrast_{name}": value for name, value in knobs.items()},
    )  # fmt: skip
    groups = {True: [], False: []}
    for a, e in zip(advantages[0].tolist(), (right - contrast)[0].double().tolist(), strict=True):
        term = 0.5 * math.tanh(e / scale)
        if abs(abs(term) - 0.1) < 1e-5:
            return  # float32 and float64 may differ about such a token
        value = a + term if abs(term) > 0.1 else a
        groups[abs(term) > 0.1].append(value if a * value > 0 else 0.0)
    expected = sum(math.fsum(values) / len(values) for values in groups.values() if values)
    found = (advantages * weights.token + weights.added).double().mean().item()
    assert found == pytest.approx(expected, abs=2e-5)


def test_strength_0_changes_nothing():
    gap, advantages = torch.randn(3, 5), torch.randn(3, 5)
    for weight, knobs in (
        (clipped_evidence, SIPO | {"contrast_strength": 0.0}),
        (tanh_evidence, RLCSD | {"contrast_strength": 0.0, "modulated_frac": 0.0, "taught_frac": 1.0}),
    ):
        assert torch.equal(trained(weight, advantages, gap, **knobs), advantages)


def test_no_gradient_flows_and_no_other_type_is_taken():
    right, contrast, advantages = (torch.randn(2, 3, requires_grad=True) for _ in range(3))
    mask = torch.ones(2, 3, dtype=torch.bool)
    for weight, knobs in (
        (clipped_evidence, SIPO),
        (tanh_evidence, RLCSD | {"modulated_frac": 0.5, "taught_frac": 1.0}),
    ):
        found = weight(right, right, right, advantages, mask, contrast_log_probs=contrast, **knobs)
        assert not found.token.requires_grad and not found.added.requires_grad
        with pytest.raises(TypeError, match=r"contrast_log_probs is torch\.bfloat16"):
            weight(right, right, right, advantages, mask, contrast_log_probs=contrast.bfloat16(), **knobs)
        with pytest.raises(ValueError, match="contrast_log_probs has shape"):
            weight(right, right, right, advantages, mask, contrast_log_probs=contrast[:, :1], **knobs)
