import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from mvidx.cli.report import main
from mvidx.data.motion_scene import MotionScene
from mvidx.report.pictures import film_strip, picture
from tests.report.made_run import NASTY, write_run


class Page(HTMLParser):
    """Tags with their attributes, and the text of table cells, row by row, by the class of the table."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.table = self.cell = None
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "table":
            name = attributes.get("id") or attributes["class"].split()[-1]
            self.table = self.tables.setdefault(name, [])
        if tag == "tr":
            self.table.append([])
        if tag in ("td", "th"):
            self.table[-1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cell = None

    def handle_data(self, text):
        self.text += text
        if self.cell:
            self.table[-1][-1] += text


@pytest.fixture
def page(tmp_path):
    folder = write_run(tmp_path / "run")
    assert main([str(folder)]) == 0
    return (folder / "report.html").read_text()


def test_tables(page):
    tables = Page(page).tables
    assert tables["classes-0"][1][:4] == ["0", "left", "2", "50.00%"]
    assert tables["classes-0"][2][1] == NASTY
    assert tables["pairs"][1:] == [["left", NASTY, "1", "50.00%"], [NASTY, "left", "1", "50.00%"]]
    assert [row[1:] for row in tables["mistakes-0"][1:]] == [
        [NASTY, "left", "0.9500", "0.0300", "2"],
        ["left", NASTY, "0.6000", "0.3000", "2"],
    ]
    assert tables["failures"][1] == ["gone.mp4", f"does not exist {NASTY}", "test.csv, row 6"]
    assert ["SOLVER.MAX_EPOCH", "2", "300"] in tables["changed"]
    assert not any(row[0] == "SOLVER.BASE_LR" for row in tables["changed"])
    assert ["SOLVER.BASE_LR", "0.1"] in tables["config-0"]
    assert "60.00%" in page and "3 views × 1 crops" in page


def test_nothing_is_fetched_and_nothing_of_the_files_is_markup(page):
    parsed = Page(page)
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:", "#")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    assert not re.search(r"(?:url\(|@import|//cdn|https?://(?!www\.w3\.org/2000/svg))", page)
    assert "default-src 'none'" in page
    assert page.count("</script>") == 2 and "<img src=x" not in page


def test_data_of_the_scripts(page):
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])
    assert data["runs"][0]["classes"][1] == NASTY
    assert data["runs"][0]["cells"] == [0, 0, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 2, 2, 1]
    assert {chart["title"] for chart in data["charts"]} >= {"Loss", "Top-1", "Learning rate", "Training speed"}
    assert "NaN" not in json.dumps(data)


def test_pictures_are_the_frames_of_the_mistaken_videos(page, tmp_path):
    images = [attributes for tag, attributes in Page(page).tags if tag == "img"]
    assert [Path(image["alt"]).name for image in images] == ["video1.mp4"]  # the other mistake's file is not there
    assert "is no longer there" in page
    encoded = base64.b64decode(images[0]["src"].removeprefix("data:image/jpeg;base64,"))
    shown = cv2.cvtColor(cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    scene = MotionScene(0, 0, 1, "left")
    numbers = [int((index + 0.5) * scene.num_frames / 4) for index in range(4)]
    width = shown.shape[1] // 4
    for place, number in enumerate(numbers):
        frame = cv2.resize(scene.frames(number, number + 1)[0], (width, 96), interpolation=cv2.INTER_AREA)
        part = shown[:, place * width : (place + 1) * width]
        assert np.abs(part.astype(int) - frame).mean() < 12  # two lossy codecs lie between
        other = cv2.resize(scene.frames(number - 8, number - 7)[0], (width, 96), interpolation=cv2.INTER_AREA)
        assert np.abs(part.astype(int) - other).mean() > 20


def test_pictures_of_images_and_folders_of_frames(tmp_path):
    colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)
    (tmp_path / "frames").mkdir()
    for number, colour in enumerate(colours):
        Image.fromarray(np.full((20, 30, 3), colour)).save(tmp_path / "frames" / f"{number:03d}.png")
    strip = film_strip(tmp_path / "frames", height=10)
    assert strip.shape == (10, 45, 3)
    assert [strip[5, x].tolist() for x in (7, 22, 37)] == colours.tolist()
    assert film_strip(tmp_path / "frames" / "001.png", height=10)[5, 7].tolist() == colours[1].tolist()
    assert picture("frames", [tmp_path])[0].startswith("data:image/jpeg;base64,")
    assert picture("nowhere.mp4", [tmp_path]) == (None, "is no longer there")
    (tmp_path / "text.mp4").write_text("no video")
    uri, reason = picture("text.mp4", [tmp_path])
    assert uri is None and reason


def test_several_runs_are_compared(tmp_path, capsys):
    first = write_run(tmp_path / "first")
    second = write_run(tmp_path / "second", max_epoch=5)
    target = tmp_path / "both.html"
    assert main([str(first), str(second), "--output", str(target), "--pictures", "0", "--title", "A <b> B"]) == 0
    page = target.read_text()
    parsed = Page(page)
    assert parsed.tables["differences"][1:] == [["SOLVER.MAX_EPOCH", "2", "5"]]
    assert [row[0] for row in parsed.tables["compare-table"][1:]] == ["first", "second"]
    assert "A <b> B" in parsed.text and "<b> B" not in page
    assert not [tag for tag, _ in parsed.tags if tag == "img"]
    assert str(target) in capsys.readouterr().out


def test_a_run_without_a_test_or_without_training(tmp_path):
    folder = write_run(tmp_path / "run")
    for name in ("results.json", "predictions.npz", "per_class.csv", "confusion.csv"):
        (folder / name).unlink()
    assert main([str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert "No test was run yet" in page and "classes-0" not in Page(page).tables
    tested = write_run(tmp_path / "tested")
    (tested / "metrics.jsonl").unlink()
    assert main([str(tested)]) == 0
    assert 'id="curves"' not in (tested / "report.html").read_text()


def test_damaged_files_give_a_line_and_status_1(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    (folder / "confusion.csv").write_text("cut,off\nhere")
    assert main([str(folder)]) == 1
    assert "left out: " in capsys.readouterr().err
    page = (folder / "report.html").read_text()
    assert "confusion.csv can&#39;t be read" in page and "mistakes-0" in Page(page).tables


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/none"], "{tmp}/none is not a folder"),
        (["{run}", "--pictures", "-1"], "--pictures -1, expected 0 or more"),
        (["{run}", "--output", "{tmp}/no/page.html"], "--output {tmp}/no/page.html: there is no such folder"),
        (["{run}", "--root", "{tmp}/no"], "--root {tmp}/no is not a folder"),
        (["{run}", "--output", "{run}"], "cannot write {run}"),
        ([], "required: OUTPUT_DIR"),
    ],
)
def test_bad_arguments(tmp_path, capsys, arguments, message):
    run = write_run(tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    places = {"tmp": str(tmp_path), "run": str(run)}
    assert main([argument.format(**places) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message.format(**places) in error
    assert sorted(tmp_path.rglob("*")) == before


def test_config_is_what_load_config_reads(tmp_path):
    """The fixture's config is a whole one: the page must mark only what a user changed."""
    folder = write_run(tmp_path / "run")
    assert len(yaml.safe_load((folder / "config.yaml").read_text())) > 10
