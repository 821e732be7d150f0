"""The examples in docstrings, README and pages run with the shown results; the pages build."""

import doctest
import importlib
import re
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import cudeform

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.rst"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "cudeform"
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", MODULES)
def test_docstrings(module: str) -> None:
    if ".plots" in module:
        pytest.importorskip("matplotlib")
    if module.startswith("cudeform.keras"):
        pytest.importorskip("keras", exc_type=ImportError)
    outcome = doctest.testmod(importlib.import_module(module))
    assert outcome.attempted
    assert not outcome.failed


def test_public_names_have_docstrings_and_are_in_the_reference() -> None:
    reference = "".join(
        page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.rst")
    )
    for name in cudeform.__all__:
        thing = getattr(cudeform, name)
        assert len((thing.__doc__ or "").split()) > 5, name
        assert f":: cudeform.{name}\n" in reference, name
        for method, function in vars(thing).items() if isinstance(thing, type) else ():
            if callable(function) and not method.startswith("_"):
                assert function.__doc__, f"{name}.{method}"


@pytest.mark.promise("honest")
def test_the_code_of_the_readme(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(code, {})
    promised = re.findall(r"print\(.*?\)  # (.*)", code)
    assert capsys.readouterr().out.splitlines() == promised


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_pages(page: Path) -> None:
    setting = {"np": np, "cudeform": cudeform}
    assert not doctest.testfile(str(page), module_relative=False, globs=setting).failed


def test_pages_have_examples() -> None:
    shown = {page.stem for page in PAGES if ">>> " in page.read_text(encoding="utf-8")}
    assert {"quickstart", "offsets", "arrays"} <= shown


@pytest.fixture(scope="module")
def read_pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Sphinx keeps what it has read, so that the second builder does not read it again."""
    return tmp_path_factory.mktemp("trees")


@pytest.mark.skipif(find_spec("furo") is None, reason="needs the docs extra")
@pytest.mark.parametrize(("builder", "made"), [("html", "offsets.html"), ("doctest", "output.txt")])
def test_the_documentation_builds_without_a_warning(
    builder: str, made: str, read_pages: Path, tmp_path: Path
) -> None:
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "-d", str(read_pages)]
    done = subprocess.run(
        [*build, "-b", builder, str(ROOT / "docs"), str(tmp_path / builder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / builder / made).exists()


# Offsets of other libraries. Each test fills an array as that library's code indexes it and expects
# the element of ours at the same output position and tap.

N, G, K, OH, OW = 2, 3, 3, 2, 4
SIZES = (N, G, K, K, 2, OH, OW)
OURS = np.arange(np.prod(SIZES), dtype=np.float64).reshape(SIZES)
FLAT = OURS.reshape(N, -1, OH, OW)


def conversions() -> ModuleType:
    spec = spec_from_file_location("conversions", ROOT / "docs" / "conversions.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "planes"), [("from_chainer", (1, 0)), ("from_planes", (0, 1))])
def test_planar_offsets(name: str, planes: tuple[int, int]) -> None:
    theirs = np.empty_like(FLAT)
    for n, g, i, j, axis, oy, ox in np.ndindex(*SIZES):
        tap = (g * K + i) * K + j
        channel = planes.index(axis) * G * K * K + tap
        theirs[n, channel, oy, ox] = OURS[n, g, i, j, axis, oy, ox]
    np.testing.assert_array_equal(getattr(conversions(), name)(theirs), FLAT)


def test_offsets_and_masks_in_three_planes() -> None:
    theirs = np.empty((N, 3 * G * K * K, OH, OW))
    masks = 1000 + np.arange(N * G * K * K * OH * OW, dtype=np.float64).reshape(N, -1, OH, OW)
    for n, g, i, j, axis, oy, ox in np.ndindex(*SIZES):
        tap = (g * K + i) * K + j
        theirs[n, (1 - axis) * G * K * K + tap, oy, ox] = OURS[n, g, i, j, axis, oy, ox]
        theirs[n, 2 * G * K * K + tap, oy, ox] = masks[n, tap, oy, ox]
    offset, mask = conversions().from_mindspore(theirs)
    np.testing.assert_array_equal(offset, FLAT)
    np.testing.assert_array_equal(mask, masks)


def test_images_and_weights_with_channels_last() -> None:
    rng = np.random.default_rng(0)
    image, weight = rng.standard_normal((1, 5, 6, 4)), rng.standard_normal((3, 3, 4, 2))
    offset = rng.standard_normal((1, 5, 6, 18))
    output = cudeform.deform_conv2d(
        image.transpose(0, 3, 1, 2),
        conversions().from_nhwc(offset),
        weight.transpose(3, 2, 0, 1),
        padding=1,
    )
    y, x = 2, 3
    expected = np.zeros(2)
    for i, j in np.ndindex(3, 3):
        dy, dx = offset[0, y, x, 2 * (3 * i + j) :][:2]
        expected += bilinear(image[0], y - 1 + i + dy, x - 1 + j + dx) @ weight[i, j]
    np.testing.assert_allclose(output[0, :, y, x], expected, rtol=1e-12)


def test_offsets_with_channels_last() -> None:
    theirs = np.empty((N, OH, OW, FLAT.shape[1]))
    for n, g, i, j, axis, oy, ox in np.ndindex(*SIZES):
        channel = ((g * K + i) * K + j) * 2 + axis
        theirs[n, oy, ox, channel] = OURS[n, g, i, j, axis, oy, ox]
    np.testing.assert_array_equal(conversions().from_nhwc(theirs), FLAT)


def test_offsets_with_the_group_after_the_tap() -> None:
    theirs = np.empty((N, OH, OW, FLAT.shape[1]))
    for n, g, i, j, axis, oy, ox in np.ndindex(*SIZES):
        theirs[n, oy, ox, ((i * K + j) * G + g) * 2 + axis] = OURS[n, g, i, j, axis, oy, ox]
    np.testing.assert_array_equal(conversions().from_groups_last(theirs, G), FLAT)


def dcnv3(image, offset, mask, *, scale, stride=1, dilation=1):
    """DCNv3 by its loops: channels last, x before y, the width's taps outermost, no weight."""
    n_images, _, _, channels = image.shape
    pad = dilation * (K - 1) // 2
    centre = dilation * (K - 1) // 2
    out = np.zeros((n_images, OH, OW, channels))
    for n, oy, ox, g in np.ndindex(n_images, OH, OW, G):
        y0 = centre - pad + oy * stride - centre * scale
        x0 = centre - pad + ox * stride - centre * scale
        group = slice(g * channels // G, (g + 1) * channels // G)
        tap = 0
        for i in range(K):  # along the width
            for j in range(K):  # along the height
                dx, dy = offset[n, oy, ox, (g * K * K + tap) * 2 :][:2]
                x = x0 + (i * dilation + dx) * scale
                y = y0 + (j * dilation + dy) * scale
                weight = mask[n, oy, ox, g * K * K + tap]
                out[n, oy, ox, group] += weight * bilinear(image[n, :, :, group], y, x)
                tap += 1
    return out


def bilinear(image, y, x):
    total = np.zeros(image.shape[-1])
    for row, column in np.ndindex(*image.shape[:2]):
        total += max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column)) * image[row, column]
    return total


@pytest.mark.parametrize(("scale", "dilation"), [(1.0, 1), (2.0, 1), (0.5, 2)])
@pytest.mark.parametrize("version", [3, 4])
def test_dcnv3_and_dcnv4(version: int, scale: float, dilation: int) -> None:
    rng = np.random.default_rng(0)
    channels, taps = 2 * G, K * K
    image = rng.standard_normal((N, OH, OW, channels))
    offset = rng.normal(0, 0.7, (N, OH, OW, G * taps * 2))
    mask = rng.random((N, OH, OW, G * taps))
    expected = dcnv3(image, offset, mask, scale=scale, dilation=dilation)
    convert = conversions()
    if version == 4:
        row = np.zeros((N, OH, OW, 88))  # a multiple of 8
        for g in range(G):
            row[..., 3 * taps * g :][..., : 2 * taps] = offset[..., 2 * taps * g :][..., : 2 * taps]
            row[..., 3 * taps * g + 2 * taps :][..., :taps] = mask[..., taps * g :][..., :taps]
        offset, mask = convert.from_dcnv4(row, G, K)
    ours = convert.scaled(convert.from_dcnv3(offset, G, K), K, scale, dilation)
    output = cudeform.deform_conv2d(
        image.transpose(0, 3, 1, 2),
        ours,
        np.ones((channels, 1, K, K)),
        padding=dilation,
        dilation=dilation,
        mask=convert.mask_from_dcnv3(mask, G, K),
    )
    np.testing.assert_allclose(output.transpose(0, 2, 3, 1), expected, rtol=1e-12, atol=1e-12)


def test_every_conversion_is_on_the_page_and_in_a_test() -> None:
    page = (ROOT / "docs" / "offsets.rst").read_text(encoding="utf-8")
    test = Path(__file__).read_text(encoding="utf-8")
    for name, thing in vars(conversions()).items():
        if callable(thing) and getattr(thing, "__module__", "") == "conversions":
            assert f":pyobject: {name}\n" in page
            assert name in test
