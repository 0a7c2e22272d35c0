"""Commands, one a module: `add_arguments(parser)` and `run(parsed) -> exit status`."""
