// Curves over training steps on a canvas, with axes that say their unit.

import { clamp, fit, lookOf, octets, placed } from "./base.js";
import { roundValues } from "./numbers.js";

/** @typedef {ReturnType<typeof openPlot>} Plot */

export const CURVES = ["step", "loss", "lowest", "highest", "validation_loss", "learning_rate"]; // the rows that the kernel sends

const PLOT = { left: 78, right: 18, top: 10, axis: 48, ticks: 8 }; // CSS pixels around the curves; below them an axis, or only its ticks

/**
 * A canvas with axes for steps in [0, nSteps] and values in [low, high]; `isLast` writes the steps below them.
 * @param {HTMLCanvasElement} canvas
 * @param {{
 *   width: number,
 *   height: number,
 *   nSteps: number,
 *   low: number,
 *   high: number,
 *   label: string,
 *   isLast: boolean,
 * }} axes
 */
export function openPlot(canvas, { width, height, nSteps, low, high, label, isLast }) {
  const look = lookOf(canvas);
  const ctx = fit(canvas, width, height);
  const bottom = height - (isLast ? PLOT.axis : PLOT.ticks);
  const x = (step) => PLOT.left + ((width - PLOT.left - PLOT.right) * step) / nSteps;
  const y = (value) => bottom - ((bottom - PLOT.top) * (value - low)) / (high - low);
  const plot = {
    ctx,
    look,
    x,
    y,
    bottom,
    width,
    stepAt: (place) => clamp((place - PLOT.left) / (width - PLOT.left - PLOT.right), 0, 1) * nSteps,
  };

  Object.assign(ctx, { font: look.code, fillStyle: look.ink, strokeStyle: look.muted, lineWidth: 1 });
  Object.assign(ctx, { textAlign: "right", textBaseline: "middle" });
  for (const value of roundValues(low, high, (bottom - PLOT.top) / 34)) {
    ctx.globalAlpha = 0.3;
    segment(ctx, PLOT.left, y(value), width - PLOT.right, y(value));
    ctx.globalAlpha = 1;
    ctx.fillText(sayTick(value), PLOT.left - 7, y(value));
  }
  segment(ctx, PLOT.left, bottom, width - PLOT.right, bottom);
  Object.assign(ctx, { textAlign: "center", textBaseline: "top" });
  for (const step of roundValues(0, nSteps, width / 110).filter(Number.isInteger)) {
    segment(ctx, x(step), bottom, x(step), bottom + 5);
    const text = step.toLocaleString("en");
    if (isLast) ctx.fillText(text, Math.min(x(step), width - ctx.measureText(text).width / 2), bottom + 8);
  }
  if (isLast) ctx.fillText("step", x(nSteps / 2), bottom + 27);
  placed(ctx, 9, (PLOT.top + bottom) / 2, true, () => {
    ctx.textBaseline = "middle";
    ctx.fillText(label, 0, 0);
  });
  return plot;
}

/**
 * A line through the points that are numbers; with `dots`, each of them is marked.
 * @param {Plot} plot
 * @param {number[] | Float32Array} steps
 * @param {number[] | Float32Array} values
 * @param {{ color: string, width?: number, dash?: number[], alpha?: number, dots?: boolean }} pen
 */
export function drawCurve({ ctx, x, y }, steps, values, { color, width = 2, dash = [], alpha = 1, dots = false }) {
  ctx.save();
  Object.assign(ctx, { strokeStyle: color, fillStyle: color, lineWidth: width, globalAlpha: alpha, lineJoin: "round" });
  ctx.setLineDash(dash);
  ctx.beginPath();
  const points = [...steps].map((step, i) => [x(step), y(values[i])]).filter(([, at]) => Number.isFinite(at));
  for (const [left, top] of points) ctx.lineTo(left, top);
  ctx.stroke();
  for (const [left, top] of dots ? points : []) {
    ctx.beginPath();
    ctx.arc(left, top, 3.5, 0, 2 * Math.PI);
    ctx.fill();
  }
  ctx.restore();
}

// What lies between two curves.
function drawBand({ ctx, x, y, bottom, width }, steps, lowest, highest, color) {
  ctx.save();
  ctx.beginPath();
  ctx.rect(PLOT.left, PLOT.top, width, bottom - PLOT.top);
  ctx.clip();
  Object.assign(ctx, { fillStyle: color, globalAlpha: 0.22 });
  ctx.beginPath();
  for (const [i, step] of steps.entries()) ctx.lineTo(x(step), y(highest[i]));
  for (let i = steps.length - 1; i >= 0; i--) ctx.lineTo(x(steps[i]), y(lowest[i]));
  ctx.fill();
  ctx.restore();
}

/**
 * The losses of a run, as `curve_blocks` in training_dashboard.py gives them, with axes that hold all of them.
 * @param {HTMLCanvasElement} canvas
 * @param {{
 *   curves: Record<string, Float32Array>,
 *   width: number,
 *   height: number,
 *   nSteps: number,
 *   isLast: boolean,
 * }} run
 */
export function drawLosses(canvas, { curves, width, height, nSteps, isLast }) {
  const { step, loss, lowest, highest, validation_loss } = curves;
  const all = [...loss, ...validation_loss].filter(Number.isFinite);
  const [least, most] = all.length ? [Math.min(...all), Math.max(...all)] : [0, 1];
  const room = Math.max((most - least) / 12, 0.05);
  const plot = openPlot(canvas, {
    width,
    height,
    nSteps,
    low: Math.max(0, least - room),
    high: most + room,
    label: "loss (nats)",
    isLast,
  });
  const { look } = plot;
  drawBand(plot, step, lowest, highest, look.learner);
  drawCurve(plot, step, loss, { color: look.learner });
  const evaluated = validation_loss.filter(Number.isFinite).length;
  drawCurve(plot, step, validation_loss, { color: look.ink, width: 1.5, dash: [6, 4], dots: evaluated <= 60 });
  return plot;
}

/**
 * The rows of float32 (names.length, …) as arrays by name.
 * @param {DataView} view
 * @param {string[]} names
 * @returns {Record<string, Float32Array>}
 */
export function rowsOf(view, names) {
  const bytes = octets(view).slice(); // a message's bytes need not lie where floats may
  const floats = new Float32Array(bytes.buffer);
  const length = floats.length / names.length;
  return Object.fromEntries(names.map((name, row) => [name, floats.subarray(row * length, (row + 1) * length)]));
}

/**
 * A straight line from (x0, y0) to (x1, y1).
 * @param {CanvasRenderingContext2D} ctx
 * @param {number} x0
 * @param {number} y0
 * @param {number} x1
 * @param {number} y1
 */
export function segment(ctx, x0, y0, x1, y1) {
  ctx.beginPath();
  ctx.moveTo(x0, y0);
  ctx.lineTo(x1, y1);
  ctx.stroke();
}

// 0.02, 0.0005 as 5e-4
const sayTick = (value) => (value !== 0 && Math.abs(value) < 0.001 ? value.toExponential() : String(value));
