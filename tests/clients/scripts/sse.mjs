// The npm package graphql-sse in distinct-connections mode: one subscription, all that happens to it.
import { print } from "graphql";
import { createClient } from "graphql-sse";
import { operations, orders, tell } from "./common.mjs";

const client = createClient({
  url: orders.url,
  singleConnection: false,
  headers: { authorization: `Bearer ${orders.token}` },
  retryAttempts: orders.retries ?? 0,
  retry: async () => {},
  on: { connected: () => tell({ event: "connected" }) },
});
const request = { query: print(operations[orders.operation]), variables: orders.variables };
client.subscribe(request, {
  next: ({ data, errors }) => tell({ event: "next", data, errors }),
  error: (error) => tell({ event: "error", status: error.response?.status ?? String(error) }),
  complete: () => {
    tell({ event: "complete" });
    client.dispose();
  },
});
