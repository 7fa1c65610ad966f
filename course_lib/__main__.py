"""Prepare everything that the course needs from the network: `python -m course_lib`.

Every asset is fetched and every model converted, unless the cache already holds it whole; damage is found and mended. A
copy of the folder named at the end needs no network and may be read-only: set COURSE_CACHE to it.
"""

import sys
from itertools import product

from course_lib.assets import ASSETS, fetch
from course_lib.checkpoints import MODELS, convert
from course_lib.devices import lanes
from course_lib.storage import AssetError, cache_dir


def main() -> None:
    """Print a line for each asset (its name, size in MB, licence and place), for each model, and for the cache folder."""
    try:
        for asset in ASSETS.values():
            print(f"{asset.name}: {asset.size / 1e6:.1f} MB, {asset.licence}, {fetch(asset.name)}")
        for name, n_lanes in product(MODELS, sorted({0, lanes()})):
            print(f"{name}: converted, {convert(name, n_lanes=n_lanes)}")
    except AssetError as error:
        sys.exit(f"{error}")
    print(f"Everything lies in {cache_dir()}")


if __name__ == "__main__":
    main()
