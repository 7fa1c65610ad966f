"""RLHFDashboard: the same run with and without it, a leash that is moved, rewards that fail, and runs that are replayed."""

import copy
import json
import math
import threading
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from course_lib.alignment import GRPOTrainer, PolicyAndCritic, PolicyConfig, PPOTrainer, Prompts
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.corpora import TokenArray
from course_lib.devices import seed_everything
from course_lib.inference import Sampling, roll_out
from course_lib.pretraining import PretrainingConfig, Trainer
from course_lib.tokenization import train_bpe
from course_lib.widgets import RLHFDashboard
from course_lib.widgets.rlhf_dashboard.picture import ROWS, policy_blocks

TOKENIZER = train_bpe(["Tom sees the cat."], 260)
(STOP,), (S,) = TOKENIZER.encode("."), TOKENIZER.encode("s")
ASKED = ["Tom", "the cat"]
CONFIG = PretrainingConfig(
    n_steps=8, batch_size=2, context_length=8, learning_rate=2e-2, muon_learning_rate=None, weight_decay=0.0, decay=0.0
)
POLICY = PolicyConfig(max_new_tokens=6, n_samples=4, kl_weight=0.05)


def share_of_s(prompts, answers):
    return torch.tensor([answer.count(S) / len(answer) for answer in answers])


def ended(prompts, answers):
    return torch.tensor([float(answer[-1] == STOP) for answer in answers])


@cache
def writer() -> TransformerLM:
    """A small model that writes what looks like sentences."""
    seed_everything(0)
    model = TransformerLM(TransformerConfig(266, 16, 2, 2, 32, 32))
    text = TOKENIZER.encode("Tom sees the cat. The cat sees Tom. Tom has a cat. " * 20)
    list(
        Trainer(
            model,
            TokenArray(np.array(text), 266),
            None,
            PretrainingConfig(n_steps=60, batch_size=8, learning_rate=1e-2),
        )
    )
    return model


def trainer(folder=None, kind=GRPOTrainer, reward=share_of_s, config=CONFIG, true_reward=ended):
    model = copy.deepcopy(writer())
    seed_everything(0)  # which the critic is drawn from
    model = PolicyAndCritic(model) if issubclass(kind, PPOTrainer) else model
    rows = Prompts([TOKENIZER.encode(text) for text in (*ASKED, "sees")], 8, 266)
    options = {"stop_ids": frozenset({STOP}), "true_reward": true_reward}
    return kind(model, rows, reward, POLICY, config, folder, **options)


def interfering(kind, between):
    """A trainer that calls `between(step)` after each step."""

    class Interfering(kind):
        def _finish_step(self):
            super()._finish_step()
            between(self.step)

    return Interfering


def told(reports):
    """What must be the same in every run: all that a report says but the clock's part."""
    return [vars(replace(report, seconds=0.0, tokens_per_second=0.0, mfu=None)) for report in reports]


def rows_of(dashboard) -> dict[str, np.ndarray]:
    return dict(zip(ROWS, np.frombuffer(dashboard.curves, np.float32).reshape(len(ROWS), -1), strict=True))


# ---------------------------------------------------------------- in Python


@pytest.mark.parametrize("kind", [GRPOTrainer, PPOTrainer])
def test_training_is_the_same_with_and_without_it(kind):
    alone, watched = trainer(kind=kind), trainer(kind=kind)
    dashboard = RLHFDashboard(watched, TOKENIZER, ASKED, sample_every=2)
    dashboard.run()
    assert dashboard.state == "done" and repr(dashboard) == "RLHFDashboard: 8 steps"
    assert told(watched.history) == told(alone)
    same = zip(watched.model.state_dict().items(), alone.model.state_dict().values(), strict=True)
    assert [name for (name, a), b in same if not torch.equal(a, b)] == []
    assert watched.model.training


def test_it_tells_what_the_trainer_reports():
    watched = trainer()
    dashboard = RLHFDashboard(watched)
    dashboard.run()
    rows = rows_of(dashboard)
    assert rows["step"].tolist() == list(range(1, 9))
    for name in ROWS[1:]:
        np.testing.assert_allclose(rows[name], [getattr(report, name) for report in watched.history], rtol=1e-6)
    assert dashboard.progress == {"step": 8, "n_steps": 8, "trouble": "", "left": 0, "kl_weight": 0.05}
    assert dashboard.samples == [] and dashboard.prompts == []
    unjudged = RLHFDashboard(trainer(true_reward=None))
    unjudged.run()
    assert np.isnan(rows_of(unjudged)["true_reward"]).all()


def answers(model) -> list[str]:
    """What the model answers by the noise of seed 0, an ellipsis behind what was cut short."""
    noise = torch.rand(2, 6, generator=torch.Generator().manual_seed(0))
    ids = [TOKENIZER.encode_prompt(text) for text in ASKED]
    written = roll_out(model, ids, 6, Sampling(temperature=1.0), stop_ids=frozenset({STOP}), noise=noise).answers
    return [TOKENIZER.decode(ids[:-1] if ids[-1] == STOP else ids) + "…" * (ids[-1] != STOP) for ids in written]


@pytest.mark.parametrize("kind", [GRPOTrainer, PPOTrainer])
def test_samples_are_drawn_by_the_same_noise_before_and_every_so_many_steps(kind):
    watched = trainer(kind=kind)
    dashboard = RLHFDashboard(watched, TOKENIZER, ASKED, sample_every=3)
    dashboard.run()
    assert [sample["step"] for sample in dashboard.samples] == [0, 3, 6, 8]
    assert dashboard.before == dashboard.samples[0]["texts"] == answers(watched.reference)
    assert dashboard.samples[-1]["texts"] == answers(watched.writer) != dashboard.before


def test_the_leash_is_moved_between_steps_and_marked():
    by_hand, dashboard = trainer(), None
    for report in by_hand:
        by_hand.kl_weight = 0.5 if report.step >= 3 else 0.05

    def between(step):
        if step == 3:
            dashboard._hear(None, {"kl_weight": 0.5}, [])

    watched = trainer(kind=interfering(GRPOTrainer, between))
    dashboard = RLHFDashboard(watched)
    dashboard.run()
    assert told(watched.history) == told(by_hand.history)
    assert np.flatnonzero(np.diff(rows_of(dashboard)["kl_weight"])).tolist() == [2]
    assert dashboard.progress["kl_weight"] == 0.5


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -1, "1", None, [1]])
def test_a_leash_that_cannot_be_changes_nothing(nonsense):
    watched = trainer()
    dashboard = RLHFDashboard(watched)
    dashboard._hear(None, {"kl_weight": nonsense}, [])
    assert watched.kl_weight == dashboard.progress["kl_weight"] == 0.05
    dashboard._hear(None, {"kl_weight": 0}, [])
    assert watched.kl_weight == dashboard.progress["kl_weight"] == 0


def test_while_it_pauses_it_has_answered_and_the_leash_is_taken():
    seen, dashboard = [], None

    def between(step):
        if step == 5:
            dashboard._hear(None, {"order": "pause"}, [])

    def follow(change):
        seen.append((change["new"], watched.step))
        if change["new"] == "paused":
            dashboard._hear(None, {"kl_weight": 0.25}, [])
            threading.Timer(0.3, dashboard._hear, (None, {"order": "run"}, [])).start()

    watched = trainer(kind=interfering(GRPOTrainer, between))
    dashboard = RLHFDashboard(watched, TOKENIZER, ASKED, sample_every=100)
    dashboard.observe(follow, "state")
    dashboard.run()
    assert seen == [("running", 0), ("paused", 5), ("running", 5), ("done", 8)]
    assert [sample["step"] for sample in dashboard.samples] == [0, 5, 8]
    assert [report.kl_weight for report in watched.history] == [0.05] * 5 + [0.25] * 3


class Failing:
    """A reward that fails once, at its `n`th call: it raises, or gives NaN."""

    def __init__(self, n, error=None):
        self.left, self.error = n, error

    def __call__(self, prompts, answers):
        self.left -= 1
        if self.left == 0 and self.error is not None:
            raise self.error
        return share_of_s(prompts, answers) * (math.nan if self.left == 0 else 1)


@pytest.mark.parametrize(
    ("error", "said"),
    [(KeyError("no such word"), "KeyError: 'no such word'"), (None, "ValueError: reward must give a number for each of 8")],
)  # fmt: skip
def test_a_reward_that_fails_is_told_and_the_run_goes_on(error, said):
    watched = trainer(reward=Failing(4, error))
    dashboard = RLHFDashboard(watched, TOKENIZER, ASKED)
    with pytest.raises((KeyError, ValueError)):
        dashboard.run()
    assert dashboard.state == "stopped" and dashboard.progress["step"] == 3
    trouble = dashboard.progress["trouble"]
    assert trouble.startswith(f"Step 4 was not made. {said}") and trouble.endswith(
        "Run the cell again to go on from here."
    )
    assert len(trouble) < 400 and trouble in repr(dashboard)
    dashboard.run()
    assert dashboard.state == "done" and dashboard.progress["trouble"] == ""
    assert told(watched.history) == told(trainer())


def test_a_run_that_diverges_says_so_and_answers_nothing():
    dashboard = RLHFDashboard(trainer(config=replace(CONFIG, learning_rate=1e30)), TOKENIZER, ASKED)
    with pytest.raises(FloatingPointError):
        dashboard.run()
    assert (
        "the loss ceased to be a number" in dashboard.progress["trouble"]
        or "no numbers" in dashboard.progress["trouble"]
    )
    dashboard._write_sample()
    assert dashboard.samples[-1]["texts"] == ["[the model's logits are no numbers]"] * 2
    json.dumps([dashboard.progress, dashboard.samples], allow_nan=False)
    assert dashboard._repr_mimebundle_()[0]["image/png"]


def test_an_interrupt_ends_the_cell_and_leaves_a_trainer_that_goes_on():
    def between(step):
        if step == 4 and not interrupted:
            interrupted.append(step)
            raise KeyboardInterrupt

    interrupted = []
    watched = trainer(kind=interfering(GRPOTrainer, between))
    dashboard = RLHFDashboard(watched, TOKENIZER, ASKED)
    with pytest.raises(KeyboardInterrupt):
        dashboard.run()
    assert (dashboard.state, dashboard.progress["step"]) == ("stopped", 4)
    dashboard.run()
    assert told(watched.history) == told(trainer())


@pytest.mark.parametrize("prompt", ["", "Tom sees the cat. " * 3])
def test_a_prompt_that_cannot_be_answered_is_refused(prompt):
    with pytest.raises(ValueError, match=r"is empty|26 fit"):
        RLHFDashboard(trainer(), TOKENIZER, [prompt])
    with pytest.raises(ValueError, match="sample_every must be positive"):
        RLHFDashboard(trainer(), TOKENIZER, ASKED, sample_every=0)


# ---------------------------------------------------------------- saved runs


def test_a_saved_run_is_replayed_with_its_samples(tmp_path):
    dashboard = RLHFDashboard(trainer(tmp_path), TOKENIZER, ASKED, sample_every=4)
    dashboard.run()
    replayed = RLHFDashboard.replay(tmp_path)
    assert replayed.state == "replay" and replayed.curves == dashboard.curves
    for name in ("prompts", "before", "samples"):
        assert getattr(replayed, name) == getattr(dashboard, name)
    assert replayed.progress["step"] == replayed.progress["n_steps"] == 8
    assert replayed._repr_mimebundle_()[0]["image/png"] == dashboard._repr_mimebundle_()[0]["image/png"]
    replayed._hear(None, {"order": "run", "kl_weight": 3}, [])
    with pytest.raises(ValueError, match="a saved run is only shown"):
        replayed.run()
    of_history = RLHFDashboard.replay(trainer(tmp_path).history)
    assert of_history.curves == dashboard.curves and of_history.samples == []


def test_a_run_gone_on_with_keeps_the_samples_of_its_prompts(tmp_path):
    first = trainer(tmp_path, config=replace(CONFIG, checkpoint_every=2))
    dashboard = RLHFDashboard(first, TOKENIZER, ASKED, sample_every=2)
    dashboard._trainer = Cut(first, 5)
    dashboard.run()
    assert [sample["step"] for sample in dashboard.samples] == [0, 2, 4, 5]
    second = RLHFDashboard(trainer(tmp_path), TOKENIZER, ASKED, sample_every=2)  # goes on from step 4
    assert second.samples == dashboard.samples[:3]
    second.run()
    assert [sample["step"] for sample in second.samples] == [0, 2, 4, 6, 8]
    assert second.before == dashboard.before
    assert RLHFDashboard(trainer(tmp_path), TOKENIZER, ["Tom"]).samples == []


class Cut:
    """A trainer that makes no more than `n` steps."""

    def __init__(self, trainer, n):
        self.trainer, self.n = trainer, n

    def __getattr__(self, name):
        return getattr(self.trainer, name)

    def __iter__(self):
        return islice(self.trainer, self.n)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"prompts": ["a"], "before": [], "samples": []}', '{"prompts": [1], "before": ["b"], "samples": []}',
     '{"prompts": [], "before": [], "samples": [{"step": "x", "texts": []}]}', '{"prompts": [], "before": [], "samples": 3}'],
)  # fmt: skip
def test_samples_that_are_damaged_are_named(tmp_path, content):
    list(trainer(tmp_path, config=replace(CONFIG, n_steps=1)))
    (tmp_path / "samples.json").write_text(content)
    with pytest.raises(ValueError, match=r"samples\.json is damaged"):
        RLHFDashboard.replay(tmp_path)


def test_what_holds_no_run_is_not_replayed(tmp_path):
    with pytest.raises(ValueError, match="no checkpoints in"):
        RLHFDashboard.replay(tmp_path)
    with pytest.raises(ValueError, match="no step was made"):
        RLHFDashboard.replay([])


def test_curves_stay_small_however_long_the_run_and_keep_means():
    n = 10_000
    values = np.random.default_rng(0).random(n)
    judged = np.where(np.arange(n) % 100 == 0, values, np.nan)
    columns = dict.fromkeys(ROWS[1:], values) | {"true_reward": judged, "kl_weight": np.arange(n)}
    rows = dict(zip(ROWS, policy_blocks(columns), strict=True))
    lengths = np.diff(rows["step"], prepend=0)
    assert rows["step"][-1] == n and len(lengths) <= 512
    assert (rows["reward"] * lengths).sum() == pytest.approx(values.sum(), rel=1e-5)
    assert rows["kl_weight"].tolist() == (rows["step"] - 1).tolist()
    assert np.isfinite(rows["true_reward"]).sum() > 90
    assert policy_blocks({name: [] for name in ROWS[1:]}).shape == (len(ROWS), 0)


def cells(folder, n_steps: int, pace: float, fails_at: int = 0) -> list[str]:
    """Two cells: a small run of steps that take `pace` seconds each at least, and the dashboard that runs it."""
    return [
        f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from dataclasses import replace
from test_rlhf_dashboard import *

class Slow(GRPOTrainer):
    def _make_step(self):
        time.sleep({pace})
        super()._make_step()

reward = Failing({fails_at}, KeyError("no such word")) if {fails_at} else share_of_s
run = trainer({str(folder)!r}, Slow, reward, replace(CONFIG, n_steps={n_steps}))""",
        "dashboard = RLHFDashboard(run, TOKENIZER, ASKED)\ndashboard.run()",
    ]


def test_without_a_browser_it_trains_to_the_end_and_leaves_a_picture(tmp_path):
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells(tmp_path, n_steps=6, pace=0)])
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    (shown,) = notebook.cells[-1].outputs
    assert shown.data["text/plain"] == "RLHFDashboard: 6 steps"
    assert 10_000 < len(shown.data["image/png"]) < 200_000
