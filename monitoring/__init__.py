"""What an operator's own monitoring reads: Prometheus metrics, alert rules and dashboards."""
