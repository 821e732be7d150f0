"""Both bridges from JAX to the engine: the choice, threads, errors, exports, caches."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import named
from support import jaxcpu
from support.jaxcpu import function_of, jax, operands

from cudeform import engine, geometry
from cudeform.interop import jax as adapter
from cudeform.interop.jax import call_spec

CASE = named("torchvision, offset half")


def test_a_call_takes_the_bridge_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    from cudeform.interop.jax import ffi

    calls = []
    run = ffi._run_on_cpu

    def watched(*arguments: Any) -> None:
        calls.append(1)
        run(*arguments)

    monkeypatch.setattr(ffi, "_run_on_cpu", watched)
    for bridge in ("buffer", "ffi", "buffer"):
        calls.clear()
        with jaxcpu.bridge(bridge):
            jax.block_until_ready(function_of(CASE)(operands(CASE)))
        assert len(calls) == (bridge == "ffi")


def test_an_unknown_bridge_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bridge must be one of .*'tcp'"), jaxcpu.bridge("tcp"):
        pass


@pytest.mark.parametrize("bridge", ["buffer", "ffi"])
def test_an_error_of_the_engine_is_an_error_of_jax(
    bridge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(engine, "forward", broken)
    with jaxcpu.bridge(bridge), pytest.raises(jax.errors.JaxRuntimeError, match="no room"):
        jax.jit(function_of(CASE))(operands(CASE)).block_until_ready()


@pytest.mark.parametrize("bridge", ["buffer", "ffi"])
def test_threads(bridge: str) -> None:
    call = jax.jit(function_of(CASE))
    arrays = operands(CASE)
    with jaxcpu.bridge(bridge):
        wanted = np.asarray(call(arrays))
    wrong = []

    def work() -> None:
        wrong.extend(1 for _ in range(20) if not np.array_equal(call(arrays), wanted))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("bridge", ["buffer", "ffi"])
def test_a_gradient_can_be_exported(bridge: str) -> None:
    from jax import export

    allowed = [export.DisabledSafetyCheck.custom_call("cudeform_deform_conv2d")]
    gradient = jax.jit(jax.value_and_grad(jaxcpu.loss_of(CASE)))
    with jaxcpu.bridge(bridge):
        exported = export.export(gradient, disabled_checks=allowed)(operands(CASE))
    exported = export.deserialize(exported.serialize())
    jaxcpu.assert_close(exported.call(operands(CASE)), gradient(operands(CASE)))


def test_shapes_that_vary_cannot_be_exported() -> None:
    from jax import export

    (batch,) = export.symbolic_shape("batch")
    shapes = {name: array.shape for name, array in operands(CASE).items()}
    for name in ("input", "offset", "mask"):
        shapes[name] = (batch, *shapes[name][1:])
    arrays = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}
    with jaxcpu.bridge("ffi"), pytest.raises(TypeError, match="sizes that are numbers; export it"):
        export.export(jax.jit(function_of(CASE)))(arrays)


CACHED = """
import sys, jax, jax.numpy as jnp, cudeform
from cudeform.interop.jax import bridge
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
offset, image, weight = jnp.zeros((1, 2, 4, 4)), jnp.ones((1, 1, 4, 4)), jnp.ones((1, 1, 1, 1))
with bridge("ffi"):
    print(float(jax.jit(cudeform.deform_conv2d)(image, offset, weight).sum()))
print(sum("cache_hits" in event for event in hits))
"""


def test_the_ffi_bridge_is_kept_in_the_persistent_cache(tmp_path: Any) -> None:
    def run() -> list[str]:
        command = [sys.executable, "-c", CACHED, str(tmp_path)]
        done = subprocess.run(command, timeout=60, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    total, hits = run()
    assert (total, hits) == ("16.0", "0")
    total, hits = run()
    assert total == "16.0"
    assert int(hits) > 0


@pytest.mark.parametrize("bridge", ["buffer", "ffi"])
def test_a_compiled_call_does_nothing_in_python_but_run_the_engine(
    bridge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = jax.jit(function_of(CASE))
    arrays = operands(CASE)
    with jaxcpu.bridge(bridge):
        wanted = np.asarray(call(arrays))

    def unexpected(*args: Any, **more: Any) -> None:
        raise AssertionError("a compiled call packs, checks or plans again")

    for module, name in (
        (call_spec, "_packer"),
        (call_spec, "_shape_of"),
        (call_spec.CallSpec, "from_text"),
        (adapter, "bind"),
        (geometry, "_cached_geometry"),
    ):
        monkeypatch.setattr(module, name, unexpected)
    np.testing.assert_array_equal(call(arrays), wanted)


def test_the_benchmark_of_a_call_measures_every_way(tmp_path: Any) -> None:
    script = Path(__file__).resolve().parents[3] / "benchmarks" / "jax_overhead.py"
    command = [sys.executable, str(script), "--calls", "100", "--json", str(tmp_path / "times")]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "times").read_text())["microseconds a call"]
    assert report["without the engine"].keys() == {
        "bare jit",
        "jit, buffer bridge",
        "100 in a jit, buffer bridge",
        "jit, ffi bridge",
        "100 in a jit, ffi bridge",
        "outside of jit",
        "NumPy arrays",
    }
    assert report["with the engine"].keys() == {"NumPy arrays", "jit, buffer bridge"}
