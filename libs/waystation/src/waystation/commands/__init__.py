"""The commands' command-line side: options in, tables and JSON out."""
