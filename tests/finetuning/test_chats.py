"""Chats as examples, against `trl`'s completion-only labels and loss; and what no template may hide."""

import warnings
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import datasets
import pytest
import torch
import transformers
from chat_templates import TEMPLATES, tokenizer_pair
from trl import SFTConfig, SFTTrainer

from course_lib import checkpoints
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.corpora.packing import IGNORED
from course_lib.finetuning import Example, PackedExamples, add_chat_format, answer_loss, tokenize_chat
from course_lib.finetuning.chats import CHATML, prompted
from course_lib.inference import stream_reply
from course_lib.inference.generation import chat_prompt
from course_lib.tokenization import Tokenizer, train_bpe

HELLO = {"role": "user", "content": 'Hi "you" <b>é</b>'}
REPLY = {"role": "assistant", "content": "Hello, my friend!"}
AGAIN = {"role": "user", "content": "And what else?"}
MORE = {"role": "assistant", "content": " Nothing. "}
SYSTEM = {"role": "system", "content": "Be brief."}
CHATS = [[HELLO, REPLY], [SYSTEM, HELLO, REPLY], [AGAIN, MORE]]


class Peers(NamedTuple):
    """A family's tokenizer and a small model, ours and `transformers`'; and `trl` at work on `chats` with the latter."""

    tokenizer: Tokenizer
    model: TransformerLM
    trainer: SFTTrainer
    chats: list[list[dict[str, str]]]


@pytest.fixture(scope="module", params=TEMPLATES)
def peers(request, tmp_path_factory) -> Peers:
    folder = tmp_path_factory.mktemp("model")
    tokenizer, peer = tokenizer_pair(request.param, folder)
    peer.pad_token = "</s>"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(peer), **sizes))
    model.save_pretrained(folder)
    ours, _ = checkpoints.load(folder, "cpu", torch.float32)
    chats = [chat for chat in CHATS if request.param != "mistral" or SYSTEM not in chat]  # that one: see below
    data = datasets.Dataset.from_list([{"prompt": chat[:-1], "completion": chat[-1:]} for chat in chats])
    options = {"completion_only_loss": True, "max_length": None, "use_cpu": True, "bf16": False, "report_to": "none"}
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # trl asks transformers by old names
        config = SFTConfig(str(folder / "trl"), **options)
        trainer = SFTTrainer(model, config, train_dataset=data, processing_class=peer)
    return Peers(tokenizer, ours, trainer, chats)


def labels(example: Example) -> list[int]:
    return [id if trained else IGNORED for id, trained in zip(example.ids, example.trained, strict=True)]


def test_labels_and_loss_equal_trls(peers):
    examples = [tokenize_chat(peers.tokenizer, chat) for chat in peers.chats]
    theirs = list(peers.trainer.train_dataset)
    assert [list(example.ids) for example in examples] == [row["input_ids"] for row in theirs]
    assert [labels(example) for example in examples] == [row["labels"] for row in theirs]

    batch = peers.trainer.data_collator(theirs)
    loss = peers.trainer.compute_loss(peers.trainer.model, batch)
    rows = PackedExamples(examples, 1000, peers.model.config.vocab_size)
    assert len(rows.parts[0]) == 1  # they padded, we packed
    torch.testing.assert_close(answer_loss(peers.model, *rows.parts), loss, atol=1e-6, rtol=1e-6)


def test_every_reply_of_a_longer_chat_is_trained_on_and_ends_its_turn(peers):
    chat = [HELLO, REPLY, AGAIN, MORE]
    example = tokenize_chat(peers.tokenizer, chat)
    runs = groupby(zip(example.ids, example.trained, strict=True), key=itemgetter(1))
    first, second = (peers.tokenizer.decode(id for id, _ in run) for trained, run in runs if trained)
    assert "Hello, my friend!" in first and "Nothing." in second and "else" not in first + second
    prompt = peers.tokenizer.encode(chat_prompt(peers.tokenizer, chat[:-1]))
    assert list(example.ids[: len(prompt)]) == prompt  # what is trained on is what the model will see


def test_a_template_that_writes_the_prompt_otherwise_once_it_is_answered_is_refused(tmp_path):
    """Mistral's puts the system message into the last message, if that is the user's: answered, it is gone."""
    tokenizer, _ = tokenizer_pair("mistral", tmp_path)
    with pytest.raises(ValueError, match="in message 2 differently once more follows"):
        tokenize_chat(tokenizer, [SYSTEM, HELLO, REPLY])


def test_a_token_across_the_boundary_belongs_to_the_reply():
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer = Tokenizer({"a": 0, "b": 1, "ab": 2}, [("a", "b")], {}, chat_template=template)
    example = tokenize_chat(tokenizer, [{"role": "user", "content": "ba"}, {"role": "assistant", "content": "bb"}])
    assert (example.ids, example.trained) == ((1, 2, 1), (False, True, True))


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([HELLO], "has nothing to train on"),
        ([], "has nothing to train on"),
        ([REPLY | {"content": ""}], "has nothing to train on"),
    ],
)
def test_a_chat_without_a_reply_is_refused(chat, message):
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match=message):
        tokenize_chat(Tokenizer({"H": 0, "i": 1}, [], {}, chat_template=template), chat)


def test_without_a_template_or_with_marks_that_do_not_fit_there_is_no_example():
    with pytest.raises(ValueError, match="no chat template; add_chat_format gives it one"):
        tokenize_chat(Tokenizer({"a": 0}, [], {}), [HELLO, REPLY])
    with pytest.raises(ValueError, match="3 tokens has 2 marks"):
        Example((1, 2, 3), (False, True))
    with pytest.raises(ValueError, match="nothing to train on"):
        Example((1, 2), (True, False))


# ---------------------------------------------------------------- a model that is given the format


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def base(request) -> tuple[TransformerLM, Tokenizer]:
    torch.manual_seed(0)
    tokenizer = train_bpe(["To be, or not to be, that is the question."], 280)
    config = TransformerConfig(280, 16, 2, 2, 24, context_length=64, tied_embeddings=request.param)
    return TransformerLM(config).eval(), tokenizer


def test_the_format_adds_two_tokens_and_leaves_what_was_known(base):
    model, tokenizer = base
    chatting, its_tokenizer = add_chat_format(model, tokenizer)
    text = tokenizer.encode("To be a question")
    assert its_tokenizer.encode("To be a question") == text and its_tokenizer.encode("<|im_end|>") == [281]
    assert its_tokenizer.end_ids == {281, *tokenizer.end_ids}
    before, after = model(torch.tensor([text])), chatting(torch.tensor([text]))
    assert torch.equal(after[..., :280], before)
    torch.testing.assert_close(after[..., 280], before.mean(dim=-1), atol=1e-5, rtol=1e-5)
    assert chatting.config.vocab_size == 282 and not chatting.training
    chatting.embedding.weight.data.zero_()
    assert model.embedding.weight.any()  # a copy


def test_a_chat_in_the_format_is_as_transformers_writes_it(base, tmp_path):
    _, tokenizer = add_chat_format(*base)
    _, peer = tokenizer_pair("qwen3", tmp_path)
    peer.chat_template = CHATML
    for chat in ([HELLO], [SYSTEM, HELLO, REPLY, AGAIN]):
        text = chat_prompt(tokenizer, chat)
        assert text == peer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi")
    assert text.endswith("else?<|im_end|>\n<|im_start|>assistant\n")


def test_a_chatting_model_is_refused_and_the_format_answers(base):
    model, tokenizer = add_chat_format(*base)
    with pytest.raises(ValueError, match="has a chat template already"):
        add_chat_format(model, tokenizer)
    assert isinstance("".join(stream_reply(model, tokenizer, [HELLO | {"content": "To be?"}], 5)), str)


def test_an_answer_without_a_chat_format_ends_with_the_end_token(base):
    _, tokenizer = base
    example = prompted(tokenizer, "To be", " or not")
    assert tokenizer.decode(example.answer) == " or not" + tokenizer.end_tokens[0]
    assert tokenizer.decode(example.ids) == "To be or not" + tokenizer.end_tokens[0]
