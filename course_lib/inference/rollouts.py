"""Many texts at once: the loop of `generation`, for a batch of prompts of different lengths.

A step of decoding reads every weight, whether for one text or for sixty, so a batch costs little more than a text alone.
Prompts are padded on the left, so that all texts go on in the same column; the padding is masked, and positions are counted
behind it. A text that has ended leaves the batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.architecture import TransformerLM
from course_lib.architecture.cache import KVCache
from course_lib.checks import check
from course_lib.inference.blocked import blocked
from course_lib.inference.generation import Rule, Sampling, banned_rows, known_ids, ruled

__all__ = ["Rollouts", "by_length", "read_columns", "roll_out"]


@dataclass(frozen=True)
class Rollouts:
    """What a model wrote: of each row the prompt, then what was written, then padding; all are (row, position)."""

    ids: Tensor  # int64; padding is 0
    written: Tensor  # bool: whether the model wrote it; a stop id counts
    log_probs: Tensor  # float32: of each written token, under the model at temperature 1, without any rule; 0 elsewhere

    @property
    def answers(self) -> list[list[int]]:
        """The ids that were written, a list a row, with the stop id if there was one."""
        return [ids[written].tolist() for ids, written in zip(self.ids, self.written, strict=True)]


@torch.no_grad()  # not inference_mode: what is written may be trained on
def roll_out(
    model: TransformerLM,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling = Sampling(),
    *,
    n_samples: int = 1,
    stop_ids: frozenset[int] = frozenset(),
    banned_ids: Sequence[int] = (),
    rules: Sequence[Rule | None] | None = None,
    noise: Tensor | None = None,
) -> Rollouts:
    """Return `n_samples` texts for each of `prompts` (ids), one below the other, as `generate` writes them; a stop id ends one.

    `noise` (row, max_new_tokens) holds the random number from [0, 1) by which each token is drawn, so that a row is the same in
    any batch; None: drawn here. One of `banned_ids` is never drawn. `rules` has a rule or None a row, see `generate`; it is no
    longer asked once its row has ended. ValueError for no prompt, one that is empty or leaves less of the context than
    `max_new_tokens`, an id that the model has not, a ban on every token, not one rule a row, or a rule that leaves no token.
    """
    check("max_new_tokens", max_new_tokens)
    check("n_samples", n_samples)
    prompts, device = _checked(model, prompts, max_new_tokens), model.device
    if noise is None:
        noise = torch.rand(len(prompts) * n_samples, max_new_tokens)
    if noise.shape != (len(prompts) * n_samples, max_new_tokens):
        raise ValueError(f"noise must be {(len(prompts) * n_samples, max_new_tokens)}, not {tuple(noise.shape)}")
    if not ((noise >= 0) & (noise < 1)).all():
        raise ValueError("noise must be from 0 to below 1")
    if rules is not None and len(rules) != len(prompts) * n_samples:
        raise ValueError(
            f"rules must have one rule or None for each of {len(prompts) * n_samples} rows, not {len(rules)}"
        )
    banned, noise = banned_rows(model, banned_ids), noise.to(device)
    stops = torch.tensor(known_ids(model, "stop_ids", sorted(stop_ids)), dtype=torch.long, device=device)

    model = blocked(model, len(prompts) * n_samples)
    longest, padded = max(map(len, prompts)), len({*map(len, prompts)}) > 1
    n_columns = longest + max_new_tokens
    padding = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    begun = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    cache = model.new_cache(len(prompts), n_columns)
    stream = read_columns(model, begun, padded, padding, cache)  # a prompt is read once, however many samples there are

    rows = torch.arange(len(prompts), device=device).repeat_interleave(n_samples)
    padding, stream = padding[rows], _keep(cache, rows, stream)
    ids = torch.cat([begun[rows], begun.new_zeros(len(rows), max_new_tokens)], dim=1)
    written, log_probs = torch.zeros_like(ids, dtype=torch.bool), torch.zeros(ids.shape, device=device)
    rows = torch.arange(len(rows), device=device)  # where each text in the batch belongs
    for step in range(max_new_tokens):
        logits = model.unembed(stream).float()
        allowed = logits.index_fill(-1, banned, -torch.inf)
        if rules is not None:
            texts = ids[rows, longest : longest + step].tolist()
            allowed = _ruled([rules[row] for row in rows.tolist()], texts, allowed)
        drawn = sampling.pick(allowed, noise[rows, step])
        ids[rows, longest + step], written[rows, longest + step] = drawn, True
        log_probs[rows, longest + step] = logits.log_softmax(dim=-1).gather(-1, drawn[:, None])[:, 0]
        goes_on = ~torch.isin(drawn, stops)
        if not goes_on.all():
            rows, drawn = rows[goes_on], _keep(cache, goes_on.nonzero()[:, 0], drawn)
        if not len(rows) or step + 1 == max_new_tokens:
            break
        stream = read_columns(model, drawn[:, None], padded, padding[rows], cache)
    return _flush_left(ids, written, log_probs, padding)


def _checked(model: TransformerLM, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
    if not prompts:
        raise ValueError("there is no prompt to go on from")
    room = model.config.context_length - max_new_tokens
    for number, prompt in enumerate(prompts):
        if not 0 < len(prompt) <= room:
            raise ValueError(
                f"prompt {number} must have 1 to {room} tokens, not {len(prompt)}: "
                f"{max_new_tokens} of the context's {model.config.context_length} are for what is written"
            )
    return [known_ids(model, f"prompt {number}", prompt) for number, prompt in enumerate(prompts)]


def read_columns(model: TransformerLM, ids: Tensor, padded: bool, padding: Tensor, cache: list[KVCache]) -> Tensor:
    """Add `ids` (row, new) to the cache and return the last stream (row, d_model); `padding` (row,) columns begin each row."""
    if not padded:  # asked of `padding`, a GPU would be waited for
        return model.residual(ids, cache)[:, -1]
    start = cache[0].length
    columns = torch.arange(start + ids.shape[1], device=ids.device)
    is_text = columns >= padding[:, None]
    # padding sees padding, so that no softmax is over nothing
    mask = is_text[:, None, start:, None] == is_text[:, None, None, :]
    positions = (columns[start:] - padding[:, None]).clamp(min=0)
    return model.residual(ids, cache, mask, positions=positions)[:, -1]


def by_length(lengths: Sequence[int], n_tokens: int) -> Iterator[list[int]]:
    """Yield the indices of `lengths`, in tokens, shortest first, as many at once as make `n_tokens` when padded, or one alone.

    Texts of about the same length are read together, so that little is padding.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > n_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _ruled(rules: list[Rule | None], texts: list[list[int]], logits: Tensor) -> Tensor:
    rows = zip(rules, texts, logits, strict=True)
    return torch.stack([row if rule is None else ruled(rule, text, row) for rule, text, row in rows])


def _keep(cache: list[KVCache], rows: Tensor, beside: Tensor) -> Tensor:
    """Make the cache one of `rows` (index,), each as often as it is named, and return those of `beside`."""
    for layer in cache:
        layer.keep(rows)
    return beside[rows]


def _flush_left(ids: Tensor, written: Tensor, log_probs: Tensor, padding: Tensor) -> Rollouts:
    """Move the `padding` (row,) columns on each row's left behind it, and leave out columns that are padding in all rows."""
    n_columns = ids.shape[1]
    ends = written.int() * torch.arange(1, n_columns + 1, device=ids.device) - padding[:, None]
    columns = torch.arange(int(ends.max()), device=ids.device) + padding[:, None]
    parts = (part.gather(1, columns.clamp(max=n_columns - 1)) for part in (ids, written, log_probs))
    return Rollouts(*(part.masked_fill(columns >= n_columns, 0) for part in parts))
