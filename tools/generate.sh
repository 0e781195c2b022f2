#!/usr/bin/env bash
# Writes all generated code of this repository anew: bash tools/generate.sh
# With a directory as argument, it is written there instead of into the tree.
#
# buf is built from the tools module; the first time takes some minutes. The golden
# files in testdata/generator are not written here but by
#   go test ./internal/generator -update
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mkdir -p .bin
(cd tools && GOWORK=off go build -o ../.bin/buf github.com/bufbuild/buf/cmd/buf)

out=${1:-}
if [[ -n $out ]]; then
	.bin/buf generate -o "$out"
	exit
fi

# The old files are removed only once there are new ones, and with them those that
# nothing makes any more.
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
.bin/buf generate -o "$out"
find proto internal/gen e2e/internal/gen examples/*/gen -type f \( -name '*.pb.go' -o -name '*.micro.go' \) -delete
cp -R "$out"/. .
