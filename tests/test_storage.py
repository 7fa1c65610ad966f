"""`course_lib.storage`: what the course makes is made once, read as it was written, and made anew where it is damaged."""

from pathlib import Path

import pytest

from course_lib import storage
from course_lib.storage import AssetError, cache_dir


def test_the_cache_is_the_users_unless_chosen(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_CACHE", raising=False)
    assert "llm-course" in cache_dir().parts
    monkeypatch.setenv("COURSE_CACHE", "~/usb")
    assert cache_dir() == Path.home() / "usb"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COURSE_CACHE", "usb")
    assert cache_dir() == tmp_path / "usb"


def keep(folder: Path, made: list[Path], content: str = "3\n1\n4\n") -> list[int]:
    """Keep numbers in a folder, and note when they are written."""

    def write(path: Path) -> None:
        made.append(path)
        path.mkdir()
        (path / "numbers.txt").write_text(content)

    return storage.keep(
        folder, write, lambda path: list(map(int, (path / "numbers.txt").read_text().split())), room=100
    )


def test_what_is_kept_is_made_once_and_its_seconds_are_known(tmp_path):
    folder, made = tmp_path / "cache" / "numbers", []
    assert keep(folder, made) == keep(folder, made) == [3, 1, 4]
    assert len(made) == 1 and 0 < storage.seconds_to_make(folder) < 10
    assert [path.name for path in folder.parent.iterdir() if not path.name.startswith(".")] == ["numbers"]


def test_what_is_kept_is_read_once(tmp_path):
    folder, was_read = tmp_path / "numbers", []
    keep(folder, [])

    def read(path: Path) -> int:
        was_read.append(path)
        return len(was_read)

    assert storage.keep(folder, lambda _: pytest.fail("it was made again"), read, room=100) == 1
    assert was_read == [folder]


@pytest.mark.parametrize("damage", ["3\n1\n", "three", "3\n1\n5\n", None])
def test_what_is_kept_is_made_anew_when_it_is_damaged(tmp_path, damage):
    folder, made = tmp_path / "numbers", []
    keep(folder, made)
    (folder / "numbers.txt").unlink()
    if damage is not None:
        (folder / "numbers.txt").write_text(damage)
    assert keep(folder, made) == [3, 1, 4] and len(made) == 2


def test_files_in_a_folder_of_the_folder_are_kept_too(tmp_path):
    file = tmp_path / "letters" / "inner" / "letters.txt"

    def write(path: Path) -> None:
        (path / "inner").mkdir(parents=True)
        (path / "inner" / "letters.txt").write_text("abc")

    for _ in range(2):
        found = storage.keep(
            tmp_path / "letters", write, lambda path: (path / "inner" / file.name).read_text(), room=100
        )
        assert found == "abc"
        file.write_text("abd")


@pytest.mark.parametrize("note", ["{", "[]", "{}", '{"seconds": 1}'])
def test_a_damaged_note_of_the_making_is_damage(tmp_path, note):
    folder, made = tmp_path / "numbers", []
    keep(folder, made)
    (folder / "made.json").write_text(note)
    assert keep(folder, made) == [3, 1, 4] and len(made) == 2 and storage.seconds_to_make(folder) is not None


def test_what_was_kept_before_its_making_was_noted_is_read(tmp_path):
    folder, made = tmp_path / "numbers", []
    keep(folder, made)
    (folder / "made.json").unlink()
    assert keep(folder, made) == [3, 1, 4] and len(made) == 1 and storage.seconds_to_make(folder) is None


def test_what_cannot_be_read_when_it_has_been_made_is_an_error(tmp_path):
    with pytest.raises(AssetError, match="no better: it cannot be read: invalid literal"):
        keep(tmp_path / "numbers", [], content="three")
    assert not (tmp_path / "numbers").exists()
