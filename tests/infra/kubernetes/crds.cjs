// Checks objects of KEDA, of the Gateway API, of GKE, of the Prometheus operator and of cert-manager against the schemas
// that come with @kubernetes-models.
// `node crds.cjs FOLDER` reads a list of objects from stdin and prints a list of what is wrong. The schemas let unknown
// fields pass, so these are looked for in the declarations of the types.
const fs = require("node:fs");
const path = require("node:path");

const modules = path.join(process.argv[2], "node_modules");
const PACKAGES = {
  "keda.sh": "keda",
  "gateway.networking.k8s.io": "gateway-api",
  "networking.gke.io": "gke",
  "monitoring.coreos.com": "prometheus-operator",
  "cert-manager.io": "cert-manager",
};
const FREE = new Set(["metadata", "options", "matchLabels", "labels", "annotations"]); // maps whose keys are anybody's

/** Returns the names of all fields that a declaration, or one that it is made of, knows. */
function fields(file, seen = new Set()) {
  if (seen.has(file) || !fs.existsSync(file)) return [];
  seen.add(file);
  const text = fs.readFileSync(file, "utf8");
  const names = [...text.matchAll(/^\s+"?(\w+)"?\??:/gm)].map((found) => found[1]);
  for (const [, from] of text.matchAll(/from "([^"]+)"/g)) {
    const base = from.startsWith(".") ? path.join(path.dirname(file), from) : path.join(modules, from);
    names.push(...fields(`${base.replace(/\.js$/, "")}.d.ts`, seen));
  }
  return names;
}

function unknown(value, known, where) {
  if (Array.isArray(value)) return value.flatMap((item, i) => unknown(item, known, `${where}[${i}]`));
  if (value === null || typeof value !== "object") return [];
  return Object.entries(value).flatMap(([name, item]) => {
    if (!known.has(name)) return [`${where}.${name} is unknown`];
    return FREE.has(name) ? [] : unknown(item, known, `${where}.${name}`);
  });
}

function wrong(object) {
  const [group, version] = object.apiVersion.split("/");
  const folder = path.join(modules, "@kubernetes-models", PACKAGES[group], group, version);
  const where = `${object.kind}/${object.metadata?.name}`;
  try {
    new (require(folder)[object.kind])(object).validate();
  } catch (error) {
    return [`${where}: ${error.message}`];
  }
  return unknown(object, new Set(fields(path.join(folder, `${object.kind}.d.ts`))), where);
}

console.log(JSON.stringify(JSON.parse(fs.readFileSync(0, "utf8")).flatMap(wrong)));
