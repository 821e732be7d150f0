"""Train a deformable layer in two processes with DistributedDataParallel, as in one.

python examples/torch_ddp.py

Each process has half of a batch. DistributedDataParallel averages the gradients, so that both
processes take the step that one process takes with the whole batch.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import cudeform
from cudeform.interop.torch import DeformConv2d

PROCESSES, STEPS = 2, 5


class Network(nn.Module):
    """A deformable layer whose offset and mask come from a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.branch = nn.Conv2d(8, 27, 3, padding=1)  # for 3x3 taps: dy, dx, and the mask
        self.layer = DeformConv2d(8, 4, 3, padding=1)

    def forward(self, image: Any) -> Any:
        features = self.stem(image).relu()
        offset, mask = self.branch(features).split((18, 9), dim=1)
        return self.layer(features, offset, mask.sigmoid())


def loss(network: nn.Module, images: Any) -> Any:
    return network(images).square().mean()


def train(rank: int, port: int) -> None:
    """What one process does."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    cudeform.set_options(num_threads=1)
    distributed.init_process_group("gloo", rank=rank, world_size=PROCESSES)

    torch.manual_seed(0)  # all processes begin with the same network and know all images
    network, images = Network(), torch.randn(4, 3, 16, 16)
    loss(network, images).backward()
    whole = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()

    parallel = DistributedDataParallel(network)
    share = images.chunk(PROCESSES)[rank]
    loss(parallel, share).backward()
    pairs = zip(network.parameters(), whole, strict=True)
    error = max(float((p.grad - g).abs().max() / g.abs().max()) for p, g in pairs)

    optimiser = torch.optim.SGD(parallel.parameters(), 0.1)
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss(parallel, share).backward()
        optimiser.step()
    mine = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    all_of_them = [torch.empty_like(mine) for _ in range(PROCESSES)]
    distributed.all_gather(all_of_them, mine)
    distributed.destroy_process_group()

    equal = all(torch.equal(each, mine) for each in all_of_them)
    if rank == 0:
        print(f"{PROCESSES} processes; gradients differ from one process's by {error:.1e}")
        print(f"after {STEPS} steps the parameters are {'equal' if equal else 'different'}")
    assert error < 1e-5
    assert equal


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    torch.multiprocessing.spawn(train, (free_port(),), PROCESSES)
