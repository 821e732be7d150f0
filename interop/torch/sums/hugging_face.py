"""The attention of the models of ``transformers``, computed by cudeform.

Most models have a module without parameters, ``MultiScaleDeformableAttention``, that does nothing
but call the operator: it becomes a ``Sampling``. In Mask2Former and OneFormer the layer with the
projections calls the operator: it becomes a ``PixelDecoderAttention``, which has the same
parameters and is called alike. The layers of D-FINE and DEIMv2 have an attribute with the operator.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ..views import Tensor
from .attention import Heads, attend, weighted_samples

BOUNDARY_GRAD = "zero"  # of the CUDA operator that the models were trained with


class Sampling(nn.Module):  # type: ignore[misc]
    """The module that wraps the operator: transformers' ``MultiScaleDeformableAttention``."""

    boundary_grad: str | None = BOUNDARY_GRAD

    def forward(
        self,
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_spatial_shapes_list: Any,
        level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int,
    ) -> Tensor:
        """(N, Lq, M*D); the sizes are taken from the list, so that no tensor is read."""
        shapes = tuple([tuple(size) for size in value_spatial_shapes_list])
        return attend(value, shapes, sampling_locations, attention_weights, self.boundary_grad)


class PixelDecoderAttention(nn.Module):  # type: ignore[misc]
    """The layer of the pixel decoders of Mask2Former and OneFormer."""

    boundary_grad: str | None = BOUNDARY_GRAD

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        position_embeddings: Tensor | None = None,
        reference_points: Any = None,
        spatial_shapes_list: Any = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        """Output (N, Lq, channels) and attention weights (N, Lq, heads, levels, points)."""
        query = hidden_states
        if position_embeddings is not None:
            query = query + position_embeddings
        shapes = tuple([tuple(size) for size in spatial_shapes_list])
        sizes = Heads(self.n_heads, self.n_levels, self.n_points)
        arguments = (query, encoder_hidden_states, attention_mask, reference_points, shapes)
        output, weights = weighted_samples(self, sizes, *arguments)
        return self.output_proj(output), weights


CLASSES = {
    "MultiScaleDeformableAttention": Sampling,
    "Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention": PixelDecoderAttention,
    "OneFormerPixelDecoderEncoderMultiscaleDeformableAttention": PixelDecoderAttention,
}
OPERATOR = "ms_deformable_attn_core"  # the attribute, and the name of what it holds
OPERATOR_NAME = "multi_scale_deformable_attention_v2"


def sample_levels(
    value: Tensor,
    value_spatial_shapes: Any,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    num_points_list: Any,
    method: str = "default",
) -> Tensor:
    """The operator of D-FINE, for which levels may differ in their number of points."""
    shapes = tuple([tuple(size) for size in value_spatial_shapes])
    points = tuple(num_points_list)
    return attend(
        value, shapes, sampling_locations, attention_weights, BOUNDARY_GRAD, points=points
    )


def replace_transformers(model: nn.Module) -> nn.Module:
    """Let cudeform compute the deformable attention of a model of ``transformers``.

    For Deformable DETR, Grounding DINO, MM Grounding DINO, RT-DETR, LW-DETR, RF-DETR, OmDet-Turbo,
    PP-DocLayout, D-FINE, DEIMv2, and the pixel decoders of Mask2Former and OneFormer. All other
    modules are left as they are, without an error. These include RT-DETRv2, whose layer computes
    the operator in its own forward, and models that sample the nearest pixels
    (``decoder_method="discrete"``).

    The function changes the class of the modules that compute the operator; they remain the same
    objects, with their parameters, hooks and names in state dicts. Instances of derived classes are
    not converted. Sizes of levels are taken from the lists that the models pass along, so nothing
    is read from a GPU.

    Args:
        model: the model, which is changed in place. Its parameters remain the same objects, so an
            optimiser that refers to them keeps working.

    Returns:
        The model.
    """
    for module in model.modules():
        found = type(module)
        if not found.__module__.startswith("transformers."):
            continue
        if found.__name__ in CLASSES:
            module.__class__ = CLASSES[found.__name__]
        operator = getattr(vars(module).get(OPERATOR), "__name__", None)
        if operator == OPERATOR_NAME and module.decoder_method == "default":
            setattr(module, OPERATOR, sample_levels)
    return model
