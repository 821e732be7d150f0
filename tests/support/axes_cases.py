"""Cases of one and three dimensions for the GPU engine's tests."""

from __future__ import annotations

from typing import Any

from cases import build

# Nothing is symmetric: whatever is swapped with its neighbour changes the result.
LINE: dict[str, Any] = {
    "channels": 6,
    "size": (11,),
    "out_channels": 4,
    "kernel": (3,),
    "stride": (2,),
    "padding": ((2, 1),),
    "dilation": (2,),
    "groups": 2,
    "offset_groups": 3,
}
VOLUME: dict[str, Any] = {
    "batch": 1,
    "channels": 6,
    "size": (4, 5, 6),
    "out_channels": 2,
    "kernel": (2, 3, 1),
    "stride": (1, 2, 3),
    "padding": ((1, 0), (2, 1), (0, 2)),
    "dilation": (3, 1, 2),
    "groups": 2,
    "offset_groups": 3,
}
# Channels that come in vectors in every dtype; in the volume, an offset group spans two groups.
WIDE_LINE = build("wide line", size=(9,), channels=32, groups=2, offset_groups=2, out_channels=4)
WIDE_VOLUME = build(
    "wide volume",
    batch=1,
    size=(3, 4, 3),
    kernel=(2, 2, 2),
    channels=64,
    groups=4,
    offset_groups=2,
    out_channels=4,
    offset="half",
)
# Lane groups of 1, 2, 4 and 32 threads reduce the dots of eight corners in different ways.
LANES = [
    build(
        f"volume, {channels} channels",
        batch=1,
        size=(2, 3, 4),
        kernel=(1, 2, 1),
        channels=channels,
        out_channels=2,
    )
    for channels in (2, 4, 8, 256)
]
DIRECT = [
    build("line, depthwise", size=(9,), channels=16, groups=16, out_channels=32, offset_groups=2),
    build(
        "volume, depthwise",
        batch=1,
        size=(3, 4, 3),
        kernel=(2, 1, 2),
        channels=16,
        groups=16,
        out_channels=16,
        offset="half",
    ),
    build(
        "volume, groups of 3 to 1",
        batch=1,
        size=(2, 3, 3),
        kernel=(1, 2, 2),
        channels=6,
        groups=2,
        out_channels=2,
    ),
]
KINDS = ("normal", "half", "far", "nan and inf")
CASES = [
    *(build(f"line, offset {kind}", **LINE, offset=kind) for kind in KINDS),
    *(build(f"volume, offset {kind}", **VOLUME, offset=kind) for kind in KINDS),
    build("line, plain", size=(9,), channels=9, mask=False, bias=False),
    build("volume, plain", size=(3, 4, 3), channels=9, mask=False, bias=False, batch=2),
    build("volume of one voxel", size=(1, 1, 1), padding=((1, 1),) * 3, channels=1, batch=1),
    WIDE_LINE,
    WIDE_VOLUME,
    *LANES,
    *DIRECT,
]
SOME = [CASES[0], CASES[4], WIDE_VOLUME, DIRECT[1]]
MAIN = [*SOME, CASES[7], LANES[2]]

by_name = {"ids": lambda case: case.name}
