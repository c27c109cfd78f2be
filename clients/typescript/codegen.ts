import type { CodegenConfig } from "@graphql-codegen/cli";

// The types, the documents and their hashes, from the committed schema and the ready operations beside this folder.
const config: CodegenConfig = {
  schema: "../../docs/schema.graphql",
  documents: "../operations/*.graphql",
  generates: {
    "./src/generated/": {
      preset: "client",
      presetConfig: {
        fragmentMasking: false,
        persistedDocuments: {
          mode: "embedHashInDocument",
          hashAlgorithm: "sha256",
          hashPropertyName: "documentId",
        },
      },
      config: {
        // Documents are text: nothing of GraphQL has to run in the app.
        documentMode: "string",
        // Every scalar of Standpipe's own travels as text, an exact decimal too.
        defaultScalarType: "string",
        scalars: { ID: "string" },
        enumsAsTypes: true,
        // An app in the field meets states that were invented after it.
        futureProofEnums: true,
        useTypeImports: true,
      },
    },
  },
  importExtension: ".js",
};

export default config;
