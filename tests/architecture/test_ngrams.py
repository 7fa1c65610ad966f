"""Embeddings of pairs and triples of tokens, against a loop in plain Python and against the model without them."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.architecture.ngrams import NgramEmbedding
from course_lib.devices import seed_everything
from course_lib.pretraining.optim import AdamW, for_model

PLAIN = TransformerConfig(vocab_size=11, d_model=8, n_layers=1, n_heads=2, d_ff=16, context_length=12)
CONFIG = replace(PLAIN, ngram_rows=97)


@pytest.fixture
def model():
    seed_everything(0)
    return TransformerLM(CONFIG)


@pytest.fixture
def filled(model):
    torch.nn.init.normal_(model.ngrams.table)
    return model.eval()


def some_ids(*shape):
    return torch.randint(CONFIG.vocab_size, shape)


def test_it_adds_the_rows_of_the_pair_and_of_the_triple(filled):
    table, ids = filled.ngrams.table, some_ids(2, 5)
    prime, m, n_rows = 2**31 - 1, 48_271, 97
    for text, vectors in zip(ids.tolist(), filled.ngrams(ids), strict=True):
        t = [0, 0] + [token + 1 for token in text]
        for position in range(5):
            two_back, one_back, now = t[position : position + 3]
            pair = now * m + one_back
            triple = (pair * m + two_back) % prime
            torch.testing.assert_close(vectors[position], table[pair % n_rows] + table[n_rows + triple % n_rows])


@pytest.mark.parametrize("length", [1, 2, 3])
def test_texts_as_short_as_a_run_of_tokens_have_vectors_too(model, length):
    assert model.ngrams(some_ids(3, length)).shape == (3, length, 8)


def test_ids_as_large_as_any_vocabulary_s_stay_within_the_table():
    embedding, (ids, *before) = NgramEmbedding(1000, 2), torch.randint(2**20, (3, 4, 500))
    pairs, triples = embedding.rows(ids, torch.stack(before))
    assert pairs.min() >= 0 and pairs.max() < 1000 <= triples.min() and triples.max() < 2000


@pytest.mark.parametrize("n_rows", [1000, 4096, 8000])
def test_rows_are_used_about_as_evenly_as_random_numbers_would(n_rows):
    """Of as many random numbers as there are rows, 1 - 1/e = 63 % of the rows get at least one."""
    seed_everything(0)
    two_back, one_back, ids = torch.cartesian_prod(*[torch.arange(65)] * 3)[torch.randperm(65**3)[:n_rows]].T
    _, triples = NgramEmbedding(n_rows, 2).rows(ids, torch.stack([one_back, two_back]) + 1)
    assert triples.unique().numel() / n_rows == pytest.approx(1 - 1 / math.e, abs=0.04)


def test_a_model_says_the_same_before_its_rows_are_trained(model):
    ids = some_ids(2, 9)
    seed_everything(0)
    torch.testing.assert_close(model(ids), TransformerLM(PLAIN)(ids), rtol=0, atol=0)


def test_no_vector_depends_on_a_later_token(filled):
    ids = some_ids(1, 8)
    changed = ids.clone()
    changed[0, 5] = (ids[0, 5] + 1) % CONFIG.vocab_size
    differs = (filled.ngrams(ids) != filled.ngrams(changed)).any(dim=-1)[0]
    assert differs.tolist() == [False] * 5 + [True] * 3


def test_adamw_trains_its_rows(model):
    ids = some_ids(4, 12)
    optimizers = for_model(model, learning_rate=0.01, muon_learning_rate=0.02, weight_decay=0.0)
    adamw = next(optimizer for optimizer in optimizers if isinstance(optimizer, AdamW))
    assert any(weight is model.ngrams.table for group in adamw.param_groups for weight in group["params"])
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    assert model.ngrams.table.abs().max() > 0
    assert losses[-1] < losses[0] / 2
