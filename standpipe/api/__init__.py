"""HTTP's door beside GraphQL: webhooks, the return page, health."""
