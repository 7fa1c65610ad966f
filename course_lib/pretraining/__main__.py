"""The command line of pretraining: `python -m course_lib.pretraining --config run.toml`, under torchrun or not."""

import argparse
import json
from pathlib import Path

from course_lib.architecture import TransformerLM
from course_lib.corpora import TokenShards
from course_lib.devices import seed_everything
from course_lib.pretraining import processes
from course_lib.pretraining.config import read_run
from course_lib.pretraining.trainer import Trainer


def main() -> None:
    """Train what the file given by --config describes; process 0 prints a report of each step as a line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.pretraining", description=main.__doc__)
    parser.add_argument("--config", type=Path, required=True, help="a TOML file, see course_lib/pretraining/config.py")
    try:
        run = read_run(parser.parse_args().config)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    with processes.process_group() as device:
        seed_everything(run.training.seed)
        model = TransformerLM(run.model)
        if processes.world_size() == 1:
            model.to(device)
        validation = None if run.validation is None else TokenShards(run.validation)
        for report in Trainer(model, TokenShards(run.train), validation, run.training, run.folder):
            if processes.rank() == 0:
                print(json.dumps(vars(report)), flush=True)


if __name__ == "__main__":
    main()
