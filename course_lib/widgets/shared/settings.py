"""What the widgets share whose settings the kernel answers to: the browser asks for changes, Python computes what follows."""

from traitlets import Dict

from course_lib.widgets.shared.live import LiveWidget

__all__ = ["SettingsWidget"]


class SettingsWidget(LiveWidget):
    """`settings` are what the learner moves; `result` is what follows from them, as the subclass's `_compute` says.

    A setting that cannot be raises ValueError and changes nothing; the browser shows what it says.
    """

    settings = Dict().tag(sync=True)
    result = Dict().tag(sync=True)

    def __init__(self, **settings):
        super().__init__(settings=settings, result=self._compute(settings))

    def set(self, **changes) -> None:
        """Change some settings; ValueError names one that does not exist or cannot be."""
        if unknown := set(changes) - set(self.settings):
            raise ValueError(f"no such setting: {', '.join(sorted(unknown))}; there are {', '.join(self.settings)}")
        settings = self.settings | changes
        result = self._compute(settings)
        with self.hold_sync():
            self.settings, self.result = settings, result

    def _compute(self, settings: dict) -> dict:
        raise NotImplementedError

    def _do(self, message: dict) -> None:
        self.set(**message["settings"])
