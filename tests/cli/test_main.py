"""`mvidx`: its commands are the tools, every help fits a screen, and the shell completes."""

import subprocess
import sys

import pytest

from mvidx.cli.main import COMMANDS, main
from tests.runs import ROOT, SMALL


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_fits_a_screen_and_has_an_example(name, capsys):
    with pytest.raises(SystemExit) as done:
        main([name, "--help"])
    text = capsys.readouterr().out
    assert done.value.code == 0
    assert len(text.splitlines()) <= 45 and max(map(len, text.splitlines())) <= 120
    if name != "benchmark":  # its subcommands have their own
        assert f"mvidx {name}" in text and "example" in text


def test_help_of_all_and_unknown_commands(capsys):
    assert main([]) == 2
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)
    assert main(["predikt"]) == 2
    error = capsys.readouterr().err
    assert "did you mean 'predict'" in error and error.count("\n") == 1


def test_help_is_light():
    code = "import sys; from mvidx.cli.main import main; main([]); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


@pytest.mark.long
def test_a_tool_and_its_command_do_the_same(tmp_path):
    tool = [sys.executable, str(ROOT / "tools" / "complexity.py")]
    command = [sys.executable, "-m", "mvidx", "complexity"]
    outputs = [
        subprocess.run([*words, "--model", "mixformer_b0"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
        for words in (tool, command)
    ]
    assert outputs[0] == outputs[1] and "5,098,767" in outputs[0]


def test_test_does_not_train(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = str(ROOT / "configs" / "Motion" / "MVITv2_tiny.yaml")
    words = list(map(str, [*SMALL, "DATA.PATH_TO_DATA_DIR", "motion", "OUTPUT_DIR", "out"]))
    assert main(["test", "--cfg", config, *words]) == 2
    assert "nothing to test" in capsys.readouterr().err and not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_scripts(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)
    assert shell == "tcsh" or "--window-seconds" in script


def test_bash_completes(capsys):
    main(["completion", "bash"])
    script = capsys.readouterr().out
    cases = {
        "mvidx exp": ["export"],
        "mvidx predict --window": ["--window-seconds"],
        "mvidx predict --model mixformer_b0": ["mixformer_b0", "mixformer_b0_video"],
    }
    for words, expected in cases.items():
        ask = f'COMP_WORDS=({words}); COMP_CWORD={len(words.split()) - 1}; _shtab_mvidx; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
        assert [word for word in done.stdout.split() if word in expected] == expected, words
