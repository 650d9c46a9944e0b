"""The SLURM backend of the compute seam: settings, client, accounting, ledger, orphans, doctor."""
