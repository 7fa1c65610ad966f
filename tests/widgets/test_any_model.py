"""Bring your own model: every widget that takes a model, on small models of every family that `checkpoints.load` reads.

Each model has more rows than its tokenizer has tokens, as Qwen 3 and OLMo 2 have, and would rather say those than any token.
"""

import base64
import copy
import itertools
import re
from io import BytesIO

import model_peers
import pytest
import tokenizer_peers
import torch
from matplotlib.image import imread
from small_search import small_search

from course_lib import checkpoints
from course_lib.applications.answers import Answers
from course_lib.applications.constraints import Constraint
from course_lib.architecture import TransformerLM
from course_lib.finetuning import LoraConfig, add_lora
from course_lib.inference import Sampling, generate, stream_reply, stream_text
from course_lib.inference.generation import tokenless_ids
from course_lib.tokenization import Tokenizer
from course_lib.widgets import (
    AttentionExplorer,
    CacheView,
    ChatApp,
    ConstraintView,
    LogitLens,
    LoraView,
    RetrievalExplorer,
    SamplingPlayground,
)
from course_lib.widgets.cache_view.widget import NEW_TOKENS
from course_lib.widgets.lora_view.widget import NEW_TOKENS as LORA_TOKENS

TEXT = "Now is the winter of our"
ROWS = 1600
FAMILIES = {  # the model, and a tokenizer of such a pipeline
    "gpt2": (model_peers.gpt2, tokenizer_peers.olmo2),
    "llama": (model_peers.llama, tokenizer_peers.llama3),
    "mistral": (model_peers.mistral, tokenizer_peers.mistral),
    "qwen3": (model_peers.qwen3, tokenizer_peers.qwen3),
    "olmo2": (model_peers.olmo2, tokenizer_peers.olmo2),
    "gemma3": (model_peers.gemma3, tokenizer_peers.gemma3),
}


@pytest.fixture(scope="module", params=FAMILIES)
def brought(request, tmp_path_factory) -> tuple[TransformerLM, Tokenizer]:
    """A model and its tokenizer, loaded from the folder in which `transformers` and `tokenizers` saved them."""
    make_model, make_tokenizer = FAMILIES[request.param]
    folder, tokenizer = tmp_path_factory.mktemp(request.param), make_tokenizer()
    torch.manual_seed(0)
    model = model_peers.randomised(make_model(vocab_size=ROWS))
    with torch.no_grad():
        model.get_output_embeddings().weight[tokenizer.get_vocab_size() :] *= 20
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return checkpoints.load(folder, dtype=torch.float32)


def logits_after(model: TransformerLM, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([ids]))[0, -1]


def has_a_picture(widget) -> bool:
    """Whether the picture that is shown without a kernel is there, and not of one colour."""
    png = base64.b64decode(widget._repr_mimebundle_()[0]["image/png"])
    return imread(BytesIO(png)).std() > 0.01


def test_the_model_would_say_what_is_no_token(brought):
    model, tokenizer = brought
    likeliest = int(logits_after(model, tokenizer.encode_prompt(TEXT)).argmax())
    assert likeliest in tokenless_ids(model, tokenizer)
    with pytest.raises(ValueError, match="no id of this tokenizer"):
        tokenizer.decode([likeliest])


def test_it_writes_text(brought):
    generator = torch.Generator().manual_seed(0)
    assert "".join(stream_text(*brought, TEXT, 8, Sampling(temperature=1.0), generator=generator))


def test_attention_explorer(brought):
    model, tokenizer = brought
    explorer = AttentionExplorer(model, tokenizer, TEXT, layer=1, head=2)
    ids = tokenizer.encode_prompt(TEXT)
    assert [token["id"] for token in explorer.result["tokens"]] == ids
    assert (explorer.result["layers"], explorer.result["heads"]) == (model.config.n_layers, model.config.n_heads)
    probabilities = logits_after(model, ids).softmax(-1)
    for token in explorer.result["next"]:
        assert token["now"] == pytest.approx(probabilities[token["id"]].item(), abs=1e-5)
    explorer.switch(0, 0, on=False)
    assert any(token["now"] != token["before"] for token in explorer.result["next"])
    explorer.text = TEXT + " discontent"
    assert len(explorer.result["tokens"]) > len(ids)
    assert has_a_picture(explorer)


def test_logit_lens(brought):
    model, tokenizer = brought
    lens = LogitLens(model, tokenizer, TEXT)
    ids = tokenizer.encode_prompt(TEXT)
    likeliest = torch.frombuffer(bytearray(lens.result["ids"]), dtype=torch.int32).view(-1, len(ids))
    assert len(likeliest) == model.config.n_layers + 1
    answer = int(logits_after(model, ids).argmax())
    assert likeliest[-1, -1] == answer
    assert lens.result["vocabulary"][str(answer)]["piece"] == f"<unused {answer}>"
    lens.pinned = 2
    assert has_a_picture(lens)


def test_sampling_playground(brought):
    model, tokenizer = brought
    playground = SamplingPlayground(model, tokenizer, TEXT, Sampling(temperature=1.0, top_p=0.9), seed=3)
    playground.generate(8)
    banned = tokenless_ids(model, tokenizer)
    drawn = generate(
        model,
        tokenizer.encode_prompt(TEXT),
        8,
        playground.sampling,
        banned_ids=banned,
        generator=torch.Generator().manual_seed(3),
    )
    assert playground.generated == tokenizer.decode(drawn)
    assert not {token["id"] for token in playground.result["next"]}.intersection(banned)
    counts = [count for count, _ in playground.result["shares"]]
    assert sum(counts) == tokenizer.vocab_size  # what is no token is neither left nor cut
    playground.temperature = 0.0
    assert sum(count for count, _ in playground.result["shares"]) == tokenizer.vocab_size
    assert has_a_picture(playground)


def test_cache_view(brought):
    model, tokenizer = brought
    view = CacheView(model, tokenizer, TEXT)
    for _ in range(5):
        view.step()
    ids = tokenizer.encode_prompt(TEXT)
    wanted = itertools.islice(generate(model, ids, NEW_TOKENS, banned_ids=tokenless_ids(model, tokenizer)), 5)
    assert view.text == tokenizer.decode([*ids, *wanted])
    assert all(step["cached"]["n_new"] < step["uncached"]["n_new"] for step in view.steps[1:])
    assert has_a_picture(view)


def test_constraint_view(brought, monkeypatch):
    model, tokenizer = brought
    if not tokenizer.end_ids:
        with pytest.raises(ValueError, match="no token that ends a text"):
            ConstraintView(model, tokenizer, TEXT, "a+", max_new_tokens=16)
        monkeypatch.setattr(tokenizer, "end_ids", frozenset({max(tokenizer.vocab.values())}))
    view = ConstraintView(model, tokenizer, TEXT, "[a-z]+ [0-9]{2}", max_new_tokens=16)
    view.write()
    rule = Constraint("[a-z]+ [0-9]{2}", tokenizer).rule(16)
    banned = tokenless_ids(model, tokenizer)
    ids, options = tokenizer.encode_prompt(TEXT), {"banned_ids": banned, "stop_ids": tokenizer.end_ids}
    assert view.text == tokenizer.decode(generate(model, ids, 16, rule=rule, **options))
    assert view.free_text == tokenizer.decode(generate(model, ids, 16, **options))
    assert re.fullmatch("[a-z]+ [0-9]{2}", view.text) and view.result["verdict"]["valid"]
    assert has_a_picture(view)


def test_chat_app(brought):
    model, tokenizer = brought[0], copy.copy(brought[1])
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    app = ChatApp(model, tokenizer, max_new_tokens=8, temperature=0.0)
    assert app.say("Now") == "".join(stream_reply(model, tokenizer, [{"role": "user", "content": "Now"}], 8))
    assert has_a_picture(app)


def test_lora_view(brought):
    model, tokenizer = copy.deepcopy(brought[0]), brought[1]
    base = "".join(stream_text(model, tokenizer, TEXT, LORA_TOKENS))
    add_lora(model, LoraConfig(rank=3, targets=("k_proj", "up_proj")))
    view = LoraView(model, tokenizer, TEXT)
    assert view.answers == (base, base)  # nothing is trained yet
    assert view.result["matrices"] == ["k_proj", "up_proj"] and view.kept is None
    assert has_a_picture(view)


def test_retrieval_explorer(brought, monkeypatch):
    monkeypatch.setattr(brought[1], "chat_template", "{{ messages[0].content }}")
    explorer = RetrievalExplorer(small_search(), *brought, query="Who led the ship?")
    if brought[0].config.context_length < 64:
        with pytest.raises(ValueError, match="the context leaves"):
            explorer.answer()
        return
    explorer.answer()
    theirs = Answers(small_search(), *brought, threshold=0)("Who led the ship?")
    assert explorer.answers["with"] == (theirs.text or str(theirs)) and explorer.answers["without"]
    assert has_a_picture(explorer)
