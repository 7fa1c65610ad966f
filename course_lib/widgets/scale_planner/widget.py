"""ScalePlanner: what a training run takes in memory, days and money, beside what published runs took."""

from base64 import b64encode
from dataclasses import asdict, fields
from typing import Literal

from course_lib.checks import check
from course_lib.pretraining.scaling import GPUS, PUBLISHED, REPLICATION, Plan, Run, plan
from course_lib.widgets.scale_planner.picture import planner_picture
from course_lib.widgets.shared.base import module, style_sheet
from course_lib.widgets.shared.settings import SettingsWidget

__all__ = ["OWN", "ScalePlanner"]

OWN = "A first model"
_RUNS = {OWN: Run(1e9, 20e9, n_gpus=8, context_length=2048, sequences=4)} | {
    name: published.run for name, published in PUBLISHED.items()
}
_FIELDS = [field.name for field in fields(Run)]


class ScalePlanner(SettingsWidget):
    """Plan a training run; it begins as one of the `examples`: a first model, Llama 3 405B and DeepSeek-V3.

    The settings are the fields of `course_lib.pretraining.scaling.Run`, and `example`, whose published figures stand beside
    the plan. All can be moved in the widget and by `set`; `run` and `plan` are what is shown.

        planner = ScalePlanner("Llama 3 405B")
        planner.set(n_gpus=1024)
        planner.plan.days
    """

    _esm = module(__file__)
    _css = style_sheet(__file__)

    examples = tuple(_RUNS)

    def __init__(self, example: str = "Llama 3 405B"):
        super().__init__(example=example, **asdict(self._example(example)))

    @property
    def run(self) -> Run:
        """The run that is planned."""
        return _run(self.settings)

    @property
    def plan(self) -> Plan:
        """What it takes."""
        return plan(self.run)

    def set(self, **changes) -> None:
        """Change some settings. Another `example` brings all of its own; a mixture of experts is scaled as a whole."""
        if "example" in changes:
            changes = asdict(self._example(changes["example"])) | changes
        elif "parameters" in changes:
            check("parameters", changes["parameters"], float)
            ratio = changes["parameters"] / self.settings["parameters"]
            kept = {name: self.settings[name] for name in ("active", "expert_parameters") if self.settings[name]}
            changes = (
                {name: ratio * number for name, number in kept.items()} | {"n_layers": None, "d_model": None} | changes
            )
        super().set(**changes)

    def _example(self, name: str) -> Run:
        check("example", name, Literal[tuple(_RUNS)])
        return _RUNS[name]

    def _compute(self, settings: dict) -> dict:
        run = _run(settings)
        planned = plan(run)
        stages = [plan(Run(**asdict(run) | {"stage": stage})).memory for stage in range(4)]
        published = PUBLISHED.get(settings["example"])
        figures = ("flops", "gpu_hours", "days", "dollars", "megawatt_hours")
        layers, width = run.shape
        parameters, tokens = REPLICATION.optimum(planned.flops)
        return {
            "figures": {name: getattr(planned, name) for name in figures},
            "published": published and {name: getattr(published, name, None) for name in (*figures, "source", "note")},
            "stages": stages,
            "room": planned.room,
            "gpus": list(GPUS),
            "copies": run.n_gpus // (run.tensor * run.pipeline),
            "layers": layers,
            "width": width,
            "optimum": [parameters, tokens],
        }

    def __repr__(self) -> str:
        planned, run = self.plan, self.run
        total = sum(planned.memory.values())
        return (
            f"ScalePlanner: {run.parameters:.3g} parameters, {run.tokens:.3g} tokens on {run.n_gpus:,} {run.gpu}: "
            f"{total / 1e9:.3g} GB a GPU, {planned.days:.3g} days, ${planned.dollars:.3g}"
        )

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        picture = planner_picture(self.run, self.result)
        return data | {"image/png": b64encode(picture).decode("ascii")}, metadata


def _run(settings: dict) -> Run:
    return Run(**{name: settings[name] for name in _FIELDS})
