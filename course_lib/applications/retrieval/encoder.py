"""A text as a vector of length 1: close vectors, close meanings."""

from collections.abc import Sequence

import tokenizers
import torch
from torch import Tensor

from course_lib import assets, checkpoints
from course_lib.architecture.attention import padding_mask
from course_lib.checks import check_texts
from course_lib.inference.rollouts import by_length

__all__ = ["SentenceEncoder"]

_MINILM = "all-minilm-l6-v2"
_LONGEST = 256  # tokens that the encoder reads of a text: it was trained on no more
_AT_ONCE = 2048  # tokens in a batch, padding too


class SentenceEncoder:
    """all-MiniLM-L6-v2 as `sentence-transformers` uses it (Reimers and Gurevych, arXiv 1908.10084).

    A text's vector is the mean of the encoder's vectors of its tokens, [CLS] and [SEP] too, brought to length 1. Of a longer
    text only the first 256 tokens are read.
    """

    def __init__(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None):
        self.model = checkpoints.load_encoder(_MINILM, device, dtype)
        self.tokenizer = tokenizers.Tokenizer.from_file(str(assets.fetch(_MINILM) / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(_LONGEST)

    @property
    def recipe(self) -> list[str | int]:
        """What vectors depend on besides the text, as JSON can hold it."""
        return [assets.ASSETS[_MINILM].sha256, _LONGEST, str(self.model.dtype), self.model.device.type]

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the vectors (text, d_model) of `texts`, float32 on the CPU. FloatingPointError if the model's are NaN.

        Texts of about the same length are read together, so that little is padding.
        """
        check_texts("texts", texts)
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        vectors = torch.zeros(len(ids), self.model.config.d_model)
        for rows in by_length([len(row) for row in ids], _AT_ONCE):
            vectors[rows] = self._read([ids[row] for row in rows]).float().cpu()
        if not vectors.isfinite().all():
            raise FloatingPointError("the encoder's vectors are no numbers")
        return torch.nn.functional.normalize(vectors, dim=-1)

    def _read(self, ids: list[list[int]]) -> Tensor:
        """Return the mean vector (row, d_model) of each row of `ids`."""
        device, longest = self.model.device, max(map(len, ids))
        lengths = torch.tensor([len(row) for row in ids], device=device)
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids], device=device)
        mask = padding_mask(lengths, longest)
        stream = self.model(padded, mask if lengths.min() < longest else None)
        return (stream * mask[:, 0, 0, :, None]).sum(dim=1) / lengths[:, None]
