"""RLHFDashboard: a policy while it learns from a reward, on a leash that can be moved meanwhile."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from traitlets import List, Unicode

from course_lib.alignment import GRPOTrainer, PolicyReport, PPOTrainer
from course_lib.architecture import TransformerLM
from course_lib.checks import check
from course_lib.inference import Sampling, roll_out
from course_lib.pretraining import list_checkpoints, read_history
from course_lib.pretraining.evaluation import as_in_use
from course_lib.tokenization import Tokenizer
from course_lib.widgets.rlhf_dashboard.picture import ROWS, policy_blocks, policy_picture
from course_lib.widgets.shared.base import encode_text, module, style_sheet, token_of
from course_lib.widgets.shared.runs import RunDashboard, finite

__all__ = ["RLHFDashboard"]

MOST_SAMPLES = 100
SAMPLES = "samples.json"  # in the trainer's folder


class RLHFDashboard(RunDashboard):
    """Run `trainer` and show what becomes of its policy: reward, KL to the reference, entropy, length, and what it writes.

    With a `tokenizer`, the reference and the policy answer `prompts` (texts), always by the same noise: before, and every
    `sample_every` steps, on Pause and at the end. The leash, the trainer's `kl_weight`, can be moved while it trains: that
    takes effect at the next step. `run` returns when the last step is made or somebody presses Stop; run again goes on.
    Without a browser it trains to the end. In a trainer's folder the samples are kept, and `replay` shows the run from there.

        dashboard = RLHFDashboard(GRPOTrainer(…), tokenizer, ["The film was"])
        dashboard.run()

    What a reward raises ends `run`, and the widget says it; the trainer is then between two steps, as after an interrupt.
    Buttons and leash need a front end that talks to the kernel over subshells, as JupyterLab and Notebook 7 do. ValueError
    for a prompt that is empty or leaves too little of the context for an answer, a `sample_every` below 1, and a folder whose
    samples are damaged.
    """

    _esm = module(__file__)
    _css = style_sheet(__file__)
    _reported = ROWS[1:]

    prompts = List(Unicode()).tag(sync=True)
    before = List(Unicode()).tag(sync=True)  # the reference's answers

    def __init__(
        self,
        trainer: GRPOTrainer | PPOTrainer,
        tokenizer: Tokenizer | None = None,
        prompts: Sequence[str] = (),
        sample_every: int = 10,
    ):
        check("sample_every", sample_every)
        self._tokenizer, self._sample_every, self._leash = tokenizer, sample_every, None
        self._ids = [self._encode(trainer, prompt) for prompt in prompts] if tokenizer else []
        kept = _read_samples(trainer)
        if not isinstance(trainer, _SavedRun) and kept["prompts"] != list(prompts):
            kept = {"prompts": list(prompts) if tokenizer else [], "before": [], "samples": []}
        super().__init__(trainer, **kept)

    @classmethod
    def replay(cls, run: str | Path | Sequence[PolicyReport]) -> "RLHFDashboard":
        """Show a run that is over, or has been broken off: the trainer's folder, or its `history`. It cannot be gone on with.

        ValueError for a folder without checkpoints, no steps, or a file that is damaged.
        """
        folder = Path(run) if isinstance(run, str | Path) else None
        if folder is not None:
            checkpoints = list_checkpoints(folder)
            if not checkpoints:
                raise ValueError(f"there are no checkpoints in {folder}: give the Trainer a folder and it saves some")
            run = read_history(checkpoints[-1], PolicyReport)
        if not run:
            raise ValueError("there is nothing to replay: no step was made")
        dashboard = cls(_SavedRun(list(run), folder))
        dashboard._tell("replay")
        return dashboard

    def run(self) -> None:
        """Train until the last step, or until Stop is pressed; see the class. ValueError in a replay."""
        if self.state == "replay":
            raise ValueError("a saved run is only shown: make an RLHFDashboard of its trainer to go on with it")
        super().run()

    # ---------------------------------------------------------------- the leash

    def _hear(self, widget, message: dict, buffers) -> None:
        super()._hear(widget, message, buffers)
        leash = message.get("kl_weight")
        if not isinstance(leash, int | float) or not 0 <= leash < inf:
            return
        self._leash = float(leash)
        if self.state in ("ready", "stopped", "done"):  # nobody else will do it
            self._obey()
            self.progress = self._progress()

    def _obey(self) -> bool:
        leash, self._leash = self._leash, None
        if leash is None:
            return False
        self._trainer.kl_weight = leash
        return True

    # ---------------------------------------------------------------- what is shown

    def _progress(self) -> dict[str, object]:
        return super()._progress() | finite(kl_weight=self._trainer.kl_weight)

    def _blocks(self) -> np.ndarray:
        return policy_blocks(self._columns)

    def _picture(self) -> bytes:
        texts = self.samples[-1]["texts"] if self.samples else []
        rows = zip(self.prompts, self.before, texts, strict=True) if texts else ()
        written = [f"{prompt}\nbefore: {before}\nafter: {after}" for prompt, before, after in rows]
        return policy_picture(self._blocks(), self._n_steps, "\n\n".join(written), self._trouble)

    def _sample_is_due(self, trained: float) -> bool:
        return self._step % self._sample_every == 0

    def _write_sample(self) -> None:
        if not self._ids or (self.samples and self.samples[-1]["step"] == self._step):
            return
        if not self.before:
            self.before = self._answers(self._trainer.reference)
        sample = {"step": self._step, "texts": self._answers(self._trainer.writer)}
        self.samples = [*self.samples[1 - MOST_SAMPLES :], sample]
        if self._trainer.folder is not None and self._step > self._began_at:  # its folder exists and can be written to
            fresh = self._trainer.folder / f".{SAMPLES}.partial"
            kept = {"prompts": self.prompts, "before": self.before, "samples": self.samples}
            fresh.write_text(json.dumps(kept, indent=1), encoding="utf-8")
            fresh.replace(self._trainer.folder / SAMPLES)

    def _encode(self, trainer: GRPOTrainer | PPOTrainer, prompt: str) -> list[int]:
        room = trainer.reference.config.context_length - trainer.policy.max_new_tokens
        return encode_text(self._tokenizer, prompt, room)

    def _answers(self, model: TransformerLM) -> list[str]:
        """Return what `model` answers to each prompt; a model that has diverged answers nothing, and the text says why."""
        trainer, n_tokens = self._trainer, self._trainer.policy.max_new_tokens
        noise = torch.rand(len(self._ids), n_tokens, generator=torch.Generator().manual_seed(0))
        try:
            with as_in_use(model):
                sampling = Sampling(temperature=1.0)  # as it is trained
                written = roll_out(model, self._ids, n_tokens, sampling, stop_ids=trainer.stop_ids, noise=noise)
        except FloatingPointError as error:
            return [f"[{error}]"] * len(self._ids)
        return [self._text(answer) for answer in written.answers]

    def _text(self, answer: list[int]) -> str:
        """Return an answer as text: without its stop id, and with an ellipsis if there was no room for one."""
        has_ended = answer[-1] in self._trainer.stop_ids
        ids = answer[: len(answer) - has_ended]
        try:
            text = self._tokenizer.decode(ids)
        except ValueError:  # the model has more tokens than the tokenizer, and wrote one of those
            text = "".join(token_of(self._tokenizer, index)["piece"] for index in ids)
        return text if has_ended else text + "…"


@dataclass(frozen=True)
class _SavedRun:
    """Of a run that is over, what the dashboard reads of a trainer."""

    history: list[PolicyReport]
    folder: Path | None

    @property
    def config(self) -> SimpleNamespace:
        return SimpleNamespace(n_steps=self.history[-1].n_steps)

    @property
    def kl_weight(self) -> float:
        return self.history[-1].kl_weight


def _read_samples(trainer: GRPOTrainer | PPOTrainer | _SavedRun) -> dict[str, list]:
    """Return the prompts and samples, up to the trainer's step, that lie in its folder; ValueError if they are damaged."""
    path = None if trainer.folder is None else trainer.folder / SAMPLES
    if path is None or not path.exists():
        return {"prompts": [], "before": [], "samples": []}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        prompts, before, samples = kept["prompts"], kept["before"], kept["samples"]
        steps, texts = [sample["step"] for sample in samples], [before, *(sample["texts"] for sample in samples)]
        if not all(isinstance(text, str) for row in [prompts, *texts] for text in row):
            raise TypeError("not all texts are texts")
        if any(len(row) != len(prompts) for row in texts) or steps != sorted(map(int, steps)):
            raise ValueError("not every prompt has its answers, or steps are out of order")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {error}; delete it to do without the earlier samples") from None
    return {"prompts": prompts, "before": before, "samples": [s for s in samples if s["step"] <= len(trainer.history)]}
