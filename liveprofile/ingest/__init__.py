"""Files to events: mapping, translation and replay."""
