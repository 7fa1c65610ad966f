"""Several short documents in a row, so that little of a batch is padding, and none of them sees another."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.checks import check

__all__ = ["IGNORED", "SHARED", "Packed", "pack", "places", "same_document"]

IGNORED = -100
"""The target that `torch.nn.functional.cross_entropy` leaves out of the mean."""

SHARED = -2
"""The number of a beginning that all documents of a row have in common, and that stands in it once."""


@dataclass(frozen=True)
class Packed:
    """Several documents a row: `ids`, `targets` and `documents`, all int64 (row, context_length).

    A target is IGNORED where no token of the same piece follows, or one that is not trained on. `documents` has the number
    of each token's piece, counted over all documents in their order; padding is −1.
    """

    ids: Tensor
    targets: Tensor
    documents: Tensor


def same_document(documents: Tensor) -> Tensor:
    """Return the mask (row, 1, query, key) under which pieces of a row do not see each other. True = may attend.

    `documents` is (row, context_length), as in `Packed`. All see what is SHARED. Padding sees padding, so that no row of a
    softmax is empty.
    """
    queries, keys = documents[:, None, :, None], documents[:, None, None, :]
    return (queries == keys) | (keys == SHARED)


def places(documents: Tensor) -> Tensor:
    """Return where in its own piece each token stands, from 0: int64 (row, context_length), as `documents` are.

    What is SHARED stands at the head of a row, and belongs to every piece.
    """
    here = torch.arange(documents.shape[-1], device=documents.device).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    shared = documents == SHARED
    return here - (here * begins).cummax(dim=-1).values + shared.sum(dim=-1, keepdim=True) * ~shared


def pack(
    documents: Sequence[Sequence[int]],
    context_length: int,
    pad_id: int = 0,
    trained: Sequence[Sequence[bool]] | None = None,
) -> Packed:
    """Put documents (token ids) of any length side by side into rows of `context_length`, with as little padding as may be.

    One that is longer is first cut into pieces of `context_length` and a rest. Then, the longest first, each piece goes to the
    row in which it leaves the least room: best-fit decreasing (arXiv 2404.10830). Empty documents are left out.

    `trained` says for each token of each document whether it shall be a target; None: every one. ValueError if they do not fit.
    """
    check("context_length", context_length)
    check("pad_id", pad_id, int, 0)
    tokens = [torch.as_tensor(document, dtype=torch.long) for document in documents]
    marks = [torch.ones_like(ids) for ids in tokens] if trained is None else [torch.as_tensor(mark) for mark in trained]
    if [len(ids) for ids in tokens] != [len(mark) for mark in marks]:
        raise ValueError("trained must have as many marks for each document as it has tokens")
    targets_of = [ids.where(mark.bool(), IGNORED) for ids, mark in zip(tokens, marks, strict=True)]
    pieces = [
        (ids[start : start + context_length], wanted[start : start + context_length])
        for ids, wanted in zip(tokens, targets_of, strict=True)
        for start in range(0, len(ids), context_length)
    ]
    rows: list[list[int]] = []  # the numbers of the pieces in each
    with_room: list[list[int]] = [[] for _ in range(context_length + 1)]  # of each room left, the rows that have it
    lengths = [len(ids) for ids, _ in pieces]
    for piece in sorted(range(len(pieces)), key=lengths.__getitem__, reverse=True):
        room = next((room for room in range(lengths[piece], context_length + 1) if with_room[room]), None)
        if room is None:
            room, row = context_length, len(rows)
            rows.append([])
        else:
            row = with_room[room].pop()
        rows[row].append(piece)
        with_room[room - lengths[piece]].append(row)
    shape = (len(rows), context_length)
    ids = torch.full(shape, pad_id)
    targets, documents_of = torch.full(shape, IGNORED), torch.full(shape, -1)
    for row, parts in enumerate(rows):
        end = 0
        for number in parts:
            part, wanted = pieces[number]
            start, end = end, end + len(part)
            ids[row, start:end] = part
            targets[row, start : end - 1] = wanted[1:]
            documents_of[row, start:end] = number
    return Packed(ids, targets, documents_of)
