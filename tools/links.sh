#!/usr/bin/env bash
# Proves that what Markdown files link to within this repository is there:
# bash tools/links.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# "file:line target" of [text](target) and of [text]: target, outside code.
links() {
	find . -name '*.md' -not -path './.git/*' -not -path './.bin/*' -not -path '*/node_modules/*' -exec awk '
		FNR == 1 { fence = 0 }
		/^ *(```|~~~)/ { fence = !fence; next }
		fence { next }
		{
			gsub(/`[^`]*`/, "")
			if (match($0, /^\[[^]]+\]: +[^ ]+/)) {
				target = substr($0, 1, RLENGTH)
				sub(/^\[[^]]+\]: +/, "", target)
				print FILENAME ":" FNR " " target
			}
			while (match($0, /\]\([^) ]+/)) {
				print FILENAME ":" FNR " " substr($0, RSTART + 2, RLENGTH - 2)
				$0 = substr($0, RSTART + RLENGTH)
			}
		}' {} +
}

checked=0 broken=0
while read -r place target; do
	case $target in
	http://* | https://* | mailto:* | '#'*) continue ;;
	esac
	checked=$((checked + 1))
	file=${place%:*}
	if [[ ! -e $(dirname "$file")/${target%%#*} ]]; then
		echo "links: $place: $target does not exist" >&2
		broken=$((broken + 1))
	fi
done < <(links)
echo "links: $checked links within the repository, $broken broken"
((broken == 0))
