import { readWalk } from "./api.js";
import { backOff, LONGEST_PAUSE } from "./wait.js";

const USUAL_PAUSE = 2; // seconds, where the server names none

/**
 * Follows a walk until it is done, the page says stop, or the server says that there is no such walk.
 *
 * onWalk(walk) on every change; onNotice(text) when the server is out of reach, "" when it is back; onError(ApiError)
 * when asking again is of no use. Asks nothing while the page is hidden. Returns {stop, again}.
 */
export function followWalk(id, { onWalk, onNotice, onError, read = readWalk }) {
  const abort = new AbortController();
  let timer, etag, done = false, asking = false, failures = 0;

  async function ask() {
    if (asking || document.hidden || abort.signal.aborted) return;
    asking = true;
    clearTimeout(timer);
    let pause = USUAL_PAUSE;
    try {
      const answer = await read(id, { etag, signal: abort.signal });
      if (failures) onNotice("");
      failures = 0;
      etag = answer.etag;
      pause = answer.retryAfter ?? USUAL_PAUSE;
      if (answer.body) {
        done = answer.body.done;
        onWalk(answer.body);
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.name !== "ApiError") throw error;
      if (!error.passing) {
        stop();
        return onError(error);
      }
      failures += 1;
      pause = backOff(failures, error.retryAfter, Math.random());
      onNotice(noticeOf(error));
    } finally {
      asking = false;
    }
    if (!done && !abort.signal.aborted) timer = setTimeout(ask, 1000 * Math.min(LONGEST_PAUSE, Math.max(0.25, pause)));
  }

  function wake() {
    clearTimeout(timer);
    if (!done) ask();
  }

  function stop() {
    clearTimeout(timer);
    abort.abort();
    document.removeEventListener("visibilitychange", wake);
    removeEventListener("online", wake);
  }

  /** Looks once more, also at a walk that is done: the addresses of its files may have run out. */
  function again() {
    etag = undefined;
    done = false; // until it is told: a page that is hidden, or offline, looks when it can
    clearTimeout(timer);
    return ask();
  }

  document.addEventListener("visibilitychange", wake);
  addEventListener("online", wake);
  ask();
  return { stop, again };
}

function noticeOf(error) {
  if (!navigator.onLine) return "You are offline. The walk goes on without you; this page catches up when you are back.";
  if (error.status === 429) return "You ask more often than is served; this page waits a moment, then looks again.";
  return "The museum does not answer just now. The walk is safe; this page keeps asking.";
}
