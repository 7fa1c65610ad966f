"""The command line of the server: `python -m course_lib.serve --model smollm2-135m-instruct --port 8000`.

For this machine alone, unless told otherwise; for a room: `--host 0.0.0.0`, and a token in the variable COURSE_TOKEN.
"""

import argparse
import os
import secrets
import sys
from pathlib import Path

import uvicorn

from course_lib import checkpoints
from course_lib.architecture import TransformerLM
from course_lib.serve.app import is_local, make_app
from course_lib.serve.engine import Engine
from course_lib.storage import AssetError

_SHORTEST_TOKEN = 12  # characters


def main() -> None:
    """Serve a model over OpenAI's protocol for chats, until Ctrl-C; what is being written then has ten seconds to end."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.serve", description=main.__doc__)
    parser.add_argument(
        "--model", default="smollm2-135m-instruct", help="a name, folder or hub id; see checkpoints.load"
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="(8000)")
    parser.add_argument(
        "--token",
        default=os.environ.get("COURSE_TOKEN") or None,
        help="what clients must send as api_key (COURSE_TOKEN)",
    )
    parser.add_argument("--texts", type=int, default=32, help="how many texts are written at once, at most (32)")
    parser.add_argument("--context", type=int, default=2048, help="tokens a text, prompt and answer together (2048)")
    parser.add_argument("--memory", type=float, default=4.0, help="gigabytes for keys and values, at most (4)")
    options = parser.parse_args()
    if refusal := _refusal(options.host, options.token):
        parser.error(refusal)
    if not (options.texts > 0 and options.context > 1 and options.memory > 0 and 0 <= options.port < 2**16):
        parser.error("--texts and --memory must be positive, --context at least 2, --port from 0 to 65535")
    try:
        model, tokenizer = checkpoints.load(options.model)
    except (AssetError, OSError, ValueError) as error:
        sys.exit(f"{error}")
    n_columns = min(options.context, model.config.context_length)
    n_rows = min(options.texts, int(options.memory * 1e9 // _row_bytes(model, n_columns)))
    if not n_rows:
        parser.error(f"a text of {n_columns} tokens takes {_row_bytes(model, n_columns) / 1e9:.2f} GB: raise --memory")
    folder = Path(options.model)
    name = folder.resolve().name if folder.is_dir() else options.model
    print(
        f"{name}: {n_rows} texts at once of up to {n_columns} tokens; http://{options.host}:{options.port}/v1",
        flush=True,
    )
    app = make_app(Engine(model, tokenizer, n_rows, n_columns), name, options.token)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning", timeout_graceful_shutdown=10)


def _refusal(host: str, token: str | None) -> str | None:
    """Return why the server must not start, if so: strangers must not use it, nor guess what lets them."""
    if token is not None and not (len(token) >= _SHORTEST_TOKEN and token.isascii() and token.isprintable()):
        return f"the token must have at least {_SHORTEST_TOKEN} printable ASCII characters"
    if token is None and not is_local(host):
        return f"others can reach {host}: give a token, such as --token {secrets.token_urlsafe(16)}"
    return None


def _row_bytes(model: TransformerLM, n_columns: int) -> int:
    """Return how many bytes the keys and values of one text take."""
    return sum(layer.keys_values.nbytes for layer in model.new_cache(1, n_columns))


if __name__ == "__main__":
    main()
