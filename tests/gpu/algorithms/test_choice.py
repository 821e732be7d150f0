"""The choice of the algorithm of a call, by the engine's rule and if one is forced."""

from __future__ import annotations

import pytest
from cases import Case, build
from hostcuda import HostDevice
from support.gpu_engine import backward, forward, geometry, launches

from cudeform.gpu import overrides
from cudeform.gpu.algorithms import backward_algorithm, forward_algorithm, uses_gather
from cudeform.options import Options

DEPTHWISE = build("depthwise", channels=16, out_channels=16, groups=16)
WIDE = build("wide", channels=16, out_channels=32)
ODD = build("odd", channels=5, out_channels=4)

DETERMINISTIC = Options(deterministic=True)


@pytest.mark.parametrize(
    ("case", "capability", "algorithm"),
    [
        (DEPTHWISE, 75, "direct"),
        (DEPTHWISE, 90, "direct"),
        (WIDE, 75, "im2col"),
        (WIDE, 80, "fused"),
        (ODD, 90, "im2col"),
    ],
)
def test_the_forward(case: Case, capability: int, algorithm: str) -> None:
    hardware = HostDevice(compute_capability=capability)
    assert forward_algorithm(geometry(case), "float16", hardware) == algorithm


@pytest.mark.parametrize(
    ("case", "options", "algorithm"),
    [
        (DEPTHWISE, Options(), "direct"),
        (DEPTHWISE, DETERMINISTIC, "im2col"),
        (WIDE, Options(), "im2col"),
    ],
)
def test_the_backward(case: Case, options: Options, algorithm: str) -> None:
    assert backward_algorithm(geometry(case), options) == algorithm


@pytest.mark.parametrize("forced", overrides.ALGORITHMS)
def test_the_forced_algorithm_is_taken_if_it_supports_the_call(forced: str) -> None:
    for case, supported in ((DEPTHWISE, {"direct", "im2col"}), (WIDE, {"fused", "im2col"})):
        g, hardware = geometry(case), HostDevice()
        chosen = forward_algorithm(g, "float16", hardware)
        with overrides.force(algorithm=forced):
            got = forward_algorithm(g, "float16", hardware)
        assert got == (forced if forced in supported else chosen)


def test_im2col_is_forced_for_the_backward_too() -> None:
    with overrides.force(algorithm="im2col"):
        assert backward_algorithm(geometry(DEPTHWISE), Options()) == "im2col"


def test_deterministic_calls_gather_whatever_is_forced() -> None:
    assert not uses_gather(Options())
    assert uses_gather(DETERMINISTIC)
    for name in overrides.SCATTERS:
        with overrides.force(scatter=name):
            assert uses_gather(DETERMINISTIC)
            assert uses_gather(Options()) == (name == "gather")


@pytest.mark.parametrize(
    ("case", "kernels"),
    [
        (DEPTHWISE, {"deform_direct", "deform_direct_backward"}),
        (WIDE, {"deform_fused", "deform_backward"}),
        (ODD, {"deform_im2col", "deform_backward"}),
    ],
)
def test_the_chosen_algorithms_run(case: Case, kernels: set[str]) -> None:
    device, case = HostDevice(), case.cast("float16")
    forward(device, case)
    backward(device, case)
    run = {"deform_direct", "deform_fused", "deform_im2col", "deform_backward"}
    run |= {"deform_direct_backward"}
    assert launches(device).keys() & run == kernels


# ---- forcing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["algorithm", "scatter"])
def test_a_name_that_does_not_exist_is_refused(what: str) -> None:
    force = overrides.force(**{what: "best"})
    with pytest.raises(ValueError, match=rf"{what} must be one of .*, got 'best'"), force:
        pass


def test_what_is_forced_ends_with_the_block() -> None:
    with overrides.force(scatter="scalar"):
        with overrides.force(scatter="gather", algorithm="im2col"):
            assert overrides.forced() == ("im2col", "gather")
        with overrides.force(algorithm="direct"):
            assert overrides.forced() == ("direct", "scalar")
        assert overrides.forced() == (None, "scalar")
    assert overrides.forced() == (None, None)
