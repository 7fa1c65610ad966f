// What is wanted, a regular expression or a JSON schema: typed, or chosen among examples, and compiled by the kernel.

import { node, soon } from "../shared/base.js";
import { counted } from "../shared/numbers.js";
import { choiceRow } from "../shared/settings.js";

const PAUSE = 400; // ms without a key before what is typed is compiled

/**
 * The box of what is wanted, its kind, its examples, and the place of a mistake.
 * @param {import("./view.js").View} view
 */
export function wantedPanel(view) {
  const kind = choiceRow({
    label: "What is typed",
    choices: [
      ["pattern", "Regular expression"],
      ["schema", "JSON schema"],
    ],
    chosen: () => typed?.kind ?? view.settings().kind,
    choose: (kind) => type({ kind }),
  });
  const examples = node("select", { ariaLabel: "Examples" });
  const box = node("textarea", { ariaLabel: "What the text must be", spellcheck: false, maxLength: 20_000 });
  const place = node("pre");
  const message = node("p", { className: "error", role: "alert" });
  const said = node("p", { className: "muted", role: "status" });
  const head = node("header", {}, node("h3", { textContent: "What the text must be" }), kind.element, examples);
  const element = node("section", { className: "wanted" }, head, box, node("div", {}, place, message, said));
  let typed = null; // what is not answered yet
  let timer = null;

  examples.append(
    node("option", { value: "", textContent: "Examples …" }),
    ...view.examples().map(({ name }, i) => node("option", { value: i, textContent: name })),
  );
  examples.addEventListener("change", () => {
    const { kind, wanted, prompt } = view.examples()[Number(examples.value)] ?? {};
    examples.value = "";
    if (kind) type({ kind, wanted, prompt }, 0);
  });
  box.addEventListener("input", () => type({}));

  // Compiled once nobody has typed for a moment.
  function type(changes, wait = PAUSE) {
    typed = { kind: view.settings().kind, ...typed, wanted: box.value, ...changes };
    box.value = typed.wanted;
    clearTimeout(timer);
    timer = setTimeout(() => {
      timer = null;
      view.want(typed);
    }, wait);
    draw();
  }

  const draw = soon(() => {
    const { problem, settings, line } = view;
    const answered = problem().wanted ?? settings().wanted;
    if (timer === null && !line.isBusy()) typed = null;
    if (!typed && document.activeElement !== box) box.value = answered;
    kind.draw();
    const isOpen = typed !== null;
    const { message: complaint = "", at = null, wanted = "" } = isOpen ? {} : problem();
    message.textContent = complaint;
    place.textContent = complaint && at !== null ? placeIn(wanted, at) : "";
    place.hidden = !place.textContent;
    box.ariaInvalid = String(Boolean(complaint));
    said.textContent = isOpen
      ? "Compiling …"
      : complaint
        ? "Below is what compiled last."
        : `Compiled: ${counted(view.drawing().n_states, "state")}.`;
  });
  return { element, draw };
}

// The line in which character `at` stands, cut around it, and a mark below that.
function placeIn(text, at) {
  const start = text.lastIndexOf("\n", at - 1) + 1;
  const line = text.slice(start).split("\n", 1)[0];
  const from = Math.max(0, at - start - 40);
  return `${from ? "…" : ""}${line.slice(from, from + 70)}\n${" ".repeat(at - start - from + (from ? 1 : 0))}▲`;
}
