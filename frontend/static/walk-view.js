import "./frame-player.js";
import { announce, fromTemplate, make, setText } from "./dom.js";
import { words } from "./form-view.js";
import { followWalk } from "./poll.js";
import { makeSketch } from "./sketch.js";
import { countWords, kilobytes, longDate, statusWords, titleNodes, titleOf } from "./wording.js";

const DOWNLOADS = { gif: "GIF", webp: "WebP", mp4: "MP4", sheet: "Contact sheet", zip: "ZIP of the frames" };
const ENDED_BADLY = ["failed", "canceled", "expired"];

/** One walk, followed until it is done. `walk` is what is known of it already, if anything. onDone(walk) once. */
export function showWalk({ id, walk: known, stage, label, onDone }) {
  const article = fromTemplate("walk-view");
  const part = (selector) => article.querySelector(selector);
  const sketch = makeSketch();
  const empty = make("div", { className: "picture empty" }, sketch.element);
  const player = make("frame-player");
  let shown = null; // the walk in view
  let said = ""; // the last announcement

  player.addEventListener("firstframe", () => article.isConnected && stage.replaceChildren(player));
  stage.replaceChildren(empty);
  label.append(article);
  part(".again").addEventListener("click", () => {
    if (shown) words.keep({ from: shown.prompts[0], to: shown.prompts.at(-1), frames: String(shown.frames_total) });
  });

  function say(text) {
    if (text !== said) announce((said = text));
  }

  function onWalk(walk) {
    const first = !shown;
    shown = walk;
    article.classList.toggle("ended-badly", walk.done && walk.status !== "succeeded");
    if (first) {
      document.title = `${titleOf(walk)} · MoMALisa`;
      part(".title").replaceChildren(...titleNodes(walk));
      part(".title").classList.toggle("long", titleOf(walk).length > 90);
      sketch.show(walk.prompts, walk.frames_total);
    }
    setText(part(".medium"), `Latent diffusion, ${walk.frames_total} frames`);
    showProgress(walk);
    showFacts(walk);
    showWarnings(walk.warnings ?? []);
    showDownloads(walk);
    setText(part(".again"), ENDED_BADLY.includes(walk.status) ? "Try again" : "Make another");
    player.update({
      frames: walk.frames ?? [], total: walk.frames_total, fps: walk.settings?.fps, label: `Walk from ${walk.prompts.join(" to ")}`,
    });
    if (walk.done) onDone(walk);
  }

  function showProgress(walk) {
    const { frames_done: done, frames_total: total } = walk.progress;
    const bar = part("progress");
    setText(part(".status-word"), statusWords(walk));
    part(".status-word").classList.toggle("visually-hidden", walk.status === "succeeded");
    setText(part(".reason"), walk.error?.message ?? "");
    bar.max = total;
    bar.value = done;
    bar.hidden = walk.done;
    setText(part(".count"), walk.done ? "" : countWords(walk.progress));
    const quarter = Math.floor((4 * done) / total);
    if (walk.done) say([statusWords(walk), walk.error?.message].filter(Boolean).join(". "));
    else if (walk.status === "running" && quarter) say(countWords({ frames_done: Math.ceil((quarter * total) / 4), frames_total: total }));
    else say(statusWords(walk));
  }

  function showFacts({ settings = {}, model, created_at, finished_at }) {
    const date = finished_at ?? created_at;
    const facts = [
      ["Seed", settings.seed],
      ["Size", settings.width && `${settings.width} × ${settings.height} px`],
      ["Model", model],
      ["Date", date && make("time", { dateTime: date }, longDate(date))],
    ].filter(([, value]) => value !== undefined && value !== null);
    part(".facts").replaceChildren(...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  }

  function showWarnings(warnings) {
    part(".warnings").hidden = !warnings.length;
    part(".warnings").replaceChildren(...warnings.map((warning) => make("li", { dir: "auto" }, warning)));
  }

  function showDownloads(walk) {
    const offered = Object.entries(DOWNLOADS).filter(([kind]) => walk.artifacts?.[kind]?.url);
    part(".downloads").hidden = !offered.length;
    part(".downloads ul").replaceChildren(...offered.map(([kind, name]) => {
      const { url, bytes } = walk.artifacts[kind];
      const link = make("a", { href: url, download: "" }, name);
      return make("li", {}, link, " ", make("span", { className: "size" }, bytes ? kilobytes(bytes) : ""));
    }));
  }

  function onError(error) {
    const missing = error.status === 404 || error.status === 422;
    const title = missing ? "No such walk" : "This walk cannot be shown";
    document.title = `${title} · MoMALisa`;
    part(".title").textContent = title;
    setText(part(".medium"), missing ? "Nothing hangs here. The address may be mistyped, or the walk was taken down." : error.message);
    part(".state").hidden = true;
    setText(part(".again"), "Make a walk");
    sketch.element.remove();
    say(title);
  }

  part(".title").textContent = "A walk";
  part(".medium").textContent = "Fetching it from the store.";
  if (known) onWalk(known);
  const stop = followWalk(id, { onWalk, onError, onNotice: (text) => setText(part(".notice"), text) });

  return {
    focus: () => part(".title").focus({ preventScroll: true }),
    leave() {
      stop();
      article.remove();
    },
  };
}
