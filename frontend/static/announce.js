/** Says something to screen readers, politely, and not twice in a row. */
export function announce(text) {
  const place = document.getElementById("announcer");
  if (place.textContent !== text) place.textContent = text;
}
