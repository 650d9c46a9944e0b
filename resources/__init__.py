"""What assets use: the store, the compute seam, the catalog. Dagster resources; the domain never imports them."""
