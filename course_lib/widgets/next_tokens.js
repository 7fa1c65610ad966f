// The next token's odds as bars: filled is now, dashed is with all heads on. Below them, the heads that are off.

function nextPanel(explorer) {
  const now = node("span", { className: "sample now", textContent: "now" });
  const before = node("span", { className: "sample before", textContent: "all heads on" });
  const samples = node("p", { className: "samples" }, now, before);
  const list = node("ol");
  const limit = node("span");
  const axis = node("div", { className: "axis muted" }, node("span", { textContent: "0" }), "probability", limit);
  const off = node("div", { className: "switched" });
  const restore = node("button", { type: "button", textContent: "Switch all back on" });
  restore.addEventListener("click", () => explorer.run({ off: [] }));
  const odds = node("div", { className: "odds" }, node("h3", { textContent: "Next token" }), samples, list, axis);
  const switches = node("div", {}, node("h3", { textContent: "Heads off" }), off, restore);
  const element = node("section", { className: "next" }, odds, switches);

  // Rows are kept and only restyled, so that a bar moves from its old length to its new one.
  const rows = [];
  function newRow() {
    const parts = {
      chip: node("span", { className: "chip" }),
      now: node("i", { className: "now" }),
      before: node("i", { className: "before" }),
      value: node("b"),
    };
    const element = node("li", {}, parts.chip, node("span", { className: "track" }, parts.now, parts.before), parts.value);
    return { ...parts, element };
  }

  const draw = soon(() => {
    const { next } = explorer.result();
    const most = Math.max(...next.flatMap(({ now, before }) => [now, before]));
    const scale = [0.05, 0.1, 0.2, 0.5, 1].find((limit) => limit >= most) ?? 1;
    next.forEach((token, index) => {
      const row = (rows[index] ??= newRow());
      const title = `${JSON.stringify(token.piece)}, id ${token.id}`;
      Object.assign(row.chip, { textContent: token.chip, title });
      row.now.style.width = `${(100 * token.now) / scale}%`;
      row.before.style.width = `${(100 * token.before) / scale}%`;
      row.value.textContent = twoDigits(token.now);
      row.element.ariaLabel = `${JSON.stringify(token.piece)}: ${twoDigits(token.now)} now, ${twoDigits(token.before)} with all heads on`;
    });
    list.replaceChildren(...rows.slice(0, next.length).map(({ element }) => element));
    odds.classList.toggle("changed", explorer.result().off > 0);
    limit.textContent = scale;
    const heads = explorer.off();
    restore.disabled = heads.length === 0;
    off.replaceChildren(...(heads.length ? heads.map(([layer, head]) => offChip(explorer, layer, head)) : [node("span", { className: "muted", textContent: "None." })]));
  });
  return { element, draw };
}

function offChip(explorer, layer, head) {
  const label = `Switch layer ${layer}, head ${head} back on`;
  const button = node("button", { type: "button", textContent: `${layer}.${head} ×`, title: label, ariaLabel: label });
  button.addEventListener("click", () => explorer.toggle(layer, head));
  return button;
}

// Two significant digits, as in every picture of the course.
function twoDigits(probability) {
  return probability < 0.001 ? "<0.001" : probability >= 0.995 ? "1.0" : probability.toPrecision(2);
}
