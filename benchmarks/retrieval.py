"""Passages for the questions on the plays, answers from them, and refusals: each beside its simpler peer.

What is chosen (the fusion's constant and weights, the threshold of a refusal) is chosen on the questions on every other play,
and measured on the rest. Prints the tables of benchmarks/README.md. The exact vectors of all plays, beside which the packed
ones are measured, are made first where the cache has none, in seven minutes of one thread; then it takes some ten.
"""

import time
from collections.abc import Sequence
from itertools import product

import torch

from course_lib import checkpoints
from course_lib.applications.answers import best_threshold, confidence, quote, write_answers
from course_lib.applications.retrieval import (
    Chunk,
    Fusion,
    Search,
    SentenceEncoder,
    VectorIndex,
    chunk_vectors,
    cut_all,
    fuse,
    plays,
)
from course_lib.applications.retrieval.search import DEPTH
from course_lib.finetuning.intervals import bootstrap_interval
from course_lib.tasks.passages import Question, holds, is_right, names_someone, questions, unanswerable

N_SHOWN = 5
DEFAULT = (Fusion().k, Fusion().words / Fusion().meaning)
SETTINGS = (DEFAULT, *product((0, 1, 2, 5, 10, 60), (1.0, 1.5, 2.0, 3.0)))  # k and words' weight; of equals the first

ASKED = questions()
PLAYS = sorted({question.work for question in ASKED})
TRIED = [question.work in PLAYS[::2] for question in ASKED]  # questions on which something may be chosen
# the prompt was chosen on these
PROMPTED = [question for question, tried in zip(ASKED, TRIED, strict=True) if tried][::3]


def share(right: Sequence[bool]) -> str:
    """Return the share of `right` in per cent, with its interval."""
    low, high = bootstrap_interval([float(one) for one in right])
    return f"{100 * sum(right) / len(right):.1f} ({100 * low:.0f} to {100 * high:.0f})"


def difference(right: Sequence[bool], other: Sequence[bool]) -> str:
    """Return how many points more of `right` are right than of `other`, on the same items, with the interval."""
    gains = [float(a) - float(b) for a, b in zip(right, other, strict=True)]
    low, high = bootstrap_interval(gains)
    return f"{100 * sum(gains) / len(gains):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def row(name: str, right: Sequence[bool], kept: Sequence[bool], baseline: Sequence[bool]) -> None:
    """Print a line of a table: of the questions `kept` all, those that share words and those that do not; the gain last."""
    kinds = (lambda q: True, lambda q: q.shares_words, lambda q: not q.shares_words)
    parts = [[i for i, q in enumerate(ASKED) if kept[i] and kind(q)] for kind in kinds]
    cells = [share([right[i] for i in part]) for part in parts]
    gains = [difference([right[i] for i in part], [baseline[i] for i in part]) for part in (parts[0], parts[2])]
    print(f"| {name} | {' | '.join(cells + gains)} |", flush=True)


def found(search: Search, rankings: Sequence[list[int]], n_shown: int = N_SHOWN) -> list[bool]:
    """Return for each question whether a chunk with its answer is among the first `n_shown` of its ranking."""
    return [
        any(search.chunks[i].work == q.work and holds(q, search.chunks[i].text) for i in ranking[:n_shown])
        for q, ranking in zip(ASKED, rankings, strict=True)
    ]


def by_words(search: Search) -> list[list[int]]:
    """Return each question's ranking by BM25."""
    return [search.words.nearest(question.text, DEPTH)[0] for question in ASKED]


def by_meaning(search: Search, index: VectorIndex) -> list[list[int]]:
    """Return each question's ranking by the cosine with the vectors of `index`."""
    return [index.nearest(vector, DEPTH)[0] for vector in search.encoder([question.text for question in ASKED])]


def fused(first: list[list[int]], second: list[list[int]], k: float, weight: float) -> list[list[int]]:
    """Return the fusion of two rankings of each question."""
    return [list(fuse(pair, k, [weight, 1])) for pair in zip(first, second, strict=True)]


def packings(search: Search) -> None:
    """Print what packing costs: recall@5 of several sizes of vectors, alone and fused as the library does, beside the exact."""
    exact = chunk_vectors(search.chunks, search.encoder, exact=True)
    kinds = {
        "32": exact,
        "8": (exact / exact.abs().amax(dim=1, keepdim=True) * 127).round(),
        "2, those of the course": search.meanings.vectors,
        "1, the sign": exact.sign(),
    }
    rankings = {name: by_meaning(search, VectorIndex(vectors)) for name, vectors in kinds.items()}
    alone = {name: found(search, ranking) for name, ranking in rankings.items()}
    both = {name: found(search, fused(by_words(search), ranking, *DEFAULT)) for name, ranking in rankings.items()}
    print("\n| bits a number | the same five | meaning | more than exact | fused | more than exact |")
    print("|---|---|---|---|---|---|")
    for name, ranking in rankings.items():
        pairs = zip(ranking, rankings["32"], strict=True)
        same = sum(len({*own[:N_SHOWN]} & {*other[:N_SHOWN]}) for own, other in pairs) / (N_SHOWN * len(ASKED))
        cells = [cell for marks in (alone, both) for cell in (share(marks[name]), difference(marks[name], marks["32"]))]
        print(f"| {name} | {100 * same:.0f} % | {' | '.join(cells)} |", flush=True)


def recalls(search: Search) -> tuple[float, float]:
    """Print recall@5 of both indexes and their fusion; return the constant and the weight that were chosen."""
    rankings = by_words(search), by_meaning(search, search.meanings)
    tried = {setting: found(search, fused(*rankings, *setting)) for setting in SETTINGS}

    def best(kept: Sequence[bool]) -> tuple[float, float]:
        return max(
            tried, key=lambda setting: sum(right for right, keep in zip(tried[setting], kept, strict=True) if keep)
        )

    rest = [not one for one in TRIED]
    chosen, other = best(TRIED), best(rest)
    crossed = [tried[chosen if keep else other][i] for i, keep in enumerate(rest)]
    words, meaning = (found(search, ranking) for ranking in rankings)
    for title, kept in (("all questions", [True] * len(ASKED)), ("plays to choose on", TRIED), ("other plays", rest)):
        print(f"\n| {title} ({sum(kept)}) | all | words shared | none shared | more than words | more, none shared |")
        print("|---|---|---|---|---|---|")
        row("words (BM25)", words, kept, words)
        row("meaning (MiniLM)", meaning, kept, words)
        row("fused, k = 60, equal weights", tried[60, 1.0], kept, words)
        row(f"fused, k = {chosen[0]}, words × {chosen[1]}", tried[chosen], kept, words)
        if all(kept):
            row("fused, chosen on the other half each time", crossed, kept, words)
    print(f"\nOn the other plays k = {other[0]}, words × {other[1]} would have been chosen.")
    for depth in (1, 5, 20, 100):
        shares = [sum(found(search, ranking, depth)) / len(ASKED) for ranking in rankings]
        print(f"recall@{depth}: words {shares[0]:.3f}, meaning {shares[1]:.3f}")
    return chosen


def indexes(search: Search) -> None:
    """Print what a graph costs and saves, beside one product with all vectors."""
    queries = search.encoder([question.text for question in ASKED])
    start = time.perf_counter()
    graph = VectorIndex(search.meanings.vectors, graph=True)
    built = time.perf_counter() - start
    found = []
    for name, index in (("product", search.meanings), ("graph", graph)):
        start = time.perf_counter()
        found.append([set(index.nearest(query, N_SHOWN)[0]) for query in queries])
        print(f"{name}: {1000 * (time.perf_counter() - start) / len(queries):.2f} ms a question", flush=True)
    same = sum(len(a & b) for a, b in zip(*found, strict=True)) / sum(map(len, found[0]))
    print(f"graph: built in {built:.1f} s; {100 * same:.1f} % of the product's {N_SHOWN} nearest")


def refused(search: Search) -> None:
    """Print what refusals by several scores are worth, for each kind of question beside the unanswerable ones of its kind."""
    strange = unanswerable()
    texts = [*(question.text for question in ASKED), *strange]
    nearest = [search.words.nearest(text, 1) for text in texts]
    cosines = [search.meanings.nearest(vector, 1)[1][0] for vector in search.encoder(texts)]
    scores = {
        "rare words in the best chunk": [confidence(search, text) for text in texts],
        "largest BM25": [values[0] if values else 0.0 for _, values in nearest],
        "largest cosine": cosines,
        "words of the question": [float(len(text.split())) for text in texts],
    }
    for title, kind in (("words shared, or someone named", True), ("none shared, nobody named", False)):
        print(f"\n| {title} | threshold | precision | recall | refused of the answerable | of the unanswerable |")
        print("|---|---|---|---|---|---|")
        for name, values in scores.items():
            fits = [
                (s, tried)
                for s, q, tried in zip(values[: len(ASKED)], ASKED, TRIED, strict=True)
                if q.shares_words == kind
            ]
            misfits = [s for s, q in zip(values[len(ASKED) :], strange, strict=True) if names_someone(q) == kind]
            limit = best_threshold([s for s, tried in fits if tried], misfits[::2])
            wrongly = [s < limit for s, tried in fits if not tried]
            rightly = [s < limit for s in misfits[1::2]]
            precision = share([False] * sum(wrongly) + [True] * sum(rightly)) if sum(wrongly + rightly) > 1 else "–"
            parts = [f"{sum(part)} of {len(part)}" for part in (wrongly, rightly)]
            print(f"| {name} | {limit:.2f} | {precision} | {share(rightly)} | {' | '.join(parts)} |", flush=True)


def answered(search: Search, chosen: tuple[float, float]) -> None:
    """Print how many answers are right with the passage that has them, with the one found, and with none."""
    model, tokenizer = checkpoints.load("smollm2-135m-instruct")
    asked = [question for question in ASKED if question not in PROMPTED]

    def gold(question: Question) -> list[Chunk]:
        return [c for c in search.chunks if c.work == question.work and holds(question, c.text)][:1]

    def first(question: Question, n: int) -> list[Chunk]:
        vector = search.encoder([question.text])[0]
        pair = search.words.nearest(question.text, DEPTH)[0], search.meanings.nearest(vector, DEPTH)[0]
        return [search.chunks[i] for i in list(fuse(pair, chosen[0], [chosen[1], 1]))[:n]]

    given = {"none": [[]] * len(asked), "found": [first(q, 1) for q in asked], "gold": [gold(q) for q in asked]}
    right: dict[str, list[bool]] = {}
    for name, passages in given.items():
        answers = write_answers(model, tokenizer, [question.text for question in asked], passages)
        right[f"SmolLM2, {name}"] = [is_right(q, answer.text) for q, answer in zip(asked, answers, strict=True)]
    for name, passages in (*list(given.items())[1:], ("3 found", [first(q, 3) for q in asked])):
        quotes = [quote(search.encoder, q.text, p) for q, p in zip(asked, passages, strict=True)]
        right[f"nearest line, {name}"] = [is_right(q, answer.text) for q, answer in zip(asked, quotes, strict=True)]
    shares = [question.shares_words for question in asked]
    print(
        f"\n| {len(asked)} questions | all | words shared | none shared | more than without passage |\n|---|---|---|---|---|"
    )
    for name, marks in right.items():
        halves = [
            [mark for mark, shared in zip(marks, shares, strict=True) if shared == kind] for kind in (True, False)
        ]
        gain = difference(marks, right["SmolLM2, none"])
        print(f"| {name} | {share(marks)} | {share(halves[0])} | {share(halves[1])} | {gain} |", flush=True)


def main() -> None:
    """Print the tables."""
    encoder, chunks = SentenceEncoder(), cut_all(plays())
    hamlet = [chunk.text for chunk in chunks if chunk.work == "hamlet"]
    start, spent = time.perf_counter(), time.process_time()
    encoder(hamlet)
    wall, spent = time.perf_counter() - start, time.process_time() - spent
    print(
        f"{torch.get_num_threads()} threads; Hamlet's {len(hamlet)} chunks: {wall:.1f} s, {spent:.1f} s of processor time;"
    )
    print(
        f"all {len(chunks)} chunks at that rate: {spent * len(chunks) / len(hamlet):.0f} s of processor time",
        flush=True,
    )
    search = Search(chunks, encoder)
    packings(search)
    chosen = recalls(search)
    refused(search)
    indexes(search)
    answered(search, chosen)


if __name__ == "__main__":
    main()
