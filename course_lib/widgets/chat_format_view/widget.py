"""ChatFormatView: chats as the tokens that a model sees, which of them it is trained on, and how they are packed into rows."""

from base64 import b64encode
from collections.abc import Sequence
from itertools import groupby
from typing import Literal

import torch

from course_lib.checks import check
from course_lib.corpora.packing import IGNORED, Packed, pack, places, same_document
from course_lib.finetuning import Example
from course_lib.finetuning.chats import write_chat
from course_lib.tokenization import Tokenizer
from course_lib.widgets.chat_format_view.formats import FORMATS, MASKS, Chat, example_of, said, with_template
from course_lib.widgets.chat_format_view.picture import chat_picture
from course_lib.widgets.shared.base import module, style_sheet, token_of
from course_lib.widgets.shared.settings import SettingsWidget

__all__ = ["MAX_CHATS", "MAX_TOKENS", "OWN", "ChatFormatView"]

MAX_CHATS, MAX_TOKENS = 12, 256  # what stays legible: chats, and tokens of a chat or a row
OWN = "its own"


class ChatFormatView(SettingsWidget):
    """Show `chats`, each a list of messages with a "role" and a "content", as the tokens that `tokenizer` makes of them.

    What the learner moves in the widget, and `set` in Python: `chats` and `chat`, the one looked at, counted from 0;
    `template`, one of `templates`; `mask`, what the loss is on: "answers", "everything" or "unended", answers without what
    ends the turn; `packed` into rows of `row_length` tokens, or one chat a row; `isolated`: whether a chat in a row sees none
    but itself. A chat that a template refuses, or that has no answer or is too long, is left out of the rows, and the widget
    says why.

        view = ChatFormatView(tokenizer, [[{"role": "user", "content": "2 + 3"}, {"role": "assistant", "content": "5"}]])
        view.set(template="plain text", mask="unended")
    """

    _esm = module(__file__)
    _css = style_sheet(__file__)

    def __init__(self, tokenizer: Tokenizer, chats: Sequence[Chat], *, row_length: int = 128):
        self._tokenizer = tokenizer
        own = {} if tokenizer.chat_template is None else {OWN: tokenizer.chat_template}
        self._templates = own | {name: form.template for name, form in FORMATS.items()}
        super().__init__(
            chats=chats,
            chat=0,
            template=self.templates[0],
            mask=MASKS[0],
            packed=True,
            row_length=row_length,
            isolated=True,
        )

    @property
    def templates(self) -> tuple[str, ...]:
        """The names of the templates: the tokenizer's own first, if it has one."""
        return tuple(self._templates)

    def __repr__(self) -> str:
        settings, result = self.settings, self.result
        n_rows, length = len(result["rows"]), result["row_length"]
        return (
            f"ChatFormatView: template {settings['template']!r}, loss on {settings['mask']}; "
            f"{result['n_targets']:,} of {result['n_tokens']:,} tokens are targets; "
            f"{n_rows} row{'s' * (n_rows != 1)} of {length}, {result['padding']:.0%} padding"
        )

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        picture = chat_picture(self.settings, self.result)
        return data | {"image/png": b64encode(picture).decode("ascii")}, metadata

    def _compute(self, settings: dict) -> dict:
        _check(settings, self.templates)
        chats, chosen = settings["chats"], settings["chat"]
        tokenizer = with_template(self._tokenizer, self._templates[settings["template"]])
        longest = min(settings["row_length"], MAX_TOKENS) if settings["packed"] else MAX_TOKENS
        examples: dict[int, Example] = {}
        problems = [""] * len(chats)
        for number, chat in enumerate(chats):
            try:
                examples[number] = example_of(tokenizer, chat, settings["mask"])
            except ValueError as error:
                problems[number] = str(error)
        tokens = self._tokens(tokenizer, chats[chosen], examples.get(chosen))
        for number, length in [(number, len(example.ids)) for number, example in examples.items()]:
            if length > longest:
                problems[number] = _too_long(length, settings)
                del examples[number]
        packed, numbers = _rows(examples, settings)
        return {
            "templates": list(self.templates),
            "problems": problems,  # why each chat is left out of the rows; "" if it is not
            "tokens": tokens,  # of the chosen chat
            "stray": self._stray(settings["template"]),
            "ends": list(tokenizer.end_tokens),
            "row_length": packed.ids.shape[1],
            "rows": [_segments(packed, numbers, row) for row in range(len(packed.ids))],
            "row": self._row(packed, numbers, settings),
            "n_tokens": int((packed.documents >= 0).sum()),
            "n_targets": int((packed.targets != IGNORED).sum()),
            "padding": float((packed.documents < 0).float().mean()) if len(packed.ids) else 0.0,
        }

    def _tokens(self, tokenizer: Tokenizer, chat: Chat, example: Example | None) -> list[dict]:
        """Return the tokens of `chat`: who said each, and whether it is a target; none if the template refuses the chat."""
        try:
            ids = tokenizer.encode(write_chat(tokenizer, chat))
            spans = [said(tokenizer, chat, turn) for turn in range(len(chat))]
        except ValueError:
            return []
        trained = example.trained if example else (False,) * len(ids)
        who = ["template"] * len(ids)
        for message, (start, end) in zip(chat, spans, strict=True):
            who[start:end] = [message["role"]] * (end - start)
        special = frozenset(tokenizer.special_tokens.values())
        return [
            token_of(tokenizer, index)
            | {
                "who": who[position],
                "special": index in special,
                "ends": index in tokenizer.end_ids,
                "target": trained[position] and position > 0,  # before the first is nothing from which to predict it
            }
            for position, index in enumerate(ids[:MAX_TOKENS])
        ]

    def _stray(self, template: str) -> dict[str, int]:
        """Return the markers of a template that are no special tokens here, and of how many ordinary ones each is made."""
        markers = FORMATS[template].markers if template in FORMATS else ()
        return {
            marker: len(self._tokenizer.encode(marker))
            for marker in markers
            if marker not in self._tokenizer.special_tokens
        }

    def _row(self, packed: Packed, numbers: list[int], settings: dict) -> dict | None:
        """Return the row that the chosen chat is in: its tokens, and which of them see which; None if it is in none."""
        if settings["chat"] not in numbers:
            return None
        number = numbers.index(settings["chat"])
        row = int((packed.documents == number).any(dim=1).nonzero()[0])
        documents = packed.documents[row : row + 1]
        own = same_document(documents)[0, 0].tril()
        seen = torch.ones_like(own).tril()
        length = documents.shape[1]
        is_token = documents[0] >= 0
        return {
            "number": row,
            "tokens": [token_of(self._tokenizer, index) for index in packed.ids[row][is_token].tolist()],
            "chats": [numbers[document] if document >= 0 else None for document in documents[0].tolist()],
            "places": (places(documents)[0] if settings["isolated"] else torch.arange(length)).tolist(),
            "own": own.to(torch.uint8).numpy().tobytes(),  # (query, key)
            "n_seen": int(seen[is_token].sum()),
            "n_others": int((seen & ~own)[is_token].sum()),
        }


def _check(settings: dict, templates: tuple[str, ...]) -> None:
    chats = settings["chats"]
    if not isinstance(chats, list | tuple) or not 1 <= len(chats) <= MAX_CHATS:
        raise ValueError(f"chats must be a list of 1 to {MAX_CHATS} chats")
    for number, chat in enumerate(chats):
        if not isinstance(chat, list | tuple) or not chat or not all(map(_is_message, chat)):
            raise ValueError(
                f"chats[{number}] must be a list of messages, each a dict of two strings, 'role' and 'content'"
            )
    check("chat", settings["chat"], int, 0, len(chats) - 1)
    check("template", settings["template"], Literal[templates])
    check("mask", settings["mask"], Literal[MASKS])
    check("packed", settings["packed"], bool)
    check("isolated", settings["isolated"], bool)
    check("row_length", settings["row_length"], int, 8, MAX_TOKENS)


def _is_message(message: object) -> bool:
    return (
        isinstance(message, dict)
        and set(message) == {"role", "content"}
        and all(isinstance(text, str) for text in message.values())
    )


def _too_long(length: int, settings: dict) -> str:
    if settings["packed"]:
        row = f"a row of {settings['row_length']}"
        return f"it has {length} tokens and does not fit into {row}; shorten it, or take longer rows"
    return f"it has {length} tokens and {MAX_TOKENS} can be shown; shorten it"


def _rows(examples: dict[int, Example], settings: dict) -> tuple[Packed, list[int]]:
    """Return the examples in rows, and of each document in the rows the number of its chat."""
    numbers, kept = list(examples), list(examples.values())
    ids, trained = [example.ids for example in kept], [example.trained for example in kept]
    if settings["packed"] or not kept:
        return pack(ids, settings["row_length"], trained=trained), numbers
    longest = max(map(len, ids))
    alone = [pack([some], longest, trained=[marks]) for some, marks in zip(ids, trained, strict=True)]
    documents = [row.documents.where(row.documents < 0, number) for number, row in enumerate(alone)]
    parts = ([row.ids for row in alone], [row.targets for row in alone], documents)
    return Packed(*map(torch.cat, parts)), numbers


def _segments(packed: Packed, numbers: list[int], row: int) -> list[dict]:
    """Return the chats of a row from left to right: where each begins and ends, and the runs of tokens that are targets."""
    documents = packed.documents[row].tolist()
    is_target = [False, *(packed.targets[row, :-1] != IGNORED).tolist()]  # a target stands one place further on
    segments = []
    for document, group in groupby(range(len(documents)), key=documents.__getitem__):
        if document < 0:
            continue
        run = list(group)
        runs = [list(part) for on, part in groupby(run, key=is_target.__getitem__) if on]
        targets = [[part[0], part[-1] + 1] for part in runs]
        segments.append({"chat": numbers[document], "start": run[0], "end": run[-1] + 1, "targets": targets})
    return segments
