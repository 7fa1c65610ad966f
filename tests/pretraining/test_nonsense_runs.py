"""Settings drawn at random, sensible and not: each is used, or refused by an error that names it."""

import math
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.pretraining import PretrainingConfig
from course_lib.pretraining.optim import cosine, warmup_stable_decay
from course_lib.pretraining.parallelism import SCHEMES, Job, Link
from course_lib.pretraining.scaling import Run, plan

NONSENSE = st.sampled_from(
    [math.nan, math.inf, -math.inf, -1, -0.5, 0, 0.5, 10**30, 10**400, 5e-324, "", "3", None, True, [], b"x"]
)


def changed(values: st.SearchStrategy[dict]) -> st.SearchStrategy[dict]:
    """Sensible settings, of which one or two are something else."""
    return values.flatmap(
        lambda sensible: st.dictionaries(st.sampled_from(sorted(sensible)), NONSENSE, max_size=2).map(
            lambda nonsense: sensible | nonsense
        )
    )


def made(kind: type, values: dict):
    """Return a `kind` with these fields, or None if it refuses one of them by its name."""
    try:
        return kind(**values)
    except ValueError as error:
        assert any(field.name in str(error) for field in fields(kind)), error
        return None


COUNTS, AMOUNTS = st.integers(1, 64), st.floats(1e-6, 1e15)


@settings(max_examples=80)
@given(
    changed(
        st.fixed_dictionaries(
            {
                "n_steps": st.integers(1, 1000),
                "batch_size": st.sampled_from([8, 12]),
                "context_length": st.none() | COUNTS,
                "accumulation": st.sampled_from([1, 2, 4]),
                "learning_rate": st.floats(1e-6, 1),
                "muon_learning_rate": st.none() | st.floats(1e-6, 1),
                "schedule": st.sampled_from(["warmup_stable_decay", "cosine"]),
                "warmup": st.integers(0, 4),
                "decay": st.floats(0, 1),
                "weight_decay": st.floats(0, 1),
                "clip": st.none() | st.floats(0.1, 10),
                "seed": st.integers(0, 2**64),
                "dtype": st.sampled_from([None, "float32", "bfloat16"]),
                "compile": st.none() | st.just("inductor"),
                "parallel": st.sampled_from(["ddp", "fsdp"]),
                "evaluate_every": st.none() | COUNTS,
                "checkpoint_every": st.none() | COUNTS,
            }
        )
    )
)
def test_a_recipe_is_refused_by_name_or_has_a_schedule(values):
    recipe = made(PretrainingConfig, values)
    if recipe is None:
        return
    for name, value in vars(recipe).items():
        assert not isinstance(value, int | float) or 0 <= value < math.inf, name
    for step in (0, recipe.n_steps // 2, recipe.n_steps - 1):
        assert 0 <= cosine(step, recipe.n_steps, recipe.warmup) <= 1
        assert 0 < warmup_stable_decay(step, recipe.n_steps, recipe.warmup, recipe.decay) <= 1


@settings(max_examples=80)
@given(
    changed(
        st.fixed_dictionaries(
            {
                "parameters": st.floats(1e6, 1e13),
                "tokens": AMOUNTS,
                "active": st.none() | st.floats(1, 1e6),
                "expert_parameters": st.floats(0, 1e6),
                "gpu": st.sampled_from(["A100", "H200"]),
                "n_gpus": st.just(64),
                "tensor": st.sampled_from([1, 8]),
                "pipeline": st.sampled_from([1, 4]),
                "expert": st.sampled_from([1, 2]),
                "stage": st.integers(0, 3),
                "precision": st.sampled_from(["float32", "bfloat16", "float8"]),
                "recompute": st.sampled_from(["nothing", "attention", "layers"]),
                "context_length": COUNTS,
                "sequences": COUNTS,
                "n_layers": st.none() | COUNTS,
                "d_model": st.none() | COUNTS,
                "mfu": st.floats(0.01, 1),
                "price": st.floats(0, 100),
            }
        )
    )
)
def test_a_run_is_refused_by_name_or_planned(values):
    run = made(Run, values)
    if run is None:
        return
    planned = plan(run)
    numbers = [planned.flops, planned.gpu_hours, planned.days, planned.dollars, planned.megawatt_hours]
    assert all(0 <= number < math.inf for number in [*numbers, *planned.memory.values()])
    assert planned.gpu_hours == pytest.approx(planned.days * 24 * run.n_gpus)


@settings(max_examples=80)
@given(
    changed(
        st.fixed_dictionaries(
            {
                "n_layers": st.integers(1, 8),
                "forward": AMOUNTS,
                "backward": AMOUNTS,
                "gradient_bytes": AMOUNTS,
                "activation_bytes": AMOUNTS,
            }
        )
    ),
    changed(st.fixed_dictionaries({"speed": AMOUNTS, "latency": AMOUNTS})),
    st.sampled_from(sorted(SCHEMES)),
    st.integers(1, 6) | NONSENSE,
)
def test_a_job_is_refused_by_name_or_played_to_its_end(job_values, link_values, scheme, n_devices):
    job, link = made(Job, job_values), made(Link, link_values)
    if job is None or link is None:
        return
    try:
        timeline = SCHEMES[scheme].play(job, n_devices, link)
    except ValueError as error:
        assert "n_devices" in str(error) or "micro-batches: interleaving" in str(error)
        return
    assert job.seconds / n_devices * (1 - 1e-6) <= timeline.seconds < math.inf
    assert 0 < timeline.efficiency <= 1 + 1e-6
