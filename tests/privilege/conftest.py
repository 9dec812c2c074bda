"""The tokenizer of the small task."""

import pytest
from transformers import PreTrainedTokenizerBase

from examples.tiny_cpu import model as tiny


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return tiny.build_tokenizer()
