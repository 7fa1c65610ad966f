"""A language model as a classifier: in place of the next token's scores, a score for each class.

The last token has attended to the whole text, so the residual stream there is what a linear head reads (GPT, Radford et al.
2018, section 3.2). The head is new; the rest is trained on from where pretraining left it, or frozen.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.checks import check
from course_lib.finetuning.rows import Rows
from course_lib.pretraining.evaluation import as_in_use

__all__ = ["Classifier", "LabelledTexts", "label_loss", "predict_labels"]


class Classifier(nn.Module):
    """The language model `body`, and a `head` (class, d_model) on the residual stream at each text's last token.

    The body is not copied. The head begins as zeros, so that training begins with every class as likely.
    """

    fewest_classes = 2

    def __init__(self, body: TransformerLM, n_classes: int):
        check("n_classes", n_classes, int, self.fewest_classes)
        super().__init__()
        self.body, self.head = body, nn.Linear(body.config.d_model, n_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.to(body.device, body.dtype)

    @property
    def config(self) -> TransformerConfig:
        """The body's."""
        return self.body.config

    @property
    def device(self) -> torch.device:
        """The body's."""
        return self.body.device

    @property
    def blocks(self) -> nn.ModuleList:
        """The body's."""
        return self.body.blocks

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits (batch, class) of texts: `ids` (batch, position), of which the first `lengths` (batch,) count.

        What pads a text stands behind it, where no token of it looks.
        """
        return self.head(self.features(ids, lengths))

    def features(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the residual stream (batch, d_model) at each text's last token, after the final norm."""
        stream = self.body.residual(ids)
        return stream[torch.arange(len(ids), device=ids.device), lengths - 1]


class LabelledTexts(Rows):
    """Texts (token ids) with a class each, a text a row: ids (row, context_length), labels (row,), lengths (row,).

    Raises ValueError for a text without tokens or longer than a row, and if there are not as many labels as texts.
    """

    def __init__(self, texts: Sequence[Sequence[int]], labels: Sequence[int], context_length: int, vocab_size: int):
        check("context_length", context_length)
        if not texts or len(texts) != len(labels):
            raise ValueError(f"there must be texts, and a label for each; got {len(texts)} texts, {len(labels)} labels")
        for number, text in enumerate(texts):
            if not 0 < len(text) <= context_length:
                raise ValueError(f"text {number} must have 1 to {context_length} tokens, not {len(text)}")
        ids = torch.zeros(len(texts), context_length, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = torch.as_tensor(text)
        lengths = torch.tensor([len(text) for text in texts])
        super().__init__((ids, torch.as_tensor(labels, dtype=torch.long), lengths), vocab_size)


def label_loss(model: nn.Module, ids: Tensor, labels: Tensor, lengths: Tensor, *, reduction: str = "mean") -> Tensor:
    """Return the mean cross-entropy, in nats a text, of the `labels` (batch,) under a `Classifier`; or its sum."""
    return F.cross_entropy(model(ids, lengths).float(), labels, reduction=reduction)


def predict_labels(model: Classifier, texts: LabelledTexts) -> Tensor:
    """Return the likeliest class of each of `texts`: int64 (text,), on the CPU."""
    device = model.device
    with as_in_use(model):
        batches = zip(*(part.to(device).split(64) for part in texts.parts), strict=True)
        return torch.cat([model(ids, lengths).argmax(dim=-1).cpu() for ids, _, lengths in batches])
