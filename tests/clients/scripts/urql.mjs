// urql, a client that is nobody's here: sign-in, quote, top-up, in text or by the ids of trusted documents.
import { Client, fetchExchange, stringifyDocument } from "@urql/core";
import { persistedExchange } from "@urql/exchange-persisted";
import { createHash } from "node:crypto";
import { approve, oneTimeCode, operations, orders, tell } from "./common.mjs";

const sha256 = (text) => createHash("sha256").update(text).digest("hex");
if (orders.manifest) {
  // What it would send, so that an operator can add it.
  const texts = Object.values(operations).map((document) => stringifyDocument(document));
  tell(Object.fromEntries(texts.map((text) => [sha256(text), text])));
  process.exit(0);
}

let token = null;
const requests = [];
const persisted = persistedExchange({
  enforcePersistedQueries: true,
  enableForMutation: true,
  preferGetForPersistedQueries: orders.byGet ? "force" : false,
  generateHash: async (text) => sha256(text),
});
const client = new Client({
  url: orders.url,
  exchanges: [...(orders.trusted ? [persisted] : []), fetchExchange],
  preferGetMethod: false,
  fetchOptions: () => ({ headers: token ? { authorization: `Bearer ${token}` } : {} }),
  fetch: (url, options) => {
    requests.push({ method: options.method ?? "GET", text: /"query":|[?&]query=/.test(`${url} ${options.body}`) });
    return fetch(url, options);
  },
});
async function ask(kind, name, variables) {
  const { data, error } = await client[kind](operations[name], variables).toPromise();
  if (error) throw error;
  return data;
}

await ask("mutation", "SignInStart", { phone: orders.phone });
const signed = await ask("mutation", "SignInFinish", { phone: orders.phone, code: await oneTimeCode() });
token = signed.signInFinish.token;
const { viewer } = await ask("query", "HomeScreen", {});
const meter = viewer.meters.edges[0].node;
tell({ step: "home", serial: meter.serial });
const pay = { amount: orders.amount, currency: "KES" };
const by = { meterId: meter.id, by: { money: pay }, methodId: "sandbox" };
const { quote, userErrors } = (await ask("query", "Quote", by)).viewer.meter.quote;
tell({ step: "quote", pay: quote.pay.amount, userErrors });
const input = { idempotencyKey: crypto.randomUUID(), meterId: meter.id, pay, methodId: "sandbox", quoteId: quote.id };
const started = (await ask("mutation", "TopUpStart", { input })).topUpStart;
tell({ step: "started", id: started.topUp.id, status: started.topUp.status });
await approve(started.topUp.id);
for (;;) {
  const result = await client.query(operations.TopUpFollow, { topUpId: started.topUp.id }).toPromise();
  if (result.error) throw result.error;
  if (result.data.node.status === orders.stopAt) break;
  await new Promise((resolve) => setTimeout(resolve, result.data.node.pollAfterMs));
}
tell({ step: "paid", requests });
