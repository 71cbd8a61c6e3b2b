"""Other projects: their models in .nic files, their clusters for large collections. Nothing is imported unasked."""
