// The browser's half of SamplingPlayground. The kernel's half says what `result` holds; here it is drawn and driven.
// A place is a gap in the text, counted from the prompt's end: place 3 is before the generated token 3.

import { clamp, drawAll, keepKeys, node, onNewLooks, soon } from "../shared/base.js";
import { openLine, promptPanel } from "../shared/kernel.js";
import { counted } from "../shared/numbers.js";
import { oddsChart, tint, tintLegend, twoDigits } from "../shared/odds.js";
import { SETTINGS, settingsPanel } from "./controls.js";

export default { render };

function render({ model, el }) {
  const root = node("div", { className: "course-widget sampling-playground" });
  keepKeys(root);
  const playground = openPlayground(model, el);
  const panels = [textPanel, settingsPanel, oddsPanel, generatedPanel].map((panel) => panel(playground));
  root.append(node("div", { className: "panels" }, ...panels.map((panel) => panel.element)));
  el.append(root);

  playground.draw = () => {
    root.classList.toggle("generating", playground.isGenerating());
    drawAll(panels);
  };
  playground.announce = panels[0].announce;
  const changes = "change:result change:text change:temperature change:top_k change:top_p change:min_p change:seed";
  model.on(changes, playground.draw);
  const ignoreLooks = onNewLooks(root, playground.draw);
  return () => {
    playground.close();
    model.off(changes, playground.draw);
    ignoreLooks();
  };
}

// ---- What the panels share: the settings, and generation, one token a message ----

function openPlayground(model, el) {
  const names = [...SETTINGS.map(({ name }) => name), "seed"];
  let wanted = {}; // settings that the kernel has not taken over yet
  let left = 0; // tokens still to be drawn
  let total = 0;

  const playground = {
    line: openLine(model, el, changed),
    result: () => model.get("result"),
    text: () => model.get("text"),
    settings: () => ({ ...Object.fromEntries(names.map((name) => [name, model.get(name)])), ...wanted }),
    isGenerating: () => total > 0,
    draw: () => {},
    announce: (_words) => {},

    ask: (request) => playground.line.ask({ ...request, settings: playground.settings() }),
    run: (text) => playground.go({ type: "run", text }),
    look: (depth) => playground.go({ type: "look", depth }),
    take: (id) => playground.go({ type: "take", id }),
    walk: (branch) => playground.go({ type: "walk", branch }),

    // Whoever goes to another place means to look at it: generation ends.
    go(request) {
      left = 0;
      playground.ask(request);
    },

    set(name, value) {
      wanted[name] = value;
      playground.ask({ type: "settings" });
    },

    generate(tokens) {
      left = total = tokens;
      playground.line.error = "";
      changed();
    },

    stop() {
      left = 0;
      changed();
    },

    close() {
      left = 0;
      playground.line.close();
      model.off("msg:custom", receive);
    },
  };

  // After every answer: draw the next token, if there is one to draw and nothing else is waiting.
  function changed() {
    const { line } = playground;
    if (line.error) left = 0;
    if (!line.isBusy()) {
      wanted = {};
      if (left > 0) {
        left -= 1;
        return playground.ask({ type: "draw" });
      }
      if (total > 0) finish();
    }
    if (total > 0) line.progress = { done: total - left, total, unit: "token" };
    playground.draw();
  }

  function finish() {
    total = 0;
    const { path, depth } = playground.result();
    const drawn = path
      .slice(0, depth)
      .map(({ piece }) => piece)
      .join("");
    playground.announce(`The text now reads: ${drawn}`);
  }

  function receive(message) {
    if (message.type === "ended") left = 0;
  }

  model.on("msg:custom", receive);
  return playground;
}

function textPanel(playground) {
  function status() {
    const { prompt, path, branches } = playground.result();
    const parts = [counted(prompt, "prompt token"), `${path.length} generated`];
    return [...parts, ...(branches.length > 1 ? [`${branches.length} branches`] : [])].join(", ");
  }
  const { line, text, run } = playground;
  return promptPanel({ line, text, label: "Prompt", run, status, action: "Start over" });
}

// ---- The next token's odds at the place that is looked at ----

function oddsPanel(playground) {
  const filters = () => playground.result().filters;
  const describe = ({ piece, rank, now, before, cut, is_following }) =>
    [
      `${JSON.stringify(piece)}, rank ${rank}: ${twoDigits(now)} drawn from, ${twoDigits(before)} the model’s own`,
      ...(cut ? [`cut by ${filters()[cut - 1]}`] : []),
      ...(is_following ? ["in the text"] : []),
    ].join(", ");
  const odds = oddsChart({
    now: "drawn from",
    before: "the model’s own",
    describe,
    pick: ({ id }) => playground.take(id),
  });
  const place = node("p", { className: "muted" });
  const element = node(
    "section",
    { className: "next" },
    node("h3", { textContent: "Next token" }),
    place,
    odds.element,
  );

  // A token that is not among the likeliest stands last: its rank is not its place in the list.
  function note({ cut, rank, is_following, is_tried }, index) {
    const said = [
      cut && `✂ ${filters()[cut - 1]}`,
      is_following && "◂ in the text",
      is_tried && !is_following && "tried",
    ];
    return said.filter(Boolean).join(" ") || (rank > index + 1 ? `rank ${rank.toLocaleString("en")}` : "");
  }

  const draw = soon(() => {
    const { next, depth, path } = playground.result();
    odds.show(next.map((token, index) => ({ ...token, note: note(token, index) })));
    place.textContent = `${depth === path.length ? "At the end of the text" : `Before token ${depth}`}. A click on a token goes on with it.`;
  });
  return { element, draw };
}

// ---- The generated text, and its branches ----

function generatedPanel(playground) {
  const sample = node("button", { type: "button", className: "primary", textContent: "Sample one" });
  const many = node("button", { type: "button" });
  const count = node("input", {
    type: "number",
    min: 1,
    max: 500,
    value: 20,
    ariaLabel: "How many tokens to generate",
  });
  const stop = node("button", { type: "button", textContent: "Stop" });
  const seed = node("input", { type: "number", min: 0, max: 2 ** 31 - 1, step: 1 });
  const dice = node("button", { type: "button", textContent: "New seed" });
  const buttons = node(
    "div",
    { className: "buttons" },
    sample,
    many,
    count,
    stop,
    node("span", { className: "seed" }, node("label", {}, "seed ", seed), dice),
  );
  const text = node("div", {
    className: "text",
    role: "group",
    ariaLabel: "Generated text: arrow keys move, Enter looks at a token’s alternatives",
  });
  const legend = tintLegend("the model’s own probability");
  legend.append(node("span", { className: "chip fork", textContent: "·token" }), "several branches go on from here");
  const branches = node("ol", { className: "branches", ariaLabel: "Branches" });
  const title = node("h3", { textContent: "Branches" });
  const element = node(
    "section",
    { className: "generated" },
    node("h3", { textContent: "Text" }),
    buttons,
    text,
    legend,
    title,
    branches,
  );
  const chips = [];
  let focused = 0; // the chip that Tab reaches

  const asked = () => clamp(Math.round(count.valueAsNumber) || 1, 1, 500);
  sample.addEventListener("click", () => playground.generate(1));
  many.addEventListener("click", () => playground.generate(asked()));
  count.addEventListener("input", () => draw());
  stop.addEventListener("click", () => playground.stop());
  seed.addEventListener("change", () =>
    playground.set("seed", clamp(Math.round(seed.valueAsNumber) || 0, 0, 2 ** 31 - 1)),
  );
  dice.addEventListener("click", () => playground.set("seed", crypto.getRandomValues(new Uint32Array(1))[0] >>> 16));

  text.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: focused - 1, ArrowRight: focused + 1, Home: 0, End: chips.length - 1 }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    focus(clamp(move, 0, chips.length - 1));
    chips[focused].focus();
  });

  function focus(index) {
    focused = index;
    for (const [i, chip] of chips.entries()) chip.tabIndex = i === index ? 0 : -1;
  }

  // A chip for each place: the token that follows it, and at the end of the text what comes next.
  function newChip(index) {
    const chip = node("button", { type: "button", className: "chip" });
    chip.addEventListener("click", () => {
      focus(index);
      playground.look(index);
    });
    return chip;
  }

  function show(chip, token, position) {
    tint(chip, token.own);
    const odds = token.drawn > 0 ? `drawn with ${twoDigits(token.drawn)}` : "chosen by hand, though cut";
    const forks = token.forks > 1 ? `, ${token.forks} branches` : "";
    Object.assign(chip, {
      textContent: token.chip,
      title: `token ${position}, id ${token.id}: the model’s own probability ${twoDigits(token.own)}, ${odds}${forks}`,
      ariaLabel: `token ${position}: ${JSON.stringify(token.piece)} ${twoDigits(token.own)}${forks}`,
    });
    chip.classList.toggle("fork", token.forks > 1);
    chip.classList.remove("end");
  }

  const draw = soon(() => {
    const { path, depth, branches: all } = playground.result();
    const isGenerating = playground.isGenerating();
    many.textContent = `Generate ${counted(asked(), "token")}`;
    sample.disabled = many.disabled = isGenerating;
    stop.disabled = !isGenerating;
    if (document.activeElement !== seed) seed.value = playground.settings().seed;

    while (chips.length <= path.length) chips.push(newChip(chips.length));
    chips.length = path.length + 1;
    for (const [position, token] of path.entries()) show(chips[position], token, position);
    const end = chips[path.length];
    end.className = "chip end";
    end.removeAttribute("data-depth");
    Object.assign(end, {
      textContent: path.length ? "…" : "nothing yet",
      title: "what comes next",
      ariaLabel: "the end of the text",
    });
    for (const [position, chip] of chips.entries()) chip.setAttribute("aria-current", String(position === depth));
    if (text.children.length !== chips.length) text.replaceChildren(...chips);
    focus(text.contains(document.activeElement) ? Math.min(focused, path.length) : depth);

    title.hidden = all.length < 2;
    branches.replaceChildren(
      ...(all.length < 2 ? [] : all.map((branch, index) => branchRow(playground, branch, index))),
    );
  });
  return { element, draw };
}

function branchRow(playground, { from, length, text, is_current }, index) {
  const where = node("span", { className: "muted", textContent: from ? `from token ${from}` : "from the prompt" });
  const button = node(
    "button",
    { type: "button", ariaCurrent: String(is_current) },
    node("b", { textContent: index + 1 }),
    where,
    node("span", { className: "words", textContent: text }),
  );
  button.ariaLabel = `Branch ${index + 1}, ${where.textContent}, ${counted(length, "token")}: ${text}`;
  button.addEventListener("click", () => playground.walk(index));
  return node("li", {}, button);
}
