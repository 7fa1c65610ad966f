// Every head as a thumbnail and one of them large, for widgets whose `result` has the "tokens", and of all heads pooled maps
// ("thumbnails", `side` × `side`), as AttentionExplorer's. `explorer` says which head is chosen and draws all panels; where it
// has a `toggle`, heads can be switched off.

import { arcView, matrixView, paint, ROW, readoutOf, spoken, TITLE } from "./attention_views.js";
import { clamp, fit, lookOf, node, octets, soon } from "./base.js";

const GRID = { height: 600, width: 270, smallest: 14, largest: 64 }; // CSS pixels: all heads, and one of them

/**
 * The maps of the present result: pooled as they came with it, whole as they are asked for.
 * @param {import("./kernel.js").Model} model
 * @param {any} explorer
 */
export function openMaps(model, explorer) {
  const maps = new Map(); // "layer,head" -> the whole map, fetched when it is first looked at
  let fetching = null;

  // The chosen head's map: whole if it is here, else pooled, with the whole one on its way.
  function map() {
    const { tokens, side, heads, thumbnails } = explorer.result();
    const [layer, head] = [explorer.layer(), explorer.head()];
    const whole = maps.get(`${layer},${head}`);
    if (whole) return { bytes: whole, side: tokens.length, whole: true };
    const bytes = octets(thumbnails)
      .subarray((layer * heads + head) * side * side)
      .subarray(0, side * side);
    if (side < tokens.length && !fetching && !explorer.line.isGone()) {
      fetching = `${layer},${head}`;
      model.send({ type: "map", layer, head });
    }
    return { bytes, side, whole: side === tokens.length };
  }

  function ramp() {
    const isDark = document.body.dataset.jpThemeLight === "false";
    return octets(model.get("ramps")).subarray(isDark ? 768 : 0, isDark ? 1536 : 768);
  }

  function receive(message, buffers) {
    if (message.type !== "map") return;
    maps.set(`${message.layer},${message.head}`, octets(buffers[0]));
    fetching = null;
    explorer.draw();
  }

  function forget() {
    maps.clear();
    fetching = null;
  }

  function close() {
    model.off("msg:custom", receive);
    model.off("change:result", forget);
  }

  model.on("msg:custom", receive);
  model.on("change:result", forget);
  return { map, ramp, close };
}

// ---- All heads, layer 0 at the bottom ----

/**
 * All heads, layer 0 at the bottom.
 * @param {any} explorer
 */
export function gridPanel(explorer) {
  const canvas = node("canvas", { ariaHidden: "true" });
  const grid = node("div", { role: "grid", ariaLabel: "Attention heads by layer, layer 0 at the bottom" });
  const frame = node(
    "div",
    { className: "heads" },
    node("div", { className: "corner", textContent: "layer" }),
    canvas,
    grid,
  );
  const hint = node("p", {
    className: "muted hint",
    textContent: `Arrow keys choose a head${explorer.toggle ? ", Space switches it off" : ""}.`,
  });
  const element = node("section", { className: "all" }, node("h3", { textContent: "All heads" }), frame, hint);
  let cells = [];

  function build({ layers, heads }) {
    const header = node(
      "div",
      { role: "row" },
      node("span", { role: "columnheader", className: "corner", textContent: "head" }),
    );
    cells = Array.from({ length: layers }, (_, layer) => Array.from({ length: heads }, (_, head) => cell(layer, head)));
    const rows = cells.map((row, layer) =>
      node("div", { role: "row" }, node("span", { role: "rowheader", textContent: layer }), ...row),
    );
    for (let head = 0; head < heads; head++) header.append(node("span", { role: "columnheader", textContent: head }));
    grid.replaceChildren(...rows.reverse(), header);
  }

  function cell(layer, head) {
    const element = node("div", { role: "gridcell", title: `layer ${layer}, head ${head}` });
    element.addEventListener("click", () => go(layer, head));
    return element;
  }

  function go(layer, head) {
    explorer.select(layer, head);
    cells[layer][head].tabIndex = 0;
    cells[layer][head].focus();
  }

  grid.addEventListener("keydown", (event) => {
    const { layers, heads } = explorer.result();
    const [layer, head] = [explorer.layer(), explorer.head()];
    const move = {
      ArrowUp: [layer + 1, head],
      ArrowDown: [layer - 1, head],
      ArrowRight: [layer, head + 1],
      ArrowLeft: [layer, head - 1],
      Home: [layer, 0],
      End: [layer, heads - 1],
      PageUp: [layers - 1, head],
      PageDown: [0, head],
    }[event.key];
    if (!move && !(explorer.toggle && event.key === " ")) return;
    event.preventDefault();
    if (!move) return explorer.toggle(layer, head);
    go(clamp(move[0], 0, layers - 1), clamp(move[1], 0, heads - 1));
  });

  const draw = soon(() => {
    const result = explorer.result();
    const { layers, heads, side } = result;
    if (cells.length !== layers || cells[0].length !== heads) build(result);
    const pitch = clamp(Math.floor(Math.min(GRID.height / layers, GRID.width / heads)), GRID.smallest, GRID.largest);
    frame.style.setProperty("--pitch", `${pitch}px`);
    const every = Math.ceil(22 / pitch); // as many row numbers as have room
    grid.querySelectorAll("[role=rowheader]").forEach((header, row) => {
      const layer = layers - 1 - row;
      header.classList.toggle("chosen", layer === explorer.layer());
      header.classList.toggle(
        "blank",
        layer % Math.max(every, layers > 12 ? 5 : 1) !== 0 && layer !== explorer.layer(),
      );
    });
    grid.querySelectorAll("[role=columnheader]:not(.corner)").forEach((header, head) => {
      header.classList.toggle("chosen", head === explorer.head());
    });

    const ctx = fit(canvas, heads * pitch, layers * pitch);
    const pixel = devicePixelRatio;
    const size = Math.round((pitch - 2) * pixel);
    const thumbnails = octets(result.thumbnails);
    const ramp = explorer.ramp();
    const look = lookOf(canvas);
    for (const [layer, row] of cells.entries()) {
      for (const [head, element] of row.entries()) {
        const isChosen = layer === explorer.layer() && head === explorer.head();
        const isOff = explorer.isOff(layer, head);
        element.tabIndex = isChosen ? 0 : -1;
        element.ariaSelected = String(isChosen);
        element.ariaLabel = `layer ${layer}, head ${head}${isOff ? ", off" : ""}`;
        const start = (layer * heads + head) * side * side;
        const [x, y] = [head * pitch + 1, (layers - 1 - layer) * pitch + 1];
        ctx.putImageData(
          paint(thumbnails.subarray(start, start + side * side), side, size, ramp),
          x * pixel,
          y * pixel,
        );
        if (isOff) strike(ctx, x, y, pitch - 2, look);
      }
    }
  });
  return { element, draw };
}

// An off head is veiled and crossed out, so that colour alone need not tell.
function strike(ctx, x, y, size, { paper, ink }) {
  ctx.globalAlpha = 0.7;
  ctx.fillStyle = paper;
  ctx.fillRect(x, y, size, size);
  ctx.globalAlpha = 1;
  ctx.strokeStyle = ink;
  ctx.lineWidth = 1.5;
  ctx.beginPath();
  ctx.moveTo(x + 2, y + 2);
  ctx.lineTo(x + size - 2, y + size - 2);
  ctx.moveTo(x + size - 2, y + 2);
  ctx.lineTo(x + 2, y + size - 2);
  ctx.stroke();
}

// ---- The chosen head, as a matrix or as arcs ----

/**
 * The chosen head, as a matrix or as arcs.
 * @param {any} explorer
 */
export function headPanel(explorer) {
  const views = [matrixView, arcView];
  const title = node("h3");
  const buttons = views.map(({ name }) => node("button", { type: "button", textContent: name }));
  const power = node("button", { type: "button", className: "switch", role: "switch", hidden: !explorer.toggle });
  const modes = node("div", { className: "modes", role: "group", ariaLabel: "View" }, ...buttons);
  const canvas = node("canvas", { tabIndex: 0, role: "application" });
  const spacer = node("div");
  const stage = node("div", { className: "stage" }, canvas, spacer);
  const readout = node("div", { className: "readout" });
  const scale = node("div", { className: "scale" });
  const legend = node(
    "div",
    { className: "legend" },
    node("span", { textContent: "attention weight" }),
    "0",
    scale,
    "1",
  );
  const element = node(
    "section",
    { className: "one" },
    node("header", {}, title, power, modes),
    stage,
    legend,
    readout,
  );
  const focus = { active: null, pins: null };
  let view = matrixView;
  let pick = (_x, _y) => null; // the last drawing's answer to: which token is at (x, y)?
  let tokens = null;

  function clear() {
    Object.assign(focus, { active: null, pins: { query: new Set(), key: new Set() } });
  }

  function aim(active) {
    focus.active = active;
    draw();
  }

  function pin({ query, key }) {
    const [role, index] = query === undefined ? ["key", key] : ["query", query];
    const pins = focus.pins[role];
    if (!pins.delete(index)) pins.add(index);
    explorer.announce(
      `${role} ${JSON.stringify(tokens[index].piece)} ${pins.has(index) ? "pinned" : "no longer pinned"}`,
    );
    draw();
  }

  for (const [index, button] of buttons.entries()) {
    button.addEventListener("click", () => {
      view = views[index];
      stage.scrollTop = 0;
      aim(null);
    });
  }
  power.addEventListener("click", () => explorer.toggle(explorer.layer(), explorer.head()));
  stage.addEventListener("scroll", () => draw());
  canvas.addEventListener("pointermove", (event) => aim(pick(event.offsetX, event.offsetY)));
  canvas.addEventListener("pointerleave", () => aim(null));
  canvas.addEventListener("click", () => focus.active && pin(focus.active));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step && !["Enter", " ", "Escape"].includes(event.key)) return;
    event.preventDefault();
    if (step) return walk(...step);
    if (event.key === "Escape") clear();
    else if (focus.active) pin(focus.active);
    draw();
  });

  function walk(down, right) {
    const last = tokens.length - 1;
    aim(focus.active ? view.move(focus.active, down, right, last) : view.start(last));
    if (view === arcView) {
      const row = (focus.active.query ?? focus.active.key) * ROW;
      stage.scrollTop = clamp(stage.scrollTop, row + TITLE + ROW - stage.clientHeight, row);
    }
    explorer.announce(spoken(explorer, focus.active));
  }

  const draw = soon(() => {
    if (stage.clientWidth === 0) return; // not on the page yet, or in a hidden tab
    if (tokens !== explorer.result().tokens) clear();
    tokens = explorer.result().tokens;
    const [layer, head] = [explorer.layer(), explorer.head()];
    const isOn = !explorer.isOff(layer, head);
    title.textContent = `Layer ${layer}, head ${head}`;
    Object.assign(power, {
      textContent: isOn ? "on" : "off",
      ariaChecked: String(isOn),
      ariaLabel: `Layer ${layer}, head ${head}`,
    });
    for (const [index, button] of buttons.entries()) button.ariaPressed = String(view === views[index]);
    canvas.ariaLabel = `Layer ${layer}, head ${head}. ${view.label}`;
    const look = lookOf(stage);
    const ramp = explorer.ramp();
    const stops = [0, 64, 128, 192, 255].map((weight) => `rgb(${ramp.subarray(3 * weight, 3 * weight + 3)})`);
    scale.style.background = view === matrixView ? `linear-gradient(to right, ${stops})` : "";
    scale.classList.toggle("wedge", view === arcView); // an arc tells its weight by its width
    const height = parseFloat(getComputedStyle(stage).getPropertyValue("--stage-height"));
    const room = { width: stage.clientWidth - 2, height };
    const map = explorer.map();
    spacer.style.height = view === arcView ? `${Math.max(0, TITLE + tokens.length * ROW - room.height)}px` : "0";
    pick = view.draw({ canvas, room, scroll: stage.scrollTop, tokens, map, ramp, look, focus });
    readout.replaceChildren(...readoutOf(tokens, map, focus.active));
  });
  return { element, draw };
}
