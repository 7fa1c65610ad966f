"""A life in seconds: the stages and the report as they are, on small recipes and a few scenes."""

import multiprocessing
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from forkserver import FORKSERVER

from course_lib import storage
from course_lib.alignment import Comparison
from course_lib.corpora import shakespeare
from course_lib.devices import single_thread
from course_lib.life import __main__ as command
from course_lib.life import kind_replies, policy_paths
from course_lib.pretraining import shakespeare_model


def shrink(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let every stage be small, and kept in `folder`; the texts stay where they are."""
    patch.setattr(storage, "own_dir", lambda: folder)
    train, held_out = shakespeare.split()
    works = [[replace(work, text=work.text[2000:80_000]) for work in some[:2]] for some in (train, held_out)]
    patch.setattr(shakespeare, "split", lambda: works)
    shape = replace(shakespeare_model.MODEL, vocab_size=600, d_model=16, n_layers=1, n_heads=2, d_ff=16)
    rates = {"learning_rate": 0.03, "muon_learning_rate": 0.06}  # so that eight steps make replies of several kinds
    recipe = replace(shakespeare_model.TRAINING, **rates, n_steps=8, warmup=0, checkpoint_every=2, evaluate_every=None)
    patch.setattr(shakespeare_model, "MODEL", shape)
    patch.setattr(shakespeare_model, "TRAINING", recipe)
    for name, n in {"_N_SUPERVISED": 100, "_N_COMPARED": 40, "_N_TEST": 10}.items():
        patch.setattr(kind_replies, name, n)
    for name in ("_SUPERVISED", "_REWARD"):
        patch.setattr(kind_replies, name, replace(getattr(kind_replies, name), n_steps=6, warmup=0, checkpoint_every=2))
    patch.setattr(kind_replies, "rated_comparisons", _prefer_longer)  # hardly a word is one of those that people rated
    forget()


def forget() -> None:
    """Let nothing be remembered, as in a new process."""
    for module in (kind_replies, policy_paths):
        for remembered in vars(module).values():
            if hasattr(remembered, "cache_clear"):
                remembered.cache_clear()


def _prefer_longer(pairs: list[tuple[str, str, str]]) -> list[Comparison]:
    return [Comparison(*pair, int(len(pair[2]) > len(pair[1])), "rater 0") for pair in pairs]


def start(folder: Path, out: Path) -> multiprocessing.Process:
    """Start a process that gives the command line `--out out`."""
    process = FORKSERVER.Process(target=_run, args=(folder, out))
    process.start()
    return process


def _run(folder: Path, out: Path) -> None:
    shrink(pytest.MonkeyPatch(), folder)
    sys.argv = ["life", "--out", str(out)]
    with single_thread():
        command.main()
