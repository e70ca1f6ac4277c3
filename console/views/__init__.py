"""What a page shows, computed from rows. Nothing here knows HTTP or HTML."""
