"""What a job runs: requests, tasks and the runner. Imports the domain and dagster-pipes, never dagster."""
