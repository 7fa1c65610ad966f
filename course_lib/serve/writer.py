"""From tokens to text while it is written: whole characters only, and nothing from a stop string on."""

import codecs
from collections.abc import Sequence

from course_lib.tokenization import Tokenizer

__all__ = ["Writer"]


class Writer:
    """Turns the ids of one text into pieces that may be shown at once.

    A character whose bytes lie in several tokens comes when it is whole, and the end of the text that may begin one of `stops`
    when it turns out that it does not. `stopped` says whether one of them has come: nothing is shown from there on.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()):
        self.stopped = False
        self._tokenizer, self._stops, self._held = tokenizer, stops, ""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def write(self, id: int) -> str:
        """Return what can be shown after the token `id`."""
        text = self._show(self._decoder.decode(self._tokenizer.decode_bytes([id])))
        held = max((n for stop in self._stops for n in range(len(stop)) if text.endswith(stop[:n])), default=0)
        if self.stopped or not held:
            return text
        self._held = text[-held:]
        return text[:-held]

    def end(self) -> str:
        """Return what was held back, when nothing more comes."""
        return self._show(self._decoder.decode(b"", final=True))

    def _show(self, text: str) -> str:
        """Return the text that was held back and `text` behind it, up to the first stop string."""
        if self.stopped:
            return ""
        text, self._held = self._held + text, ""
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        self.stopped = bool(places)
        return text[: min(places)] if places else text
