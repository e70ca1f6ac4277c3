"""What happens before the topic: files, other formats, simulated shops, labels become records."""
