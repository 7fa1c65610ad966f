"""ParallelismTimeline: who computes, sends and waits in one training step, for every way of dividing it."""

from base64 import b64encode
from typing import Literal

from course_lib.checks import check
from course_lib.pretraining.parallelism import SCHEMES, Job, Link, Timeline
from course_lib.widgets.parallelism_timeline.picture import timeline_picture
from course_lib.widgets.shared.base import module, style_sheet
from course_lib.widgets.shared.settings import SettingsWidget

__all__ = ["ParallelismTimeline"]

DEVICES = (1, 2, 4, 8)


class ParallelismTimeline(SettingsWidget):
    """One step of `job` on many devices, drawn as a timeline that can be played.

    `scheme` is one of "data", "overlap", "tensor", "gpipe", "1f1b", "interleaved" and "expert"; `link` gigabytes a second;
    `imbalance` the load of the busiest expert over the mean. All can be moved in the widget and by `set`; `timeline` is what
    `course_lib.pretraining.parallelism` makes of them.

        view = ParallelismTimeline("1f1b", n_devices=4)
        view.set(n_microbatches=16)
        view.timeline.efficiency
    """

    _esm = module(__file__)
    _css = style_sheet(__file__)

    def __init__(
        self,
        scheme: str = "1f1b",
        *,
        n_devices: int = 4,
        n_microbatches: int = 8,
        link: float = 50.0,
        imbalance: float = 1.0,
        job: Job | None = None,
    ):
        self._job = job or Job.of_model()
        super().__init__(
            scheme=scheme, n_devices=n_devices, n_microbatches=n_microbatches, link=link, imbalance=imbalance
        )

    @property
    def timeline(self) -> Timeline:
        """The timeline that is shown."""
        return self._play(self.settings)

    def _play(self, settings: dict) -> Timeline:
        check("scheme", settings["scheme"], Literal[tuple(SCHEMES)])
        check("n_devices", settings["n_devices"])
        check("n_microbatches", settings["n_microbatches"])
        check("link", settings["link"], float, 1e-6, 1e6)
        check("imbalance", settings["imbalance"], float, 1, 2)
        scheme = SCHEMES[settings["scheme"]]
        options = {name: settings[name] for name in scheme.options}
        return scheme.play(self._job, settings["n_devices"], Link(settings["link"] * 1e9), **options)

    def _compute(self, settings: dict) -> dict:
        timeline = self._play(settings)
        spans = (*timeline.spans, *timeline.idle)
        return {
            "spans": [[span.device, span.kind, span.part, span.start, span.end] for span in spans],
            "seconds": timeline.seconds,
            "alone": self._job.seconds,
            "speedup": timeline.speedup,
            "efficiency": timeline.efficiency,
            "sent": timeline.sent,
            "held": timeline.in_flight / (2 if settings["scheme"] == "interleaved" else 1),
            "speedups": [[n, self._speedup(settings, n)] for n in DEVICES],
        }

    def _speedup(self, settings: dict, n_devices: int) -> float | None:
        """Return the speed-up on another number of devices; None where the schedule does not allow it."""
        try:
            return self._play(settings | {"n_devices": n_devices}).speedup
        except ValueError:
            return None

    def __repr__(self) -> str:
        devices, result = self.settings["n_devices"], self.result
        return (
            f"ParallelismTimeline: {SCHEMES[self.settings['scheme']].title}, {devices} device{'s' * (devices != 1)}, "
            f"{result['speedup']:.3g} times as fast as one"
        )

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        picture = timeline_picture(self.timeline, SCHEMES[self.settings["scheme"]].title)
        return data | {"image/png": b64encode(picture).decode("ascii")}, metadata
