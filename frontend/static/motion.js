/** The one switch that stops everything that moves on the page; the choice is remembered. */

const KEY = "momalisa.motion";
const reduced = matchMedia("(prefers-reduced-motion: reduce)");

function remembered() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

class Motion extends EventTarget {
  /** Whether a newly opened page waits for the visitor to start it. */
  get startsStill() {
    return (remembered() ?? (reduced.matches ? "still" : "moving")) === "still";
  }

  paused = this.startsStill;

  set(paused, { remember } = { remember: true }) {
    if (remember) {
      try {
        localStorage.setItem(KEY, paused ? "still" : "moving");
      } catch { /* a browser that keeps nothing still pauses */ }
    }
    if (paused === this.paused) return;
    this.paused = paused;
    document.documentElement.toggleAttribute("data-still", paused);
    this.dispatchEvent(new Event("change"));
  }

  /** Ties a toggle button to the switch. */
  bind(button) {
    const show = () => button.setAttribute("aria-pressed", String(this.paused));
    button.addEventListener("click", () => this.set(!this.paused));
    this.addEventListener("change", show);
    document.documentElement.toggleAttribute("data-still", this.paused);
    show();
    button.hidden = false;
  }
}

export const motion = new Motion();
motion.bind(document.getElementById("motion"));
