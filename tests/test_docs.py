"""The documentation says what is there: its commands parse, the short ones run, its Python compiles."""

import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import pytest

from mvidx.cli.main import COMMANDS, main
from mvidx.config import defaults
from mvidx.config.build import build_model
from mvidx.config.card import card_of_config
from mvidx.config.load import load_config
from mvidx.config.reference import reference
from mvidx.convert import write_checkpoint
from mvidx.launch import parse_arguments
from tests.inference.made import small_checkpoint, write_video
from tests.oracles import randomise
from tests.report.made_run import write_run

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TOOLS = {
    "run_net.py": "train",
    "extract_features.py": "features",
    "check_dataset.py": "check",
    "convert_checkpoint.py": "convert",
    "inflate_checkpoint.py": "inflate",
}
"""Tools whose command has another name."""
RUN = ("predict", "report", "explain", "features", "export", "share", "complexity", "completion")
NOT_HERE = ("--push", "mvitv2_?", "--frames 32", "iformer_small", ".pth.tar", "k400.pyth", "MViTv2_S", "hf://")
"""What needs published weights, a network or minutes."""


def commands_of(page: Path) -> list[str]:
    """Commands in the blocks of a page, one a line, without comments and redirections."""
    text = page.read_text()
    lines = re.sub(r"\\\n\s*", "", "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))).splitlines()
    lines += re.findall(r"^    (python tools/.*|mvidx .*)$", text, re.MULTILINE)
    found = []
    for line in lines:
        for command in line.split(" && "):
            words = re.split(r"\s(?:#|>)\s", command)[0].strip()
            if "tools/" in words or words.startswith("mvidx "):
                found.append(words)
    return found


def command_and_words(line: str) -> tuple[str, list[str]]:
    """('predict', ['video.mp4', ...]) of a line."""
    words = shlex.split(line)
    if words[0] == "mvidx":
        return words[1], words[2:]
    tool = next(i for i, word in enumerate(words) if word.startswith("tools/"))
    file = words[tool].removeprefix("tools/")
    assert (ROOT / "tools" / file).exists(), line
    return TOOLS.get(file, file.removesuffix(".py")), words[tool + 1 :]


ALL = [
    pytest.param(line, id=f"{page.name}: {line[:60]}") for page in PAGES for line in dict.fromkeys(commands_of(page))
]


def test_commands_are_found():
    assert len(ALL) > 30


@pytest.mark.parametrize("line", ALL)
def test_every_command_parses(line):
    name, words = command_and_words(line)
    if name in ("train", "test"):
        parsed = parse_arguments(words)
        if parsed.cfg != "FILE":
            load_config(ROOT / parsed.cfg, parsed.overrides)
    elif name == "benchmark":
        import argparse

        module = importlib.import_module(f"mvidx.benchmark.{words[0]}")
        parser = argparse.ArgumentParser(exit_on_error=False)
        module.add_arguments(parser)
        parser.parse_args(words[1:])
    else:
        COMMANDS[name].function(COMMANDS[name].make_parser)(prog="x").parse_args(words)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the pages' commands name, small."""
    here = tmp_path_factory.mktemp("docs")
    (here / "configs").symlink_to(ROOT / "configs")
    for name in ("mvitv2", "poolformer"):
        write_run(here / "runs" / f"motion_{name}_tiny")
    for name, cfg in (("mvitv2", "MVITv2"), ("mixformer", "MIXFORMER"), ("iformer", "IFORMER")):
        cfg = load_config(ROOT / f"configs/Motion/{cfg}_tiny.yaml", [])
        folder = here / "runs" / f"motion_{name}_tiny" / "checkpoints"
        folder.mkdir(parents=True)
        for file in ("step_00000840.pyth", "best.pyth"):
            write_checkpoint(folder / file, randomise(build_model(cfg)).state_dict(), card_of_config(cfg))
    shutil.copy(small_checkpoint(here), here / "FILE")
    (here / "videos").mkdir()
    (here / "data/motion/test").mkdir(parents=True)
    (here / "shared").mkdir()
    for name in ("video.mp4", "long.mp4", "videos/a.mp4", "data/motion/test/00002.mp4"):
        write_video(here / name)
    return here


SHORT = {
    line: page.name
    for page in PAGES
    for line in commands_of(page)
    if command_and_words(line)[0] in RUN and not any(word in line for word in NOT_HERE)
}


@pytest.mark.parametrize("line", [pytest.param(line, id=f"{page}: {line[:60]}") for line, page in SHORT.items()])
def test_short_commands_run(line, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    name, words = command_and_words(line)
    status = main([name, *words])
    said = capsys.readouterr()
    # the report is of a made-up run whose unreadable video is part of it
    assert status == 0, said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_compiles(page):
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)):
        compile(block, f"{page.name}, block {number}", "exec")


def test_keys_are_up_to_date():
    """Made anew by: python -m mvidx.config.reference > docs/config.md"""
    page = (ROOT / "docs" / "config.md").read_text()
    assert page == reference(Path(defaults.__file__).read_text())
    keys = [key for key, _ in all_keys(defaults.get_cfg())]
    assert len(keys) > 100 and not [key for key in keys if f"`{key}`" not in page]
    assert not re.search(r"\|  \|$", page, re.MULTILINE)  # a key without a word about it


def all_keys(cfg, prefix=""):
    for key, value in cfg.items():
        if hasattr(value, "items"):
            yield from all_keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_readme_names_every_page():
    readme = (ROOT / "README.md").read_text()
    nav = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES[1:]:
        assert page.name in nav, page
        assert page.name in readme or page.name in ("index.md", "api.md"), page
