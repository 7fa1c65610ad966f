"""Widgets that the browser sends requests to, and that show a whole result or the one before it, never half of one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from anywidget import AnyWidget

__all__ = ["LiveWidget", "Reply", "listen_while_busy"]

Reply = tuple[dict, list[bytes]]
"""A message to the browser and the buffers that go with it."""


def listen_while_busy(widget: AnyWidget) -> None:
    """Let the browser's messages reach `widget` while a cell keeps the kernel busy; to be called after it has told something.

    ipykernel 7.4 hands them to the shell that the widget spoke from last: the busy one. As long as it has not noted any, they
    go where the browser sent them: to the widgets' own shell, a thread (JEP 91).
    """
    vars(widget.comm).pop("_reply_subshell_id", None)


class LiveWidget(AnyWidget):
    """A widget that does what the browser asks for; a subclass says in `_do` what that is.

    Every request is answered: by what `_do` returns, by `done` where that is None, or by `error`, which the widget shows.
    """

    # Of each kind, by name, the one whose model ran last; the class itself will not do: anywidget makes one for each widget.
    _running: ClassVar[dict[str, "LiveWidget"]] = {}

    def __init__(self, **traits):
        super().__init__(**traits)
        self.on_msg(self._answer)

    def _take_over(self) -> None:
        """Let the widget of this kind that ran before give back what it can compute again.

        A cell that is run again leaves the old widget behind, and Jupyter holds that for as long as the kernel lives.
        """
        kind = type(self).__name__
        before = self._running.get(kind, self)
        if before is not self:
            before._give_back()
        self._running[kind] = self

    def _give_back(self) -> None:
        """Let go of all that is large and can be computed again."""

    def _do(self, message: dict) -> Reply | None:
        raise NotImplementedError

    def _answer(self, _widget, message: dict, _buffers) -> None:
        try:
            reply = self._do(message)
        except KeyboardInterrupt:
            self.send({"type": "error", "message": "Interrupted: all is as it was before."})
        except Exception as error:
            self.send({"type": "error", "message": str(error)})
        else:
            self.send(*(reply or [{"type": "done"}]))

    @contextmanager
    def _or_as_before(self, before: dict) -> Iterator[None]:
        """Give traits the values `before` again if the block, which computes what follows from new ones, is cut short."""
        try:
            yield
        except BaseException:
            with self.hold_trait_notifications():
                for name, value in before.items():
                    setattr(self, name, value)
            raise
