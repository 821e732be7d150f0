"""Which way a convolution goes through the engine, where it is forced."""

from __future__ import annotations

from cudeform.gpu.choice import Choice

# Ways of the forward; of these, "direct" and "im2col" are ways of the backward too.
FORWARD = ("direct", "fused", "im2col")

_path = Choice("path", FORWARD)
forced = _path.forced
forced_path = _path.get
