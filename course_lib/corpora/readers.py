"""Texts from files and from the Hugging Face hub, one after the other, so that a corpus may be of any size."""

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

from course_lib.storage import AssetError

__all__ = ["read_texts", "stream_hub"]


def read_texts(folder: str | Path) -> Iterator[str]:
    """Yield the texts in `folder` and its subfolders, file by file in order of their paths.

    A `.txt` file is one text. A line of a `.jsonl` or `.jsonl.zst` file is an object that has its text under "text", as a row
    of a `.parquet` file has it in the column of that name; where there is none but null, the text is left out. Other and
    hidden files are passed over. In memory are one line of a `.jsonl`, one row group of a `.parquet`, or a whole `.txt`.

    Raises ValueError if there is no such file in the folder, or when it comes to one that cannot be read so; and
    ModuleNotFoundError for `.zst` and `.parquet` where the packages of the extra `data` are not installed.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and _reader(path))
    visible = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not visible:
        raise ValueError(f"{folder} holds no file that ends in {', '.join(_READERS)}")
    return (text for path in visible for text in _reader(path)(path))


def _reader(path: Path) -> Callable[[Path], Iterator[str]] | None:
    return next((read for ending, read in _READERS.items() if path.name.endswith(ending)), None)


def _read_txt(path: Path) -> Iterator[str]:
    try:
        yield path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None


def _read_jsonl(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        yield from _lines(path, file)


def _read_jsonl_zst(path: Path) -> Iterator[str]:
    zstandard = _optional("zstandard", path.name)
    unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 31)  # what was packed with --long=31 needs that
    try:
        _check_frames(path, zstandard)
        with path.open("rb") as file, unpacker.stream_reader(file, read_across_frames=True) as unpacked:
            yield from _lines(path, io.BufferedReader(unpacked))
    except zstandard.ZstdError as error:
        raise ValueError(f"{path} is damaged or no zstd file: {error}") from None


def _check_frames(path: Path, zstandard: ModuleType) -> None:
    """Raise ValueError if the file ends within a frame: the unpacker would take that for its end (RFC 8878, section 3.1)."""
    size, end, is_last = path.stat().st_size, 0, 0
    with path.open("rb") as file:
        while end < size and (header := file.read(18)):  # it is no longer than that
            if header[1:4] == b"\x2a\x4d\x18":  # a frame of something else, to be skipped
                end += 8 + int.from_bytes(header[4:8], "little")
                file.seek(end)
                continue
            file.seek(end + zstandard.frame_header_size(header))
            is_last = 0
            while not is_last and file.tell() < size:
                block = int.from_bytes(file.read(3), "little")
                is_last, is_run, length = block & 1, block >> 1 & 3 == 1, block >> 3
                file.seek(1 if is_run else length, os.SEEK_CUR)  # a run is one byte, to be repeated
            end = file.seek(4 if zstandard.get_frame_parameters(header).has_checksum else 0, os.SEEK_CUR)
    if end != size or not is_last:
        raise ValueError(f"{path} ends in the middle: copy or download it again")


def _lines(path: Path, file: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
            if not isinstance(text, str | None):
                raise TypeError
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ValueError(f'{path}, line {number}, should be {{"text": "…"}}, but begins {line[:60]!r}') from None
        if text is not None:
            yield text


def _read_parquet(path: Path) -> Iterator[str]:
    parquet, pyarrow = _optional("pyarrow.parquet", path.name), _optional("pyarrow", path.name)
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            if "text" not in file.schema_arrow.names:
                raise ValueError(f"there is no column 'text', but {', '.join(file.schema_arrow.names)}")
            for rows in file.iter_batches(batch_size=16, columns=["text"]):
                for text in rows.column(0).to_pylist():
                    if not isinstance(text, str | None):
                        raise ValueError(f"its column 'text' holds no texts, but {rows.column(0).type}")
                    if text is not None:
                        yield text
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged or holds no texts: {error}") from None


_READERS = {".txt": _read_txt, ".jsonl": _read_jsonl, ".jsonl.zst": _read_jsonl_zst, ".parquet": _read_parquet}


def stream_hub(name: str, configuration: str | None = None, split: str = "train") -> Iterator[str]:
    """Yield the texts of a data set, from the column "text", as they arrive from the Hugging Face hub; nothing is stored.

    `stream_hub("HuggingFaceFW/fineweb-edu", "sample-10BT")`, for example; a folder's path names a data set too. Nothing in
    the course needs it. Raises ModuleNotFoundError if the extra `data` is not installed, and AssetError if the hub has no
    such data set, or none can be reached.
    """
    datasets = _optional("datasets", name)
    try:
        rows = datasets.load_dataset(name, configuration, split=split, streaming=True)
    except Exception as error:  # every release has its own kinds of errors for: unknown, not allowed, no network
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise AssetError(
            f"the data set {name!r} could not be streamed from the Hugging Face hub ({reason}). Without a network, copy its "
            "files into a folder and give that to read_texts"
        ) from None
    return (row["text"] for row in rows if row["text"] is not None)


def _optional(module: str, source: str) -> ModuleType:
    """Import a module of the extra `data`, or say how to install it."""
    try:
        return import_module(module)
    except ModuleNotFoundError:
        package = module.split(".")[0]
        raise ModuleNotFoundError(
            f"reading {source} takes the package {package}, which is not installed: `pip install 'course-lib[data]'`, or "
            f"`pip install {package}`"
        ) from None
