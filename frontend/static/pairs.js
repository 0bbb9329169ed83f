/** Pairs to begin with. They are the model's own subjects, so that even the smallest model has something to say. */

export const PAIRS = [
  ["a giraffe", "a battleship"], ["a rose", "a butterfly"], ["a fox", "a teapot"], ["a lighthouse", "a candle"],
  ["an owl", "a clock"], ["a violin", "a swan"], ["a castle", "a ship"], ["a strawberry", "a ladybug"],
  ["a mushroom", "an umbrella"], ["a peacock", "a fan"], ["an accordion", "a caterpillar"], ["a piano", "a zebra"],
  ["a hot air balloon", "a jellyfish"], ["a cactus", "a cathedral"], ["a whale", "a cloud"], ["a key", "a horse"],
];

/** A pair that is not the one in view; `chance` is in [0, 1). */
export function anotherPair([from, to], chance) {
  const others = PAIRS.filter((pair) => pair[0] !== from || pair[1] !== to);
  return others[Math.floor(chance * others.length)];
}
