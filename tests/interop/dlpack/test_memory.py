"""The engine uses the memory of a DLPack producer; if it is not shared, it is copied."""

from typing import Any

import numpy as np
import pytest
from cases import ARRAYS
from support.dlpackcases import CASE, OPERANDS, Array, backward, forward, plain, watch_pointers


@pytest.mark.usefixtures("elsewhere")
def test_each_array_is_imported_once_per_call() -> None:
    case = CASE.map(Array)
    backward(case)
    assert [getattr(case, name).handed_out for name in ARRAYS] == [1] * len(ARRAYS)


@pytest.mark.promise("any array")
@pytest.mark.usefixtures("elsewhere")
def test_the_engine_gets_the_producers_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASE.map(Array)
    seen = watch_pointers(monkeypatch)
    output = forward(case)
    wanted = {name: getattr(CASE, name).ctypes.data for name in OPERANDS}
    assert seen == wanted | {"output": plain(output).ctypes.data}


@pytest.mark.usefixtures("elsewhere")
def test_read_only_memory_is_accepted() -> None:
    def locked(array: Any) -> Array:
        array = array.copy()
        array.flags.writeable = False
        return Array(array)

    np.testing.assert_array_equal(plain(forward(CASE.map(locked))), forward(CASE))


@pytest.mark.usefixtures("elsewhere")
def test_memory_may_begin_at_an_odd_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(array: Any) -> Array:
        view = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
        view[...] = array
        return Array(view)

    wanted = forward(CASE)
    seen = watch_pointers(monkeypatch)
    np.testing.assert_array_equal(plain(forward(CASE.map(shifted))), wanted)
    assert seen["input"] % 8 == 1


@pytest.mark.usefixtures("elsewhere")
def test_a_producer_that_does_not_share_memory_is_asked_for_a_copy() -> None:
    class Careful(Array):
        __module__ = "elsewhere"

        def __dlpack__(self, *, copy: bool | None = None, **how: Any) -> Any:
            if not copy:
                raise BufferError("not without a copy")
            return super().__dlpack__(copy=True, **how)

    np.testing.assert_array_equal(plain(forward(CASE.map(Careful))), forward(CASE))
