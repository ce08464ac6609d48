"""The plot of the dial holds every position, in a file of its kind, on any background."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.text import Text
from PIL import Image

import batchwright as bw
from batchwright.cli.group import batchwright
from batchwright.errors import MissingExtraError
from batchwright.report import plot_dial
from batchwright.report.plots import dial_figure
from batchwright.stats.dial import DialPosition

LENGTHS = np.clip(np.random.default_rng(0).lognormal(4, 0.9, 4000), 1, 600).astype(int)
DIAL = bw.mixing_dial(LENGTHS, bw.TokenBudget(1500), accumulate=8, epochs=1)


def position(mixing, efficiency, dispersion):
    return DialPosition(mixing, 8, 80, efficiency, dispersion)


def parsed(path):
    return ET.fromstring(path.read_bytes())  # noqa: S314 -- a file of our own


def labels_of(dial):
    """Return where a plot's labels are, in pixels, each with its text."""
    figure = dial_figure(dial)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    # Of the words alone, without the line that leads to them.
    return figure, {text.get_text(): Text.get_window_extent(text) for text in axes.texts}


def brightness(colour):
    """Return the relative luminance of WCAG 2.2 for channels of 0 to 1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one, other):
    light, dark = sorted((brightness(one), brightness(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_an_svg_holds_every_label_as_text(tmp_path):
    path = tmp_path / "dial.svg"
    plot_dial(DIAL, path)
    assert parsed(path).tag == "{http://www.w3.org/2000/svg}svg"
    words = " ".join(parsed(path).itertext()).replace(",", " ").split()
    assert {str(each.mixing) for each in DIAL} <= set(words)


def test_points_are_where_the_figures_say():
    figure, _ = labels_of(DIAL)
    (axes,) = figure.axes
    drawn = {tuple(xy) for line in axes.lines[1:] for xy in line.get_xydata().tolist()}
    assert drawn == {(each.dispersion, each.efficiency) for each in DIAL}
    assert axes.get_xscale() == "log"


def test_a_png_is_transparent_where_nothing_is_drawn(tmp_path):
    plot_dial(DIAL, tmp_path / "dial.png")
    with Image.open(tmp_path / "dial.png") as image:
        assert image.format == "PNG"
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
    assert (alpha == 0).mean() > 0.8
    assert (alpha == 255).mean() > 0.005


@pytest.mark.parametrize("page", [(1.0, 1.0, 1.0), (0.051, 0.067, 0.09)])
def test_text_can_be_read_on_light_and_on_dark_pages(page):
    figure, _ = labels_of(DIAL)
    (axes,) = figure.axes
    ticks = [*axes.get_xticklabels(), *axes.get_yticklabels()]
    for text in (*axes.texts, *ticks, axes.title, axes.xaxis.label, axes.yaxis.label):
        assert contrast(mpl.colors.to_rgb(text.get_color()), page) > 4


def test_a_pdf_is_one(tmp_path):
    plot_dial(DIAL, tmp_path / "dial.PDF")
    assert (tmp_path / "dial.PDF").read_bytes().startswith(b"%PDF-")


@pytest.mark.parametrize(
    "dial",
    [
        DIAL,
        [position("stratified", 0.99, 0.1), position(64, 0.989, 0.101), position(16, 0.988, 0.1)],
        [position(mixing, 1.0, 1.0) for mixing in ("stratified", 64, 16, 4, 1, "update")],
        [position("stratified", 1.0, 0.0), position("update", 0.4, 1.0)],
        [position("stratified", 0.999, 629.0), position(4, 0.9, 4.1), position("update", 0.7, 1)],
        [position(1, 0.8123, 1.2)],
    ],
)
def test_labels_are_inside_and_apart(dial):
    figure, boxes = labels_of(dial)
    named = ",\n".join(boxes).split(",\n")
    assert sorted(named) == sorted(str(each.mixing) for each in dial)
    for box in boxes.values():
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
    for name, box in boxes.items():
        assert not any(box.overlaps(other) for each, other in boxes.items() if each != name)


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_the_same_bytes_whatever_is_set(tmp_path, kind):
    plot_dial(DIAL, tmp_path / f"one.{kind}")
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 30, "svg.fonttype": "path"}):
        before = dict(mpl.rcParams)
        plot_dial(DIAL, tmp_path / f"other.{kind}")
        assert dict(mpl.rcParams) == before
    assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"other.{kind}").read_bytes()


def test_a_plot_opens_no_window_and_loads_no_pyplot(tmp_path):
    code = (
        "import sys; import batchwright as bw; from batchwright.report import plot_dial\n"
        "assert 'matplotlib' not in sys.modules\n"
        "dial = bw.mixing_dial([3, 5, 8, 2] * 20, bw.TokenBudget(16), accumulate=2)\n"
        "plot_dial(dial, sys.argv[1])\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    arguments = [sys.executable, "-W", "error", "-c", code, tmp_path / "dial.svg"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_cannot_be_drawn_is_named(tmp_path):
    with pytest.raises(bw.errors.SourceError, match=r"'dial\.jpeg'.*\.svg, \.png or \.pdf"):
        plot_dial(DIAL, "dial.jpeg")
    with pytest.raises(bw.errors.SourceError, match="no positions"):
        plot_dial((), tmp_path / "dial.svg")
    with pytest.raises(bw.errors.SourceError, match="nowhere"):
        plot_dial(DIAL, tmp_path / "nowhere" / "dial.svg")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    for module in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "dial.svg").write_text("before", encoding="utf-8")
    with pytest.raises(MissingExtraError, match=r"pip install 'batchwright\[plots\]'"):
        plot_dial(DIAL, tmp_path / "dial.svg")
    assert (tmp_path / "dial.svg").read_text(encoding="utf-8") == "before"


def test_inspect_draws_the_dial_that_it_prints(tmp_path):
    np.save(tmp_path / "lengths.npy", LENGTHS)
    bw.plan(LENGTHS, max_tokens=1500, accumulate=8).save(tmp_path / "plan.safetensors")
    files = [str(tmp_path / "plan.safetensors"), str(tmp_path / "lengths.npy")]
    drawn = str(tmp_path / "dial.svg")
    options = ["--dial", "--plot", drawn]
    result = CliRunner().invoke(batchwright, ["inspect", *files, *options, "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["plot"] == drawn
    again = [DialPosition(**each) for each in facts["dial"]]
    plot_dial(again, tmp_path / "again.svg")
    assert Path(drawn).read_bytes() == (tmp_path / "again.svg").read_bytes()
    text = CliRunner().invoke(batchwright, ["inspect", *files, *options])
    assert (text.exit_code, text.stderr) == (0, "")
    assert "Trade-off of padding and mix" in text.stdout
