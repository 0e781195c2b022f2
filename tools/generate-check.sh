#!/usr/bin/env bash
# Proves that the generated code in the tree is what buf writes, byte for byte, and
# that protoc writes the same: bash tools/generate-check.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v protoc >/dev/null; then
	echo "generate-check: protoc is not installed (Debian: apt-get install protobuf-compiler libprotobuf-dev)" >&2
	exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/buf" "$work/protoc" "$work/bin" "$work/tree"

bash tools/generate.sh "$work/buf"
.bin/buf lint

# protoc, with the plugins as a user has them: programs on the PATH.
go build -o "$work/bin/protoc-gen-go" google.golang.org/protobuf/cmd/protoc-gen-go
go build -o "$work/bin/protoc-gen-micro" ./cmd/protoc-gen-micro
for root in $(sed -n 's/^  - path: //p' buf.yaml); do
	find "$root" -name '*.proto' -printf '%P\0' | sort -z |
		PATH="$work/bin:$PATH" xargs -0 protoc -I "$root" -I proto \
			--go_out="$work/protoc" --go_opt=module=github.com/protomicro/micro \
			--micro_out="$work/protoc" --micro_opt=module=github.com/protomicro/micro
done

find proto internal/gen e2e/internal/gen examples/*/gen -type f \( -name '*.pb.go' -o -name '*.micro.go' \) \
	-exec cp --parents -t "$work/tree" {} +

compare() {
	if ! diff -ru "$work/$1" "$work/$2"; then
		echo "generate-check: $3" >&2
		exit 1
	fi
}
compare tree buf "generated code is out of date (run: bash tools/generate.sh)"

# protoc-gen-go writes the compiler's version into its files. It is the one line in
# which they may differ.
find "$work/buf" "$work/protoc" -name '*.pb.go' -exec sed -i 's|^// \tprotoc        .*|// \tprotoc|' {} +
compare buf protoc "buf and protoc do not write the same"

echo "generate-check: $(find "$work/tree" -type f | wc -l) files are what buf and protoc write"
