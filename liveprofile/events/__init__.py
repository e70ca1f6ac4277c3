"""The events of windows: parsing, modalities and window times."""
