// The browser's half of ChatApp: the turns, the reply as it is written, the next message, and the settings below.

import { drawAll, keepKeys, node, soon } from "../shared/base.js";
import { openSettings } from "../shared/settings.js";
import { settingsPanel } from "./controls.js";
import { turnList } from "./turns.js";
import { keepTyping } from "./typing.js";

export default { render };

function render({ model, el }) {
  const root = node("div", { className: "course-widget settings-widget chat-app" });
  keepKeys(root);
  const view = openSettings(model, el, changed);
  const chat = {
    ...view,
    draft: () => model.get("draft"),
    isWriting: () => "text" in model.get("draft") || ["say", "answer", "edit"].some(view.line.pending),
    ask: view.line.ask,
  };
  const panels = [headPanel, turnList, errorLine, messagePanel, settingsPanel].map((panel) => panel(chat));
  root.append(...panels.map(({ element }) => element));
  el.append(root);
  const draw = soon(() => drawAll(panels));

  // The kernel writes for a moment at a time: it is asked to go on as long as it writes, in a hidden page too.
  function changed() {
    const { line } = view;
    if (model.get("draft").is_asked_for && !line.isBusy() && !line.error) line.ask({ type: "more" });
    draw();
  }

  model.on("change:draft", changed);
  changed();
  return () => {
    model.off("change:draft", changed);
    view.close();
  };
}

function headPanel(chat) {
  const title = node("h3");
  const address = node("span", { className: "muted" });
  const choice = node("select", { ariaLabel: "Model" });
  const fresh = node("button", { type: "button", textContent: "New chat", onclick: () => chat.ask({ type: "new" }) });
  const element = node("div", { className: "head" }, title, choice, address, fresh);
  choice.addEventListener("change", () => chat.set({ model: choice.value }));

  function draw() {
    const { models, address: place, path } = chat.result();
    const { model } = chat.settings();
    title.textContent = models.length > 1 ? "Chat with" : `Chat with ${model}`;
    if (choice.options.length !== models.length) {
      choice.replaceChildren(...models.map((name) => node("option", { value: name, textContent: name })));
    }
    choice.value = model;
    choice.hidden = models.length < 2;
    choice.disabled = chat.isWriting();
    address.textContent = place ? `at ${place}` : "";
    fresh.disabled = chat.isWriting() || path.length === 0;
  }
  return { element, draw };
}

function errorLine(chat) {
  const element = node("p", { className: "error", role: "alert" });
  return { element, draw: () => (element.textContent = chat.line.error) };
}

// ---- The next message, and the button that stops the reply ----

function messagePanel(chat) {
  const input = node("textarea", { rows: 2, ariaLabel: "Message", placeholder: "Say something", spellcheck: false });
  const send = node("button", { className: "primary", textContent: "Send" });
  const stop = node("button", { type: "button", className: "primary", textContent: "Stop" });
  const status = node("p", { className: "muted", role: "status" });
  const live = node("p", { className: "unseen", ariaLive: "polite" });
  const form = node("form", {}, input, send, stop);
  const element = node("section", { className: "message" }, form, status, live);
  let sent = ""; // the message whose fate is not known yet
  let announced = 0; // characters of the reply
  let wasWriting = false;

  keepTyping(input, say, () => chat.isWriting() && chat.ask({ type: "stop" }));
  stop.addEventListener("click", () => chat.ask({ type: "stop" }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    say();
  });

  function say() {
    if (!input.value.trim() || chat.isWriting()) return;
    sent = input.value;
    input.value = "";
    chat.ask({ type: "say", content: sent });
  }

  // Whole sentences are read out, not every token.
  function announce(text, isWhole) {
    const end = isWhole ? text.length : text.search(/[.!?\n][^.!?\n]*$/) + 1;
    if (end > announced) live.textContent = text.slice(announced, end);
    announced = Math.max(announced, end);
  }

  function draw() {
    const isWriting = chat.isWriting();
    const { path, n_context, context_length } = chat.result();
    const hasFocus = element.contains(document.activeElement);
    if (chat.line.error && sent && !chat.line.pending("say")) input.value ||= sent; // it was not said: it can be mended
    if (!chat.line.pending("say")) sent = "";
    send.hidden = isWriting;
    stop.hidden = !isWriting;
    stop.disabled = chat.line.pending("stop") !== undefined;
    if (hasFocus && !element.contains(document.activeElement)) input.focus();
    if (isWriting) announce(chat.draft().text ?? "", false);
    else if (wasWriting) announce(path.at(-1)?.role === "assistant" ? path.at(-1).content : "", true);
    if (isWriting && !wasWriting) announced = 0;
    wasWriting = isWriting;
    const taken = `${n_context.toLocaleString("en")}${context_length ? ` of ${context_length.toLocaleString("en")}` : ""}`;
    status.textContent = !isWriting
      ? `The context holds ${taken} tokens.`
      : chat.line.pending("stop")
        ? "Stops after this token …"
        : chat.draft().text
          ? "Writing …"
          : "Reading the prompt …";
  }
  return { element, draw };
}
