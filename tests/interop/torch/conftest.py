"""Skips this folder if PyTorch is not installed; a fixture for its devices."""

from __future__ import annotations

from typing import Any

import pytest
from support.needs import has

collect_ignore_glob = [] if has("torch", "ml_dtypes") else ["*"]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def torch_device(request: pytest.FixtureRequest) -> Any:
    """A device of PyTorch."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return torch.device(request.param)
