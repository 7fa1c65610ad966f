"""Starting several processes on this machine, as torchrun does."""

import os
import subprocess
import sys


def torchrun(n_processes: int, *command: object) -> str:
    """Run a Python script or module in `n_processes` processes on this machine, and return what they print."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *map(str, command)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
