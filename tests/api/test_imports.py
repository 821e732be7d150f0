"""``import cudeform`` is quick and loads nothing that was not asked for."""

import subprocess
import sys

FORBIDDEN = ("cupy", "torch", "jax", "matplotlib", "tqdm", "threadpoolctl", "ml_dtypes")
CHECK = f"import sys; print([name for name in {FORBIDDEN!r} if name in sys.modules])"


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


def test_import_loads_no_other_library():
    assert python(f"import cudeform; {CHECK}") == "[]"


def test_a_call_on_numpy_arrays_loads_no_array_library():
    call = (
        "import numpy as np, cudeform; "
        "cudeform.deform_conv2d(np.ones((1, 1, 2, 2)), np.zeros((1, 2, 2, 2)), "
        "np.ones((1, 1, 1, 1))); "
    )
    assert not {"cupy", "torch", "jax"} & set(eval(python(call + CHECK)))


def test_the_check_can_fail():
    assert python(f"import cudeform, matplotlib; {CHECK}") == "['matplotlib']"


def test_import_is_quick():
    code = (
        "import time; start = time.perf_counter(); import cudeform; "
        "print(time.perf_counter() - start)"
    )
    assert min(float(python(code)) for _ in range(3)) < 0.3
