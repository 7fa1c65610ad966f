"""A cache as a learner has it at first: the assets, and nothing that the course makes itself."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from course_lib import storage

__all__ = ["without_runs"]


@contextmanager
def without_runs() -> Iterator[None]:
    """Within the block, the course uses a folder that holds what the cache does, but for what a lesson makes."""
    with tempfile.TemporaryDirectory() as folder:
        for entry in storage.cache_dir().glob("[!.]*"):  # without locks, which may be no links
            if not entry.name.startswith(("shakespeare-model-", "spelling-")):
                Path(folder, entry.name).symlink_to(entry)
        before = os.environ.get("COURSE_CACHE")
        os.environ["COURSE_CACHE"] = folder
        try:
            yield
        finally:
            del os.environ["COURSE_CACHE"]
            if before is not None:
                os.environ["COURSE_CACHE"] = before
