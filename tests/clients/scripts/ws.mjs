// The npm package graphql-ws: one subscription, all that happens to it.
import { print } from "graphql";
import { createClient } from "graphql-ws";
import WebSocket from "ws";
import { operations, orders, tell } from "./common.mjs";

let tries = 0;
const client = createClient({
  url: orders.url,
  webSocketImpl: WebSocket,
  // It is asked at each try, so a token that was refused can be a fresh one the next time.
  connectionParams: () => ({ authorization: `Bearer ${(tries++ && orders.nextToken) || orders.token}` }),
  retryAttempts: orders.retries ?? 0,
  retryWait: async () => {},
  on: {
    connected: () => tell({ event: "connected" }),
    closed: ({ code }) => tell({ event: "closed", code }),
  },
});
const request = { query: print(operations[orders.operation]), variables: orders.variables };
client.subscribe(request, {
  next: ({ data, errors }) => tell({ event: "next", data, errors }),
  error: (error) => tell({ event: "error", code: error.code ?? error[0]?.extensions?.code ?? String(error) }),
  complete: () => {
    tell({ event: "complete" });
    client.dispose();
  },
});
