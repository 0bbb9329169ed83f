import assert from "node:assert/strict";
import { test } from "node:test";
import { added, moved, nameOf, removed } from "../static/stops.js";

test("a new stop comes before the last, so that the walk keeps its end", () => {
  assert.deepEqual(added(["a", "b"]), { stops: ["a", "", "b"], place: 1 });
});

test("there are never more than ten stops, nor fewer than two", () => {
  const ten = [..."abcdefghij"];
  assert.equal(added(ten).stops.length, 10);
  assert.deepEqual(removed(["a", "b"], 0), ["a", "b"]);
  assert.deepEqual(removed(["a", "b", "c"], 1), ["a", "c"]);
});

test("a moved stop takes the place of another, and does not fall off the ends", () => {
  assert.deepEqual(moved(["a", "b", "c"], 0, 2), ["b", "c", "a"]);
  assert.deepEqual(moved(["a", "b", "c"], 2, 0), ["c", "a", "b"]);
  assert.deepEqual(moved(["a", "b", "c"], 1, 99), ["a", "c", "b"]);
  assert.deepEqual(moved(["a", "b", "c"], 1, -1), ["b", "a", "c"]);
});

test("stops are named by where they stand", () => {
  assert.deepEqual([0, 1, 2].map((place) => nameOf(place, 3)), ["From", "By way of", "To"]);
});
