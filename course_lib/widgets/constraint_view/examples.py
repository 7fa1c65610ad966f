"""What a learner may begin with: patterns and schemas, each with a prompt that it fits."""

import json

__all__ = ["EXAMPLES"]

_PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "born": {"type": "integer", "minimum": 1500, "maximum": 1700}},
    "required": ["name", "born"],
}
_TOWNS = {"type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 3, "maxItems": 3}

EXAMPLES = [
    {
        "name": "a date",
        "kind": "pattern",
        "wanted": " [0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])",
        "prompt": "The date of the Moon landing, as year-month-day:",
    },
    {
        "name": "a phone number",
        "kind": "pattern",
        "wanted": r"\+[1-9][0-9]{0,2}( [0-9]{2,4}){2,3}",
        "prompt": "Our office is open all day. Call us:",
    },
    {
        "name": "yes or no",
        "kind": "pattern",
        "wanted": "(yes|no)",
        "prompt": "Question: Is Paris the capital of France? Answer:",
    },
    {
        "name": "a person, in JSON",
        "kind": "schema",
        "wanted": json.dumps(_PERSON, indent=1),
        "prompt": "William Shakespeare was born in 1564. As JSON:",
    },
    {
        "name": "three towns, in JSON",
        "kind": "schema",
        "wanted": json.dumps(_TOWNS, indent=1),
        "prompt": "Three towns in France, as JSON:",
    },
]
"""Of each: its name, whether it is a "pattern" or a "schema", its text, and the prompt."""
