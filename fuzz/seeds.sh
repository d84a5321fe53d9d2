#!/usr/bin/env bash
# Makes the first corpus of each target from the committed captures (`proto-tests/captures`) and from `seeds/`:
#
#     fuzz/seeds.sh && RUSTC_BOOTSTRAP=1 cargo fuzz run stream_tap -- -max_total_time=60
#
# What the corpus directories grow to is not committed.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo run --quiet -p proto-tests --bin fuzz-seeds -- fuzz/corpus
for target in fuzz/seeds/*/; do
    mkdir -p "fuzz/corpus/$(basename "$target")"
    cp "$target"* "fuzz/corpus/$(basename "$target")/"
done
