"""The subcommands of ``ustack``, one a file, and what they share."""
