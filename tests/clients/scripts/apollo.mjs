// Apollo Client with its own link for trusted documents and its own manifest's format.
import { ApolloClient, ApolloLink, HttpLink, InMemoryCache } from "@apollo/client";
import { PersistedQueryLink } from "@apollo/client/link/persisted-queries";
import { generatePersistedQueryIdsFromManifest } from "@apollo/persisted-query-lists";
import { print } from "@apollo/client/utilities";
import { createHash } from "node:crypto";
import { getOperationAST } from "graphql";
import { operations, orders, tell } from "./common.mjs";

// Apollo adds __typename to every selection; what is hashed is what it sends.
const cache = new InMemoryCache();
const made = Object.values(operations)
  .map((document) => cache.transformDocument(document))
  .map((document) => ({ operation: getOperationAST(document), body: print(document) }))
  .map(({ operation, body }) => ({
    id: createHash("sha256").update(body).digest("hex"),
    name: operation.name.value,
    type: operation.operation,
    body,
  }));
const manifest = { format: "apollo-persisted-query-manifest", version: 1, operations: made };
if (orders.manifest) {
  tell(manifest);
  process.exit(0);
}

const requests = [];
const trusted = new PersistedQueryLink({
  ...generatePersistedQueryIdsFromManifest({ loadManifest: async () => manifest }),
  useGETForHashedQueries: Boolean(orders.byGet),
});
const http = new HttpLink({
  uri: orders.url,
  headers: { authorization: `Bearer ${orders.token}`, "x-standpipe-client": "apollo" },
  fetch: async (url, options) => {
    requests.push({ method: options.method, text: /"query":|[?&]query=/.test(`${url} ${options.body}`) });
    return fetch(url, options);
  },
});
const client = new ApolloClient({ cache, link: ApolloLink.from(orders.trusted ? [trusted, http] : [http]) });
const home = await client.query({ query: operations.HomeScreen, fetchPolicy: "network-only" });
const meter = home.data.viewer.meters.edges[0].node;
tell({ step: "home", typename: home.data.viewer.__typename, serial: meter.serial });
const input = {
  idempotencyKey: crypto.randomUUID(),
  meterId: meter.id,
  pay: { amount: "20.00", currency: "KES" },
  methodId: "sandbox",
};
const { data } = await client.mutate({ mutation: operations.TopUpStart, variables: { input } });
tell({ step: "started", status: data.topUpStart.topUp.status, requests });
