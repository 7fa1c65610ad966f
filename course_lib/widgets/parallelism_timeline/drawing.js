// The timeline on its canvas: a row a device, computing above and sending below, time to the right.

import { clamp, fit, lookOf } from "../shared/base.js";
import { roundValues } from "../shared/numbers.js";

const ROW = 58; // CSS pixels a device
const LEFT = 62;
const RIGHT = 16;
const AXIS = 46;
// kind -> from the top of the row, height, role of the colour. Backward is lower than forward, sending a strip below both.
const LOOKS = {
  forward: [4, 32, "query"],
  backward: [12, 24, "key"],
  idle: [4, 32, null],
  "all-reduce": [39, 12, "value"],
  "all-to-all": [39, 12, "value"],
  send: [39, 12, "value"],
};

export function drawTimeline(canvas, width, { spans, seconds, n_devices, now }) {
  const look = lookOf(canvas);
  const ctx = fit(canvas, width, n_devices * ROW + AXIS);
  const x = (time) => LEFT + ((width - LEFT - RIGHT) * time) / seconds;
  Object.assign(ctx, { textBaseline: "middle", textAlign: "right", font: look.code, fillStyle: look.ink });
  for (let device = 0; device < n_devices; device++) ctx.fillText(`GPU ${device}`, LEFT - 8, device * ROW + 20);
  for (const span of spans) drawSpan(ctx, look, x, span, now);
  drawAxis(ctx, look, x, seconds, n_devices * ROW);
  Object.assign(ctx, { strokeStyle: look.ink, lineWidth: 2 });
  ctx.beginPath();
  ctx.moveTo(x(now), 0);
  ctx.lineTo(x(now), n_devices * ROW + 4);
  ctx.stroke();
  return { timeAt: (place) => clamp((place - LEFT) / (width - LEFT - RIGHT), 0, 1) * seconds };
}

// What is still to come is pale.
function drawSpan(ctx, look, x, [device, kind, part, start, end], now) {
  const [top, height, role] = LOOKS[kind];
  const [left, y, width] = [x(start), device * ROW + top, x(end) - x(start)];
  ctx.save();
  if (start > now) ctx.globalAlpha = 0.3;
  if (role === null) {
    drawHatch(ctx, look, left, y, width, height);
  } else {
    ctx.fillStyle = look[role];
    ctx.fillRect(left, y, Math.max(width - 1, 0.6), height);
    const text = `${kind[0].toUpperCase()}${part}`;
    Object.assign(ctx, { font: look.code, fillStyle: look.paper, textAlign: "center" });
    if (height > 20 && width > ctx.measureText(text).width + 4)
      ctx.fillText(text, left + width / 2, y + height / 2 + 1);
  }
  ctx.restore();
}

function drawHatch(ctx, look, left, y, width, height) {
  ctx.beginPath();
  ctx.rect(left, y, width, height);
  ctx.clip();
  Object.assign(ctx, { strokeStyle: look.muted, lineWidth: 1 });
  ctx.globalAlpha *= 0.6;
  ctx.beginPath();
  for (let at = left - height - ((left - height) % 8); at < left + width; at += 8) {
    ctx.moveTo(at, y + height);
    ctx.lineTo(at + height, y);
  }
  ctx.stroke();
}

function drawAxis(ctx, look, x, seconds, y) {
  Object.assign(ctx, {
    strokeStyle: look.muted,
    fillStyle: look.ink,
    lineWidth: 1,
    font: look.code,
    textAlign: "center",
  });
  ctx.beginPath();
  for (const time of roundValues(0, seconds, 8)) {
    const at = Math.round(x(time)) + 0.5;
    ctx.moveTo(at, y + 4);
    ctx.lineTo(at, y + 10);
    ctx.fillText(`${time} s`, Math.min(at, x(seconds) - 12), y + 20);
  }
  ctx.moveTo(x(0), y + 4.5);
  ctx.lineTo(x(seconds), y + 4.5);
  ctx.stroke();
}
