// The next token's odds as bars: filled is now, dashed is with all heads on. Below them, the heads that are off.

import { node, soon } from "../shared/base.js";
import { oddsChart, twoDigits } from "../shared/odds.js";

export function nextPanel(explorer) {
  const describe = ({ piece, now, before }) =>
    `${JSON.stringify(piece)}: ${twoDigits(now)} now, ${twoDigits(before)} with all heads on`;
  const odds = oddsChart({ before: "all heads on", describe });
  const off = node("div", { className: "switched" });
  const restore = node("button", { type: "button", textContent: "Switch all back on" });
  restore.addEventListener("click", () => explorer.run({ off: [] }));
  const chances = node("div", {}, node("h3", { textContent: "Next token" }), odds.element);
  const switches = node("div", {}, node("h3", { textContent: "Heads off" }), off, restore);
  const element = node("section", { className: "next" }, chances, switches);

  const draw = soon(() => {
    odds.show(explorer.result().next);
    odds.element.classList.toggle("changed", explorer.result().off > 0);
    const heads = explorer.off();
    restore.disabled = heads.length === 0;
    off.replaceChildren(
      ...(heads.length
        ? heads.map(([layer, head]) => offChip(explorer, layer, head))
        : [node("span", { className: "muted", textContent: "None." })]),
    );
  });
  return { element, draw };
}

function offChip(explorer, layer, head) {
  const textContent = `${layer}.${head} ×`;
  const title = `Switch layer ${layer}, head ${head} back on`;
  const ariaLabel = `${textContent} ${title}`; // begins with what is seen: who speaks to the machine says that
  const button = node("button", { type: "button", textContent, title, ariaLabel });
  button.addEventListener("click", () => explorer.toggle(layer, head));
  return button;
}
