"""A language model with a head for classes."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.finetuning import Classifier, LabelledTexts, label_loss, predict_labels
from course_lib.pretraining import PretrainingConfig, Trainer, evaluate

MODEL = TransformerConfig(vocab_size=30, d_model=16, n_layers=2, n_heads=2, d_ff=24, context_length=12)
CONFIG = PretrainingConfig(n_steps=60, batch_size=16, learning_rate=1e-2)


def new_classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(TransformerLM(MODEL), 3).eval()


def new_texts(n: int = 96) -> LabelledTexts:
    """Of 2 to 12 tokens; the class is which of 0, 1 and 2 comes first: not to be seen from the last token alone."""
    generator = torch.Generator().manual_seed(1)
    texts, labels = [], []
    for length in torch.randint(2, 13, (n,), generator=generator).tolist():
        label = int(torch.randint(3, (), generator=generator))
        texts.append([label, *torch.randint(3, 30, (length - 1,), generator=generator).tolist()])
        labels.append(label)
    return LabelledTexts(texts, labels, 12, 30)


def test_padding_changes_nothing():
    model, texts = new_classifier(), new_texts()
    torch.nn.init.normal_(model.head.weight)
    ids, _, lengths = texts.parts
    logits = model(ids, lengths)
    for row, length, text in zip(logits, lengths, ids, strict=True):
        stream = model.body.residual(text[None, :length])[0, -1]
        torch.testing.assert_close(row, F.linear(stream, model.head.weight, model.head.bias), atol=1e-5, rtol=1e-5)


def test_training_begins_with_every_class_as_likely_and_ends_with_the_right_one():
    model, texts = new_classifier(), new_texts()
    assert evaluate(model, texts, 12, loss=label_loss) == pytest.approx(torch.tensor(3.0).log().item())
    for _ in Trainer(model, texts, None, CONFIG, loss=label_loss):
        pass
    assert (predict_labels(model, texts) == texts.parts[1]).float().mean() > 0.95
    assert evaluate(model, texts, 12, loss=label_loss) < 0.3


def test_the_head_alone_is_trained_where_the_body_is_frozen():
    model, texts = new_classifier(), new_texts()
    before = [weight.clone() for weight in model.body.parameters()]
    model.body.requires_grad_(False)
    features = model.features(texts.parts[0], texts.parts[2])
    for _ in Trainer(model, texts, None, replace(CONFIG, n_steps=5), loss=label_loss):
        pass
    assert all(map(torch.equal, before, model.body.parameters())) and model.head.weight.any()
    torch.testing.assert_close(model.features(texts.parts[0], texts.parts[2]), features)


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        ([], [], "there must be texts"),
        ([[1, 2]], [0, 1], "got 1 texts, 2 labels"),
        ([[1], []], [0, 1], "text 1 must have 1 to 12 tokens, not 0"),
        ([[1] * 13], [0], "text 0 must have 1 to 12 tokens, not 13"),
    ],
)
def test_texts_that_cannot_be_rows_are_refused(texts, labels, message):
    with pytest.raises(ValueError, match=message):
        LabelledTexts(texts, labels, 12, 30)


def test_one_class_is_none():
    with pytest.raises(ValueError, match="n_classes must be at least 2"):
        Classifier(TransformerLM(MODEL), 1)
