"""Policies that two processes train together: the numbers of one, and the weights."""

from pathlib import Path

import pytest
import torch
from torchrun import forked
from two_policies import CASES, TOGETHER, TRAINING, main, new_trainer, train_to

from course_lib.devices import single_thread

EVERY_CASE = pytest.mark.parametrize("case", CASES)
NUMBERS = ("loss", "gradient_norm", "tokens", "validation_loss", "reward", "true_reward", "kl", "entropy", "length")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with single_thread():
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with what two processes made."""
    runs = tmp_path_factory.mktemp("runs")
    forked(2, main, runs)
    return runs


@pytest.fixture(scope="module")
def together(runs) -> list[dict[str, dict]]:
    """Of each of two processes what it was told and has learned."""
    return [torch.load(runs / f"{rank}.pt") for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone() -> dict[str, list[dict]]:
    """What one process makes of each case in one go: up to where two have come, and to the end."""
    found = {}
    for case in CASES:
        trainer = new_trainer(case)
        found[case] = [train_to(trainer, stop) for stop in (TOGETHER, TRAINING.n_steps)]
    return found


def assert_same(found: dict, wanted: dict) -> None:
    assert [report["step"] for report in found["reports"]] == [report["step"] for report in wanted["reports"]]
    for one, other in zip(found["reports"], wanted["reports"], strict=True):
        for name in NUMBERS:
            assert one.get(name) == pytest.approx(other.get(name), abs=1e-4), f"{name} of step {one['step']}"
    for name, weight in found["weights"].items():
        torch.testing.assert_close(weight, wanted["weights"][name], atol=1e-4, rtol=0)


@EVERY_CASE
def test_two_give_the_reports_and_the_weights_of_one(together, alone, case):
    for process in together:
        assert process[case]["begun_at"] == 3  # broken off after 4 steps, and gone on
        assert_same(process[case], alone[case][0])
    first, last = alone[case][0]["reports"][0], alone[case][0]["reports"][-1]
    assert abs(first["loss"] - last["loss"]) > 0.01  # else nothing was learned


@EVERY_CASE
def test_one_goes_on_with_what_two_began(runs, together, alone, case):
    trainer = new_trainer(case, runs / case)
    assert trainer.step == 6
    assert_same(train_to(trainer, TRAINING.n_steps), alone[case][1])


@pytest.mark.parametrize("case", [case for case in CASES if "hurried" in case])
def test_meanwhile_all_answers_of_one_process_ended_before_the_others(together, alone, case):
    """Their rows are shorter; else nothing was tested of such."""
    of_both = list(zip(*(process[case]["longest"] for process in together), strict=True))
    assert any(min(lengths) == 1 < max(lengths) for lengths in of_both)
    assert list(map(max, of_both)) == alone[case][0]["longest"][3:]
