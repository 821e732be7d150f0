"""vmap: one call for all examples, with their dimension folded into one of the operator's.

Examples that share weight and bias become images of one batch. Examples with their own weights
become groups of channels, filters and offsets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cudeform.spec import Operator

from .static_args import of_examples
from .views import Tensor

# The letters of a tensor stand for its leading dimensions: images and channels, or filters.
IMAGES, FILTERS = "i", "f"


def letters_of(operator: Operator) -> str:
    """The letters of each operand."""
    return "".join(FILTERS if each.is_parameter else IMAGES for each in operator.operands)


def vmapped(
    operator: Operator,
    call: Callable[..., Any],
    arguments: str,
    results: Sequence[tuple[str, bool]],
    info: Any,
    in_dims: Sequence[Any],
    args: Sequence[Any],
) -> tuple[Any, Any]:
    """Results of one ``call`` for all examples, and the dimension of the examples in each result.

    Args:
        operator: the entry of the operator in the table.
        call: one of its functions, of tensors and static arguments.
        arguments: letters of the tensors, which are the first of ``args``.
        results: letters of each result, and whether it is computed or left empty.
        info: torch's description of the vmap.
        in_dims: dimension of the examples in each of ``args``; None if the examples share it.
        args: arguments of the call.
    """
    count = len(arguments)
    tensors = list(zip(arguments, args[:count], in_dims[:count], strict=True))
    as_groups = (FILTERS, True) in results or any(
        letter == FILTERS and dim is not None for letter, _, dim in tensors
    )
    fold = _Fold(info.batch_size, as_groups)
    *rest, static_args = args[count:]
    if as_groups:
        static_args = of_examples(operator, static_args, info.batch_size)
    outcome = call(*(fold.folded(*each) for each in tensors), *rest, static_args)
    if len(results) == 1:
        return fold.unfolded(*results[0], outcome)
    pairs = [fold.unfolded(*each, tensor) for each, tensor in zip(results, outcome, strict=True)]
    return tuple(tensor for tensor, _ in pairs), tuple(dim for _, dim in pairs)


class _Fold:
    def __init__(self, examples: int, as_groups: bool) -> None:
        self.examples = examples
        self.as_groups = as_groups

    def folded(self, letter: str, tensor: Tensor | None, dim: int | None) -> Tensor | None:
        """Fold the dimension of the examples into another dimension of a tensor."""
        if tensor is None or (letter == FILTERS and not self.as_groups):
            return tensor
        if dim is None:
            tensor, dim = tensor.expand(self.examples, *tensor.shape), 0
        into = self._folded_dim(letter)
        return tensor.movedim(dim, into).flatten(into, into + 1)

    def unfolded(self, letter: str, computed: bool, tensor: Tensor) -> tuple[Tensor, int | None]:
        """Unfold the dimension of the examples; return the tensor and that dimension, if any."""
        if not computed:
            return tensor, None
        into = self._folded_dim(letter)
        size = tensor.shape[into] // self.examples
        return tensor.unflatten(into, (self.examples, size)), into

    def _folded_dim(self, letter: str) -> int:
        return int(self.as_groups and letter == IMAGES)
