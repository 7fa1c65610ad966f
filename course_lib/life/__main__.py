"""The command line of a model's whole life: `python -m course_lib.life --out report`.

What it makes is kept in the cache. Stopped anywhere, or killed, it goes on when it is called again.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from course_lib.life.report import check_writable, write_report
from course_lib.life.stages import STAGES, Stage, live
from course_lib.storage import AssetError


def main() -> None:
    """Train a model from the first token to what people prefer, and write a report card of it."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.life", description=main.__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("artifacts/life"), help="folder of the report (artifacts/life)"
    )
    out = parser.parse_args().out
    try:
        check_writable(out)  # before the minutes that the stages take
        live([*STAGES, Stage("report", partial(write_report, out))], sys.stdout)
    except KeyboardInterrupt:
        sys.exit("\nStopped; the same command goes on from here")
    except (AssetError, OSError, ValueError, RuntimeError, FloatingPointError) as error:
        sys.exit(f"\n{error}")


if __name__ == "__main__":
    main()
