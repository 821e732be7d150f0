"""What ``python -m cudeform`` runs, a module each."""
