"""The commands, a module for each kind; `cli.COMMANDS` says which."""
