"""Processes that begin with the library imported: a server that has done so forks them, and they start at once."""

import multiprocessing

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    ["course_lib.life.report", "torch.distributed.fsdp"]
)  # the first imports nearly all rooms
