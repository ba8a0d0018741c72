# What a person runs. `just` alone lists it.
set shell := ["bash", "-euo", "pipefail", "-c"]

_default:
    @just --list

# Format everything
fmt:
    cargo fmt --all

# What must be clean before a change is done
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings

# All tests; some need user namespaces, newuidmap and fuse-overlayfs and say so when they skip
test *args:
    cargo test --workspace --locked {{args}}

# The main job before your eyes
demo *args:
    cargo run --release --locked -- demo {{args}}

# What this host can and cannot do
doctor *args:
    cargo run --release --locked -- doctor {{args}}

# The documentation of the library
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Fuzz one target (reference, manifest, tar_entries, unpack, snapshot_archive, shim_frame); needs `cargo install cargo-fuzz`
fuzz target seconds="600":
    cd fuzz && cargo run --quiet --release --example seeds -- corpus
    cd fuzz && cargo fuzz run --sanitizer none {{target}} -- -max_total_time={{seconds}} -max_len=16384 -rss_limit_mb=1024 -print_final_stats=1

# Everything that has to pass
ci: lint test doc demo
