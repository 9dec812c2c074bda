"""A token weight by name: tried before Ray, called by the loss; each fault is refused by the key."""

import re
import sys
from pathlib import Path

import pytest
import torch
from composing import composed, refusal_of
from micro_batches import PROMPTS, RESPONSES, actor_config, micro_batch, output, rows, settings
from verl.workers.utils.losses import ppo_loss

from recipe.egrsd import parts, token_weight
from recipe.egrsd.config import validation
from recipe.egrsd.loss import SUM_PREFIX, egrsd_loss
from recipe.egrsd.method.weights import token_weights
from recipe.egrsd.token_weight import INPUTS, SETTINGS

KEY = "algorithm.egrsd.token_weight"
FIVE = ", ".join(INPUTS)
SOURCE = f"""
import torch
from recipe.egrsd.method.weights import TokenWeights, token_weights

five = 5
parameter = torch.nn.Parameter(torch.ones(()))

def halved({FIVE}, *, clip_range):  # 0.5 and 1.2 by position, which padding does not move
    late = torch.arange(teacher_mask.size(-1), device=teacher_mask.device) >= 2
    return torch.where(late, 1.0 + clip_range, 0.5).expand(teacher_mask.shape)

def edits({FIVE}):  # its copies, not the batch
    for tensor in ({FIVE}):
        tensor.fill_(0)
    return torch.ones_like(advantages)

def gated({FIVE}, *, gamma):
    gate = (1 - gamma * teacher_entropy / 3).clamp(0.5, 1)
    return TokenWeights(token=2 * gate, gate=gate)

def everything({FIVE}, **settings):
    assert list(settings) == {list(SETTINGS)}
    return token_weights({FIVE}, **settings)

def needs_tau({FIVE}, *, tau):
    return advantages

def four(student_log_probs, teacher_log_probs, teacher_entropy, advantages):
    return advantages

def swapped(teacher_log_probs, student_log_probs, teacher_entropy, advantages, teacher_mask):
    return (teacher_log_probs - student_log_probs).exp()

def raises({FIVE}):
    return {{}}["tau"]

def number({FIVE}):
    return 1.0

def rows_only({FIVE}):
    return advantages[:, :1]

def double({FIVE}):
    return torch.ones_like(advantages, dtype=torch.float64)

def elsewhere({FIVE}):
    return torch.ones_like(advantages, device="meta")

def of_a_parameter({FIVE}):
    return parameter * torch.ones_like(advantages)

def per_advantage({FIVE}):
    return 1 + 0.1 / advantages

def reads_padding({FIVE}):
    return torch.ones_like(advantages) * teacher_entropy.mean(-1, keepdim=True)

def of_the_batch({FIVE}):
    return torch.ones_like(advantages) * teacher_entropy[teacher_mask].mean()

def by_length({FIVE}):
    return torch.full_like(advantages, 1 / teacher_mask.size(-1))

def bad_part({FIVE}):
    return TokenWeights(token=torch.ones_like(advantages), gate=advantages[:, :1])

def fails_late({FIVE}):
    return torch.where(teacher_log_probs < -2, torch.inf, 1.0)
"""
REFUSED = {
    "needs_tau": f"cannot be loaded: TypeError: missing a required argument: 'tau'; the weight is called with ({FIVE}) "
    f"and by keyword with those of {', '.join(SETTINGS)} that it names",
    "four": "cannot be loaded: TypeError: too many positional arguments",
    "swapped": "cannot be loaded: TypeError: it names teacher_log_probs where student_log_probs is given",
    "five": "cannot be loaded: TypeError: five is int and no function",
    "missing": "cannot be loaded: AttributeError: module 'my_weights' has no attribute 'missing'",
    "raises": "fails on made-up responses: KeyError: 'tau'",
    "number": "fails on made-up responses: TypeError: it returns float, not a (B, T) float32 tensor of weights",
    "rows_only": "fails on made-up responses: its token weight has shape (4, 1), expected (4, 5)",
    "double": "fails on made-up responses: its token weight has dtype torch.float64, expected torch.float32",
    "elsewhere": "fails on made-up responses: its token weight has device meta, expected cpu",
    "of_a_parameter": "fails on made-up responses: its token weight carries a gradient",
    "per_advantage": "fails on made-up responses: its token weight is inf at token 0 of response 3",
    "reads_padding": "fails on made-up responses: its token weight is nan at token 0 of response 0",
    "of_the_batch": "so that the split into micro-batches would change the training",
    "by_length": "token 0 of response 1 weighs 0.2 beside others and 1 alone",
    "bad_part": "fails on made-up responses: its gate weight has shape (4, 1), expected (4, 5)",
}


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch) -> Path:
    """my_weights, importable as a user's module is: from the folder in which the command is typed."""
    path = tmp_path / "my_weights.py"
    path.write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_weights", raising=False)
    token_weight.look_up.cache_clear()
    yield path
    token_weight.look_up.cache_clear()


# ---------------------------------------------------------------- before Ray


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_tried_before_ray(name):
    config = composed(f"{KEY}=my_weights:{name}")
    egrsd = validation.validate(config)
    with pytest.raises(ValueError, match=r".") as refused:
        parts.check(config, egrsd)
    message = str(refused.value)
    assert message.startswith(f"{KEY}=my_weights:{name} ") and REFUSED[name] in message and message.isprintable()
    assert message.endswith("; mend it, or drop that override.")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("nowhere:weight", "cannot be loaded: ModuleNotFoundError: No module named 'nowhere'"),
        ("{folder}/nowhere.py:weight", "cannot be loaded: FileNotFoundError: Custom module file not found"),
        ("{folder}/broken.py:weight", "(ModuleNotFoundError: No module named 'nowhere_to_be_found')"),
        ("my_weights", "is str; it should name a function as module:function."),
        ("my_weights.halved", "is str; it should name a function as module:function."),
        ("my_weights:", "is str; it should name a function as module:function."),
        ("null", "is NoneType; it should be a valid string."),
    ],
)
def test_a_name_that_is_none_is_refused_on_the_command_line(value, said, tmp_path):
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found\n")
    message = refusal_of(f"{KEY}={value.format(folder=tmp_path)}")
    assert f"{KEY}=" in message and said in message and message.isprintable()


@pytest.mark.parametrize(
    "name",
    [
        "my_weights:halved",
        "pkg://my_weights:halved",
        "{folder}/my_weights.py:halved",
        "file://{folder}/my_weights.py:halved",
    ]
    + [f"my_weights:{function}" for function in ("edits", "gated", "everything", "fails_late")],
)
def test_what_works_is_let_through(name, tmp_path):
    config = composed(f"{KEY}={name.format(folder=tmp_path)}")
    parts.check(config, validation.validate(config))


@pytest.mark.parametrize("given", ["my_weights.py:halved", "file://my_weights.py:halved"])
def test_a_relative_file_reaches_the_run_as_an_absolute_one(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = composed(f"{KEY}={given}")
    token_weight.absolute_file(config)
    assert config.algorithm.egrsd.token_weight == f"{tmp_path}/my_weights.py:halved"
    for other in ("my_weights:halved", "pkg://my_weights:halved"):
        config = composed(f"{KEY}={other}")
        token_weight.absolute_file(config)
        assert config.algorithm.egrsd.token_weight == other


def test_the_default_is_the_built_in_by_the_same_way():
    name = composed().algorithm.egrsd.token_weight
    assert token_weight.look_up(name).function is token_weights and token_weight.look_up(name).settings == SETTINGS


@pytest.mark.parametrize("preset", ["opsd", "crisp"])
def test_under_a_divergence_it_means_nothing(preset):
    with pytest.raises(ValueError, match=rf"{KEY}=my_weights:halved means nothing to divergence=.*drop that override"):
        validation.validate(composed(f"{KEY}=my_weights:halved", algorithm=preset))
    validation.validate(composed(algorithm=preset))


def test_the_log_says_what_it_reads():
    assert token_weight.said("my_weights:halved") == (
        "weighs tokens by my_weights:halved, which reads clip_range; entropy_scale, gate_mean, mixing, window, gamma, "
        "floor, gate mean nothing to it"
    )
    built_in = composed().algorithm.egrsd.token_weight
    assert token_weight.said(built_in) == f"weighs tokens by {built_in}, which reads {', '.join(SETTINGS)}"


# ---------------------------------------------------------------- in the loss


def loss_and_gradient(samples, loss_fn):
    model_output, leaf = output(samples, range(4))
    loss, metrics = loss_fn(model_output, micro_batch(samples, range(4)))
    loss.backward()
    return loss.detach(), leaf.grad, metrics


def weighted_by(name: str):
    egrsd = settings(token_weight=name)
    return lambda model_output, data: egrsd_loss(actor_config(), egrsd, model_output, data)


def test_the_loss_is_verls_on_advantages_times_the_weight():
    """To the bit; nothing is logged of a gate or a ratio weight that there is not."""
    samples = rows()
    loss, gradient, metrics = loss_and_gradient(samples, weighted_by("my_weights:halved"))
    scaled = [
        torch.where(mask.bool(), row * torch.tensor([0.5, 0.5, 1.2, 1.2, 1.2, 1.2])[: len(row)], row)
        for row, mask in zip(samples["advantages"], samples["response_mask"], strict=True)
    ]
    expected, expected_gradient, _ = loss_and_gradient(
        samples | {"advantages": scaled}, lambda model_output, data: ppo_loss(actor_config(), model_output, data)
    )
    assert torch.equal(loss, expected) and torch.equal(gradient, expected_gradient)
    # Responses of 4, 1, 6 and 3 tokens, the third without its third: 2 + 1 + 2 + 2 early, 2 + 0 + 3 + 1 late.
    assert metrics[SUM_PREFIX + "token_weight_mean"].aggregate() == pytest.approx(7 * 0.5 + 6 * 1.2, abs=1e-5)
    assert not [name for name in metrics if re.search("gate|ratio_weight|clip_|lookahead", name)]


def test_parts_that_a_weight_has_are_logged():
    _, _, metrics = loss_and_gradient(rows(), weighted_by("my_weights:gated"))
    logged = {name.removeprefix(SUM_PREFIX) for name in metrics}
    assert {"token_weight_mean", "gate_mean", "gate_floor_frac"} <= logged
    assert not {"lookahead_restored_mean", "ratio_weight_mean", "ratio_clip_low_frac"} & logged


def test_the_built_in_through_a_users_function_is_the_built_in():
    ours, ours_gradient, ours_metrics = loss_and_gradient(rows(), weighted_by(settings().token_weight))
    theirs, theirs_gradient, theirs_metrics = loss_and_gradient(rows(), weighted_by("my_weights:everything"))
    assert torch.equal(ours, theirs) and torch.equal(ours_gradient, theirs_gradient)
    assert {name: value.aggregate() for name, value in ours_metrics.items() if name.startswith(SUM_PREFIX)} == {
        name: value.aggregate() for name, value in theirs_metrics.items() if name.startswith(SUM_PREFIX)
    }


def test_what_it_does_to_its_inputs_reaches_nobody():
    samples = rows()
    loss, gradient, _ = loss_and_gradient(samples, weighted_by("my_weights:edits"))
    plain, plain_gradient, _ = loss_and_gradient(
        samples, lambda model_output, data: ppo_loss(actor_config(), model_output, data)
    )
    assert torch.equal(loss, plain) and torch.equal(gradient, plain_gradient)


@pytest.mark.parametrize("name", ["number", "rows_only", "double", "elsewhere", "of_a_parameter", "raises"])
def test_each_micro_batch_is_checked_again(name):
    with pytest.raises(ValueError, match=rf"^{KEY}=my_weights:{name} fails: .*; mend it\.$"):
        loss_and_gradient(rows(), weighted_by(f"my_weights:{name}"))


def test_a_weight_that_is_not_finite_stops_the_run():
    """At a teacher that the made-up responses do not show."""
    samples = rows()
    samples["teacher_log_probs"][2][4] = -2.5
    with pytest.raises(
        ValueError, match=r"fails_late fails: its token weight is inf at token 4 of response 2; what lies"
    ):
        loss_and_gradient(samples, weighted_by("my_weights:fails_late"))


def test_a_response_without_a_teacher_weighs_one_whatever_the_function_says():
    samples = rows()
    samples["teacher_mask"][0] = torch.zeros_like(samples["teacher_mask"][0])
    _, gradient, _ = loss_and_gradient(samples, weighted_by("my_weights:halved"))
    _, plain, _ = loss_and_gradient(samples, lambda output, data: ppo_loss(actor_config(), output, data))
    first = PROMPTS[0] + RESPONSES[0]
    assert torch.equal(gradient[:first], plain[:first]) and not torch.equal(gradient[first:], plain[first:])


def test_what_lies_under_the_mask_may_be_anything():
    samples = rows()
    samples["teacher_log_probs"][2][2] = -2.5  # the hole
    loss_and_gradient(samples, weighted_by("my_weights:fails_late"))


@pytest.mark.parametrize("name", ["my_weights:everything", settings().token_weight])
def test_a_student_that_is_not_finite_is_verls_to_skip(name):
    """verl looks at the norm of the gradient; the weight is not to blame."""
    samples = rows()
    samples["old_log_probs"][0][1] = torch.nan
    loss, _, _ = loss_and_gradient(samples, weighted_by(name))
    assert loss.isnan()
