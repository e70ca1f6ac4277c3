"""The SQL of the job: tables, expressions, and views with one function for each view."""
