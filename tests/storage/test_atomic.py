"""Files and folders appear whole or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from rewardlab.errors import InputError
from rewardlab.storage.atomic import atomic_folder, new_folder, write_atomically


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "one\n")
    write_atomically(path, b"two\r\n")
    assert path.read_bytes() == b"two\r\n"
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_bytes() == b"two\r\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_at_the_end_or_not_at_all(tmp_path):
    target = tmp_path / "runs" / "stage"
    with pytest.raises(FileNotFoundError), atomic_folder(target) as folder:
        (folder / "half").write_text((folder / "nowhere").read_text())
    assert list(target.parent.iterdir()) == []
    with atomic_folder(target) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("x")
    assert (target / "deep" / "file").read_text() == "x"
    with pytest.raises(InputError, match="it exists"), atomic_folder(target):
        pass
    with pytest.raises(InputError, match="it exists"), atomic_folder(target.parent / "late"):
        (target.parent / "late").mkdir()
    assert sorted(path.name for path in target.parent.iterdir()) == ["late", "stage"]


def test_a_killed_process_leaves_no_target(tmp_path):
    block = f"with atomic_folder({str(tmp_path / 'stage')!r}): os._exit(9)"
    code = f"import os\nfrom rewardlab.storage.atomic import atomic_folder\n{block}"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False
        ).returncode
        == 9
    )
    assert not (tmp_path / "stage").exists()


def write(folder, text):
    with new_folder(folder) as fresh:
        (fresh / "config.json").write_text(text)


def test_a_new_folder_replaces_an_earlier_result_or_an_empty_folder(tmp_path):
    (tmp_path / "reward").mkdir()
    for text in ("first", "second"):
        write(tmp_path / "reward", text)
        assert (tmp_path / "reward" / "config.json").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["reward"]


def test_a_new_folder_replaces_nothing_else(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for name in ("notes", "file"):
        with pytest.raises(InputError, match=r"holds no config\.json, so it is not replaced"):
            write(tmp_path / name, "new")
    assert (tmp_path / "notes" / "todo.txt").read_text() == "keep"
    assert (tmp_path / "file").read_text() == "keep"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "notes"]
