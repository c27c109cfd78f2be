// What the scripts share: their orders, the ready operations, and a way to tell what happens.
import { readFileSync, readdirSync } from "node:fs";
import { concatAST, parse, separateOperations } from "graphql";

export const orders = JSON.parse(process.argv[2]);
export const tell = (what) => console.log(JSON.stringify(what));

const folder = new URL("operations/", import.meta.url);
const files = readdirSync(folder).filter((name) => name.endsWith(".graphql"));
const all = concatAST(files.map((name) => parse(readFileSync(new URL(name, folder), "utf8"), { noLocation: true })));

/** By name, each with just the fragments that it uses. */
export const operations = separateOperations(all);

export async function oneTimeCode() {
  const { messages } = await (await fetch(`${orders.phoneUrl}/messages`)).json();
  return /\d{6}/.exec(messages.at(-1).body)[0];
}

export async function approve(topUpId) {
  await fetch(`${orders.sandboxUrl}/v1/references/${topUpId}/approve`, { method: "POST" });
}
