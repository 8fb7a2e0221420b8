#!/usr/bin/env bash
# Holds the ledger against a real vLLM's own counters, to the token; docs/real-engines.md says how and shows the result.
# Options go to campaign.py: --direct, --calls N, --left N, --concurrency N, --seed N, --write-docs.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
export REAL_ROOT=${REAL_ROOT:-$project/.real}
bash "$here/install.sh"
exec "$project/.venv/bin/python" "$here/campaign.py" "$@"
