import { showForm } from "./form-view.js";
import { showGallery } from "./gallery-view.js";
import { motion } from "./motion.js";
import { showWalk } from "./walk-view.js";

const stage = document.getElementById("stage");
const label = document.getElementById("label");
const gallery = showGallery(document.getElementById("gallery"));
let view = null;
let shown = ""; // the path of the view

/** Shows what the address says: a walk, or the form. */
function show({ walk, focus = true } = {}) {
  view?.leave();
  shown = location.pathname;
  const id = shown.match(/^\/walks\/([^/]+)\/?$/)?.[1];
  view = id
    ? showWalk({ id, walk, stage, label, onDone: ({ created_at }) => isFresh(created_at) && gallery.refresh() })
    : showForm({ stage, label, onMade: (made) => go(`/walks/${made.id}`, { walk: made }) });
  if (focus) view.focus();
}

/** Whether a walk was made while this page was open, so that the gallery does not have it yet. */
const isFresh = (created) => Date.now() - Date.parse(created) < performance.now() + 60_000;

function go(address, options) {
  history.pushState(null, "", address);
  show(options);
  scrollTo(0, 0);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-route]");
  if (!link || event.defaultPrevented || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || event.button) return;
  event.preventDefault();
  go(link.pathname);
});
addEventListener("popstate", () => {
  if (location.pathname !== shown) show(); // a change of the hash alone is no new view
});
motion.bind(document.getElementById("motion"));
show({ focus: false });
