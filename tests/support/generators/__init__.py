"""Write files of the project that are derived from others; tests compare them."""
