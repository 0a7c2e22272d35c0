"""The page in a real browser."""

import shutil

import pytest

from mvidx.cli.report import main
from tests.report.made_run import NASTY, write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: it drives the browser")
if CHROMIUM is None:
    pytest.skip("no Chromium is installed (Debian: apt-get install chromium)", allow_module_level=True)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = [str(write_run(folder / name, max_epoch=epochs)) for name, epochs in (("first", 2), ("second", 5))]
    target = folder / "report.html"
    assert main([*runs, "--output", str(target)]) == 0
    return target


@pytest.fixture(params=[("light", 1280), ("dark", 390)], ids=["light, wide", "dark, narrow"])
def page(browser, path, request):
    scheme, width = request.param
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or page.complaints.append(asked.url))
    page.goto(path.as_uri())
    page.wait_for_function("document.querySelector('.chart svg path')")
    yield page
    context.close()


def column(page, table: str, number: int) -> list[str]:
    return page.eval_on_selector_all(f"{table} tbody tr", f"rows => rows.map(row => row.cells[{number}].textContent)")


def test_no_complaints_pictures_load_and_nothing_sticks_out(page):
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.evaluate("document.images.length") == 2
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.click("#tab-1")
    assert page.is_visible("#run-1") and not page.is_visible("#run-0")
    assert page.complaints == []


def test_tables_sort_and_filter(page):
    head = "#classes-0 thead th:nth-child(4) button"
    page.click(head)
    assert column(page, "#classes-0", 3) == ["100.00%", "50.00%", "50.00%"]
    page.click(head)
    assert column(page, "#classes-0", 3) == ["50.00%", "50.00%", "100.00%"]
    page.click("#classes-0 thead th:nth-child(2) button")
    assert column(page, "#classes-0", 1) == [NASTY, "left", "up"]
    page.fill('input[data-table="classes-0"]', "UP")
    assert page.locator("#classes-0 tbody tr:visible").count() == 1
    assert page.complaints == []


def test_theme_changes(page):
    colour = "getComputedStyle(document.body).backgroundColor"
    first = page.evaluate(colour)
    colours = set()
    for name in ("light", "dark", "auto"):
        page.click("#theme")
        assert page.text_content("#theme-name") == name
        colours.add(page.evaluate(colour))
    assert len(colours) == 2 and page.evaluate(colour) == first
    assert page.complaints == []


def test_confusion_matrix_shows_zooms_and_finds_videos(page):
    canvas = page.locator("#run-0 canvas")
    canvas.scroll_into_view_if_needed()
    drawn = "canvas => canvas.toDataURL()"
    page.wait_for_timeout(100)
    before = canvas.evaluate(drawn)
    page.click("#run-0 .in")
    page.wait_for_timeout(100)
    assert canvas.evaluate(drawn) != before
    page.click("#run-0 .reset")
    page.select_option("#run-0 .order", "label")
    page.wait_for_timeout(100)
    # Find the cell of class 1 taken for class 0 by moving over the matrix, and click it.
    box = canvas.bounding_box()
    found = None
    for y in range(8, int(box["height"]), 35):
        for x in range(8, int(box["width"]), 35):
            page.mouse.move(box["x"] + x, box["y"] + y)
            if page.is_visible("#run-0 .stage .tip") and f"{NASTY} → left" in page.text_content("#run-0 .stage .tip"):
                found = x, y
                break
        if found:
            break
    assert found and "1 of 2 (50.0%)" in page.text_content("#run-0 .stage .tip")
    page.mouse.click(box["x"] + found[0], box["y"] + found[1])
    assert page.locator("#mistakes-0 tbody tr:visible").count() == 1
    assert "0.9500" in page.locator("#mistakes-0 tbody tr:visible").text_content()
    assert page.complaints == []


def test_charts_answer_the_pointer(page):
    chart = page.locator(".chart").first
    chart.scroll_into_view_if_needed()
    box = chart.locator("svg").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.97, box["y"] + 60)
    tip = chart.locator(".tip")
    assert tip.is_visible() and "epoch 2" in tip.text_content() and "0.125" in tip.text_content()
    lines = chart.locator("svg path[d^=M]").count()
    chart.locator(".legend-row button").first.click()
    assert chart.locator("svg path[d^=M]").count() < lines
    assert page.complaints == []
