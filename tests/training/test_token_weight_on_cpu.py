"""A token weight by name, before Ray: looked up, tried on made-up responses; each fault is refused by the key."""

import pytest
from composing import composed, refusal_of
from user_weights import FIVE, KEY

from recipe.egrsd import parts, token_weight
from recipe.egrsd.config import validation
from recipe.egrsd.method.weights import token_weights
from recipe.egrsd.token_weight import SETTINGS

pytestmark = pytest.mark.usefixtures("my_weights")

REFUSED = {
    # Python 3.12 says keyword-only argument
    "needs_tau": f"argument: 'tau'; the weight is called with ({FIVE}) and by keyword with those of "
    f"{', '.join(SETTINGS)} that it names",
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
    "from_the_cpu": "makes a tensor on the CPU, which does not go with those on a GPU; give torch.arange and the like",
    "on_the_cpu": "makes a tensor on the CPU, which does not go with those on a GPU",
    "adds_on_the_cpu": "makes a tensor on the CPU, which does not go with those on a GPU",
    "bad_part": "fails on made-up responses: its gate weight has shape (4, 1), expected (4, 5)",
}


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
    + [f"my_weights:{function}" for function in ("edits", "gated", "everything", "fails_late", "asks_numbers")],
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
