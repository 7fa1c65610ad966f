"""A text that a tiny model learns something from in a few steps, as token shards."""

import random
from pathlib import Path

from course_lib.corpora import TokenShards, write_shards
from course_lib.tokenization import train_bpe

NAMES, VERBS, THINGS = ("Tom", "Ann", "Eve"), ("sees", "takes", "likes"), ("the cat", "a red ball", "the sea")


def write_small_corpus(folder: Path, n_texts: int = 60, seed: int = 0) -> TokenShards:
    """Write `n_texts` short texts into `folder`: some 40 sentences each, 266 tokens in the vocabulary."""
    draw = random.Random(seed).choice
    texts = [" ".join(f"{draw(NAMES)} {draw(VERBS)} {draw(THINGS)}." for _ in range(40)) for _ in range(n_texts)]
    return write_shards(texts, train_bpe(texts, 266), folder)
