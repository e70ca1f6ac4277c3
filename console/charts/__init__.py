"""Geometry of charts; templates/charts.html draws it as SVG."""
