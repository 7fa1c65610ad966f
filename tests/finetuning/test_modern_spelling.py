"""Runs that the cache keeps: made once, replayed, made anew where they are damaged, and not there at all after an interrupt."""

import pytest
import torch

from course_lib import checkpoints
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.finetuning import load_adapter, modern_spelling
from course_lib.tasks.capitals import CAPITALS, capital_chat


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A model with SmolLM2's tokenizer and next to no weights, and an empty folder to keep its runs in."""
    _, tokenizer = checkpoints.load("smollm2-135m-instruct", "meta")
    shape = TransformerConfig(vocab_size=49_152, d_model=8, n_layers=2, n_heads=2, d_ff=12, context_length=1024)

    def load():
        torch.manual_seed(0)
        return TransformerLM(shape), tokenizer

    monkeypatch.setattr(modern_spelling, "_smollm2", load)
    monkeypatch.setattr(modern_spelling.storage, "own_dir", lambda: tmp_path)
    return load


def test_the_pairs_to_be_tested_on_are_the_same_for_every_seed_and_none_is_learned():
    (first, test), (second, again) = modern_spelling.examples(0), modern_spelling.examples(1)
    assert test == again and len(test) == 200 and first != second and len(first) == len(second) == 320
    assert not {pair.old for pair in test} & {pair.old for pair in first + second}


def test_of_shown_pairs_none_is_trained_on():
    _, tokenizer = checkpoints.load("smollm2-135m-instruct", "meta")
    one, two, three = modern_spelling.examples()[0][:3]
    example = modern_spelling.ask(tokenizer, three, [one, two])
    assert tokenizer.decode(example.answer) == f"{three.modern}<|im_end|>\n"
    text = tokenizer.decode(example.ids)
    assert all(line in text for pair in (one, two) for line in pair) and text.count("<|im_start|>assistant") == 3


@pytest.mark.parametrize("how", ["lora", "full"])
def test_a_kept_run_is_replayed(small, monkeypatch, how):
    reports = list(modern_spelling.teach(how))
    assert [report.step for report in reports] == list(range(37))
    assert reports[0].loss is None and all(report.loss > 0 for report in reports[1:])
    assert [report.step for report in reports if report.capitals is not None] == [0, 6, 36]
    scores = modern_spelling.taught_scores(how)
    monkeypatch.setattr(modern_spelling, "_train", lambda *_: pytest.fail("it was trained again"))
    assert list(modern_spelling.teach(how)) == reports
    assert len(scores.exact) == 200 and torch.equal(modern_spelling.taught_scores(how).nats, scores.nats)


def test_the_adapter_that_is_kept_is_the_one_that_was_scored(small):
    scores = modern_spelling.taught_scores("lora")
    model, tokenizer = small()
    load_adapter(model, modern_spelling.adapter_folder())
    again = modern_spelling._scores(model, tokenizer)
    torch.testing.assert_close(again.nats, scores.nats, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"scores": {"exact": [true], "nats": [1], "n_tokens": [1]}, "log": []}',
        b'{"scores": {"exact": true, "nats": 1, "n_tokens": 1}, "log": []}',
    ],
)
def test_a_damaged_run_is_made_anew(small, tmp_path, damage):
    before = modern_spelling.prompt_scores(0)
    (folder,) = tmp_path.glob("spelling-0-shot-*")
    (folder / "run.json").write_bytes(damage)
    assert torch.equal(modern_spelling.prompt_scores(0).nats, before.nats)


def test_a_run_that_is_interrupted_as_it_is_kept_leaves_nothing_behind(small, monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(modern_spelling, "_scores", interrupted)  # the adapter is written by then
        modern_spelling.taught_scores("lora")
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    assert len(modern_spelling.taught_scores("lora").exact) == 200


def test_who_takes_the_last_report_and_no_more_has_the_run_kept(small, tmp_path):
    reports = [report for _, report in zip(range(37), modern_spelling.teach("lora"), strict=False)]
    assert len(reports) == 37 and len(list(tmp_path.glob("spelling-lora-*"))) == 1


def test_a_damaged_adapter_is_trained_anew(small, tmp_path):
    weights = modern_spelling.adapter_folder() / "adapter_model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[: len(before) // 2])
    assert modern_spelling.adapter_folder() == weights.parent and weights.read_bytes() == before


def test_the_folder_changes_with_what_the_run_depends_on(small, monkeypatch):
    folders = [modern_spelling._trained(how, seed) for how in ("lora", "full") for seed in (0, 1)]
    monkeypatch.setattr(modern_spelling, "HELD_OUT", ("hamlet",))
    folders.append(modern_spelling._trained("lora", 0))
    assert len(set(folders)) == 5


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="how must be one of lora, full, not 'qlora'"):
        next(modern_spelling.teach("qlora"))
    with pytest.raises(ValueError, match="n_shots"):
        modern_spelling.prompt_scores(-1)


def test_prompts_are_scored_once(small, monkeypatch):
    scores = modern_spelling.prompt_scores(5)
    monkeypatch.setattr(modern_spelling, "_scores", lambda *_: pytest.fail("it was scored again"))
    assert torch.equal(modern_spelling.prompt_scores(5).nats, scores.nats)


def test_capitals_are_asked_for_and_told_in_a_sentence():
    assert len(CAPITALS) == len(set(CAPITALS.values())) == 50
    question, answer = capital_chat("Peru")
    assert question["content"] == "What is the capital of Peru?" and answer["content"] == "The capital of Peru is Lima."
