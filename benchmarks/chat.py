"""How long the tenth turn of a chat waits for its first token: with the prefix cache, without, and its own words alone.

SmolLM2-135M in float32; medians.
"""

import statistics
import time

import torch

from course_lib import checkpoints
from course_lib.applications.chat import Chat
from course_lib.inference import PrefixCache, generate

ROUNDS, NEW_TOKENS = 5, 48
WORDS = "Tell me, in one or two sentences, what a traveller who comes to the town number {} ought to see, and why."


def main() -> None:
    model, tokenizer = checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)
    chat = Chat(model, tokenizer)
    for turn in range(9):
        list(chat.reply(WORDS.format(turn), NEW_TOKENS))
    last, message, known = chat.last, WORDS.format(9), list(chat.writer.prefix.ids)
    own = tokenizer.encode(f"<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n")
    times = {"cached": [], "without": [], "own words": []}
    for _ in range(ROUNDS):
        for side in ("cached", "without"):
            chat.go_to(last)
            if side == "without":
                chat.writer.prefix = PrefixCache(model)
            else:  # the round before has read the tenth message too: forget that
                list(generate(model, [*known, 0], 0, prefix=chat.writer.prefix))
            list(chat.reply(message, 1))
            times[side].append(chat.path[-1].seconds_to_first)
        start = time.perf_counter()
        next(generate(model, own, 1))
        times["own words"].append(time.perf_counter() - start)
    turn = chat.path[-1]
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; prompt {turn.n_prompt}, own words {len(own)} tokens"
    )
    for side, seconds in times.items():
        print(f"| {side} | {1000 * statistics.median(seconds):.0f} ms |")


if __name__ == "__main__":
    main()
