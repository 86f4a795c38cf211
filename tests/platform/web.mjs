// What onnxruntime-web (WebAssembly, one thread) computes, as hashes.
//
//   node web.mjs MODULES JOBS.json
//
// MODULES: folder with node_modules/onnxruntime-web. JOBS: [{name, graph, input, shape, data}], where
// data is a file of little-endian float32. Prints {version, hashes: {"NAME LEVEL": sha256}}.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, jobsPath] = process.argv.slice(2);
const require = createRequire(pathToFileURL(join(resolve(modules), "index.js")));
const ort = require("onnxruntime-web");
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

const hashes = {};
for (const job of JSON.parse(readFileSync(jobsPath, "utf8"))) {
  const bytes = readFileSync(job.data);
  const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  for (const level of ["disabled", "basic", "extended", "all"]) {
    const session = await ort.InferenceSession.create(readFileSync(job.graph), {
      executionProviders: ["wasm"],
      graphOptimizationLevel: level,
    });
    const feed = { [session.inputNames[0]]: new ort.Tensor("float32", values, job.shape) };
    const output = (await session.run(feed))[session.outputNames[0]];
    const found = output.data.map((value) => value + 0); // -0 + 0 = 0
    const raw = Buffer.from(found.buffer, found.byteOffset, found.byteLength);
    const name = level === "disabled" ? "disable" : level;
    hashes[`${job.name} ${name}`] = createHash("sha256").update(raw).digest("hex");
    await session.release();
  }
}
console.log(JSON.stringify({ version: ort.env.versions.web, hashes }));
