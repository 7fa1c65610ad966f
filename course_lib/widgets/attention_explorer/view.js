// The browser's half of AttentionExplorer. The kernel's half says what `result` holds; here it is drawn and driven.
// Whatever is a token's text goes through textContent or fillText, never through innerHTML.

import { gridPanel, headPanel, openMaps } from "../shared/attention_panels.js";
import { drawAll, keepKeys, node, onNewLooks } from "../shared/base.js";
import { openLine, promptPanel } from "../shared/kernel.js";
import { counted } from "../shared/numbers.js";
import { nextPanel } from "./next_tokens.js";

export default { render };

function render({ model, el }) {
  const root = node("div", { className: "course-widget attention-panels attention-explorer" });
  keepKeys(root);
  const explorer = openExplorer(model, el);
  const panels = [textPanel, gridPanel, headPanel, nextPanel].map((panel) => panel(explorer));
  root.append(node("div", { className: "panels" }, ...panels.map((panel) => panel.element)));
  el.append(root);

  explorer.draw = () => drawAll(panels);
  explorer.announce = panels[0].announce;
  const changes = "change:result change:off change:text change:layer change:head";
  model.on(changes, explorer.draw);
  const ignoreLooks = onNewLooks(root, explorer.draw);
  return () => {
    explorer.close();
    model.off(changes, explorer.draw);
    ignoreLooks();
  };
}

// ---- What all panels share: the chosen head, and the line to the kernel ----

function openExplorer(model, el) {
  const explorer = {
    line: openLine(model, el, () => explorer.draw()),
    result: () => model.get("result"),
    layer: () => model.get("layer"),
    head: () => model.get("head"),
    text: () => model.get("text"),
    off: () => explorer.line.pending("run")?.off ?? model.get("off"),
    isOff: (layer, head) => explorer.off().some(([l, h]) => l === layer && h === head),
    draw: () => {},
    announce: (_words) => {},

    select(layer, head) {
      model.set({ layer, head });
      model.save_changes();
      explorer.announce(`layer ${layer}, head ${head}${explorer.isOff(layer, head) ? ", off" : ""}`);
    },

    toggle(layer, head) {
      const others = explorer.off().filter(([l, h]) => l !== layer || h !== head);
      explorer.run({ off: explorer.isOff(layer, head) ? others : [...others, [layer, head]] });
    },

    run(change) {
      const { text, off } = explorer.line.pending("run") ?? { text: model.get("text"), off: model.get("off") };
      explorer.line.ask({ type: "run", text, off, ...change });
    },

    close() {
      explorer.line.close();
      maps.close();
    },
  };
  const maps = openMaps(model, explorer);
  return Object.assign(explorer, { map: maps.map, ramp: maps.ramp });
}

function textPanel(explorer) {
  function status() {
    const { layers, heads, tokens } = explorer.result();
    return `${layers} layers × ${heads} heads, ${counted(tokens.length, "token")}`;
  }
  const { line, text } = explorer;
  return promptPanel({ line, text, label: "Text for the model", run: (text) => explorer.run({ text }), status });
}
