"""The demo registers its photograph, prints a summary, and draws a picture."""

import os
import pathlib
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")
pytest.importorskip("tqdm")

import matplotlib
from matplotlib.image import imread

import cudeform
from cudeform.__main__ import main
from cudeform.commands import CommandError, demo, demo_picture, demo_scene
from cudeform.commands import demo_registration as registration

LINE = re.compile(
    r"error (0\.\d{4}) -> (0\.\d{4}) \((\d+\.\d)x smaller\), field off by (\d+\.\d\d) px on "
    r"average, \d+\.\d s on the CPU engine \(\d+ threads?\); picture: (.+)\n"
)


IMAGES = ("moving", "fixed", "registered", "true", "found")


def quick():
    return demo.register(demo_scene.photograph(demo.QUICK.halvings), demo.QUICK)


@pytest.fixture(scope="module")
def result():
    return quick()


def test_error_falls_and_field_is_found(result):
    assert result.error_before / result.error_after > 5
    assert np.hypot(*result.true).mean() > 1.5
    assert result.field_error < 0.3


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_runs_give_the_same_bits_for_any_number_of_threads(result, threads):
    with cudeform.options(num_threads=threads):
        again = quick()
    assert result.found.tobytes() == again.found.tobytes()
    assert result.registered.tobytes() == again.registered.tobytes()


def test_true_field_is_0_at_the_border_and_keeps_its_promise_inside(result):
    height = result.true.shape[1]
    lengths = np.hypot(*result.true)
    assert lengths.max() == pytest.approx(demo_scene.AMPLITUDE * height)
    border = np.concatenate([lengths[0], lengths[-1], lengths[:, 0], lengths[:, -1]])
    assert border.max() < 0.2


def test_warp_goes_where_scipy_goes(result):
    warped = registration.warp(result.moving, result.true)
    assert registration.rms(warped - result.fixed) < 0.02  # bilinear against cubic
    wrong = registration.warp(result.moving, np.ascontiguousarray(result.true[::-1]))
    assert registration.rms(wrong - result.fixed) > 0.05


def test_gradient_is_the_derivative_of_the_error():
    rng = np.random.default_rng(0)
    moving = registration.halved(rng.random((3, 24, 20), np.float32))
    fixed = np.zeros_like(moving)
    field, direction = rng.uniform(0.3, 0.4, (2, 2, 12, 10)).astype(np.float32)
    step = 0.05 * direction  # crosses no pixel, so that the error is smooth
    _, gradient = registration.error_and_gradient(moving, fixed, field)
    less, _ = registration.error_and_gradient(moving, fixed, field - step)
    more, _ = registration.error_and_gradient(moving, fixed, field + step)
    assert (gradient * step).sum() == pytest.approx((more - less) / 2, rel=1e-2)


def test_command_writes_the_picture_and_a_line(tmp_path, capsys):
    output = tmp_path / "picture.png"
    settings = dict(matplotlib.rcParams)
    assert main(["demo", "--quick", "--device", "cpu", "--output", str(output)]) == 0
    assert dict(matplotlib.rcParams) == settings
    out, err = capsys.readouterr()
    before, after, ratio, distance, path = LINE.fullmatch(out).groups()
    assert float(ratio) == pytest.approx(float(before) / float(after), rel=0.02)
    assert float(distance) < 0.3
    assert path == str(output)
    steps = demo.QUICK.sizes * demo.QUICK.steps
    assert f"{steps}/{steps}" in err  # the progress bar
    width, height = (round(inches * demo_picture.DPI) for inches in demo_picture.SIZE)
    pixels = imread(output)
    assert pixels.shape[:2] == (height, width)
    assert pixels[..., :3].std() > 0.2


def test_steps_are_at_each_size(tmp_path, capsys):
    output = str(tmp_path / "picture.png")
    assert main(["demo", "--quick", "--steps", "2", "--device", "cpu", "--output", output]) == 0
    assert f"{2 * demo.QUICK.sizes}/{2 * demo.QUICK.sizes}" in capsys.readouterr().err


@pytest.mark.parametrize("steps", ["0", "-1", "many"])
def test_steps_that_are_no_count_are_refused(steps):
    with pytest.raises(SystemExit):
        main(["demo", "--steps", steps])


@pytest.mark.parametrize("name", ["matplotlib", "scipy", "tqdm"])
def test_missing_library_is_named_with_the_remedy(name, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    assert main(["demo", "--quick"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (f"the demo needs {name}, which is not installed: pip install 'cudeform[demo]'\n")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere/picture.png", "there is no folder nowhere"),
        ("", "a file's name is missing"),
        (".", "it is a folder"),
        ("folder.png", "it is a folder"),
        ("picture", "the name of a picture ends in .png, .jpg, .jpeg, .pdf, .svg"),
        ("picture.txt", "the name of a picture ends in .png"),
        ("locked.png", "permission denied"),
    ],
)
def test_output_that_cannot_be_written_is_refused_before_the_work(
    name, why, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "register", lambda *_: pytest.fail("worked in vain"))
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "locked.png").touch()
    monkeypatch.setattr(os, "access", lambda path, _: path.name != "locked.png")
    assert main(["demo", "--device", "cpu", "--output", name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"cannot write {name!r}: {why}")
    assert err.count("\n") == 1


def test_default_output_that_cannot_be_written_is_refused_before_the_work(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "register", lambda *_: pytest.fail("worked in vain"))
    (tmp_path / "demo.png").mkdir()
    assert main(["demo", "--device", "cpu"]) == 2
    assert capsys.readouterr().err == "cannot write 'demo.png': it is a folder\n"


@pytest.mark.parametrize(
    ("name", "begins"),
    [("a.png", b"\x89PNG"), ("a.JPG", b"\xff\xd8"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")],
)
def test_the_ending_of_the_name_decides_the_format(name, begins, result, tmp_path):
    assert pathlib.Path(name).suffix.lower() in demo.ENDINGS
    small = replace(result, **{n: getattr(result, n)[:, ::8, ::8] for n in IMAGES})
    demo_picture.draw(small, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_a_full_disk_is_told_in_a_line(result, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo, "register", lambda *_: result)
    monkeypatch.setattr(demo_picture, "draw", full)
    output = str(tmp_path / "picture.png")
    assert main(["demo", "--quick", "--device", "cpu", "--output", output]) == 2
    assert capsys.readouterr().err == f"cannot write {output!r}: No space left on device\n"


def test_gpu_is_taken_where_there_is_one(monkeypatch):
    cupy = SimpleNamespace(is_available=lambda: True)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert demo.array_module("auto") is cupy
    assert demo.array_module("gpu") is cupy
    assert demo.array_module("cpu") is np


@pytest.mark.parametrize("cupy", [None, SimpleNamespace(is_available=lambda: False)])
def test_without_a_gpu_auto_is_numpy_and_gpu_is_refused(cupy, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert demo.array_module("auto") is np
    with pytest.raises(CommandError, match="needs CuPy and a GPU"):
        demo.array_module("gpu")
