"""Scratch memory stays within its limit, and no array is copied without need."""

from collections.abc import Iterator

import numpy as np
import pytest
from cases import Case, build
from checks import measured_peak

import cudeform

MIB = 2**20
DEFAULT_WORKSPACE = 64 * MIB
SLACK = MIB  # Python objects, threads, what is not an array


def call(shape: tuple[int, ...], out_channels: int) -> Case:
    """A large float32 case of cheap contents: the values do not matter here."""
    batch, channels, height, width = shape
    fill = np.float32(0.25)
    return Case(
        name="large",
        input=np.full(shape, fill),
        offset=np.full((batch, 18, height, width), fill),
        weight=np.full((out_channels, channels, 3, 3), fill),
        bias=np.full(out_channels, fill),
        mask=np.full((batch, 9, height, width), fill),
        grad_output=np.full((batch, out_channels, height, width), fill),
        padding=1,
    )


@pytest.fixture(
    scope="module",
    params=[(128, 200, 336), pytest.param((128, 400, 672), marks=pytest.mark.slow)],
    ids=["a quarter", "at size"],
)
def large(request: pytest.FixtureRequest) -> Case:
    return call((1, *request.param), out_channels=32)


@pytest.fixture
def limit(large: Case) -> Iterator[int]:
    """The workspace limit: the default at size, and less where the image is smaller."""
    at_size = large.input.nbytes > 128 * MIB
    with cudeform.options(workspace_limit=None if at_size else 16 * MIB):
        yield DEFAULT_WORKSPACE if at_size else 16 * MIB


@pytest.fixture(autouse=True, scope="module")
def _everything_is_imported() -> None:
    case = build("warm").cast("float32")
    cudeform.deform_conv2d_backward(**case.backward_arguments)


def forward_peak(case: Case) -> int:
    with measured_peak() as peak:
        cudeform.deform_conv2d(**case.arguments)
    return peak.nbytes


def backward_peak(case: Case) -> int:
    with measured_peak() as peak:
        cudeform.deform_conv2d_backward(**case.backward_arguments)
    return peak.nbytes


def gradients(case: Case) -> int:
    """Bytes of all gradients."""
    return sum(getattr(case, name).nbytes for name in ("input", "offset", "weight", "bias", "mask"))


def test_forward_holds_one_channels_last_image_and_the_workspace(large: Case, limit: int) -> None:
    output, image = large.grad_output.nbytes, large.input.nbytes
    assert forward_peak(large) <= output + image + limit + SLACK


def test_forward_copies_nothing_that_is_channels_last(large: Case, limit: int) -> None:
    case = large.laid_out("channels last")
    assert forward_peak(case) <= large.grad_output.nbytes + limit + SLACK


def test_backward_holds_two_channels_last_images_and_the_workspace(large: Case, limit: int) -> None:
    assert backward_peak(large) <= gradients(large) + 2 * large.input.nbytes + limit + SLACK


MEDIUM = call((2, 128, 96, 96), out_channels=8)  # two images of 4.5 MiB each, one at a time


@pytest.mark.promise("bounded memory")
@pytest.mark.each_value
@pytest.mark.parametrize("limit", [2 * MIB, 8 * MIB, 32 * MIB])
@pytest.mark.parametrize("threads", [1, 4])
def test_a_smaller_limit_is_kept(limit: int, threads: int) -> None:
    image = MEDIUM.input[:1].nbytes
    with cudeform.options(workspace_limit=limit, num_threads=threads):
        assert forward_peak(MEDIUM) <= MEDIUM.grad_output.nbytes + image + limit + SLACK
        assert backward_peak(MEDIUM) <= gradients(MEDIUM) + 2 * image + limit + SLACK


@pytest.mark.promise("bounded memory")
@pytest.mark.each_value
@pytest.mark.parametrize(
    ("shape", "out_channels"),
    [((64, 64, 14, 14), 16), ((200, 16, 7, 7), 64), ((1, 8, 96, 700), 8), ((3, 512, 20, 20), 8)],
)
@pytest.mark.parametrize("limit", [4 * MIB, 16 * MIB])
def test_the_limit_is_kept_whatever_the_shape(
    shape: tuple[int, ...], out_channels: int, limit: int
) -> None:
    case = call(shape, out_channels)
    image = case.input[:1].nbytes
    with cudeform.options(workspace_limit=limit, num_threads=4):
        assert forward_peak(case) <= case.grad_output.nbytes + image + limit + SLACK
        assert backward_peak(case) <= gradients(case) + 2 * image + limit + SLACK


def test_a_gradient_that_is_not_needed_takes_no_memory() -> None:
    case = call((1, 64, 128, 128), out_channels=8)
    with cudeform.options(workspace_limit=2 * MIB), measured_peak() as peak:
        cudeform.deform_conv2d_backward(**case.backward_arguments, needs=("weight",))
    assert peak.nbytes <= case.weight.nbytes + case.input.nbytes + 2 * MIB + SLACK


def test_half_precision_holds_the_image_in_float32() -> None:
    case = MEDIUM.cast("float16")
    image = 2 * case.input[:1].nbytes
    with cudeform.options(workspace_limit=4 * MIB):
        assert forward_peak(case) <= case.grad_output.nbytes + image + 4 * MIB + SLACK


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_too_small_a_limit_is_refused_with_the_least_that_works(direction: str) -> None:
    case = call((1, 16, 20, 20), out_channels=4)

    def run() -> None:
        if direction == "forward":
            cudeform.deform_conv2d(**case.arguments)
        else:
            cudeform.deform_conv2d_backward(**case.backward_arguments)

    with (
        cudeform.options(workspace_limit=1000),
        pytest.raises(ValueError, match=r"workspace_limit must be at least \d+ .* got 1000") as no,
    ):
        run()
    least = int(str(no.value).split("at least ")[1].split()[0].replace(",", ""))
    with cudeform.options(workspace_limit=least):
        run()
    with cudeform.options(workspace_limit=least - 1), pytest.raises(ValueError, match=str(least)):
        run()


def test_the_least_limit_is_that_of_one_image() -> None:
    many = build("many small images", batch=30, size=(9, 9)).cast("float32")
    one = build("one small image", batch=1, size=(9, 9)).cast("float32")
    with cudeform.options(workspace_limit=1), pytest.raises(ValueError, match="at least") as first:
        cudeform.deform_conv2d(**one.arguments)
    with cudeform.options(workspace_limit=1), pytest.raises(ValueError, match="at least") as second:
        cudeform.deform_conv2d(**many.arguments)
    assert str(first.value) == str(second.value)
