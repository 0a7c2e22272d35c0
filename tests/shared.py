"""Files of ../shared, which lies beside the checkout and is not part of it."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared_file(name: str) -> Path:
    """Path of a file or folder in ../shared; skips the test when it is not there."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not there: reference files lie beside the checkout")
    return path
