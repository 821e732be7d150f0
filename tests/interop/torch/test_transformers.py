"""``replace_transformers``, on small models of the real ``transformers`` with random weights."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from support.torchcases import quiet, torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", exc_type=ImportError)

from cudeform.interop import torch as cudeform_torch  # noqa: E402
from cudeform.interop.torch.sums import attention as attention_layers  # noqa: E402
from cudeform.interop.torch.sums import hugging_face  # noqa: E402

pytestmark = [quiet, pytest.mark.filterwarnings("ignore::UserWarning")]

NO_DOWNLOAD = {"use_timm_backbone": False, "backbone": None}
HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
WIDTHS = {"d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "decoder_layers": 2}
STAGES = ["stage2", "stage3", "stage4"]
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}
SWIN = {"image_size": 64, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
RT_DETR = {
    "encoder_hidden_dim": 32,
    "decoder_in_channels": [32, 32, 32],
    "num_queries": 9,
    "num_denoising": 0,
    "anchor_image_size": None,
}


def deformable_detr() -> Any:
    backbone = transformers.ResNetConfig(**RESNET, layer_type="basic", out_features=STAGES)
    sizes: dict[str, Any] = {"encoder_layers": 1, "num_feature_levels": 3, "num_queries": 7}
    config = transformers.DeformableDetrConfig(
        backbone_config=backbone, with_box_refine=True, **NO_DOWNLOAD, **HEADS, **WIDTHS, **sizes
    )
    return transformers.DeformableDetrForObjectDetection(config)


def grounding_dino() -> Any:
    backbone = transformers.SwinConfig(**SWIN, window_size=2, out_features=STAGES)
    text: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone,
        text_config=transformers.BertConfig(vocab_size=40, num_hidden_layers=1, **text),
        encoder_layers=1,
        num_queries=9,
        max_text_len=16,
        **NO_DOWNLOAD,
        **HEADS,
        **WIDTHS,
    )
    return transformers.GroundingDinoForObjectDetection(config)


def rt_detr() -> Any:
    backbone = transformers.RTDetrResNetConfig(**RESNET, layer_type="basic", out_features=STAGES)
    channels = {"encoder_in_channels": [16, 32, 64]}
    config = transformers.RTDetrConfig(
        backbone_config=backbone, **NO_DOWNLOAD, **HEADS, **WIDTHS, **RT_DETR, **channels
    )
    return transformers.RTDetrForObjectDetection(config)


def d_fine() -> Any:
    backbone = transformers.HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 16, 32, 32],
        stage_mid_channels=[8, 8, 16, 16],
        stage_out_channels=[16, 32, 32, 64],
        stage_num_blocks=[1, 1, 1, 1],
        stage_downsample=[False, True, True, True],
        stage_light_block=[False] * 4,
        stage_kernel_size=[3, 3, 3, 3],
        stage_numb_of_layers=[1, 1, 1, 1],
        embedding_size=8,
        hidden_sizes=[16, 32, 32, 64],
        depths=[1, 1, 1, 1],
        out_features=STAGES,
    )
    more = {"encoder_in_channels": [32, 32, 64], "decoder_n_points": [3, 6, 3]}
    config = transformers.DFineConfig(
        backbone_config=backbone, **NO_DOWNLOAD, **HEADS, **WIDTHS, **RT_DETR, **more
    )
    return transformers.DFineForObjectDetection(config)


def mask2former() -> Any:
    backbone = transformers.SwinConfig(**SWIN, window_size=2, out_features=["stage1", *STAGES])
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=4,
        dim_feedforward=32,
        num_queries=6,
        **NO_DOWNLOAD,
    )
    return transformers.Mask2FormerForUniversalSegmentation(config)


MODELS = [deformable_detr, grounding_dino, rt_detr, d_fine, mask2former]


def model_of(make: Callable[[], Any], dtype: Any = torch.float64) -> Any:
    """A model whose points are at no whole coordinate, where the output has kinks."""
    torch.manual_seed(0)
    model = make().to(dtype).eval()
    for name, parameter in model.named_parameters():
        if "sampling_offsets" in name or "attention_weights" in name:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


def arguments(make: Any, dtype: Any = torch.float64) -> dict[str, Any]:
    torch.manual_seed(1)
    given = {"pixel_values": torch.randn(2, 3, 64, 96, dtype=dtype)}
    if make is grounding_dino:
        given["input_ids"] = torch.randint(5, 39, (2, 6))
    if make is deformable_detr:  # a second image with padding at its right
        given["pixel_mask"] = (torch.arange(96) < torch.tensor([96, 70])[:, None])[:, None]
        given["pixel_mask"] = given["pixel_mask"].expand(2, 64, 96).long()
    return given


def results(model: Any, given: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """All outputs, and the gradients of a function of all of them."""
    torch.manual_seed(2)
    model.zero_grad()
    found = model(**given).to_tuple()
    outputs = [t for t in found if isinstance(t, torch.Tensor) and t.requires_grad]
    outputs = [torch.where(t.isfinite(), t, 0) for t in outputs]  # logits of absent words
    sum(t.pow(2).sum() for t in outputs).backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return [t.detach() for t in outputs], grads


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that grows by one with each call of cudeform's operator."""
    calls: list[Any] = []
    forward = attention_layers.ADAPTER.forward

    def counting(*given: Any) -> Any:
        calls.append(given)
        return forward(*given)

    monkeypatch.setattr(attention_layers.ADAPTER, "forward", counting, raising=False)
    return calls


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_outputs_and_gradients_are_as_before(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, given = model_of(make), arguments(make)
    names, outputs, grads = list(model.state_dict()), *results(model, given)
    calls = counted(monkeypatch)
    assert cudeform_torch.replace_transformers(model) is model
    replaced, new_grads = results(model, given)
    assert calls
    assert list(model.state_dict()) == names
    for mine, theirs in zip(replaced, outputs, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-9)
    assert list(new_grads) == list(grads)
    largest = max(float(each.abs().max()) for each in grads.values())
    for name, mine in new_grads.items():
        assert torch.allclose(mine, grads[name], rtol=1e-7, atol=1e-9 * largest), name


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_outputs_in_float32_are_within_1e_5(make: Callable[[], Any]) -> None:
    model, given = model_of(make, torch.float32), arguments(make, torch.float32)
    outputs, _ = results(model, given)
    replaced, _ = results(cudeform_torch.replace_transformers(model), given)
    for mine, theirs in zip(replaced, outputs, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def test_replaced_modules_keep_hooks_and_can_be_copied_and_pickled() -> None:
    model, given = model_of(deformable_detr), arguments(deformable_detr)
    called: list[str] = []
    for name, module in model.named_modules():
        if type(module).__name__ == "MultiScaleDeformableAttention":
            module.register_forward_hook(Note(called, name))
    cudeform_torch.replace_transformers(model)
    wanted = model(**given).logits
    assert len(called) == 3  # one layer of the encoder, two of the decoder
    assert all(name.endswith(".attn") for name in called)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(**given).logits, wanted)


class Note:
    """A hook that notes the name of a module."""

    def __init__(self, called: list[str], name: str) -> None:
        self.called, self.name = called, name

    def __call__(self, *_: Any) -> None:
        self.called.append(self.name)


def test_attentions_can_still_be_asked_for() -> None:
    model, given = model_of(rt_detr), arguments(rt_detr)
    before = model(**given, output_attentions=True).cross_attentions
    cudeform_torch.replace_transformers(model)
    after = model(**given, output_attentions=True).cross_attentions
    assert len(before) == 2
    assert all(map(torch.allclose, after, before))


def test_the_default_edge_rule_is_that_of_cuda() -> None:
    model = cudeform_torch.replace_transformers(model_of(deformable_detr))
    rules = [m.boundary_grad for m in model.modules() if isinstance(m, hugging_face.Sampling)]
    assert rules == ["zero"] * 3


def test_a_model_that_samples_nearest_pixels_stays_as_it_is() -> None:
    model = model_of(d_fine)
    layers = [m for m in model.modules() if hasattr(m, "ms_deformable_attn_core")]
    theirs = layers[0].ms_deformable_attn_core
    layers[0].decoder_method = "discrete"
    cudeform_torch.replace_transformers(model)
    assert layers[0].ms_deformable_attn_core is theirs
    assert layers[1].ms_deformable_attn_core is not theirs


def test_other_models_stay_as_they_are() -> None:
    class MultiScaleDeformableAttention(torch.nn.Module):
        pass

    model = torch.nn.Sequential(MultiScaleDeformableAttention(), torch.nn.Linear(2, 2))
    cudeform_torch.replace_transformers(model)
    assert [type(m) for m in model] == [MultiScaleDeformableAttention, torch.nn.Linear]
