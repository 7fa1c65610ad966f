"""What is to be trained, on what, and how: the settings of a pretraining run, from Python or from a TOML file."""

import math
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from course_lib.architecture import TransformerConfig
from course_lib.architecture.attention import RopeScaling
from course_lib.checks import check_fields, check_names

__all__ = ["PretrainingConfig", "Run", "pretraining_config", "read_run", "transformer_config"]


@dataclass(frozen=True)
class PretrainingConfig:
    """How a model is trained. The result depends on these numbers, and not on how many processes share the work."""

    n_steps: int  # steps of the optimizers
    batch_size: int  # sequences a step, over all processes and micro-batches
    context_length: int | None = None  # tokens a sequence; None: as many as the model can read
    accumulation: int = 1  # micro-batches that a process cuts its part of the batch into, to need less memory
    learning_rate: float = 3e-3  # of AdamW, at its highest
    muon_learning_rate: float | None = 0.02  # of Muon, for the matrices of the blocks; None: AdamW trains them too
    schedule: Literal["warmup_stable_decay", "cosine"] = "warmup_stable_decay"
    warmup: int = 0  # steps in which the learning rate rises from 0
    decay: float = 0.4  # the share of all steps in which warmup_stable_decay falls to 0
    weight_decay: float = 0.1
    clip: float | None = 1.0  # the longest that the gradient may be; None: as long as it is
    seed: int = 0  # of the order of the data, and of dropout
    dtype: Literal[None, "float32", "bfloat16"] = None  # of matrix products; None: devices.pick_dtype. Weights: float32
    compile: str | None = None  # a backend of torch.compile, such as "inductor"
    parallel: Literal["ddp", "fsdp"] = "ddp"  # how several processes share the model, see processes.spread
    evaluate_every: int | None = None  # steps; the last one is always evaluated, if there is something to evaluate on
    checkpoint_every: int | None = None  # steps; the first and the last state are always saved, if there is a folder

    def __post_init__(self):
        zero = (0, math.inf)
        check_fields(self, warmup=(0, self.n_steps), decay=(0, 1), weight_decay=zero, seed=zero)
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be cut into accumulation = {self.accumulation} equal micro-batches"
            )


@dataclass(frozen=True)
class Run:
    """All that `python -m course_lib.pretraining` needs to know."""

    model: TransformerConfig
    training: PretrainingConfig
    train: Path  # folders of token shards, as data.write_shards makes them
    validation: Path | None
    folder: Path | None  # where checkpoints and the log go


def read_run(path: Path) -> Run:
    """Read a run from the TOML file `path`; paths in it are taken from where the file lies.

        [model]              # the fields of TransformerConfig
        [training]           # the fields of PretrainingConfig
        [data]
        train = "…"          # a folder of token shards
        validation = "…"     # another one, or left out
        [checkpoints]
        folder = "…"         # or left out: then nothing is saved

    Raises ValueError for a table or a field that is unknown, missing or of the wrong type, and names it.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        check_names("tables", tables, ("model", "training", "data", "checkpoints"))
        data, saved = tables.get("data", {}), tables.get("checkpoints", {})
        check_names("fields of [data]", data, ("train", "validation"))
        check_names("fields of [checkpoints]", saved, ("folder",))
        if "train" not in data:
            raise ValueError("[data] lacks train, the folder of token shards to train on")
        paths = (data["train"], data.get("validation"), saved.get("folder"))
        return Run(
            transformer_config(tables.get("model", {})),
            pretraining_config(tables.get("training", {})),
            *(None if place is None else path.parent / place for place in paths),
        )
    except ValueError as error:  # of TOML itself too
        raise ValueError(f"{path}: {error}") from None


def transformer_config(values: dict[str, Any]) -> TransformerConfig:
    """Return the config with the fields `values`, as TOML, JSON or `dataclasses.asdict` give them."""
    check_names("fields of a model", values, [field.name for field in fields(TransformerConfig)])
    scaling = values.get("rope_scaling")
    try:
        return TransformerConfig(**values | {"rope_scaling": scaling and RopeScaling(**scaling)})
    except TypeError as error:  # of a field that is missing, or a wrong type
        raise ValueError(f"the model's config: {str(error).partition('__init__() ')[2] or error}") from None


def pretraining_config(values: dict[str, Any]) -> PretrainingConfig:
    """Return the config with the fields `values` of the table [training]."""
    check_names("fields of [training]", values, [field.name for field in fields(PretrainingConfig)])
    if missing := sorted({"n_steps", "batch_size"} - values.keys()):
        raise ValueError(f"[training] lacks {' and '.join(missing)}")
    return PretrainingConfig(**values)
