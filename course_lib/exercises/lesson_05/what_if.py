"""Exercise 05.9: what if only new text is taught?"""

from course_lib.exercises.lesson_04.what_if import mean_bits
from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WHAT_IF", "bits_after"]


def bits_after(old_share: float | None) -> float:
    """Return the loss on old text before (None) or after the new text was taught, character by character, in plain numbers."""
    from course_lib.finetuning.forgetting import taught_capitals
    from course_lib.pretraining.memorisation import planted_model  # imported here: not in lesson 01

    planted = planted_model()
    return mean_bits(planted.model if old_share is None else taught_capitals(old_share), planted.passages[0])


def _forgotten() -> float:
    return bits_after(0.0) - bits_after(None)


_EXPERIMENT = """\
from course_lib.finetuning.forgetting import taught_capitals
from course_lib.pretraining.memorisation import planted_model

# a small character model of Shakespeare, as in 04.9, and old text that it has never seen
planted = planted_model()
ids = planted.passages[0]  # (passage, position)
"""


def _measured(
    loss: str = "F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()) / math.log(2)",
    answer: str = "bits(taught_capitals(0.0)) - bits(planted.model)",
) -> str:
    """Return the cell of exercise 05.9 with the loss and the comparison as given."""
    return f"""\
{_EXPERIMENT}

def bits(model):
    with torch.inference_mode():
        logits = model(ids)  # (passage, position, vocab)
    return ({loss}).item()


forgotten_bits = {answer}
"""


WHAT_IF = Exercise(
    id="05.9",
    kind="why",
    title="What if only new text is taught?",
    section="The price",
    answer="forgotten_bits",
    results=("forgotten_bits",),
    expected=_forgotten,
    tolerance=0.02,
    stub=f"""\
{_EXPERIMENT}# taught_capitals(old_share) returns that model after 40 more steps, on THE SAME PLAY IN CAPITALS;
# old_share of what it is shown is the play as it was. By how many bits a character does the mean
# loss on `ids` rise if none of it is old text?
forgotten_bits = ...
""",
    solution=_measured(),
    why="Before, the model needs 2.9 bits a character on old text. Forty steps of capitals alone raise that by about 2.0. "
    "Nothing in the gradient of the new text says what is still needed of the old, so whatever weight is in the way is moved. "
    "The old text was never shown to be wrong; it was not shown at all. What helps against that, the lesson measures next.",
    hints=(
        "The same passages, two models, one loss for each, and their difference.",
        "The logits at position i predict the character at position i + 1: the last logits and the first one have no partner.",
        "Cross-entropy is in nats; a bit is ln 2 nats. Subtract the loss before from the loss after.",
    ),
    mistakes=(
        Mistake(
            _measured(loss="F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())"),
            "The right difference, but in nats: `cross_entropy` uses the natural logarithm, and one bit is ln 2 nats.",
        ),
        Mistake(
            _measured(loss="F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()) * math.log(2)"),
            "From nats to bits, the loss is divided by ln 2; you multiplied. One nat is 1.44 bits.",
        ),
        Mistake(
            _measured(answer="bits(planted.model) - bits(taught_capitals(0.0))"),
            "The right number of bits with the wrong sign: a rise is the loss after, minus the loss before.",
        ),
        Mistake(
            _measured(answer="bits(taught_capitals(0.0))"),
            "That is the loss afterwards. How far is it above the one before?",
        ),
        Mistake(
            _measured(answer="bits(planted.model)"),
            "That is the loss before the capitals. How far is the one after them above it?",
        ),
        Mistake(
            _measured(answer="bits(taught_capitals(0.25)) - bits(planted.model)"),
            "That is what is forgotten with a quarter of old text, worth comparing! The answer to put in is that without any.",
        ),
        Mistake(
            _measured(answer="bits(taught_capitals(0.5)) - bits(planted.model)"),
            "That is what is forgotten with one half of old text, worth comparing! The answer to put in is that without any.",
        ),
        Mistake(
            _measured(answer="bits(taught_capitals(1.0)) - bits(planted.model)"),
            "A share of 1 is old text alone: nothing new was taught. The answer to put in is that for a share of 0.",
        ),
        Mistake(
            _measured(answer="bits(taught_capitals(0.0)) - bits(taught_capitals(0.25))"),
            "That is what a quarter of old text saves. How much is forgotten without it, from where the model began?",
        ),
        Mistake(
            _measured(answer="2 ** (bits(taught_capitals(0.0)) - bits(planted.model))"),
            "That is the ratio of the two perplexities. What is forgotten in bits is its logarithm to the base 2.",
        ),
        Mistake(
            _measured(loss="F.cross_entropy(logits.flatten(0, 1), ids.flatten()) / math.log(2)"),
            "The targets are not shifted: that asks how well each position predicts its own character, not the next one.",
        ),
        Mistake(
            _measured(loss="F.cross_entropy(logits[:, 1:].flatten(0, 1), ids[:, :-1].flatten()) / math.log(2)"),
            "The targets are shifted the wrong way: that asks how well each position predicts the character before it.",
        ),
        Mistake(
            _measured(
                loss="F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction='sum') / math.log(2)"
            ),
            "That is what is forgotten on all eight passages together. Per character, it is the mean.",
        ),
        Mistake(
            _measured(
                loss="F.cross_entropy(logits[:, :-1].softmax(dim=-1).flatten(0, 1), ids[:, 1:].flatten()) / math.log(2)"
            ),
            "The logits go through a softmax twice: `cross_entropy` takes it itself.",
        ),
    ),
)
