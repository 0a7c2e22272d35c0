import subprocess
import sys

import pytest

from mvidx.data.annotations import (
    DataError,
    VideoList,
    check_files,
    file_problem,
    read_class_names,
    read_video_list,
)
from tests.shared import shared_file


def test_separators_prefixes_and_spaces(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text("a b/c d.mp4 1\n\nx.mp4,0\ny.mp4\t2\n")
    videos = read_video_list(file, num_classes=3, prefix="/data")
    assert [videos.path(i) for i in range(len(videos))] == ["/data/a b/c d.mp4", "/data/x.mp4", "/data/y.mp4"]
    assert videos.labels.tolist() == [1, 0, 2]
    assert videos.where(1) == f"{file}, row 3"


def test_relative_paths_are_found_beside_the_annotation(tmp_path, monkeypatch):
    (tmp_path / "here.mp4").write_bytes(b"x")
    file = tmp_path / "val.csv"
    file.write_text("here.mp4 0\n")
    assert read_video_list(file, num_classes=1, root=tmp_path).path(0) == str(tmp_path / "here.mp4")
    monkeypatch.chdir(tmp_path)
    assert read_video_list(file, num_classes=1, root=tmp_path).path(0) == "here.mp4"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("a.mp4 0\nb.mp4\n", "row 2: 'b.mp4' has no label"),
        ("a.mp4 0\nb.mp4 7\n", "row 2: label 7 is outside the 3 classes (0 to 2)"),
        ("a.mp4 -1\n", "row 1: label -1"),
        ("a.mp4 x\n", "row 1"),
    ],
)
def test_mistakes_name_file_and_row(tmp_path, text, expected):
    file = tmp_path / "train.csv"
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        read_video_list(file, num_classes=3)
    assert str(file) in str(caught.value) and expected in str(caught.value)


def test_a_missing_annotation_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv does not exist"):
        read_video_list(tmp_path / "none.csv", num_classes=3)


def test_files_that_can_not_be_videos_are_named(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is not a video, whatever its name says\n" * 20)
    videos = VideoList([str(tmp_path / f"{n}.mp4") for n in ("gone", "empty", "text")], [0, 0, 0], source="x.csv")
    assert file_problem(videos.path(0)) == "does not exist"
    assert file_problem(videos.path(1)) == "is empty"
    assert "is not a video" in file_problem(videos.path(2))
    with pytest.raises(DataError, match=r"x\.csv, row 1: .*gone\.mp4 does not exist \(and 2 more like it\)"):
        check_files(videos, limit=10)
    check_files(videos, limit=0)


def test_real_videos_pass():
    folder = shared_file("videos/numbered")
    files = [path for path in folder.iterdir() if path.suffix != ".json"]
    assert len(files) > 8
    for path in files:
        assert file_problem(str(path)) is None, path


def test_class_names(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("one\ntwo two\n")
    assert read_class_names(file, 2) == ["one", "two two"]
    with pytest.raises(DataError, match="names 2 classes, expected 3"):
        read_class_names(file, 3)


def test_a_million_rows_are_small(tmp_path):
    file = tmp_path / "train.csv"
    with open(file, "w") as lines:
        lines.writelines(
            f"/data/kinetics400/train/some class name {i % 400}/{i:011d}_000010_000020.mp4 {i % 400}\n"
            for i in range(1_000_000)
        )
    code = f"""
import resource
from mvidx.data.annotations import read_video_list
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
videos = read_video_list({str(file)!r}, num_classes=400)
print(len(videos), videos.path(999_999), videos.labels[-1], videos.where(999_999))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    facts, megabytes = done.stdout.splitlines()
    path = "/data/kinetics400/train/some class name 399/00000999999_000010_000020.mp4"
    assert facts == f"1000000 {path} 399 {file}, row 1000000"
    assert float(megabytes) < 300
