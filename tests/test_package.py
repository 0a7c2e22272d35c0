"""What holds for the package as a whole: import cost, and who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mvidx"

# For each part, the parts of mvidx that it may import. Modules at the top are parts of their own.
ALLOWED = {
    "errors": set(),
    "layers": {"errors"},
    "mixers": {"layers", "errors"},
    "models": {"layers", "mixers", "checkpoint", "errors"},
    "distributed": {"errors"},
    "data": {"errors"},
    "optim": {"errors"},
    "checkpoint": {"layers", "mixers", "errors"},
    "engine": {"distributed", "checkpoint", "optim", "data", "errors"},
    "inference": {"engine", "config", "models", "checkpoint", "data", "convert", "errors"},
    "report": {"checkpoint", "data", "errors"},
    "explain": {"checkpoint", "data", "inference", "mixers", "models", "layers", "errors"},
}


def imported_parts(file: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [node.module]
            if node.module == "mvidx":
                names = [f"mvidx.{alias.name}" for alias in node.names]
        parts |= {name.split(".")[1] for name in names if name.startswith("mvidx.")}
    return parts - {"__version__"}


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_parts_import_only_what_they_may(part):
    files = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else sorted((PACKAGE / part).rglob("*.py"))
    assert files
    for file in files:
        assert imported_parts(file) <= ALLOWED[part] | {part}, file


def test_only_what_makes_things_of_a_config_imports_it():
    users = {file.relative_to(PACKAGE).parts[0] for file in PACKAGE.rglob("*.py") if "config" in imported_parts(file)}
    assert users <= {"benchmark", "cli", "config", "inference", "launch.py"}


def test_import_is_light():
    code = (
        "import sys, time; t = time.perf_counter(); import mvidx; seconds = time.perf_counter() - t;"
        "mvidx.create_model, mvidx.list_models();"
        "print(seconds < 3, [m for m in ('decord', 'pytorchvideo', 'submitit') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "True []"


def test_unknown_attribute():
    import mvidx

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mvidx.nothing  # noqa: B018
