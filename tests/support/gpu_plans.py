"""Cases of the tests of launch plans: one for each algorithm."""

from __future__ import annotations

from cases import build

COLUMNS = build(
    "columns", channels=8, size=(9, 8), out_channels=6, groups=2, offset_groups=2, batch=3
)
DIRECT = build("direct", channels=16, size=(6, 5), out_channels=16, groups=16, batch=2)
WIDE = build("wide", channels=32, size=(6, 5), out_channels=4, offset_groups=2)
FUSED = build("fused", channels=32, size=(6, 5), out_channels=32, batch=1)
