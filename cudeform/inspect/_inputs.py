"""Checks the arguments of the plot functions and copies their arrays to NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cudeform.inspect._namespace import Floats, import_foreign, to_numpy
from cudeform.inspect.locations import sampling_locations
from cudeform.shape_rules import ShapeRules


@dataclass(frozen=True)
class ImageTaps:
    """Locations of all taps of one image, (OG, KH, KW, 2, OH, OW), or (OG, KW, 1, OW).

    Attributes:
        regular: locations without the offset.
        sampled: locations with the offset.
    """

    regular: Floats
    sampled: Floats

    @classmethod
    def of(
        cls, offset: Any, settings: tuple[Any, ...], index: int, axes: Sequence[int] = (1, 2)
    ) -> ImageTaps:
        """The taps of image ``index``.

        Args:
            offset: of any library.
            settings: kernel size, stride, padding, dilation.
            index: index of the image in the batch.
            axes: the numbers of axes that can be drawn.
        """
        offset = import_foreign(offset)
        _check_index(offset, index)
        if len(offset.shape) - 2 not in axes:
            shapes = " or ".join(ShapeRules.of(each).offset for each in axes)
            raise ValueError(
                f"offset must have shape {shapes} to be drawn, got {tuple(offset.shape)}"
            )
        one = to_numpy(offset[index])[None]
        regular = sampling_locations(np.zeros_like(one), *settings)
        return cls(regular[0], sampling_locations(one, *settings)[0])

    @property
    def axes(self) -> int:
        """Number of axes."""
        return self.sampled.ndim // 2 - 1

    @property
    def out_size(self) -> tuple[int, ...]:
        """Number of output positions along each axis."""
        return self.sampled.shape[-self.axes :]

    def at(self, group: int, position: tuple[int, ...]) -> tuple[Floats, Floats]:
        """Regular and sampled locations of an output position, each (taps, axes)."""
        where: Any = (group, ..., *position)
        return (
            self.regular[where].reshape(-1, self.axes),
            self.sampled[where].reshape(-1, self.axes),
        )

    @property
    def offset_groups(self) -> int:
        """Number of offset groups."""
        return len(self.sampled)


def mask_of_image(mask: Any, taps: ImageTaps, index: int) -> Floats:
    """The mask of one image, (OG, taps, OH, OW) or (OG, taps, OW)."""
    mask = import_foreign(mask)
    _check_index(mask, index)
    groups, count = taps.offset_groups, prod(taps.sampled.shape[1 : 1 + taps.axes])
    expected = (groups * count, *taps.out_size)
    one = to_numpy(mask[index])
    if one.shape != expected:
        raise ValueError(
            f"mask must have shape {ShapeRules.of(taps.axes).mask} = "
            f"{(len(mask), *expected)}, got {tuple(mask.shape)}"
        )
    return one.reshape(groups, count, *taps.out_size)


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


def signal_of(image: Any, index: int) -> Floats:
    """Convert an image of one axis to one number per pixel: the mean of its channels, (W,)."""
    image = import_foreign(image)
    if not hasattr(image, "shape") or len(image.shape) not in (1, 2, 3):
        raise ValueError(
            "image must have shape (W,), (C, W) or (N, C, W), "
            f"got {getattr(image, 'shape', type(image).__name__)}"
        )
    if len(image.shape) == 3:
        _check_index(image, index)
        image = image[index]
    signal = to_numpy(image)
    return signal if signal.ndim == 1 else signal.mean(0)


def chosen_positions(
    positions: Sequence[int | Sequence[int]] | None, size: Sequence[int]
) -> list[tuple[int, ...]]:
    """The output positions to draw: the caller's choice, by default the middle one."""
    if positions is None:
        return [tuple(each // 2 for each in size)]
    if not len(positions):
        raise ValueError("positions must name at least one output position, got none")
    names = ("oy", "ox")[-len(size) :]
    chosen = [tuple(np.atleast_1d(position).tolist()) for position in positions]
    for position in chosen:
        if len(position) != len(size) or not all(
            0 <= at < n for at, n in zip(position, size, strict=True)
        ):
            bounds = " and ".join(f"{name} < {n}" for name, n in zip(names, size, strict=True))
            raise ValueError(
                f"positions must be ({', '.join(names)}) with {bounds}, got {position}"
            )
    return chosen


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
