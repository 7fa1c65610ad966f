"""What a model has read is kept, so that a text that begins like the last one is read from where the two part.

Keys and values of a position depend on the tokens up to it and on nothing behind it. A chat's next prompt is its last one
with a reply and a message behind it: all but these are in the cache already.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile

import torch
from torch import Tensor

from course_lib.architecture import TransformerLM
from course_lib.architecture.cache import KVCache
from course_lib.inference.fused_step import FusedStep

__all__ = ["PrefixCache", "n_shared"]


class PrefixCache:
    """The `ids` that `model` has read last, with their keys and values; `generate(…, prefix=…)` uses and fills it.

    `n_kept` is how many tokens the last text had in common with the one before it, and so were not read again. Keys and values
    of all positions are kept, of layers with a window too, so a text may be cut anywhere. If weights or hooks have changed in
    between, all is read again. Memory is taken as texts grow, for twice as many tokens each time.
    """

    def __init__(self, model: TransformerLM):
        self.model, self.n_kept = model, 0
        self.ids: list[int] = []
        self._layers: list[KVCache] = []
        self._state: list[tuple[int, ...]] = []
        self._lock = threading.Lock()

    @contextmanager
    def reading(self, ids: Sequence[int], capacity: int) -> Iterator[Callable[[list[int]], Tensor]]:
        """Keep what `ids` have in common with the last text, and give a function that reads on; gradients are to be off.

        It takes all ids so far, `ids` first and later with more behind them, up to `capacity`, reads those that are new, and
        returns the normalised residual stream (d_model,) at the last. RuntimeError if another text is being read.
        """
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(
                "this prefix cache is in use by another text, which has not ended: take the rest of that one or close() it, "
                "or give each text a PrefixCache of its own"
            )
        try:
            self._keep_shared(ids)
            self._make_room(capacity)
            fused = FusedStep(self.model, self._layers) if FusedStep.fits(self.model) else None
            yield lambda ids: self._read(ids[len(self.ids) :], fused)
        finally:
            self._lock.release()

    def _keep_shared(self, ids: Sequence[int]) -> None:
        """Shorten to what `ids` begin with; all but their last token at most, for that one's stream is wanted."""
        state = _state(self.model)
        if state != self._state:
            self.ids, self._layers, self._state = [], [], state
        self.n_kept = min(n_shared(self.ids, ids), len(ids) - 1)
        self.ids = self.ids[: self.n_kept]
        for layer in self._layers:  # an interrupt may have left more in some layers than in others
            layer.length = self.n_kept

    def _make_room(self, capacity: int) -> None:
        have = self._layers[0].keys.shape[2] if self._layers else 0
        if capacity <= have:
            return
        layers = self.model.new_cache(1, min(max(capacity, 2 * have), self.model.config.context_length))
        for old, new in zip(self._layers, layers, strict=False):
            new.append(old.keys[:, :, : old.length], old.values[:, :, : old.length])
        self._layers = layers

    def _read(self, new: list[int], fused: FusedStep | None) -> Tensor:
        if fused is not None and len(new) == 1:
            stream = fused(new[0])
        else:
            ids = torch.tensor([new], device=self.model.device)
            stream = self.model.residual(ids, self._layers)[0, -1]
        self.ids.extend(new)  # last, so that they never claim more than all layers hold
        return stream


def n_shared(some: Sequence[int], others: Sequence[int]) -> int:
    """Return how many of the first tokens of both are the same."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(some, others, strict=False)))


def _state(model: TransformerLM) -> list[tuple[int, ...]]:
    """Return what is another one once a weight has been written to or replaced, or a hook set or taken away."""
    weights = [(w.data_ptr(), 0 if w.is_inference() else w._version) for w in (*model.parameters(), *model.buffers())]
    hooks = [(*part._forward_pre_hooks, *part._forward_hooks) for part in model.modules()]
    return weights + hooks
