"""Each promise has a test in the default run; the signature of ``deform_conv2d``."""

from __future__ import annotations

import inspect

import pytest
from promises import PROMISED, PROMISES, is_whole_run

import cudeform


@pytest.mark.parametrize("promise", PROMISES)
def test_the_default_run_keeps(request: pytest.FixtureRequest, promise: str) -> None:
    if not is_whole_run(request.config):
        pytest.skip("needs a run of all folders")
    assert request.config.stash[PROMISED][promise], f"no test of the default run names {promise!r}"


@pytest.mark.promise("drop-in")
def test_arguments_are_torchvisions_in_order_and_defaults() -> None:
    """Those of ``torchvision.ops.deform_conv2d``, which the tests beside torchvision call."""
    wanted = {"input": None, "offset": None, "weight": None, "bias": None}
    wanted |= {"stride": 1, "padding": 0, "dilation": 1, "mask": None}
    parameters = inspect.signature(cudeform.deform_conv2d).parameters
    assert list(parameters) == list(wanted)
    for name, parameter in parameters.items():
        assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        required = name in ("input", "offset", "weight")
        assert parameter.default == (parameter.empty if required else wanted[name])
