"""What a bundle's networks cost on this machine; docs/bench.md describes the layout of a result."""
