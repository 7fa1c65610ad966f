"""Several processes train one model: the same losses as one, and checkpoints that any number can read."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from distributed_run import CONFIG, MODEL, PLAIN_WAYS, STOPS, WAYS, new_trainer, train_to
from distributed_run import main as main_of_each
from safetensors import safe_open
from small_corpus import write_small_corpus
from torchrun import forked, torchrun

from course_lib.pretraining import checkpoints as training_checkpoints
from course_lib.pretraining import list_checkpoints, load_model
from course_lib.pretraining.__main__ import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with texts, and with what 2 processes and then 4 made of them."""
    place = tmp_path_factory.mktemp("together")
    write_small_corpus(place / "train")
    write_small_corpus(place / "validation", n_texts=3, seed=1)
    torchrun(2, Path(__file__).with_name("distributed_run.py"), place, place, place / "2.json")
    forked(4, main_of_each, place, place, place / "4.json")
    return place


@pytest.fixture(scope="module")
def together(place) -> dict[int, dict]:
    """The reports of 2 and of 4 processes."""
    return {n_processes: json.loads((place / f"{n_processes}.json").read_text()) for n_processes in (2, 4)}


@pytest.fixture(scope="module")
def alone(place) -> list[dict]:
    """The reports of one process."""
    return train_to(new_trainer(place), CONFIG.n_steps)


def assert_same_reports(found: list[dict], wanted: list[dict], tolerance: float = 1e-4) -> None:
    assert [r["step"] for r in found] == [r["step"] for r in wanted]
    for one, other in zip(found, wanted, strict=True):
        for number in ("loss", "validation_loss", "gradient_norm"):
            assert one[number] == pytest.approx(other[number], abs=tolerance), f"{number} of step {one['step']}"


@pytest.mark.parametrize(("n_processes", "way"), [*((2, way) for way in WAYS), *((4, way) for way in PLAIN_WAYS)])
def test_many_processes_give_the_losses_of_one(together, alone, n_processes, way):
    """The gradient's length too: AdamW and Muon would hardly notice one that is twice as long."""
    assert_same_reports(together[n_processes][way], alone, 0.05 if "bfloat16" in way else 1e-4)
    assert alone[-1]["loss"] < alone[0]["loss"] - 0.1


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_checkpoint_is_read_by_another_number_of_processes(place, together, alone, way):
    assert [together[2][f"{way} begun at"], together[4][f"{way} begun at"]] == [0, STOPS[2]]
    trainer = new_trainer(place, place / way)
    assert trainer.step == STOPS[4]
    momenta = {what for optimizer in trainer.optimizers for memory in optimizer.state.values() for what in memory}
    assert len(momenta) >= 3  # AdamW's two averages and Muon's one
    assert_same_reports(train_to(trainer, CONFIG.n_steps), alone)
    log = [json.loads(line) for line in (place / way / "log.jsonl").read_text().splitlines()]
    assert_same_reports(log, alone)


def test_sharded_weights_are_written_by_rows_and_load_as_one_model(place, together):
    """266 rows on 4 processes: 67, 67, 67 and 65."""
    step_6 = list_checkpoints(place / "fsdp")[2]
    rows = []
    for part in sorted(step_6.glob("model-*-of-00004.safetensors")):
        with safe_open(part, framework="pt") as file:
            rows.append(file.get_slice("embedding.weight").get_shape()[0])
    assert rows == [67, 67, 67, 65]
    model, same = load_model(step_6), load_model(list_checkpoints(place / "ddp")[2])
    assert model.config == MODEL
    for name, weight in same.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), weight, atol=1e-4, rtol=0)


def test_only_the_rows_that_a_process_holds_are_read(place, together, monkeypatch):
    """Rows 60 to 99 of the embedding lie in the first two of four files: no other is opened for them."""
    step_6 = list_checkpoints(place / "fsdp")[2]
    whole = load_model(step_6).embedding.weight
    stored, opened = training_checkpoints._Stored(step_6, "model"), []

    def note_and_open(path, **options):
        opened.append(path.name)
        return safe_open(path, **options)

    monkeypatch.setattr(training_checkpoints, "safe_open", note_and_open)
    monkeypatch.setattr(training_checkpoints, "rows", lambda tensor: (tensor, 60))
    held = torch.zeros(40, MODEL.d_model)
    stored.read_into(held, "embedding.weight")
    assert torch.equal(held, whole[60:100])
    assert opened == ["model-00000-of-00004.safetensors", "model-00001-of-00004.safetensors"]


def test_the_command_line_trains_what_the_file_describes(place, alone, tmp_path):
    def table(name: str, values: dict) -> str:
        lines = (f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None)
        return "\n".join([f"[{name}]", *lines])

    data, saved = {"train": str(place / "train"), "validation": str(place / "validation")}, {"folder": "run"}
    tables = {"model": asdict(MODEL), "training": asdict(CONFIG), "data": data, "checkpoints": saved}
    (tmp_path / "run.toml").write_text("\n\n".join(table(name, values) for name, values in tables.items()))
    printed = torchrun(2, "-m", "course_lib.pretraining", "--config", tmp_path / "run.toml")
    assert_same_reports([json.loads(line) for line in printed.splitlines()], alone)
    assert (tmp_path / "run" / "log.jsonl").read_text() == printed
    assert len(list_checkpoints(tmp_path / "run")) == 4


def test_the_command_line_names_what_is_wrong(tmp_path, monkeypatch, capsys):
    (tmp_path / "run.toml").write_text("[model]\nvocabulary = 3\n[data]\ntrain = 'x'")
    monkeypatch.setattr(sys, "argv", ["pretraining", "--config", str(tmp_path / "run.toml")])
    with pytest.raises(SystemExit):
        main()
    assert "vocabulary" in capsys.readouterr().err
