import { readWalk } from "./api.js";
import { backOff, LONGEST_PAUSE } from "./wait.js";

const USUAL_PAUSE = 2; // seconds, where the server names none
const FIRST_EVENT = 5; // seconds within which a stream says something, or a proxy holds it back
const PLACE_PAUSE = 10; // seconds until the place in the queue is asked for: a stream tells only what changes the walk
const CHECK_PAUSE = 60; // seconds until a stream that says nothing is checked

/**
 * Follows a walk until it is done, the page says stop, or the server says that there is no such walk.
 *
 * The server streams what changes; where that fails or cannot be had, it is asked again and again. onWalk(walk) on every
 * change; onNotice(text) when the server is out of reach, "" when it is back; onError(ApiError) when asking again is of
 * no use. Neither listens nor asks while the page is hidden. Returns {stop, again}.
 */
export function followWalk(id, { onWalk, onNotice, onError, read = readWalk, Stream = globalThis.EventSource }) {
  const abort = new AbortController();
  let timer, etag, queued = false, done = false, asking = false, failures = 0;
  let stream = null, broken = 0, listenAfter = 0; // streams that broke in a row, and when the next may be tried

  const later = (act, seconds) => {
    clearTimeout(timer);
    timer = setTimeout(act, 1000 * seconds);
  };

  function took(walk) {
    if (failures) onNotice("");
    failures = 0;
    if (!walk) return;
    queued = walk.status === "queued";
    done = walk.done;
    onWalk(walk);
  }

  function listen() {
    stream = new Stream(`/v1/walks/${id}/events`);
    stream.addEventListener("walk", ({ data, lastEventId }) => {
      broken = 0;
      etag = `W/"${lastEventId}"`; // so that asking, too, tells only what has changed since
      took(JSON.parse(data));
      if (done) hush();
      else check();
    });
    // The server says why in "gone" and "error", the network does not: asking tells it in one way.
    for (const end of ["error", "gone"]) stream.addEventListener(end, fall);
    later(fall, FIRST_EVENT);
  }

  function check() {
    later(ask, queued ? PLACE_PAUSE : CHECK_PAUSE);
  }

  function hush() {
    clearTimeout(timer);
    stream?.close();
    stream = null;
  }

  function fall() {
    hush();
    if (done) return;
    broken += 1;
    listenAfter = Date.now() + 1000 * backOff(broken, null, Math.random());
    ask();
  }

  async function ask() {
    if (asking || document.hidden || abort.signal.aborted) return;
    asking = true;
    let pause = USUAL_PAUSE;
    try {
      const before = etag;
      const answer = await read(id, { etag, signal: abort.signal });
      pause = answer.retryAfter ?? USUAL_PAUSE;
      const newest = etag === before; // else the stream has sent a later state meanwhile
      if (newest) etag = answer.etag;
      took(newest ? answer.body : null);
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
    if (done || abort.signal.aborted) return hush();
    if (document.hidden) return;
    if (stream) check();
    else if (Stream && !failures && Date.now() >= listenAfter) listen();
    else later(ask, Math.min(LONGEST_PAUSE, Math.max(0.25, pause)));
  }

  function turn() {
    hush();
    if (done || document.hidden || abort.signal.aborted) return;
    if (Stream && Date.now() >= listenAfter) listen();
    else ask();
  }

  function stop() {
    hush();
    abort.abort();
    document.removeEventListener("visibilitychange", turn);
    removeEventListener("online", turn);
    removeEventListener("offline", fall);
  }

  /** Looks once more, also at a walk that is done: the addresses of its files may have run out. */
  function again() {
    etag = undefined;
    done = false; // so that a page that is hidden, or offline, looks when it can
    hush();
    return ask();
  }

  document.addEventListener("visibilitychange", turn);
  addEventListener("online", turn);
  addEventListener("offline", fall);
  turn();
  return { stop, again };
}

function noticeOf(error) {
  if (!navigator.onLine) return "You are offline. The walk goes on without you; this page catches up when you are back.";
  if (error.status === 429) return "Too many requests. This page waits a moment, then looks again.";
  return "The museum does not answer just now. The walk is safe; this page keeps asking.";
}
