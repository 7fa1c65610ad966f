"""Fixtures that several test files share."""

import pytest
import torch

from course_lib import pretrained


@pytest.fixture(scope="session")
def smollm2():
    """The real model and its tokenizer, in float32."""
    return pretrained.load("smollm2-135m-instruct", dtype=torch.float32)
