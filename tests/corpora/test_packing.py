"""Several documents in a row."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.corpora.packing import IGNORED, pack, places, same_document
from course_lib.devices import seed_everything


@given(st.lists(st.lists(st.integers(1, 90), max_size=30), min_size=1), st.integers(2, 12))
def test_packing_keeps_every_piece_whole(documents, context_length):
    packed = pack(documents, context_length)
    pieces = [tuple(d[i : i + context_length]) for d in documents for i in range(0, len(d), context_length)]
    found = [tuple(packed.ids[packed.documents == number].tolist()) for number in range(len(pieces))]
    assert found == pieces and len(packed.documents.unique()) <= len(pieces) + 1
    assert all(len({*row[row >= 0].tolist()}) == len(row[row >= 0].unique_consecutive()) for row in packed.documents)
    assert len(packed.ids) <= max(1, 2 * sum(map(len, pieces)) // context_length + 1)  # no two rows are half empty
    for ids, targets, numbers in zip(packed.ids, packed.targets, packed.documents, strict=True):
        follows = numbers[1:] == numbers[:-1]
        assert (targets[:-1] == ids[1:])[follows & (numbers[1:] >= 0)].all()
        assert (targets[:-1] == IGNORED)[~follows].all() and targets[-1] == IGNORED


def test_best_fit_by_hand():
    packed = pack([[1] * 6, [2] * 3, [3] * 5, [4] * 2, [5] * 4], 10, pad_id=9)
    # 6; 5 opens a second row; 4 fits the first exactly; 3 and then 2 fill the second
    assert packed.ids.tolist() == [[1] * 6 + [5] * 4, [3] * 5 + [2] * 3 + [4] * 2]


def test_packed_documents_do_not_see_each_other():
    seed_everything(0)
    config = TransformerConfig(vocab_size=20, d_model=16, n_layers=2, n_heads=2, d_ff=24, context_length=10)
    model = TransformerLM(config).eval()
    documents = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7]]
    packed = pack(documents, 10)
    logits = model(packed.ids, mask=same_document(packed.documents), positions=places(packed.documents))
    loss = F.cross_entropy(logits.flatten(0, 1), packed.targets.flatten(), ignore_index=IGNORED)
    alone = [F.cross_entropy(model(torch.tensor([d[:-1]]))[0], torch.tensor(d[1:]), reduction="sum") for d in documents]
    torch.testing.assert_close(loss, sum(alone) / sum(len(d) - 1 for d in documents))
