"""The command line of fine-tuning: `python -m course_lib.finetuning --config run.toml`, under torchrun or not."""

import argparse
import json
from pathlib import Path

import torch

from course_lib import checkpoints
from course_lib.devices import seed_everything
from course_lib.finetuning.chats import tokenize_chat
from course_lib.finetuning.config import read_chats, read_run
from course_lib.finetuning.lora import add_lora, save_adapter
from course_lib.finetuning.supervised import PackedExamples, answer_loss
from course_lib.pretraining import Trainer, processes


def main() -> None:
    """Fine-tune what the file given by --config describes; process 0 prints a report of each step as a line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.finetuning", description=main.__doc__)
    parser.add_argument("--config", type=Path, required=True, help="a TOML file, see course_lib/finetuning/config.py")
    try:
        run = read_run(parser.parse_args().config)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    with processes.process_group() as device:
        model, tokenizer = checkpoints.load(run.source, device, torch.float32)
        seed_everything(run.training.seed)
        model.requires_grad_(True)
        if run.lora is not None:
            add_lora(model, run.lora)
        length = run.training.context_length or model.config.context_length

        def rows(path: Path) -> PackedExamples:
            examples = [tokenize_chat(tokenizer, chat) for chat in read_chats(path)]
            return PackedExamples(examples, length, model.config.vocab_size)

        validation = None if run.validation is None else rows(run.validation)
        for report in Trainer(model, rows(run.train), validation, run.training, run.folder, loss=answer_loss):
            if processes.rank() == 0:
                print(json.dumps(vars(report)), flush=True)
        if run.lora is not None:
            save_adapter(model, run.folder / "adapter")


if __name__ == "__main__":
    main()
