// Draws from every generator of Node, at each line that a visitor sends.
const crypto = require("crypto");
const { Worker } = require("worker_threads");
const worker = new Worker(
  `const { parentPort } = require("worker_threads");
   const crypto = require("crypto");
   parentPort.on("message", () => parentPort.postMessage([crypto.randomBytes(16).toString("hex"), crypto.randomUUID()]));`,
  { eval: true });
const child = require("child_process").spawn(process.execPath, ["-e", `
  const crypto = require("crypto");
  process.stdin.on("data", () => console.log(crypto.randomBytes(16).toString("hex"), crypto.randomUUID()));
`], { stdio: ["pipe", "pipe", "inherit"] });
const ask = (emitter, send, event) => new Promise((done) => { emitter.once(event, done); send(); });
async function draw() {
  const [bytes, uuid] = await ask(worker, () => worker.postMessage(""), "message");
  const [childBytes, childUuid] = String(await ask(child.stdout, () => child.stdin.write("x"), "data")).trim().split(" ");
  return [
    `secret randomBytes ${crypto.randomBytes(16).toString("hex")}`,
    `secret randomUUID ${crypto.randomUUID()}`,
    `secret webcrypto.randomUUID ${globalThis.crypto.randomUUID()}`,
    `secret getRandomValues ${Buffer.from(globalThis.crypto.getRandomValues(new Uint8Array(16))).toString("hex")}`,
    `secret randomInt ${crypto.randomInt(2 ** 47)}`,
    `secret generateKey ${crypto.generateKeySync("aes", { length: 128 }).export().toString("hex")}`,
    `secret worker.randomBytes ${bytes}`,
    `secret worker.randomUUID ${uuid}`,
    `secret child.randomBytes ${childBytes}`,
    `secret child.randomUUID ${childUuid}`,
    `open Math.random ${Math.random()}`,
  ].join("\n");
}
require("net").createServer((visitor) => {
  visitor.on("error", () => {});
  visitor.once("data", async () => visitor.end(await draw()));
}).listen(Number(process.env.PORT));
