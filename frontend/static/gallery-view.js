import { listWalks } from "./api.js";
import { fromTemplate, make, setText } from "./dom.js";
import { statusWords, titleNodes } from "./wording.js";

/** The gallery below the stage; starts at the cursor in the address, if any. Returns {refresh}. */
export function showGallery(section) {
  const list = section.querySelector(".gallery-list");
  const note = section.querySelector(".gallery-note");
  const more = section.querySelector(".more");
  const start = new URLSearchParams(location.search).get("cursor");
  let extended = false; // whether pages were added below the first
  section.hidden = false;
  section.querySelector(".newest").hidden = !start;

  async function load(cursor, { append }) {
    try {
      const { body } = await listWalks(cursor);
      const items = body.walks.map(makeItem);
      if (append) list.append(...items);
      else list.replaceChildren(...items);
      more.hidden = !body.next_cursor;
      if (body.next_cursor) more.href = `/?${new URLSearchParams({ cursor: body.next_cursor })}#gallery`;
      more.dataset.cursor = body.next_cursor ?? "";
      setText(note, list.children.length ? "" : start ? "No walks further back." : "The walls are bare. The first walk made here will hang in this place.");
      return items;
    } catch (error) {
      if (error.name !== "ApiError") throw error;
      setText(note, "The gallery is closed for the moment. " + error.message);
      return [];
    }
  }

  more.addEventListener("click", async (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    if (more.ariaBusy === "true") return;
    more.ariaBusy = "true";
    const [first] = await load(more.dataset.cursor, { append: true });
    more.ariaBusy = "false";
    extended ||= Boolean(first);
    first?.querySelector("a").focus();
  });

  load(start, { append: false });
  return {
    refresh() {
      if (!extended && !start) load(null, { append: false });
    },
  };
}

function makeItem(walk) {
  const item = fromTemplate("gallery-item");
  const poster = walk.artifacts?.poster;
  item.querySelector("a").href = `/walks/${encodeURIComponent(walk.id)}`;
  item.querySelector(".still").append(
    poster?.url
      ? make("img", { src: poster.url, alt: "", width: poster.width ?? 128, height: poster.height ?? 128, loading: "lazy", decoding: "async" })
      : make("span", { className: "unhung" }, statusWords(walk)),
  );
  item.querySelector(".caption").append(...titleNodes(walk));
  return item;
}
