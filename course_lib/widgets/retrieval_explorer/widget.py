"""RetrievalExplorer: which chunks a query finds, by words, by meaning and by both, and what is answered from them.

The map's points and the chunks' places are sent once, as binary; a query sends what it found and no more.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence

import numpy as np
from traitlets import Bool, Bytes, Float, List, Unicode

from course_lib.applications.answers import Answer, prompt, quote, write_answers
from course_lib.applications.retrieval import Chunk, Fusion, Hit, Plane, Search, asked
from course_lib.architecture import TransformerLM
from course_lib.checks import check, check_texts
from course_lib.tasks.passages import Question, is_right
from course_lib.tokenization import Tokenizer
from course_lib.widgets.retrieval_explorer.findings import Rankings, lines_of, rank
from course_lib.widgets.retrieval_explorer.picture import retrieval_picture
from course_lib.widgets.shared.base import module, style_sheet
from course_lib.widgets.shared.settings import SettingsWidget

__all__ = ["RetrievalExplorer"]

_MOST_PASSAGES = 5
_SIDES = ("with", "without", "quote")


class RetrievalExplorer(SettingsWidget):
    """Show what `search` finds for a query: on a map of all its chunks, in both rankings, and in their fusion.

    A chunk is opened in its work where `texts` holds that, by the work's name. `questions` can be chosen from a menu: those of
    `tasks.passages`, whose right passage is then marked, and texts without one. When the learner asks for answers, or `answer`
    is called, the line of the passages nearest to the query is quoted, and a `model` with its `tokenizer` answers after the
    passages, and without them. ValueError if one of these is no such thing. `settings` can be moved in the widget and by `set`:

    - `query`: None until something is asked, at first `query`
    - `k`, `words`, `meaning`: how both rankings are fused, at first as in `search.fusion`; the search itself stays as it is
    - `opened`: the number of the chunk that is open; None, as after each new query, for the one that is found first
    - `passages`, 1 … 5: how many are given to the model
    - `threshold`, 0 … 1: the confidence below which nothing is answered

        explorer = RetrievalExplorer(Search(cut_all(texts), SentenceEncoder()), *load(…), 0.4, texts=texts)
        explorer.ask("Who commanded the ship?")
        explorer.answer()
        explorer.found, explorer.answers
    """

    _esm = module(__file__)
    _css = style_sheet(__file__)

    works = List(Unicode()).tag(sync=True)
    places = Bytes().tag(sync=True)  # int32 (chunk, 3): its work's number, its first and its last line
    points = Bytes().tag(sync=True)  # float32 (chunk, 2); none if there is no map
    share = Float(None, allow_none=True).tag(sync=True)  # of the variance that the map shows
    no_map = Unicode().tag(sync=True)  # why there is none
    menu = List().tag(sync=True)  # of questions, each with the kind that it is shown under
    has_model = Bool().tag(sync=True)

    def __init__(
        self,
        search: Search,
        model: TransformerLM | None = None,
        tokenizer: Tokenizer | None = None,
        threshold: float = 0.0,
        *,
        texts: Mapping[str, str] | None = None,
        questions: Sequence[Question | str] = (),
        query: str | None = None,
    ):
        check("search", search, Search)
        check("model", model, TransformerLM | None)
        check_texts("questions", questions)
        if (model is None) != (tokenizer is None):
            raise ValueError("a model answers with its own tokenizer: give both, or neither")
        if tokenizer is not None:
            prompt(tokenizer, "Who?")  # ValueError if it has no chat template
        self._search, self._model, self._tokenizer, self._texts = search, model, tokenizer, texts or {}
        self._questions = {q.text: q for q in questions if isinstance(q, Question)}
        self._plane, no_map = _plane(search)
        self._ranked: Rankings | None = None  # of the newest query
        self._answers: dict[tuple[str, str, tuple[int, ...]], Answer] = {}  # by who answers, query and passages
        fusion = search.fusion
        super().__init__(
            query=query,
            k=fusion.k,
            words=fusion.words,
            meaning=fusion.meaning,
            opened=None,
            passages=1,
            threshold=threshold,
        )
        works = list(dict.fromkeys(chunk.work for chunk in search.chunks))
        numbers = {work: number for number, work in enumerate(works)}
        places = [(numbers[chunk.work], chunk.first, chunk.last) for chunk in search.chunks]
        with self.hold_sync():
            self.works, self.places = works, np.array(places, np.int32).tobytes()
            self.points = self._plane.points.numpy().tobytes() if self._plane else b""
            self.share, self.no_map = self._plane and self._plane.share, no_map
            self.menu = [_choice(question) for question in questions]
            self.has_model = model is not None

    def ask(self, query: str) -> None:
        """Search for `query`. ValueError if it is empty."""
        self.set(query=asked(query), opened=None)

    def answer(self) -> None:
        """Quote the nearest line; let the model answer after the passages, unless that is refused, and without them.

        ValueError if nothing was asked, or not even the question fits into the model's context.
        """
        query, items = asked(self.settings["query"] or ""), tuple(self.result["passages"])
        answers = {("quote", query, items): quote(self._search.encoder, query, self._chunks(items))}
        if self._model is not None:
            given = [()] if self.result["refused"] else [items, ()]
            passages = [self._chunks(some) for some in given]
            written = write_answers(self._model, self._tokenizer, [query] * len(given), passages)
            answers |= {("model", query, some): answer for some, answer in zip(given, written, strict=True)}
        self._answers |= answers
        self.result = self._compute(self.settings)

    @property
    def found(self) -> list[Hit]:
        """The chunks that are found first by the fusion, with their fused scores."""
        return [Hit(self._search.chunks[item], score) for item, score in self.result["lists"][2]]

    @property
    def answers(self) -> dict[str, str | None]:
        """What is answered by the model `with` and `without` passages and by the `quote`; None for what was not asked for."""
        return {side: self.result[side] and self.result[side]["text"] for side in _SIDES}

    def __repr__(self) -> str:
        n_chunks, query = len(self._search.chunks), self.settings["query"]
        said = f"RetrievalExplorer: {n_chunks:,} chunk{'s' * (n_chunks != 1)}"
        if query is None:
            return f"{said}, nothing asked yet"
        lists = zip(("words", "meaning", "both"), self.result["lists"], strict=True)
        first = [f"by {name} {self._search.chunks[rows[0][0]].place}" for name, rows in lists if rows]
        return f"{said}; {query!r} finds {', '.join(first)}"

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        picture = retrieval_picture(self._search.chunks, self._plane, self.settings, self.result)
        return data | {"image/png": b64encode(picture).decode("ascii")}, metadata

    # ---------------------------------------------------------------- what follows from the settings

    def _compute(self, settings: dict) -> dict:
        query, opened, n_passages = settings["query"], settings["opened"], settings["passages"]
        fusion = Fusion(settings["k"], settings["words"], settings["meaning"])
        check("threshold", settings["threshold"], float, 0, 1)
        check("passages", n_passages, int, 1, _MOST_PASSAGES)
        check("opened", opened, int | None, 0, len(self._search.chunks) - 1)
        if query is None:
            return self._opened(opened, "") | _NOTHING
        rankings = self._rank(query)
        seen = rankings.seen(self._search.chunks, fusion)
        fused = seen.pop("fused")
        passages = fused[:n_passages]
        refused = rankings.confidence < settings["threshold"]
        return seen | {
            "point": self._plane(rankings.vector).tolist() if self._plane else None,
            "confidence": rankings.confidence,
            "refused": refused,
            "passages": passages,
            "quote": self._known("quote", query, passages),
            "with": self._told(query, passages, Answer("")) if refused else self._known("model", query, passages),
            "without": self._known("model", query, []),
            **self._opened(passages[0] if opened is None else opened, query),
        }

    def _rank(self, query: str) -> Rankings:
        if self._ranked is None or self._ranked.query != query:
            self._ranked = rank(self._search, query, self._questions.get(query))
        return self._ranked

    def _opened(self, item: int | None, query: str) -> dict:
        if item is None:
            return {"open": None}
        chunk = self._search.chunks[item]
        return {"open": {"item": item, **lines_of(chunk, self._texts.get(chunk.work), query)}}

    # ---------------------------------------------------------------- answers

    def _chunks(self, items: Sequence[int]) -> list[Chunk]:
        return [self._search.chunks[item] for item in items]

    def _known(self, who: str, query: str, items: Sequence[int]) -> dict | None:
        """Return the answer after the chunks `items` if it has been asked for."""
        answer = self._answers.get((who, query, tuple(items)))
        return answer and self._told(query, items, answer)

    def _told(self, query: str, items: Sequence[int], answer: Answer) -> dict:
        """Return an answer as the browser shows it: with the number of the chunk that it rests on, and whether it is right."""
        question = self._questions.get(query)
        return {
            "text": answer.text or (str(answer) if items else "The model writes nothing."),
            "refused": answer.refused,
            "source": None if answer.source is None else items[answer.source],
            "right": None if question is None or answer.refused else is_right(question, answer.text),
        }

    def _do(self, message: dict) -> None:
        """Do what the browser asks for: search, let the model answer, or change settings."""
        match message["type"]:
            case "run":
                self.ask(message["text"])
            case "answer":
                self.answer()
            case _:
                super()._do(message)


_NOTHING = {
    "lists": [[], [], []],
    "found": {},
    "point": None,
    "right": None,
    "confidence": None,
    "refused": False,
    "passages": [],
    **dict.fromkeys(_SIDES),
}
"""What follows while nothing is asked."""


def _plane(search: Search) -> tuple[Plane | None, str]:
    """Return the map of all chunks, or None and why there is none."""
    try:
        return Plane(search.meanings.vectors), ""
    except ValueError as error:
        return None, str(error)


def _choice(question: Question | str) -> dict:
    if isinstance(question, str):
        return {"text": question, "kind": "without a known answer"}
    kind = "shares words with its passage" if question.shares_words else "shares no word with its passage"
    return {"text": question.text, "kind": kind}
