"""The Helm chart: valid, and true to the code that it runs."""
