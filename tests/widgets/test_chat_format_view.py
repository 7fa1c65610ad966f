"""ChatFormatView: what it shows is what the library makes of the chats, in Python, in JupyterLab and in Notebook 7."""

import base64
import re
from copy import copy
from io import BytesIO

import numpy as np
import pytest
import torch
from browser import cut_off, screenshot, shut_down_kernel, use_theme
from chat_templates import MISTRAL
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from playwright.sync_api import Locator, Page, expect
from tokenizer_peers import gemma3, llama3, loaded, mistral, qwen3

from course_lib.corpora.packing import places, same_document
from course_lib.finetuning import PackedExamples, tokenize_chat
from course_lib.plots import PALETTE, chip
from course_lib.tokenization import Tokenizer
from course_lib.widgets import ChatFormatView
from course_lib.widgets.chat_format_view.formats import FORMATS, said, with_template
from course_lib.widgets.chat_format_view.widget import MAX_CHATS, OWN


def chat(*messages: str) -> list[dict[str, str]]:
    """Messages of the user and the assistant in turn; before them the system's, if their number is odd and not one."""
    roles = ["user", "assistant"] * len(messages)
    roles = ["system", *roles] if len(messages) % 2 and len(messages) > 1 else roles
    return [{"role": role, "content": content} for role, content in zip(roles, messages, strict=False)]


CHATS = [
    chat("What is the capital of France?", "Paris."),
    chat("Answer in one word.", "Which colour has the sky?", "Blue.", "And grass?", "Green."),
    chat("Name three fruits.", "Apples, pears and plums."),
    chat("What is 2 + 3?", "5"),
]
CELLS = [
    "from course_lib import checkpoints\nfrom course_lib.tokenization import load_tokenizer\n"
    "from course_lib.widgets import ChatFormatView",
    'tokenizer = load_tokenizer(checkpoints.convert("smollm2-135m-instruct", thorough=False))',
    f"view = ChatFormatView(tokenizer, {CHATS!r})\nview",
]


@pytest.fixture(scope="module")
def tokenizer(smollm2) -> Tokenizer:
    return smollm2[1]


def template_of(view: ChatFormatView, tokenizer: Tokenizer) -> str:
    name = view.settings["template"]
    return tokenizer.chat_template if name == OWN else FORMATS[name].template


# ---------------------------------------------------------------- in Python


@pytest.mark.parametrize("template", [OWN, *FORMATS])
def test_tokens_and_packed_rows_are_those_of_the_library(tokenizer, template):
    view = ChatFormatView(tokenizer, CHATS, row_length=200)
    for number in range(len(CHATS)):
        view.set(template=template, chat=number)
        examples = [tokenize_chat(with_template(tokenizer, template_of(view, tokenizer)), one) for one in CHATS]
        assert tuple(token["id"] for token in view.result["tokens"]) == examples[number].ids
        assert tuple(token["target"] for token in view.result["tokens"]) == examples[number].trained
        rows = PackedExamples(examples, 200, max(tokenizer.special_tokens.values()))
        ids, _, documents = rows.parts
        assert view.result["n_targets"] == rows.n_targets == sum(map(len, (example.answer for example in examples)))
        assert view.result["padding"] == pytest.approx((documents < 0).float().mean())
        for row, segments in enumerate(view.result["rows"]):
            drawn = torch.full((200,), -1)
            for part in segments:
                drawn[part["start"] : part["end"]] = part["chat"]
                trained = torch.tensor(examples[part["chat"]].trained).nonzero().flatten() + part["start"]
                assert trained.tolist() == [at for run in part["targets"] for at in range(*run)]
            assert torch.equal(drawn, documents[row])
        here = view.result["row"]
        row = documents[here["number"]][None]
        own = np.frombuffer(here["own"], np.uint8).reshape(200, 200)
        assert np.array_equal(own, same_document(row)[0, 0].tril()) and number in row
        assert here["places"] == places(row)[0].tolist()
        assert [token["id"] for token in here["tokens"]] == ids[here["number"]][row[0] >= 0].tolist()


def test_the_loss_is_on_answers_on_everything_or_on_answers_without_their_end(tokenizer):
    view = ChatFormatView(tokenizer, CHATS)

    def targets() -> str:
        return tokenizer.decode(token["id"] for token in view.result["tokens"] if token["target"])

    view.set(chat=1)
    assert targets() == "Blue.<|im_end|>\nGreen.<|im_end|>\n"
    view.set(mask="unended")
    assert targets() == "Blue.Green." and view.result["n_targets"] == 15
    view.set(mask="everything")
    assert [token["target"] for token in view.result["tokens"]][:2] == [False, True]
    assert view.result["n_targets"] == view.result["n_tokens"] - len(CHATS)  # nothing comes before a chat's first token


def test_one_chat_a_row_is_padded_to_the_longest(tokenizer):
    view = ChatFormatView(tokenizer, CHATS)
    view.set(packed=False, isolated=False, chat=2)
    lengths = [len(tokenize_chat(tokenizer, one).ids) for one in CHATS]
    assert view.result["row_length"] == max(lengths)
    assert [(one["chat"], one["end"]) for row in view.result["rows"] for one in row] == list(enumerate(lengths))
    assert view.result["padding"] == pytest.approx(1 - sum(lengths) / (4 * max(lengths)))
    assert view.result["row"]["number"] == 2 and view.result["row"]["n_others"] == 0
    view.set(packed=True)
    row = view.result["row"]
    own = np.frombuffer(row["own"], np.uint8).reshape(128, 128)[: len(row["tokens"])]
    assert row["places"] == list(range(128)) and row["n_others"] == row["n_seen"] - own.sum() > 0


@pytest.mark.parametrize("make", [llama3, qwen3, mistral, gemma3])
@pytest.mark.parametrize("template", FORMATS)
def test_it_works_with_the_tokenizers_of_other_models(make, template, tmp_path):
    tokenizer = loaded(make(), tmp_path)
    view = ChatFormatView(tokenizer, CHATS, row_length=256)
    assert view.templates == tuple(FORMATS)  # these have none of their own
    view.set(template=template, chat=1)
    other = with_template(tokenizer, FORMATS[template].template)
    ids = list(tokenize_chat(other, CHATS[1]).ids)
    assert [token["id"] for token in view.result["tokens"]] == ids
    for turn, message in enumerate(CHATS[1]):
        start, end = said(other, CHATS[1], turn)
        assert message["content"] in tokenizer.decode(ids[start:end])
        assert {token["who"] for token in view.result["tokens"][start:end]} == {message["role"]}
    stray = {marker: len(tokenizer.encode(marker)) for marker in FORMATS[template].markers}
    assert view.result["stray"] == {marker: n for marker, n in stray.items() if marker not in tokenizer.special_tokens}
    assert view._repr_mimebundle_()[0]["image/png"]


def test_what_cannot_be_trained_on_is_said_and_left_out(tokenizer):
    strict = copy(tokenizer)
    strict.chat_template = MISTRAL
    twice = [{"role": "user", "content": "Hello?"}] * 2
    view = ChatFormatView(strict, [twice, CHATS[0], chat("Anybody there?"), chat("Count.", "one two " * 60)])
    refused, fine, unanswered, long = view.result["problems"]
    assert "refuses these messages: After the optional system message" in refused
    assert fine == "" and "no answer" in unanswered
    assert re.fullmatch(r"it has \d+ tokens and does not fit into a row of 128; shorten it, or take longer rows", long)
    assert view.result["tokens"] == [] and view.result["row"] is None
    assert [[part["chat"] for part in row] for row in view.result["rows"]] == [[1]]
    view.set(chat=2)
    assert len(view.result["tokens"]) > 3 and not any(token["target"] for token in view.result["tokens"])
    view.set(row_length=256)
    assert [[part["chat"] for part in row] for row in view.result["rows"]] == [[3, 1]]
    view.set(chats=[twice], chat=0)
    assert view.result["rows"] == [] and repr(view).endswith("0 of 0 tokens are targets; 0 rows of 256, 0% padding")
    assert view._repr_mimebundle_()[0]["image/png"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"template": "Llama 9"}, r"template must be one of \('its own', 'ChatML'"),
        ({"template": ["ChatML"]}, "template must be one of"),
        ({"mask": "nothing"}, "mask must be one of"),
        ({"row_length": 1000}, "row_length must be at least 8 and at most 256, not 1000"),
        ({"row_length": float("nan")}, "row_length must be int"),
        ({"packed": 2}, "packed must be bool"),
        ({"isolated": None}, "isolated must be bool"),
        ({"chat": 4}, "chat must be at least 0 and at most 3"),
        ({"chats": []}, f"chats must be a list of 1 to {MAX_CHATS} chats"),
        ({"chats": [CHATS[0], "Hello"]}, r"chats\[1\] must be a list of messages"),
        ({"chats": [[{"role": "user", "content": None}]]}, r"chats\[0\] must be a list of messages"),
        ({"colour": "red"}, "no such setting: colour"),
    ],
)
def test_settings_that_cannot_be_are_named_and_change_nothing(tokenizer, changes, complaint):
    view = ChatFormatView(tokenizer, CHATS)
    before = view.settings, view.result
    with pytest.raises(ValueError, match=complaint):
        view.set(**changes)
    assert (view.settings, view.result) == before


def test_saved_notebook_shows_a_picture_and_a_line_of_text(tokenizer):
    data, _ = ChatFormatView(tokenizer, CHATS)._repr_mimebundle_()
    png = base64.b64decode(data["image/png"])
    assert len(png) < 200_000 and imread(BytesIO(png)).shape[1] == 1100
    assert data["text/plain"] == (
        "ChatFormatView: template 'its own', loss on answers; 25 of 171 tokens are targets; 2 rows of 128, 33% padding"
    )


# ---------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def page(open_notebook) -> Page:
    return open_notebook(CELLS)


@pytest.fixture
def view(page) -> Locator:
    return page.locator(".chat-format-view")


def press(view: Locator, name: str) -> None:
    view.get_by_role("button", name=name, exact=True).click()


def test_the_template_and_the_loss_say_which_token_is_a_target(view, page, tokenizer):
    tokens, readout = view.get_by_role("option"), view.locator(".chat .readout")
    example = tokenize_chat(tokenizer, CHATS[0])
    expect(tokens).to_have_text([chip(tokenizer.piece(id)) for id in example.ids])
    expect(view.locator(".tokens .target")).to_have_text(["Paris", ".", "<|im_end|>", "⏎"])
    expect(view.locator(".sizes")).to_have_text("4 of 41 tokens of this chat are targets; in all rows 25 of 171.")
    tokens.nth(36).hover()
    expect(readout).to_have_text("⏎id 198position 36written by the templatetarget here Paris ✓ counts")
    page.mouse.move(0, 0)
    view.locator("[role=option][tabindex='0']").focus()
    page.keyboard.press("End")
    expect(readout).to_contain_text("position 40written by the templateno target here: nothing follows")
    page.keyboard.press("Home")
    expect(readout).to_contain_text("position 0written by the templatetarget here system – does not count")
    expect(tokens.nth(1)).to_have_class(re.compile(r"\bnext\b"))
    screenshot(view, "chat_format_light")

    press(view, "answers without their end")
    expect(view.locator(".chat .notes")).to_have_text(
        "No end: no target is <|im_end|>, which ends a turn. Nothing here teaches a model to stop."
    )
    press(view, "Llama 3 headers")
    expect(view.locator(".chat .notes")).to_contain_text("<|start_header_id|> falls into 9 tokens")
    expect(tokens.first).to_have_text("<")
    press(view, "everything")
    expect(view.locator(".tokens .chip:not(.target)")).to_have_count(1)
    press(view, "answers only")
    press(view, "its own")
    expect(view.locator(".notes p")).to_have_count(0)


def test_a_message_is_edited_and_all_follows(view, page, tokenizer):
    field = view.get_by_role("textbox", name="Message 2: assistant")
    field.press("Control+A")
    field.press_sequentially("It is <b>Paris</b>,\n of course.")
    edited = [*CHATS[0][:1], {"role": "assistant", "content": "It is <b>Paris</b>,\n of course."}]
    expect(view.get_by_role("option")).to_have_text(
        [chip(tokenizer.piece(id)) for id in tokenize_chat(tokenizer, edited).ids]
    )
    expect(field).to_be_focused()
    assert view.locator("b:has-text('Paris')").count() == 0
    field.fill("one two " * 60)
    notes = view.locator(".notes p")
    expect(notes).to_have_text(
        [re.compile("^This chat cannot be trained on: it has .* tokens"), re.compile("^Chat 1 is left out: it has")]
    )
    expect(view.get_by_text("The chosen chat is in no row.")).to_be_visible()
    field.fill("Paris.")
    expect(notes).to_have_count(0)
    press(view, "Chat 2")
    expect(view.get_by_role("textbox")).to_have_count(5)
    press(view, "Chat 1")


def test_rows_and_who_sees_whom(view, page, tokenizer):
    example, first = (tokenize_chat(tokenizer, CHATS[number]) for number in (2, 1))
    strips = view.locator(".strip")
    expect(strips).to_have_text(["23", "14"])
    expect(view.locator(".padding")).to_have_text("Best-fit: 2 rows of 128 tokens: 33 % of 256 places are padding.")
    press(view, "one chat a row")
    expect(strips).to_have_text(["1", "2", "3", "4"])
    expect(view.get_by_role("slider")).to_be_hidden()
    press(view, "packed")
    expect(strips).to_have_text(["23", "14"])
    press(view, f"Chat 3: {len(example.ids)} tokens, {len(example.answer)} targets, row 1")
    expect(view.get_by_role("heading", name="Attention in row 1")).to_be_visible()

    canvas, readout = view.get_by_role("application"), view.locator(".mask .readout")
    length, left, top = 128, 84, 96

    def colour(query: int, key: int) -> list[int]:
        return canvas.evaluate(
            """(canvas, [x, y]) => [...canvas.getContext("2d").getImageData(x, y, 1, 1).data].slice(0, 3)""",
            [left + 420 * (key + 0.5) / length, top + 420 * (query + 0.5) / length],
        )

    residual = [round(255 * part) for part in to_rgb(PALETTE["light"]["residual"])]
    hidden = colour(20, 30)
    assert colour(30, 20) == residual != hidden  # in the first chat of the row
    assert colour(60, 20) == hidden and colour(70, 60) == residual
    canvas.hover(position={"x": left + 420 * 20.5 / length, "y": top + 420 * 60.5 / length})
    expect(readout).to_contain_text(f"chat 3, position {60 - len(first.ids)}")
    expect(readout).to_contain_text("not seen: the key is of another chat")
    press(view, "plain causal")
    expect(view.locator(".side")).to_contain_text(re.compile(r"Of what the tokens see, \d\d % is of another chat"))
    assert colour(60, 20) not in (hidden, residual) and colour(20, 60) == hidden
    canvas.focus()
    for key in ["ArrowDown", "ArrowDown", "ArrowRight"]:
        page.keyboard.press(key)
    expect(readout).to_contain_text("chat 2, position 1seen")
    screenshot(view, "chat_format_plain_causal")
    page.keyboard.press("Escape")
    expect(readout).to_contain_text("Point at a cell")
    view.get_by_role("slider").fill("8")
    expect(strips).to_have_text(["2314"])
    screenshot(view, "chat_format_one_row")
    view.get_by_role("slider").fill("4")
    press(view, "inside each chat")
    expect(strips).to_have_text(["23", "14"])


def test_nothing_is_cut_off_at_any_width_in_either_theme(view, page):
    press(view, "Llama 3 headers")
    for width in (860, 1110, 1560):
        page.set_viewport_size({"width": width, "height": 2200})
        expect(view.locator(".tokens .chip").first).to_have_text("<")
        screenshot(view, f"chat_format_{width}")
        assert cut_off([view, *view.locator("section, header, .modes, .messages, .strips, .bench, .side").all()]) == []
    use_theme(page, "JupyterLab Dark")
    screenshot(view, "chat_format_dark")
    use_theme(page, "JupyterLab Light")


def test_notebook_7_runs_it_and_a_kernel_that_is_gone_is_said_to_be(open_notebook):
    page = open_notebook(CELLS, app="notebook", reduced_motion="reduce")
    view = page.locator(".chat-format-view")
    view.get_by_role("button", name="plain text").focus()
    page.keyboard.press("Enter")
    expect(view.locator(".tokens .special")).to_have_count(0)
    screenshot(view, "chat_format_notebook_7")
    shut_down_kernel(page)
    press(view, "ChatML")
    expect(view.get_by_role("alert")).to_contain_text("The kernel is not running")
