"""The files of a checkpoint cut, flipped, doubled, swapped or gone: an error that names the file, or what is right."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from small_corpus import write_small_corpus
from tiny_run import CONFIG, finish, forget, new_model

from course_lib.corpora import TokenShards
from course_lib.devices import single_thread
from course_lib.pretraining import Trainer, list_checkpoints, load_model, optim, read_history
from course_lib.pretraining import checkpoints as training_checkpoints
from course_lib.pretraining.checkpoints import restore

FILES = ("config.json", "history.jsonl", "state.json", "model.safetensors", "optimizer.safetensors")


@pytest.fixture(scope="module")
def train(tmp_path_factory) -> TokenShards:
    return write_small_corpus(tmp_path_factory.mktemp("train") / "shards")


@pytest.fixture(scope="module")
def run(train, tmp_path_factory) -> Path:
    """A folder with a run's checkpoints, of which the last two, of steps 3 and 4, hold all that is needed to go on."""
    folder = tmp_path_factory.mktemp("run")
    with single_thread():
        finish(Trainer(new_model(), train, None, CONFIG, folder))
    return folder


@pytest.fixture
def checkpoint(run, tmp_path) -> Path:
    """A copy of the last checkpoint, to be damaged."""
    return Path(shutil.copytree(list_checkpoints(run)[-1], tmp_path / "step-000004"))


def read(checkpoint: Path) -> object:
    """All that a checkpoint holds, as its readers give it."""
    model = new_model(5)
    optimizers = optim.for_model(model, learning_rate=0.1, muon_learning_rate=0.1, weight_decay=0.0)
    restore(checkpoint, model, optimizers)
    remembered = [
        torch.as_tensor(value).tolist()
        for optimizer in optimizers
        for memory in optimizer.state.values()
        for value in memory.values()
    ]
    weights = [weight.tolist() for both in (model, load_model(checkpoint)) for weight in both.parameters()]
    return weights, remembered, list(map(vars, read_history(checkpoint)))


def damages(whole: bytes) -> Iterator[bytes]:
    """Half of the damage is done to the beginning, where a file says what follows."""
    places = sorted({*range(0, min(len(whole), 200), 9), *np.linspace(0, len(whole) - 1, 20, dtype=int).tolist()})
    for place in places:
        yield whole[:place]
        yield whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
    yield whole + whole
    yield whole + b"\x01"


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_or_read_as_it_was(checkpoint, name):
    file, expected = checkpoint / name, read(checkpoint)
    for damaged in damages(file.read_bytes()):
        file.write_bytes(damaged)
        try:
            found = read(checkpoint)
        except (ValueError, OSError) as error:
            assert name in str(error) or str(checkpoint) in str(error), error
        else:
            assert found == expected


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_swapped_file_is_named(checkpoint, run, name):
    """Swapped: with each other file, and with that of the checkpoint before."""
    others = [checkpoint / other for other in FILES if other != name]
    if name != "config.json":  # which is the same in both
        others.append(list_checkpoints(run)[-2] / name)
    for other in others:
        shutil.copy(list_checkpoints(run)[-1] / name, checkpoint / name)
        shutil.copy(other, checkpoint / name)
        with pytest.raises((ValueError, OSError)) as error:
            read(checkpoint)
        assert name in str(error.value) or str(checkpoint) in str(error.value), other
    (checkpoint / name).unlink()
    with pytest.raises((ValueError, OSError), match=re.escape(name)):
        read(checkpoint)


def test_without_a_damaged_newest_checkpoint_the_one_before_it_goes_on(run, train, tmp_path):
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    newest = list_checkpoints(folder)[-1]
    whole = (newest / "model.safetensors").read_bytes()
    (newest / "model.safetensors").write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    with pytest.raises(ValueError, match=f"model.safetensors is damaged.* once {re.escape(str(newest))} is removed"):
        Trainer(new_model(), train, None, CONFIG, folder)
    shutil.rmtree(newest)
    with single_thread():
        assert finish(Trainer(new_model(), train, None, CONFIG, folder)).step == 4
    assert (newest / "model.safetensors").read_bytes() == whole


def test_what_is_saved_twice_is_the_same_file(checkpoint, tmp_path):
    tensors, names = load_file(checkpoint / "model.safetensors"), [tmp_path / str(i) for i in range(8)]
    for name in names:
        training_checkpoints._write_rows(name, dict(reversed(tensors.items())), 4)
    assert {name.read_bytes() for name in names} == {(checkpoint / "model.safetensors").read_bytes()}


def shard(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the tensors anew as three processes would that each hold a third of the rows."""
    for kind in ("model", "optimizer"):
        tensors = load_file(checkpoint / f"{kind}.safetensors")
        (checkpoint / f"{kind}.safetensors").unlink()
        for part in range(3):

            def third(tensor: torch.Tensor, part: int = part) -> tuple[torch.Tensor, int]:
                size = -(-len(tensor) // 3)
                return tensor[part * size : (part + 1) * size], part * size

            with monkeypatch.context() as patched:
                patched.setattr(training_checkpoints, "rows", third)
                training_checkpoints._write_rows(checkpoint / f"{kind}-{part:05d}-of-00003.safetensors", tensors, 4)


@pytest.mark.parametrize("kind", ["model", "optimizer"])
def test_a_part_that_is_missing_or_doubled_is_named(checkpoint, kind, monkeypatch):
    expected = read(checkpoint)
    shard(checkpoint, monkeypatch)
    assert read(checkpoint) == expected
    part = checkpoint / f"{kind}-00001-of-00003.safetensors"
    readers = [read, load_model] if kind == "model" else [read]

    def refused(said: str) -> None:
        for reader in readers:
            with pytest.raises(ValueError, match=re.escape(said)):
                reader(checkpoint)

    aside = part.rename(checkpoint / "aside")
    refused(f"lacks {part.name}")
    for copy in (f"{kind}-00003-of-00003", f"{kind}-00001-of-00004", kind, f"{kind}-00001-of-00003 (1)"):
        shutil.copy(aside, part)
        shutil.copy(aside, checkpoint / f"{copy}.safetensors")
        refused(f"{copy}.safetensors")
        (checkpoint / f"{copy}.safetensors").unlink()
    shutil.copy(checkpoint / f"{kind}-00000-of-00003.safetensors", part)  # rows come twice
    refused(part.name)
    aside.rename(part)
    assert read(checkpoint) == expected


def test_checkpoints_from_before_there_were_checksums_go_on_loading(run, train, tmp_path):
    """They are noted nowhere, nor the text's fingerprint, nor which weights are frozen."""
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(list_checkpoints(folder)[-1])
    old = list_checkpoints(folder)[-1]
    expected = read(old)
    forget(old, "train_fingerprint", "frozen")
    for name in ("config.json", "history.jsonl"):
        lines = (old / name).read_text().splitlines() if name == "history.jsonl" else [(old / name).read_text()]
        plain = [{key: value for key, value in json.loads(line).items() if key != "checksum"} for line in lines]
        (old / name).write_text("".join(json.dumps(line) + "\n" for line in plain))
    for name in ("model.safetensors", "optimizer.safetensors"):
        save_file(load_file(old / name), old / name)
    assert read(old) == expected
    with single_thread():
        resumed = finish(Trainer(new_model(9), train, None, CONFIG, folder))
    assert [report.loss for report in resumed.history] == [r.loss for r in read_history(list_checkpoints(run)[-1])]


# ---------------------------------------------------------------- a folder that mends itself


@pytest.fixture
def folder(run, tmp_path) -> Path:
    """A copy of the whole run, to be damaged."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.mark.parametrize("name", ["history.jsonl", "state.json", "model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("gone", [False, True])
def test_a_damaged_newest_checkpoint_is_removed_and_the_run_ends_the_same(run, train, folder, name, gone):
    whole, damaged = list_checkpoints(run)[-1], list_checkpoints(folder)[-1] / name
    content = damaged.read_bytes()
    damaged.unlink()
    if not gone:
        # numbers of different lengths may move a history's middle into the word "checksum", which alone may be misread
        place = content.index(b"loss") if name == "history.jsonl" else len(content) // 2
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :])
    with pytest.warns(UserWarning, match=r"a damaged checkpoint was removed: .+step-000004"):
        mended = training_checkpoints.mended(folder)
    assert mended == folder and [path.name for path in list_checkpoints(folder)] == ["step-000000", "step-000003"]
    with single_thread():
        finish(Trainer(new_model(), train, None, CONFIG, mended))
    assert read(list_checkpoints(folder)[-1])[:2] == read(whole)[:2]


@pytest.mark.parametrize("damaged", [(), (0,)])
def test_where_none_can_be_gone_on_from_whole_ones_are_moved_and_the_run_begins_anew(run, train, folder, damaged):
    """Of step 0 only the weights are left, as of all old ones; the others have lost what optimizers remember."""
    for checkpoint in list_checkpoints(folder)[1:]:
        (checkpoint / "optimizer.safetensors").write_bytes(b"")
    for place in damaged:
        (list_checkpoints(folder)[place] / "model.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning) as warned:
        assert list_checkpoints(training_checkpoints.mended(folder)) == []
    assert [str(warning.message).split(":")[0] for warning in warned][:2] == ["a damaged checkpoint was removed"] * 2
    whole = [load_model(path) for path in list_checkpoints(folder / "older-1")]
    expected = [] if damaged else [load_model(list_checkpoints(run)[0])]
    for found, wanted in zip(whole, expected, strict=True):
        torch.testing.assert_close(found.state_dict(), wanted.state_dict())
    with single_thread():
        assert finish(Trainer(new_model(), train, None, CONFIG, folder)).step == 4


def test_nothing_is_removed_that_is_whole_or_being_written(folder, tmp_path):
    whole = list_checkpoints(folder)
    assert list_checkpoints(training_checkpoints.mended(folder)) == whole
    assert not list(training_checkpoints.mended(tmp_path / "nowhere").parent.glob("nowhere"))
    (whole[-1] / "state.json").unlink()
    with FileLock(folder / ".lock"):
        assert list_checkpoints(training_checkpoints.mended(folder)) == whole
