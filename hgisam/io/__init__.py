"""Files on disk <-> volumes and tables, nothing else."""
