"""The parts that run on one machine: what the demo, the playground and the tests start."""
