"""GraphQL's door: types, resolvers and limits. It calls domain functions; it holds no SQL and no business rule."""
