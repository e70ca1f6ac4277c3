"""Which events of a window moved a profile: their records, the effects, a process for servers."""
