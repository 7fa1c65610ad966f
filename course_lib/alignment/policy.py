"""A language model as a policy: what it says of each token of an answer, and the rows of tokens that methods train on.

Ids and targets stand as in pretraining: the target of a position is the token after it, and IGNORED where no token of an
answer follows. So the prompt and the padding behind an answer never count.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.alignment.dpo import answer_log_probs, dpo_loss
from course_lib.alignment.surrogate import Reduction
from course_lib.architecture import TransformerLM
from course_lib.checks import check
from course_lib.corpora.packing import IGNORED
from course_lib.devices import autocast, pick_dtype
from course_lib.finetuning.classification import LabelledTexts
from course_lib.finetuning.rows import Rows
from course_lib.pretraining.evaluation import as_in_use

__all__ = [
    "PreferencePairs",
    "Prompts",
    "answer_rows",
    "preference_pair_loss",
    "side_by_side",
    "token_log_probs",
    "weights_fingerprint",
]


def token_log_probs(model: nn.Module, ids: Tensor, targets: Tensor, n_samples: int = 1) -> Tensor:
    """Return the log-probability that `model` gives each target, and 0 where it is IGNORED; all are (row, position).

    Each `n_samples` rows are answers to one prompt, see `side_by_side`.
    """
    keep = targets != IGNORED
    logits = model(**side_by_side(ids, keep, n_samples))
    return spread(-F.cross_entropy(logits.float(), targets[keep], reduction="none"), keep)


def side_by_side(ids: Tensor, keep: Tensor, n_samples: int) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
    """Return what a language model takes to read `ids` (row, position), so that each prompt is read only once.

    Each `n_samples` rows are answers to one prompt, and `keep` (row, position) is True from a prompt's last token to an
    answer's last but one. One row is made of them: the prompt, then the answers, none of which sees another, and each of which
    stands at the positions right behind the prompt. What the model gives of it, (kept, …), is in the order of `keep`.

    That is the same as reading each row by itself, in a model where only positions and not the places in a row count.
    """
    if n_samples == 1:
        return {"ids": ids, "keep": keep}
    groups = ids.unflatten(0, (-1, n_samples))  # (group, sample, position)
    lengths = keep[::n_samples].int().argmax(dim=1) + 1  # of the prompts (group,)
    longest, n_steps = int(lengths.max()), int(keep.sum(dim=1).max()) - 1
    places = lengths[:, None] + torch.arange(n_steps, device=ids.device)  # of answers (group, step)
    in_row = places.clamp(max=ids.shape[1] - 1)[:, None].expand(-1, n_samples, -1)
    columns = torch.arange(longest, device=ids.device).expand(len(groups), -1)
    sizes = torch.tensor([longest] + n_samples * [n_steps], device=ids.device)
    owner = torch.arange(n_samples + 1, device=ids.device).repeat_interleave(sizes)  # 0 is the prompt
    is_text = F.pad(columns < lengths[:, None], (0, n_samples * n_steps), value=True)
    sees = (owner[:, None] == owner) | (owner == 0)
    row, position = keep.nonzero(as_tuple=True)
    group, step = row // n_samples, position - lengths[row // n_samples]
    return {
        "ids": torch.cat([groups[:, 0, :longest], groups.gather(2, in_row).flatten(1)], dim=1),
        "mask": (sees & is_text[:, None])[:, None],
        "positions": torch.cat([columns, places.repeat(1, n_samples)], dim=1),
        "keep": (group, torch.where(step < 0, position, longest + row % n_samples * n_steps + step)),
    }


def spread(values: Tensor, keep: Tensor) -> Tensor:
    """Return `values` (kept,) at the places (row, position) where `keep` is True, in their order, and 0 elsewhere."""
    return torch.zeros(keep.shape, device=values.device).masked_scatter(keep, values)


class Prompts(Rows):
    """Prompts (token ids), a prompt a row: ids (row, context_length), lengths (row,).

    Raises ValueError for no prompt at all, one without tokens, or one that is longer than a row.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], context_length: int, vocab_size: int):
        ids, _, lengths = LabelledTexts(prompts, [0] * len(prompts), context_length, vocab_size).parts
        super().__init__((ids, lengths), vocab_size)


def answer_rows(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], context_length: int
) -> tuple[Tensor, Tensor]:
    """Return ids and targets (row, context_length) of answers (token ids) behind their prompts.

    Raises ValueError for as many of one as not of the other, a prompt or an answer without tokens, and for one that does not
    fit into a row.
    """
    check("context_length", context_length)
    if not prompts or len(prompts) != len(answers):
        raise ValueError(f"there must be prompts, and an answer to each; got {len(prompts)} and {len(answers)}")
    ids = torch.zeros(len(prompts), context_length, dtype=torch.long)
    targets = torch.full_like(ids, IGNORED)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        n = len(prompt) + len(answer) - 1  # the last token is a target only
        if not prompt or not answer or n > context_length:
            raise ValueError(
                f"prompt and answer {row} have {len(prompt)} and {len(answer)} tokens: each must have one, "
                f"and together {context_length + 1} at the most"
            )
        ids[row, :n] = torch.as_tensor([*prompt, *answer[:-1]])
        targets[row, len(prompt) - 1 : n] = torch.as_tensor(answer)
    return ids, targets


def weights_fingerprint(model: nn.Module) -> str:
    """Return 32 hexadecimal digits that tell the weights of `model` from others."""
    digest = hashlib.blake2b(digest_size=16)
    for weight in (*model.parameters(), *model.buffers()):
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class PreferencePairs(Rows):
    """Of each prompt a chosen and a rejected answer, and what `reference` gives them; a pair a row.

    The parts are, for the chosen and then for the rejected: ids (row, context_length), the reference's log-probability of the
    answer (row,), targets (row, context_length). Raises ValueError as `answer_rows` does.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        chosen: Sequence[Sequence[int]],
        rejected: Sequence[Sequence[int]],
        context_length: int,
        reference: TransformerLM,
    ):
        parts = []
        for answers in (chosen, rejected):
            ids, targets = answer_rows(prompts, answers, context_length)
            parts += [ids, _under(reference, ids, targets), targets]
        super().__init__(tuple(parts), reference.config.vocab_size, weights_fingerprint(reference))


def _under(reference: TransformerLM, ids: Tensor, targets: Tensor) -> Tensor:
    device = reference.device
    with as_in_use(reference), autocast(device, pick_dtype(device)):  # as the policy is trained
        batches = zip(*(part.to(device).split(64) for part in (ids, targets)), strict=True)
        found = [answer_log_probs(token_log_probs(reference, *batch), batch[1] != IGNORED).cpu() for batch in batches]
    return torch.cat(found)


def preference_pair_loss(
    model: nn.Module,
    chosen: Tensor,
    reference_chosen: Tensor,
    chosen_targets: Tensor,
    rejected: Tensor,
    reference_rejected: Tensor,
    rejected_targets: Tensor,
    *,
    beta: float = 0.1,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return DPO's loss of the rows of `PreferencePairs` under `model`: the mean over pairs, or the sum. See `dpo_loss`."""
    ids, targets = torch.cat([chosen, rejected]), torch.cat([chosen_targets, rejected_targets])
    sums = answer_log_probs(token_log_probs(model, ids, targets), targets != IGNORED)
    return dpo_loss(*sums.chunk(2), reference_chosen, reference_rejected, beta, reduction=reduction)
