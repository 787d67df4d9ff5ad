# `make pretrain` and `make test` work on a fresh machine: they fetch libtorch first if it is not there.
# After that, plain cargo works too.

.PHONY: libtorch pretrain test bench docs

libtorch:
	@scripts/setup-libtorch.sh

# A first run: no data needed. Options go in ARGS: make pretrain ARGS="--dataset cifar10 --download"
pretrain: libtorch
	cargo run --release --example pretrain_cifar -- $(ARGS)

test: libtorch
	cargo test

bench: libtorch
	cargo bench

# Needs no libtorch.
docs:
	cargo doc --no-deps --features doc-only --open
