"""What jobs leave behind: logs that grow by offset, and files that come whole; in a local folder or in S3."""
