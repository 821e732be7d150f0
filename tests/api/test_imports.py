"""``import cudeform`` imports no library that is not needed yet."""

import subprocess
import sys

import pytest

FORBIDDEN = (
    "cupy",
    "torch",
    "jax",
    "tensorflow",
    "keras",
    "dask",
    "matplotlib",
    "tqdm",
    "threadpoolctl",
    "ml_dtypes",
)
CHECK = f"import sys; print([name for name in {FORBIDDEN!r} if name in sys.modules])"


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


@pytest.mark.promise("nothing unasked")
def test_import_loads_no_other_library():
    assert python(f"import cudeform; {CHECK}") == "[]"


@pytest.mark.promise("nothing unasked")
def test_a_call_on_numpy_arrays_loads_no_array_library():
    call = (
        "import numpy as np, cudeform; "
        "cudeform.deform_conv2d(np.ones((1, 1, 2, 2)), np.zeros((1, 2, 2, 2)), "
        "np.ones((1, 1, 1, 1))); "
    )
    assert not {"cupy", "torch", "jax", "tensorflow"} & set(eval(python(call + CHECK)))


def test_the_check_can_fail():
    assert python(f"import sys, cudeform; sys.modules['jax'] = sys; {CHECK}") == "['jax']"


# Packages, without those that come with Python or that Python has at its start.
LOADED = (
    "import sys; before = set(sys.modules); import cudeform; "
    "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
    "print(sorted(new - set(sys.stdlib_module_names)))"
)


@pytest.mark.promise("nothing unasked")
def test_import_loads_numpy_and_cudeform_alone():
    assert python(LOADED) == "['cudeform', 'numpy']"


def test_import_loads_neither_engines_nor_adapters_nor_commands():
    code = "import sys, cudeform; print(*(name for name in sys.modules if 'cudeform.' in name))"
    loaded = set(python(code).split()) - {"cudeform.interop", "cudeform.interop.adapter"}
    others = ("cudeform.cpu", "cudeform.gpu", "cudeform.interop", "cudeform.commands")
    assert [name for name in loaded if name.startswith(others)] == []
