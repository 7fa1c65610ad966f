"""What a sampling playground keeps: the tree of the texts that were generated, and what the filters do to one distribution."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from course_lib.inference import Sampling

__all__ = ["FILTERS", "Branch", "Node", "cut_by"]

FILTERS = ("temperature 0", "float32", "top-k", "top-p", "min-p")
"""What can cut a token, in this order. At a low temperature a probability may be too small for float32, which makes it 0."""


def cut_by(logits: Tensor, sampling: Sampling) -> Tensor:
    """Return for each token of `logits` (vocab,) as int64 (vocab,) which of `FILTERS` cuts it, counted from 1; 0 is none.

    A token is cut by the first filter that leaves it no probability. What has a logit of -∞ had none before.
    """
    had_some = logits > -torch.inf
    if sampling.temperature == 0:
        return ((sampling.probabilities(logits) == 0) & had_some).long()
    unfiltered = Sampling(sampling.temperature)
    with_top_k = replace(unfiltered, top_k=sampling.top_k)
    steps = (unfiltered, with_top_k, replace(with_top_k, top_p=sampling.top_p), sampling)
    cut = torch.zeros(len(logits), dtype=torch.int64)
    for number, step in enumerate(steps, start=2):
        cut[(step.probabilities(logits) == 0) & (cut == 0) & had_some] = number
    return cut


@dataclass(eq=False)
class Node:
    """A token in the tree of generated texts; the root stands for the prompt and has no token.

    `own` is the probability that the model gave the token, `drawn` the one that temperature and filters made of it then: 0 if
    they had cut it and it was chosen by hand. `latest` is the child through which the text went last.
    """

    token: int | None = None
    parent: "Node | None" = None
    own: float = 1.0
    drawn: float = 1.0
    children: dict[int, "Node"] = field(default_factory=dict)
    latest: "Node | None" = None

    def path(self) -> list["Node"]:
        """Return the nodes from the prompt to this one, the root left out."""
        node, path = self, []
        while node.parent is not None:
            path.append(node)
            node = node.parent
        return path[::-1]

    def follow(self, token: int, own: float, drawn: float) -> "Node":
        """Return the child with this token, a new one if it is not there yet, and let the text go through it."""
        if token not in self.children:
            self.children[token] = Node(token, self, own, drawn)
        self.latest = self.children[token]
        return self.latest

    def end(self) -> "Node":
        """Return where the text that goes through this node ends."""
        node = self
        while node.latest is not None:
            node = node.latest
        return node

    def make_current(self) -> None:
        """Let the text go through this node."""
        for node in self.path():
            node.parent.latest = node

    def branches(self) -> Iterator["Branch"]:
        """Yield every text from this node on: the one generated first whole, the others from where they leave it."""
        node, nodes, forks = self, [] if self.parent is None else [self], []
        while node.children:
            node, *others = node.children.values()
            nodes.append(node)
            forks += others
        yield Branch(nodes, node)
        for fork in forks:
            yield from fork.branches()


@dataclass(frozen=True)
class Branch:
    """One text of the tree: the `nodes` that it shares with no branch before it, and its `leaf`."""

    nodes: list[Node]
    leaf: Node
