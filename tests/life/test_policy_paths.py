"""How a policy replies, on a small recipe: looks are means of replies, and paths are kept and made anew."""

import json
from dataclasses import replace

import pytest
import torch

from course_lib.life import kind_replies, policy_paths

pytestmark = pytest.mark.usefixtures("place")
SHORT = replace(kind_replies.TRAINING, n_steps=6, warmup=0)


def test_a_look_is_the_mean_of_the_replies_and_the_model_is_no_distance_from_itself():
    model, _ = kind_replies.supervised()
    found, replies = policy_paths.look(model, step=3, seed=1), policy_paths.reply(model, seed=1)
    assert (found.step, found.kl) == (3, pytest.approx(0, abs=1e-5))
    assert found.length == pytest.approx(sum(map(len, replies.answers)) / len(replies.answers))
    assert found.reward == pytest.approx(replies.reward.mean().item())


def test_against_itself_a_model_wins_half(monkeypatch):
    ratings = torch.rand(
        100_000, generator=torch.Generator().manual_seed(0)
    )  # people who like what they happen to like
    monkeypatch.setattr(
        policy_paths, "human_reward", lambda _, answers: ratings[[hash(tuple(answer)) % 100_000 for answer in answers]]
    )
    model, _ = kind_replies.supervised()
    wins = torch.cat([policy_paths.reply(model, seed).wins for seed in range(0, 60, 2)])
    assert len(wins) == 300 and 0.42 < wins.mean() < 0.58  # 2.8 standard errors
    assert (wins != 0.5).double().mean() > 0.9


@pytest.fixture
def short(monkeypatch):
    """Let the policies of `path` make few steps: its trainers took theirs when they were defined."""
    for name in ("policy_trainer", "preference_trainer"):
        make = getattr(policy_paths, name)
        monkeypatch.setattr(policy_paths, name, lambda *given, make=make: make(*given, training=SHORT))


@pytest.mark.parametrize("damage", ["cut", "another number", "removed"])
def test_a_path_is_kept_and_made_anew_when_it_is_damaged(place, short, damage):
    found = policy_paths.path("grpo", seed=7)
    assert [one.step for one in found] == [0, 2, 4, 6] and found[0].kl == pytest.approx(0, abs=1e-5)
    (file,) = place.glob("replies-path-grpo-7-*/records.json")
    kept = file.read_text()
    written = file.stat().st_mtime_ns
    assert policy_paths.path("grpo", seed=7) == found and file.stat().st_mtime_ns == written
    if damage == "removed":
        file.unlink()
    else:
        looks = json.loads(kept)
        looks[1]["human"] = 9.0
        file.write_text(kept[:-20] if damage == "cut" else json.dumps(looks))
    assert policy_paths.path("grpo", seed=7) == found
    assert file.read_text() == kept
