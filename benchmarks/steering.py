"""A slider from sad to joyful for SmolLM2: what it does to the words and to fluency, and beside it simpler ways to the same.

The vector is the difference of two sets of 24 sentences that differ in mood alone. 40 texts of 40 tokens a setting, drawn at
temperature 1 from the same random numbers. Mood is VADER's: the mean of ten people's ratings of the words, −4 to 4. Fluency is
what the unsteered model, asked without any mood, makes of the text. The layer was chosen on ten other requests.
Prints a table, in some ten minutes on one thread.
"""

from itertools import pairwise

import torch

from course_lib import checkpoints
from course_lib.applications.evaluation import answer_log_probs
from course_lib.applications.steering import steered, style_vector
from course_lib.architecture import TransformerLM
from course_lib.finetuning.intervals import bootstrap_interval
from course_lib.inference import Rule, Sampling, roll_out
from course_lib.inference.generation import chat_prompt, tokenless_ids
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
N_EACH, LENGTH, LAYER = 2, 40, 12
STRENGTHS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
WORD_BONUS = 3.0

MODEL, TOKENIZER = checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)
BANNED = sorted({*tokenless_ids(MODEL, TOKENIZER), *TOKENIZER.special_tokens.values()})


def mood_vector(layer: int) -> torch.Tensor:
    sets = ([TOKENIZER.encode(form.format(thing)) for form in forms for thing in THINGS] for forms in (JOYFUL, SAD))
    return style_vector(MODEL, *sets, layer)


def prompts(request: str) -> list[list[int]]:
    asked = [request.format(subject) for subject in SUBJECTS for _ in range(N_EACH)]
    return [TOKENIZER.encode(chat_prompt(TOKENIZER, [{"role": "user", "content": text}])) for text in asked]


def show(
    name: str,
    model: TransformerLM = MODEL,
    request: str = "Write a few sentences about {}.",
    rule: Rule | None = None,
) -> None:
    """Print a row: the mood of what is written, its nats a token for the unsteered model, and how many pairs come again."""
    asked = prompts(request)
    noise = torch.rand(len(asked), LENGTH, generator=torch.Generator().manual_seed(0))
    rules = None if rule is None else [rule] * len(asked)
    texts = roll_out(model, asked, LENGTH, Sampling(1.0), banned_ids=BANNED, rules=rules, noise=noise).answers
    moods = torch.tensor([rate(TOKENIZER.decode(text)).mean() for text in texts])
    plainly = prompts("Write a few sentences about {}.")
    nats = torch.stack([-part.mean() for part in answer_log_probs(MODEL, list(zip(plainly, texts, strict=True)))])
    again = sum(1 - len(set(pairwise(text))) / (LENGTH - 1) for text in texts) / len(texts)
    low, high = bootstrap_interval(moods)
    nats_low, nats_high = bootstrap_interval(nats)
    print(
        f"| {name} | {moods.mean():.2f} ({low:.2f} to {high:.2f}) | {nats.mean():.2f} ({nats_low:.2f} to {nats_high:.2f}) "
        f"| {again:.0%} | {' '.join(TOKENIZER.decode(texts[0])[:90].split())} |",
        flush=True,
    )


def rated_words(sign: int) -> Rule:
    """Return a rule that makes words likelier that people rate as joyful (sign 1) or sad (−1), whatever the text."""
    means = {word: sum(ratings) / len(ratings) for word, ratings in word_ratings().items()}
    scores = (means.get(TOKENIZER.piece(id).strip().lower(), 0) for id in range(MODEL.config.vocab_size))
    bonus = torch.tensor([WORD_BONUS * (sign * score > 1) for score in scores])
    return lambda _, logits: logits + bonus


def main() -> None:
    """Print the table."""
    print("| strength | mood | nats a token | pairs repeated | the first text |\n|---|---|---|---|---|")
    vector = mood_vector(LAYER)
    for strength in STRENGTHS:
        show(f"{strength:g}", steered(MODEL, vector, LAYER, strength))
    random = torch.randn(len(vector), generator=torch.Generator().manual_seed(0))
    show("2, along a random vector as long", steered(MODEL, random * vector.norm() / random.norm(), LAYER, 2.0))
    show("asked: joyful", request="Write a few joyful sentences about {}.")
    show("asked: sad", request="Write a few sad sentences about {}.")
    show("words rated joyful, +3", rule=rated_words(1))
    show("words rated sad, +3", rule=rated_words(-1))


if __name__ == "__main__":
    main()
