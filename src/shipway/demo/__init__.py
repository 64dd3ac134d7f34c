"""The main job, as a program would do it: two workers that share nothing but a connection."""
