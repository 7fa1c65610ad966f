"""The course's own model is made once, goes on where it was interrupted, and is not taken for another recipe's."""

import io
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from course_lib import storage
from course_lib.corpora import shakespeare
from course_lib.devices import single_thread
from course_lib.inference import stream_text
from course_lib.pretraining import list_checkpoints, shakespeare_model


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A recipe of three steps, on two scenes."""
    works = [shakespeare.Work("hamlet", "modern", "Who's there? Nay, answer me. " * 200)]
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(shakespeare, "split", lambda: (works, works))
    shape = replace(
        shakespeare_model.MODEL, vocab_size=270, d_model=16, n_layers=1, n_heads=2, d_ff=16, context_length=8
    )
    monkeypatch.setattr(shakespeare_model, "MODEL", shape)
    recipe = replace(shakespeare_model.TRAINING, n_steps=3, warmup=0, checkpoint_every=1, evaluate_every=None)
    monkeypatch.setattr(shakespeare_model, "TRAINING", recipe)
    with single_thread():
        yield tmp_path


def test_it_is_trained_once_and_goes_on_after_an_interrupt(small):
    run, _ = shakespeare_model.trainer()
    list(islice(run, 2))
    model, tokenizer = shakespeare_model.pretrained()
    run, again = shakespeare_model.trainer()
    assert run.step == 3 and list(run) == []
    assert again.merges == tokenizer.merges
    weights = zip(run.model.parameters(), model.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in weights)
    assert len(list_checkpoints(run.folder)) == 4
    assert "".join(stream_text(model, tokenizer, "Who", 3))


def test_another_recipe_has_another_folder(small, monkeypatch):
    first, _ = shakespeare_model.trainer()
    monkeypatch.setattr(shakespeare_model, "TRAINING", replace(shakespeare_model.TRAINING, n_steps=4))
    second, _ = shakespeare_model.trainer()
    assert first.folder != second.folder


def refuse_in(folder: Path) -> Callable:
    """Return a TemporaryFile that `folder` does not take."""

    def open_or_refuse(dir: Path):
        if dir == folder:
            raise PermissionError(dir)
        return io.BytesIO()

    return open_or_refuse


def test_a_cache_that_may_not_be_written_is_left_alone(small, monkeypatch, tmp_path):
    own = tmp_path / "own"
    monkeypatch.setattr(storage.platformdirs, "user_cache_dir", lambda name: str(own))
    monkeypatch.setattr(storage.tempfile, "TemporaryFile", refuse_in(small))
    run, _ = shakespeare_model.trainer()
    assert run.folder.is_relative_to(own)
    assert [path.name for path in small.iterdir()] == ["own"]
