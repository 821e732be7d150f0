"""The promises of cudeform. ``@pytest.mark.promise("...")`` marks the tests of a promise.

The default run has at least one test of each promise: ``tests/api/test_promises.py``. To run the
tests of promises and nothing else: ``pytest -m promise``.
"""

import pytest

PROMISES = {
    "drop-in": "arguments, order, defaults and results of torchvision.ops.deform_conv2d",
    "any array": "the kind of array that comes in goes out, without a copy either way",
    "nothing unasked": "import cudeform loads NumPy alone; libraries load with their first array",
    "nothing to build": "kernels are text, compiled at first use; the wheel holds no binary",
    "right": "output and gradients are those of a reference in float64, in every dtype",
    "reproducible": "same bits for any number of threads; on a GPU, with deterministic=True",
    "differentiable twice": "forward mode, and gradients of gradients",
    "bounded memory": "scratch memory has a limit that the caller sets",
    "large": "more than 2**31 elements work, or are refused in words",
    "safe": "no displacement, NaN and infinities included, reads or writes outside an array",
    "honest": "what has not run on a GPU is said so; numbers come with their command",
}

# Where a run keeps the tests of its default tier that name each promise.
PROMISED = pytest.StashKey[dict[str, list[str]]]()


def is_whole_run(config: pytest.Config) -> bool:
    """Whether all folders are collected, in this process or by the one that started it."""
    workerinput = getattr(config, "workerinput", None)
    if workerinput is not None:
        return bool(workerinput["whole run"])
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS
