// A real `galley serve`, and a proxy before it as an operator would put there: under a path, asking for a key.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer, request } from "node:http";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const RECIPES = "efficientnet_lite0,deepsegment_en,transformers_ner,echo";

/** A file of the repository. */
export const repository = (path) => fileURLToPath(new URL(`../../../../${path}`, import.meta.url));

/** Starts the program on a free port: `{ url, stop }`, `url` without a slash at its end. */
export async function startGalley() {
  const args = ["serve", "--port", "0", "--recipes", RECIPES, "--log", "warn"];
  const child = spawn(process.env.GALLEY, args, { stdio: ["ignore", "pipe", "inherit"] });
  const exit = once(child, "exit");
  for await (const line of createInterface({ input: child.stdout })) {
    const url = /https?:\/\/\S+/.exec(line)?.[0];
    if (url) {
      const stop = async () => {
        child.kill("SIGTERM");
        await exit;
      };
      return { url, stop };
    }
  }
  throw new Error("galley serve has ended before it was ready");
}

/**
 * Puts a proxy before `upstream`. It takes away `prefix`, and where a key is given answers 401 to whoever lacks it, but
 * not for the page itself. While `down` is set it drops connections.
 */
export async function startProxy(upstream, { prefix = "", key = null }) {
  const state = { down: false };
  const server = createServer((incoming, outgoing) => {
    const path = incoming.url.startsWith(`${prefix}/`) ? incoming.url.slice(prefix.length) : null;
    const isOpen = path === "/" || path?.startsWith("/page/");
    if (state.down) {
      incoming.destroy();
    } else if (path === null) {
      outgoing.writeHead(404).end("outside of the prefix");
    } else if (key && !isOpen && incoming.headers.authorization !== `Bearer ${key}`) {
      const reason = "an API key is wanted";
      outgoing.writeHead(401, { "content-type": "application/json" }).end(JSON.stringify({ reason }));
    } else {
      const { method, headers } = incoming;
      const onward = request(new URL(path, upstream), { method, headers }, (answer) => {
        outgoing.writeHead(answer.statusCode, answer.headers);
        answer.pipe(outgoing);
      });
      onward.on("error", () => outgoing.destroy());
      incoming.pipe(onward);
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const stop = async () => {
    server.closeAllConnections();
    server.close();
    await once(server, "close");
  };
  return { url: `http://127.0.0.1:${server.address().port}${prefix}`, stop, state };
}
