// The ladder of merges: a row for each step, a column for each symbol that merging begins with, so that a token stands
// right below the two that it was made of.

import { clamp, node, tokenChip } from "../shared/base.js";

export function ladder() {
  const grid = node("div", { className: "rungs" });
  const element = node("div", { className: "ladder", role: "img", tabIndex: 0 }, grid);
  let rows = []; // of each step, the elements that come with it
  let shown = -1; // the step

  function build(replay) {
    const widths = replay.steps.length ? replay.steps[0].ids.map(() => 1) : [];
    rows = replay.steps.map((step, index) => {
      const before = replay.steps[index - 1];
      const merged = mergedParts(before, step);
      if (merged)
        widths.splice(
          step.position,
          merged.length,
          merged.reduce((sum, part) => sum + widths[part], 0),
        );
      return [...label(replay, index), ...rung(replay, index, widths)];
    });
    grid.style.setProperty(
      "--symbols",
      widths.reduce((sum, width) => sum + width, 0),
    );
    grid.replaceChildren(...rows.flat());
    shown = -1;
  }

  function label(replay, index) {
    const rank = node("span", { className: "rank", textContent: index === 0 ? "" : rankText(replay.steps[index]) });
    const pair = node("span", { className: "pair" });
    if (index === 0) pair.textContent = replay.symbols;
    else pair.append(...pairText(replay, index));
    for (const part of [rank, pair]) part.style.gridRow = index + 1;
    return [rank, pair];
  }

  function rung(replay, index, widths) {
    const { ids, position } = replay.steps[index];
    const next = replay.steps[index + 1];
    const parts = mergedParts(replay.steps[index], next) ?? [];
    let column = 3;
    return ids.map((id, place) => {
      const chip = tokenChip(replay.vocabulary[id]);
      chip.classList.toggle("merged", place === position);
      chip.classList.toggle("part", parts.includes(place));
      chip.style.gridArea = `${index + 1} / ${column} / auto / span ${widths[place]}`;
      column += widths[place];
      return chip;
    });
  }

  // Show the rows up to `step`; the last of them slides in if it is one more than before.
  function show(step, replay) {
    const { ids } = replay.steps[step];
    element.ariaLabel = `Pieces after ${step} merges: ${ids.map((id) => JSON.stringify(replay.vocabulary[id].piece)).join(", ")}`;
    for (const [index, row] of rows.entries()) {
      for (const part of row) {
        part.classList.toggle("hidden", index > step);
        part.classList.toggle("last", index === step);
        part.classList.toggle("new", index === step && step === shown + 1 && shown >= 0);
      }
    }
    shown = step;
    const chip = rows[step]?.at(-1);
    if (!chip) return;
    const [top, bottom] = [chip.offsetTop, chip.offsetTop + chip.offsetHeight];
    element.scrollTop = clamp(element.scrollTop, bottom + 12 - element.clientHeight, Math.max(0, top - 12));
  }
  return { element, build, show };
}

// The places in `before` of the tokens that `step` merged: two, or all where it takes the whole word.
function mergedParts(before, step) {
  if (!before || !step) return null;
  if (step.rank === null) return before.ids.map((_, place) => place);
  return [step.position, step.position + 1];
}

export const rankText = ({ rank }) => (rank === null ? "whole word" : `rank ${rank.toLocaleString("en")}`);

// "h + e" as two chips' texts.
export function pairText(replay, index) {
  const before = replay.steps[index - 1];
  if (replay.steps[index].rank === null) return ["in the vocabulary"];
  const [left, right] = mergedParts(before, replay.steps[index]).map((place) => replay.vocabulary[before.ids[place]]);
  return [tokenChip(left), " + ", tokenChip(right)];
}
