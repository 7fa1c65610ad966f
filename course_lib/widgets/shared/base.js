// What every widget draws with.

/** @typedef {{ id: number, piece: string, chip: string }} Token what the kernel tells of one: see `token_of` in base.py */

const FONT_SIZE = 14.67; // CSS pixels: 11 pt, legible from the last row

/**
 * An element with these properties and children: node("button", { textContent: "Run" }).
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {{ [Name in keyof HTMLElementTagNameMap[Tag]]?: HTMLElementTagNameMap[Tag][Name] | number }} properties
 * @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function node(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  Object.assign(element, properties);
  element.append(...children);
  return element;
}

/**
 * An SVG element with these attributes and children: drawing("circle", { r: 4 }).
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, string | number>} attributes
 * @param {(Node | string)[]} children
 */
export function drawing(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/**
 * A token as a chip. Its id shows on hover; the position, where there is one, stands beside it.
 * @param {Token} token
 */
export function tokenChip({ id, piece, chip }) {
  return node("span", { className: "chip", textContent: chip, title: `${JSON.stringify(piece)}, id ${id}` });
}

/**
 * Draw every one of `panels`.
 * @param {{ draw: () => void }[]} panels
 */
export function drawAll(panels) {
  for (const panel of panels) panel.draw();
}

/**
 * Call `draw` once in the next frame, however often it is asked for.
 * @param {() => void} draw
 */
export function soon(draw) {
  let isQueued = false;
  return () => {
    if (isQueued) return;
    isQueued = true;
    requestAnimationFrame(() => {
      isQueued = false;
      draw();
    });
  };
}

/**
 * Keep the keys that drive a widget (arrows, Enter, Space) from the notebook, which would take them for its own commands;
 * Shift+Enter and the like go on to it. JupyterLab listens after the widget; Notebook 7 before it, and looks for the
 * attribute on the focused element.
 * @param {HTMLElement} element
 */
export function keepKeys(element) {
  const isCommand = (event) => event.shiftKey || event.ctrlKey || event.metaKey;
  const follow = (event) => event.target.toggleAttribute("data-lm-suppress-shortcuts", !isCommand(event));
  for (const type of ["focusin", "keydown", "keyup"]) element.addEventListener(type, follow);
  element.addEventListener("keydown", (event) => isCommand(event) || event.stopPropagation());
}

/**
 * Call `draw` whenever `root` gets another size or the page another theme; return what ends that.
 * @param {HTMLElement} root
 * @param {() => void} draw
 */
export function onNewLooks(root, draw) {
  // JupyterLab hides everything for one frame while it changes the theme, and what is hidden has no size to draw at.
  const themes = new MutationObserver(() => requestAnimationFrame(draw));
  themes.observe(document.body, { attributeFilter: ["data-jp-theme-light", "data-jp-theme-name"] });
  const sizes = new ResizeObserver(draw);
  sizes.observe(root);
  return () => {
    themes.disconnect();
    sizes.disconnect();
  };
}

// Whether the reader asked for pictures that do not move.
export const prefersStillness = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/**
 * The number in [low, high] that is nearest to `value`.
 * @param {number} value
 * @param {number} low
 * @param {number} high
 */
export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/**
 * Where a key leads in a row of `count` things, from the one at `place`; null if it is not such a key.
 * @param {string} key
 * @param {number} place
 * @param {number} count
 */
export function neighbour(key, place, count) {
  const wanted = {
    ArrowRight: place + 1,
    ArrowDown: place + 1,
    ArrowLeft: place - 1,
    ArrowUp: place - 1,
    Home: 0,
    End: count - 1,
  }[key];
  return wanted === undefined ? null : clamp(wanted, 0, count - 1);
}

/**
 * The bytes of a binary part of the widget's state.
 * @param {DataView} view
 */
export const octets = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

/**
 * Give `canvas` a size in CSS pixels at the screen's full resolution, empty it, and return its context.
 * @param {HTMLCanvasElement} canvas
 * @param {number} width
 * @param {number} height
 */
export function fit(canvas, width, height) {
  canvas.width = Math.round(width * devicePixelRatio);
  canvas.height = Math.round(height * devicePixelRatio);
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const ctx = canvas.getContext("2d");
  ctx.scale(devicePixelRatio, devicePixelRatio);
  return ctx;
}

/**
 * The theme's colours and fonts as a canvas needs them.
 * @param {HTMLElement} element
 */
export function lookOf(element) {
  const style = getComputedStyle(element);
  const value = (name) => style.getPropertyValue(name).trim();
  return {
    paper: value("--paper"),
    sunk: value("--sunk"),
    ink: value("--ink"),
    muted: value("--muted"),
    query: value("--course-query"),
    key: value("--course-key"),
    value: value("--course-value"),
    residual: value("--course-residual"),
    learner: value("--course-learner"),
    code: `${FONT_SIZE}px ${value("--code")}`,
    bold: `600 ${FONT_SIZE}px ${style.fontFamily}`,
  };
}

/**
 * Draw at (x, y), turned so that text reads upwards if `isTurned`.
 * @param {CanvasRenderingContext2D} ctx
 * @param {number} x
 * @param {number} y
 * @param {boolean} isTurned
 * @param {() => void} draw
 */
export function placed(ctx, x, y, isTurned, draw) {
  ctx.save();
  ctx.translate(x, y);
  if (isTurned) ctx.rotate(-Math.PI / 2);
  draw();
  ctx.restore();
}

/**
 * A token's chip on a canvas, its middle at height 0 and its left or right edge at 0; `fill` and `color` set its tone.
 * @param {CanvasRenderingContext2D} ctx
 * @param {string} text
 * @param {{ align: string, room: number, font: string, color: string, fill?: string, stroke?: string }} tone
 */
export function drawChip(ctx, text, { align, room, font, color, fill, stroke }) {
  ctx.font = font;
  let shown = text;
  while (ctx.measureText(shown).width > room - 10 && shown.length > 1) shown = `${shown.slice(0, -2)}…`;
  const width = ctx.measureText(shown).width + 10;
  const left = align === "right" ? -width : 0;
  ctx.beginPath();
  ctx.roundRect(left, -9.5, width, 19, 4);
  if (fill) {
    ctx.fillStyle = fill;
    ctx.fill();
  }
  if (stroke) {
    Object.assign(ctx, { strokeStyle: stroke, lineWidth: 2 });
    ctx.stroke();
  }
  Object.assign(ctx, { fillStyle: color, textAlign: "left", textBaseline: "middle" });
  ctx.fillText(shown, left + 5, 0.5);
  return width;
}
