// Loads a film or picture again whose signed URL has expired: the address in its data-fresh redirects to a new one.
// No module, since the page for frames on other sites can have none.

const PATIENCE = 60_000; // milliseconds within which a file that fails again is given up
const renewed = new WeakMap(); // element → when it was last loaded again

/** Goes on where a film was; returns whether the file is loaded again. */
function renew(element) {
  const now = performance.now();
  if (!element.dataset.fresh || now - renewed.get(element) < PATIENCE) return false;
  renewed.set(element, now);
  const { currentTime, paused, playbackRate } = element;
  element.src = element.dataset.fresh;
  if (!(element instanceof HTMLMediaElement)) return true;
  Object.assign(element, { currentTime, playbackRate });
  if (!paused) element.play().catch(() => { /* a second error event follows */ });
  return true;
}

// Others hear of an error only if this does not help.
document.addEventListener("error", (event) => renew(event.target) && event.stopPropagation(), { capture: true });

// A page that the browser has kept, and opens again, is older than its script.
for (const element of document.querySelectorAll("[data-fresh]")) {
  if (element.error || (element.complete && !element.naturalWidth)) renew(element);
}
