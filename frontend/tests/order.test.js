import assert from "node:assert/strict";
import { test } from "node:test";
import { coarseFirst, holdsOf, ownPlaylist, playlist, resumed, stopMarks } from "../static/order.js";

test("back and forth shows neither end twice in a row", () => {
  assert.deepEqual(playlist(4, "back-and-forth"), [0, 1, 2, 3, 2, 1]);
  assert.deepEqual(playlist(2, "back-and-forth"), [0, 1]);
  assert.deepEqual(playlist(1, "back-and-forth"), [0]);
});

test("holds repeat a frame", () => {
  assert.deepEqual(playlist(3, "round", [2, 1, 3]), [0, 0, 1, 2, 2, 2]);
});

test("the player shows what the animation shows, as far as its frames are there", () => {
  const frames = [0, 0.5, 1].map((position) => ({ position }));
  assert.deepEqual(ownPlaylist([0, 0, 1, 2, 2, 1], frames, [0, 0.5, 1]), [0, 0, 1, 2, 2, 1]);
  assert.deepEqual(ownPlaylist([0, 0, 1, 2, 2, 1], frames, [0, 1]), [0, 0, 1, 1]);
});

test("a frame is known by its position, since indices grow while the walk is made", () => {
  const later = [0, 0.25, 0.5, 1].map((position) => ({ position }));
  assert.deepEqual(ownPlaylist([0, 1, 2, 3], later, [0, 0.5, 1]), [0, 1, 2]);
});

test("holds are read off an animation", () => {
  assert.deepEqual(holdsOf([0, 0, 0, 1, 2, 2, 1], 3), [3, 1, 2]);
});

test("after frames have joined, the walk goes on at the same frame, the same way", () => {
  const list = playlist(4, "back-and-forth");
  assert.equal(list[resumed(list, 1, true) + 1], 2);
  assert.equal(list[(resumed(list, 1, false) + 1) % list.length], 0);
  assert.equal(list[resumed(list, 3, true)], 3);
});

test("any beginning of the loading order spans the walk, and no frame is left out", () => {
  for (const count of [1, 2, 3, 24, 240]) {
    const order = coarseFirst(count);
    assert.deepEqual([...order].sort((one, other) => one - other), Array.from({ length: count }, (_, index) => index));
  }
  const first = coarseFirst(240).slice(0, 8).sort((one, other) => one - other);
  for (let place = 1; place < first.length; place += 1) assert.ok(first[place] - first[place - 1] <= 64, String(first));
});

test("a closed walk comes back to its first stop", () => {
  assert.deepEqual(stopMarks(["a", "b"], "closed").map(({ prompt, position }) => [prompt, position]), [["a", 0], ["b", 0.5], ["a", 1]]);
  assert.deepEqual(stopMarks(["a", "b"]).map(({ position }) => position), [0, 1]);
});
