import { request } from "./api.js";

let models; // as the API lists them, once a stop has had the focus

/** Offers what a model has learned to paint as completions of a stop. */
export async function offerSubjects(datalist, name) {
  if (datalist.dataset.model === name) return;
  datalist.dataset.model = name;
  models ??= request("/v1/models").then(({ body }) => body.models);
  const listed = await models.catch(() => {
    models = undefined; // typing needs no suggestions; the next time they are asked for again
    delete datalist.dataset.model;
    return [];
  });
  const known = listed.find((model) => model.name === name)?.subjects ?? [];
  if (datalist.dataset.model === name) datalist.replaceChildren(...known.map((subject) => new Option("", subject)));
}
