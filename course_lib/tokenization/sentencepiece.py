"""BPE over characters, as SentencePiece trains it (arXiv 1808.06226): Llama 2, the first Mistral models, Gemma.

Merging is the same as in `bpe.py`; a text is written otherwise. The space is written `▁`, and merging begins with
characters. A character that is no token falls back on its UTF-8 bytes, which are tokens of their own, `<0xE2>`.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Literal, get_args

from course_lib.tokenization.bpe import Tokenizer

__all__ = ["SPACE", "Prepend", "SentencePieceTokenizer"]

SPACE = "▁"
Prepend = Literal["never", "first", "always", "doubled"]

_BYTE = re.compile("<0x([0-9A-F]{2})>")
_WORD = re.compile(f"{SPACE}*[^{SPACE}]+|{SPACE}+")


class SentencePieceTokenizer(Tokenizer):
    """A BPE tokenizer over characters with byte fallback. Its arguments are those of `Tokenizer` that do not cut words.

    `prepend` says where a space is put, so that a word at the beginning is the same token as inside a text: "never" (Gemma);
    "first", before the text; "always", before every part between special tokens too; neither where there is a space
    already; or "doubled", as "always", but where there is a space already too (Llama 2 and Mistral as first published).
    `decode` takes the one before the text away again. `encode` brings a text back but for what the format cannot tell apart:
    `▁` from a space, and the spaces that "first", "always" and "doubled" put from those that were there.

    Raises ValueError as `Tokenizer` does, and if one of the 256 bytes has no token.
    """

    def __init__(
        self,
        vocab: dict[str, int],
        merges: list[tuple[str, str]],
        special_tokens: dict[str, int],
        *,
        prepend: Prepend = "never",
        normalised_tokens: Collection[str] = (),
        ignore_merges: bool = False,
        start_tokens: tuple[str, ...] = (),
        end_tokens: tuple[str, ...] = (),
        chat_template: str | None = None,
        named_tokens: Mapping[str, str] | None = None,
    ):
        if prepend not in get_args(Prepend):
            raise ValueError(f"prepend must be one of {get_args(Prepend)}, not {prepend!r}")
        self.prepend = prepend
        super().__init__(
            vocab,
            merges,
            special_tokens,
            normalised_tokens=normalised_tokens,
            ignore_merges=ignore_merges,
            start_tokens=start_tokens,
            end_tokens=end_tokens,
            chat_template=chat_template,
            named_tokens=named_tokens,
        )
        # No known vocabulary joins a character to the space after it: what stands before a space and after merge apart.
        self._has_words = all(set(left) == {SPACE} or not right.startswith(SPACE) for left, right in merges)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`, without the space that was put before it. Otherwise as `Tokenizer.decode`."""
        text = super().decode(ids)
        return text if self.prepend == "never" else text.removeprefix(" ")

    def _normalise(self, text: str) -> str:
        return text.replace(" ", SPACE)

    def _words(self, text: str, starts_text: bool) -> Iterable[str]:
        is_wanted = self.prepend in ("always", "doubled") or (self.prepend == "first" and starts_text)
        if text and is_wanted and (self.prepend == "doubled" or not text.startswith(SPACE)):
            text = SPACE + text
        return self._cut(text)

    def _cut(self, text: str) -> list[str]:
        if self._has_words:
            return _WORD.findall(text)
        return [text] if text else []

    def _write(self, word: str) -> str:
        return word

    def _symbols(self, written: str) -> list[str]:
        symbols = []
        for character in written:
            symbols += [character] if character in self.vocab else [f"<0x{byte:02X}>" for byte in character.encode()]
        return symbols

    def _bytes_of(self, token: str) -> bytes:
        if byte := _BYTE.fullmatch(token):
            return bytes.fromhex(byte[1])
        return token.replace(SPACE, " ").encode()

    def _check_spelling(self) -> None:
        for byte in range(256):
            if f"<0x{byte:02X}>" not in self.vocab and (byte > 0x7F or chr(byte) not in self.vocab):
                raise ValueError(
                    f"byte fallback needs a token for every byte, but <0x{byte:02X}> is not in the vocabulary"
                )
