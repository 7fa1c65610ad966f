"""How long the tenth turn of a chat waits for its first token: with the prefix cache, without, and its own words alone.

SmolLM2-135M in float32; medians. Beside it `transformers`, with a cache that is kept from turn to turn by hand, and cut to what
the new prompt begins with; and without. Prints the table of benchmarks/README.md, in a minute on two cores.
"""

import statistics
import time
from collections.abc import Callable

import torch
import transformers

from course_lib import assets, checkpoints
from course_lib.applications.chat import Chat
from course_lib.inference import PrefixCache, generate
from course_lib.inference.generation import chat_prompt
from course_lib.inference.prefix import n_shared

ROUNDS, NEW_TOKENS = 5, 48
WORDS = "Tell me, in one or two sentences, what a traveller who comes to the town number {} ought to see, and why."


def seconds(work: Callable) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Peer:
    """`transformers` with a cache that holds the ids `known`."""

    def __init__(self, known: list[int]):
        gguf = assets.fetch("smollm2-135m-instruct")
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        self.known, self.cache = known, transformers.DynamicCache(config=self.model.config)
        self.read(known, self.cache)

    @torch.inference_mode()
    def read(self, ids: list[int], cache: transformers.DynamicCache) -> int:
        logits = self.model(torch.tensor([ids]), past_key_values=cache, logits_to_keep=1).logits
        return int(logits[0, -1].argmax())

    def first_with_cache(self, prompt: list[int]) -> int:
        n_kept = n_shared(self.known, prompt)
        self.cache.crop(n_kept - self.cache.get_seq_length())
        return self.read(prompt[n_kept:], self.cache)

    def first_without(self, prompt: list[int]) -> int:
        return self.read(prompt, transformers.DynamicCache(config=self.model.config))


def main() -> None:
    model, tokenizer = checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)
    chat = Chat(model, tokenizer)
    for turn in range(9):
        list(chat.reply(WORDS.format(turn), NEW_TOKENS))
    last, message, known = chat.last, WORDS.format(9), list(chat.writer.prefix.ids)
    own = tokenizer.encode(f"<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n")
    turns = [{"role": turn.role, "content": turn.content} for turn in chat.path] + [
        {"role": "user", "content": message}
    ]
    prompt = tokenizer.encode(chat_prompt(tokenizer, turns))
    peer = Peer(known)
    assert peer.first_with_cache(prompt) == peer.first_without(prompt) == next(generate(model, prompt, 1))

    def tenth() -> float:
        chat.go_to(last)
        list(chat.reply(message, 1))
        return chat.path[-1].seconds_to_first

    def cached() -> float:
        # the round before has read the tenth message: forget it
        list(generate(model, [*known, 0], 0, prefix=chat.writer.prefix))
        return tenth()

    def without() -> float:
        chat.writer.prefix = PrefixCache(model)
        return tenth()

    sides = {
        "the turn's own words alone": lambda: seconds(lambda: next(generate(model, own, 1))),
        "course_lib, prefix cache": cached,
        "transformers, its cache kept by hand": lambda: seconds(lambda: peer.first_with_cache(prompt)),
        "course_lib, without": without,
        "transformers, without": lambda: seconds(lambda: peer.first_without(prompt)),
    }
    rounds = [{side: time_it() for side, time_it in sides.items()} for _ in range(ROUNDS + 1)][1:]
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads; "
        f"prompt {len(prompt)}, own words {len(own)} tokens\n\n| first token of the tenth turn | time | × own words |"
    )
    print("|---|---|---|")
    for side in sides:
        ratio = statistics.median(times[side] / times["the turn's own words alone"] for times in rounds)
        print(f"| {side} | {1000 * statistics.median(times[side] for times in rounds):.0f} ms | {ratio:.2f} |")


if __name__ == "__main__":
    main()
