"""docs/models.md: its tables list what is registered, with true numbers."""

import re
from pathlib import Path

import pytest
import torch

import mvidx
from mvidx.models.flops import count_parameters

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
ROW = re.compile(r"^\| `(\w+)` \| ([\dx]+) \| ([\d,]+) \| ([\d.]+) \|", re.MULTILINE)
ROWS = {name: (size, int(parameters.replace(",", ""))) for name, size, parameters, _ in ROW.findall(PAGE.read_text())}


def test_every_model_is_listed_once():
    names = [match[0] for match in ROW.findall(PAGE.read_text())]
    assert sorted(names) == mvidx.list_models()


@pytest.mark.parametrize("name", ROWS)
def test_input_and_parameters_are_true(name):
    with torch.device("meta"):
        model = mvidx.create_model(name)
    assert ("x".join(map(str, model.input_size)), count_parameters(model)) == ROWS[name]
