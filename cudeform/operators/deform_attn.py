"""Multi-scale deformable attention and its derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cudeform.arrays import AttentionDoubleGradients, AttentionGradients, Operands
from cudeform.family import MS_DEFORM_ATTN
from cudeform.operators import call
from cudeform.sums.settings import AttentionSettings, SpatialShapes


def ms_deform_attn(
    value: Any,
    spatial_shapes: SpatialShapes,
    sampling_locations: Any,
    attention_weights: Any,
    *,
    points: Sequence[int] | None = None,
) -> Any:
    """Multi-scale deformable attention: each query adds up samples of several images.

    The operator of Deformable DETR (Zhu et al., "Deformable DETR: Deformable Transformers for
    End-to-End Object Detection", ICLR 2021), with the arguments of
    ``multi_scale_deformable_attn_pytorch`` in mmcv and the results of its CUDA operator.

    The images of a pyramid, the *levels*, follow each other in ``value``, each in row-major order.
    Locations are normalized, **x first, then y**: (0, 0) is the top left corner of a level, (1, 1)
    its bottom right corner. A location samples its level of size (H, W) at::

        x = location_x * W - 0.5
        y = location_y * H - 0.5

    by bilinear interpolation of the level extended by zeros; a sample is 0 unless ``-1 < y < H``
    and ``-1 < x < W``. A NaN coordinate gives NaN, an infinite one is outside.

    Args:
        value: (N, S, M, D), float16, bfloat16, float32 or float64, any strides: S pixels of all
            levels, M heads, D channels of each head.
        spatial_shapes: (height, width) of each level, a sequence of pairs or an array (L, 2) of
            integers; their products add up to S. An array on a device is read, which waits for the
            device; under ``jit``, ``torch.compile`` or the recording of a CUDA graph it cannot be
            read and is refused: pass numbers there.
        sampling_locations: (N, Lq, M, L, P, 2) for Lq queries and P points on each level; or
            (N, Lq, M, sum of points, 2) with ``points``. On a GPU, levels and points must lie one
            behind the other, as in a contiguous array.
        attention_weights: (N, Lq, M, L, P), or (N, Lq, M, sum of points): the factor of each
            sample. No softmax is applied.
        points: number of points on each level, for locations whose levels differ in it.

    All arrays share one library and device. They share one dtype, except that locations and weights
    may be float32 beside a value in float16 or bfloat16. Half precision is too coarse for
    locations on large levels: at 200 pixels, bfloat16 is wrong by up to 0.39 pixels.

    Returns:
        (N, Lq, M*D), an array of the same library, device and dtype as the value.

    Raises:
        TypeError: an argument that is no array, arrays of different libraries or dtypes, an
            unsupported dtype, spatial_shapes that cannot be read.
        ValueError: arrays on different devices, shapes that do not fit.

    Example:
        >>> import numpy as np, cudeform
        >>> value = np.arange(4.0).reshape(1, 4, 1, 1)  # one level of 2 x 2 pixels
        >>> locations = np.array([0.5, 0.25]).reshape(1, 1, 1, 1, 1, 2)  # between 0 and 1
        >>> weights = np.ones((1, 1, 1, 1, 1))
        >>> cudeform.ms_deform_attn(value, [(2, 2)], locations, weights)
        array([[[0.5]]])
    """
    operands = Operands(value, sampling_locations, mask=attention_weights)
    return call.forward(MS_DEFORM_ATTN, operands, AttentionSettings(spatial_shapes, points))


def ms_deform_attn_backward(
    grad_output: Any,
    value: Any,
    spatial_shapes: SpatialShapes,
    sampling_locations: Any,
    attention_weights: Any,
    *,
    points: Sequence[int] | None = None,
    needs: Sequence[str] = AttentionGradients._fields,
) -> AttentionGradients:
    """Gradients of ``(grad_output * ms_deform_attn(...)).sum()``.

    At whole coordinates the gradient of the locations is the derivative to the right;
    ``cudeform.options(boundary_grad="zero")`` selects the other convention at a level's edge, that
    of Deformable DETR's CUDA operator.

    Args:
        grad_output: (N, Lq, M*D), same library, dtype and device as the value.
        value, spatial_shapes, sampling_locations, attention_weights, points: as for
            :func:`ms_deform_attn`.
        needs: names of the arguments whose gradients are needed; the others are not computed.

    Returns:
        A named tuple ``(value, sampling_locations, attention_weights)``, each of its argument's
        shape and dtype, None where not needed.

    Raises:
        TypeError, ValueError: as :func:`ms_deform_attn`, or a name in ``needs`` that is no
            argument.

    Example:
        >>> import numpy as np, cudeform
        >>> value = np.arange(4.0).reshape(1, 4, 1, 1)
        >>> locations, weights = np.full((1, 1, 1, 1, 1, 2), 0.5), np.ones((1, 1, 1, 1, 1))
        >>> grads = cudeform.ms_deform_attn_backward(
        ...     np.ones((1, 1, 1)), value, [(2, 2)], locations, weights
        ... )
        >>> grads.sampling_locations.ravel()  # change per width and per height of the level
        array([2., 4.])
    """
    operands = Operands(value, sampling_locations, mask=attention_weights)
    settings = AttentionSettings(spatial_shapes, points)
    grads: AttentionGradients = call.backward(
        MS_DEFORM_ATTN, operands, settings, grad_output, needs
    )
    return grads


def ms_deform_attn_jvp(
    tangents: AttentionGradients,
    value: Any,
    spatial_shapes: SpatialShapes,
    sampling_locations: Any,
    attention_weights: Any,
    *,
    points: Sequence[int] | None = None,
) -> Any:
    """Forward mode: the derivative of the output in the direction of ``tangents``.

    Args:
        tangents: :class:`cudeform.AttentionGradients`: one direction for each argument, of its
            shape and dtype; None stands for zero.
        value, spatial_shapes, sampling_locations, attention_weights, points: as for
            :func:`ms_deform_attn`.

    Returns:
        Tangent of the output, (N, Lq, M*D).

    Raises:
        TypeError, ValueError: as :func:`ms_deform_attn`.

    Example:
        >>> import numpy as np
        >>> from cudeform import AttentionGradients, derivatives
        >>> value = np.arange(4.0).reshape(1, 4, 1, 1)
        >>> locations, weights = np.full((1, 1, 1, 1, 1, 2), 0.5), np.ones((1, 1, 1, 1, 1))
        >>> tangents = AttentionGradients(attention_weights=weights)
        >>> derivatives.ms_deform_attn_jvp(tangents, value, [(2, 2)], locations, weights)
        array([[[1.5]]])
    """
    operands = Operands(value, sampling_locations, mask=attention_weights)
    settings = AttentionSettings(spatial_shapes, points)
    return call.jvp(MS_DEFORM_ATTN, operands, settings, tangents)


def ms_deform_attn_double_backward(
    cotangents: AttentionGradients,
    grad_output: Any,
    value: Any,
    spatial_shapes: SpatialShapes,
    sampling_locations: Any,
    attention_weights: Any,
    *,
    points: Sequence[int] | None = None,
    needs: Sequence[str] = AttentionDoubleGradients._fields,
) -> AttentionDoubleGradients:
    """Gradients of the gradients: of ``sum(cotangents * ms_deform_attn_backward(...))``.

    Args:
        cotangents: :class:`cudeform.AttentionGradients`: one cotangent for each gradient, of its
            shape and dtype; None stands for zero.
        grad_output: (N, Lq, M*D), as for :func:`ms_deform_attn_backward`.
        value, spatial_shapes, sampling_locations, attention_weights, points: as for
            :func:`ms_deform_attn`.
        needs: names of the results that are needed; the others are not computed.

    Returns:
        A named tuple ``(grad_output, value, sampling_locations, attention_weights)``.

    Raises:
        TypeError, ValueError: as :func:`ms_deform_attn_backward`.

    Example:
        >>> import numpy as np
        >>> from cudeform import AttentionGradients, derivatives
        >>> value = np.arange(4.0).reshape(1, 4, 1, 1)
        >>> locations, weights = np.full((1, 1, 1, 1, 1, 2), 0.5), np.ones((1, 1, 1, 1, 1))
        >>> second = derivatives.ms_deform_attn_double_backward(
        ...     AttentionGradients(attention_weights=weights),
        ...     np.ones((1, 1, 1)), value, [(2, 2)], locations, weights,
        ... )
        >>> second.value.ravel()  # the corner weights
        array([0.25, 0.25, 0.25, 0.25])
    """
    operands = Operands(value, sampling_locations, mask=attention_weights)
    settings = AttentionSettings(spatial_shapes, points)
    grads: AttentionDoubleGradients = call.double_backward(
        MS_DEFORM_ATTN, operands, settings, grad_output, cotangents, needs
    )
    return grads
