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

# Everything that has to pass
ci: lint test doc demo
