"""Local services that the demo, the playground and the tests start."""
