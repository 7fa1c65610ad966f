"""RetrievalExplorer: its rankings against `Search`, its answers against `Answers`, and what a learner does with it."""

import base64
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import check_looks, screenshot, shut_down_kernel
from playwright.sync_api import Locator, Page, expect
from small_search import TEXTS, SmallSearch, WordVectors, small_search, small_writer

from course_lib.applications.answers import Answers, confidence, quote
from course_lib.applications.retrieval import Chunk, Fusion, Plane
from course_lib.architecture import TransformerLM
from course_lib.tasks.passages import Question
from course_lib.tokenization import Tokenizer
from course_lib.widgets import RetrievalExplorer

QUERY = "Who commanded the vessel?"
KNOWN = Question("What was the skipper called?", "sea", ("The captain was called Ahab.",), ("Ahab",), True)
SPLIT = Question("What swims?", "sea", ("The captain was called Ahab.", "A whale swims below."), ("a whale",), True)
SETUP = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from small_search import TEXTS, small_search, small_writer
from course_lib.tasks.passages import Question
from course_lib.widgets import RetrievalExplorer
explorer = RetrievalExplorer(small_search(), *small_writer(), texts=TEXTS, questions=[{KNOWN!r}, "Who wrote this?"])
"""
PATIENCE = 60_000  # ms


# ---------------------------------------------------------------- in Python


@pytest.fixture
def explorer() -> RetrievalExplorer:
    return RetrievalExplorer(small_search(), texts=TEXTS, questions=[KNOWN, SPLIT, "Who wrote this?"])


@pytest.fixture(scope="module")
def writer() -> tuple:
    return small_writer()


@pytest.mark.parametrize("fusion", [Fusion(), Fusion(60, 1, 1), Fusion(0, 0, 2)])
def test_rankings_are_those_of_the_search_and_parts_add_up_to_the_fused_score(explorer, fusion):
    search = small_search()
    search.fusion = fusion
    explorer.set(query=QUERY, k=fusion.k, words=fusion.words, meaning=fusion.meaning)
    lists = [[(search.chunks[item], score) for item, score in rows] for rows in explorer.result["lists"]]
    assert lists == [search.by_words(QUERY, 10), search.by_meaning(QUERY, 10), search.both(QUERY, 10)]
    assert explorer.found == search.both(QUERY, 10)
    for item, score in explorer.result["lists"][2]:
        assert sum(filter(None, explorer.result["found"][str(item)]["parts"])) == pytest.approx(score)
    for which, rows in enumerate(explorer.result["lists"]):
        assert [explorer.result["found"][str(item)]["ranks"][which] for item, _ in rows] == list(range(1, 11))


def test_the_search_itself_stays_as_it_is(explorer):
    explorer.set(query=QUERY, k=1.0, words=0)
    assert explorer._search.fusion == Fusion()


def test_points_and_places_are_those_of_the_chunks_and_sent_once(explorer):
    search, sent = small_search(), []
    plane = Plane(search.meanings.vectors)
    np.testing.assert_allclose(np.frombuffer(explorer.points, np.float32).reshape(-1, 2), plane.points, atol=1e-5)
    assert explorer.share == pytest.approx(plane.share) and explorer.no_map == ""
    places = np.frombuffer(explorer.places, np.int32).reshape(-1, 3)
    assert [(explorer.works[work], first, last) for work, first, last in places.tolist()] == [
        (chunk.work, chunk.first, chunk.last) for chunk in search.chunks
    ]
    explorer.observe(lambda change: sent.append(change["name"]))
    explorer.ask(QUERY)
    assert explorer.result["point"] == pytest.approx(plane(WordVectors()([QUERY])[0]).tolist(), abs=1e-5)
    assert set(sent) == {"settings", "result"}


def test_a_chunk_opens_in_its_work_with_the_words_of_the_query_marked(explorer):
    explorer.ask("The KING’s crown?")
    explorer.set(opened=0)
    opened = explorer.result["open"]
    assert [line[:2] for line in opened["lines"]] == [[i, i <= 2] for i in range(1, 9)] and opened["note"] == ""
    assert opened["lines"][0][2] == [["Ahab led ", False], ["the", True], [" ship.", False]]
    assert opened["lines"][5][2] == [["<img src=x onerror=alert(1)>", False]]
    explorer.ask("nothing of this: ahab")
    assert explorer.settings["opened"] is None and explorer.result["open"]["item"] == explorer.result["lists"][2][0][0]


@pytest.mark.parametrize("texts", [None, {}, {"sea": "another text"}])
def test_a_chunk_whose_work_is_missing_or_has_changed_opens_alone(texts):
    explorer = RetrievalExplorer(small_search(), texts=texts, query="Ahab")
    explorer.set(opened=0)
    assert explorer.result["open"]["lines"][1] == [
        None,
        True,
        [["The captain was called ", False], ["Ahab", True], [".", False]],
    ]
    assert re.search("was not given|something else in lines 1–2", explorer.result["open"]["note"])


def test_the_right_passage_of_a_known_question_is_found_among_the_ranks(explorer):
    explorer.ask(KNOWN.text)
    right, lists = explorer.result["right"], explorer.result["lists"]
    assert right["items"] == [0]
    assert right["ranks"] == [[item for item, _ in rows].index(0) + 1 for rows in lists]
    explorer.ask(SPLIT.text)
    assert explorer.result["right"]["items"] == [] and explorer.result["right"]["ranks"] == [None] * 3
    for query in (QUERY, "Who wrote this?"):
        explorer.ask(query)
        assert explorer.result["right"] is None
    assert [question["kind"] for question in explorer.menu] == ["shares words with its passage"] * 2 + [
        "without a known answer"
    ]


@pytest.mark.parametrize("n_passages", [1, 3])
def test_answers_are_those_of_answers_and_the_nearest_line_that_of_quote(writer, n_passages):
    search = small_search()
    explorer = RetrievalExplorer(search, *writer, texts=TEXTS, query=QUERY)
    explorer.set(passages=n_passages)
    assert explorer.answers == {"with": None, "without": None, "quote": None}
    explorer.answer()
    theirs = Answers(search, *writer, threshold=0.0, n_passages=n_passages)(QUERY)
    passages = [hit.chunk for hit in search.both(QUERY, n_passages)]
    assert explorer.answers["with"] == (theirs.text or str(theirs))
    assert explorer.answers["quote"] == quote(search.encoder, QUERY, passages).text == "Ahab led the ship."
    assert search.chunks[explorer.result["quote"]["source"]] == search.both(QUERY, 1)[0].chunk
    if theirs.source is not None:
        assert search.chunks[explorer.result["with"]["source"]] == passages[theirs.source]
    explorer.ask(KNOWN.text)
    assert set(explorer.answers.values()) == {None}


def test_below_the_threshold_nothing_is_answered_from_passages(writer):
    explorer = RetrievalExplorer(small_search(), *writer, 1.0, query=QUERY)
    assert explorer.result["confidence"] == confidence(small_search(), QUERY) < 1 and explorer.result["refused"]
    explorer.answer()
    assert explorer.answers["with"] == "I find no passage that answers this." and explorer.answers["without"]
    explorer.set(threshold=0.0)
    assert explorer.answers["with"] is None and not explorer.result["refused"]


def test_an_answer_to_a_known_question_is_said_to_be_right_or_wrong():
    explorer = RetrievalExplorer(small_search(), questions=[KNOWN], query=KNOWN.text)
    explorer.answer()
    assert explorer.answers["quote"] == "The captain was called Ahab." and explorer.result["quote"]["right"]
    explorer.set(meaning=0, words=1)
    explorer.answer()
    assert explorer.result["quote"]["right"] == (explorer.answers["quote"] == "The captain was called Ahab.")


def test_unknown_words_are_found_by_meaning_alone(explorer):
    explorer.ask("xyzzy 語")
    words, meaning, fused = explorer.result["lists"]
    assert words == [] and [item for item, _ in fused] == [item for item, _ in meaning]
    assert explorer.result["confidence"] == 0


@pytest.mark.parametrize("query", ["", " \n"])
def test_an_empty_query_is_refused_and_changes_nothing(explorer, query):
    explorer.ask(QUERY)
    before = explorer.settings, explorer.result
    for change in (lambda: explorer.ask(query), lambda: explorer.set(query=query)):
        with pytest.raises(ValueError, match="the query is empty"):
            change()
    assert (explorer.settings, explorer.result) == before


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (["Tom sees."], "at least 3"),
        (["Tom sees.", "Ann."], "at least 3"),
        (["Tom."] * 4, "all alike"),
        (["Tom.", "Ann.", "Eve."], ""),
    ],
)
def test_chunks_too_few_or_too_alike_for_a_map_are_still_found(texts, complaint):
    chunks = [Chunk("w", i, i, text) for i, text in enumerate(texts, 1)]
    explorer = RetrievalExplorer(SmallSearch(chunks), query="Tom")
    explorer.answer()
    assert explorer.found[0].chunk == chunks[0] and explorer.answers["quote"] == texts[0]
    assert complaint in explorer.no_map and (len(explorer.points) > 0) == (complaint == "")
    assert repr(explorer).startswith("RetrievalExplorer: ") and explorer._repr_mimebundle_()[0]["image/png"]


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"k": -1}, "k must be"),
        ({"words": float("nan")}, "words must be"),
        ({"meaning": "1"}, "meaning must be"),
        ({"opened": 52}, "opened must be at least 0 and at most 51"),
        ({"passages": 6}, "passages must be at least 1 and at most 5"),
        ({"threshold": 1.5}, "threshold must be"),
        ({"query": 3}, "query must be str"),
        ({"colour": 1}, "no such setting"),
    ],
)
def test_settings_that_cannot_be_are_refused(explorer, wrong, complaint):
    before = explorer.settings, explorer.result
    with pytest.raises(ValueError, match=complaint):
        explorer.set(**wrong)
    assert (explorer.settings, explorer.result) == before


def test_what_is_no_search_no_pair_or_no_number_is_refused(writer, explorer):
    model, tokenizer = writer
    for make, complaint in (
        (lambda: RetrievalExplorer(None), "search must be Search"),
        (lambda: RetrievalExplorer(small_search(), model), "give both, or neither"),
        (lambda: RetrievalExplorer(small_search(), tokenizer, model), "model must be"),
        (lambda: RetrievalExplorer(small_search(), model, Tokenizer({"a": 0}, [], {})), "no chat template"),
        (lambda: RetrievalExplorer(small_search(), questions="Who?"), "single string"),
        (lambda: RetrievalExplorer(small_search(), threshold=-1.0), "threshold must be"),
        (lambda: explorer.answer(), "the query is empty"),
    ):
        with pytest.raises(ValueError, match=complaint):
            make()
    broken = TransformerLM(model.config)
    broken.embedding.weight.data.fill_(torch.nan)
    explorer = RetrievalExplorer(small_search(), broken, tokenizer, query=QUERY)
    with pytest.raises(FloatingPointError, match="no numbers"):
        explorer.answer()
    assert explorer.answers["with"] is None


def test_saved_notebooks_hold_a_picture_and_one_line_of_text(explorer):
    assert repr(explorer) == "RetrievalExplorer: 52 chunks, nothing asked yet"
    assert explorer._repr_mimebundle_()[0]["image/png"]
    explorer.ask(KNOWN.text)
    bundle, _ = explorer._repr_mimebundle_()
    assert re.match(r"RetrievalExplorer: 52 chunks; .* finds by words sea, lines 1–2, by meaning", bundle["text/plain"])
    assert 10_000 < len(base64.b64decode(bundle["image/png"])) < 200_000


# ---------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def page(open_notebook) -> Page:
    return open_notebook([SETUP, "explorer"])


@pytest.fixture
def widget(page) -> Locator:
    return page.locator(".retrieval-explorer")


def ask(widget: Locator, query: str) -> None:
    widget.get_by_role("textbox", name="Query").fill(query)
    widget.get_by_role("textbox", name="Query").press("Enter")


def rows(widget: Locator, name: str) -> Locator:
    return widget.get_by_role("list", name=name).get_by_role("button")


def test_a_query_is_shown_in_three_rankings_and_a_chunk_opens(widget):
    expect(widget.locator(".open")).to_contain_text("No chunk is open yet")
    expect(widget.locator(".answers")).to_be_hidden()
    ask(widget, QUERY)
    for name in ("By words", "Fused", "By meaning"):
        expect(rows(widget, name)).to_have_count(10)
    expect(rows(widget, "Fused").first).to_contain_text(re.compile(r"1sea, 1–20\.3540\.188 \+ 0\.167"))
    expect(widget.locator(".links path").first).to_be_attached()
    expect(widget.get_by_role("heading", name="sea, lines 1–2")).to_be_visible()
    expect(widget.locator(".lines .own")).to_have_count(2)
    expect(widget.locator(".lines mark").first).to_have_text("the")
    expect(widget.locator(".lines")).to_contain_text("<img src=x onerror=alert(1)>")
    assert widget.locator("img").count() == 0
    rows(widget, "By words").first.click()
    expect(widget.get_by_role("heading", name="court, lines 3–4")).to_be_visible()
    expect(rows(widget, "By words").first).to_have_attribute("aria-pressed", "true")
    screenshot(widget, "retrieval_explorer")


def test_sliders_change_the_fusion_and_an_empty_query_is_said(widget):
    ask(widget, QUERY)
    widget.get_by_role("slider", name="weight of words").fill("0")
    expect(widget.locator(".formula")).to_have_text("score = 0 / (5 + rank by words) + 1 / (5 + rank by meaning)")
    expect(rows(widget, "Fused").first).to_contain_text("0 + 0.167")
    widget.get_by_role("slider", name="weight of words").fill("6")
    ask(widget, " ")
    expect(widget.get_by_role("alert").first).to_have_text("the query is empty")
    ask(widget, "xyzzy")
    expect(widget.locator(".ranking").first).to_contain_text("No chunk has a word of the query.")


def test_the_map_is_read_by_keyboard_and_opens_a_chunk(widget, page):
    ask(widget, QUERY)
    expect(widget.get_by_role("heading", name="sea, lines 1–2")).to_be_visible()
    chart, readout = widget.get_by_role("application"), widget.locator(".readout")
    chart.focus()
    page.keyboard.press("Home")
    expect(readout).to_have_text("sea, lines 1–2; by words number 3; by meaning number 1; fused number 1")
    page.keyboard.press("PageDown")
    expect(readout).to_contain_text("fused number 2")
    expect(widget.locator("[aria-live].unseen")).to_contain_text("fused number 2")
    page.keyboard.press("ArrowRight")
    expect(readout).not_to_contain_text("fused number 2")
    place = readout.inner_text().split(";")[0]
    page.keyboard.press("Enter")
    expect(widget.get_by_role("heading", name=place)).to_be_visible()
    page.keyboard.press("Escape")
    expect(readout).to_contain_text("Point at a chunk")


def test_a_question_of_the_menu_has_its_passage_marked_and_is_answered(widget):
    widget.get_by_role("combobox", name="Questions").select_option(KNOWN.text)
    expect(widget.locator(".right-passage")).to_contain_text(re.compile(r"by words number \d.*: in the first five\."))
    expect(widget.locator(".ranking .tag").first).to_have_text("★")
    widget.get_by_role("button", name="Answer", exact=True).click()
    expect(widget.locator(".side.quote .text")).to_have_text("The captain was called Ahab.", timeout=PATIENCE)
    expect(widget.locator(".side.quote .verdict")).to_have_text("✓ right")
    expect(widget.locator(".side.without .text")).not_to_have_text("Not asked yet.")
    screenshot(widget, "retrieval_explorer_answers")
    widget.get_by_role("slider", name="threshold").fill("20")
    expect(widget.locator(".confidence")).to_contain_text("is below the threshold: refused.")
    expect(widget.locator(".side.with .text")).to_have_text("I find no passage that answers this.")
    widget.get_by_role("slider", name="threshold").fill("0")
    expect(widget.locator(".confidence")).to_contain_text("reaches the threshold")


def test_it_follows_the_theme_fits_at_every_width_and_says_that_the_kernel_is_gone(widget, page):
    check_looks(page, widget, "retrieval_explorer", ".map, .open, .ranking ol, .formula, .controls, .side")
    shut_down_kernel(page)
    ask(widget, "Ahab")
    expect(widget.get_by_role("alert").first).to_contain_text("The kernel is not running")
