"""Files are written whole or not at all, and nothing of an earlier run is overwritten."""

import contextlib
import json
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from edgekit import arrays
from edgekit.errors import EdgekitError, RunFolderError, UsageError
from edgekit.runfolder import RunFolder, append_line, read_lines, unwritable, write_whole


@contextlib.contextmanager
def full_disk():
    """Limit the size of files, which ends writes as a full disk does; pytest's own output must not be under it."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_file_and_no_part_of_the_new(tmp_path):
    path = tmp_path / "result.json"
    write_whole(path, "old")
    with full_disk(), pytest.raises(RunFolderError, match="cannot write"):
        write_whole(path, "x" * 100_000)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_a_line_that_does_not_fit_is_cut_off_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_line(path, {"round": 1})
    with full_disk(), pytest.raises(RunFolderError, match="cannot write"):
        append_line(path, {"text": "x" * 100_000})
    assert list(read_lines(path)) == [{"round": 1}]


def test_a_last_line_cut_short_by_a_crash_is_left_out_but_an_earlier_one_is_an_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"round": 1}\n{"roun')
    assert list(read_lines(path)) == [{"round": 1}]
    path.write_text('{"roun\n{"round": 2}\n')
    with pytest.raises(RunFolderError, match="line 1 is not JSON"):
        list(read_lines(path))


def test_an_existing_run_is_never_overwritten(tmp_path):
    (tmp_path / "experiment.toml").write_text("")
    with pytest.raises(UsageError, match="edgekit resume"):
        RunFolder.create(tmp_path)
    assert RunFolder.open(tmp_path).path == tmp_path


def test_a_folder_that_is_no_run_cannot_be_opened(tmp_path):
    with pytest.raises(UsageError, match="is not a run folder"):
        RunFolder.open(tmp_path)


def test_a_file_where_the_folder_should_be_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="Not a directory"):
        RunFolder.create(tmp_path / "file" / "run")


def test_a_folder_without_permission_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    # Root may write everywhere but into the kernel's own folders.
    parent = Path("/sys") if os.geteuid() == 0 else tmp_path
    with pytest.raises(RunFolderError, match=r"cannot make the run folder .* (Permission denied|Operation not)"):
        RunFolder.create(parent / "run")


def test_the_next_free_number_skips_what_is_there(tmp_path):
    (tmp_path / "digits-001").mkdir()
    assert RunFolder.next_free(tmp_path, "digits").name == "digits-002"


def test_arrays_and_their_description_survive_the_file(tmp_path):
    weights = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1, 2], np.int64)}
    arrays.save(tmp_path / "m.safetensors", weights, {"model": "mlp"})
    loaded, description = arrays.load(tmp_path / "m.safetensors")
    assert description == {"model": "mlp"}
    assert all(np.array_equal(loaded[name], weights[name]) for name in weights)


def test_a_file_that_is_not_safetensors_is_a_clear_error(tmp_path):
    (tmp_path / "m.safetensors").write_text(json.dumps({"not": "tensors"}))
    with pytest.raises(EdgekitError, match="not a readable safetensors file"):
        arrays.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"a": None}, "array 'a' is missing"),
        ({"c": np.zeros(1, np.float32)}, "array 'c' is unknown"),
        ({"a": np.zeros((3, 2), np.float32)}, "'a' has shape (3, 2), expected (2, 3)"),
        ({"a": np.zeros((2, 3), np.float64)}, "'a' has dtype float64, expected float32"),
        ({"a": np.full((2, 3), np.nan, np.float32)}, "'a' holds values that are not finite"),
    ],
)
def test_the_problem_with_an_update_is_named(change, problem):
    expected = {"a": np.zeros((2, 3), np.float32)}
    given = {name: array for name, array in {**expected, **change}.items() if array is not None}
    assert arrays.problem_with(given, expected) == problem
    assert arrays.problem_with(expected, expected) is None


def test_why_nothing_can_be_written_is_told(tmp_path):
    assert unwritable(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []
    assert unwritable(tmp_path / "gone") == f"{tmp_path / 'gone'} cannot be written: No such file or directory"
