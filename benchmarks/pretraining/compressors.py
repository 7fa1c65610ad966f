"""What counting makes of the lesson's text: compressors that have read it, in bits per byte on the plays that it holds out.

A compressor that codes each byte with the shortest code that its own prediction allows is a language model: the bits that it
writes are its loss. PPMd (Shkarin's variant of Cleary and Witten 1984) counts which byte followed each of the last `order`
bytes, and falls back on fewer where it has seen none. xz looks for the longest repetition.
"""

import lzma
import time
from statistics import fmean

import pyppmd

from course_lib.corpora import shakespeare

_MEMORY = 1 << 28  # bytes, more than the tree of the text needs at any order
_PIECE, _N_PIECES = 2000, 30  # bytes, and how many of them are taken, evenly apart


def ppmd(order: int) -> tuple[float, float]:
    """Return the seconds in which PPMd reads the training text, and its bits per byte on each play, read straight after it."""
    train, plays = _texts()
    start = time.perf_counter()
    _after(train, order)
    seconds = time.perf_counter() - start
    n_bits = sum(8 * _n_bytes(_after(train, order), play) for play in plays)
    return seconds, n_bits / sum(map(len, plays))


def ppmd_cold(order: int) -> float:
    """Return PPMd's bits per byte on short pieces, each straight after the training text: it cannot learn from the play."""
    train, plays = _texts()
    text = b"\n\n".join(plays)
    starts = range(0, len(text) - _PIECE, len(text) // _N_PIECES)
    return fmean(8 * _n_bytes(_after(train, order), text[start : start + _PIECE]) / _PIECE for start in starts)


def xz() -> tuple[float, float]:
    """Return the seconds in which xz reads the training text, and its bits per byte on each play behind it."""
    train, plays = _texts()
    start = time.perf_counter()
    alone = len(_compressed(train))
    seconds = time.perf_counter() - start
    n_bytes = sum(len(_compressed(train + play)) - alone for play in plays)
    return seconds, 8 * n_bytes / sum(map(len, plays))


def _texts() -> tuple[bytes, list[bytes]]:
    train, test = shakespeare.split()
    return "\n\n".join(work.text for work in train).encode(), [work.text.encode() for work in test]


def _after(text: bytes, order: int) -> pyppmd.Ppmd7Encoder:
    encoder = pyppmd.Ppmd7Encoder(order, _MEMORY)
    encoder.encode(text)
    return encoder


def _n_bytes(encoder: pyppmd.Ppmd7Encoder, text: bytes) -> int:
    return len(encoder.encode(text))  # the few bytes that it holds back are as many before the text as behind it


def _compressed(text: bytes) -> bytes:
    return lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
