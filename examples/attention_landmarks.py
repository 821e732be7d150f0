"""A tiny Deformable DETR for points: it learns where eight points of a photograph are in any view.

Each point is a learned query. Layer by layer, a query looks at a few points of each level of a
feature pyramid, around where it believes its point to be (``MultiScaleDeformableAttention``), and
corrects its belief. Views are turned, scaled and moved at random, so no view is seen twice.

    python examples/attention_landmarks.py [picture.png]
"""

import sys
import time

import numpy as np
import torch
from matplotlib import cbook, image
from torch import nn

import cudeform
from cudeform.interop.torch import MultiScaleDeformableAttention

SIZE, CHANNELS, HEADS, LAYERS = 64, 32, 4, 3
SHAPES = [(16, 16), (8, 8), (4, 4)]  # height and width of the levels
BATCH, STEPS = 8, 200
# Points of the photograph, x and y in [-1, 1]: cap, eyes, nose, mouth, collar, medals, shoulder.
POINTS = torch.tensor(
    [
        [0.06, -0.79],
        [-0.17, -0.30],
        [0.20, -0.31],
        [0.03, -0.14],
        [0.04, 0.05],
        [-0.10, 0.40],
        [0.55, 0.85],
        [-0.80, 0.62],
    ]
)

with cbook.get_sample_data("grace_hopper.jpg") as file:
    pixels = image.imread(file, format="jpg")[40:424:3, 64:448:3]
PHOTO = torch.tensor(pixels.transpose(2, 0, 1) / np.float32(255))[None]


def views(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random views (N, 3, SIZE, SIZE), and where the points are in them, (N, 8, 2) in [0, 1]."""
    turn = 0.5 * (2 * torch.rand(count) - 1)
    scale = 1.15 + 0.4 * torch.rand(count)  # so small that all points are in the view
    cos, sin = scale * turn.cos(), scale * turn.sin()
    rotation = torch.stack((cos, -sin, sin, cos), 1).view(count, 2, 2)
    shift = 0.1 * (2 * torch.rand(count, 2, 1) - 1)
    grid = nn.functional.affine_grid(
        torch.cat((rotation, shift), 2), [count, 3, SIZE, SIZE], align_corners=False
    )
    seen = nn.functional.grid_sample(PHOTO.expand(count, -1, -1, -1), grid, align_corners=False)
    where = torch.linalg.solve(rotation, POINTS.T - shift).transpose(1, 2)
    return seen, (where + 1) / 2


class Landmarks(nn.Module):
    """A backbone with three levels, and layers of attention that refine the points."""

    def __init__(self) -> None:
        super().__init__()

        def stage(inputs: int, outputs: int) -> nn.Module:
            convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
            return nn.Sequential(convolution, nn.GroupNorm(4, outputs), nn.ReLU())

        first = nn.Sequential(stage(3, 16), stage(16, CHANNELS))
        self.stages = nn.ModuleList([first, stage(CHANNELS, CHANNELS), stage(CHANNELS, CHANNELS)])
        self.queries = nn.Parameter(torch.randn(len(POINTS), CHANNELS))
        self.attention = nn.ModuleList(
            MultiScaleDeformableAttention(
                CHANNELS, HEADS, num_levels=3, num_points=4, dropout=0.0, batch_first=True
            )
            for _ in range(LAYERS)
        )
        self.mix = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, 64), nn.ReLU(), nn.Linear(64, CHANNELS)
            )
            for _ in range(LAYERS)
        )
        self.correct = nn.ModuleList(nn.Linear(CHANNELS, 2) for _ in range(LAYERS))
        for each in self.correct:
            nn.init.zeros_(each.weight)
            nn.init.zeros_(each.bias)

    def forward(self, seen: torch.Tensor) -> list[torch.Tensor]:
        """The points after each layer, (N, 8, 2) in [0, 1]."""
        levels = []
        for stage in self.stages:
            seen = stage(seen)
            levels.append(seen.flatten(2).transpose(1, 2))
        value = torch.cat(levels, 1)  # (N, 256 + 64 + 16, CHANNELS)
        query = self.queries.expand(len(seen), -1, -1)
        points, found = torch.full((len(seen), len(POINTS), 2), 0.5), []
        for attention, mix, correct in zip(self.attention, self.mix, self.correct, strict=True):
            around = points.detach()[:, :, None].expand(-1, -1, 3, -1)
            query = attention(query, value=value, reference_points=around, spatial_shapes=SHAPES)
            query = query + mix(query)
            points = points.detach() + correct(query)
            found.append(points)
        return found


def error(found: torch.Tensor, true: torch.Tensor) -> float:
    """Mean distance in pixels of the view."""
    return float((found - true).norm(dim=-1).mean() * SIZE)


torch.manual_seed(0)
model = Landmarks()
optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=STEPS)
start = time.perf_counter()
for _ in range(STEPS):
    seen, true = views(BATCH)
    loss = sum((points - true).abs().mean() for points in model(seen))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()
print(f"trained for {STEPS} steps in {time.perf_counter() - start:.0f} s")

torch.manual_seed(1)
seen, true = views(64)
with torch.no_grad():
    found = model(seen)
print("mean distance to the true points, in pixels of 64:")
print(f"  before: {error(torch.full_like(true, 0.5), true):.1f}")
for layer, points in enumerate(found):
    print(f"  after layer {layer + 1}: {error(points, true):.1f}")
assert error(found[-1], true) < error(found[0], true) < 2

if len(sys.argv) > 1:
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 4, figsize=(15, 4.2), layout="constrained")
    panels[0].imshow(seen[0].permute(1, 2, 0))
    paths = torch.stack((torch.full_like(true, 0.5), *found))[:, 0] * SIZE - 0.5
    panels[0].plot(*paths.unbind(-1), "-o", color="white", markersize=2.5, linewidth=0.8)
    panels[0].scatter(*(true[0] * SIZE - 0.5).T, s=70, facecolors="none", edgecolors="red")
    panels[0].scatter(*paths[-1].T, s=12, color="yellow", zorder=3)
    panels[0].set_title("from the middle to the points (red: true)")
    panels[0].set_axis_off()

    # Where the last layer looks for the nose: around the point that the layer before has found.
    nose, last = 3, model.attention[-1]
    looked: list[torch.Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, given: looked.append(given[0]))
    with torch.no_grad():
        model(seen[:1])
        around = found[-2][:1, :, None].expand(-1, -1, 3, -1)
        where, weights = last.locations_and_weights(looked[0], around, SHAPES)
    handle.remove()
    cudeform.plot_attention(seen[0], SHAPES, where, weights, queries=[nose], ax=panels[1:])
    figure.savefig(sys.argv[1], dpi=90, bbox_inches="tight")
