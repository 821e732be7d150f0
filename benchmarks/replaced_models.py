"""Times models of transformers on a CPU, before and after ``replace_transformers``.

    pip install torch transformers
    python benchmarks/replaced_models.py --threads 2

The models have the widths of the published ones, fewer layers and random weights. Both take turns;
their outputs must agree to 1e-5 of the largest element.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import transformers

from cudeform.interop.torch import replace_transformers
from cudeform_bench.cpu.timing import largest_error, time_in_turns

TOLERANCE = 1e-5
STAGES = ["stage2", "stage3", "stage4"]
OWN_BACKBONE = {"use_timm_backbone": False, "backbone": None}


def deformable_detr() -> Any:
    """Deformable DETR on a ResNet-18: two layers of encoder and of decoder, four levels."""
    backbone = transformers.ResNetConfig(
        hidden_sizes=[64, 128, 256, 512], depths=[2] * 4, layer_type="basic", out_features=STAGES
    )
    layers = {"encoder_layers": 2, "decoder_layers": 2}
    config = transformers.DeformableDetrConfig(backbone_config=backbone, **OWN_BACKBONE, **layers)
    return transformers.DeformableDetrForObjectDetection(config)


def grounding_dino() -> Any:
    """Grounding DINO on a small Swin: two layers of encoder and of decoder, four levels."""
    backbone = transformers.SwinConfig(embed_dim=48, depths=[1] * 4, out_features=STAGES)
    text = transformers.BertConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    layers = {"encoder_layers": 2, "decoder_layers": 2, "num_queries": 300}
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone, text_config=text, **OWN_BACKBONE, **layers
    )
    return transformers.GroundingDinoForObjectDetection(config)


def rt_detr() -> Any:
    """RT-DETR on a ResNet-18: six layers of decoder, three levels."""
    backbone = transformers.RTDetrResNetConfig(
        hidden_sizes=[64, 128, 256, 512], depths=[2] * 4, layer_type="basic", out_features=STAGES
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone, encoder_in_channels=[128, 256, 512], **OWN_BACKBONE
    )
    return transformers.RTDetrForObjectDetection(config)


def call_of(model: Any, given: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """A call that gives the scores and boxes of a model as NumPy arrays."""

    def call() -> dict[str, Any]:
        with torch.no_grad():
            found = model(**given)
        return {name: found[name].nan_to_num(neginf=0).numpy() for name in ("logits", "pred_boxes")}

    return call


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description="models of transformers before and after")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each model")
    parser.add_argument("--size", type=int, default=480, help="height and width of the image")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{'':18}{'own ms':>10}{'cudeform ms':>14}{'ratio':>9}{'difference':>13}")
    for make in (deformable_detr, grounding_dino, rt_detr):
        torch.manual_seed(0)
        model = make().eval()
        given = {"pixel_values": torch.randn(1, 3, arguments.size, arguments.size)}
        if make is grounding_dino:
            given["input_ids"] = torch.randint(5, 99, (1, 8))
        calls = {"own": call_of(model, given)}
        calls["cudeform"] = call_of(replace_transformers(copy.deepcopy(model)), given)
        error = largest_error(calls["cudeform"](), calls["own"]())
        if not error <= TOLERANCE:
            raise SystemExit(f"{make.__name__}: the outputs differ by {error:.2g}; not timed")
        samples = time_in_turns(calls, arguments.seconds)
        own, ours = (1e3 * median(samples[name]) for name in ("own", "cudeform"))
        print(
            f"{make.__name__:18}{own:10.1f}{ours:14.1f}{own / ours:8.2f}x{error:13.1e}", flush=True
        )


if __name__ == "__main__":
    main()
