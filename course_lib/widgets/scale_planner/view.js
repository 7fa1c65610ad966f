// The browser's half of ScalePlanner: the run at the left, its memory and its cost at the right.

import { drawAll, keepKeys, node, soon } from "../shared/base.js";
import { counted, inUnits, short } from "../shared/numbers.js";
import { choiceRow, errorPanel, openSettings, sliderRow } from "../shared/settings.js";

const EXAMPLES = ["A first model", "Llama 3 405B", "DeepSeek-V3"];
const PARTS = [
  ["weights", "query"],
  ["gradients", "key"],
  ["optimizer", "value"],
  ["activations", "residual"],
];
const POWERS = Array.from({ length: 16 }, (_, i) => 2 ** i); // 1 to 32,768

/** @type {[number, string][]} */
const BIG = [
  [1e12, "T"],
  [1e9, "B"],
  [1e6, "M"],
];
/** @type {[number, string][]} */
const WORDS = [
  [1e9, " billion"],
  [1e6, " million"],
];

const big = (number) => inUnits(number, BIG);
const inWords = (number) => inUnits(number, WORDS);
const gigabytes = (count) => `${short(count / 1e9)} GB`;
const operations = (count) => {
  const [digits, exponent] = count.toExponential(2).split("e+");
  return node("span", {}, `${digits} × 10`, node("sup", { textContent: exponent }));
};

export default { render };

function render({ model, el }) {
  const root = node("div", { className: "course-widget settings-widget scale-planner" });
  keepKeys(root);
  const view = openSettings(model, el, () => draw());
  const [examples, run, error, memory, figures] = [examplePanel, runPanel, errorPanel, memoryPanel, figurePanel].map(
    (panel) => panel(view),
  );
  const results = node("div", { className: "results" }, memory.element, figures.element);
  root.append(examples.element, error.element, node("div", { className: "sides" }, run.element, results));
  el.append(root);

  const draw = soon(() => drawAll([examples, run, error, memory, figures]));
  draw();
  return () => view.close();
}

function examplePanel(view) {
  const row = choiceRow({
    label: "Begin with",
    choices: EXAMPLES.map((name) => [name, name]),
    chosen: () => view.settings().example,
    choose: (example) => view.set({ example }),
  });
  return {
    element: node(
      "div",
      { className: "controls" },
      node("span", { className: "muted", textContent: "Begin with" }),
      row.element,
    ),
    draw: row.draw,
  };
}

// ---- The run ----

function runPanel(view) {
  const times = (count) => `${count.toLocaleString("en")}`;
  const slider = (name, label, options) => sliderRow(view, { name, label, ...options });
  const choice = (name, label, choices) => {
    const row = choiceRow({
      label,
      choices,
      chosen: () => view.settings()[name],
      choose: (value) => view.set({ [name]: value }),
    });
    return {
      element: node("div", { className: "choice" }, node("span", { textContent: label }), row.element),
      draw: row.draw,
    };
  };
  const heading = (textContent) => ({ element: node("h3", { textContent }), draw: () => {} });
  const experts = slider("expert", "expert parallel", { values: POWERS.slice(0, 8), say: times });
  const rows = [
    heading("Model and data"),
    slider("parameters", "parameters", {
      range: [1e8, 4e12],
      say: (n) => `${big(n)}${view.settings().active ? `, ${big(view.settings().active)} active` : ""}`,
    }),
    slider("tokens", "tokens", { range: [1e9, 4e13], say: big }),
    slider("context_length", "context", {
      values: POWERS.slice(9, 16).concat(65536, 131072),
      say: (n) => `${times(n)} tokens`,
    }),
    heading("GPUs"),
    choice(
      "gpu",
      "kind",
      ["A100", "H100", "H800", "H200"].map((name) => [name, name]),
    ),
    slider("n_gpus", "number", { values: POWERS, say: times }),
    slider("tensor", "tensor parallel", { values: POWERS.slice(0, 5), say: times }),
    slider("pipeline", "pipeline stages", { values: POWERS.slice(0, 7), say: times }),
    experts,
    slider("mfu", "MFU", {
      values: Array.from({ length: 14 }, (_, i) => (i + 1) / 20),
      say: (share) => `${Math.round(100 * share)} %`,
    }),
    slider("price", "price of an hour", {
      values: [0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10],
      say: (dollars) => `$${dollars.toFixed(2)}`,
    }),
    heading("Memory"),
    choice("precision", "precision", [
      ["float32", "float32"],
      ["bfloat16", "bfloat16"],
      ["float8", "float8"],
    ]),
    choice("recompute", "recomputed", [
      ["nothing", "nothing"],
      ["attention", "attention"],
      ["layers", "layers"],
    ]),
    slider("sequences", "micro-batch", { values: POWERS.slice(0, 7), say: (n) => counted(n, "sequence") }),
  ];
  const draw = () => {
    drawAll(rows);
    experts.element.hidden = !view.settings().expert_parameters;
  };
  return { element: node("section", { className: "run" }, ...rows.map(({ element }) => element)), draw };
}

// ---- Memory: one bar a ZeRO stage, against the GPU's own ----

function memoryPanel(view) {
  const title = node("h3");
  const note = node("p", { className: "muted" });
  const room = node("div", { className: "room" }, node("span"));
  const bars = Array.from({ length: 4 }, (_, stage) => {
    const track = node("span", { className: "track", ariaHidden: "true" });
    const total = node("b");
    const button = node(
      "button",
      { type: "button", onclick: () => view.set({ stage }) },
      node("span", { textContent: `ZeRO ${stage}` }),
      " ",
      track,
      total,
    );
    return { button, track, total };
  });
  const samples = PARTS.map(([part, role]) =>
    node("span", { className: `sample ${role}`, textContent: `${part[0].toUpperCase()} ${part}` }),
  );
  const verdict = node("p", { className: "verdict", role: "status" });
  const element = node(
    "section",
    {},
    title,
    note,
    node(
      "div",
      { className: "stages", role: "group", ariaLabel: "ZeRO stage" },
      room,
      ...bars.map(({ button }) => button),
    ),
    node("p", { className: "legend" }, ...samples),
    verdict,
  );

  const draw = () => {
    const { stages, room: limit, copies, layers, width } = view.result();
    const { gpu, stage: chosen } = view.settings();
    const totals = stages.map((memory) => Object.values(memory).reduce((sum, bytes) => sum + bytes, 0));
    const longest = 1.02 * Math.max(limit, ...totals);
    title.textContent = "On each GPU";
    note.textContent = `${copies === 1 ? "1 copy" : `${copies.toLocaleString("en")} copies`} of the model; ${counted(layers, "layer")} of width ${width.toLocaleString("en")}.`;
    room.style.setProperty("--at", String(limit / longest));
    room.firstChild.textContent = `${gpu}: ${gigabytes(limit)}`;
    room.classList.toggle("early", limit / longest < 0.5);
    bars.forEach(({ button, track, total }, stage) => {
      button.ariaPressed = String(stage === chosen);
      track.replaceChildren(
        ...PARTS.map(([part, role]) => {
          const share = stages[stage][part] / longest;
          if (share < 0.003) return ""; // thinner than the gap behind it
          const segment = node("i", {
            className: role,
            title: `${part}: ${gigabytes(stages[stage][part])}`,
          });
          segment.dataset.letter = share > 0.045 ? part[0].toUpperCase() : ""; // a mark, not a word of the button's name
          segment.style.width = `${100 * share}%`;
          return segment;
        }),
      );
      const parts = PARTS.map(([part]) => `${part} ${gigabytes(stages[stage][part])}`).join(", ");
      total.textContent = gigabytes(totals[stage]);
      button.ariaLabel = `ZeRO ${stage}: ${gigabytes(totals[stage])}: ${parts}`;
    });
    const over = totals[chosen] - limit;
    verdict.classList.toggle("over", over > 0);
    verdict.textContent =
      over > 0
        ? `✗ Does not fit: ${gigabytes(over)} too much on each GPU.`
        : `✓ Fits, with ${gigabytes(-over)} to spare.`;
  };
  return { element, draw };
}

// ---- Time and money, and what was published ----

/** @type {[name: string, label: string, write: (number: number) => string | Node][]} */
const FIGURES = [
  ["flops", "operations", operations],
  ["gpu_hours", "GPU hours", inWords],
  ["days", "days", short],
  ["dollars", "cost", (dollars) => `$${inWords(dollars)}`],
  [
    "megawatt_hours",
    "energy of the GPUs",
    (hours) => (hours < 1000 ? `${short(hours)} MWh` : `${short(hours / 1000)} GWh`),
  ],
];

function figurePanel(view) {
  const table = node("table");
  const source = node("p", { className: "muted" });
  const optimum = node("p");
  const element = node(
    "section",
    { className: "figures" },
    node("h3", { textContent: "In all" }),
    table,
    source,
    optimum,
  );

  const draw = () => {
    const {
      figures,
      published,
      optimum: [parameters, tokens],
    } = view.result();
    const settings = view.settings();
    const head = node(
      "thead",
      {},
      node(
        "tr",
        {},
        node("td"),
        ...["planned", ...(published ? ["published"] : [])].map((textContent) =>
          node("th", { scope: "col", textContent }),
        ),
      ),
    );
    const rows = FIGURES.map(([name, label, write]) => {
      const cells = [figures[name], ...(published ? [published[name]] : [])].map((value) =>
        node("td", {}, value === null || value === undefined ? "–" : write(value)),
      );
      return node("tr", {}, node("th", { scope: "row", textContent: label }), ...cells);
    });
    table.replaceChildren(head, node("tbody", {}, ...rows));
    source.textContent = published ? `${published.source}. ${published.note}` : "";
    source.hidden = !published;
    const met = settings.active ?? settings.parameters;
    optimum.textContent = `${short(settings.tokens / met)} tokens for each parameter that a token meets. With as many operations, a dense model’s loss is least at ${big(parameters)} parameters and ${big(tokens)} tokens (arXiv 2404.10102).`;
  };
  return { element, draw };
}
