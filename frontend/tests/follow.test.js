import assert from "node:assert/strict";
import { test } from "node:test";

globalThis.document = Object.assign(new EventTarget(), { hidden: false });
globalThis.addEventListener = globalThis.removeEventListener = () => {};
Object.defineProperty(globalThis, "navigator", { value: { onLine: true } });
const { ApiError } = await import("../static/api.js");
const { followWalk } = await import("../static/follow.js");

/** A stream that says what the test wants. */
class Stream extends EventTarget {
  constructor() {
    super();
    Stream.open = this;
  }

  tell(status, revision) {
    const data = JSON.stringify({ status, revision, done: status === "succeeded" });
    this.dispatchEvent(Object.assign(new Event("walk"), { data, lastEventId: String(revision) }));
  }

  close() {}
}

/** Follows a walk; `reads` are the questions: {etag, answer(status, revision), refuse(error)}; answer(null) where nothing changed. */
function follow() {
  const [seen, notices, reads] = [[], [], []];
  const read = (id, { etag }) =>
    new Promise((resolve, reject) => {
      const answer = async (status, revision) => {
        const body = status && { status, revision, done: false };
        resolve({ etag: status ? `W/"${revision}"` : etag, body, retryAfter: null });
        await new Promise(setImmediate);
      };
      const refuse = async (error) => {
        reject(error);
        await new Promise(setImmediate);
      };
      reads.push({ etag, answer, refuse });
    });
  const { stop } = followWalk("1", {
    onWalk: ({ revision }) => seen.push(revision), onNotice: (text) => notices.push(text), read, Stream,
  });
  return { seen, notices, reads, stop };
}

test("an answer that comes after a later event of the stream is left out", async ({ mock }) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const { seen, reads, stop } = follow();
  Stream.open.tell("queued", 1);
  mock.timers.tick(10_000); // the place in the queue is asked for
  assert.equal(reads[0].etag, 'W/"1"');
  Stream.open.tell("running", 3);
  await reads[0].answer("queued", 2);
  assert.deepEqual(seen, [1, 3]);
  mock.timers.tick(60_000);
  assert.equal(reads[1].etag, 'W/"3"');
  stop();
});

test("beside a stream, a walk in the queue is asked for often, and a running one rarely", async ({ mock }) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const { reads, stop } = follow();
  Stream.open.tell("queued", 1);
  for (const [seconds, status, count] of [[10, "queued", 1], [10, "running", 2], [59, null, 2], [1, null, 3], [59, null, 3], [1, null, 4]]) {
    mock.timers.tick(1000 * seconds);
    assert.equal(reads.length, count);
    await reads.at(-1).answer(status, count + 1);
  }
  stop();
});

test("a server that is unavailable is asked again when it says, and the notice goes once it answers", async ({ mock }) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const { seen, notices, reads, stop } = follow();
  Stream.open.dispatchEvent(new Event("error"));
  await reads[0].refuse(new ApiError("Away.", { status: 503, retryAfter: 7 }));
  assert.equal(notices.length, 1);
  assert.match(notices[0], /this page keeps asking/);
  mock.timers.tick(6999);
  assert.equal(reads.length, 1);
  mock.timers.tick(1);
  await reads[1].answer("running", 2);
  assert.deepEqual(notices.slice(1), [""]);
  assert.deepEqual(seen, [2]);
  stop();
});
