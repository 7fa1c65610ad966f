"""The cache folder, and what keeps it whole: each file or folder in it is all there, or it is made anew.

In it lie the assets, which are fetched, and the course's own runs, which take minutes to make. What is made is written beside
its place and then moved, so that a process that is killed leaves it whole, or nothing.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import platformdirs
from filelock import FileLock

__all__ = [
    "AssetError",
    "cache_dir",
    "ensure",
    "file_digest",
    "folder_digest",
    "keep",
    "kept",
    "own_dir",
    "run_dir",
    "seconds_to_make",
]

_Content = TypeVar("_Content")
_MADE = "made.json"  # in a folder of `keep`
_DAMAGE = (OSError, ValueError, TypeError, KeyError, AttributeError)  # what a reader of a damaged file comes upon


class AssetError(RuntimeError):
    """What is wanted is neither in the cache nor to be had; the message says what was found and how to mend it."""


def cache_dir() -> Path:
    """Return the folder that holds the assets: the environment variable COURSE_CACHE, else the user's cache folder."""
    chosen = os.environ.get("COURSE_CACHE") or platformdirs.user_cache_dir("llm-course")
    return Path(chosen).expanduser().absolute()


def own_dir() -> Path:
    """Return the folder for what the course makes itself: the cache, or the user's own one where that may not be written."""
    cache = cache_dir()
    try:
        tempfile.TemporaryFile(dir=cache).close()  # os.access says yes to whatever Windows or a mount forbids
    except OSError:
        return Path(platformdirs.user_cache_dir("llm-course")).absolute()
    return cache


def run_dir(name: str, recipe: object) -> Path:
    """Return the folder for a run of the course's own, called after it and its recipe, which JSON can hold.

    Another recipe has another folder, so that no run is taken for one of another recipe.
    """
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return own_dir() / f"{name}-{digest[:8]}"


def ensure(path: Path, find_fault: Callable[[Path], str | None], make: Callable[[Path], Path], room: int) -> None:
    """Leave the file or folder at `path` whole, making it anew if it is missing or damaged.

    `find_fault` returns what is wrong with the file or folder at a path, or None. `make` is given an empty folder beside
    `path`, writes a fresh one in there (up to `room` bytes of disk), and returns its path. That one is verified and then
    renamed, so that no other process ever sees half of it. One process makes it while the others wait. Nothing is written
    when all is well.

    Raises AssetError if what is missing or damaged cannot be replaced; other errors of `make` pass through.
    """
    if not (fault := find_fault(path)):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / f".{path.name}.lock"):
            if fault := find_fault(path):  # else another process has made it while this one waited
                _replace(path, find_fault, make)
    except (AssetError, OSError) as error:
        raise AssetError(
            f"{path.name!r} is not ready: {fault}, and replacing it failed:\n\n{error}\n\n"
            f"To mend it, check that {path.parent} can be written to and has {room / 1e6:.0f} MB free; then try again. "
            "Without a network, or if that folder is read-only, run `python -m course_lib` once with COURSE_CACHE set to a "
            "writable folder, on another machine if need be, and set COURSE_CACHE to that folder or a copy of it."
        ) from None


def keep(folder: Path, write: Callable[[Path], object], read: Callable[[Path], _Content], room: int) -> _Content:
    """Return what `read` finds in `folder`. Where that is missing or damaged, `write` makes the folder first, as in `ensure`.

    How long that took is kept in it, for `seconds_to_make`, and the digest of its files.
    """

    def find_fault(path: Path) -> str | None:
        try:
            _read_whole(path, read)
        except _DAMAGE as error:
            return f"it cannot be read: {error}"
        return None

    def make(stage: Path) -> Path:
        start, fresh = time.perf_counter(), stage / "fresh"
        write(fresh)
        made = {"seconds": time.perf_counter() - start, "digest": folder_digest(_files_of(fresh))}
        (fresh / _MADE).write_text(json.dumps(made), encoding="utf-8")
        return fresh

    if (found := kept(folder, read)) is not None:
        return found
    ensure(folder, find_fault, make, room)
    return read(folder)


def kept(folder: Path, read: Callable[[Path], _Content]) -> _Content | None:
    """Return what `read` finds in a folder of `keep`; None if that is missing or damaged."""
    try:
        return _read_whole(folder, read)
    except _DAMAGE:
        return None


def seconds_to_make(folder: Path) -> float | None:
    """Return how long it took to make a folder of `keep`; None if it is from before that was noted."""
    made = _made(folder)
    return None if made is None else made["seconds"]


def folder_digest(files: list[Path]) -> str:
    """Return the SHA-256 of what `sha256sum` prints for `files`: a line for each, in the order given, without folders."""
    lines = "".join(f"{file_digest(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _read_whole(folder: Path, read: Callable[[Path], _Content]) -> _Content:
    content, made = read(folder), _made(folder)
    if made is not None and made["digest"] != folder_digest(_files_of(folder)):
        raise ValueError("its files are not as they were written")
    return content


def _made(folder: Path) -> dict | None:
    path = folder / _MADE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _files_of(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if path.name != _MADE and not path.name.startswith("."))


def _replace(path: Path, find_fault: Callable[[Path], str | None], make: Callable[[Path], Path]) -> None:
    """Make a fresh file or folder beside `path`, verify it, and move it there. The caller holds the lock."""
    prefix = f".{path.name}.partial-"
    for abandoned in path.parent.glob(f"{prefix}*"):  # by a process that was killed: no living one is without the lock
        shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent, ignore_cleanup_errors=True) as stage:
        fresh = make(Path(stage))
        if fault := find_fault(fresh):
            raise AssetError(f"the replacement is no better: {fault}")
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, Path(stage, "damaged"))  # a folder cannot take the place of a full one in a single step
        os.replace(fresh, path)
