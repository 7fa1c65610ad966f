"""One training step on many GPUs, as a timeline: who computes, who sends, who waits.

Each function plays one way of dividing the same job, and returns what every device does when. A device does one piece of
computation at a time and, beside it, one transfer at a time; whatever needs a result waits until it is there.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

from course_lib.checks import check, check_fields

__all__ = [
    "SCHEMES",
    "Job",
    "Link",
    "Scheme",
    "Span",
    "Timeline",
    "data_parallel",
    "expert_parallel",
    "pipeline_parallel",
    "ring_all_reduce",
    "tensor_parallel",
]

Lane = Literal["compute", "link"]
Schedule = Literal["gpipe", "1f1b", "interleaved"]
_LEAST, _MOST = 1e-30, 1e30  # seconds and bytes: nothing is beyond, and what is computed from such is finite
_MOST_PIECES = 20_000  # of computation in one timeline: more takes seconds, and nobody can see them
_ATTENTION = 1 / 3  # of a layer's weights and operations: 4 d² of 12 d²; the rest is the feed-forward network


@dataclass(frozen=True)
class Job:
    """One step as one device would make it: seconds forward and backward, and what may have to be sent, in bytes."""

    n_layers: int
    forward: float
    backward: float
    gradient_bytes: float  # of the whole model
    activation_bytes: float  # between two layers, for the whole batch

    def __post_init__(self):
        work, size = (_LEAST, _MOST), (0, _MOST)
        check_fields(self, forward=work, backward=work, gradient_bytes=size, activation_bytes=size)

    @classmethod
    def of_model(
        cls, n_layers: int = 8, d_model: int = 8192, tokens: int = 131_072, flops: float = 0.5 * 989e12
    ) -> "Job":
        """A Transformer of 12 d² weights a layer, in bfloat16, at `flops` a second (by default: half an H100's peak)."""
        weights = 12 * n_layers * d_model**2
        forward = 2 * weights * tokens / flops
        return cls(n_layers, forward, 2 * forward, 2 * weights, 2 * tokens * d_model)

    @property
    def seconds(self) -> float:
        """How long one device takes."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Link:
    """What joins the devices: bytes a second in each direction, and seconds until the first byte arrives."""

    speed: float
    latency: float = 5e-6

    def __post_init__(self):
        check("latency", self.latency, float, 0, _MOST)
        if self.speed != math.inf:  # and so costs nothing
            check("speed", self.speed, float, _LEAST, _MOST)

    def seconds(self, n_bytes: float, messages: int = 1) -> float:
        return n_bytes / self.speed + messages * self.latency


@dataclass(frozen=True)
class Span:
    """What `device` does from `start` to `end`, in seconds.

    Kinds are "forward" and "backward" in the lane "compute"; "all-reduce", "all-to-all" and "send" in the lane "link";
    and "idle": nothing to compute. `part` is the layer or the micro-batch, from 0.
    """

    device: int
    lane: Lane
    kind: str
    part: int
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Timeline:
    """One step of a job on `n_devices`. `sent` are bytes that the busiest device sends."""

    job: Job
    n_devices: int
    spans: tuple[Span, ...]
    sent: float

    @cached_property
    def seconds(self) -> float:
        """When the last device is done."""
        return max(span.end for span in self.spans)

    @property
    def speedup(self) -> float:
        """How many times faster than one device."""
        return self.job.seconds / self.seconds

    @property
    def efficiency(self) -> float:
        """The speed-up a device: 1 where every device computes all the time."""
        return self.speedup / self.n_devices

    @cached_property
    def idle(self) -> tuple[Span, ...]:
        """When a device computes nothing: the bubbles of a pipeline, and waiting for links or for others."""
        gaps = []
        for device, spans in enumerate(self._of_each_device()):
            busy = [span for span in spans if span.lane == "compute"]
            ends = [0.0, *(span.end for span in busy)]
            starts = [*(span.start for span in busy), self.seconds]
            gaps += [
                Span(device, "compute", "idle", 0, *gap) for gap in zip(ends, starts, strict=True) if gap[1] > gap[0]
            ]
        return tuple(gaps)

    @property
    def in_flight(self) -> int:
        """The most pieces whose activations one device holds at once: it has been through them forward, not yet back."""
        most = 0
        for spans in self._of_each_device():
            events = [(span.end, 1) for span in spans if span.kind == "forward"]
            events += [(span.end, -1) for span in spans if span.kind == "backward"]
            held = 0
            for _, change in sorted(events):
                held += change
                most = max(most, held)
        return most

    def _of_each_device(self) -> list[list[Span]]:
        spans = [[] for _ in range(self.n_devices)]
        for span in self.spans:
            spans[span.device].append(span)
        return spans


class _Board:
    """Devices and when each is free: every span is put at the earliest time that its device and its inputs allow."""

    def __init__(self, n_devices: int, n_pieces: int):
        check("n_devices", n_devices)
        if n_devices * n_pieces > _MOST_PIECES:
            pieces = f"n_devices {n_devices} × {n_pieces} pieces each, which are layers or n_microbatches,"
            raise ValueError(f"{pieces} are more than {_MOST_PIECES:,} to draw")
        self.n_devices = n_devices
        self.spans: list[Span] = []
        self._free: dict[tuple[int, Lane], float] = defaultdict(float)

    def run(self, device: int, lane: Lane, kind: str, part: int, seconds: float, after: float = 0.0) -> float:
        """Put a piece of work that may start `after` that time, and return its end."""
        start = max(after, self._free[device, lane])
        self._free[device, lane] = start + seconds
        if seconds > 0:
            self.spans.append(Span(device, lane, kind, part, start, start + seconds))
        return start + seconds

    def together(self, kind: str, part: int, seconds: float, after: Iterable[float]) -> float:
        """Put a transfer in which all devices take part: it starts when the last one is ready."""
        start = max(after)
        return max(self.run(device, "link", kind, part, seconds, start) for device in range(self.n_devices))

    def timeline(self, job: Job, sent: float) -> Timeline:
        spans = sorted(self.spans, key=lambda span: (span.device, span.lane, span.start))
        return Timeline(job, self.n_devices, tuple(spans), sent)


def ring_all_reduce(n_bytes: float, n_devices: int, link: Link) -> tuple[float, float]:
    """Return the bytes that each device sends so that all hold the sum of what each held, and the seconds that it takes.

    The data is cut into n pieces that travel round a ring: n − 1 steps to add up, n − 1 to hand out, one piece a step:
    2 (n − 1) / n of the data, hardly more for many devices than for few (Patarasuk and Yuan 2009; arXiv 1802.05799).
    """
    check("n_bytes", n_bytes, float, 0)
    check("n_devices", n_devices)
    steps = 2 * (n_devices - 1)
    sent = steps * n_bytes / n_devices
    return sent, link.seconds(sent, steps) if steps else 0.0


def data_parallel(job: Job, n_devices: int, link: Link, *, overlap: bool = True) -> Timeline:
    """Every device holds the whole model and takes 1/n of the batch; then the gradients are summed over all.

    With `overlap` a layer's gradients are sent as soon as they are there, while the layers below still compute, as PyTorch's
    DistributedDataParallel does (arXiv 2006.15704); without, when all are there.
    """
    board = _Board(n_devices, job.n_layers)
    forward, backward = (seconds / job.n_layers / n_devices for seconds in (job.forward, job.backward))
    for layer in range(job.n_layers):
        ends = [board.run(device, "compute", "forward", layer, forward) for device in range(n_devices)]
    sent, seconds = ring_all_reduce(job.gradient_bytes / job.n_layers, n_devices, link)
    for layer in reversed(range(job.n_layers)):
        ends = [board.run(device, "compute", "backward", layer, backward) for device in range(n_devices)]
        if overlap:
            board.together("all-reduce", layer, seconds, ends)
    for layer in () if overlap else reversed(range(job.n_layers)):
        board.together("all-reduce", layer, seconds, ends)
    return board.timeline(job, sent * job.n_layers)


def tensor_parallel(job: Job, n_devices: int, link: Link) -> Timeline:
    """Every device holds 1/n of each matrix, and the batch passes through all of them together (arXiv 1909.08053).

    Attention and feed-forward network each end in a sum over the devices, forward and backward: four all-reduces a layer, of
    all activations, and nobody can go on before they are done.
    """
    board = _Board(n_devices, job.n_layers)
    sent, seconds = ring_all_reduce(job.activation_bytes, n_devices, link)
    ends = [0.0] * n_devices
    layers = range(job.n_layers)
    for kind, total, order in (("forward", job.forward, layers), ("backward", job.backward, reversed(layers))):
        shares = (_ATTENTION, 1 - _ATTENTION) if kind == "forward" else (1 - _ATTENTION, _ATTENTION)
        for layer in order:
            for share in shares:
                work = total / job.n_layers / n_devices * share
                ends = [board.run(d, "compute", kind, layer, work, after) for d, after in enumerate(ends)]
                ends = [board.together("all-reduce", layer, seconds, ends)] * n_devices
    return board.timeline(job, 4 * job.n_layers * sent)


def pipeline_parallel(
    job: Job, n_devices: int, link: Link, *, n_microbatches: int = 8, schedule: Schedule = "1f1b"
) -> Timeline:
    """Every device holds 1/n of the layers; micro-batches pass from device to device, forward and back.

    "gpipe" (arXiv 1811.06965) sends all micro-batches forward and then all back. "1f1b" (arXiv 2104.04473, section 2.2) turns
    each back as soon as it can: as fast, but a device holds activations of n micro-batches at most. "interleaved" gives each
    device two shorter pieces of the model, half a model apart: half the bubble, twice the sending; it needs micro-batches in
    multiples of the devices. The bubble, in units of the time computed, is (n − 1) / micro-batches, half of it interleaved.
    """
    check("schedule", schedule, Schedule)
    check("n_devices", n_devices)
    check("n_microbatches", n_microbatches)
    chunks = 2 if schedule == "interleaved" and n_devices > 1 else 1
    if chunks > 1 and n_microbatches % n_devices:
        raise ValueError(f"{n_microbatches} micro-batches: interleaving needs a multiple of the {n_devices} devices")
    board = _Board(n_devices, chunks * n_microbatches)
    stages = n_devices * chunks
    pieces = stages * n_microbatches
    work = {"forward": job.forward / pieces, "backward": job.backward / pieces}
    transfer = link.seconds(job.activation_bytes / n_microbatches)
    orders = [_order(device, n_devices, n_microbatches, chunks, schedule) for device in range(n_devices)]
    there: dict[tuple[str, int, int], float] = {}  # (kind, micro-batch, stage) -> when the next stage has it

    while any(orders):
        for device, order in enumerate(orders):
            while order and (after := _ready(there, stages, *order[0])) is not None:
                kind, part, stage = order.pop(0)
                end = board.run(device, "compute", kind, part, work[kind], after)
                receiver = stage + (1 if kind == "forward" else -1)
                is_sent = receiver in range(stages) and n_devices > 1
                there[kind, part, stage] = board.run(device, "link", "send", part, transfer, end) if is_sent else end
    sends = Counter(span.device for span in board.spans if span.kind == "send")
    return board.timeline(job, max(sends.values(), default=0) * job.activation_bytes / n_microbatches)


def _ready(there: dict, stages: int, kind: str, part: int, stage: int) -> float | None:
    """Return when the input of this piece is there; None: not known yet."""
    if kind == "forward":
        return there.get((kind, part, stage - 1)) if stage else 0.0
    before = ("backward", part, stage + 1) if stage + 1 < stages else ("forward", part, stage)
    return there.get(before)


def _order(device: int, n_devices: int, n_microbatches: int, chunks: int, schedule: Schedule) -> list[tuple]:
    """Return what a device does in which order: (kind, micro-batch, stage)."""
    pieces = []  # n micro-batches through one of the device's chunks, then the same through its next one, ...
    for first in range(0, n_microbatches, n_devices):
        group = range(first, min(first + n_devices, n_microbatches))
        pieces += [(part, chunk) for chunk in range(chunks) for part in group]
    forward = [("forward", part, chunk * n_devices + device) for part, chunk in pieces]
    backward = [("backward", part, (chunks - 1 - chunk) * n_devices + device) for part, chunk in pieces]
    behind = n_devices - device - 1
    ahead = {"gpipe": len(pieces), "1f1b": behind, "interleaved": 2 * behind + (chunks - 1) * n_devices}[schedule]
    ahead = min(ahead, len(pieces))
    paired = [piece for pair in zip(forward[ahead:], backward, strict=False) for piece in pair]
    return forward[:ahead] + paired + backward[len(pieces) - ahead :]


def expert_parallel(job: Job, n_devices: int, link: Link, *, imbalance: float = 1.0) -> Timeline:
    """Every device takes 1/n of the batch and holds 1/n of each layer's experts; tokens travel to theirs and back.

    Two all-to-alls a layer, forward and backward, carry the activations (GShard, arXiv 2006.16668). `imbalance` is the load of
    the busiest device over the mean, 1 to 2: all wait for it. Who that is changes from layer to layer. What is no expert is
    held by all, and its gradients are summed at the end.
    """
    check("imbalance", imbalance, float, 1, 2)
    board = _Board(n_devices, job.n_layers)
    sent = job.activation_bytes / n_devices * (n_devices - 1) / n_devices  # a device's tokens, but for those it keeps
    exchange = link.seconds(sent, n_devices - 1) if n_devices > 1 else 0.0
    ends = [0.0] * n_devices
    layers = range(job.n_layers)
    for kind, total, order in (("forward", job.forward, layers), ("backward", job.backward, reversed(layers))):
        a_layer = total / job.n_layers / n_devices
        for layer in order:
            loads = _loads(n_devices, imbalance, layer)
            attention = [_ATTENTION * a_layer] * n_devices
            experts = [(1 - _ATTENTION) * a_layer * load for load in loads]
            first, last = (attention, experts) if kind == "forward" else ([0.0] * n_devices, experts)
            ends = [board.run(d, "compute", kind, layer, first[d], after) for d, after in enumerate(ends)]
            ends = [board.together("all-to-all", layer, exchange, ends)] * n_devices
            ends = [board.run(d, "compute", kind, layer, last[d], after) for d, after in enumerate(ends)]
            ends = [board.together("all-to-all", layer, exchange, ends)] * n_devices
            if kind == "backward":
                ends = [board.run(d, "compute", kind, layer, attention[d], after) for d, after in enumerate(ends)]
    reduced, seconds = ring_all_reduce(_ATTENTION * job.gradient_bytes, n_devices, link)
    board.together("all-reduce", 0, seconds, ends)
    return board.timeline(job, 4 * job.n_layers * sent + reduced)


def _loads(n_devices: int, imbalance: float, layer: int) -> list[float]:
    """Return each device's load, evenly from `imbalance` down to 2 − imbalance, so that the mean is 1; turned by the layer."""
    if n_devices == 1:
        return [1.0]
    return [imbalance - 2 * (imbalance - 1) * ((d + 3 * layer) % n_devices) / (n_devices - 1) for d in range(n_devices)]


@dataclass(frozen=True)
class Scheme:
    """A way of dividing the work: what it is called, the function that plays it, and which of its options may be chosen."""

    title: str
    play: Callable[..., Timeline]  # of a job, n_devices, a link, and the options
    options: tuple[str, ...] = ()


def _pipeline(title: str, schedule: Schedule) -> Scheme:
    return Scheme(f"pipeline, {title}", partial(pipeline_parallel, schedule=schedule), ("n_microbatches",))


SCHEMES = {
    "data": Scheme("data parallel, gradients sent at the end", partial(data_parallel, overlap=False)),
    "overlap": Scheme("data parallel, gradients sent meanwhile", partial(data_parallel, overlap=True)),
    "tensor": Scheme("tensor parallel", tensor_parallel),
    "gpipe": _pipeline("GPipe", "gpipe"),
    "1f1b": _pipeline("1F1B", "1f1b"),
    "interleaved": _pipeline("interleaved", "interleaved"),
    "expert": Scheme("expert parallel", expert_parallel, ("imbalance",)),
}
"""Every way, by its short name."""
