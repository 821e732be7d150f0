"""Train a small network with a deformable layer, and the same network with torchvision's layer.

python examples/torch_training.py

The layer is an ordinary module: its input, offset and mask come from other layers, gradients flow
back to them, and an optimiser updates its weight. Both networks start with the same parameters and
see the same images; their losses agree at every step.

Everything is float64. Offsets start at 0, where the derivative of a bilinear sample jumps. In
float32, rounding decides the side of the jump: even torchvision's own losses differ by 1e-3 after
50 steps if the images of a batch come in another order.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import cudeform
from cudeform.interop.torch import DeformConv2d

STEPS = 50
TOLERANCE = 1e-5


class Modulated(nn.Module):
    """A deformable convolution whose offset and mask a zero-initialised convolution predicts."""

    def __init__(self, layer: nn.Module, channels: int) -> None:
        super().__init__()
        self.layer = layer
        self.branch = nn.Conv2d(channels, 27, 3, padding=1)  # for 3x3 taps: dy, dx, and the mask
        nn.init.zeros_(self.branch.weight)
        nn.init.zeros_(self.branch.bias)

    def forward(self, image: Any) -> Any:
        offset, mask = self.branch(image).split((18, 9), dim=1)
        return self.layer(image, offset, mask.sigmoid())


def network(deformable: type[nn.Module]) -> nn.Module:
    """Three layers; the second one is of the class ``deformable``, cudeform's or torchvision's."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        Modulated(deformable(16, 32, 3, padding=1), 16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def digits() -> tuple[Any, Any]:
    """Images, (N, 1, 8, 8), and the digit that each shows."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        print("images are synthetic; pip install scikit-learn for handwritten digits")
        labels = torch.arange(1280) % 10
        return torch.rand(10, 1, 8, 8)[labels] + 0.2 * torch.randn(1280, 1, 8, 8), labels
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images).view(-1, 1, 8, 8) / 16, torch.tensor(labels)


class Training:
    """A network in training, with the loss of every step and the total time."""

    def __init__(self, deformable: type[nn.Module]) -> None:
        self.network = network(deformable)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=0.01)
        self.losses: list[float] = []
        self.seconds = 0.0

    def step(self, images: Any, labels: Any) -> None:
        start = time.perf_counter()
        loss = cross_entropy(self.network(images), labels)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.losses.append(loss.item())
        self.seconds += time.perf_counter() - start


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)  # the same for both; the images are too small for more
    cudeform.set_options(num_threads=1)
    layers = {"cudeform": DeformConv2d}
    try:
        import torchvision

        layers["torchvision"] = torchvision.ops.DeformConv2d
    except ImportError:
        print("nothing to compare with; pip install torchvision")

    images, labels = digits()
    trainings = {name: Training(layer) for name, layer in layers.items()}
    for step in range(STEPS):
        batch = (torch.arange(64) + 64 * step) % len(images)
        for training in trainings.values():
            training.step(images[batch], labels[batch])

    for name, training in trainings.items():
        first, *_, last = training.losses
        print(
            f"{name:12} loss {first:.4f} -> {last:.4f}, {STEPS} steps in {training.seconds:.2f} s"
        )
        assert last < first / 2, "it did not learn"
    if len(trainings) == 2:
        pairs = zip(*(training.losses for training in trainings.values()), strict=True)
        difference = max(abs(one - other) for one, other in pairs)
        print(f"largest difference of the losses at a step: {difference:.1e}")
        assert difference < TOLERANCE


if __name__ == "__main__":
    main()
