// An OpenID provider that others wrote, on a free port. Everybody may sign in there, under any name.
//
// usage: node provider.mjs <directory with node_modules>
// It writes its address; then it reads one line, the address that people are sent back to, and answers.

import http from "node:http";
import path from "node:path";
import readline from "node:readline";
import { pathToFileURL } from "node:url";

const library = path.join(process.argv[2], "node_modules/oidc-provider/lib/index.js");
const { Provider } = await import(pathToFileURL(library));

const server = http.createServer();
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const address = `http://127.0.0.1:${server.address().port}`;
console.log(address);

const [redirect] = await new Promise((resolve) => {
  readline.createInterface({ input: process.stdin }).once("line", (line) => resolve([line]));
});
const provider = new Provider(address, {
  clients: [
    {
      client_id: "relay: the client",
      client_secret: "a secret & more",
      redirect_uris: [redirect],
      grant_types: ["authorization_code"],
      response_types: ["code"],
    },
  ],
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["preferred_username"] },
  cookies: { keys: ["for tests"] },
  pkce: { required: () => true },
  findAccount: (context, id) => ({
    accountId: id,
    claims: () => ({
      sub: id,
      email: `${id}@campus.example`,
      email_verified: true,
      preferred_username: id,
    }),
  }),
});
server.on("request", provider.callback());
console.log("ready");
