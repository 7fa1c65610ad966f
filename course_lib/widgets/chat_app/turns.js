// The turns from the first to the last: what was said, which version it is of how many, and what each reply took.

import { node } from "../shared/base.js";
import { counted, short } from "../shared/numbers.js";
import { keepTyping } from "./typing.js";

/**
 * @typedef {{
 *   id: number, role: string, content: string, n_tokens: number, ending: string | null, n_prompt: number,
 *   n_cached: number | null, to_first: number, rate: number | null, is_forgotten: boolean, siblings: number[],
 *   model: string | null,
 * }} Turn
 */

export function turnList(chat) {
  const list = node("ol");
  const element = node("section", { className: "turns", ariaLabel: "Conversation", tabIndex: 0 }, list);
  const places = []; // one for each turn of the path: where a version gives way to another, the keyboard stays
  const line = node("li", { className: "line" });
  const said = bubble("user");
  const draft = bubble("assistant");
  draft.element.classList.add("draft");

  function draw() {
    const { path, summary, models } = chat.result();
    const isAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
    while (places.length < path.length) places.push(turnPlace(chat));
    const rows = path.map((turn, i) => {
      places[i].show(turn);
      return places[i].element;
    });
    const n_forgotten = path.findLastIndex((turn) => turn.is_forgotten) + 1;
    if (n_forgotten) rows.splice(n_forgotten, 0, line);
    line.textContent = summary
      ? `The model no longer reads what stands above. It reads a summary instead: ${summary}`
      : "The model no longer reads what stands above: the context is full.";
    const { text, message, model } = chat.draft();
    const pending = chat.line.pending("say")?.content ?? message;
    if (pending && path.at(-1)?.content !== pending) {
      said.text.textContent = pending;
      rows.push(said.element);
    }
    if (text !== undefined) {
      draft.text.textContent = text || "…";
      draft.who.textContent = models.length > 1 ? model : "Model";
      rows.push(draft.element);
    }
    if (rows.length !== list.children.length || rows.some((row, i) => row !== list.children[i])) {
      list.replaceChildren(...rows);
    }
    element.classList.toggle("empty", rows.length === 0);
    if (isAtEnd) element.scrollTop = element.scrollHeight;
  }
  return { element, draw };
}

/**
 * @param {"user" | "assistant"} role
 */
function bubble(role) {
  const who = node("b", { textContent: role === "user" ? "You" : "Model" });
  const text = node("p", { className: "text" });
  const element = node("li", { className: role }, node("div", { className: "bubble" }, text), node("footer", {}, who));
  return { element, who, text };
}

// One place in the conversation, and whichever version of a turn is shown there.
function turnPlace(chat) {
  /** @type {Turn} */
  let turn;
  let edited = -1; // the id of the turn that is being edited
  const text = node("p", { className: "text" });
  const input = node("textarea", { rows: 3, ariaLabel: "Edited text", spellcheck: false });
  const save = node("button", { type: "button", className: "primary" });
  const cancel = node("button", { type: "button", textContent: "Cancel" });
  const editor = node("div", { className: "editor" }, input, save, cancel);
  const who = node("b");
  const figures = node("span", { className: "muted figures" });
  const place = node("span", { className: "muted" });
  const earlier = arrow("‹", "Version before", -1);
  const later = arrow("›", "Version after", 1);
  const versions = node("span", { className: "versions" }, earlier, place, later);
  const edit = node("button", { type: "button", textContent: "Edit" });
  const again = node("button", { type: "button" });
  const footer = node("footer", {}, who, versions, edit, again, figures);
  const element = node("li", {}, node("div", { className: "bubble" }, text, editor), footer);

  function arrow(textContent, ariaLabel, step) {
    const button = node("button", { type: "button", textContent, ariaLabel });
    button.addEventListener("click", () => {
      const id = turn.siblings[turn.siblings.indexOf(turn.id) + step];
      if (id !== undefined && !chat.isWriting()) chat.ask({ type: "go", id });
    });
    return button;
  }

  edit.addEventListener("click", () => {
    edited = turn.id;
    input.value = turn.content;
    show(turn);
    input.focus();
  });
  again.addEventListener("click", () => chat.ask({ type: "answer", id: turn.id }));
  const leave = () => {
    edited = -1;
    show(turn);
    edit.focus();
  };
  const keep = () => {
    if (!input.value.trim() || chat.isWriting()) return;
    chat.ask({ type: "edit", id: turn.id, content: input.value });
    leave();
  };
  cancel.addEventListener("click", leave);
  save.addEventListener("click", keep);
  keepTyping(input, keep, leave);

  /**
   * @param {Turn} shown
   */
  function show(shown) {
    turn = shown;
    const { path, models } = chat.result();
    const isReply = turn.role === "assistant";
    const isWriting = chat.isWriting();
    const isEdited = edited === turn.id;
    const version = turn.siblings.indexOf(turn.id);
    element.className = `${turn.role}${turn.is_forgotten ? " forgotten" : ""}${isEdited ? " edited" : ""}`;
    text.textContent = turn.content || "(nothing)";
    text.hidden = isEdited;
    editor.hidden = !isEdited;
    save.textContent = isReply ? "Save" : "Send";
    who.textContent = isReply ? (models.length > 1 && turn.model) || "Model" : "You";
    place.textContent = `${version + 1} of ${turn.siblings.length}`;
    versions.hidden = turn.siblings.length < 2;
    earlier.ariaDisabled = String(version === 0 || isWriting);
    later.ariaDisabled = String(version === turn.siblings.length - 1 || isWriting);
    figures.textContent = took(turn).join(" · ");
    again.textContent = isReply ? "Write again" : "Answer";
    again.hidden = !isReply && turn.id !== path.at(-1).id;
    edit.disabled = again.disabled = isWriting || isEdited;
  }
  return { element, show };
}

/**
 * What a turn took, in words.
 * @param {Turn} turn
 */
function took(turn) {
  const words = [];
  if (turn.is_forgotten) words.push("left out of the prompt");
  if (turn.n_tokens) words.push(counted(turn.n_tokens, "token"));
  if (turn.ending === null) return words;
  if (turn.n_prompt) {
    const cached = turn.n_cached === null ? "" : `, ${turn.n_cached.toLocaleString("en")} of them from the cache`;
    words.push(`prompt ${counted(turn.n_prompt, "token")}${cached}`);
  }
  if (turn.to_first) words.push(`first token after ${short(turn.to_first, 2)} s`);
  if (turn.rate) words.push(`${short(turn.rate, 2)} tokens/s`);
  if (turn.ending === "stopped") words.push("stopped");
  if (turn.ending === "length") words.push("cut off: the reply had no more room");
  return words;
}
