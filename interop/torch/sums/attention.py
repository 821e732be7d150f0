"""The layer of multi-scale deformable attention: mmcv's constructor, common parameter names.

Deformable DETR, DINO, mmcv, detrex and transformers name the four projections alike, so the state
dict of any of them loads. ``weighted_samples`` is what the layers of all these libraries have in
common; ``hugging_face.py`` calls it too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from cudeform.arrays import Operands
from cudeform.family import MS_DEFORM_ATTN
from cudeform.sums.rays import rays
from cudeform.sums.settings import AttentionSettings, SpatialShapes

from ..adapter import ADAPTER
from ..views import Tensor

HALVES = (torch.float16, torch.bfloat16)


class Heads(NamedTuple):
    """The sizes of an attention."""

    heads: int
    levels: int
    points: int


class MultiScaleDeformableAttention(nn.Module):  # type: ignore[misc]
    """Attention to a few points of each level: ``mmcv.ops.MultiScaleDeformableAttention``.

    From each query the layer predicts, for each head and level, where to look
    (``sampling_offsets``, in pixels of the level) and how much each point counts
    (``attention_weights``, before a softmax). ``value_proj`` is applied before sampling,
    ``output_proj`` after it.

    Args:
        embed_dims: channels of queries and values.
        num_heads: heads; the channels of a value are divided among them.
        num_levels: levels of the pyramid.
        num_points: points of each query, head and level.
        im2col_step: of mmcv; without effect, for the batch need not be divided.
        dropout: probability of the dropout before ``identity`` is added.
        batch_first: whether arrays are (N, length, channels); otherwise (length, N, channels).
        norm_cfg: of mmcv, which does not use it either.
        init_cfg: of mmcv; must be None.
        value_proj_ratio: channels of a projected value, as a multiple of ``embed_dims``.
        boundary_grad: as in ``cudeform.options``; None takes the option in force at each call.

    Example:
        >>> import torch
        >>> layer = MultiScaleDeformableAttention(32, num_heads=4, num_levels=2, batch_first=True)
        >>> shapes = [(8, 8), (4, 4)]
        >>> value, query = torch.randn(1, 64 + 16, 32), torch.randn(1, 5, 32)
        >>> points = torch.rand(1, 5, 2, 2)  # x, y of each query on each level, in [0, 1]
        >>> layer(query, value=value, reference_points=points, spatial_shapes=shapes).shape
        torch.Size([1, 5, 32])
    """

    def __init__(
        self,
        embed_dims: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        im2col_step: int = 64,
        dropout: float = 0.1,
        batch_first: bool = False,
        norm_cfg: Any = None,
        init_cfg: Any = None,
        value_proj_ratio: float = 1.0,
        *,
        boundary_grad: str | None = "zero",
    ) -> None:
        """Make the layer and initialise it as mmcv does."""
        super().__init__()
        projected = int(embed_dims * value_proj_ratio)
        for name, channels in (
            ("embed_dims", embed_dims),
            ("embed_dims * value_proj_ratio", projected),
        ):
            if channels % num_heads:
                raise ValueError(f"num_heads = {num_heads} must divide {name}, got {channels}")
        if init_cfg is not None:
            raise ValueError(
                f"init_cfg must be None, got {init_cfg!r}: initialise the parameters of the layer "
                "after it is made"
            )
        self.embed_dims, self.num_heads = embed_dims, num_heads
        self.num_levels, self.num_points = num_levels, num_points
        self.batch_first, self.boundary_grad = batch_first, boundary_grad
        self.dropout = nn.Dropout(dropout)
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dims, 2 * samples)
        self.attention_weights = nn.Linear(embed_dims, samples)
        self.value_proj = nn.Linear(embed_dims, projected)
        self.output_proj = nn.Linear(projected, embed_dims)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise as mmcv does: equal weights, points on rays from the reference point."""
        bias = self.sampling_offsets.bias
        along = rays(self.num_heads, self.num_levels, self.num_points).ravel()
        with torch.no_grad():
            bias.copy_(torch.tensor(along, dtype=bias.dtype, device=bias.device))
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        reference_points: Tensor | None = None,
        spatial_shapes: SpatialShapes = None,
        level_start_index: Any = None,
        **_: Any,
    ) -> Tensor:
        """Attend, and add ``identity``; the arguments are mmcv's.

        Args:
            query: (N, Lq, channels), or (Lq, N, channels) if not ``batch_first``.
            key: not used, as in mmcv.
            value: (N, S, channels) or (S, N, channels): the pixels of all levels, one level behind
                the other, each row by row; None for ``query``.
            identity: what is added to the output; None for ``query``.
            query_pos: added to the query, but not to the identity.
            key_padding_mask: (N, S), true where a value counts as zero.
            reference_points: (N, Lq, levels, 2): x and y in [0, 1] that offsets are added to; or
                (N, Lq, levels, 4): centre, width and height of a box, whose half is the unit of
                ``num_points`` pixels.
            spatial_shapes: (height, width) of each level: pairs, or a tensor (levels, 2). A tensor
                on a GPU is read, which waits for the device, and cannot be read under
                ``torch.compile``: pass pairs there.
            level_start_index: not used; it follows from the sizes.

        Returns:
            The shape of ``query``.
        """
        if reference_points is None or spatial_shapes is None:
            raise TypeError("reference_points and spatial_shapes must be given")
        value = query if value is None else value
        identity = query if identity is None else identity
        query = query if query_pos is None else query + query_pos
        if not self.batch_first:
            query, value = query.transpose(0, 1), value.transpose(0, 1)
        sizes = Heads(self.num_heads, self.num_levels, self.num_points)
        arguments = (query, value, key_padding_mask, reference_points, spatial_shapes)
        output, _weights = weighted_samples(self, sizes, *arguments)
        output = self.output_proj(output)
        if not self.batch_first:
            output = output.transpose(0, 1)
        return self.dropout(output) + identity

    def locations_and_weights(
        self, query: Tensor, reference_points: Tensor, spatial_shapes: SpatialShapes
    ) -> tuple[Tensor, Tensor]:
        """Where queries look: what :meth:`forward` samples, for ``cudeform.plot_attention``.

        Args:
            query: as for :meth:`forward`, with ``query_pos`` added.
            reference_points, spatial_shapes: as for :meth:`forward`.

        Returns:
            ``sampling_locations`` and ``attention_weights`` of ``cudeform.ms_deform_attn``.
        """
        query = query if self.batch_first else query.transpose(0, 1)
        sizes = Heads(self.num_heads, self.num_levels, self.num_points)
        return _predicted(self, sizes, query, reference_points, spatial_shapes)

    def extra_repr(self) -> str:
        """Sizes, and the arguments that differ from the default."""
        shown = f"{self.embed_dims}, num_heads={self.num_heads}, num_levels={self.num_levels}"
        shown += f", num_points={self.num_points}, batch_first={self.batch_first}"
        other = self.boundary_grad != "zero"
        return shown + (f", boundary_grad={self.boundary_grad!r}" if other else "")


def weighted_samples(
    layer: Any,
    sizes: Heads,
    query: Tensor,
    value: Tensor,
    padded: Tensor | None,
    reference_points: Tensor,
    spatial_shapes: SpatialShapes,
) -> tuple[Tensor, Tensor]:
    """What all layers do between their input and ``output_proj``.

    Args:
        layer: has the projections ``value_proj``, ``sampling_offsets``, ``attention_weights``, and
            ``boundary_grad``.
        sizes: its heads, levels and points.
        query: (N, Lq, channels).
        value: (N, S, channels), before its projection.
        padded: (N, S), true where a value counts as zero; None for nowhere.
        reference_points: (N, Lq, levels, 2 or 4).
        spatial_shapes: (height, width) of each level.

    Returns:
        The output, (N, Lq, channels), and the attention weights, (N, Lq, heads, levels, points).
    """
    value = layer.value_proj(value)
    if padded is not None:
        value = value.masked_fill(padded[..., None], 0.0)
    locations, weights = _predicted(layer, sizes, query, reference_points, spatial_shapes)
    value = value.unflatten(-1, (sizes.heads, -1))
    return attend(value, spatial_shapes, locations, weights, layer.boundary_grad), weights


def _predicted(
    layer: Any,
    sizes: Heads,
    query: Tensor,
    reference_points: Tensor,
    spatial_shapes: SpatialShapes,
) -> tuple[Tensor, Tensor]:
    """Locations and weights, (N, Lq, heads, levels, points, 2) and without the last axis."""
    offsets = layer.sampling_offsets(query).unflatten(-1, (*sizes, 2))
    weights = layer.attention_weights(query).unflatten(-1, (sizes.heads, -1)).softmax(-1)
    locations = sampling_locations(reference_points, offsets, spatial_shapes)
    return locations, weights.unflatten(-1, sizes[1:])


def sampling_locations(
    reference_points: Tensor, offsets: Tensor, spatial_shapes: SpatialShapes
) -> Tensor:
    """Normalised locations (N, Lq, heads, levels, points, 2) from predicted offsets of that shape.

    Raises:
        ValueError: reference points of neither 2 nor 4 numbers.
    """
    numbers = reference_points.shape[-1]
    around = reference_points[:, :, None, :, None, :]
    if numbers == 2:
        sizes = torch.as_tensor(spatial_shapes, device=offsets.device).flip(-1)
        return around + offsets / sizes[:, None]
    if numbers == 4:
        return around[..., :2] + offsets / offsets.shape[-2] * around[..., 2:] * 0.5
    raise ValueError(
        "reference_points must end in 2 numbers (x, y) or in 4 (x, y, width, height), "
        f"got the shape {tuple(reference_points.shape)}"
    )


def attend(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    locations: Tensor,
    weights: Tensor,
    boundary_grad: str | None,
    points: Any = None,
) -> Tensor:
    """``cudeform.ms_deform_attn``, for locations and weights of any floating dtypes.

    They stay float32 beside a value in half precision; otherwise they get the value's dtype.
    """
    dtype = torch.promote_types(locations.dtype, weights.dtype)
    if not (value.dtype in HALVES and dtype == torch.float32):
        dtype = value.dtype
    operands = Operands(value, locations.to(dtype), mask=weights.to(dtype))
    settings = AttentionSettings(spatial_shapes, points).resolved(value, None, 2)
    return ADAPTER.forward(MS_DEFORM_ATTN, operands, settings, boundary_grad)
