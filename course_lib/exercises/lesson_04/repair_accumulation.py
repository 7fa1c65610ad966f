"""Exercise 04.4: a batch that goes through the model in parts."""

import torch
from torch import Tensor, nn

from course_lib.corpora.packing import IGNORED
from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["REPAIR_ACCUMULATION"]

_RATE = 0.5


class _SGD(torch.optim.SGD):
    """Plain gradient descent, which does not hide how long a gradient is; named shortly in a report."""

    def __repr__(self) -> str:
        return f"SGD with learning rate {_RATE}"


class _Bigrams(nn.Embedding):
    """A bigram model: a token's row holds the logits of the next one. It carries the gradient of an earlier step."""

    def __init__(self, weight: Tensor, gradient: Tensor):
        super().__init__(*weight.shape, _weight=weight)
        self.weight.grad = gradient

    def __deepcopy__(self, memo: dict) -> "_Bigrams":
        """Copy the gradient, too, which a copied parameter leaves behind; the optimizer's parameter stays the model's."""
        copied = _Bigrams(self.weight.detach().clone(), self.weight.grad.clone())
        memo[id(self.weight)] = copied.weight
        return copied


def _batches(generator: torch.Generator) -> list[tuple]:
    """Return a bigram model and its optimizer, ids and targets (row, position), and the number of parts.

    The parts hold different numbers of targets.
    """
    cases = []
    for n_rows, length, vocab, n_parts in [
        (7, 5, 6, 3),
        (6, 8, 9, 2),
        (9, 4, 5, 4),
    ]:  # 7 rows are 3 + 3 + 1, 9 are 3 + 3 + 3
        model = _Bigrams(*torch.randn(2, vocab, vocab, generator=generator))
        ids, targets = torch.randint(vocab, (2, n_rows, length), generator=generator)
        n_real = 1 + torch.arange(n_rows) % length
        targets[torch.arange(length) >= n_real[:, None]] = IGNORED
        cases.append((model, _SGD(model.parameters(), lr=_RATE), ids, targets, n_parts))
    return cases


def _all_at_once(model: _Bigrams, optimizer: _SGD, ids: Tensor, targets: Tensor, n_parts: int) -> Tensor:
    """The gradient of a cross-entropy is known: for each target, the probabilities less 1 at what came."""
    weights, real = model.weight.detach(), targets != IGNORED
    gradient = torch.zeros_like(weights)
    for token, target in zip(ids[real].tolist(), targets[real].tolist(), strict=True):
        gradient[token] += weights[token].softmax(dim=0)
        gradient[token, target] -= 1
    return weights - _RATE * gradient / real.sum()


def _step(
    loss: str,
    part: str = "loss.backward()",
    before: str = "optimizer.zero_grad()",
    inside: str = "",
    after: str = "optimizer.step()",
    result: str = "model.weight",
) -> str:
    """Return the cell of exercise 04.4 with its steps as given."""
    before = f"    {before}\n" if before else ""
    inside = f"        {inside}\n" if inside else ""
    after = "".join(f"    {line}\n" for line in after.splitlines())
    return f'''\
def train_step(model, optimizer, ids, targets, n_parts):
    """Make one step on ids and targets (row, position), a part of the rows at a time.

    Return the weights after it: those that the whole batch gives when it goes through at once.
    Its loss is the mean over all targets but those of −100, which `F.cross_entropy` leaves out.
    """
{before}    for x, y in zip(ids.chunk(n_parts), targets.chunk(n_parts)):
{inside}        logits = model(x)  # (row, position, vocab)
        loss = {loss}
        {part}
{after}    return {result}
'''


def _loss(reduction: str = "mean") -> str:
    options = "" if reduction == "mean" else f', reduction="{reduction}"'
    return f"F.cross_entropy(logits.flatten(0, 1), y.flatten(){options})"


_SHARE = f"{_loss('sum')} / (targets != -100).sum()"

REPAIR_ACCUMULATION = Exercise(
    id="04.4",
    kind="repair",
    title="A batch that goes through in parts",
    section="Batches that do not fit",
    answer="train_step",
    results=("weights",),
    inputs=_batches,
    expected=_all_at_once,
    stub=_step(_loss()),
    solution=_step(_SHARE),
    why="`backward` adds to the gradient that is there, so what is added up should be shares of *one* mean: each part's sum, "
    "divided by the number of targets in the whole batch. Added up as they were, n means make a gradient n times too long. "
    "Divided by n, they are right where all parts hold equally many targets, as the windows of this lesson do; with texts of "
    "different lengths, tokens in nearly empty parts count more. AdamW and Muon hide a wrong length, and nobody looks at the "
    "rest: a widely used trainer did so until October 2024, more than a year after it was reported (huggingface/transformers, "
    "issue 24725 and pull request 34191).",
    hints=(
        "Add up the means of the parts by hand, for parts that are all alike. How does that compare with the batch's mean?",
        "Count the targets in each part. Whose mean does every single target take part in: its part's, or the batch's?",
        "`cross_entropy` can sum instead of averaging (`reduction`). What should the sum be divided by, in every part?",
    ),
    mistakes=(
        Mistake(
            _step(f"{_loss()} / n_parts"),
            "Divided by the number of parts, the length is about right, and where all parts hold equally many targets it is "
            "exactly right. Here they do not, so a target in a small part counts for more.",
        ),
        Mistake(
            _step(
                _loss(),
                part="losses.append(loss)",
                before="optimizer.zero_grad()\n    losses = []",
                after="torch.stack(losses).mean().backward()\noptimizer.step()",
            ),
            "That is the mean of the parts' means, in which a target in a small part counts for more. And all parts are kept "
            "until the end, so no memory is saved.",
        ),
        Mistake(
            _step(
                _SHARE,
                part="losses.append(loss)",
                before="optimizer.zero_grad()\n    losses = []",
                after="torch.stack(losses).mean().backward()\noptimizer.step()",
            ),
            "Each share is right, but their mean is taken where their sum is wanted. And all parts are kept until the end, so "
            "no memory is saved.",
        ),
        Mistake(
            _step(f"{_loss()} * len(x) / len(ids)"),
            "Each part counts by its share of the rows. But rows hold different numbers of targets: count the targets.",
        ),
        Mistake(
            _step(f"{_loss()} * y.numel() / (targets != -100).sum()"),
            "The mean of each part is multiplied by all its places, those of −100 too. It speaks for the real targets only.",
        ),
        Mistake(
            _step(_loss("sum")),
            "That is the gradient of the sum over all targets: it grows with the batch. Divide.",
        ),
        Mistake(
            _step(f"{_loss('sum')} / targets.numel()"),
            "The sum is divided by all places, those of −100 too. They have no loss, and do not count.",
        ),
        Mistake(
            _step(f"{_loss('sum')} / len(ids)"),
            "The sum is divided by the number of rows. The mean is one over targets.",
        ),
        Mistake(
            _step(f"{_loss('sum')} / len(x)"),
            "The sum is divided by the number of rows in the part. The mean is one over the targets of the whole batch.",
        ),
        Mistake(
            _step(f"{_SHARE} / n_parts"),
            "Divided twice: the shares of one mean add up to it as they are.",
        ),
        Mistake(
            _step(f"{_loss()} / (targets != -100).sum()"),
            "Divided twice: `cross_entropy` has already taken the mean over the part.",
        ),
        Mistake(
            _step(f"{_loss()} / (y != -100).sum()"),
            "Divided twice by the part's own number of targets: `cross_entropy` has already taken the mean over the part.",
        ),
        Mistake(
            _step(_loss(), inside="optimizer.zero_grad()"),
            "Only the last part's gradient arrives: it is wiped in every part, or `backward` runs once, behind the loop.",
        ),
        Mistake(
            _step(_SHARE, inside="optimizer.zero_grad()"),
            "The shares are right, but only the last one arrives: the gradient is wiped in every part, or `backward` runs "
            "once, behind the loop.",
        ),
        Mistake(
            _step(f"{_loss()} / n_parts", inside="optimizer.zero_grad()"),
            "The gradient is wiped in every part, so only the last is left, and that divided by n_parts.",
        ),
        Mistake(
            _step(_SHARE, before=""),
            "The shares are right, but they are added to the gradient that an earlier step has left: it is not wiped before "
            "the first part.",
        ),
        Mistake(
            _step(_SHARE, part="loss.backward()\n        optimizer.step()", after=""),
            "The shares are right, but the weights move after every part, with the gradient of all parts so far.",
        ),
        Mistake(
            _step(_loss(), part="loss.backward()\n        optimizer.step()", after=""),
            "The weights move after every part, and the gradient is never wiped. One batch is one step, behind the loop.",
        ),
        Mistake(
            _step(f"{_loss()} / n_parts", part="loss.backward()\n        optimizer.step()", after=""),
            "The weights move after every part. One batch is one step, behind the loop; and parts are not all alike.",
        ),
        Mistake(
            _step(_SHARE, inside="optimizer.zero_grad()", part="loss.backward()\n        optimizer.step()", after=""),
            "The shares are right, but each makes a step of its own. The later ones are computed with weights that the earlier "
            "ones have moved.",
        ),
        Mistake(
            _step(_loss(), inside="optimizer.zero_grad()", part="loss.backward()\n        optimizer.step()", after=""),
            "That makes every part a batch of its own: n_parts small steps in the place of a large one.",
        ),
        Mistake(
            _step(_SHARE, after=""),
            "The gradient is right, but nothing moves: the optimizer's step is missing.",
        ),
        Mistake(
            _step(_SHARE, result="model.weight.grad"),
            "That is the gradient, and it is right. The weights after the step are wanted.",
        ),
        Mistake(
            _step(_SHARE, result="loss"),
            "That is the last part's share of the loss. The weights after the step are wanted.",
        ),
    ),
)
