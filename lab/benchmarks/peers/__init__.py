"""The profile pipeline in other frameworks: a program each, and the command that compares them."""
