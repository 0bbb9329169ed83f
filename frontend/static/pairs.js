/** A pair, {prompts: [from, to], name: of the files of its finished walk}, that is not the one in view; `chance` is in [0, 1). */
export function anotherPair(pairs, { name: current }, chance) {
  const others = pairs.filter(({ name }) => name !== current);
  return others[Math.floor(chance * others.length)];
}
