"""`python -m course_lib.life`: killed anywhere it goes on, what is damaged is made anew, and the report is whole and true."""

import io
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_life import forget, shrink, start

from course_lib import storage
from course_lib.devices import single_thread
from course_lib.life import kind_replies, report
from course_lib.life.__main__ import main
from course_lib.life.stages import STAGES, live
from course_lib.pretraining import Trainer, list_checkpoints
from course_lib.pretraining.trainer import read_history

NAMES = ["tokenizer", "pretraining", "supervised", "preferences", "reward model", "reinforcement"]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> Path:
    """A small life that nothing has interrupted, and its report in `out`."""
    place = tmp_path_factory.mktemp("life")
    with pytest.MonkeyPatch.context() as patch, single_thread():
        shrink(patch, place)
        report.write_report(place / "out")
    return place


@pytest.fixture
def lived(once, tmp_path, monkeypatch) -> Iterator[Path]:
    """A copy of it, which may be damaged."""
    place = shutil.copytree(once, tmp_path / "life")
    shrink(monkeypatch, place)
    with single_thread():
        yield place
    forget()


def files(place: Path) -> dict[str, bytes]:
    """Return the content of all files that are not hidden."""
    kept = (path for path in place.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(place)): path.read_bytes() for path in kept}


def without_clock(text: str) -> str:
    """Return a report without what depends on the speed of the machine."""
    return text[text.index("## How well") :]


def beginnings(place: Path) -> dict[Path, int]:
    """Return when each run's first checkpoint was written."""
    return {path: path.stat().st_mtime_ns for path in place.glob("**/step-000000/model.safetensors")}


def call(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["life", *map(str, arguments)])
    main()


# ---------------------------------------------------------------- interrupted and damaged


def test_killed_in_the_middle_of_each_stage_it_goes_on_and_ends_the_same(once, tmp_path):
    moments = (
        ("shakespeare-model-*/.tokenizer.partial-*", None),
        ("shakespeare-model-*/checkpoints", 2),
        ("replies-supervised-*", 2),
        ("replies-reward-*", 2),
        ("replies-policy-*", 0),
    )
    place, out = tmp_path / "life", tmp_path / "out"
    place.mkdir()
    begun = {}
    for folder, step in moments:
        process = start(place, out)
        wanted = folder if step is None else f"{folder}/step-{step:06d}"
        while not list(place.glob(wanted)):
            assert process.is_alive(), "it ended before it was killed"
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not out.exists() or not list(out.glob("*"))
        assert begun.items() <= beginnings(place).items()  # nothing has begun anew
        begun = beginnings(place)
    finishing = start(place, out)
    finishing.join()
    assert finishing.exitcode == 0
    assert begun.items() <= beginnings(place).items() and len(begun) == 4
    assert without_clock((out / "report.md").read_text()) == without_clock((once / "out/report.md").read_text())


def test_a_second_call_makes_nothing_again_and_the_same_report(lived, monkeypatch, capsys):
    before = files(lived)
    call(monkeypatch, "--out", lived / "out")
    assert files(lived) == before
    lines = capsys.readouterr().out.splitlines()
    assert [line[:15].strip() for line in lines] == [*NAMES, "report"]
    assert re.fullmatch(r"pretraining +\d+ s   step     8 of     8   loss +\d\.\d{3}", lines[1])
    n = kind_replies.TRAINING.n_steps
    assert re.fullmatch(rf"reinforcement +\d+ s   step    {n} of    {n}   reward +-?\d\.\d\d", lines[5])
    assert lines[6].endswith("report.md")


DAMAGED = (
    "shakespeare-model-*/tokenizer/tokenizer.json",
    "shakespeare-model-*/train/index.json",
    "shakespeare-model-*/checkpoints/step-000008/model.safetensors",
    "replies-supervised-*/step-000006/history.jsonl",
    "replies-supervised-*/step-000006/state.json",
    "replies-comparisons-*/choices.jsonl",
    "replies-reward-*/step-000006/optimizer.safetensors",
    f"replies-policy-*/step-{kind_replies.TRAINING.n_steps:06d}/model.safetensors",
    "life-scores-*/scores.json",
)


@pytest.mark.filterwarnings("ignore:a damaged checkpoint was removed")
@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_what_is_damaged_is_made_anew(lived, damage):
    scored = without_clock((lived / "out/report.md").read_text())
    for pattern in DAMAGED:
        (path,) = lived.glob(pattern)
        if damage == "cut":
            content = path.read_bytes()
            path.write_bytes(content[: content.rindex(b"\n", 0, -1) + 1 if path.suffix == ".jsonl" else -9])
        else:
            path.unlink()
    shutil.rmtree(lived / "out")
    assert without_clock(report.write_report(lived / "out").read_text()) == scored
    assert all(list(lived.glob(pattern)) for pattern in DAMAGED)


def test_a_damaged_checkpoint_is_named_and_the_run_goes_on_from_the_one_before(lived):
    (folder,) = lived.glob("replies-reward-*")
    newest = list_checkpoints(folder)[-1]
    (newest / "optimizer.safetensors").write_bytes(b"nothing")
    with pytest.warns(UserWarning, match=f"{newest.name}/optimizer.safetensors is damaged"):
        run = STAGES[NAMES.index("reward model")].start()
    assert run.step == 4
    assert [one.step for one in run] == [5, 6]


# ---------------------------------------------------------------- the report


def test_it_shows_what_the_logs_and_folders_hold(lived):
    made = dict(zip(NAMES, live(STAGES, io.StringIO()), strict=True))
    text = (lived / "out/report.md").read_text(encoding="utf-8")
    for name, one in made.items():
        (row,) = (line for line in text.splitlines() if line.startswith(f"| {name} |") and line.count("|") == 6)
        *_, steps, seconds, n_bytes, _ = (cell.strip() for cell in row.split("|"))
        folder = one.folder if isinstance(one, Trainer) else one
        assert int(n_bytes.replace(",", "")) == sum(map(len, files(folder).values()))
        if isinstance(one, Trainer):
            last = read_history(list_checkpoints(folder)[-1], one.Report)[-1]
            assert (steps, seconds) == (f"{last.step:,}", f"{last.seconds:,.0f}")
        else:
            assert (steps, seconds) == ("–", f"{storage.seconds_to_make(folder):.0f}")
    assert report.report_card().split() == re.sub(r"!\[.*", "", text).split()  # the same without figures


def test_its_figures_are_all_there_and_all_shown(lived):
    text = (lived / "out/report.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[.+\]\((.+)\)", text)
    assert sorted([*shown, "report.md"]) == sorted(path.name for path in (lived / "out").iterdir())
    assert len(shown) == 4 and all((lived / "out" / name).read_bytes().startswith(PNG) for name in shown)


def test_a_report_that_fails_leaves_the_last_one_whole(lived, monkeypatch):
    before = files(lived / "out")
    monkeypatch.setattr(report, "_text", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.write_report(lived / "out")
    assert files(lived / "out") == before and not list((lived / "out").glob(".*"))


def test_seconds_that_were_not_noted_are_a_dash(lived):
    for path in lived.glob("replies-comparisons-*/made.json"):
        path.unlink()  # as of a cache from before they were
    assert re.search(r"\| preferences \| \d+ choices \| – \| – \|", report.report_card())


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize("file_in_the_way", [True, False])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch, file_in_the_way):
    monkeypatch.setattr("course_lib.life.__main__.live", lambda *_: pytest.fail("it began to work"))
    out = tmp_path / "out"
    if file_in_the_way:
        out.write_text("mine")
    else:

        def refuse(dir: Path):
            raise OSError(30, "Read-only file system", str(dir))

        monkeypatch.setattr(report.tempfile, "TemporaryFile", refuse)
    with pytest.raises(SystemExit, match=rf"cannot be written into {out} \(.+\); give another folder"):
        call(monkeypatch, "--out", out)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_stage_has_one_line_that_follows_its_steps(lived):
    for checkpoint in lived.glob("replies-supervised-*/step-*"):
        shutil.rmtree(checkpoint)
    screen = Terminal()
    live(STAGES[:3], screen)
    lines = screen.getvalue().split("\n")
    assert len(lines) == 4 and lines[-1] == ""
    *_, last = seen = lines[2].split("\r\x1b[K")
    assert [int(text.split("step")[1].split("of")[0]) for text in seen[2:]] == [1, 2, 3, 4, 5, 6, 6]
    assert last.startswith("supervised ") and "loss" in last


def test_an_interrupt_says_how_to_go_on(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("course_lib.life.__main__.live", interrupt)
    with pytest.raises(SystemExit, match="goes on from here"):
        call(monkeypatch, "--out", tmp_path)
