"""Tokenizers in files: what `save_pretrained` of `transformers` writes, read into the classes that the course teaches.

A `tokenizer.json` describes a pipeline: a normaliser, a pre-tokeniser that cuts words, the model, a post-processor that adds
tokens, and a decoder. A part that would be read differently here is an error that names it.
"""

import json
import unicodedata
from pathlib import Path

import regex

from course_lib.checks import read_json
from course_lib.tokenization.bpe import BYTE_ALPHABET, GPT2_WORDS, Tokenizer
from course_lib.tokenization.sentencepiece import SPACE, SentencePieceTokenizer

__all__ = ["load_tokenizer", "save_tokenizer"]

_NORMAL_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
# known to chat templates
_NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_SUPPORTED = (
    "supported is byte-level BPE as GPT-2, SmolLM2, Llama 3, Qwen 3, OLMo 2 and the later Mistral models have it, and "
    "SentencePiece's BPE with byte fallback as Llama 2, the first Mistral models and Gemma have it"
)

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_BYTES_ALONE = _BYTE_LEVEL | {"use_regex": False}
_DIGITS = {"type": "Digits", "individual_digits": True}
_SPACE_TO_MARK = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_MARK_TO_SPACE = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
_PREPEND = {"type": "Prepend", "prepend": SPACE}
_AFTER_SPACES = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
_BYTE_FALLBACK = [_MARK_TO_SPACE, {"type": "ByteFallback"}, {"type": "Fuse"}]
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False}


class _Unsupported(Exception):
    """Names one or more parts of a `tokenizer.json`."""


# ---------------------------------------------------------------- reading


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read what `save_tokenizer`, or `save_pretrained` of `transformers`, wrote into `folder`.

    That is `tokenizer.json` and, where they are there, `tokenizer_config.json` (named tokens, chat template),
    `chat_template.jinja`, and `generation_config.json`, whose end tokens are added. Raises ValueError that names a file that
    is damaged, and whatever in `tokenizer.json` would be read differently here.
    """
    path = folder / "tokenizer.json"
    spec = read_json(path)
    try:
        return _tokenizer(folder, spec)
    except _Unsupported as error:
        raise ValueError(f"{path} needs {error}; {_SUPPORTED}") from None
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:  # of parts that are missing, or something else
        raise ValueError(f"{path}, or a file beside it, is damaged ({type(error).__name__}: {error})") from None


def _tokenizer(folder: Path, spec: dict) -> Tokenizer:
    kind, options = _pipeline(spec)
    options["start_tokens"] = _start_tokens(spec)
    options["normalised_tokens"] = _normalised_tokens(spec, kind, options)
    _check_model(spec["model"], kind)
    special_tokens = {token["content"]: token["id"] for token in spec["added_tokens"]}
    vocab = spec["model"]["vocab"]
    config = _read(folder / "special_tokens_map.json") | _read(folder / "tokenizer_config.json")
    named = {name: _content(config[name]) for name in _NAMES if config.get(name) is not None}
    return kind(
        vocab,
        [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in spec["model"]["merges"]],  # older: "Ġ t"
        special_tokens,
        ignore_merges=bool(spec["model"].get("ignore_merges")),
        end_tokens=_end_tokens(
            named.get("eos_token"), vocab | special_tokens, _read(folder / "generation_config.json")
        ),
        chat_template=_chat_template(folder / "chat_template.jinja", config),
        named_tokens=named,
        **options,
    )


def _read(path: Path) -> dict:
    return read_json(path) if path.is_file() else {}


def _content(token: str | dict) -> str:
    return token["content"] if isinstance(token, dict) else token  # a dict is the token with its flags


def _end_tokens(eos_token: str | None, ids: dict[str, int], generation: dict) -> tuple[str, ...]:
    """Return the end token, then those whose ids `generation_config.json` lists; ids that are no token's are left out."""
    listed = generation.get("eos_token_id")
    listed = set(listed if isinstance(listed, list) else [listed])
    tokens = [] if eos_token is None else [eos_token]
    return tuple(dict.fromkeys([*tokens, *(token for token, i in ids.items() if i in listed)]))


def _chat_template(path: Path, config: dict) -> str | None:
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several, each with a name
        return {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def _steps(part: dict | None, inside: str) -> list[dict]:
    """Return a part of the pipeline as the list of its steps."""
    if part is None:
        return []
    return part[inside] if part["type"] == "Sequence" else [part]


def _refuse(spec: dict, part: str) -> _Unsupported:
    return _Unsupported(f"{part} {json.dumps(spec.get(part))}")


def _pipeline(spec: dict) -> tuple[type[Tokenizer], dict]:
    """Return the class for the pipeline, and its arguments that say how a text is cut and written."""
    decoder = _steps(spec.get("decoder"), "decoders")
    if [step["type"] for step in decoder] == ["ByteLevel"]:
        return Tokenizer, _byte_level(spec)
    if decoder[:3] != _BYTE_FALLBACK:
        raise _refuse(spec, "decoder")
    prepend = _prepend(spec)
    if decoder[3:] != ([] if prepend == "never" else [_STRIP]):
        raise _refuse(spec, "decoder")
    return SentencePieceTokenizer, {"prepend": prepend}


def _byte_level(spec: dict) -> dict:
    normal_forms = [step["type"] for step in _steps(spec.get("normalizer"), "normalizers")]
    if normal_forms and (len(normal_forms) > 1 or normal_forms[0] not in _NORMAL_FORMS):
        raise _refuse(spec, "normalizer")
    steps = [
        _BYTE_LEVEL | step | {"trim_offsets": True} if step["type"] == "ByteLevel" else step  # what changes no id
        for step in _steps(spec.get("pre_tokenizer"), "pretokenizers")
    ]
    options = {"normal_form": next(iter(normal_forms), None), "split_digits": steps[:1] == [_DIGITS]}
    if options["split_digits"]:
        steps = steps[1:]
    if steps == [_BYTE_LEVEL]:
        return options
    if len(steps) == 2 and steps[1] == _BYTES_ALONE and steps[0]["type"] == "Split":
        words = steps[0]["pattern"].get("Regex", "")
        way = steps[0]["behavior"], steps[0]["invert"]
        if _is_portable(words) and (way == ("Isolated", False) or (way == ("Removed", True) and _finds_all(words))):
            return options | {"words": words}
    raise _refuse(spec, "pre_tokenizer")


def _is_portable(pattern: str) -> bool:
    """Whether Oniguruma, which wrote the files, and `regex` read `pattern` the same: it has nothing but what both share."""
    # Other escapes, set operations, groups that capture, a repeated {1,3}, the ends of a line.
    odd = r"\\[^pPsSrnt\W]|&&|\[\[|\[:|\((?!\?:|\?i:|\?!|\?=)|\d\}[+*?]|\$|(?<!\[)\^"
    return bool(pattern) and regex.search(odd, pattern) is None


def _finds_all(pattern: str) -> bool:
    """Whether `pattern` matches every kind of character, so that it makes no difference what becomes of the rest."""
    kinds = "aAǅʰ漢\u0301\u0903\u20dd0Ⅷ½_-([)«»!$+^©  \u2028\u2029\t\n\r\0\u00ad\ue000\u0378"  # one of each category
    return all(regex.fullmatch(pattern, character) for character in kinds)


def _prepend(spec: dict) -> str:
    normaliser, cutting = (
        _steps(spec.get("normalizer"), "normalizers"),
        _steps(spec.get("pre_tokenizer"), "pretokenizers"),
    )
    if normaliser not in ([], [_SPACE_TO_MARK], [_PREPEND, _SPACE_TO_MARK]):
        raise _refuse(spec, "normalizer")
    if len(normaliser) == 2 and not cutting:
        return "doubled"
    if len(normaliser) == 1 and cutting in ([], [_AFTER_SPACES]):  # there are no spaces left to cut after
        return "never"
    step = cutting[0] if len(cutting) == 1 and not normaliser else {}
    if (step.get("type"), step.get("replacement"), step.get("split")) != ("Metaspace", SPACE, False):
        raise _refuse(spec, "pre_tokenizer")
    return step["prepend_scheme"]


def _start_tokens(spec: dict) -> tuple[str, ...]:
    """Return the tokens that the post-processor puts before a text; it must put none after it."""
    found: list[str] = []
    for step in _steps(spec.get("post_processor"), "processors"):
        if step["type"] == "ByteLevel":  # changes offsets alone
            continue
        template = step["single"] if step["type"] == "TemplateProcessing" else []
        if not template or "Sequence" not in template[-1]:
            raise _refuse(spec, "post_processor")
        for item in template[:-1]:
            found += step["special_tokens"][item["SpecialToken"]["id"]]["tokens"]
    return tuple(found)


def _normalised_tokens(spec: dict, kind: type[Tokenizer], options: dict) -> list[str]:
    """Return the added tokens that are looked for in the normalised text; normalising must leave them as they are."""
    late = [token["content"] for token in spec["added_tokens"] if token["normalized"]]
    for token in late:
        if kind is Tokenizer:
            form = options["normal_form"]
            changed = form is not None and unicodedata.normalize(form, token) != token
        else:
            changed = options["prepend"] == "doubled" or " " in token or SPACE in token
        if changed:
            raise _Unsupported(f"normalized of {token!r}")
    for token in spec["added_tokens"]:
        for flag in _FLAGS:
            if token[flag]:
                raise _Unsupported(f"{flag} of {token['content']!r}")
    return late


def _check_model(model: dict, kind: type[Tokenizer]) -> None:
    if model.get("type", "BPE") != "BPE":  # the oldest files leave the type out
        raise _Unsupported(f"a model of type {model['type']}")
    wrong = [name for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if model.get(name)]
    if bool(model.get("byte_fallback")) != (kind is SentencePieceTokenizer):
        wrong.append("byte_fallback")
    if kind is Tokenizer and model.get("unk_token") and not model["vocab"].keys() >= BYTE_ALPHABET:
        wrong.append("unk_token")
    if wrong:
        raise _Unsupported(", ".join(f"the model's {name} {model.get(name)!r}" for name in wrong))


# ---------------------------------------------------------------- writing


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json`, which `tokenizers.Tokenizer.from_file` reads too, and `tokenizer_config.json` into `folder`.

    That has room for one end token; where there are more, their ids go into `generation_config.json`. What another tokenizer
    has left in the folder, and would be read with this one, is taken away.
    """
    special = sorted(tokenizer.special_tokens.items(), key=lambda token_and_id: token_and_id[1])
    spec = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": token, **_FLAGS, "normalized": token in tokenizer.normalised_tokens, "special": True}
            for token, i in special
        ],
        **(
            _characters_written(tokenizer)
            if isinstance(tokenizer, SentencePieceTokenizer)
            else _bytes_written(tokenizer)
        ),
        "post_processor": _start_written(tokenizer),
        "model": {
            "type": "BPE",
            "byte_fallback": isinstance(tokenizer, SentencePieceTokenizer),
            "ignore_merges": tokenizer.ignore_merges,
            "vocab": tokenizer.vocab,
            "merges": tokenizer.merges,
        },
    }
    end = {"eos_token": next(iter(tokenizer.end_tokens), None)}
    config = {"chat_template": tokenizer.chat_template, **tokenizer.named_tokens, **end}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    for name in ("special_tokens_map.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)
    path = folder / "generation_config.json"
    if len(tokenizer.end_tokens) > 1 or path.is_file():
        generation = _read(path) | {"eos_token_id": sorted(tokenizer.end_ids) or None}
        path.write_text(json.dumps(generation, indent=2), encoding="utf-8")


def _sequence(inside: str, steps: list[dict]) -> dict | None:
    return {"type": "Sequence", inside: steps} if steps else None


def _bytes_written(tokenizer: Tokenizer) -> dict:
    cut = {"type": "Split", "pattern": {"Regex": tokenizer.words}, "behavior": "Isolated", "invert": False}
    steps = [_BYTE_LEVEL] if tokenizer.words == GPT2_WORDS else [cut, _BYTES_ALONE]
    return {
        "normalizer": {"type": tokenizer.normal_form} if tokenizer.normal_form else None,
        "pre_tokenizer": _sequence("pretokenizers", [_DIGITS, *steps] if tokenizer.split_digits else steps),
        "decoder": _BYTE_LEVEL,
    }


def _characters_written(tokenizer: SentencePieceTokenizer) -> dict:
    normaliser = {"never": [_SPACE_TO_MARK], "doubled": [_PREPEND, _SPACE_TO_MARK]}.get(tokenizer.prepend, [])
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": tokenizer.prepend, "split": False}
    strip = [] if tokenizer.prepend == "never" else [_STRIP]
    return {
        "normalizer": _sequence("normalizers", normaliser),
        "pre_tokenizer": None if normaliser else metaspace,
        "decoder": _sequence("decoders", [*_BYTE_FALLBACK, *strip]),
    }


def _start_written(tokenizer: Tokenizer) -> dict | None:
    if not tokenizer.start_tokens:
        return None
    ids = zip(tokenizer.start_tokens, tokenizer.start_ids, strict=True)
    text = {"Sequence": {"id": "A", "type_id": 0}}
    start = [{"SpecialToken": {"id": token, "type_id": 0}} for token in tokenizer.start_tokens]
    return {
        "type": "TemplateProcessing",
        "single": [*start, text],
        "pair": [*start, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [i], "tokens": [token]} for token, i in ids},
    }
