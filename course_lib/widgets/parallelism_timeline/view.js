// The browser's half of ParallelismTimeline: what is divided and how, the timeline with its cursor, and what it comes to.

import { drawAll, keepKeys, node, onNewLooks, prefersStillness, soon } from "../shared/base.js";
import { counted, short } from "../shared/numbers.js";
import { choiceRow, errorPanel, openSettings, sliderRow } from "../shared/settings.js";
import { drawTimeline } from "./drawing.js";

/** @type {[name: string, variants: [name: string, text: string][]][]} */
const WAYS = [
  [
    "Data",
    [
      ["data", "Gradients sent at the end"],
      ["overlap", "Sent meanwhile"],
    ],
  ],
  ["Tensor", [["tensor", ""]]],
  [
    "Pipeline",
    [
      ["gpipe", "GPipe"],
      ["1f1b", "1F1B"],
      ["interleaved", "Interleaved"],
    ],
  ],
  ["Experts", [["expert", ""]]],
];
const PIPELINES = ["gpipe", "1f1b", "interleaved"];
const IDEAS = {
  data: "Every GPU holds the whole model and takes its share of the batch. The gradients are summed over all GPUs before the step ends, and all wait for it.",
  overlap:
    "Every GPU holds the whole model and takes its share of the batch. The gradients of a layer travel while the layers below still compute; only the last ones are waited for.",
  tensor:
    "Every GPU holds a part of each matrix. Four times a layer all must add up what they computed, and nobody goes on before that.",
  gpipe:
    "Every GPU holds some of the layers. All micro-batches pass forward, then all pass back: while the pipeline fills and empties, GPUs wait. All activations are held meanwhile.",
  "1f1b":
    "Every GPU holds some of the layers. A micro-batch turns back as soon as it can: the bubble is that of GPipe, but few activations are held.",
  interleaved:
    "Every GPU holds two shorter pieces of the model, half a model apart: half the bubble, and twice the sending.",
  expert:
    "Every GPU holds some of the experts. Tokens travel to theirs and back, and all wait for the GPU whose experts are asked for most.",
};
const SPEEDS = [1, 3, 6, 12.5, 25, 50, 100, 200, 450, 900];
const LINKS = { 12.5: "100 Gb Ethernet", 50: "InfiniBand", 450: "NVLink of an H100", 900: "NVLink of a B200" };
const PLAYS_FOR = 8000; // ms

export default { render };

function render({ model, el }) {
  const root = node("div", { className: "course-widget settings-widget parallelism-timeline" });
  keepKeys(root);
  const view = openView(model, el);
  const panels = [schemePanel, sliderPanel, errorPanel, picturePanel, measurePanel].map((panel) => panel(view));
  root.append(...panels.map(({ element }) => element));
  el.append(root);

  view.draw = soon(() => drawAll(panels));
  const ignoreLooks = onNewLooks(root, view.draw);
  view.draw();
  return () => {
    view.pause();
    view.close();
    ignoreLooks();
  };
}

// ---- What all panels share: settings, and the clock ----

function openView(model, el) {
  let playing = null; // the frame that is asked for
  let now = null; // null: the end

  const view = openSettings(model, el, () => view.draw());
  return Object.assign(view, {
    draw: () => {},
    isPlaying: () => playing !== null,
    now: () => Math.min(now ?? Infinity, view.result().seconds),

    go(time) {
      now = time >= view.result().seconds ? null : time;
      view.draw();
    },

    play() {
      if (prefersStillness()) return view.go(now === null ? 0 : view.nextEvent());
      if (now === null) now = 0;
      let before = performance.now();
      const tick = (time) => {
        view.go(view.now() + (view.result().seconds * Math.max(0, time - before)) / PLAYS_FOR);
        before = time;
        playing = now === null ? null : requestAnimationFrame(tick);
        view.draw();
      };
      playing = requestAnimationFrame(tick);
      view.draw();
    },

    pause() {
      cancelAnimationFrame(playing);
      playing = null;
      view.draw();
    },

    // When something next begins: a step for whom nothing shall move.
    nextEvent() {
      const later = view
        .result()
        .spans.map(([, , , start]) => start)
        .filter((start) => start > view.now() + 1e-9);
      return Math.min(...later, view.result().seconds);
    },
  });
}

// ---- How the work is divided ----

function schemePanel(view) {
  const scheme = () => view.settings().scheme;
  const way = () => WAYS.find(([, variants]) => variants.some(([name]) => name === scheme()));
  const choose = (name) => view.set({ scheme: name });
  const ways = choiceRow({
    label: "What is divided",
    choices: WAYS.map(([name]) => [name, name]),
    chosen: () => way()[0],
    choose: (name) => choose(WAYS.find(([other]) => other === name)[1].at(-1)[0]),
  });
  const variants = WAYS.filter(([, names]) => names.length > 1).map(([name, choices]) => ({
    name,
    ...choiceRow({ label: `${name}: how`, choices, chosen: scheme, choose }),
  }));
  const idea = node("p", { className: "idea" });
  const element = node(
    "section",
    {},
    node("div", { className: "controls" }, ways.element, ...variants.map((row) => row.element)),
    idea,
  );
  const draw = () => {
    ways.draw();
    for (const row of variants) {
      row.draw();
      row.element.hidden = row.name !== way()[0];
    }
    idea.textContent = IDEAS[scheme()];
  };
  return { element, draw };
}

function sliderPanel(view) {
  const isPipeline = () => PIPELINES.includes(view.settings().scheme);
  const rows = [
    { name: "n_devices", label: "GPUs", values: [1, 2, 4, 8], say: String, isShown: () => true },
    { name: "n_microbatches", label: "micro-batches", values: [1, 2, 4, 8, 16, 32], say: String, isShown: isPipeline },
    {
      name: "imbalance",
      label: "busiest expert",
      values: [1, 1.2, 1.4, 1.6, 1.8, 2],
      say: (load) => `${load.toFixed(1)} × the mean`,
      isShown: () => view.settings().scheme === "expert",
    },
    {
      name: "link",
      label: "link",
      values: SPEEDS,
      say: (speed) => `${speed} GB/s${LINKS[speed] ? `, ${LINKS[speed]}` : ""}`,
      isShown: () => true,
    },
  ].map((setting) => ({ ...setting, ...sliderRow(view, setting) }));
  const element = node("section", { className: "sliders" }, ...rows.map((row) => row.element));
  const draw = () => {
    for (const row of rows) {
      row.draw();
      row.element.hidden = !row.isShown();
    }
  };
  return { element, draw };
}

// ---- The timeline ----

function picturePanel(view) {
  const canvas = node("canvas", { role: "img" });
  const play = node("button", {
    type: "button",
    className: "primary play",
    onclick: () => (view.isPlaying() ? view.pause() : view.play()),
  });
  const cursor = node("input", { type: "range", min: 0, max: 1000, step: 1, ariaLabel: "Time looked at" });
  const clock = node("b");
  const legend = node(
    "p",
    { className: "legend" },
    ...[
      ["forward", "F forward"],
      ["backward", "B backward"],
      ["link", "sending"],
      ["idle", "idle"],
    ].map(([kind, textContent]) => node("span", { className: `sample ${kind}`, textContent })),
  );
  const doing = node("ol", { className: "doing", ariaLabel: "At this time" });
  const element = node(
    "section",
    { className: "picture" },
    canvas,
    legend,
    node("div", { className: "cursor" }, play, cursor, clock),
    doing,
  );
  let drawn = null;

  const goTo = (event) => {
    view.pause();
    view.go(drawn.timeAt(event.offsetX));
  };
  canvas.addEventListener("pointerdown", goTo);
  canvas.addEventListener("pointermove", (event) => event.buttons && goTo(event));
  cursor.addEventListener("input", () => {
    view.pause();
    view.go((cursor.valueAsNumber / 1000) * view.result().seconds);
  });

  const draw = () => {
    if (element.clientWidth === 0) return; // not on the page yet, or in a hidden tab
    const { spans, seconds, efficiency } = view.result();
    const n_devices = Math.max(...spans.map(([device]) => device)) + 1;
    const now = view.now();
    drawn = drawTimeline(canvas, element.clientWidth, { spans, seconds, n_devices, now });
    canvas.ariaLabel = `Timeline of ${counted(n_devices, "GPU")} over ${short(seconds)} seconds, ${Math.round(100 * efficiency)} % of it computing`;
    play.textContent = view.isPlaying() ? "Pause" : prefersStillness() ? "Step ▶" : "Play";
    cursor.valueAsNumber = Math.round((1000 * now) / seconds);
    clock.textContent = cursor.ariaValueText = `${now.toFixed(seconds < 1 ? 3 : 2)} s`;
    doing.replaceChildren(
      ...Array.from({ length: n_devices }, (_, device) =>
        node("li", { textContent: `GPU ${device} ${activity(spans, device, now, view.settings().scheme)}` }),
      ),
    );
  };
  return { element, draw };
}

// "computes forward layer 3; all-reduce"
function activity(spans, device, now, scheme) {
  const active = spans.filter(([owner, , , start, end]) => owner === device && start <= now && now < end);
  if (active.length === 0) return "is done";
  const part = PIPELINES.includes(scheme) ? "micro-batch" : "layer";
  return active.map(([, kind, number]) => (kind === "idle" ? "waits" : `${kind} ${part} ${number}`)).join("; ");
}

// ---- What it comes to ----

function measurePanel(view) {
  const table = node("table");
  const bars = node("ol", { className: "speedups", ariaLabel: "Speed-up by number of GPUs" });
  const heading = (textContent) => node("h3", { textContent });
  const element = node(
    "section",
    { className: "measures" },
    node("div", {}, heading("This step"), table),
    node(
      "div",
      {},
      heading("On more GPUs"),
      node("p", { className: "muted", textContent: "Filled: how many times faster. Dashed: if nobody ever waited." }),
      bars,
    ),
  );

  const draw = () => {
    const { scheme, n_devices } = view.settings();
    const { seconds, alone, speedup, efficiency, sent, held, speedups } = view.result();
    const percent = (share) => `${(100 * share).toFixed(1)} %`;
    const rows = [
      ["it takes", `${short(seconds)} s`],
      ["one GPU would take", `${short(alone)} s`],
      ["speed-up", `${speedup.toFixed(2)} ×`],
      ["computing", percent(efficiency)],
      ["idle", percent(1 - efficiency)],
      ["the busiest GPU sends", `${short(sent / 1e9)} GB`],
      ...(PIPELINES.includes(scheme)
        ? [["activations held, at most", `${held} micro-batch${held === 1 ? "" : "es"}`]]
        : []),
    ];
    table.replaceChildren(
      ...rows.map(([name, textContent]) =>
        node("tr", {}, node("th", { scope: "row", textContent: name }), node("td", { textContent })),
      ),
    );
    bars.replaceChildren(
      ...speedups.map(([n, times]) => {
        const bar = (className, width) =>
          Object.assign(node("i", { className }), { style: `width: ${(100 * width) / speedups.at(-1)[0]}%` });
        const track = node(
          "span",
          { className: "track", ariaHidden: "true" },
          bar("ideal", n),
          bar("real", times ?? 0),
        );
        const item = node(
          "li",
          {},
          node("span", { textContent: counted(n, "GPU") }),
          track,
          node("b", { textContent: times ? `${times.toFixed(2)} ×` : "not possible" }),
        );
        item.classList.toggle("chosen", n === n_devices);
        return item;
      }),
    );
  };
  return { element, draw };
}
