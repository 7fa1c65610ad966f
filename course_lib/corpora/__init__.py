"""Where training text comes from, and what is done to it: lessons 04 and 05.

Read in this order:

- `shakespeare`: the course's own corpus, and what is held out of it
- `readers`: texts from files and from the hub
- `quality`, `duplicates`: which of them are fit to learn from, and which are there twice
- `shards`: token files on disk, and the batches that training draws from them
- `packing`: several short documents in a row
"""

from course_lib.corpora.duplicates import near_duplicates
from course_lib.corpora.quality import quality_failures
from course_lib.corpora.shards import Batches, TokenArray, TokenShards, write_shards

__all__ = ["Batches", "TokenArray", "TokenShards", "near_duplicates", "quality_failures", "write_shards"]
