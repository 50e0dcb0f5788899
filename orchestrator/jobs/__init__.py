"""Jobs: the job file, its submission, the progress of its graph, the outcome of each attempt."""
