# `just` lists these; CI runs what `just ci` runs.

default:
    @just --list

# Format, lints, documentation and tests, as CI runs them
ci:
    .ci/run

# The tests
test:
    cargo test --workspace

# The web page's tests (need Node.js 20, npm and Chromium)
test-page:
    cargo build -p galley
    server/tests/page/run "${CARGO_TARGET_DIR:-target}/debug/galley"

# The deployment's files (fetches tools, needs no docker)
check-deployment:
    docker/check

# Format everything
fmt:
    cargo fmt --all

# Lints, as CI wants them
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Lints of what the feature cuda compiles (needs CUDA's compiler, see CONTRIBUTING.md)
lint-cuda:
    cargo clippy --workspace --all-targets --features galley/cuda -- -D warnings

# Licences, advisories and sources of the dependencies (needs cargo-deny)
deny:
    cargo deny check

# Serve the bundled recipes
serve *args:
    cargo run --release -- serve {{args}}

# Measure a recipe in process and over HTTP
bench recipe *args:
    cargo run --release -- bench matrix {{recipe}} {{args}}
