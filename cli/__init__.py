"""The `liveprofile` command line: one module per subcommand."""
