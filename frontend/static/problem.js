import "./motion.js";
import { backOff, secondsWords } from "./wait.js";

const label = document.getElementById("label");
const status = Number(label.dataset.status);
const again = document.getElementById("again");

/** A page that could not be served comes back by itself once it can be. */
async function keepTrying(failures = 1) {
  const pause = backOff(failures, null, Math.random());
  again.textContent = `Trying again in ${secondsWords(pause)}.`;
  await new Promise((resolve) => setTimeout(resolve, 1000 * pause));
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } }).catch(() => null);
  if (answer && answer.status < 500 && answer.status !== 429) return location.reload();
  return keepTrying(failures + 1);
}

if (status >= 500 || status === 429) keepTrying();
