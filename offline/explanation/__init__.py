"""Which events of a window moved a profile: the effects, and a process for servers."""
