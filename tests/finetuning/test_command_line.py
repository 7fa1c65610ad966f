"""`python -m course_lib.finetuning`: what a file describes, in one process or several, and files that are wrong."""

import json
import sys
from pathlib import Path

import model_peers
import pytest
import torch
from safetensors.torch import load_file
from torchrun import command, forked, torchrun

from course_lib import checkpoints
from course_lib.devices import single_thread
from course_lib.finetuning import load_adapter
from course_lib.finetuning.__main__ import main
from course_lib.finetuning.config import read_chats, read_run

WORDS = ["yes", "no", "perhaps", "never in all my life", "as you like it", "not a word more, my lord"]
RUN = """\
[model]
source = "model"
{lora}
[training]
n_steps = 3
batch_size = 4
context_length = 64
learning_rate = 0.01
{training}
[data]
train = "chats.jsonl"
validation = "chats.jsonl"
[output]
folder = "{folder}"
"""
LORA = "[lora]\nrank = 2\ntargets = ['q_proj', 'down_proj']"


@pytest.fixture(scope="module")
def place(smollm2, tmp_path_factory) -> Path:
    """A folder with a small model and chats of several lengths."""
    place = tmp_path_factory.mktemp("finetuning")
    torch.manual_seed(0)
    small = model_peers.randomised(model_peers.llama(vocab_size=49_152, max_position_embeddings=128))
    model_peers.save(small, smollm2, place / "model")
    messages = [
        [
            {"role": "system", "content": "Answer."},
            {"role": "user", "content": f"Question {i}"},
            {"role": "assistant", "content": " ".join(WORDS[: i % 6 + 1])},
        ]
        for i in range(12)
    ]
    (place / "chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n\n" for chat in messages))
    return place


def write_run(place: Path, name: str, lora: str = LORA, training: str = "") -> Path:
    path = place / f"{name}.toml"
    path.write_text(RUN.format(lora=lora, training=training, folder=name))
    return path


def run_alone(path: Path, monkeypatch, capsys) -> list[dict]:
    monkeypatch.setattr(sys, "argv", ["finetuning", "--config", str(path)])
    with single_thread():
        main()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("lora", [LORA, ""], ids=["lora", "all weights"])
def test_two_processes_train_what_one_does(place, monkeypatch, capsys, lora):
    alone = run_alone(write_run(place, f"alone{len(lora)}", lora), monkeypatch, capsys)
    assert [report["step"] for report in alone] == [1, 2, 3] and alone[-1]["loss"] < alone[0]["loss"]
    for parallel in ("ddp", "fsdp"):
        name = f"{parallel}{len(lora)}"
        path = write_run(place, name, lora, f'parallel = "{parallel}"\naccumulation = 2')
        # Once as the lesson says it; the other cases are the same program, but do not wait for imports.
        if lora and parallel == "fsdp":
            printed = torchrun(2, "-m", "course_lib.finetuning", "--config", path)
        else:
            printed = forked(2, command, main, "--config", path)
        for one, other in zip(alone, map(json.loads, printed.splitlines()), strict=True):
            for number in ("loss", "gradient_norm", "validation_loss"):
                assert one[number] == pytest.approx(other[number], abs=1e-4), f"{parallel}: {number}"
        if lora:
            here, there = (
                load_file(place / run / "adapter" / "adapter_model.safetensors") for run in (f"alone{len(lora)}", name)
            )
            assert here.keys() == there.keys()
            for matrix in here:
                torch.testing.assert_close(here[matrix], there[matrix], atol=1e-4, rtol=0)


def test_the_adapter_that_it_leaves_is_loaded(place, monkeypatch, capsys):
    reports = run_alone(write_run(place, "again"), monkeypatch, capsys)
    assert run_alone(place / "again.toml", monkeypatch, capsys) == []  # done already
    model, _ = checkpoints.load(place / "model", "cpu", torch.float32)
    load_adapter(model, place / "again" / "adapter")
    assert sum(w.numel() for w in model.parameters() if w.requires_grad) == 3 * 2 * (32 + 32 + 48 + 32)
    assert reports[-1]["validation_loss"] < reports[0]["loss"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\nsorce = 'x'", "unknown fields of \\[model\\]: sorce"),
        ("[model]\n", "\\[model\\] lacks source"),
        (RUN.format(lora="[lora]\nranks = 3", training="", folder="x"), "unknown fields of \\[lora\\]: ranks"),
        (RUN.format(lora="[lora]\nrank = 0", training="", folder="x"), "rank must be positive"),
        (RUN.format(lora="[lora]\ntargets = ['q']", training="", folder="x"), "targets must be some of"),
        (RUN.format(lora="", training="warmup = -1", folder="x"), "warmup must be at least 0"),
        (RUN.format(lora="", training="", folder="x").replace('"model"', "3"), "source must be str, not 3"),
        (RUN.format(lora="", training="", folder="x").replace('"chats.jsonl"', "[]"), "train must be str"),
        ("model = ", "run.toml: Invalid value"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path, text, message):
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_run(tmp_path / "run.toml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: Expecting property name"),
        ("[]", "line 2: list indices"),
        ('{"messages": [{"role": "user"}]}', "line 2: 'content'"),
        ('{"messages": [{"role": "user", "content": null}]}', "line 2: a role or content is no text"),
        ('{"prompt": "x"}', "line 2: 'messages'"),
        ("\udcff", "line 2: "),
    ],
)
def test_a_line_that_is_no_chat_is_named(tmp_path, line, message):
    good = json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]})
    (tmp_path / "chats.jsonl").write_text(f"{good}\n{line}\n", encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=message):
        list(read_chats(tmp_path / "chats.jsonl"))
