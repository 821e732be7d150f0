"""What a picture is drawn from: arrays of any library, copied to NumPy and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cudeform.inspect.locations import sampling_locations
from cudeform.inspect.space import borrowed
from cudeform.inspect.view import Floats


@dataclass(frozen=True)
class Field:
    """Where the taps of one image are, (OG, KH, KW, 2, OH, OW), without and with the offset."""

    still: Floats
    moved: Floats

    @classmethod
    def of(cls, offset: Any, layout: tuple[Any, ...], index: int) -> Field:
        """The taps of image ``index``; ``layout`` is kernel size, stride, padding, dilation."""
        offset, _ = borrowed(offset)
        check_index(offset, index)
        one = host(offset[index])[None]
        still, moved = (sampling_locations(each, *layout)[0] for each in (np.zeros_like(one), one))
        return cls(still, moved)

    @property
    def offset_groups(self) -> int:
        """How many offset groups there are."""
        return len(self.moved)


def weights_of(mask: Any, field: Field, index: int) -> Floats:
    """The mask of one image, (OG, KH*KW, OH, OW)."""
    mask, _ = borrowed(mask)
    check_index(mask, index)
    groups, kernel_h, kernel_w, _, out_h, out_w = field.moved.shape
    expected = (groups * kernel_h * kernel_w, out_h, out_w)
    one = host(mask[index])
    if one.shape != expected:
        raise ValueError(
            "mask must have shape (N, offset_groups*KH*KW, OH, OW) = "
            f"{(len(mask), *expected)}, got {tuple(mask.shape)}"
        )
    return one.reshape(groups, kernel_h * kernel_w, out_h, out_w)


def check_index(array: Any, index: int) -> None:
    """Refuse an image that a batch does not have."""
    if not hasattr(array, "shape"):
        raise TypeError(f"offset, mask and image must be arrays, got {type(array).__name__}")
    if not -array.shape[0] <= index < array.shape[0]:
        raise ValueError(f"index must be one of {array.shape[0]} images, got {index}")


def host(array: Any) -> Floats:
    """A copy of an array as NumPy knows it, in float32 or float64."""
    if hasattr(array, "detach"):  # torch
        array = array.detach().cpu()
        array = array.double() if array.element_size() == 8 else array.float()
    elif hasattr(array, "get") and not isinstance(array, np.ndarray):  # CuPy
        array = array.get()
    array = np.asarray(array)
    floats: Floats = array if array.dtype == np.float64 else array.astype(np.float32)
    return floats


def picture_of(image: Any, index: int) -> Floats:
    """The image as imshow takes it, between 0 and 1: (H, W, 3) or (H, W)."""
    image, _ = borrowed(image)
    if not hasattr(image, "shape") or len(image.shape) not in (2, 3, 4):
        raise ValueError(
            "image must have shape (H, W), (C, H, W) or (N, C, H, W), "
            f"got {getattr(image, 'shape', type(image).__name__)}"
        )
    if len(image.shape) == 4:
        check_index(image, index)
        image = image[index]
    picture = host(image)
    if picture.ndim == 3:
        picture = picture.transpose(1, 2, 0) if len(picture) == 3 else picture.mean(0)
    finite = picture[np.isfinite(picture)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    # A flat image is drawn in the middle grey rather than divided by zero.
    scaled = (picture - low) / (high - low) if high > low else np.full_like(picture, 0.5)
    return np.nan_to_num(scaled, nan=0.0, posinf=1.0, neginf=0.0)


def chosen_positions(
    positions: Sequence[tuple[int, int]] | None, size: Sequence[int]
) -> list[tuple[int, int]]:
    """The output positions to draw: the caller's, or the middle one."""
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
    """The offset groups to draw: the caller's, or all."""
    chosen = list(range(count)) if groups is None else list(groups)
    for group in chosen:
        if not 0 <= group < count:
            raise ValueError(f"groups must be among 0 to {count - 1}, got {group}")
    if not chosen:
        raise ValueError("groups must name at least one offset group, got none")
    return chosen
