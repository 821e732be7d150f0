"""The private names of TensorFlow that the adapter calls."""

from __future__ import annotations

from typing import Any

from support.tensorflowcases import quiet, tf

from cudeform.interop.tensorflow import private

pytestmark = quiet


def test_a_traced_call_sees_the_tapes_of_its_function_alone() -> None:
    seen = []

    @tf.function  # type: ignore[untyped-decorator]
    def traced(tensor: Any) -> Any:
        seen.append(private.recorded({"a": tensor}))
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            seen.append(private.recorded({"a": tensor}))
        return tensor

    with tf.GradientTape() as tape:
        tensor = tf.ones(3)
        tape.watch(tensor)
        traced(tensor)
    assert seen == [[], ["a"]]


def test_the_private_names_tell_what_they_should() -> None:
    tensor = tf.ones(())
    assert private.recorded({"a": tensor}) == []
    assert not private.has_tangents({"a": tensor})
    assert not private.is_deterministic()
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        assert private.recorded({"a": tensor, "b": tf.zeros(())}) == ["a"]
    with tf.autodiff.ForwardAccumulator(tensor, tensor):
        assert private.has_tangents({"a": tensor})
    seen: list[bool] = []
    for compiled in (False, True):
        tf.function(lambda: seen.append(private.compiled_by_xla()), jit_compile=compiled)()
    assert seen == [False, True]
