"""Constrained decoding: before each token is drawn, those are ruled out after which the text could not become valid any more.

An automaton says which bytes may follow; a token is several bytes. So from the state that the text has reached
every token of the vocabulary is walked through the automaton, all at once along their common beginnings, and those that end in
a state stay. Which they are depends on the state alone: a mask is computed once a state, and then only looked up (arXiv
2307.09702). A JSON schema is first written as a regular expression; what none can say is left to the library `llguidance`, see
`grammar`.

What a mask leaves of the model's distribution is stretched to 1 again. Token for token that is not how the model distributes
valid texts: led to where it would not have gone, it may go on badly. `removed_mass` says how much would have gone elsewhere.

Read in this order:

- `patterns`: a regular expression becomes a tree
- `schemas`: a JSON schema becomes a regular expression
- `automata`: the tree becomes a machine that reads bytes
- `vocabulary`: all tokens of a tokenizer, walked through it at once
- `masks`: the tokens that may follow, and the rule that leaves a model no others
- `grammars`: the door to `llguidance`, for what a regular expression cannot say
"""

from course_lib.applications.constraints.grammars import Grammar, grammar
from course_lib.applications.constraints.masks import Constraint, ConstraintRule, removed_mass

__all__ = ["Constraint", "ConstraintRule", "Grammar", "grammar", "removed_mass"]
