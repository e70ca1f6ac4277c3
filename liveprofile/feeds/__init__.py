"""Tables of compacted topics: what users decided, and the rules and segments in force."""
