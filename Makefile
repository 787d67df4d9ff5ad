# `make pretrain` and `make test` work on a fresh machine: they fetch libtorch first if it is missing.
# After that, plain cargo works too.

.PHONY: libtorch pretrain test bench check docs

libtorch:
	@scripts/setup-libtorch.sh

# A first run on built-in images. Options go into ARGS: make pretrain ARGS="--dataset cifar10 --download"
pretrain: libtorch
	cargo run --release --example pretrain_cifar -- $(ARGS)

test: libtorch
	cargo test

bench: libtorch
	cargo bench

# Everything that must pass before a change lands.
check:
	@.ci/run

# Needs no libtorch.
docs:
	cargo doc --no-deps --package patchmix --features doc-only --open
