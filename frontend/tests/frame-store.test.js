import assert from "node:assert/strict";
import { test } from "node:test";

const fetched = [];
const broken = new Set(); // addresses that fail
let atOnce = 0, most = 0;

/** The browser's pictures, which Node lacks: each takes a turn of the event loop. */
globalThis.Image = class {
  naturalWidth = 512;
  naturalHeight = 512;
  set src(url) {
    this.url = Number(url);
    fetched.push(this.url);
  }
  async decode() {
    most = Math.max(most, (atOnce += 1));
    await new Promise(setImmediate);
    atOnce -= 1;
    if (broken.has(this.url)) throw new Error("It cannot be decoded.");
  }
};
let open = 0;
globalThis.createImageBitmap = async () => ((open += 1), { close: () => (open -= 1) });

const { FrameStore } = await import("../static/frame-store.js");

async function settled(store) {
  for (let before = -1; before !== fetched.length || atOnce; await new Promise((done) => setTimeout(done, 5))) before = fetched.length;
  return store.positions;
}

test("of a long walk, as many pictures are kept as memory allows: some everywhere, and all near the place in view", async () => {
  const frames = Array.from({ length: 960 }, (_, index) => ({ position: index / 959, url: String(index) }));
  const store = new FrameStore();
  store.update(frames, { width: 512, height: 512 });
  assert.deepEqual(fetched, []); // nothing is in view yet
  for (const place of [0, 0.5, 0.9, 0.2]) {
    fetched.length = 0;
    store.look(frames[Math.round(959 * place)].position);
    const first = fetched[0];
    const there = await settled(store);
    assert.ok(there.length <= 240 && open === there.length, `${there.length} joined, ${open} open`);
    assert.ok(!fetched.length || Math.abs(first - 959 * place) <= 120);
    const middle = Math.round(959 * place);
    for (let index = Math.max(0, middle - 50); index <= middle + 50; index += 1) assert.ok(store.at(index / 959), `frame ${index}`);
    const gaps = there.map((position, rank) => position - (there[rank - 1] ?? 0));
    assert.ok(Math.max(...gaps, 1 - there.at(-1)) < 0.05); // it can be scrubbed everywhere
  }
  assert.ok(most <= 6);
});

test("of a short walk, each picture is fetched once", async () => {
  fetched.length = 0;
  const store = new FrameStore();
  store.update(Array.from({ length: 24 }, (_, index) => ({ position: index / 23, url: String(index) })), { width: 128, height: 128 });
  store.open();
  store.look(0.5);
  await settled(store);
  assert.deepEqual(fetched.toSorted((one, other) => one - other), Array.from({ length: 24 }, (_, index) => index));
});

test("a picture that comes when it is no longer wanted is let go", async () => {
  const frames = Array.from({ length: 960 }, (_, index) => ({ position: index / 959, url: String(index) }));
  const store = new FrameStore();
  const before = open;
  store.update(frames, { width: 512, height: 512 });
  store.look(0);
  store.look(0.9); // the first are on their way
  const there = await settled(store);
  assert.equal(there.length, 240);
  assert.equal(open - before, 240);
  assert.equal(store.at(frames[3].position), undefined);
});

test("a picture that failed comes as soon as it has another address, and no other is fetched again", async () => {
  const frames = Array.from({ length: 8 }, (_, index) => ({ position: index / 7, url: String(index) }));
  const store = new FrameStore();
  let failed = 0;
  store.addEventListener("failed", () => (failed += 1));
  broken.add(3);
  store.update(frames, { width: 128, height: 128 });
  store.open();
  assert.equal((await settled(store)).length, 7);
  assert.deepEqual([failed, store.failing, store.at(frames[3].position)], [1, true, undefined]);
  fetched.length = 0;
  store.update(frames.with(3, { ...frames[3], url: "103" }), { width: 128, height: 128 });
  assert.equal((await settled(store)).length, 8);
  assert.deepEqual([fetched, store.failing], [[103], false]);
});
