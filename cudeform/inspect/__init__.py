"""Tools that show where a layer samples: locations, statistics and pictures."""

from cudeform.inspect.attention import plot_attention
from cudeform.inspect.locations import sampling_locations
from cudeform.inspect.plots import plot_displacement, plot_sampling
from cudeform.inspect.stats import OffsetStats, offset_stats

__all__ = [
    "OffsetStats",
    "offset_stats",
    "plot_attention",
    "plot_displacement",
    "plot_sampling",
    "sampling_locations",
]
