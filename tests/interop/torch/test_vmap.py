"""vmap over the torch adapter: a loop in one call, nested, of gradients, compiled."""

from __future__ import annotations

from typing import Any

import pytest
from support.torchcases import STATIC_ARGS, convolve, quiet, tensors, torch

from torch.func import grad, vmap  # isort: skip

pytestmark = quiet


def test_gradients_of_each_example() -> None:
    input, offset, weight, bias, mask = tensors("cpu")

    def loss(weight: Any, image: Any, offset: Any, mask: Any) -> Any:
        return convolve(image[None], offset[None], weight, bias, mask[None]).pow(2).sum()

    found = vmap(grad(loss), (None, 0, 0, 0))(weight, input, offset, mask)
    wanted = [grad(loss)(weight, input[i], offset[i], mask[i]) for i in range(len(input))]
    assert torch.allclose(found, torch.stack(wanted))


@pytest.mark.parametrize(
    "dims",
    [
        (0, 0, 0, 0, 0),
        (0, 0, None, None, 0),
        (0, None, 0, None, None),
        (None, None, None, 0, None),
        (1, 2, 3, 0, 1),
        (None, 0, None, None, None),
    ],
)
def test_vmap_is_a_loop(torch_device: Any, dims: tuple[int | None, ...]) -> None:
    many = [
        t if d is None else torch.stack([t * factor for factor in (1.0, 0.5, 2.0)], dim=d)
        for t, d in zip(tensors(torch_device), dims, strict=True)
    ]

    def example(i: int, given: Any = many) -> list[Any]:
        return [t if d is None else t.select(d, i) for t, d in zip(given, dims, strict=True)]

    wanted = torch.stack([convolve(*example(i)) for i in range(3)])
    assert torch.allclose(vmap(convolve, dims)(*many), wanted)

    outer = tuple(None if d is None else 0 for d in dims)
    nested = [
        t if d is None else torch.stack([t, t * 0.25]) for t, d in zip(many, dims, strict=True)
    ]
    found = vmap(vmap(convolve, dims), outer)(*nested)
    for j in range(2):
        inner = [t if d is None else t[j] for t, d in zip(nested, outer, strict=True)]
        assert torch.allclose(
            found[j], torch.stack([convolve(*example(i, inner)) for i in range(3)])
        )


@pytest.mark.parametrize("backend", [None, "eager", "aot_eager"])
def test_vmap_of_the_operator_and_of_compiled_code(backend: str | None) -> None:
    torch._dynamo.reset()
    input, offset, weight, bias, mask = tensors("cpu")
    offsets = torch.stack([torch.stack([offset, offset / 2]), torch.stack([offset / 4, offset])])
    weights = torch.stack([weight, 2 * weight])

    def by_name(offset: Any, weight: Any) -> Any:
        return torch.ops.cudeform.deform_conv2d(input, offset, weight, bias, mask, STATIC_ARGS)

    def call(offset: Any, weight: Any) -> Any:
        return convolve(input, offset, weight, bias, mask)

    function = vmap(vmap(call if backend else by_name, (0, None)), (0, 0))
    if backend:
        function = torch.compile(function, fullgraph=True, backend=backend)
    wanted = [[call(offsets[i, j], weights[i]) for j in range(2)] for i in range(2)]
    assert torch.allclose(function(offsets, weights), torch.stack([*map(torch.stack, wanted)]))
