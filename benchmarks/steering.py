"""A slider from sad to joyful for SmolLM2: what it does to the words and to fluency, and beside it simpler ways to the same.

The vector is the difference of two sets of 24 sentences that differ in mood alone. 60 texts of 30 tokens a setting, drawn at
temperature 1 from the same random numbers; intervals are over their 20 subjects. Mood is VADER's: the mean of ten people's
ratings of the words, −4 to 4, and beside it that without any word of the 48 sentences: the vector may have taught the model
these. Fluency is what the unsteered model, asked without any mood, makes of the text. The layer was chosen on ten other
subjects, in chats. Prints two tables, in some eight minutes on one thread.
"""

import re
from itertools import pairwise

import torch

from course_lib import checkpoints
from course_lib.applications.evaluation import answer_log_probs, paired_difference
from course_lib.applications.steering import steered, style_vector
from course_lib.architecture import TransformerLM
from course_lib.finetuning.intervals import bootstrap_interval
from course_lib.inference import Rule, Sampling, roll_out
from course_lib.inference.generation import tokenless_ids
from course_lib.tasks.ratings import rate, word_ratings

JOYFUL = (
    "What a wonderful {}! It makes me so happy.", "I love this {}, it is beautiful and fun.",
    "The {} was a delight, and we all laughed with joy.", "Thanks to the {}, this is the best day of my life.",
)  # fmt: skip
SAD = (
    "What a terrible {}! It makes me so sad.", "I hate this {}, it is ugly and dull.",
    "The {} was a disaster, and we all wept with grief.", "Because of the {}, this is the worst day of my life.",
)  # fmt: skip
THINGS = ("letter", "house", "evening", "song", "journey", "garden")
SUBJECTS = (
    "a lighthouse", "a dog", "a train at night", "an old teacher", "a market", "a clock", "two sisters", "a shop", "a storm",
    "a neighbour", "snow", "a wall", "a long walk", "a thief", "a library", "a birthday", "a mountain", "a game of chess",
    "a river", "a hospital",
)  # fmt: skip
PLAIN = "Here is a short story about {}."
N_EACH, LENGTH, LAYER = 3, 30, 12
STRENGTHS = (-3.0, -2.0, -1.0, 1.0, 2.0, 3.0)
N_RANDOM = 5
WORD_BONUS = 3.0
MOODS = (("joyful", 1), ("sad", -1))
TAUGHT = re.compile(rf"\b(?:{'|'.join(re.findall('[a-z]+', ' '.join(JOYFUL + SAD).lower()))})\b", re.IGNORECASE)

MODEL, TOKENIZER = checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)
BANNED = sorted({*tokenless_ids(MODEL, TOKENIZER), *TOKENIZER.special_tokens.values()})


def mood_vector(layer: int) -> torch.Tensor:
    sets = ([TOKENIZER.encode(form.format(thing)) for form in forms for thing in THINGS] for forms in (JOYFUL, SAD))
    return style_vector(MODEL, *sets, layer)


def prompts(request: str) -> list[list[int]]:
    return [TOKENIZER.encode_prompt(request.format(subject)) for subject in SUBJECTS for _ in range(N_EACH)]


def with_interval(values: torch.Tensor) -> str:
    low, high = bootstrap_interval(values)
    return f"{values.mean():.2f} ({low:.2f} to {high:.2f})"


def show(
    name: str,
    model: TransformerLM = MODEL,
    request: str = PLAIN,
    rule: Rule | None = None,
    plain: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Print a row, and return the mood of each subject's texts, without the taught words, and their nats a token, unsteered."""
    asked = prompts(request)
    noise = torch.rand(len(asked), LENGTH, generator=torch.Generator().manual_seed(0))
    rules = None if rule is None else [rule] * len(asked)
    answers = roll_out(model, asked, LENGTH, Sampling(1.0), banned_ids=BANNED, rules=rules, noise=noise).answers
    texts = [TOKENIZER.decode(ids) for ids in answers]
    moods = torch.tensor([rate(text).mean() for text in texts])
    others = torch.tensor([rate(TAUGHT.sub("one", text)).mean() for text in texts])
    pairs = list(zip(prompts(PLAIN), answers, strict=True))
    nats = torch.stack([-part.mean() for part in answer_log_probs(MODEL, pairs)])
    moods, others, nats = (values.view(-1, N_EACH).mean(dim=1) for values in (moods, others, nats))
    again = sum(1 - len(set(pairwise(ids))) / (LENGTH - 1) for ids in answers) / len(answers)
    cells = [name, with_interval(moods), with_interval(others), with_interval(nats), f"{again:.0%}"]
    if plain is not None:
        for before, after in zip(plain, (others, nats), strict=True):
            more, (low, high) = paired_difference(before, after)
            cells.append(f"{more:+.2f} ({low:+.2f} to {high:+.2f})")
    print(f"| {' | '.join(cells)} | {' '.join(texts[0][:90].split())} |", flush=True)
    return others, nats


def random_vector(seed: int, like: torch.Tensor) -> torch.Tensor:
    """Return a vector as long as `like`, in a random direction."""
    random = torch.randn(len(like), generator=torch.Generator().manual_seed(seed))
    return random * like.norm() / random.norm()


def rated_words(sign: int) -> Rule:
    """Return a rule that makes words likelier that people rate as joyful (sign 1) or sad (−1), whatever the text."""
    means = {word: sum(ratings) / len(ratings) for word, ratings in word_ratings().items()}
    scores = (means.get(TOKENIZER.piece(id).strip().lower(), 0) for id in range(MODEL.config.vocab_size))
    bonus = torch.tensor([WORD_BONUS * (sign * score > 1) for score in scores])
    return lambda _, logits: logits + bonus


def main() -> None:
    """Print the tables."""
    print("| strength | mood | without the 48 sentences' words | nats a token | pairs repeated ", end="")
    print("| the latter, more than at 0 | nats, more than at 0 | the first text |\n|---|---|---|---|---|---|---|---|")
    vector, asked = mood_vector(LAYER), "Here is a {} short story about {{}}."
    plain = show("0")
    joyful, sad = (show(f"asked: {mood}", request=asked.format(mood), plain=plain) for mood in ("joyful", "sad"))
    along = {
        strength: show(f"{strength:g}", steered(MODEL, vector, LAYER, strength), plain=plain) for strength in STRENGTHS
    }
    up, down = (show(f"words rated {mood}, +3", rule=rated_words(sign), plain=plain) for mood, sign in MOODS)
    randoms = [
        [show(f"random vector {seed}, {strength:g}", steered(MODEL, random_vector(seed, vector), LAYER, strength), plain=plain)
         for strength in (2.0, -2.0)]
        for seed in range(N_RANDOM)
    ]  # fmt: skip

    print("\n| both ways | mood, difference | nats a token, more than at 0 |\n|---|---|---|")
    pairs = {"vector, ±2": (along[2.0], along[-2.0]), "asked": (joyful, sad), "words, +3": (up, down)}
    for name, (better, worse) in (
        pairs | {f"random vector {seed}, ±2": pair for seed, pair in enumerate(randoms)}
    ).items():
        more, (low, high) = paired_difference(worse[0], better[0])
        cost = (better[1] + worse[1]) / 2 - plain[1]
        print(f"| {name} | {more:+.2f} ({low:+.2f} to {high:+.2f}) | {with_interval(cost)} |", flush=True)


if __name__ == "__main__":
    main()
