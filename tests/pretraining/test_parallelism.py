"""The timelines against cases computed by hand, published formulas, and what holds for every schedule."""

from itertools import pairwise

import numpy as np
import pytest

from course_lib.pretraining.parallelism import (
    SCHEMES,
    Job,
    Link,
    data_parallel,
    expert_parallel,
    pipeline_parallel,
    ring_all_reduce,
    tensor_parallel,
)

JOB = Job(n_layers=4, forward=4.0, backward=8.0, gradient_bytes=400.0, activation_bytes=80.0)
SLOW, FREE = Link(100.0, 0.0), Link(float("inf"), 0.0)
OPTIONS = {"expert": {"imbalance": 1.5}}
ALL = pytest.mark.parametrize(("scheme", "options"), [(name, OPTIONS.get(name, {})) for name in SCHEMES])


# ---------------------------------------------------------------- what holds for every scheme


@ALL
@pytest.mark.parametrize("link", [SLOW, FREE])
def test_no_device_does_two_things_at_once_and_all_work_is_done(scheme, options, link):
    timeline = SCHEMES[scheme].play(JOB, 4, link, **options)
    for device in range(4):
        for lane in ("compute", "link"):
            spans = [span for span in timeline.spans if (span.device, span.lane) == (device, lane)]
            assert all(first.end <= then.start + 1e-9 for first, then in pairwise(spans))
    for kind, seconds in (("forward", JOB.forward), ("backward", JOB.backward)):
        assert sum(span.seconds for span in timeline.spans if span.kind == kind) == pytest.approx(seconds)


@ALL
def test_computing_and_idling_fill_every_device_to_the_end(scheme, options):
    timeline = SCHEMES[scheme].play(JOB, 4, SLOW, **options)
    computed = sum(span.seconds for span in timeline.spans if span.lane == "compute")
    idle = sum(span.seconds for span in timeline.idle)
    assert computed + idle == pytest.approx(4 * timeline.seconds)
    assert timeline.efficiency == pytest.approx(computed / (computed + idle))


@ALL
def test_one_device_takes_what_the_job_takes(scheme, options):
    timeline = SCHEMES[scheme].play(JOB, 1, SLOW, **options | ({"imbalance": 1.0} if scheme == "expert" else {}))
    assert timeline.seconds == pytest.approx(JOB.seconds)
    assert timeline.sent == 0 and not timeline.idle


@ALL
def test_twice_the_devices_is_not_half_the_time(scheme, options):
    two, four = (SCHEMES[scheme].play(JOB, n, SLOW, **options) for n in (2, 4))
    assert four.seconds > two.seconds / 2
    assert four.efficiency < two.efficiency < 1


@ALL
def test_a_faster_link_never_makes_it_slower(scheme, options):
    times = [
        SCHEMES[scheme].play(JOB, 4, Link(speed, 0.0), **options).seconds for speed in (10, 100, 1000, float("inf"))
    ]
    assert times == sorted(times, reverse=True)


# ---------------------------------------------------------------- sums over devices


def test_a_ring_played_out_sends_what_the_formula_says_and_gives_all_the_sum():
    n, pieces = 4, 4
    data = np.random.default_rng(0).integers(0, 100, (n, pieces)).astype(float)
    held, sent = data.copy(), 0
    for step in range(2 * (n - 1)):  # in each step every device sends one piece of n to its right
        moving = [(device, (device - step) % n, held[device, (device - step) % n]) for device in range(n)]
        for device, piece, value in moving:
            right = (device + 1) % n
            held[right, piece] = held[right, piece] + value if step < n - 1 else value
        sent += 1
    assert (held == data.sum(0)).all()
    assert ring_all_reduce(pieces, n, Link(2.0, 0.5)) == (sent, sent / 2 + 6 * 0.5)
    assert ring_all_reduce(100.0, 1, SLOW) == (0, 0)


# ---------------------------------------------------------------- data parallel


def test_gradients_sent_at_the_end_come_on_top_and_sent_at_once_hide_behind_the_backward_pass():
    # Two devices: forward 4/2, backward 8/2 = 4 layers of 1 s; an all-reduce of a layer is 2 · 1/2 · 100 bytes at 100 a second.
    after = data_parallel(JOB, 2, SLOW, overlap=False)
    assert after.seconds == pytest.approx(2 + 4 + 4)
    hidden = data_parallel(JOB, 2, SLOW)
    assert hidden.seconds == pytest.approx(2 + 4 + 1)  # but for that of the last layer
    assert hidden.sent == after.sent == 400
    for layer in range(4):
        of_layer = {span.kind: span for span in hidden.spans if (span.device, span.part) == (0, layer)}
        assert of_layer["all-reduce"].start >= of_layer["backward"].end


# ---------------------------------------------------------------- tensor parallel


def test_tensor_parallelism_waits_four_times_a_layer():
    timeline = tensor_parallel(JOB, 2, SLOW)
    a_sum = 80 / 100  # 2 · 1/2 · 80 bytes
    assert timeline.seconds == pytest.approx(12 / 2 + 4 * 4 * a_sum)
    assert timeline.sent == pytest.approx(16 * 80)
    assert sum(span.seconds for span in timeline.idle) == pytest.approx(2 * 16 * a_sum)


# ---------------------------------------------------------------- pipelines


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("devices", "microbatches"), [(2, 2), (4, 1), (4, 4), (4, 8), (3, 7), (8, 32)])
def test_the_bubble_is_that_of_the_papers(schedule, devices, microbatches):
    timeline = pipeline_parallel(JOB, devices, FREE, n_microbatches=microbatches, schedule=schedule)
    assert 1 - timeline.efficiency == pytest.approx((devices - 1) / (microbatches + devices - 1))


@pytest.mark.parametrize(("devices", "microbatches"), [(2, 2), (4, 4), (4, 8), (8, 32)])
def test_interleaving_halves_the_bubble(devices, microbatches):
    """arXiv 2104.04473, section 2.2: the bubble in units of the time computed is (p − 1) / (v m), here with v = 2."""
    timeline = pipeline_parallel(JOB, devices, FREE, n_microbatches=microbatches, schedule="interleaved")
    computed = JOB.seconds / devices
    assert (timeline.seconds - computed) / computed == pytest.approx((devices - 1) / (2 * microbatches))


def test_1f1b_is_as_fast_as_gpipe_and_holds_less():
    gpipe, one = (pipeline_parallel(JOB, 4, FREE, n_microbatches=16, schedule=name) for name in ("gpipe", "1f1b"))
    assert gpipe.seconds == pytest.approx(one.seconds)
    assert (gpipe.in_flight, one.in_flight) == (16, 4)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved"])
def test_a_micro_batch_passes_through_the_stages_in_order(schedule):
    timeline = pipeline_parallel(JOB, 4, SLOW, n_microbatches=8, schedule=schedule)
    stages = 8 if schedule == "interleaved" else 4
    for part in range(8):
        passes = [span for span in timeline.spans if span.part == part and span.lane == "compute"]
        passes.sort(key=lambda span: span.start)
        assert [span.kind for span in passes] == ["forward"] * stages + ["backward"] * stages
        order = [device for _ in range(stages // 4) for device in range(4)]
        assert [span.device for span in passes] == order + order[::-1]
        for first, then in pairwise(passes):
            transfer = 10 / 100 if first.device != then.device else 0
            assert then.start >= first.end + transfer - 1e-9


def test_two_stages_and_two_micro_batches_by_hand():
    # A stage's forward is 4/4 = 1 s and backward 2 s; a transfer of 40 bytes 0.4 s. The second device turns each one back.
    timeline = pipeline_parallel(JOB, 2, SLOW, n_microbatches=2)
    second = [
        (span.kind, round(span.start, 9)) for span in timeline.spans if (span.device, span.lane) == (1, "compute")
    ]
    assert second == [("forward", 1.4), ("backward", 2.4), ("forward", 4.4), ("backward", 5.4)]
    assert timeline.seconds == pytest.approx(7.4 + 0.4 + 2)
    assert timeline.sent == 80  # two micro-batches of 40 bytes


def test_interleaving_needs_whole_groups():
    with pytest.raises(ValueError, match="6 micro-batches: interleaving needs a multiple of the 4 devices"):
        pipeline_parallel(JOB, 4, FREE, n_microbatches=6, schedule="interleaved")
    with pytest.raises(ValueError, match="schedule must be one of"):
        pipeline_parallel(JOB, 4, FREE, schedule="zigzag")


# ---------------------------------------------------------------- experts


def test_all_wait_for_the_busiest_expert():
    even, uneven = (expert_parallel(JOB, 4, FREE, imbalance=imbalance) for imbalance in (1.0, 1.5))
    assert even.efficiency == pytest.approx(1)
    assert uneven.seconds == pytest.approx(
        even.seconds * (1 / 3 + 2 / 3 * 1.5)
    )  # two thirds of the work are the experts'


def test_tokens_travel_twice_a_layer_each_way():
    timeline = expert_parallel(JOB, 4, Link(100.0, 0.0))
    exchange = 80 / 4 * 3 / 4
    summed, seconds = ring_all_reduce(400 / 3, 4, SLOW)
    assert timeline.sent == pytest.approx(4 * 4 * exchange + summed)
    assert timeline.seconds == pytest.approx(12 / 4 + 16 * exchange / 100 + seconds)
    with pytest.raises(ValueError, match="imbalance"):
        expert_parallel(JOB, 4, SLOW, imbalance=3)


# ---------------------------------------------------------------- a real size


def test_a_job_of_a_model_is_six_operations_a_parameter_and_token():
    job = Job.of_model(n_layers=8, d_model=8192, tokens=131_072, flops=1e15)
    parameters = 8 * 12 * 8192**2
    assert job.seconds == pytest.approx(6 * parameters * 131_072 / 1e15)
    assert job.gradient_bytes == 2 * parameters and job.activation_bytes == 2 * 131_072 * 8192
