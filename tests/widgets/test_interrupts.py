"""Widgets interrupted at each of their calls of a model: what they show is whole, and a request made again is answered."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from anywidget import AnyWidget
from small_corpus import write_small_corpus
from small_search import TEXTS, small_search, small_writer

from course_lib.alignment import GRPOTrainer, PolicyConfig, Prompts
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.architecture.transformer import Block
from course_lib.corpora import TokenArray
from course_lib.devices import seed_everything
from course_lib.finetuning import LoraConfig, add_lora
from course_lib.inference.fused_step import FusedStep
from course_lib.pretraining import PretrainingConfig, Trainer, list_checkpoints
from course_lib.tokenization import train_bpe
from course_lib.widgets import (
    AttentionExplorer,
    CacheView,
    CheckpointScrubber,
    ConstraintView,
    LogitLens,
    LoraView,
    RetrievalExplorer,
    RLHFDashboard,
    SamplingPlayground,
    TrainingDashboard,
)
from course_lib.widgets.lora_view import widget as lora_view
from course_lib.widgets.shared.curves import CURVES
from course_lib.widgets.shared.runs import RunDashboard

TEXT, OTHER = "Tom sees the cat. Tom", "Ann takes a red ball. Ann takes"
SETTINGS = {"settings": {}}
DRAW, BACK = {"type": "draw", **SETTINGS}, {"type": "look", "depth": 0, **SETTINGS}
TAKE = {"type": "take", "id": 70, **SETTINGS}
OUTSIDE = ("layout", "tabbable", "tooltip")  # what every Jupyter widget has


@pytest.fixture(scope="module")
def makers(tmp_path_factory) -> dict[type, Callable[[], AnyWidget]]:
    """For each widget that runs a model, what makes a new one on the same small model."""
    folder = tmp_path_factory.mktemp("run")
    tokenizer = train_bpe(["Tom sees the cat. Ann takes a red ball. Eve likes the sea."] * 3, 266)
    seed_everything(0)
    config = TransformerConfig(vocab_size=266, d_model=16, n_layers=3, n_heads=2, d_ff=16, context_length=64)
    model = TransformerLM(config)
    shards = write_small_corpus(folder / "shards", n_texts=3)
    recipe = PretrainingConfig(n_steps=2, batch_size=2, warmup=0, checkpoint_every=1, evaluate_every=None)
    list(Trainer(model, shards, None, recipe, folder / "run"))
    model.eval()
    models = {
        kind: lambda kind=kind: kind(model, tokenizer, TEXT)
        for kind in (AttentionExplorer, CacheView, LogitLens, SamplingPlayground)
    }
    tuned = TransformerLM(config)
    add_lora(tuned, LoraConfig(rank=2))
    for name, parameter in tuned.named_parameters():
        if name.split(".")[-2] == "up" and parameter.requires_grad:
            parameter.data.normal_()
    writer = small_writer()
    return models | {
        RetrievalExplorer: lambda: RetrievalExplorer(small_search(), *writer, texts=TEXTS, query="Who led the ship?"),
        LoraView: lambda: LoraView(tuned, tokenizer, TEXT),
        ConstraintView: lambda: ConstraintView(model, tokenizer, TEXT, "[0-9]{3}|[a-z]*é", max_new_tokens=12),
        CheckpointScrubber: lambda: CheckpointScrubber(list_checkpoints(folder / "run"), tokenizer, TEXT),
    }


@dataclass
class Interrupter:
    """Stands in for Ctrl-C: counts the blocks that run, and the fused steps, and interrupts before the `last`."""

    last: int | None = None
    count: int = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def counted(method):
            def run(part, *args, **kwargs):
                self.count += 1
                if self.count == self.last:
                    raise KeyboardInterrupt
                return method(part, *args, **kwargs)

            return run

        monkeypatch.setattr(Block, "forward", counted(Block.forward))
        monkeypatch.setattr(FusedStep, "__call__", counted(FusedStep.__call__))


def shown(widget: AnyWidget) -> dict:
    """All that the browser is told, but how long it took."""
    state = {name: getattr(widget, name) for name in widget.keys if not name.startswith("_") and name not in OUTSIDE}
    if isinstance(widget, CacheView):
        steps = [{side: cost | {"ms": 0} for side, cost in step.items()} for step in widget.steps]
        state["run"] = state["run"] | {"steps": steps}
    return state


def ask(widget: AnyWidget, request: dict) -> list[str]:
    """Send what the browser sends, and return the types of the answers, progress left out."""
    answers = []
    widget.send = lambda message, _buffers=None: answers.append(message["type"])
    widget._answer(widget, request, [])
    return [answer for answer in answers if answer != "progress"]


@pytest.mark.parametrize(
    ("kind", "earlier", "request_"),
    [
        (AttentionExplorer, [], {"type": "run", "text": OTHER, "off": []}),
        (AttentionExplorer, [], {"type": "run", "text": OTHER, "off": [(1, 1), (2, 0)]}),
        (LogitLens, [], {"type": "run", "text": OTHER}),
        (CacheView, [], {"type": "step", "sides": ["uncached", "cached"]}),
        (CacheView, [{"type": "step", "sides": ["uncached"]}] * 3, {"type": "step", "sides": ["cached"]}),
        (SamplingPlayground, [], {"type": "run", "text": OTHER, **SETTINGS}),
        (SamplingPlayground, [], DRAW),
        (SamplingPlayground, [DRAW, DRAW, DRAW, BACK], TAKE),
        (SamplingPlayground, [DRAW, DRAW, DRAW, BACK, TAKE], {"type": "walk", "branch": 0, **SETTINGS}),
        (LoraView, [], {"type": "run", "text": OTHER}),
        (LoraView, [], {"type": "set", "settings": {"scale": 0.5, "rank": 1}}),
        (ConstraintView, [], {"type": "step"}),
        (ConstraintView, [{"type": "step"}] * 2, {"type": "step"}),
        (ConstraintView, [{"type": "step"}] * 2, {"type": "back"}),
        (ConstraintView, [{"type": "step"}], {"type": "set", "settings": {"prompt": OTHER}}),
        (ConstraintView, [{"type": "step"}], {"type": "wanted", "settings": {"wanted": "a+b", "prompt": OTHER}}),
        (RetrievalExplorer, [], {"type": "answer"}),
        (CheckpointScrubber, [], {"type": "look", "at": 0}),
        (CheckpointScrubber, [], {"type": "run", "text": OTHER}),
    ],
)  # fmt: skip
def test_an_interrupt_leaves_what_was_shown_and_the_request_made_again_is_answered(
    makers, monkeypatch, kind, earlier, request_
):
    monkeypatch.setattr(lora_view, "NEW_TOKENS", 4)  # of each answer: every one more makes all those before once more

    def prepared() -> AnyWidget:
        widget = makers[kind]()
        for request in earlier:
            ask(widget, request)
        return widget

    undisturbed, counter = prepared(), Interrupter()
    with monkeypatch.context() as patch:
        counter.install(patch)
        assert ask(undisturbed, request_) == ["done"]
    assert counter.count >= (1 if kind is ConstraintView else 3)  # which reads one token in one fused step
    for call in range(1, counter.count + 1):
        widget = prepared()
        before = shown(widget)
        with monkeypatch.context() as patch:
            Interrupter(call).install(patch)
            assert ask(widget, request_) == ["error"]
        assert shown(widget) == before
        assert ask(widget, request_) == ["done"]
        assert shown(widget) == shown(undisturbed)


def test_a_text_set_in_python_is_taken_back_when_it_is_interrupted(makers, monkeypatch):
    for kind in (AttentionExplorer, LogitLens, SamplingPlayground, CheckpointScrubber):
        widget = makers[kind]()
        before = shown(widget)
        with monkeypatch.context() as patch:
            Interrupter(2).install(patch)
            with pytest.raises(KeyboardInterrupt):
                widget.text = OTHER
        assert shown(widget) == before
        widget.text = OTHER
        assert shown(widget)["text"] == OTHER and shown(widget) != before


def test_tokens_drawn_before_an_interrupt_are_shown(makers, monkeypatch):
    playground, whole = makers[SamplingPlayground](), makers[SamplingPlayground]()
    whole.generate(8)
    with monkeypatch.context() as patch:
        Interrupter(10).install(patch)  # in the fourth token's second layer
        with pytest.raises(KeyboardInterrupt):
            playground.generate(8)
    n_drawn = len(playground.result["path"])
    assert n_drawn == 3
    playground.generate(8 - n_drawn)
    assert playground.generated == whole.generated


def run_twice(dashboard: RunDashboard, call: int, monkeypatch: pytest.MonkeyPatch) -> RunDashboard:
    """Run it, interrupted before block `call`, and once more, to the end."""
    with monkeypatch.context() as patch:
        Interrupter(call).install(patch)
        with pytest.raises(KeyboardInterrupt):
            dashboard.run()
    dashboard.run()
    return dashboard


def test_a_dashboard_interrupted_in_a_step_or_an_evaluation_ends_as_one_left_alone(tmp_path, monkeypatch):
    shards = write_small_corpus(tmp_path / "shards", n_texts=1)
    text = TokenArray(shards[:40], shards.vocab_size)
    recipe = PretrainingConfig(n_steps=3, batch_size=2, warmup=0, context_length=8, evaluate_every=1)
    shape = TransformerConfig(vocab_size=266, d_model=8, n_layers=1, n_heads=1, d_ff=8, context_length=8)

    def prepared() -> TrainingDashboard:
        seed_everything(0)
        return TrainingDashboard(Trainer(TransformerLM(shape), shards, text, recipe))

    def curves(dashboard: TrainingDashboard) -> np.ndarray:
        return np.frombuffer(dashboard.curves, np.float32).reshape(len(CURVES), -1)

    undisturbed, counter = prepared(), Interrupter()
    with monkeypatch.context() as patch:
        counter.install(patch)
        undisturbed.run()
    assert counter.count > 5 and not np.isnan(curves(undisturbed)).any()
    for call in range(1, counter.count + 1):
        dashboard = run_twice(prepared(), call, monkeypatch)
        assert dashboard.state == "done"
        assert np.array_equal(curves(dashboard), curves(undisturbed))


def test_a_policy_interrupted_anywhere_ends_as_one_left_alone(monkeypatch):
    tokenizer = train_bpe(["Tom sees the cat."], 260)
    prompts = Prompts([tokenizer.encode("Tom")], 4, 266)
    recipe = PretrainingConfig(n_steps=2, batch_size=1, warmup=0, context_length=4)
    shape = TransformerConfig(vocab_size=266, d_model=8, n_layers=1, n_heads=1, d_ff=8, context_length=8)
    policy = PolicyConfig(max_new_tokens=3, n_samples=2)

    def reward(_prompts, answers):
        return torch.tensor([float(answer[0]) for answer in answers])

    def prepared() -> RLHFDashboard:
        seed_everything(0)
        trainer = GRPOTrainer(TransformerLM(shape), prompts, reward, policy, recipe, stop_ids=frozenset({0}))
        return RLHFDashboard(trainer, tokenizer, ["Tom"], sample_every=1)

    undisturbed, counter = prepared(), Interrupter()
    with monkeypatch.context() as patch:
        counter.install(patch)
        undisturbed.run()
    assert counter.count > 15
    for call in range(1, counter.count + 1):
        dashboard = run_twice(prepared(), call, monkeypatch)
        assert shown(dashboard) | {"progress": None} == shown(undisturbed) | {"progress": None}
