#!/usr/bin/env bash
# Packs the addon, installs the package into an empty directory, and runs the tests there.
set -euo pipefail
cd "$(dirname "$0")"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tarball=$(./package.sh "$work/pack" | tail -1)
mkdir "$work/app"
cd "$work/app"
echo '{ "private": true }' >package.json
npm install --silent --offline --no-audit --no-fund "$tarball"
cp -r "$OLDPWD"/test/. .
export DEEPSEEK_REPOSITORY=${OLDPWD%/bindings/node}
# A run that cannot be ended would never end: ten minutes for a file are far too many.
node --expose-gc --test --test-timeout=600000 --test-reporter=spec .
