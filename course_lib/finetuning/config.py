"""Which model is fine-tuned, on which chats, and how: the settings of a run, from a TOML file."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from course_lib.checks import check, check_names
from course_lib.finetuning.lora import LoraConfig
from course_lib.pretraining.config import PretrainingConfig, pretraining_config

__all__ = ["Run", "read_chats", "read_run"]

Chat = list[Mapping[str, str]]


@dataclass(frozen=True)
class Run:
    """All that `python -m course_lib.finetuning` needs to know."""

    source: str  # of the model, as `checkpoints.load` takes it
    lora: LoraConfig | None  # None: every weight is trained
    training: PretrainingConfig
    train: Path  # chats, as `read_chats` reads them
    validation: Path | None
    folder: Path  # where checkpoints, the log, and the adapter go


def read_run(path: Path) -> Run:
    """Read a run from the TOML file `path`; paths in it are taken from where the file lies.

        [model]
        source = "…"         # a name, a folder or a hub id, see `checkpoints.load`
        [lora]               # the fields of LoraConfig; left out, every weight is trained
        [training]           # the fields of PretrainingConfig; context_length is that of the rows that chats are packed into
        [data]
        train = "….jsonl"    # a chat a line: {"messages": [{"role": "user", "content": "…"}, …]}
        validation = "…"     # another one, or left out
        [output]
        folder = "…"

    Raises ValueError for a table or a field that is unknown, missing or of the wrong type, and names it.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        check_names("tables", tables, ("model", "lora", "training", "data", "output"))
        known = {"model": ("source",), "data": ("train", "validation"), "output": ("folder",)}
        for table, names in known.items():
            given = tables.get(table, {})
            check_names(f"fields of [{table}]", given, names)
            if names[0] not in given:
                raise ValueError(f"[{table}] lacks {names[0]}")
        source, folder = tables["model"]["source"], tables["output"]["folder"]
        train, validation = (tables["data"].get(name) for name in known["data"])
        for name, place in {"source": source, "folder": folder, "train": train}.items():
            check(name, place, str)
        check("validation", validation, str | None)
        return Run(
            str(path.parent / source) if (path.parent / source).is_dir() else source,
            _lora(tables["lora"]) if "lora" in tables else None,
            pretraining_config(tables.get("training", {})),
            path.parent / train,
            None if validation is None else path.parent / validation,
            path.parent / folder,
        )
    except ValueError as error:  # of TOML itself too
        raise ValueError(f"{path}: {error}") from None


def _lora(values: dict) -> LoraConfig:
    check_names("fields of [lora]", values, [field.name for field in fields(LoraConfig)])
    return LoraConfig(**values | ({"targets": tuple(values["targets"])} if "targets" in values else {}))


def read_chats(path: Path) -> Iterator[Chat]:
    """Yield the messages of each line of a `.jsonl` file, {"messages": [{"role": …, "content": …}, …]}; empty lines are none.

    It is the form that `trl` and the makers of instruction data use. Raises ValueError that names the file and the line.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                chat = json.loads(line)["messages"]
                if not all(isinstance(message[name], str) for message in chat for name in ("role", "content")):
                    raise TypeError("a role or content is no text")
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f'{path}, line {number}: {error}; wanted {{"messages": [{{"role": "user", "content": "…"}}, …]}}'
                ) from None
            yield chat
