#!/usr/bin/env bash
# Proves that nothing in runtime/ but the adapters depends on NATS or etcd, however
# indirectly: bash tools/imports.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

adapters='/runtime/(registry/etcd|transport/nats|broker/nats|internal/natsconn)(/|$)'
packages=$(go list ./runtime/... | grep -vE "$adapters")
for package in $packages; do
	deps=$(go list -deps "$package")
	found=$(grep -E "^(github\.com/nats-io|go\.etcd\.io)/|$adapters" <<<"$deps" || true)
	if [[ -n $found ]]; then
		echo "imports: $package depends on"
		printf '  %s\n' $found
		echo "imports: only the adapters runtime/registry/etcd, runtime/transport/nats and runtime/broker/nats may"
		exit 1
	fi
done >&2
echo "imports: $(wc -w <<<"$packages") packages depend neither on NATS nor on etcd"
