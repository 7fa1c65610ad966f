"""Retrieval: chunks that can be opened, vectors as the peer makes them, a cache that heals, both indexes and their fusion."""

import json

import pytest
import torch
import transformers

from course_lib import assets, storage
from course_lib.applications.retrieval import (
    Chunk,
    Fusion,
    Plane,
    Search,
    SentenceEncoder,
    VectorIndex,
    WordIndex,
    chunk_vectors,
    cut,
    cut_all,
    fuse,
    lessons,
    open_chunk,
    packed,
    plays,
    words,
)
from course_lib.applications.retrieval.packed import pack, packed_vectors, unpack, write_packed
from course_lib.applications.retrieval.vectors import _kept, by_work, vectors_folder
from course_lib.tasks.passages import holds, questions

CPU = torch.device("cpu")
TEXT = "ACT I.\n\n  First line.\nSecond line.\n\n\nThird line.\nFourth line.\nFifth line.\n"
TEXTS = {
    "farm": "The cow gives milk.\nThe hen lays eggs.\nThe farmer ploughs his field.\nThe horse pulls a cart.\n",
    "sea": "The sailor fears the storm.\nA whale swims below.\nThe mast is broken.\nThe captain prays.\n",
}


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder(CPU, torch.float32)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "own_dir", lambda: tmp_path)
    return tmp_path


# ---------------------------------------------------------------- chunks


def test_chunks_know_their_lines_and_can_be_opened():
    chunks = cut("small", TEXT, n_lines=2)
    assert [(c.first, c.last) for c in chunks] == [(1, 3), (4, 7), (8, 9)]
    assert chunks[0] == Chunk("small", 1, 3, "ACT I.\nFirst line.")
    assert chunks[1].place == "small, lines 4–7"
    shown = open_chunk(chunks[1], TEXT, margin=1)
    assert shown.splitlines() == [
        "     3     First line.",
        "     4 │ Second line.",
        "     5 │",
        "     6 │",
        "     7 │ Third line.",
        "     8   Fourth line.",
    ]
    assert open_chunk(chunks[0], TEXT, margin=99).count("\n") == 8


def test_chunks_overlap_and_lose_no_line():
    lines = [f"line {i}" for i in range(23)]
    for n_lines, overlap in ((5, 0), (5, 2), (5, 4), (1, 0), (23, 22), (50, 3)):
        chunks = cut("w", "\n".join(lines), n_lines, overlap)
        parts = [chunk.text.split("\n") for chunk in chunks]
        assert parts[0] + [line for part in parts[1:] for line in part[overlap:]] == lines
        assert all(len(part) == min(n_lines, 23) for part in parts[:-1])
        assert len(parts[-1]) > overlap or len(parts) == 1


def test_a_chunk_ends_before_it_has_too_many_words():
    text = "a b c\nd e\nf g h i j k l\nm\nn"
    assert [c.text for c in cut("w", text, n_lines=3, n_words=5)] == ["a b c\nd e", "f g h i j k l", "m\nn"]
    assert [c.text for c in cut("w", text, n_lines=3, overlap=2, n_words=5)][:2] == ["a b c\nd e", "d e"]


@pytest.mark.parametrize("text", ["", " \n\n\t"])
def test_no_lines_are_no_chunks(text):
    assert cut("w", text) == []


@pytest.mark.parametrize(
    "wrong",
    [{"n_lines": 0}, {"n_lines": 2.5}, {"overlap": 12}, {"overlap": -1}, {"n_words": 0}, {"n_lines": float("nan")}],
)
def test_nonsense_in_place_of_lengths_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        cut("w", TEXT, **wrong)
    with pytest.raises(ValueError, match="text must be str"):
        cut("w", None)


def test_a_chunk_of_another_text_does_not_open():
    chunk = cut("small", TEXT)[0]
    with pytest.raises(ValueError, match="something else in lines 1–9"):
        open_chunk(chunk, TEXT.replace("Third", "3rd"))
    with pytest.raises(ValueError, match="something else"):
        open_chunk(chunk, "")


def test_every_chunk_of_the_plays_opens_and_the_answers_stand_in_them():
    texts = plays()
    chunks = cut_all(texts)
    assert len(texts) == 42 and 12_000 < len(chunks) < 12_500
    for chunk in chunks[::97]:
        assert chunk.text.splitlines()[0] in open_chunk(chunk, texts[chunk.work])
    found = [any(holds(q, c.text) for c in chunks if c.work == q.work) for q in questions()]
    assert sum(found) >= len(found) - 1  # two lines of an answer may lie in two chunks


def test_lessons_are_their_markdown(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "Words."]},
        {"cell_type": "code", "source": ["x = 1"]},
        {"cell_type": "markdown", "source": "More."},
    ]
    (tmp_path / "01_one.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert lessons(tmp_path) == {"01_one": "# Title\nWords.\n\nMore."}
    (tmp_path / "02_two.ipynb").write_text('{"cells": [3]}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"02_two.ipynb is no notebook"):
        lessons(tmp_path)
    (tmp_path / "02_two.ipynb").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"02_two.ipynb is no JSON"):
        lessons(tmp_path)
    with pytest.raises(ValueError, match="holds no notebook"):
        lessons(tmp_path / "nowhere")


# ---------------------------------------------------------------- vectors


def test_vectors_are_those_of_sentence_transformers(encoder):
    """Its definition, on `transformers`' BERT: the mean over what is no padding, at length 1, of 256 tokens at most."""
    folder = assets.fetch("all-minilm-l6-v2")
    texts = ["Who is there?", "A fistula, my lord.", "", "word " * 1000, "Ünïcode — 語\u0000!"]
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        stream = theirs(**tokens).last_hidden_state
    mask = tokens.attention_mask[..., None]
    expected = torch.nn.functional.normalize((stream * mask).sum(dim=1) / mask.sum(dim=1), dim=-1)
    torch.testing.assert_close(encoder(texts), expected, atol=1e-5, rtol=1e-4)


def test_a_vector_does_not_depend_on_its_company(encoder):
    texts = [f"{'very ' * (i % 40)}old king {i}" for i in range(90)]
    together = encoder(texts)
    torch.testing.assert_close(encoder(texts[7:8])[0], together[7], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(90))
    assert encoder([]).shape == (0, 384)


def test_a_single_string_and_a_broken_encoder_are_refused(encoder, monkeypatch):
    with pytest.raises(ValueError, match="single string"):
        encoder("To be")
    monkeypatch.setattr(encoder, "_read", lambda ids: torch.full((len(ids), 384), torch.nan))
    with pytest.raises(FloatingPointError, match="no numbers"):
        encoder(["To be"])


def test_vectors_are_kept_a_work_at_a_time_and_damage_is_mended(encoder, own_cache, monkeypatch):
    chunks = cut_all(TEXTS, n_lines=2)
    asked = []
    read = SentenceEncoder._read
    monkeypatch.setattr(SentenceEncoder, "_read", lambda self, ids: asked.append(len(ids)) or read(self, ids))
    first = chunk_vectors(chunks, encoder)
    assert first.shape == (4, 384) and sum(asked) == 4
    assert torch.equal(chunk_vectors(chunks, encoder), first) and sum(asked) == 4
    assert torch.equal(chunk_vectors(chunks[2:], encoder), first[2:]) and sum(asked) == 4  # one work of the two
    file = vectors_folder(chunks[:2], encoder) / "vectors.safetensors"
    for damage in (b"", file.read_bytes()[:-100], file.read_bytes()[:-1] + b"?"):
        file.write_bytes(damage)
        before = sum(asked)
        assert torch.equal(chunk_vectors(chunks, encoder), first) and sum(asked) == before + 2
    assert vectors_folder(cut_all(TEXTS, n_lines=1)[:4], encoder) != vectors_folder(chunks[:2], encoder)


def test_a_work_may_have_any_name(encoder, own_cache):
    for name in ("../../out", "a/b", "", "Ünïcode: 語"):
        folder = vectors_folder(cut(name, TEXT), encoder)
        assert folder.resolve().parent == (own_cache / "vectors").resolve()


def test_who_is_interrupted_goes_on_at_the_same_work(encoder, own_cache, monkeypatch):
    chunks = cut_all(TEXTS, n_lines=2)
    call = SentenceEncoder.__call__

    def interrupted(self, texts):
        if "sailor" in texts[0]:
            raise KeyboardInterrupt
        return call(self, texts)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SentenceEncoder, "__call__", interrupted)
        chunk_vectors(chunks, encoder)
    assert _kept(chunks[:2], encoder) is not None and _kept(chunks[2:], encoder) is None
    assert chunk_vectors(chunks, encoder).shape == (4, 384)
    assert len(list((own_cache / "vectors").glob("[!.]*"))) == 2  # nothing half made is left


def test_no_chunks_are_refused(encoder):
    with pytest.raises(ValueError, match="no chunks"):
        chunk_vectors([], encoder)
    with pytest.raises(ValueError, match="no chunks"):
        Search([], encoder)


# ---------------------------------------------------------------- vectors that come with the course


def test_packed_numbers_by_hand():
    """Of four dimensions a number is some ½ large: the levels' borders are −½, 0 and ½."""
    vectors = torch.tensor([[-0.9, -0.1, 0.1, 0.9], [0.49, 0.51, -0.49, -0.51]])
    assert pack(vectors).tolist() == [[0b11100100], [0b00011110]]
    expected = torch.tensor([[-1.5, -0.5, 0.5, 1.5], [0.5, 1.5, -0.5, -1.5]]) / 5**0.5
    torch.testing.assert_close(unpack(pack(vectors)), expected)


def test_what_is_packed_points_almost_the_same_way():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(300, 384, generator=generator), dim=-1)
    unpacked = unpack(pack(vectors))
    assert pack(vectors).shape == (300, 96) and unpacked.dtype == torch.float32
    torch.testing.assert_close(unpacked.norm(dim=-1), torch.ones(300))
    cosines = (vectors * unpacked).sum(dim=-1)
    assert 0.93 < cosines.mean() < 0.95 and cosines.min() > 0.9
    assert torch.equal(pack(unpacked), pack(vectors))


def test_the_vectors_of_all_plays_come_with_the_course(encoder, own_cache, monkeypatch):
    works = by_work(cut_all(plays()))
    assert len(works) == 42 and all(packed_vectors(work, encoder) is not None for work in works)
    card = (packed._DATA.parent / "README.md").read_text(encoding="utf-8")
    assert f"{sum(map(len, works)):,} chunks" in card and f"{packed._DATA.stat().st_size / 1e6:.2f} MB" in card
    small = [chunk for work in works if len(work) < 12 for chunk in work]
    exact = chunk_vectors(small, encoder, exact=True)
    monkeypatch.setattr(encoder, "_read", None)  # nothing is read any more
    unpacked = chunk_vectors(small, encoder)
    assert (pack(exact) == pack(unpacked)).double().mean() > 0.99  # another processor rounds otherwise
    assert (exact * unpacked).sum(dim=-1).min() > 0.9
    assert chunk_vectors(cut_all(plays()), encoder).shape == (sum(map(len, works)), 384)


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "_DATA", tmp_path / "data" / "plays.safetensors")
    return packed._DATA


def test_other_texts_and_another_encoder_have_vectors_of_their_own(encoder, own_cache, own_file, monkeypatch):
    farm, sea = by_work(cut_all(TEXTS, n_lines=2))
    write_packed([farm], [torch.nn.functional.normalize(torch.ones(2, 384), dim=-1)], encoder)
    torch.testing.assert_close(chunk_vectors(farm, encoder), torch.full((2, 384), 384**-0.5))
    assert packed_vectors(sea, encoder) is None and packed_vectors(farm[:1], encoder) is None
    assert torch.equal(chunk_vectors([*sea, *farm], encoder)[:2], encoder([chunk.text for chunk in sea]))
    assert chunk_vectors(farm, encoder, exact=True).std() > 0.01
    sha256, longest, *_ = encoder.recipe
    for recipe, known in (
        ([sha256, longest, "torch.float16", "cuda"], True),
        (["0" * 64, longest], False),
        ([sha256, 128], False),
    ):
        monkeypatch.setattr(SentenceEncoder, "recipe", recipe)
        assert (packed_vectors(farm, encoder) is not None) is known


def test_a_damaged_file_of_packed_vectors_is_told(encoder, own_cache, own_file):
    farm, _ = by_work(cut_all(TEXTS, n_lines=2))
    write_packed([farm], [encoder([chunk.text for chunk in farm])], encoder)
    whole = own_file.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    for damage in (b"", b"?" * 100, whole[:-1], flipped, None):
        own_file.unlink() if damage is None else own_file.write_bytes(damage)
        packed._read.cache_clear()
        with pytest.raises(ValueError, match=r"plays.safetensors is missing or damaged.*retrieval` makes it anew"):
            chunk_vectors(farm, encoder)
        assert chunk_vectors(farm, encoder, exact=True).shape == (2, 384)
    write_packed([farm], [encoder([chunk.text for chunk in farm])], encoder)
    assert own_file.read_bytes() == whole and chunk_vectors(farm, encoder).shape == (2, 384)


@pytest.mark.parametrize("graph", [False, True])
def test_the_nearest_are_found_exactly_and_along_a_graph(graph):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(500, 32, generator=generator)
    queries = vectors[:20] + 0.3 * torch.randn(20, 32, generator=generator)
    index = VectorIndex(vectors, graph=graph)
    right = 0
    for query in queries:
        cosines = torch.nn.functional.cosine_similarity(vectors, query[None])
        items, scores = index.nearest(query, 10)
        torch.testing.assert_close(torch.tensor(scores), cosines[items], atol=1e-5, rtol=1e-4)
        right += len(set(items) & set(cosines.topk(10).indices.tolist()))
    assert right == 200 if not graph else right >= 196
    assert len(index.nearest(queries[0], 10_000)[0]) == 500


def test_vectors_without_direction_are_refused():
    for wrong in (torch.zeros(2, 3), torch.tensor([[1.0, torch.nan]]), torch.tensor([[torch.inf, 1.0]])):
        with pytest.raises(ValueError, match="zero or not finite"):
            VectorIndex(wrong)
    for wrong in (torch.zeros(0, 3), torch.ones(3)):
        with pytest.raises(ValueError, match="at least one"):
            VectorIndex(wrong)
    with pytest.raises(ValueError, match="zero or not finite"):
        VectorIndex(torch.ones(2, 3)).nearest(torch.full((3,), torch.nan))
    with pytest.raises(ValueError, match="n must be"):
        VectorIndex(torch.ones(2, 3)).nearest(torch.ones(3), 0)


# ---------------------------------------------------------------- words


def test_words_are_folded():
    assert words("Th'usurp’st, O KING--of_Denmark: 3 Élan!") == [
        "th'usurp'st",
        "o",
        "king",
        "of",
        "denmark",
        "3",
        "élan",
    ]


def test_bm25_is_the_formula():
    """Lucene's: ln(1 + (N − n + ½) ⁄ (n + ½)) · f ⁄ (f + 1.5 (0.25 + 0.75 length ⁄ mean))."""
    texts = ["the king the king", "the queen", "a fool and a king and a crown", "exit"]
    items, scores = WordIndex(texts).nearest("King of the fools?", 4)
    tokens = [text.split() for text in texts]
    mean = sum(map(len, tokens)) / 4

    def score(text: list[str]) -> float:
        total = 0.0
        for word in ("king", "the"):
            n, f = sum(word in other for other in tokens), text.count(word)
            idf = torch.tensor(1 + (4 - n + 0.5) / (n + 0.5)).log().item()
            total += idf * f / (f + 1.5 * (0.25 + 0.75 * len(text) / mean))
        return total

    assert items == [0, 1, 2]
    assert scores == pytest.approx([score(tokens[i]) for i in items], rel=1e-5)


def test_coverage_is_the_share_of_rare_words():
    index = WordIndex(["the king", "the queen", "the fool"])
    rare, common, unknown = (torch.tensor(1 + (3 - n + 0.5) / (n + 0.5)).log().item() for n in (1, 3, 0))
    expected = (rare + common) / (rare + common + unknown)
    assert index.coverage("The king's, the KING? xyzzy: king", 0) == pytest.approx(
        (rare + common) / (rare + common + 2 * unknown), rel=1e-6
    )
    assert index.coverage("the king xyzzy", 0) == pytest.approx(expected, rel=1e-6)
    assert index.coverage("king " * 10_000, 0) == 1 and index.coverage("king", 1) == 0 and index.coverage("?", 0) == 0


def test_queries_without_known_words_find_nothing():
    index = WordIndex(["the king", "the queen"])
    for query in ("", "?!", "xyzzy", "語" * 50):
        assert index.nearest(query) == ([], [])
    with pytest.raises(ValueError, match="no texts with words"):
        WordIndex(["", "?"])
    with pytest.raises(ValueError, match="no texts with words"):
        WordIndex([])
    with pytest.raises(ValueError, match="single string"):
        WordIndex("the king")


# ---------------------------------------------------------------- fusion


def test_fusion_is_the_sum_of_reciprocal_ranks():
    scores = fuse([[3, 1, 2], [2, 4]])
    assert scores == pytest.approx({2: 1 / 63 + 1 / 61, 3: 1 / 61, 1: 1 / 62, 4: 1 / 62})
    assert list(scores) == [2, 3, 1, 4]  # of equals the one met first
    assert list(fuse([[3, 1, 2], [2, 4]], weights=(2, 1))) == [2, 3, 1, 4]
    assert fuse([[5], []], k=0, weights=[0.5, 9]) == {5: 0.5}
    assert fuse([]) == {} and fuse([[], []]) == {}


def test_the_constant_decides_between_first_in_one_list_and_somewhere_in_both():
    first, second = [0, *range(100, 139), 1], [*range(200, 240), 1]
    assert next(iter(fuse([first, second], k=60))) == 1  # 41st in both
    assert next(iter(fuse([first, second], k=1))) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": -1}, "k must be"),
        ({"k": float("nan")}, "k must be"),
        ({"weights": [1]}, "2 rankings need as many weights"),
        ({"weights": [1, -1]}, "a weight must be"),
        ({"weights": [1, float("nan")]}, "a weight must be"),
    ],
)
def test_nonsense_is_not_fused(wrong, message):
    with pytest.raises(ValueError, match=message):
        fuse([[1], [2]], **wrong)
    with pytest.raises(ValueError, match="twice"):
        fuse([[1, 1]])
    with pytest.raises(ValueError, match="words must be"):
        Fusion(words=-1)


# ---------------------------------------------------------------- all together


@pytest.fixture
def search(encoder, own_cache) -> Search:
    return Search(cut_all(TEXTS, n_lines=1), encoder)


def test_a_search_by_words_by_meaning_and_by_both(search):
    assert search.by_words("who ploughs?", 3)[0].chunk == Chunk("farm", 3, 3, "The farmer ploughs his field.")
    assert len(search.by_words("who ploughs?", 3)) == 1
    assert search.by_meaning("a huge animal of the ocean", 2)[0].chunk.text == "A whale swims below."
    both = search.both("Which mariner dreads the tempest, a storm?", 3)
    assert both[0].chunk.text == "The sailor fears the storm." and both[0].score == pytest.approx(2.5 / 6)
    assert [hit.score for hit in both] == sorted((hit.score for hit in both), reverse=True)


def test_weights_of_zero_and_one_leave_one_ranking(encoder, own_cache):
    query = "Which big beast pulls something?"
    for fusion, ranking in ((Fusion(words=0), "by_meaning"), (Fusion(meaning=0), "by_words")):
        search = Search(cut_all(TEXTS, n_lines=1), encoder, fusion)
        alone = [hit.chunk for hit in getattr(search, ranking)(query, 3)]
        assert [hit.chunk for hit in search.both(query, 3)][: len(alone)] == alone


@pytest.mark.parametrize("way", ["by_words", "by_meaning", "both"])
def test_odd_queries(search, way):
    ask = getattr(search, way)
    for empty in ("", " \n"):
        with pytest.raises(ValueError, match="empty"):
            ask(empty)
    for wrong in (None, 3, ["a"], float("nan")):
        with pytest.raises(ValueError, match="query must be str"):
            ask(wrong)
    with pytest.raises(ValueError, match="n must be"):
        ask("storm", 0)
    assert ask("the storm " * 10_000)[0].chunk.work == "sea"
    assert len(ask("the", 1000)) <= 8


def test_a_map_keeps_what_differs_most():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(200, 16, generator=generator) * torch.tensor([9.0, 5.0] + [0.1] * 14) + 3
    plane = Plane(vectors)
    assert plane.points.shape == (200, 2) and plane.share > 0.99
    torch.testing.assert_close(torch.pdist(plane.points), torch.pdist(vectors), atol=0.6, rtol=0.05)
    torch.testing.assert_close(plane(vectors[3]), plane.points[3])
    torch.testing.assert_close(Plane(vectors.flip(0)).points.flip(0), plane.points, atol=1e-4, rtol=1e-4)
    for wrong in (torch.ones(2, 16), torch.ones(16), torch.full((5, 4), torch.nan)):
        with pytest.raises(ValueError, match="a map needs"):
            Plane(wrong)
    with pytest.raises(ValueError, match="all alike"):
        Plane(torch.ones(5, 4))
