// The browser's half of CheckpointScrubber: training as a line to move along, and below it the model of the checkpoint at hand.

import { gridPanel, headPanel, openMaps } from "../shared/attention_panels.js";
import {
  clamp,
  drawAll,
  keepKeys,
  node,
  octets,
  onNewLooks,
  prefersStillness,
  soon,
  tokenChip,
} from "../shared/base.js";
import { CURVES, drawCurve, drawLosses, openPlot, rowsOf, segment } from "../shared/curves.js";
import { openLine, promptPanel } from "../shared/kernel.js";
import { counted } from "../shared/numbers.js";
import { tint, tintLegend } from "../shared/odds.js";

const PACE = 700; // ms at least that a checkpoint is shown for while it plays

export default { render };

function render({ model, el }) {
  const root = node("div", { className: "course-widget attention-panels checkpoint-scrubber" });
  keepKeys(root);
  const view = openView(model, el);
  const panels = [textPanel, timePanel, gridPanel, headPanel, wordPanel].map((panel) => panel(view));
  const [text, time, ...looks] = panels.map(({ element }) => element);
  root.append(node("div", { className: "panels" }, node("div", { className: "run" }, text, time), ...looks));
  el.append(root);

  view.draw = () => drawAll(panels);
  view.announce = panels[0].announce;
  const changes = "change:result change:at change:text change:layer change:head";
  model.on(changes, view.draw);
  const ignoreLooks = onNewLooks(root, view.draw);
  view.draw();
  return () => {
    view.close();
    model.off(changes, view.draw);
    ignoreLooks();
  };
}

// ---- What all panels share: the checkpoint, the chosen head, the clock, and the line to the kernel ----

function openView(model, el) {
  let timer = null; // set while it plays

  const view = {
    line: openLine(model, el, () => {
      if (view.line.error) stop();
      view.draw();
    }),
    result: () => model.get("result"),
    layer: () => model.get("layer"),
    head: () => model.get("head"),
    text: () => model.get("text"),
    prompt: () => model.get("prompt"),
    trouble: () => model.get("trouble"),
    steps: () => model.get("steps"),
    curves: () => rowsOf(model.get("curves"), CURVES),
    isOff: () => false,
    isPlaying: () => timer !== null,
    draw: () => {},
    announce: (_words) => {},

    // The checkpoint wanted, which is soon the one shown.
    at: () => view.line.pending("look")?.at ?? model.get("at"),

    // Every head's score at each checkpoint: [[layer, head, scores], …]
    scores() {
      const { layers, heads } = view.result();
      const names = Array.from({ length: layers * heads }, (_, i) => [Math.floor(i / heads), i % heads]);
      const all = new Float32Array(octets(model.get("scores")).slice().buffer);
      return names.map(([layer, head], i) => [layer, head, view.steps().map((_, at) => all[at * layers * heads + i])]);
    },

    select(layer, head) {
      model.set({ layer, head });
      model.save_changes();
      view.announce(`layer ${layer}, head ${head}`);
    },

    run: ({ text }) => view.line.ask({ type: "run", text }),

    go(at) {
      stop();
      show(at);
      view.draw();
    },

    play() {
      const last = view.steps().length - 1;
      const next = view.at() < last ? view.at() + 1 : 0;
      show(next);
      if (!prefersStillness()) timer = setTimeout(goOn, PACE);
      view.draw();
    },

    pause() {
      stop();
      view.draw();
    },

    close() {
      stop();
      view.line.close();
      maps.close();
    },
  };
  const maps = openMaps(model, view);

  function show(at) {
    const wanted = clamp(at, 0, view.steps().length - 1);
    if (wanted !== view.at()) view.line.ask({ type: "look", at: wanted });
  }

  function stop() {
    clearTimeout(timer);
    timer = null;
  }

  function goOn() {
    if (view.line.pending("look")) timer = setTimeout(goOn, 100);
    else if (view.at() === view.steps().length - 1) view.pause();
    else view.play();
  }

  return Object.assign(view, { map: maps.map, ramp: maps.ramp });
}

function textPanel(view) {
  const { line, text } = view;
  return promptPanel({
    line,
    text,
    label: "Text for the models",
    run: (text) => view.run({ text }),
    status: () => `${counted(view.steps().length, "checkpoint")}, ${counted(view.result().tokens.length, "token")}`,
  });
}

// ---- Training: losses, induction scores, and the slider along both ----

function timePanel(view) {
  const losses = node("canvas", { role: "img" });
  const scores = node("canvas", { role: "img" });
  const play = node("button", {
    type: "button",
    className: "primary",
    onclick: () => (view.isPlaying() ? view.pause() : view.play()),
  });
  const slider = node("input", { type: "range", step: 1, ariaLabel: "Step of training" });
  const said = node("b");
  const sample = (kind, textContent = "") => node("span", { className: `sample ${kind}`, textContent });
  const chosen = sample("training");
  const top = node(
    "p",
    { className: "key-to" },
    sample("training", "training loss"),
    sample("validation", "validation loss"),
  );
  const trouble = { textContent: view.trouble(), hidden: !view.trouble() };
  const diverged = node("p", { className: "error", role: "alert", ...trouble });
  const below = node("p", { className: "key-to" }, chosen, sample("others", "the other heads"));
  const element = node(
    "section",
    { className: "time" },
    node("div", { className: "at" }, said, play),
    diverged,
    top,
    losses,
    node("div", { className: "track" }, slider),
    below,
    scores,
  );
  let plot = null;

  const last = () => view.steps().length - 1;
  const nearest = (step) => {
    const away = view.steps().map((other) => Math.abs(other - step));
    return away.indexOf(Math.min(...away));
  };
  slider.addEventListener("input", () => view.go(nearest(slider.valueAsNumber)));
  slider.addEventListener("keydown", (event) => {
    const at = view.at();
    const to = {
      ArrowRight: at + 1,
      ArrowUp: at + 1,
      ArrowLeft: at - 1,
      ArrowDown: at - 1,
      PageUp: at + 5,
      PageDown: at - 5,
      Home: 0,
      End: last(),
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    view.go(to);
  });
  for (const canvas of [losses, scores]) {
    canvas.addEventListener("pointerdown", (event) => view.go(nearest(plot.stepAt(event.offsetX))));
    canvas.addEventListener("pointermove", (event) => event.buttons && view.go(nearest(plot.stepAt(event.offsetX))));
  }

  const draw = soon(() => {
    if (element.clientWidth === 0) return; // not on the page yet, or in a hidden tab
    const steps = view.steps();
    const [layer, head] = [view.layer(), view.head()];
    const step = steps[view.at()];
    const shared = { width: element.clientWidth, nSteps: Math.max(1, steps[last()]) };
    const upper = drawLosses(losses, { ...shared, curves: view.curves(), height: 170, isLast: false });
    const rows = view.scores();
    const most = Math.max(...rows.flatMap(([, , values]) => values));
    const high = [0.1, 0.2, 0.5, 1].find((limit) => limit >= most);
    plot = openPlot(scores, { ...shared, height: 200, low: 0, high, label: "induction", isLast: true });
    const mine = rows.find(([l, h]) => l === layer && h === head)[2];
    for (const [, , values] of rows)
      drawCurve(plot, steps, values, { color: plot.look.residual, width: 1, alpha: 0.8 });
    drawCurve(plot, steps, mine, { color: plot.look.learner, width: 2.5, dots: true });
    for (const { ctx, x, bottom, look } of [upper, plot]) {
      Object.assign(ctx, { strokeStyle: look.ink, lineWidth: 2 });
      segment(ctx, x(step), 0, x(step), bottom);
    }

    const score = mine[view.at()].toFixed(2);
    Object.assign(slider, { min: 0, max: shared.nSteps, value: step });
    slider.ariaValueText = `step ${step}, checkpoint ${view.at() + 1} of ${steps.length}`;
    said.textContent = `Step ${step.toLocaleString("en")}`;
    chosen.textContent = `induction score of layer ${layer}, head ${head}: ${score}`;
    losses.ariaLabel = `Loss over ${steps[last()]} steps`;
    scores.ariaLabel = `Induction score of layer ${layer}, head ${head} at step ${step}: ${score}, from ${mine[0].toFixed(2)} to ${mine[last()].toFixed(2)}`;
    play.textContent = view.isPlaying() ? "Pause" : prefersStillness() ? "Step ▶" : "Play";
  });
  return { element, draw };
}

// ---- What surprises the model in the text, and what it writes ----

function wordPanel(view) {
  const list = node("ol", { ariaLabel: "Loss of each token, in nats" });
  const mean = node("span", { className: "muted" });
  const title = node("h3");
  const sample = node("p", { className: "sample-text" });
  const legend = tintLegend("probability p");
  const element = node(
    "section",
    { className: "next" },
    node("div", {}, node("h3", { textContent: "Loss of each token, −ln p" }), legend, list, mean),
    node("div", {}, title, sample),
  );

  const draw = soon(() => {
    const { tokens, sample: written, at } = view.result();
    list.replaceChildren(
      ...tokens.map((token, position) => {
        const chip = tokenChip(token);
        chip.title += `, position ${position}`;
        if (token.loss !== null) tint(chip, Math.exp(-token.loss));
        return node(
          "li",
          {},
          chip,
          node("span", { className: "loss", textContent: token.loss === null ? "–" : token.loss.toFixed(1) }),
        );
      }),
    );
    const losses = tokens.slice(1).map(({ loss }) => loss);
    const total = losses.reduce((sum, loss) => sum + loss, 0);
    mean.textContent = losses.includes(null)
      ? "Where the logits are no numbers, there is no loss."
      : losses.length
        ? `mean ${(total / losses.length).toFixed(2)} nats a token; the first has nothing before it`
        : "One token has nothing before it.";
    title.textContent = `Written after step ${view.steps()[at].toLocaleString("en")}`;
    sample.replaceChildren(node("span", { className: "muted", textContent: view.prompt() }), written);
  });
  return { element, draw };
}
