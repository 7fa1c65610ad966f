"""A run that is interrupted anywhere, or shares its folder: it goes on as if nothing had been, or says what is in its way."""

import json
import signal
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_run import CONFIG, finish, forget, new_model

from course_lib.architecture import TransformerLM
from course_lib.corpora import TokenArray
from course_lib.pretraining import (
    Trainer,
    evaluate,
    list_checkpoints,
    load_model,
    optim,
    read_history,
)
from course_lib.pretraining import checkpoints as training_checkpoints

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def validation(train) -> TokenArray:
    return TokenArray(train[:50], 266)


def outcome(trainer: Trainer) -> tuple:
    """All that a run leaves but for the time it took: reports, log, weights, and what each checkpoint holds."""

    def told(lines: list[dict]) -> list[tuple]:
        return [tuple(line[name] for name in ("step", "loss", "validation_loss", "gradient_norm")) for line in lines]

    log = map(json.loads, (trainer.folder / "log.jsonl").read_text().splitlines())
    kept = {
        path.name: (told(map(vars, read_history(path))), load_model(path).embedding.weight.tolist())
        for path in list_checkpoints(trainer.folder)
    }
    weights = [weight.tolist() for weight in trainer.model.parameters()]
    return told(map(vars, trainer.history)), told(log), kept, weights


def interrupt(model: TransformerLM, call: int) -> None:
    """Let the `call`-th call of the model, counted from 0, be interrupted."""
    calls = []

    def hook(_module, _args):
        calls.append(None)
        if len(calls) == call + 1:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(hook)


def n_calls(train, validation) -> int:
    model, calls = new_model(), []
    model.register_forward_pre_hook(lambda _module, _args: calls.append(None))
    finish(Trainer(model, train, validation, CONFIG))
    return len(calls)


def test_an_interrupt_at_any_call_of_the_model_changes_nothing(train, validation, tmp_path):
    """Steps and evaluations, the last one too; gone on with by the same Trainer, or by a new one on the folder."""
    undisturbed = outcome(finish(Trainer(new_model(), train, validation, CONFIG, tmp_path / "whole")))
    calls = n_calls(train, validation)
    assert calls > CONFIG.n_steps + 2
    for call in range(calls):
        for way in ("the same", "a new one"):
            model, folder = new_model(), tmp_path / f"{way} {call}"
            interrupt(model, call)
            trainer = Trainer(model, train, validation, CONFIG, folder)
            with pytest.raises(KeyboardInterrupt):
                finish(trainer)
            if way == "a new one":
                trainer = Trainer(new_model(7), train, validation, CONFIG, folder)
            assert outcome(finish(trainer)) == undisturbed, (call, way)


def test_the_last_evaluation_is_made_up_for(train, validation):
    model = new_model()
    interrupt(model, n_calls(train, validation) - 1)
    trainer = Trainer(model, train, validation, CONFIG)
    with suppress(KeyboardInterrupt):
        finish(trainer)
    assert trainer.step == CONFIG.n_steps and trainer.history[-1].validation_loss is None
    assert list(trainer) == []  # no step is left
    assert trainer.history[-1].validation_loss == evaluate(trainer.model, validation, 16)
    assert trainer.model.training


def test_what_goes_wrong_in_an_evaluation_costs_no_step(train, tmp_path):
    """A text that lies about its vocabulary: the state is saved before it is evaluated."""
    model, liar = new_model(), TokenArray(np.array([1, 999, 2]), 266)
    config = replace(CONFIG, evaluate_every=None, checkpoint_every=None)
    with pytest.raises(IndexError):
        finish(Trainer(model, train, liar, config, tmp_path))
    assert model.training
    assert Trainer(new_model(), train, None, config, tmp_path).step == CONFIG.n_steps


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_while_saving_waits_for_the_whole_checkpoint(train, validation, tmp_path, monkeypatch):
    undisturbed = outcome(finish(Trainer(new_model(), train, validation, CONFIG, tmp_path / "whole")))
    trainer, write = Trainer(new_model(), train, validation, CONFIG, tmp_path / "run"), training_checkpoints._write_rows

    def interrupted_write(path, tensors, step):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        write(path, tensors, step)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training_checkpoints, "_write_rows", interrupted_write)
        finish(trainer)
    assert Trainer(new_model(), train, validation, CONFIG, tmp_path / "run").step == 3
    assert outcome(finish(trainer)) == undisturbed


@pytest.mark.parametrize("harm", ["cut", "changed", "longer", "gone"])
def test_a_broken_log_is_written_anew(train, tmp_path, harm):
    finish(Trainer(new_model(), train, None, CONFIG, tmp_path))
    log = tmp_path / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(
        {"cut": whole[:-9], "changed": whole.replace(b"loss", b"lost", 1), "longer": whole * 2, "gone": b""}[harm]
    )
    if harm == "gone":
        log.unlink()
    assert list(Trainer(new_model(), train, None, CONFIG, tmp_path)) == []
    assert log.read_bytes() == whole


def test_two_recipes_that_meet_in_an_empty_folder_do_not_mix(train, tmp_path):
    one, other = (Trainer(new_model(), train, None, replace(CONFIG, seed=seed), tmp_path) for seed in (0, 1))
    finish(one)
    before = outcome(one)
    for attempt in (finish, Trainer.save_now):
        with pytest.raises(ValueError, match="holds another run: seed 0 there and 1 here"):
            attempt(other)
    assert outcome(one) == before


def test_one_trainer_writes_at_a_time(train, tmp_path):
    one, other = (Trainer(new_model(), train, None, CONFIG, tmp_path) for _ in range(2))
    steps = iter(one)
    next(steps)
    for attempt in (finish, Trainer.save_now):
        with pytest.raises(RuntimeError, match="another Trainer is writing into"):
            attempt(other)
    steps.close()
    with pytest.raises(RuntimeError, match="was written by another Trainer since this one was made; make a new one"):
        finish(other)
    assert finish(Trainer(new_model(3), train, None, CONFIG, tmp_path)).step == CONFIG.n_steps


def test_a_new_trainer_goes_on_in_the_same_process(train, tmp_path):
    """As in a notebook, where the ones before it are still there: one was stopped, one ended by an error in its loop."""
    stopped = Trainer(new_model(), train, None, CONFIG, tmp_path)
    for _ in stopped:
        break
    stopped.save_now()
    failed = Trainer(new_model(), train, None, CONFIG, tmp_path)
    with pytest.raises(ZeroDivisionError):
        for report in failed:
            failed.save_now()
            report.step / 0
    assert [report.step for report in Trainer(new_model(), train, None, CONFIG, tmp_path)] == [3, 4]


def test_a_folder_that_may_not_be_written_is_named_before_the_first_step(train, tmp_path):
    (tmp_path / "file").touch()
    trainer = Trainer(new_model(), train, None, CONFIG, tmp_path / "file" / "run")
    with pytest.raises(OSError, match="file"):
        finish(trainer)
    assert trainer.step == 0


def test_a_finished_run_may_lie_where_nothing_can_be_written(train, validation, tmp_path, monkeypatch):
    finish(Trainer(new_model(), train, validation, CONFIG, tmp_path))
    done = Trainer(new_model(), train, validation, CONFIG, tmp_path)
    monkeypatch.setattr(done._lock, "acquire", lambda: pytest.fail("it asked to write"))
    assert list(done) == [] and done.save_now().name == "step-000004"


def test_longer_sequences_than_the_model_reads_are_named_before_anything_is_trained(train):
    with pytest.raises(ValueError, match="context_length 17 is more than the 16"):
        Trainer(new_model(), train, None, replace(CONFIG, context_length=17))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (TokenArray(np.array([1, 2, 299]), 300), "the text has 300 tokens, the model 266"),
        (TokenArray(np.array([1]), 266), "a text of 1 tokens has nothing to predict"),
        (TokenArray(np.array([], np.int64), 266), "a text of 0 tokens has nothing to predict"),
    ],
)
def test_a_validation_text_that_cannot_be_is_named_before_anything_is_trained(train, text, complaint):
    with pytest.raises(ValueError, match=complaint):
        Trainer(new_model(), train, text, CONFIG)
    with pytest.raises(ValueError, match=complaint):
        evaluate(new_model(), text, 16)


def test_another_text_of_the_same_length_is_another_run(train, tmp_path):
    finish(Trainer(new_model(), train, None, CONFIG, tmp_path))
    assert Trainer(new_model(), TokenArray(train[:], 266), None, CONFIG, tmp_path).step == 4  # the same, in memory
    with pytest.raises(ValueError, match="holds another run: train_fingerprint"):
        Trainer(new_model(), TokenArray(train[:][::-1], 266), None, CONFIG, tmp_path)


def test_a_weight_that_is_frozen_now_is_named(train, tmp_path):
    finish(Trainer(new_model(), train, None, CONFIG, tmp_path))
    model = new_model()
    model.embedding.requires_grad_(False)
    with pytest.raises(ValueError, match=r"frozen \[\] there and \['embedding.weight'\] here"):
        Trainer(model, train, None, CONFIG, tmp_path)
    forget(list_checkpoints(tmp_path)[-1], "frozen")
    with pytest.raises(ValueError, match=r"has trained what is frozen here: embedding\.weight"):
        Trainer(model, train, None, CONFIG, tmp_path)


def test_muons_matrices_may_be_all_that_is_trained(train, tmp_path):
    model = new_model().requires_grad_(False)
    model.blocks.requires_grad_(True)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.startswith("blocks.") and weight.ndim == 2)
    assert [type(optimizer) for optimizer in Trainer(model, train, None, CONFIG).optimizers] == [optim.Muon]
    fixed = model.embedding.weight.clone()
    before = model.blocks[0].attention.qkv.weight.clone()
    finish(Trainer(model, train, None, CONFIG, tmp_path))
    assert torch.equal(model.embedding.weight, fixed)
    assert not torch.equal(model.blocks[0].attention.qkv.weight, before)
    assert list(Trainer(model, train, None, CONFIG, tmp_path)) == []
