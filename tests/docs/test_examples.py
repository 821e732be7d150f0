"""Every example runs from the command line, in seconds, without a warning."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))
NEEDS = {
    "torch": ("torch",),
    "jax": ("jax",),
    "keras": ("keras", "sklearn"),
    "load": ("torch", "cudeform.interop.torch:ModulatedDeformConv2dPack"),
    "align": ("matplotlib", "scipy"),
    "attention": ("matplotlib", "torch"),
    "dask": ("distributed", "zarr"),
}
PICTURES = {
    "align_frames",
    "align_videos",
    "attention_landmarks",
    "dask_straighten",
    "rotate_texture",
}
SECONDS = 120  # a few on a machine that does nothing else


def needs(example: Path) -> tuple[str, ...]:
    return NEEDS.get(example.stem.partition("_")[0], ())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    for library in needs(example):
        module, _, name = library.partition(":")
        if name not in ("", *vars(pytest.importorskip(module, exc_type=ImportError))):
            pytest.skip(f"needs {library}")
    arguments = []
    if example.stem in PICTURES and find_spec("matplotlib"):
        arguments = [str(tmp_path / "picture.png")]
    done = subprocess.run(
        [sys.executable, str(example), *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=tmp_path,
        # Threads of PyTorch that wait for a core which another test uses take processor time.
        env=os.environ | {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "an example says what it found"
    assert "Warning" not in done.stderr, done.stderr
    assert all(Path(name).stat().st_size > 10_000 for name in arguments)


def test_there_are_examples_for_all_that_the_documentation_names() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "examples.rst").read_text(
        encoding="utf-8"
    )
    for example in EXAMPLES:
        assert example.name in page, f"docs/examples.rst does not name {example.name}"
