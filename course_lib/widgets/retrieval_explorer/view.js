// The browser's half of RetrievalExplorer: a query, the map of all chunks and the one that is open, the rankings, the answers.

import { drawAll, keepKeys, node, octets, onNewLooks, soon } from "../shared/base.js";
import { promptPanel } from "../shared/kernel.js";
import { counted } from "../shared/numbers.js";
import { openSettings } from "../shared/settings.js";
import { answersPanel } from "./answers.js";
import { listsPanel } from "./lists.js";
import { mapPanel } from "./map.js";
import { menuPanel, openPanel } from "./passage.js";

export default { render };

function render({ model, el }) {
  const root = node("div", { className: "course-widget settings-widget retrieval-explorer" });
  keepKeys(root);
  const view = openView(model, el);
  const prompt = promptPanel({
    line: view.line,
    label: "Query",
    text: () => view.settings().query ?? "",
    run: view.ask,
    status: () => `${counted(view.count, "chunk")} of ${counted(view.works.length, "text")}`,
    action: "Search",
  });
  const [menu, map, open, lists, answers] = [menuPanel, mapPanel, openPanel, listsPanel, answersPanel].map((panel) =>
    panel(view),
  );
  const side = node("div", { className: "beside" }, map.element, open.element);
  root.append(node("section", {}, prompt.element, menu.element), side, lists.element, answers.element);
  el.append(root);

  view.draw = soon(() => drawAll([prompt, menu, map, open, lists, answers]));
  view.announce = prompt.announce;
  const ignoreLooks = onNewLooks(root, view.draw);
  view.draw();
  return () => {
    view.close();
    ignoreLooks();
  };
}

// ---- What all panels share: the settings, the chunks' places, and the one that is pointed at ----

/** @typedef {ReturnType<typeof openView>} Explorer */

function openView(model, el) {
  const view = openSettings(model, el, () => view.draw());
  const places = new Int32Array(octets(model.get("places")).slice().buffer);
  const works = model.get("works");
  return Object.assign(view, {
    draw: () => {},
    announce: (_words) => {},
    get: (name) => model.get(name),
    works,
    count: places.length / 3,
    points: new Float32Array(octets(model.get("points")).slice().buffer),
    looked: null, // the number of the chunk that is pointed at

    workOf: (item) => works[places[3 * item]],
    linesOf: (item) => `${places[3 * item + 1]}–${places[3 * item + 2]}`,
    place: (item) => `${view.workOf(item)}, lines ${view.linesOf(item)}`,

    // The chunk that is open, or will be as soon as the kernel has answered.
    opened: () => view.line.pending("set")?.settings.opened ?? view.result().open?.item,

    look(item) {
      if (view.looked === item) return;
      view.looked = item;
      view.draw();
    },

    open: (item) => view.set({ opened: item }),
    ask: (text) => view.line.ask({ type: "run", text }),

    isRight: (item) => view.result().right?.items.includes(item) ?? false,
  });
}
