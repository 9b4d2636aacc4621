# Two commands: `make chat` and `make test`. Both install what is missing where that is allowed.

.PHONY: chat test setup lint bench benchmarks demo-model three-machines vulkan-check paging-benchmark

# make chat                                   a conversation with the demo model
# make chat PROMPT="Why is the sky blue?"     one answer
# make chat ARGS="--model FILE --policy none" any option of examples/chat.rs
chat: export CHAT_PROMPT = $(value PROMPT)
chat: setup
	@scripts/with-progress cargo build --release --example chat
	@cargo run --release --quiet --example chat -- $${CHAT_PROMPT:+--prompt "$$CHAT_PROMPT"} $(ARGS)

# The pure half in a debug build, then everything in release, so that llama.cpp is built once; but with our own
# code's checks of itself (debug assertions, what `unsafe` promises).
CHECKED = cargo --config 'profile.release.package.moe-offload.debug-assertions=true' \
	--config 'profile.release.package.moe-offload-bench.debug-assertions=true' \
	--config 'profile.release.package.moe-offload-synth.debug-assertions=true'
test: setup
	cargo test --no-default-features
	@scripts/with-progress $(CHECKED) test --release --features async,testing --no-run
	$(CHECKED) test --release --features async,testing
	@if scripts/can-limit-memory; then \
		$(CHECKED) test --release --features async,testing --test paging --test memory -- --ignored; \
	else \
		echo "not run: tests that need root and memory control groups (of the programs paging and memory)"; \
	fi
	tests/scratch-crate.sh

setup:
	@scripts/setup.sh

lint: setup
	cargo fmt --all --check
	cargo clippy --release --all-targets --features async,testing -- -D warnings
	cargo clippy --no-default-features --all-targets -- -D warnings
	scripts/other-systems
	RUSTDOCFLAGS="-D warnings" cargo doc --release --no-deps --features async
	RUSTDOCFLAGS="-D warnings" cargo doc --no-default-features --no-deps -p moe-offload -p moe-offload-synth

# Our generation loop against bare engine calls. Leave the machine alone meanwhile.
bench: setup
	cargo run --release -p moe-offload-benches --bin generate-loop

# Writes docs/benchmarks.md and its pictures by two runs. Leave the machine alone meanwhile.
benchmarks: setup
	scripts/benchmarks.sh

# Experts on disk against the mapped file, in a control group with a memory limit; as root. 30 minutes.
paging-benchmark: setup
	scripts/paging-benchmark

# Trains the demo model again; see examples/demo-model/README.md.
demo-model:
	python3 -m venv target/demo-model-venv
	target/demo-model-venv/bin/pip install -q -r examples/demo-model/requirements.txt
	target/demo-model-venv/bin/python examples/demo-model/train.py

# A model split over three servers on this machine.
three-machines: setup
	@scripts/three-machines

# The test of one device with the Vulkan backend, on Mesa's software device, and all others beside it.
vulkan-check:
	scripts/vulkan-check
