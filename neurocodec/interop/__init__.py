"""Other projects: their models in .nic files, their clusters for large collections. Imported only on request."""
