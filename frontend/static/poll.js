import { readWalk } from "./api.js";

const USUAL_PAUSE = 2; // seconds, where the server names none
const LONGEST_PAUSE = 30;

/**
 * Follows a walk until it is done, the page says stop, or the server says that there is no such walk.
 *
 * onWalk(walk) on every change; onNotice(text) when the server is out of reach, "" when it is back; onError(ApiError)
 * when asking again is of no use. Asks nothing while the page is hidden. Returns the function that stops it.
 */
export function followWalk(id, { onWalk, onNotice, onError }) {
  const abort = new AbortController();
  let timer, etag, walk, asking = false, failures = 0;

  async function ask() {
    if (asking || document.hidden || abort.signal.aborted) return;
    asking = true;
    clearTimeout(timer);
    let pause;
    try {
      const answer = await readWalk(id, { etag, signal: abort.signal });
      if (failures) onNotice("");
      failures = 0;
      etag = answer.etag;
      if (answer.body) onWalk((walk = answer.body));
      pause = answer.retryAfter ?? USUAL_PAUSE;
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.name !== "ApiError") throw error;
      if (!error.passing) {
        stop();
        return onError(error);
      }
      failures += 1;
      pause = Math.min(LONGEST_PAUSE, error.retryAfter ?? 2 ** failures * (0.75 + Math.random() / 2));
      onNotice(`${walk ? "Out of touch with the workers" : "No answer yet"}; asking again in a moment.`);
    } finally {
      asking = false;
    }
    if (walk?.done) stop();
    else if (!abort.signal.aborted) timer = setTimeout(ask, 1000 * Math.min(LONGEST_PAUSE, Math.max(0.25, pause)));
  }

  function onVisibility() {
    clearTimeout(timer);
    ask();
  }

  function stop() {
    clearTimeout(timer);
    abort.abort();
    document.removeEventListener("visibilitychange", onVisibility);
  }

  document.addEventListener("visibilitychange", onVisibility);
  ask();
  return stop;
}
