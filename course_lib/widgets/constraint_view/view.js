// The browser's half of ConstraintView. What is wanted is typed, compiled by the kernel, and drawn as an automaton; then the
// model writes, one token a message: the kernel is never busy for longer, and stopping means to ask for no more.

import { drawAll, keepKeys, node, onNewLooks, soon, tokenChip } from "../shared/base.js";
import { drawCurve, openPlot } from "../shared/curves.js";
import { promptPanel } from "../shared/kernel.js";
import { counted, short } from "../shared/numbers.js";
import { oddsChart, twoDigits } from "../shared/odds.js";
import { openSettings, sliderRow } from "../shared/settings.js";
import { automatonPicture } from "./automaton.js";
import { wantedPanel } from "./wanted.js";

const BREATH = 30; // ms between two tokens, for the picture to be drawn
const ROOMS = [4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]; // tokens
const REASONS = {
  automaton: "nothing that is wanted goes on like this",
  room: "there would not be room enough to end in time",
  end: "the text is not whole yet",
  special: "a special token is no text",
};

export default { render };

function render({ model, el }) {
  const root = node("div", { className: "course-widget constraint-view settings-widget" });
  keepKeys(root);
  const view = openView(model, el);
  const panels = [wantedPanel, automatonPanel, textPanel, controlPanel, writtenPanel, nextPanel, massPanel].map(
    (panel) => panel(view),
  );
  const [wanted, automaton, text, controls, written, next, mass] = panels.map(({ element }) => element);
  root.append(wanted, automaton, text, controls, written, node("div", { className: "columns" }, next, mass));
  el.append(root);

  view.draw = () => drawAll(panels);
  view.announce = panels[2].announce;
  model.on("change:problem change:drawing", view.draw);
  const ignoreLooks = onNewLooks(root, view.draw);
  return () => {
    view.close();
    model.off("change:problem change:drawing", view.draw);
    ignoreLooks();
  };
}

// ---- What all panels share: the settings, the writing, and the token whose way is looked at ----

/** @typedef {ReturnType<typeof openView>} View */

function openView(model, el) {
  let isWriting = false;
  let looked = null; // the token whose way is shown; null: the one written last

  const inner = openSettings(model, el, () => {
    const { line } = inner;
    if (line.error) isWriting = false;
    if (isWriting && !line.isBusy()) setTimeout(goOn, BREATH);
    view.draw();
  });

  const view = {
    ...inner,
    problem: () => model.get("problem"),
    drawing: () => model.get("drawing"),
    examples: () => model.get("examples"),
    isWriting: () => isWriting,
    isOver: () => Boolean(inner.result().ended && inner.result().free.ended),
    draw: () => {},
    announce: (_words) => {},

    close() {
      isWriting = false;
      inner.close();
    },

    looked: () => looked ?? inner.result().steps.at(-1) ?? null,
    look(token) {
      looked = token;
      view.draw();
    },

    // Whatever changes the text ends the writing.
    go(request) {
      isWriting = false;
      looked = null;
      inner.line.ask(request);
    },
    want: (settings) => view.go({ type: "wanted", settings }),
    set: (settings) => view.go({ type: "set", settings: { ...inner.line.pending("set")?.settings, ...settings } }),
    step: () => view.go({ type: "step" }),
    back: () => view.go({ type: "back" }),
    choose: (id) => view.go({ type: "choose", id }),

    write() {
      view.step();
      isWriting = true;
    },

    stop() {
      isWriting = false;
      view.draw();
    },
  };

  function goOn() {
    if (!isWriting || inner.line.isBusy()) return;
    if (!view.isOver()) return inner.line.ask({ type: "step" });
    view.stop();
    view.announce(`Written: ${textOf(inner.result().steps.filter(({ is_end }) => !is_end))}`);
  }
  return view;
}

const textOf = (tokens) => tokens.map(({ piece }) => piece).join("");

// ---- The automaton ----

function automatonPanel(view) {
  const said = node("p", { className: "muted" });
  const stage = node("div", { className: "stage", role: "img", tabIndex: 0 });
  const legend = node(
    "p",
    { className: "legend" },
    ...[
      ["here", "the text is here"],
      ["after", "one byte on"],
      ["landing", "a token below leads here"],
      ["accepting", "a text may end here"],
    ].map(([kind, textContent]) => node("span", { className: `sample ${kind}`, textContent })),
  );
  const walk = node("p", { className: "walk" });
  const title = node("h3", { textContent: "Automaton" });
  const element = node("section", { className: "automaton" }, node("header", {}, title, said), stage, walk, legend);
  let drawn = null;
  let picture = null;
  let centred = null; // the state that was scrolled to

  const draw = soon(() => {
    if (stage.clientWidth === 0) {
      centred = null; // what is hidden forgets where it was scrolled to
      return;
    }
    const { states, n_states, is_whole } = view.drawing();
    const { state, next } = view.result();
    if (drawn !== view.drawing()) {
      picture = automatonPicture(view.drawing());
      stage.replaceChildren(picture.svg);
      [drawn, centred] = [view.drawing(), null];
    }
    const looked = view.looked();
    const landing = new Set(next.filter(({ out }) => !out).map(({ states }) => states.at(-1)));
    picture.mark({ state, landing, way: looked?.states ?? [] });
    if (centred !== state) {
      const { x, y } = picture.placeOf(state) ?? { x: 0, y: 0 };
      stage.scrollTo(x - stage.clientWidth / 2, y - stage.clientHeight / 2);
      centred = state;
    }
    said.textContent = is_whole
      ? "Each arrow reads one byte of those beside it; · is a space."
      : `Too large to be drawn whole: ${states.length} of ${n_states.toLocaleString("en")} states, those near where the text is.`;
    stage.ariaLabel = inWords(view);
    walk.replaceChildren(...(looked ? wayOf(looked) : ["A token is several bytes: point at one to see its way."]));
  });
  return { element, draw };
}

// The bytes of a token, and between them the states that they lead through.
function wayOf(token) {
  const { states, bytes, out, is_end } = token;
  if (!bytes.length)
    return [tokenChip(token), is_end || !out ? " ends the text and reads no byte." : ` is ruled out: ${REASONS[out]}.`];
  const steps = states.flatMap((state, i) => [
    ...(i ? [node("code", { textContent: ` ${bytes[i - 1]}→ ` })] : []),
    state < 0
      ? node("b", { className: "dead", textContent: "✗" })
      : node("span", { className: "at", textContent: String(state) }),
  ]);
  const length = `: ${counted(bytes.length, "byte")}${states.at(-1) < 0 ? ", the last of which leads nowhere" : ""}. `;
  return [tokenChip(token), length, ...steps, ...(out === "room" ? [` ✂ ${REASONS.room}`] : [])];
}

function inWords(view) {
  const { n_states, states, edges } = view.drawing();
  const { state } = view.result();
  const labels = edges.filter(({ source }) => source === state).map(({ label, target }) => `${label} to ${target}`);
  const accepting = states.find(({ id }) => id === state)?.accepting;
  const ways = labels.length ? `From there ${labels.slice(0, 8).join(", ")}` : "Nothing follows";
  return `Automaton of ${counted(n_states, "state")}. The text is in state ${state}${accepting ? ", where it may end" : ""}. ${ways}.`;
}

// ---- The prompt, and what drives the writing ----

function textPanel(view) {
  return promptPanel({
    line: view.line,
    label: "Prompt",
    action: "Start over",
    text: () => view.settings().prompt,
    run: (prompt) => view.set({ prompt }),
    status: () => {
      const { n_prompt, steps, ended, left, distance } = view.result();
      const written = steps.filter(({ is_end }) => !is_end).length;
      const room = ended
        ? { end: "the model ended the text", room: "no room is left" }[ended]
        : `room for ${left}; the shortest way to an end is ${counted(distance, "byte")}`;
      return `${counted(n_prompt, "prompt token")}, ${written} written: ${room}`;
    },
  });
}

function controlPanel(view) {
  const button = (textContent, onclick, className = "") =>
    node("button", { type: "button", textContent, onclick, className });
  const step = button("Step ▶", view.step, "primary");
  const all = button("Write all", view.write);
  const stop = button("Stop", view.stop);
  const back = button("◀ Back", view.back);
  const room = sliderRow(view, {
    name: "max_new_tokens",
    label: "room",
    values: ROOMS,
    say: (tokens) => counted(tokens, "token"),
  });
  const element = node("div", { className: "controls" }, back, step, all, stop, room.element);

  const draw = soon(() => {
    const isStopped = Boolean(view.problem().message) || view.isOver();
    step.disabled = all.disabled = isStopped || view.isWriting();
    back.disabled = view.isWriting() || view.result().steps.length === 0;
    stop.disabled = !view.isWriting();
    room.draw();
  });
  return { element, draw };
}

// ---- Both texts ----

function writtenPanel(view) {
  const sides = [
    ["masked", "Under the mask"],
    ["free", "Written freely"],
  ].map(([className, textContent]) => {
    const tokens = node("p", { className: "tokens", ariaLabel: textContent });
    const verdict = node("p", { className: "verdict", role: "status" });
    const element = node("section", { className }, node("h3", { textContent }), tokens, verdict);
    return { tokens, verdict, element };
  });
  const [masked, free] = sides;
  const element = node("div", { className: "columns" }, masked.element, free.element);

  const draw = soon(() => {
    const { steps, ended, verdict, free: other } = view.result();
    masked.tokens.replaceChildren(...steps.map((token) => writtenChip(view, token)));
    masked.verdict.textContent = ended ? sayVerdict(verdict) : "";
    free.tokens.replaceChildren(...other.tokens.map(freeChip));
    const leaves = other.tokens.some(({ fits }) => !fits)
      ? "Struck out: from here on, nothing that is wanted can come. "
      : "";
    free.verdict.textContent = leaves + (other.ended ? sayVerdict(other.verdict) : "");
    for (const { tokens } of sides) if (!tokens.childElementCount) tokens.textContent = "nothing yet";
  });
  return { element, draw };
}

const sayVerdict = ({ valid, said }) =>
  `${valid ? "✓ Valid." : valid === false ? "✗ Not valid." : "Not known."} ${said}`;

function writtenChip(view, token) {
  const { chip, piece, before, now, removed, n_allowed, by_hand, is_end } = token;
  const said = `${JSON.stringify(piece)}: ${twoDigits(before)} before the mask, ${twoDigits(now)} after; ${twoDigits(removed)} removed, ${n_allowed.toLocaleString("en")} allowed${by_hand ? "; chosen by hand" : ""}`;
  const button = node("button", { type: "button", className: "chip", textContent: chip, title: said, ariaLabel: said });
  button.classList.toggle("by-hand", by_hand);
  button.classList.toggle("end", is_end);
  button.addEventListener("click", () => view.look(token));
  return button;
}

function freeChip(token) {
  const chip = tokenChip(token);
  chip.classList.toggle("unfit", !token.fits);
  return chip;
}

// ---- The next token, before the mask and after ----

function nextPanel(view) {
  const describe = ({ piece, before, now, out }) =>
    `${JSON.stringify(piece)}: ${twoDigits(before)} before the mask, ${twoDigits(now)} after${out ? `; ruled out: ${REASONS[out]}` : ""}`;
  const odds = oddsChart({
    now: "after the mask",
    before: "before",
    describe,
    pick: (token) => (token.out || view.isWriting() ? view.look(token) : view.choose(token.id)),
  });
  const title = node("h3", { textContent: "Next token" });
  const said = node("p", { className: "muted" });
  const element = node("section", { className: "next" }, title, said, odds.element);
  const rowOf = (target) => [...element.querySelectorAll("li")].indexOf(target.closest("li"));
  const point = ({ target }) => view.look(view.result().next[rowOf(target)] ?? null);
  odds.element.addEventListener("pointerover", point);
  odds.element.addEventListener("focusin", point);
  odds.element.addEventListener("pointerleave", () => view.look(null));
  odds.element.addEventListener("focusout", () => view.look(null));

  const draw = soon(() => {
    const { next, ended } = view.result();
    odds.show(next.map((token) => ({ ...token, note: `${token.out ? "✂" : ""} was ${twoDigits(token.before)}` })));
    odds.element.hidden = next.length === 0;
    said.textContent = ended
      ? "The text is whole: nothing follows."
      : "The likeliest, struck out where the mask rules them out, and the likeliest allowed. A click goes on with an allowed one.";
  });
  return { element, draw };
}

// ---- What the mask removes, now and at every step ----

function massPanel(view) {
  const bar = node("div", { className: "mass", role: "img" });
  const [kept, room, removed] = ["kept", "room", "removed"].map((className) => node("i", { className }));
  bar.append(kept, room, removed);
  const legend = node(
    "p",
    { className: "legend" },
    ...[
      ["kept", "allowed"],
      ["room", "ruled out by the room"],
      ["removed", "by the automaton"],
    ].map(([kind, textContent]) => node("span", { className: `sample ${kind}`, textContent })),
  );
  const said = node("p", { className: "counts" });
  const canvas = node("canvas", { role: "img" });
  const dashes = node("p", { className: "muted", textContent: "Dashed: by the room alone." });
  const title = node("h3", { textContent: "What the mask removes" });
  const element = node("section", { className: "removes" }, title, bar, legend, said, canvas, dashes);

  const draw = soon(() => {
    const result = view.result();
    const { steps, ended, n_tokens } = result;
    const now = ended ? { removed: 0, removed_by_room: 0, n_allowed: 0, n_allowed_without_room: 0 } : result;
    const shares = [1 - now.removed, now.removed_by_room, now.removed - now.removed_by_room];
    for (const [i, part] of [kept, room, removed].entries()) part.style.flexGrow = shares[i];
    for (const part of [bar, legend]) part.hidden = Boolean(ended);
    bar.ariaLabel = `${twoDigits(now.removed)} of the probability is removed, ${twoDigits(now.removed_by_room)} of it by the room`;
    const tooLong = now.n_allowed_without_room - now.n_allowed;
    said.textContent = ended
      ? `${counted(steps.length, "token")} chosen.`
      : `${now.n_allowed.toLocaleString("en")} of ${counted(n_tokens, "token")} allowed; ${twoDigits(now.removed)} of the probability removed${tooLong ? `. The room rules out ${counted(tooLong, "token")} more than the automaton` : ""}.`;
    const byRoom = steps.map((step) => step.removed_by_room);
    const isTight = byRoom.some((share) => share > 0.001);
    canvas.hidden = steps.length === 0;
    dashes.hidden = !isTight;
    if (canvas.hidden || element.clientWidth === 0) return;
    const axes = { width: element.clientWidth, height: 190, nSteps: Math.max(steps.length, 4), low: 0, high: 1.02 };
    const plot = openPlot(canvas, { ...axes, label: "removed", isLast: true });
    const numbers = steps.map((_, i) => i + 1);
    const curve = steps.map((step) => step.removed);
    drawCurve(plot, numbers, curve, { color: plot.look.learner, dots: true });
    if (isTight) drawCurve(plot, numbers, byRoom, { color: plot.look.ink, width: 1.5, dash: [6, 4] });
    canvas.ariaLabel = `Probability removed at each step: ${curve.map((share) => short(share, 2)).join(", ")}`;
  });
  return { element, draw };
}
