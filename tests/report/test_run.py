import numpy as np
import pytest

from mvidx.errors import UserError
from mvidx.report import analysis
from mvidx.report.run import read_run, read_runs
from tests.report.made_run import LABELS, NAMES, SCORES, write_run


def test_everything_is_read_back(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    assert run.problems == [] and run.name == "run" and run.class_names == list(NAMES)
    assert run.results["top1"] == 60.0 and run.results["failures"][0]["path"] == "gone.mp4"
    assert run.confusion.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert [row.top1 for row in run.classes] == [50.0, 50.0, 100.0]
    np.testing.assert_allclose(run.predictions.scores, SCORES, rtol=1e-6)
    assert run.predictions.labels.tolist() == list(LABELS)
    assert run.config["SOLVER"]["MAX_EPOCH"] == 2


def test_mistakes_most_confident_first(tmp_path):
    mistakes, total = analysis.find_mistakes(read_run(write_run(tmp_path / "run")), 10)
    assert total == 2
    assert [(one.actual, one.predicted, round(one.confidence, 4), one.rank) for one in mistakes] == [
        (1, 0, 0.95, 2),
        (0, 1, 0.6, 2),
    ]
    assert len(analysis.find_mistakes(read_run(tmp_path / "run"), 1)[0]) == 1


def test_confused_pairs():
    confusion = np.array([[8, 2, 0], [0, 5, 5], [1, 0, 0]])
    assert analysis.confused_pairs(confusion, 10) == [(1, 2, 5, 50.0), (0, 1, 2, 20.0), (2, 0, 1, 100.0)]
    assert len(analysis.confused_pairs(confusion, 1)) == 1


def test_curves_are_over_epochs(tmp_path):
    charts = {chart.title: chart for chart in analysis.curves([read_run(write_run(tmp_path / "run"))])}
    loss = {curve.kind: curve for curve in charts["Loss"].curves}
    assert loss["steps"].x == [0.5, 1.0, 1.5, 2.0] and loss["steps"].y == [0.5, 0.25, 1 / 6, 0.125]
    assert loss["train"].x == [1.0, 2.0] and loss["train"].y == [1.5, 1.0]
    assert loss["val"].y == [None, 0.5]  # NaN is a gap
    assert charts["Training speed"].curves[0].y == [12.0, 14.0, 16.0, 18.0]
    assert charts["Waiting for data"].curves[0].y == [25.0] * 4


def test_long_curves_are_means_of_groups():
    x, y = analysis.thinned(range(10), [*range(8), None, None], limit=5)
    assert x == [0.5, 2.5, 4.5, 6.5, 8.5] and y == [0.5, 2.5, 4.5, 6.5, None]
    assert analysis.thinned([1.0, 2.0], [3.0, None]) == ([1.0, 2.0], [3.0, None])


def test_what_differs():
    first = analysis.flatten({"A": {"B": 1, "C": {}}, "D": [1, 2]})
    assert first == {"A.B": 1, "A.C": {}, "D": [1, 2]}
    assert analysis.differing_keys([{"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}]) == ["b", "c"]
    assert analysis.shown((1, [2, "x"])) == "[1, [2, x]]"


def test_folders_that_are_no_runs(tmp_path):
    with pytest.raises(UserError, match="nothing is not a folder, expected the OUTPUT_DIR"):
        read_run(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds none of a run's files"):
        read_run(tmp_path)
    run = write_run(tmp_path / "run")
    with pytest.raises(UserError, match="named twice"):
        read_runs([str(run), str(run / ".")])


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [str(write_run(tmp_path / seed / "run")) for seed in ("a", "b")]
    assert [run.name for run in read_runs(folders)] == ["a/run", "b/run"]


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("config.yaml", b"a: [", "config.yaml can't be read: ParserError"),
        ("config.yaml", b"- 1", "config.yaml can't be read: ValueError: holds a list"),
        ("results.json", b"{", "results.json can't be read"),
        ("results.json", b'{"top1": "x"}', "top1 is 'x', expected a number"),
        ("per_class.csv", b"label,name\n0,a\n", "per_class.csv can't be read"),
        ("confusion.csv", b"x,a,b\na,1,2\n", "expected a square"),
        ("predictions.npz", b"PK\x03\x04 cut", "predictions.npz can't be read"),
        ("metrics.jsonl", b'{"kind": "val", "epoch": 1}\n{"kind": "tra', "metrics.jsonl, line 2: not a record"),
    ],
)
def test_a_damaged_file_is_told_and_left_out(tmp_path, file, content, problem):
    folder = write_run(tmp_path / "run")
    (folder / file).write_bytes(content)
    run = read_run(folder)
    assert len(run.problems) == 1 and problem in run.problems[0], run.problems


def test_files_of_different_numbers_of_classes(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "per_class.csv").write_text("label,name,num_videos,top1\n0,a,1,\n")
    run = read_run(folder)
    assert "different numbers of classes (1, 3)" in run.problems[0] and run.class_names == ["0", "1", "2"]


def test_relative_paths_are_of_the_folder_the_run_was_started_in(tmp_path):
    folder = write_run(tmp_path / "project" / "runs" / "one")
    run = read_run(folder)
    run.config["OUTPUT_DIR"] = "runs/one"
    assert run.working_folder == (tmp_path / "project").resolve()
