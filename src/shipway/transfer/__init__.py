"""Pull, push and remote extract: plan what to move, then move it."""
