"""Checks the arguments of the plot functions and copies their arrays to NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cudeform.inspect._namespace import Floats, import_foreign, to_numpy
from cudeform.inspect.locations import sampling_locations


@dataclass(frozen=True)
class ImageTaps:
    """Locations of all taps of one image, (OG, KH, KW, 2, OH, OW).

    Attributes:
        regular: locations without the offset.
        sampled: locations with the offset.
    """

    regular: Floats
    sampled: Floats

    @classmethod
    def of(cls, offset: Any, settings: tuple[Any, ...], index: int) -> ImageTaps:
        """The taps of image ``index``; ``settings`` are kernel size, stride, padding, dilation."""
        offset = import_foreign(offset)
        _check_index(offset, index)
        if len(offset.shape) != 4:
            raise ValueError(
                "offset must have shape (N, 2*offset_groups*KH*KW, OH, OW) to be drawn, "
                f"got {tuple(offset.shape)}"
            )
        one = to_numpy(offset[index])[None]
        regular = sampling_locations(np.zeros_like(one), *settings)
        return cls(regular[0], sampling_locations(one, *settings)[0])

    @property
    def offset_groups(self) -> int:
        """Number of offset groups."""
        return len(self.sampled)


def mask_of_image(mask: Any, taps: ImageTaps, index: int) -> Floats:
    """The mask of one image, (OG, KH*KW, OH, OW)."""
    mask = import_foreign(mask)
    _check_index(mask, index)
    groups, kernel_h, kernel_w, _, out_h, out_w = taps.sampled.shape
    expected = (groups * kernel_h * kernel_w, out_h, out_w)
    one = to_numpy(mask[index])
    if one.shape != expected:
        raise ValueError(
            "mask must have shape (N, offset_groups*KH*KW, OH, OW) = "
            f"{(len(mask), *expected)}, got {tuple(mask.shape)}"
        )
    return one.reshape(groups, kernel_h * kernel_w, out_h, out_w)


def picture_of(image: Any, index: int) -> Floats:
    """Convert an image for ``imshow``: (H, W, 3) or (H, W), scaled to 0 ... 1."""
    image = import_foreign(image)
    if not hasattr(image, "shape") or len(image.shape) not in (2, 3, 4):
        raise ValueError(
            "image must have shape (H, W), (C, H, W) or (N, C, H, W), "
            f"got {getattr(image, 'shape', type(image).__name__)}"
        )
    if len(image.shape) == 4:
        _check_index(image, index)
        image = image[index]
    picture = to_numpy(image)
    if picture.ndim == 3:
        picture = picture.transpose(1, 2, 0) if len(picture) == 3 else picture.mean(0)
    finite = picture[np.isfinite(picture)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    # A constant image becomes middle grey.
    scaled = (picture - low) / (high - low) if high > low else np.full_like(picture, 0.5)
    return np.nan_to_num(scaled, nan=0.0, posinf=1.0, neginf=0.0)


def chosen_positions(
    positions: Sequence[tuple[int, int]] | None, size: Sequence[int]
) -> list[tuple[int, int]]:
    """The output positions to draw: the caller's choice, by default the middle one."""
    height, width = size
    if positions is None:
        return [(height // 2, width // 2)]
    if not len(positions):
        raise ValueError("positions must name at least one output position, got none")
    for oy, ox in positions:
        if not (0 <= oy < height and 0 <= ox < width):
            raise ValueError(
                f"positions must be (oy, ox) with oy < {height} and ox < {width}, got {(oy, ox)}"
            )
    return list(positions)


def chosen_groups(groups: Sequence[int] | None, count: int) -> list[int]:
    """The offset groups to draw: the caller's choice, by default all."""
    chosen = list(range(count)) if groups is None else list(groups)
    for group in chosen:
        if not 0 <= group < count:
            raise ValueError(f"groups must be from 0 to {count - 1}, got {group}")
    if not chosen:
        raise ValueError("groups must name at least one offset group, got none")
    return chosen


def _check_index(array: Any, index: int) -> None:
    if not hasattr(array, "shape"):
        raise TypeError(f"offset, mask and image must be arrays, got {type(array).__name__}")
    if not -array.shape[0] <= index < array.shape[0]:
        raise ValueError(f"index must be one of {array.shape[0]} images, got {index}")
