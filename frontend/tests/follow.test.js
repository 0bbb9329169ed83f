import assert from "node:assert/strict";
import { test } from "node:test";

globalThis.document = Object.assign(new EventTarget(), { hidden: false });
globalThis.addEventListener = globalThis.removeEventListener = () => {};
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

/** Follows a walk; `reads` are the questions: {etag, answer(status, revision)}, or answer(null) where nothing changed. */
function follow() {
  const [seen, reads] = [[], []];
  const read = (id, { etag }) =>
    new Promise((resolve) => {
      const answer = async (status, revision) => {
        const body = status && { status, revision, done: false };
        resolve({ etag: status ? `W/"${revision}"` : etag, body, retryAfter: null });
        await new Promise(setImmediate);
      };
      reads.push({ etag, answer });
    });
  const { stop } = followWalk("1", { onWalk: ({ revision }) => seen.push(revision), read, Stream });
  return { seen, reads, stop };
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
