// Both manifest formats of trusted documents, from what the code generator has hashed: for `standpipe documents add`.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { getOperationAST, parse } from "graphql";

const here = new URL(".", import.meta.url);
const documents = JSON.parse(await readFile(new URL("src/generated/persisted-documents.json", here), "utf8"));
const operations = Object.entries(documents).map(([id, body]) => {
  const operation = getOperationAST(parse(body));
  return { id: id.replace(/^sha256:/, ""), name: operation.name.value, type: operation.operation, body };
});
operations.sort((one, other) => (one.name < other.name ? -1 : 1));
const plain = Object.fromEntries(operations.map(({ id, body }) => [id, body]));
const apollo = { format: "apollo-persisted-query-manifest", version: 1, operations };
await mkdir(new URL("manifests/", here), { recursive: true });
await writeFile(new URL("manifests/plain.json", here), JSON.stringify(plain, null, 2) + "\n");
await writeFile(new URL("manifests/apollo.json", here), JSON.stringify(apollo, null, 2) + "\n");
