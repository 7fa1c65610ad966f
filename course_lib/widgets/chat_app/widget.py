"""ChatApp: a conversation with a model, its branches and its memory, and what each reply took.

The browser asks for a reply a moment at a time, so that the kernel is free between two, and a stop, another cell or another
chat gets its turn. What a moment brings is in `draft`; when the reply has ended it is a turn like all others.
"""

import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from time import monotonic
from typing import ClassVar, Literal

from traitlets import Dict

from course_lib.applications.chat import Chat, Turn
from course_lib.applications.endpoint import Endpoint
from course_lib.applications.writers import ModelWriter, Writer
from course_lib.architecture import TransformerLM
from course_lib.checks import check
from course_lib.inference import Sampling
from course_lib.tokenization import Tokenizer
from course_lib.widgets.chat_app.picture import chat_picture
from course_lib.widgets.shared.base import module, style_sheet
from course_lib.widgets.shared.live import listen_while_busy
from course_lib.widgets.shared.settings import SettingsWidget

__all__ = ["ChatApp"]

MOMENT = 0.05  # seconds of writing that the browser asks for at a time
CACHES = 2  # chats that keep what they have read: two may be compared side by side
MOST_TOKENS = 4096  # of a reply

Model = tuple[TransformerLM, Tokenizer]


class ChatApp(SettingsWidget):
    """A chat with a model and its tokenizer, with one of several, or with a server of OpenAI's protocol.

        app = ChatApp(*checkpoints.load("smollm2-135m-instruct"), system="You are a poet.")
        app.say("Sing of the sea.")
        ChatApp({"before": (model, tokenizer), "after": (tuned, tokenizer)})
        ChatApp(endpoint="http://127.0.0.1:8000/v1", model_name="smollm2-135m-instruct")

    `chat` is the conversation, an `applications.chat.Chat`. `settings` can be moved in the widget and by `set`: `model`, by its
    name; `system`; `memory`, "drop" or "summarise"; `context_length`, None: the model's; `max_new_tokens`; `temperature`,
    `top_p`, and `seed`: turn n is drawn with seed + n, so the same chat comes out the same, and a reply written again another.

    The server's token is read from the environment variable `token_variable` for each request. Nothing else leaves the machine,
    and without an `endpoint` nothing at all. ValueError for a model that was not trained to chat.
    """

    _esm = module(__file__)
    _css = style_sheet(__file__)
    _recent: ClassVar[list["ChatApp"]] = []  # those that keep what they have read

    draft = Dict().tag(sync=True)  # the reply that is being written: {text, model, message, is_asked_for}; else {}

    def __init__(
        self,
        model: TransformerLM | Mapping[str, Model] | None = None,
        tokenizer: Tokenizer | None = None,
        *,
        endpoint: str | None = None,
        model_name: str | None = None,
        token_variable: str = "COURSE_TOKEN",
        system: str = "",
        memory: Literal["drop", "summarise"] = "drop",
        context_length: int | None = None,
        max_new_tokens: int = 200,
        temperature: float = 0.7,
        top_p: float = 0.95,
        seed: int = 0,
    ):
        if endpoint is None:
            self._writers = _writers(model, tokenizer, model_name)
        elif model is not None:
            raise ValueError("give a model and its tokenizer, or an endpoint, not both")
        elif model_name is None:
            raise ValueError("give the model_name that the server at the endpoint has: it may have several")
        else:
            self._writers = {model_name: Endpoint(endpoint, model_name, token_variable=token_variable)}
        self.chat: Chat | None = None
        self._models: dict[int, str] = {}  # which model wrote a turn
        self._reply: Iterator[str] | None = None
        self._busy = threading.Lock()  # a cell and the browser may ask at once, in two threads
        super().__init__(
            model=next(iter(self._writers)), system=system, memory=memory, context_length=context_length,
            max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed,
        )  # fmt: skip

    def say(self, content: str) -> str:
        """Say `content`, wait for the reply, and return it. ValueError as `Chat.reply` raises it, EndpointError."""
        self._begin(self.chat.reply(content, **self._how(ahead=1)), content, is_asked_for=False)
        while self._reply is not None:
            self._go_on()
            listen_while_busy(self)
        return self.chat.path[-1].content

    def stop(self) -> None:
        """End the reply that is being written; what there is of it is kept."""
        self.chat.stop()
        self._go_on()

    def __repr__(self) -> str:
        path = self.chat.path
        replies = [turn for turn in path if turn.role == "assistant"]
        told = f"; the last reply has {replies[-1].n_tokens:,} tokens" if replies else ""
        return f"ChatApp: {self.settings['model']}, {len(path):,} turn{'s' * (len(path) != 1)}{told}"

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        picture = chat_picture(self.settings, self.result)
        return data | {"image/png": b64encode(picture).decode("ascii")}, metadata

    # ---------------------------------------------------------------- settings

    def _compute(self, settings: dict) -> dict:
        check("model", settings["model"], Literal[tuple(self._writers)])
        check("max_new_tokens", settings["max_new_tokens"], int, 1, MOST_TOKENS)
        check("seed", settings["seed"], int, 0, 2**32)
        Sampling(settings["temperature"], top_p=settings["top_p"])  # raises what Sampling raises
        about = {name: settings[name] for name in ("system", "memory", "context_length")}
        chat = Chat(self._writers[settings["model"]], **about)
        before = self.chat
        if before is None:
            self.chat = chat
        elif about | {"model": settings["model"]} != {name: self.settings[name] for name in (*about, "model")}:
            if self._reply is not None:
                raise ValueError("a reply is being written: stop it first")
            chat.turns, chat.last = before.turns, before.last
            self.chat = chat
        return self._look(settings["model"])

    def _how(self, ahead: int = 0) -> dict:
        """Return the settings as `Chat.reply` takes them, for the next turn or the one that many `ahead`."""
        names = ("max_new_tokens", "temperature", "top_p", "seed")
        max_new_tokens, temperature, top_p, seed = (self.settings[name] for name in names)
        sampling = Sampling(temperature, top_p=top_p)
        return {"max_new_tokens": max_new_tokens, "sampling": sampling, "seed": seed + len(self.chat.turns) + ahead}

    # ---------------------------------------------------------------- the reply that is being written

    def _begin(self, reply: Iterator[str], message: str = "", *, is_asked_for: bool = True) -> None:
        """Begin a reply, to a `message` that is no turn yet; the browser asks for the rest if it `is_asked_for`, else `say`."""
        with self._busy:
            if self._reply is not None:
                raise ValueError("a reply is being written: stop it first")
            self._take_over()
            self._reply = reply
            about = {"model": self.settings["model"], "message": message, "is_asked_for": is_asked_for}
            with self.hold_sync():
                self.draft, self.result = {"text": ""} | about, self._look(self.settings["model"])

    def _go_on(self) -> None:
        """Let a reply, if one is being written, go on for a moment. What ends it, an interrupt too, leaves a turn."""
        if not self._busy.acquire(blocking=False):
            return  # another thread is at it
        try:
            end, text, is_whole = monotonic() + MOMENT, "", False
            try:
                for piece in self._reply or ():
                    text += piece
                    if monotonic() > end:
                        break
                else:
                    is_whole = True
            except BaseException:
                is_whole = True
                raise
            finally:
                self._show(text, is_whole)
        finally:
            self._busy.release()

    def _show(self, text: str, is_whole: bool) -> None:
        if is_whole and self._reply is not None:
            self._reply.close()
            self._reply = None
            if self.chat.path and self.chat.path[-1].ending is not None:
                self._models.setdefault(self.chat.path[-1].id, self.settings["model"])
        with self.hold_sync():
            self.draft = {} if is_whole else self.draft | {"text": self.draft["text"] + text, "message": ""}
            self.result = self._look(self.settings["model"])

    def _take_over(self) -> None:
        """Let all but the last few chats forget what they have read: a cell run again leaves its old widget behind."""
        recent = [app for app in self._recent if app is not self]
        for app in recent[: -CACHES + 1]:
            app._give_back()
        self._recent[:] = [*recent[-CACHES + 1 :], self]

    def _give_back(self) -> None:
        for writer in self._writers.values():
            if isinstance(writer, ModelWriter) and self._reply is None:
                writer.forget()

    # ---------------------------------------------------------------- the browser

    def _do(self, message: dict) -> None:
        """Do what the browser asks for."""
        match message["type"]:
            case "set":
                super()._do(message)
            case "say":
                self._begin(self.chat.reply(message["content"], **self._how(ahead=1)), message["content"])
            case "answer":
                turn = self.chat.turns[message["id"]]
                self.chat.go_to(turn.id if turn.role == "user" else turn.parent)
                self._begin(self.chat.answer(**self._how()))
            case "edit":
                turn = self.chat.edit(message["id"], message["content"])
                if turn.role == "user":
                    self._begin(self.chat.answer(**self._how()))
            case "go":
                self.chat.go_to(_latest(self.chat, message["id"]))
            case "new":
                self.chat.go_to(None)
            case "stop":
                self.chat.stop()
        try:
            self._go_on()
        except KeyboardInterrupt:
            return  # it has ended the reply as a stop does, and what there is of it is shown
        except FloatingPointError as error:
            raise ValueError(f"{error}: its training has diverged, or its weights are damaged") from None

    def _look(self, model: str) -> dict:
        """Return what the browser is told of the conversation."""
        forgotten = {turn.id for turn in self.chat.forgotten}
        path = self.chat.path
        last = next((turn for turn in reversed(path) if turn.role == "assistant"), None)
        return {
            "models": list(self._writers),
            "address": getattr(self._writers[model], "address", None),
            "context_length": self.chat.context_length,
            "n_context": last.n_prompt + last.n_tokens if last else 0,
            "summary": last.summary if last else "",
            "path": [self._told(turn, turn.id in forgotten) for turn in path],
        }

    def _told(self, turn: Turn, is_forgotten: bool) -> dict:
        siblings = [sibling.id for sibling in self.chat.siblings(turn.id)]
        return {
            "id": turn.id, "role": turn.role, "content": turn.content, "n_tokens": turn.n_tokens, "ending": turn.ending,
            "n_prompt": turn.n_prompt, "n_cached": turn.n_cached, "to_first": turn.seconds_to_first,
            "rate": turn.tokens_per_second, "is_forgotten": is_forgotten, "siblings": siblings,
            "model": self._models.get(turn.id),
        }  # fmt: skip


def _writers(model: object, tokenizer: Tokenizer | None, model_name: str | None) -> dict[str, Writer]:
    """Return the writers by name of one model, or of several. ValueError for what is none, or was not trained to chat."""
    models = model if isinstance(model, Mapping) else {model_name or "model": (model, tokenizer)}
    if not models:
        raise ValueError("give at least one model")
    writers = {}
    for name, pair in models.items():
        check("the name of a model", name, str)
        if not (
            isinstance(pair, tuple)
            and len(pair) == 2
            and isinstance(pair[0], TransformerLM)
            and isinstance(pair[1], Tokenizer)
        ):
            raise ValueError(
                f"{name}: give a model and its tokenizer, as checkpoints.load returns them, or an endpoint"
            )
        if pair[1].chat_template is None:
            raise ValueError(
                f"{name}: this model was not trained to chat: its tokenizer has no chat template. Give it the format with "
                "finetuning.add_chat_format(model, tokenizer) and fine-tune it on chats, as lesson 05 does, or load one "
                'that can chat, as "smollm2-135m-instruct"'
            )
        writers[name] = ModelWriter(*pair)
    return writers


def _latest(chat: Chat, id: int) -> int:
    """Return the turn that was said last of all that follow turn `id`, or itself."""
    following = {id}
    for turn in chat.turns:
        if turn.parent in following:
            following.add(turn.id)
    return max(following)
